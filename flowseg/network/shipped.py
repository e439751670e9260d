"""The models that come with the package, by their names."""

from __future__ import annotations

from pathlib import Path

from flowseg.io.paths import PathLike

DEFAULT_MODEL = "phase"
"""The one to use where nothing was trained: any cells in phase contrast, of any size."""

_FOLDER = Path(__file__).parents[1] / "models"


def shipped_models() -> dict[str, Path]:
    """The checkpoints of all shipped models by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}


def named_model(path: PathLike) -> Path:
    """`path` itself; where nothing is there and it is a shipped model's name, that model.

    Examples
    --------
    >>> named_model("phase").name
    'phase.safetensors'
    """
    path = Path(path)
    if path.exists() or len(path.parts) != 1:
        return path
    return shipped_models().get(path.name, path)
