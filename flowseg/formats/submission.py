"""The submission CSV: one row a cell; read, written and validated.

Columns `id,predicted`; `predicted` is ``"start length start length ..."``, row-major and 1-based;
an image without instances has one row with a blank `predicted`; masks of one image share no pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.jit import jit
from flowseg.arrays.rle import FAULTS, Masks, parse_runs
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path
from flowseg.io.image_source import list_images
from flowseg.io.paths import PathLike, check_name, find_images
from flowseg.io.tables import read_table

COLUMNS = ("id", "predicted")

Shape = tuple[int, int]


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with a submission."""

    row: int
    """As a spreadsheet counts them, the columns' names being row 1; 0: an image has no row."""
    text: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.text}" if self.row else self.text


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a submission holds, and what is wrong with it, by row."""

    problems: tuple[Problem, ...]
    n_rows: int
    n_images: int
    n_masks: int


class Submission(NamedTuple):
    """The rows of a submission, not yet checked."""

    columns: tuple[str, ...]
    images: dict[str, list[tuple[int, str]]]
    """For each image id its rows: number, as a spreadsheet counts them, and `predicted`."""


def read_submission(path: PathLike) -> Submission:
    """Read a submission (.csv or .csv.gz) without checking its masks."""
    table = read_table(path, COLUMNS)
    images: dict[str, list[tuple[int, str]]] = {}
    rows = zip(table.index.tolist(), table["id"], table["predicted"], strict=True)
    for number, image_id, text in rows:
        images.setdefault(image_id, []).append((number, text))
    return Submission(tuple(table.columns), images)


def mask_texts(image_id: str, objects: NDArray[np.integer[Any]] | Masks) -> list[str]:
    """The column `predicted` of one image: a text for each cell, ids ascending; one blank for none.

    Raises
    ------
    FlowsegError
        If masks overlap, or one of them is empty.
    """
    masks = objects if isinstance(objects, Masks) else Masks.from_labels(objects)
    texts = masks.to_strings() or [""]
    problems, _ = _check_image([(number, text) for number, text in enumerate(texts)], masks.shape)
    if problems:
        raise FlowsegError(f"the prediction of {image_id!r}: {problems[0].text}")
    return texts


def write_submission(
    path: PathLike,
    predictions: Iterable[tuple[str, NDArray[np.integer[Any]] | Masks | Sequence[str]]],
) -> int:
    """Write a submission and count its cells; nothing is written if it would not pass the checks.

    Predictions, by image id: (H, W) labels, masks or the texts of `mask_texts`, each image once.

    Raises
    ------
    FlowsegError
        If an image comes twice, its masks overlap, or one of them is empty.
    """
    import pandas as pd

    seen: set[str] = set()
    cells = 0
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        pd.DataFrame(columns=COLUMNS).to_csv(file, index=False, lineterminator="\n")
        for image_id, objects in predictions:
            if image_id in seen:
                raise FlowsegError(f"the prediction of {image_id!r}: comes twice", file=path)
            seen.add(check_name(image_id, file=path))
            texts = (
                mask_texts(image_id, objects)
                if isinstance(objects, Masks | np.ndarray)
                else objects
            )
            rows = pd.DataFrame({"id": image_id, "predicted": list(texts)})
            rows.to_csv(file, index=False, header=False, lineterminator="\n")
            cells += sum(bool(text) for text in texts)
    return cells


def validate_submission(path: PathLike, shapes: Mapping[str, Shape]) -> Validation:
    """Find everything that is wrong with a submission of images of these `shapes`, by id.

    Raises
    ------
    FlowsegError
        If the file is no CSV with these columns, so that there are no rows to check.
    """
    columns, images = read_submission(path)
    problems: list[Problem] = []
    if columns != COLUMNS:
        problems.append(Problem(1, f"the columns are {','.join(columns)}, not id,predicted"))
    cells = 0
    swapped = straight = 0
    for image_id, rows in images.items():
        cells += sum(bool(text.strip()) for _, text in rows)
        if image_id not in shapes:
            problems.append(Problem(rows[0][0], f"the image {image_id[:60]!r} is not known"))
            continue
        found, masks = _check_image(rows, shapes[image_id])
        problems += found
        down, along = _directions(masks)
        swapped += down
        straight += along
    if swapped > straight:
        problems.append(
            Problem(
                0,
                f"the runs go down columns: of {swapped + straight} pairs of runs {swapped} lie a "
                f"column apart; they must go along rows (encode the mask, not its transpose)",
            )
        )
    problems += [
        Problem(0, f"the image {image_id!r} has no row")
        for image_id in sorted(set(shapes) - set(images))
    ]
    n_rows = sum(map(len, images.values()))
    return Validation(
        problems=tuple(sorted(problems)), n_rows=n_rows, n_images=len(images), n_masks=cells
    )


def image_shapes(folder: PathLike) -> dict[str, Shape]:
    """Height and width of each image of a folder, by image id."""
    return {
        image.image_id: image.shape for path in find_images(folder) for image in list_images(path)
    }


def _check_image(rows: Sequence[tuple[int, str]], shape: Shape) -> tuple[list[Problem], Masks]:
    """Problems of the rows, (number, text), of one image, and their masks."""
    problems = []
    filled = [(number, text) for number, text in rows if text.strip()]
    blank = [number for number, text in rows if not text.strip()]
    if filled:
        problems += [Problem(n, "is blank, but its image has masks in other rows") for n in blank]
    else:
        problems += [Problem(n, f"is blank, as row {blank[0]} of its image is") for n in blank[1:]]
    masks, faults = parse_runs([text for _, text in filled], shape)
    others, shared = _collisions(shape[0] * shape[1], masks.starts, masks.lengths, masks.offsets)
    for k, (number, _) in enumerate(filled):
        if faults[k]:
            problems.append(Problem(number, f"'predicted' {FAULTS[faults[k]]}"))
        elif shared[k]:
            other = filled[others[k]][0]
            problems.append(Problem(number, f"shares pixels with row {other} ({shared[k]} shared)"))
    return problems, masks


def _directions(masks: Masks) -> tuple[int, int]:
    """Pairs of runs of one mask that lie a column's length apart, and a row's length.

    A cell's runs follow each other from row to row: their starts are about a row's length apart.
    Where they are about a column's length apart, the mask was read down its columns. A square
    image does not tell.
    """
    height, width = masks.shape
    reach = abs(height - width) // 4
    if reach == 0:
        return 0, 0
    steps = np.diff(masks.starts)
    # from the last run of a mask to the first of the next is no step
    inside = np.ones(len(steps), dtype=np.bool_)
    bounds = masks.offsets[1:-1]
    inside[bounds[(bounds > 0) & (bounds <= len(steps))] - 1] = False
    steps = steps[inside]
    down, along = abs(steps - height) <= reach, abs(steps - width) <= reach
    return int(down.sum()), int(along.sum())


@jit
def _collisions(size: int, starts: Any, lengths: Any, offsets: Any) -> Any:
    """For each mask the first earlier one it shares pixels with, and how many with all earlier."""
    owners = np.full(size, -1, np.int32)
    others = np.full(len(offsets) - 1, -1, np.int64)
    shared = np.zeros(len(offsets) - 1, np.int64)
    for mask in range(len(offsets) - 1):
        for run in range(offsets[mask], offsets[mask + 1]):
            for pixel in range(starts[run], starts[run] + lengths[run]):
                if owners[pixel] < 0:
                    owners[pixel] = mask
                else:
                    if others[mask] < 0:
                        others[mask] = owners[pixel]
                    shared[mask] += 1
    return others, shared
