"""Record: an image file, its annotation, cell type and group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flowseg.arrays.intensity import to_grey
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.io.image_source import ImageSource
from flowseg.io.images import read_image


class Annotation(Protocol):
    """Masks that are read or drawn on demand."""

    def masks(self, shape: tuple[int, int]) -> Masks:
        """All masks of the image, which has `shape`."""

    def digest(self) -> str:
        """A hash of what the masks are made from."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One annotated image.

    Small and picklable: the pixels, and the masks of a large data set, are read on demand.
    """

    image_id: str
    """Unique among the records of a reader; the image's file name without its suffix."""
    image_path: Path
    shape: tuple[int, int]
    """Height and width in pixels, as annotated."""
    cell_type: str
    """For example `shsy5y`, in lower case."""
    page: ImageSource | None = None
    """Which of the file's images, where it is not the only one."""
    group: str
    """Images of one group (a well of a plate) stay on one side of every split."""
    annotation: Masks | Annotation
    """The masks, or what reads them on demand."""
    crowd: Masks | Annotation | None = None
    """Regions that are neither cells nor background, such as COCO's `iscrowd`: they count neither
    in training nor in scores."""

    def image(self) -> npt.NDArray[np.float32]:
        """Read the image: (H, W) float32, grey, intensities as stored.

        Raises FlowsegError if the file cannot be read or has another size than its annotation.
        """
        pixels = read_image(self.image_path) if self.page is None else self.page.read()
        image = to_grey(pixels)
        if image.shape != self.shape:
            raise size_differs(self.image_path, image.shape, self.shape)
        return image

    def masks(self) -> Masks:
        """All masks of the image, overlaps kept."""
        return self._read(self.annotation)

    def crowd_masks(self) -> Masks | None:
        """The regions that do not count, None where there are none."""
        return None if self.crowd is None else self._read(self.crowd)

    def _read(self, annotation: Masks | Annotation) -> Masks:
        return annotation if isinstance(annotation, Masks) else annotation.masks(self.shape)


def size_differs(
    path: Path, found: tuple[int, ...], annotated: tuple[int, int], where: str = "its annotation"
) -> FlowsegError:
    """The error for an image whose size is not the one it was annotated at."""
    return FlowsegError(
        f"is {found[1]} x {found[0]} pixels (width x height), "
        f"but {where} says {annotated[1]} x {annotated[0]}",
        file=path,
        remedy="use the image that was annotated",
    )


def select_names(
    names: Iterable[str] | None, known: Sequence[str], description: str
) -> frozenset[str]:
    """Those of the `known` names that a reader is to read; all of them with None.

    Raises FlowsegError if a name is unknown or there is none; `description` says what they name.
    """
    selected = frozenset(known if names is None else names)
    unknown = ", ".join(map(repr, sorted(selected - set(known))))
    if unknown or not selected:
        raise FlowsegError(
            f"unknown {description} {unknown}" if unknown else f"no {description}",
            remedy=f"choose from {', '.join(known)}",
        )
    return selected
