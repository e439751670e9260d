"""Settings dataclasses from plain values, which come from YAML or JSON, and back."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from flowseg.errors import FlowsegError

__all__ = ["apply_values", "nearest", "parse_yaml", "plain", "read_yaml"]

_MAX_YAML = 2**16


def read_yaml(path: Path) -> object:
    """The plain values of a YAML file."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_YAML + 1)
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a UTF-8 text file", file=path) from error
    if len(text) > _MAX_YAML:
        raise FlowsegError(f"is longer than {_MAX_YAML:,} characters, no config", file=path)
    return parse_yaml(text, "is not valid YAML", path)


class _Loader(yaml.SafeLoader):
    """Reads plain values only; without aliases, with which a few lines unfold to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not read", mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str, problem: str, file: Path | None = None) -> Any:
    """The plain values of a YAML text."""
    try:
        return yaml.load(text, _Loader)
    except MemoryError:
        raise
    except Exception as error:  # values of a wrong tag, such as !!bool x, fail with any exception
        raise FlowsegError(f"{problem}: {error}", file=file) from error


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to say of an unknown name: the known one that is nearest, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix + close[0]!r}?"
    return f"; known here: {', '.join(prefix + n for n in names) or 'none'}"


def apply_values(base: Any, layers: Iterable[object], file: Path | None, prefix: str = "") -> Any:
    """`base` with the fields that `layers` name replaced, a later layer over an earlier one.

    What settings must be to each other is checked when all layers are in place.
    """
    hints = get_type_hints(type(base))
    known = [f.name for f in fields(base)]
    changes: dict[str, Any] = {}
    inner: dict[str, list[object]] = {}
    for key, value in _items(layers, file, prefix):
        if key not in known:
            name = key if isinstance(key, str) else _shown(key)
            raise FlowsegError(
                f"unknown key {prefix + name!r}" + nearest(name, known, prefix), file=file
            )
        current = changes.get(key, getattr(base, key))
        name = f"{prefix}{key}"
        if is_dataclass(current):
            inner.setdefault(key, []).append(value)
        elif get_origin(hints[key]) is Mapping:
            changes[key] = _apply_each(current, get_args(hints[key])[1], value, name, file)
        else:
            changes[key] = _convert(value, hints[key], name, file)
    for key, own in inner.items():
        changes[key] = apply_values(getattr(base, key), own, file, f"{prefix}{key}.")
    try:
        return replace(base, **changes)
    except FlowsegError as error:
        if file is None or error.file is not None:
            raise
        raise FlowsegError(error.problem, file=file, remedy=error.remedy) from error


def _items(
    layers: Iterable[object], file: Path | None, prefix: str
) -> Iterator[tuple[object, object]]:
    for values in layers:
        if isinstance(values, Mapping):
            yield from values.items()
        elif values is not None:
            raise FlowsegError(
                f"expected settings as 'key: value' for {prefix.rstrip('.') or 'the config'}, "
                f"found {_shown(values)}",
                file=file,
            )


def _apply_each(
    current: Mapping[str, Any], kind: Any, value: object, name: str, file: Path | None
) -> dict[str, Any]:
    """`current`, a dataclass by name, with those that `value` names changed or added."""
    if not isinstance(value, Mapping):
        raise FlowsegError(f"{name!r} must hold names, found {_shown(value)}", file=file)
    changed = dict(current)
    for key, settings in value.items():
        if not isinstance(key, str) or not key:
            raise FlowsegError(f"a name in {name!r} must be text, found {_shown(key)}", file=file)
        changed[key] = apply_values(changed.get(key, kind()), [settings], file, f"{name}.{key}.")
    return changed


def _convert(value: object, hint: Any, name: str, file: Path | None) -> Any:
    """`value` as the field's type; PyYAML reads 1e-4 as text and ``no`` as False."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        choices = ", ".join(map(str, get_args(hint)))
        raise FlowsegError(f"{name} must be one of {choices}, found {_shown(value)}", file=file)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise FlowsegError(f"{name} must be a list, found {_shown(value)}", file=file)
        return tuple(_convert(v, get_args(hint)[0], name, file) for v in value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    if hint is str and isinstance(value, str):
        return value
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]
    raise FlowsegError(f"{name} must be {expected}, found {_shown(value)}", file=file)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a very long number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(value: Any) -> Any:
    """Mappings and tuples as dictionaries and lists, all the way down."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return value
