"""COCO's JSON of instance annotations, read and written; pycocotools and CVAT open it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg._version import __version__
from flowseg.arrays.labels import check_labels
from flowseg.arrays.polygons import polygons_to_masks
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.io.atomic import write_text
from flowseg.io.binary import MAX_PIXELS, open_binary
from flowseg.io.paths import PathLike

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One annotated image of a COCO file."""

    file_name: str
    shape: Shape
    """Height and width in pixels."""
    category: str
    """That of all its annotations; blank where they are of several, or of none."""
    segmentations: tuple[Any, ...]
    """Of each annotation: polygons, run lengths, or None."""
    file: Path
    """The COCO file, for messages."""

    def masks(self) -> Masks:
        """One mask for each annotation, in the order of the file."""
        polygons = [drawn if isinstance(drawn, list) else [] for drawn in self.segmentations]
        owners = [index for index, rings in enumerate(polygons) for _ in rings]
        try:
            masks = polygons_to_masks(
                [ring for rings in polygons for ring in rings], owners, len(polygons), self.shape
            )
            parts = [
                masks.select([index])
                if isinstance(drawn, list)
                else Masks.from_dense([_decode_runs(drawn, self.shape)])
                for index, drawn in enumerate(self.segmentations)
            ]
        except FlowsegError as error:
            raise error.at(self.file) from error
        return Masks.concatenate(parts, self.shape)


def read_coco(path: PathLike) -> list[CocoImage]:
    """The images of a COCO file with their annotations.

    These may be a list or, as in the competition's copy of LIVECell, a dict by id; polygons, run
    lengths and packed run lengths are read when their masks are asked for.

    Raises
    ------
    FlowsegError
        If the file cannot be read, is no COCO file, or lists no image.
    """
    path = Path(path)
    with open_binary(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
        annotations = content["annotations"]
        names = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
        images = {entry["id"]: entry for entry in content["images"]}
        cells: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in images}
        for cell in annotations.values() if isinstance(annotations, dict) else annotations:
            cells[cell["image_id"]].append(cell)
        found = []
        for key, entry in images.items():
            categories = {str(names.get(cell.get("category_id"), "")) for cell in cells[key]}
            image = CocoImage(
                file_name=str(entry["file_name"]),
                shape=_shape(entry),
                category=categories.pop() if len(categories) == 1 else "",
                segmentations=tuple(cell.get("segmentation") for cell in cells[key]),
                file=path,
            )
            found.append(image)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FlowsegError(
            f"is no COCO annotation file ({type(error).__name__}: {error})", file=path
        ) from error
    if not found:
        raise FlowsegError("lists no image", file=path)
    return found


def coco_image(
    file_name: str,
    labels: NDArray[np.integer[Any]],
    *,
    cell_type: str = "cell",
    scores: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """One image and its cells, ids ascending, as `write_coco` takes them.

    Masks are COCO's run lengths (down columns), exact to the pixel, with their holes. The cell type
    becomes the category; (N,) scores are the cells' confidence. All values are plain, for JSON.

    Examples
    --------
    >>> image = coco_image("a.png", np.array([[0, 1], [2, 1]]), cell_type="neuron")
    >>> [cell["segmentation"]["counts"] for cell in image["annotations"]]
    [[2, 2], [1, 1, 2]]
    """
    labels = check_labels(labels)
    height, width = labels.shape
    # transposed, so that runs go down columns
    masks = Masks.from_labels(np.ascontiguousarray(labels.T))
    annotations = []
    for index in range(len(masks)):
        runs = slice(masks.offsets[index], masks.offsets[index + 1])
        starts, lengths = masks.starts[runs], masks.lengths[runs]
        counts = _encode_runs(starts, lengths, labels.size)
        annotation = {
            "segmentation": {"size": [height, width], "counts": counts},
            "bbox": _bounding_box(starts, lengths, height),
            "area": int(lengths.sum()),
            "iscrowd": 0,
        }
        if scores is not None:
            annotation["score"] = round(float(scores[index]), 4)
        annotations.append(annotation)
    image = {"file_name": file_name, "width": width, "height": height}
    return {"image": image, "category": cell_type, "annotations": annotations}


def write_coco(path: PathLike, images: Iterable[Mapping[str, Any]]) -> None:
    """Write images of `coco_image` as one COCO file, atomically, ids in their order."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for key, image in enumerate(images, start=1):
        category = categories.setdefault(image["category"], len(categories) + 1)
        entries.append({"id": key, **image["image"]})
        for cell in image["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": key, "category_id": category}
            annotations.append({**ids, **cell})
    content = {
        "info": {"description": f"written by flowseg {__version__}"},
        "licenses": [],
        "images": entries,
        "categories": [{"id": key, "name": name} for name, key in categories.items()],
        "annotations": annotations,
    }
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def _shape(entry: Mapping[str, Any]) -> Shape:
    height, width = entry["height"], entry["width"]
    if not (type(height) is type(width) is int and height > 0 and 0 < height * width <= MAX_PIXELS):
        raise ValueError("an image's height and width are no whole numbers, or too large")
    return height, width


def _encode_runs(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> list[int]:
    """Lengths outside, inside, outside ... by turns; a last one of 0 is left out."""
    ends = starts + lengths
    gaps = starts - np.concatenate([[0], ends[:-1]])
    counts = np.stack([gaps, lengths], axis=1).reshape(-1)
    rest = size - int(ends[-1])
    return [*counts.tolist(), rest] if rest else counts.tolist()


def _decode_runs(runs: Any, shape: Shape) -> NDArray[np.bool_]:
    """The mask of run lengths, as a list or packed in a text: down columns, outside first."""
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


def _bounding_box(starts: NDArray[np.int64], lengths: NDArray[np.int64], height: int) -> list[int]:
    """x, y, width, height; a run that goes on in the next column spans the image's height."""
    last = starts + lengths - 1
    left, right = int(starts[0] // height), int(last[-1] // height)
    wraps = bool((starts // height != last // height).any())
    top = 0 if wraps else int((starts % height).min())
    bottom = height - 1 if wraps else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]
