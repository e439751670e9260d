"""Choices that the command line offers; apart from the settings, since these import pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Tta = Literal[1, 2, 4, 8]
TTA_CHOICES: tuple[int, ...] = get_args(Tta)
"""Views in test-time augmentation: the image; turned by 180 degrees; by 90 and 270; mirrored."""

# In a wheel the folder lies inside the package, in a checkout beside it.
_INSIDE = Path(__file__).parents[1] / "configs"
CONFIG_FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "configs"


def available_cell_types() -> tuple[str, ...]:
    """Names of the files in ``configs/``, sorted."""
    return _names(CONFIG_FOLDER)


def available_recipes() -> tuple[str, ...]:
    """Names of the files in ``configs/recipes/``, sorted."""
    return _names(CONFIG_FOLDER / "recipes")


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))
