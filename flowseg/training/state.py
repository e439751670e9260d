"""A nested state_dict in one safetensors file: its tensors flat, all other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowseg.network.checkpoint import read_tensors, save_tensors


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested mappings of tensors and JSON values to a file, atomically.

    Names must be without "/", which joins them; mappings that hold nothing are left out.
    """
    flat = _flatten(state)
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in flat.items() if name not in tensors}
    save_tensors(path, tensors, json.dumps(values))


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote.

    Raises
    ------
    FlowsegError
        If there is no such file or it is damaged.
    ValueError, TypeError, AttributeError
        If the file is another one.
    """
    tensors, text = read_tensors(path)
    nested: dict[str, Any] = {}
    for names, value in (tensors | json.loads(text or "")).items():
        *outer, name = names.split("/")
        level = nested
        for key in outer:
            level = level.setdefault(key, {})
        level[name] = value
    return nested


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat
