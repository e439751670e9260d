"""Dataclasses of settings: names of earlier versions, and faults in one line for their user."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError
from typing_extensions import dataclass_transform

from flowseg.errors import FlowsegError

RENAMED = {
    "cells": "cell_types",
    "views": "tta",
    "repair": "mask_repair",
    "blocks": "blocks_per_level",
    "diameter": "target_diameter",
    "crop": "crop_size",
    "paste": "paste_fraction",
    "swap_scale": "swap_scale_fraction",
    "crops": "crops_per_epoch",
    "warmup": "warmup_fraction",
    "ema": "ema_decay",
    "compiled": "compile",
}
"""Names of settings in flowseg 0.1.0, which are still read, and their names now."""

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text",
    "tuple_type": "a list",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    **dict.fromkeys(("dataclass_type", "dict_type", "mapping_type"), "settings as 'key: value'"),
}
"""What each type of pydantic's errors expects, for people who know YAML and no Python."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def with_current_names(values: object, known: object, prefix: str = "") -> object:
    """`values` with the old names among their keys replaced; each is logged.

    `known` holds the settings of today, nested as they are. An old name beside its new one stays,
    and is then unknown.
    """
    if not isinstance(values, Mapping) or not isinstance(known, Mapping):
        return values
    renamed = {}
    for key, value in values.items():
        name = RENAMED.get(key, key)
        if key in known or name not in known or name in values:
            name = key
        if name != key:
            _log.warning("the setting '%s%s' is now called '%s%s'", prefix, key, prefix, name)
        new_value = "fix" if (key, value) == ("repair", "repair") else value
        renamed[name] = with_current_names(new_value, known.get(name), f"{prefix}{name}.")
    return renamed


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message on an unknown name: the nearest known one, or all of them."""
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix + close[0]!r}?"
    return f"; known here: {', '.join(prefix + n for n in names) or 'none'}"


def short_repr(value: object) -> str:
    """A value as a message quotes it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a very long number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def user_error(error: ValidationError, file: str | os.PathLike[str] | None = None) -> FlowsegError:
    """The first fault that pydantic found: which setting, what it must be, and what it is."""
    fault = error.errors(include_url=False)[0]
    kind, context = fault["type"], fault.get("ctx", {})
    path = [str(part) for part in fault["loc"]]
    if kind == "unknown_key":
        prefix = "".join(f"{part}." for part in path)
        name = context["name"] if isinstance(context["name"], str) else short_repr(context["name"])
        hint = nearest(name, context["known"], prefix)
        return FlowsegError(f"unknown key {prefix + name!r}{hint}", file=file)
    key = f"a name in {path[0]!r}" if path[-1:] == ["[key]"] else ".".join(path) or "the config"
    expected = fault["msg"].removeprefix("Input should be ")
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
    return FlowsegError(f"{key} must be {expected}, found {short_repr(fault['input'])}", file=file)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[_T]) -> type[_T]:
    """A frozen, keyword-only dataclass that refuses values that do not fit with a FlowsegError."""
    made = dataclass(
        frozen=True,
        kw_only=True,
        config={"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True},
    )(cls)
    validate = cast("Callable[..., None]", made.__init__)

    @wraps(validate)
    def init(self: _T, **values: Any) -> None:
        try:
            validate(self, **values)
        except ValidationError as error:
            raise user_error(error) from error

    made.__init__ = init  # type: ignore[assignment]
    return cast("type[_T]", made)


@settings
class Settings:
    """Base of all settings: knows the names of earlier versions, and refuses unknown ones."""

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        given = values.kwargs if isinstance(values, ArgsKwargs) else values
        known = dict.fromkeys(cls.__dataclass_fields__)
        given = with_current_names({} if given is None else given, known)  # None: an empty section
        unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
        if unknown:
            context = {"name": unknown[0], "known": list(known)}
            raise PydanticCustomError("unknown_key", "unknown", context)
        return given
