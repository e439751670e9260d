"""Layers of settings: defaults, YAML files, overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, cast

import yaml

from flowseg.config.plain import apply_values, nearest, parse_yaml, plain, read_yaml
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError

__all__ = [
    "available_cell_types",
    "available_recipes",
    "from_mapping",
    "is_whole",
    "load_config",
    "to_mapping",
    "to_yaml",
]

_RECIPES = "recipes"


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
        A YAML file of differences, applied over the cell type's and the recipe's; a whole one
        (:func:`is_whole`) takes the place of both.
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
    config = Config()
    for kind, name, known, folder in (
        ("cell type", cell_type, available_cell_types(), _config_folder()),
        ("recipe", recipe, available_recipes(), _config_folder() / _RECIPES),
    ):
        if name is not None:
            if name not in known:
                raise FlowsegError(
                    f"unknown {kind} {name!r}", remedy=f"choose one of {', '.join(known)}"
                )
            file = folder / f"{name}.yaml"
            config = apply_values(config, [read_yaml(file)], file)
    if path is not None:
        if is_whole(path):
            config = Config()
        config = apply_values(config, [read_yaml(Path(path))], Path(path))
    layers = [_parse_override(text, config) for text in overrides]
    return cast(Config, apply_values(config, layers, None))


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a YAML file names all sections and cell types, as the one that a run writes."""
    values = read_yaml(Path(path))
    sections = {f.name for f in fields(Config) if f.default is MISSING}
    return isinstance(values, Mapping) and sections <= set(values)


def available_cell_types() -> tuple[str, ...]:
    """Names of the files in ``configs/``, sorted."""
    return tuple(sorted(file.stem for file in _config_folder().glob("*.yaml")))


def available_recipes() -> tuple[str, ...]:
    """Names of the files in ``configs/recipes/``, sorted."""
    return tuple(sorted(file.stem for file in (_config_folder() / _RECIPES).glob("*.yaml")))


def to_mapping(config: Any) -> dict[str, Any]:
    """A settings dataclass as plain dictionaries, lists, numbers and strings."""
    return cast(dict[str, Any], plain(asdict(config)))


def to_yaml(config: Config) -> str:
    """A config as YAML text that :func:`load_config` reads back."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False)


def from_mapping(kind: type[Any], values: object, where: str | None = None) -> Any:
    """Build a settings dataclass from plain values, for instance those of a card.

    Parameters
    ----------
    kind : type
        A dataclass of this module.
    values : mapping
        Plain values by field name; missing ones take their defaults.
    where : str, optional
        The file they come from, for messages.

    Returns
    -------
    object
        An instance of `kind`.
    """
    return apply_values(kind(), [values], None if where is None else Path(where))


def _config_folder() -> Path:
    # In a wheel the folder lies inside the package, in a checkout beside it.
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def _parse_override(text: str, config: Config) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise FlowsegError(
            f"cannot read the setting {text!r}", remedy="write key=value, as in training.epochs=10"
        )
    parsed = parse_yaml(value, f"the value of {key!r} is not valid YAML")
    names = key.split(".")
    if names[0] == "cell_types" and len(names) > 1 and names[1] not in config.cell_types:
        raise FlowsegError(
            f"unknown key {key!r}" + nearest(names[1], config.cell_types, "cell_types.")
        )
    for name in reversed(names):
        parsed = {name: parsed}
    return cast(dict[str, Any], parsed)
