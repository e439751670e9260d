"""Truth and predictions as masks, from every kind of file they come in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.polygons import polygons_to_masks
from flowseg.arrays.rle import Masks, fault_reason, parse_runs
from flowseg.data import livecell
from flowseg.data.folder import find_labels, read_own_labels
from flowseg.data.sartorius import read_annotations
from flowseg.errors import FlowsegError
from flowseg.io.images import image_shape, read_labels
from flowseg.io.paths import PathLike, find_images
from flowseg.io.png_jpeg import MAX_PIXELS
from flowseg.io.tables import read_rows

__all__ = ["Source", "read_predictions", "read_truth"]

Shape = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """The masks of one image, read when asked for.

    Attributes
    ----------
    shape : (int, int)
        Height and width in pixels.
    cell_type : str
        Blank where the file does not tell.
    masks : callable
        Gives the image's `Masks`.
    """

    shape: Shape
    cell_type: str
    masks: Callable[[], Masks]


def read_truth(path: PathLike) -> dict[str, Source]:
    """The truth of each image, by image id.

    Parameters
    ----------
    path : path
        A `train.csv` (or .csv.gz), a COCO JSON file (polygons or run lengths; the image's id is
        its file name without suffix), or a folder: of label images (the id is the file name
        without suffix), or of images and labels (see `flowseg.data.folder.read_folder`).
    """
    path = Path(path)
    if path.is_dir():
        return _own_folder(path)
    if path.suffix.lower() == ".json":
        return _coco(path)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return {
            image_id: Source(image.shape, image.cell_type, _given(image.masks))
            for image_id, image in read_annotations(path).items()
        }
    raise _unknown(path, "a train.csv, a COCO .json or a folder of label TIFFs")


def read_predictions(path: PathLike, truth: Mapping[str, Source]) -> dict[str, Source]:
    """The prediction of each image, by image id.

    Parameters
    ----------
    path : path
        A submission CSV (columns `id` and `predicted`) or a folder of label images.
    truth : mapping of Source
        Where the sizes of a submission's images come from.

    Raises
    ------
    FlowsegError
        For an image that the truth does not know, one of another size, or a row that is no mask.
    """
    path = Path(path)
    if path.is_dir():
        found = _label_images(path)
        _check_known(path, {image_id: image_id for image_id in found}, truth)
        for image_id, source in found.items():
            if source.shape != truth[image_id].shape:
                raise FlowsegError(
                    f"the labels of {image_id!r} are {_size(source.shape)} pixels, "
                    f"the truth {_size(truth[image_id].shape)}",
                    file=path,
                )
        return found
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return _submission(path, truth)
    raise _unknown(path, "a submission CSV or a folder of label TIFFs")


def _submission(path: Path, truth: Mapping[str, Source]) -> dict[str, Source]:
    rows: dict[str, list[tuple[int, str]]] = {}
    for number, fields in read_rows(path, ("id", "predicted")):
        rows.setdefault(fields["id"], []).append((number, fields["predicted"]))
    if not rows:
        raise FlowsegError("holds no row", file=path)
    _check_known(
        path, {image_id: f"row {mine[0][0]}: {image_id}" for image_id, mine in rows.items()}, truth
    )
    found = {}
    for image_id in sorted(rows):
        shape = truth[image_id].shape
        filled = [(number, text) for number, text in rows[image_id] if text.strip()]
        masks, faults = parse_runs([text for _, text in filled], shape)
        for (number, _), fault in zip(filled, faults.tolist(), strict=True):
            if fault:
                raise FlowsegError(
                    f"row {number}: 'predicted' {fault_reason(fault)}",
                    file=path,
                    remedy="`flowseg validate` lists every such row",
                )
        found[image_id] = Source(shape, truth[image_id].cell_type, _given(masks))
    return found


def _check_known(path: Path, named: Mapping[str, str], truth: Mapping[str, Source]) -> None:
    unknown = sorted(set(named) - set(truth))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise FlowsegError(
            f"{named[unknown[0]]!r}{more}: not in the truth",
            file=path,
            remedy="score the images whose truth is known",
        )


def _own_folder(folder: Path) -> dict[str, Source]:
    return {
        name: Source(image_shape(image or labels), "", _from_own(labels))
        for name, (image, labels) in sorted(find_labels(folder).items())
    }


def _from_own(path: Path) -> Callable[[], Masks]:
    return lambda: Masks.from_labels(read_own_labels(path))


def _label_images(folder: Path) -> dict[str, Source]:
    return {
        path.stem: Source(image_shape(path), "", _from_labels(path))
        for path in sorted(find_images(folder), key=lambda path: path.stem)
    }


def _from_labels(path: Path) -> Callable[[], Masks]:
    return lambda: Masks.from_labels(read_labels(path))


def _given(masks: Masks) -> Callable[[], Masks]:
    return lambda: masks


def _coco(path: Path) -> dict[str, Source]:
    try:
        content = json.loads(path.read_bytes())
        images = content["images"]
        # a list, or in the competition's mirror a dict by id
        cells = content["annotations"]
        cells = list(cells.values()) if isinstance(cells, dict) else list(cells)
        categories = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
        entries = {entry["id"]: entry for entry in images}
        found, owned = {}, {key: [] for key in entries}  # type: ignore[var-annotated]
        for cell in cells:
            owned[cell["image_id"]].append(cell)
        for key, entry in entries.items():
            image_id, shape = Path(entry["file_name"]).stem, _shape(entry)
            cell_type = image_id.partition("_")[0].lower()
            if cell_type not in livecell.CELL_TYPES:
                names = {categories.get(cell.get("category_id"), "") for cell in owned[key]}
                cell_type = str(names.pop()) if len(names) == 1 else ""
            found[image_id] = Source(shape, cell_type, _from_coco(path, owned[key], shape))
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error.strerror}", file=path) from error
    except RecursionError as error:
        raise FlowsegError(
            "is no COCO annotation file: it is nested too deeply", file=path
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlowsegError(
            f"is no COCO annotation file ({type(error).__name__}: {error})", file=path
        ) from error
    if not found:
        raise FlowsegError("lists no image", file=path)
    return dict(sorted(found.items()))


def _shape(entry: Mapping[str, Any]) -> Shape:
    height, width = entry["height"], entry["width"]
    if not (type(height) is type(width) is int and height > 0 and 0 < height * width <= MAX_PIXELS):
        raise ValueError("an image's height and width are no whole numbers, or too large")
    return height, width


def _from_coco(path: Path, cells: list[dict[str, Any]], shape: Shape) -> Callable[[], Masks]:
    def masks() -> Masks:
        drawings = [cell.get("segmentation") for cell in cells]
        polygons = [drawing if isinstance(drawing, list) else [] for drawing in drawings]
        owners = [index for index, cell in enumerate(polygons) for _ in cell]
        try:
            drawn = polygons_to_masks(
                [polygon for cell in polygons for polygon in cell], owners, len(cells), shape
            )
            if all(isinstance(drawing, list) for drawing in drawings):
                return drawn
            return Masks.from_dense(
                [
                    drawn.dense(index) if isinstance(drawing, list) else _coco_runs(drawing, shape)
                    for index, drawing in enumerate(drawings)
                ]
            )
        except FlowsegError as error:
            raise FlowsegError(error.problem, file=path) from error

    return masks


def _coco_runs(runs: Any, shape: Shape) -> NDArray[np.bool_]:
    """COCO's run lengths, as a list or packed in a text: down columns, outside first."""
    height, width = shape
    try:
        if list(runs["size"]) != [height, width]:
            raise FlowsegError(f"holds run lengths of the size {runs['size']}, not {list(shape)}")
        counts = runs["counts"]
        lengths = np.array(_unpack(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FlowsegError(f"holds run lengths that cannot be read: {error}") from error
    # each of them, too: a sum of very large ones would start again from 0
    within = lengths.ndim == 1 and ((lengths >= 0) & (lengths <= height * width)).all()
    if not within or lengths.sum() != height * width:
        raise FlowsegError("holds run lengths that do not add up to the image")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _unpack(text: str) -> list[int]:
    """Numbers of COCO's packed text: five bits a character, lowest first, the sixth for more.

    From the fourth number on each is the difference from the number two before it.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the packed text is damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _size(shape: Shape) -> str:
    return f"{shape[1]} x {shape[0]}"


def _unknown(path: Path, expected: str) -> FlowsegError:
    if not path.exists():
        return FlowsegError("is missing", file=path, remedy=f"name {expected}")
    return FlowsegError("is of no known kind", file=path, remedy=f"name {expected}")
