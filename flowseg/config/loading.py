"""Layers of settings: defaults, YAML files, overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from flowseg.config.choices import CONFIG_FOLDER, available_cell_types, available_recipes
from flowseg.config.schema import Config
from flowseg.config.validation import RENAMED, nearest, short_repr, user_error, with_current_names
from flowseg.errors import FlowsegError

_MAX_YAML = 2**16

_T = TypeVar("_T")


def load_config(
    cell_type: str | None = None,
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    recipe: str | None = None,
) -> Config:
    """Resolve the settings of a run.

    Parameters
    ----------
    cell_type : str, optional
        Name of a file in ``configs/`` without its suffix, such as "shsy5y" or "all".
    path : path, optional
        A YAML file of differences, applied over the cell type's and the recipe's; a complete one
        (:func:`is_complete`) takes the place of both.
    overrides : iterable of str
        "key=value" with dotted keys, such as "training.epochs=10"; applied last, and together.
    recipe : str, optional
        Name of a file in ``configs/recipes/`` without its suffix: "laptop", "gpu" or "gpus";
        applied after the cell type's. By default the defaults stand, which are a laptop's.

    Returns
    -------
    Config

    Raises
    ------
    FlowsegError
        For an unknown cell type or recipe, an unreadable file, an unknown key (the nearest one
        is named), or a value that does not fit its field.

    Examples
    --------
    >>> load_config("shsy5y", overrides=["training.epochs=3"]).training.epochs
    3
    """
    files = []
    for kind, name, known, folder in (
        ("cell type", cell_type, available_cell_types(), CONFIG_FOLDER),
        ("recipe", recipe, available_recipes(), CONFIG_FOLDER / "recipes"),
    ):
        if name is not None and name not in known:
            raise FlowsegError(
                f"unknown {kind} {name!r}", remedy=f"choose one of {', '.join(known)}"
            )
        if name is not None:
            files.append(folder / f"{name}.yaml")
    complete = path is not None and is_complete(path)
    if path is not None:
        files = [Path(path)] if complete else [*files, Path(path)]
    config = Config()
    for file in files:
        values = to_mapping(config)
        if complete:  # of a run, which may be older than this setting
            values["network"]["stem_stride"] = 1
        values = _merge(values, read_settings(file), file)
        config = from_mapping(Config, values, file)
    values = to_mapping(config)
    for text in overrides:
        values = _merge(values, _parse_override(text, config), None)
    return from_mapping(Config, values)


def read_settings(path: str | os.PathLike[str]) -> object:
    """The values of a YAML file, by today's names of the settings; not validated."""
    return with_current_names(_read_yaml(Path(path)), to_mapping(Config()))


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether a YAML file names all sections and cell types, as the one that a run writes."""
    values = _read_yaml(Path(path))
    sections = to_mapping(Config()).keys() - {"seed", "tta", "time_budget"}
    return isinstance(values, Mapping) and sections <= {RENAMED.get(key, key) for key in values}


def to_mapping(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain dictionaries, lists, numbers and strings."""
    return cast("dict[str, Any]", TypeAdapter(type(settings)).dump_python(settings, mode="json"))


def to_yaml(config: Config) -> str:
    """A config as YAML text that :func:`load_config` reads back."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)


def from_mapping(kind: type[_T], values: object, file: str | os.PathLike[str] | None = None) -> _T:
    """A settings dataclass from plain values, such as those of a card; missing ones take defaults.

    An unknown key, or a value that does not fit, is a FlowsegError that names `file`.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise user_error(error, file) from error


def _merge(
    base: Mapping[str, Any], changes: object, file: Path | None, prefix: str = ""
) -> dict[Any, Any]:
    """`base` with the values that `changes` names; an empty section changes nothing."""
    if changes is not None and not isinstance(changes, Mapping):
        name = prefix.rstrip(".") or "the config"
        raise FlowsegError(
            f"{name} must be settings as 'key: value', found {short_repr(changes)}", file=file
        )
    merged = dict(base)
    for key, value in (changes or {}).items():
        section = merged.get(key)
        if isinstance(section, Mapping):
            value = _merge(section, value, file, f"{prefix}{key}.")  # noqa: PLW2901
        merged[key] = value
    return merged


def _parse_override(text: str, config: Config) -> object:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise FlowsegError(
            f"cannot read the setting {text!r}", remedy="write key=value, as in training.epochs=10"
        )
    layer = _parse_yaml(value, f"the value of {key!r} is not valid YAML")
    for name in reversed(key.split(".")):
        layer = {name: layer}
    layer = cast("dict[str, Any]", with_current_names(layer, to_mapping(config)))
    unknown = set(layer.get("cell_types", ())) - set(config.cell_types) if "." in key else ()
    for name in unknown:
        hint = nearest(name, config.cell_types, "cell_types.")
        raise FlowsegError(f"unknown key {key!r}{hint}")
    return layer


class _Loader(yaml.SafeLoader):
    """Reads plain values only; without aliases, with which a few lines unfold to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not read", mark)
        return super().compose_node(parent, index)


# For PyYAML, 1e-4 is text, since it has no dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> object:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_YAML + 1)
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a UTF-8 text file", file=path) from error
    if len(text) > _MAX_YAML:
        raise FlowsegError(f"is longer than {_MAX_YAML:,} characters, no config", file=path)
    return _parse_yaml(text, "is not valid YAML", path)


def _parse_yaml(text: str, problem: str, file: Path | None = None) -> Any:
    try:
        return yaml.load(text, _Loader)
    except MemoryError:
        raise
    except Exception as error:  # values of a wrong tag, such as !!bool x, fail with any exception
        raise FlowsegError(f"{problem}: {error}", file=file) from error
