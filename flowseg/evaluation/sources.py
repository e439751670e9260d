"""Reads truth and predictions from files: the masks of each image, by image id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath

from flowseg.arrays.rle import FAULTS, Masks, parse_runs
from flowseg.data import livecell
from flowseg.data.label_files import LabelledImage, find_coco, labelled_images
from flowseg.data.sartorius import read_annotations
from flowseg.errors import FlowsegError
from flowseg.formats.coco_masks import CocoMasks
from flowseg.formats.coco_reader import read_coco, read_coco_results
from flowseg.formats.submission import read_submission
from flowseg.io.image_source import list_images
from flowseg.io.paths import SEG_SUFFIX, PathLike

Shape = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """The masks of one image, read when asked for.

    Attributes
    ----------
    shape : (int, int)
        Height and width in pixels.
    cell_type : str
        Blank where it is not known.
    masks : callable
        Gives the image's `Masks`.
    crowd : callable or None
        Gives its regions that are neither cells nor background, COCO's `iscrowd`.
    ids : tuple
        What COCO results may call the image: its ids in the COCO file.
    """

    shape: Shape
    cell_type: str
    masks: Callable[[], Masks]
    crowd: Callable[[], Masks] | None = None
    ids: tuple[str, ...] = ()


def read_truth(path: PathLike) -> dict[str, Source]:
    """The truth of each image, by image id.

    From a `train.csv` (or .csv.gz), a COCO JSON file (polygons or run lengths), or a folder: of
    label images, or of images and labels (see `flowseg.io.paths.find_labels`). Where it is that of
    a file, the id is its name without suffix.
    """
    path = Path(path)
    if path.is_dir():
        coco = find_coco(path)
        return _label_files(path) if coco is None else _coco(coco)
    if path.suffix.lower() == ".json":
        return _coco(path)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return {
            image_id: Source(image.shape, image.cell_type, partial(_given, image.masks))
            for image_id, image in read_annotations(path).items()
        }
    raise _unknown(path, "a train.csv, a COCO .json or a folder of label TIFFs")


def read_predictions(path: PathLike, truth: Mapping[str, Source]) -> dict[str, Source]:
    """The prediction of each image, by image id.

    Parameters
    ----------
    path : path
        A submission CSV (columns `id` and `predicted`), a COCO JSON file, COCO results
        (``[{image_id, segmentation, score}]``), or a folder of label images, as for the truth.
    truth : mapping of Source
        Holds the shapes of a submission's images.

    Raises
    ------
    FlowsegError
        For an image that the truth does not know, one of another size, or a row that is no mask.
    """
    path = Path(path)
    if path.is_dir():
        found = _label_files(path)
        _check_known(path, {image_id: image_id for image_id in found}, truth)
        for image_id, source in found.items():
            _check_size(path, image_id, source.shape, truth)
        return found
    if path.suffix.lower() == ".json":
        return _coco_predictions(path, truth)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return _submission(path, truth)
    raise _unknown(path, "a submission CSV, a COCO .json or a folder of label TIFFs")


def _submission(path: Path, truth: Mapping[str, Source]) -> dict[str, Source]:
    rows = read_submission(path).images
    if not rows:
        raise FlowsegError("holds no row", file=path)
    first_rows = {image_id: f"row {of[0][0]}: {image_id}" for image_id, of in rows.items()}
    _check_known(path, first_rows, truth)
    found = {}
    for image_id in sorted(rows):
        shape = truth[image_id].shape
        filled = [(number, text) for number, text in rows[image_id] if text.strip()]
        masks, faults = parse_runs([text for _, text in filled], shape)
        for (number, _), fault in zip(filled, faults.tolist(), strict=True):
            if fault:
                raise FlowsegError(
                    f"row {number}: 'predicted' {FAULTS[fault]}",
                    file=path,
                    remedy="`flowseg validate` lists every such row",
                )
        found[image_id] = Source(shape, truth[image_id].cell_type, partial(_given, masks))
    return found


def _check_known(path: Path, named: Mapping[str, str], truth: Mapping[str, Source]) -> None:
    unknown = sorted(set(named) - set(truth))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise FlowsegError(
            f"{named[unknown[0]]}{more}: not in the truth",
            file=path,
            remedy="score the images whose truth is known",
        )


def _label_files(folder: Path) -> dict[str, Source]:
    found = {}
    for name, item in sorted(labelled_images(folder).items()):
        measurable = None if item.path.name.endswith(SEG_SUFFIX) else item.path
        if item.page is not None:
            shape = item.page.shape
        else:
            measurable = item.image or measurable
            shape = list_images(measurable)[0].shape if measurable else item.read().shape
        found[name] = Source((shape[0], shape[1]), "", partial(_masks_of, item))
    return found


def _masks_of(item: LabelledImage) -> Masks:
    return Masks.from_labels(item.read())


def _given(masks: Masks) -> Masks:
    return masks


def _coco(path: Path) -> dict[str, Source]:
    found = {}
    for image in read_coco(path):
        # the names of LIVECell's images begin with their cell type; its one category is "cell"
        cell_type = image.image_id.partition("_")[0].lower()
        found[image.image_id] = Source(
            shape=image.shape,
            cell_type=cell_type if cell_type in livecell.CELL_TYPES else image.category,
            masks=image.masks,
            crowd=partial(image.crowd.masks, image.shape) if image.crowd.entries else None,
            ids=image.ids,
        )
    return dict(sorted(found.items()))


def _coco_predictions(path: Path, truth: Mapping[str, Source]) -> dict[str, Source]:
    """Results name images by the truth's ids, or by image id (the file's name) or file name."""
    results = read_coco_results(path)
    if results is None:
        found = _coco(path)
        _check_known(path, {image_id: image_id for image_id in found}, truth)
        for image_id, source in found.items():
            _check_size(path, image_id, source.shape, truth)
        return found
    names = {image_id: image_id for image_id in truth}
    names |= {key: image_id for image_id, source in truth.items() for key in source.ids}
    predicted: dict[str, CocoMasks] = {}
    for key, masks in results.items():
        name = names.get(key) or PureWindowsPath(key).stem
        predicted[name] = predicted[name] + masks if name in predicted else masks
    _check_known(path, {name: name for name in predicted}, truth)
    return {
        name: Source(
            truth[name].shape, truth[name].cell_type, partial(masks.masks, truth[name].shape)
        )
        for name, masks in sorted(predicted.items())
    }


def _check_size(path: Path, image_id: str, shape: Shape, truth: Mapping[str, Source]) -> None:
    if shape != truth[image_id].shape:
        raise FlowsegError(
            f"the labels of {image_id!r} are {_size(shape)} pixels, "
            f"the truth {_size(truth[image_id].shape)}",
            file=path,
        )


def _size(shape: Shape) -> str:
    return f"{shape[1]} x {shape[0]}"


def _unknown(path: Path, expected: str) -> FlowsegError:
    if not path.exists():
        return FlowsegError("is missing", file=path, remedy=f"name {expected}")
    return FlowsegError("has an unknown format", file=path, remedy=f"name {expected}")
