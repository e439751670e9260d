"""The layout of the Sartorius competition: `train.csv` with run lengths, `train/ID.png`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowseg.arrays.rle import Masks, fault_reason, parse_runs
from flowseg.data.record import Record, size_differs
from flowseg.errors import FlowsegError
from flowseg.io.images import image_shape
from flowseg.io.paths import PathLike, check_name
from flowseg.io.png_jpeg import MAX_PIXELS
from flowseg.io.tables import read_rows

__all__ = [
    "CELL_TYPES",
    "COLUMNS",
    "FLAWED_IDS",
    "AnnotatedImage",
    "group_of_sample",
    "read_annotations",
    "read_sartorius",
]

CELL_TYPES = ("shsy5y", "astro", "cort")

COLUMNS = (
    "id",
    "annotation",
    "width",
    "height",
    "cell_type",
    "plate_time",
    "sample_date",
    "sample_id",
    "elapsed_timedelta",
)

FLAWED_IDS = frozenset({"03b27b381a5f", "e92c56871769", "eec79772cb99"})
"""Images of the competition that are known to be annotated wrongly."""

_NEEDED = ("id", "annotation", "width", "height", "cell_type")


@dataclass(frozen=True)
class AnnotatedImage:
    """What `train.csv` says of one image.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels.
    cell_type : str
    sample_id : str
        Blank where the file does not tell.
    masks : Masks
        In the order of the rows, overlaps kept.
    """

    shape: tuple[int, int]
    cell_type: str
    sample_id: str
    masks: Masks


def read_sartorius(
    folder: PathLike, cell_types: Iterable[str] | None = None, include_flawed: bool = False
) -> list[Record]:
    """Read the training images of the competition, or of data in its layout.

    Parameters
    ----------
    folder : path
        The unzipped competition: it holds `train.csv` and `train/`.
    cell_types : iterable of str, optional
        Which of `CELL_TYPES`; all by default.
    include_flawed : bool
        Whether to keep the images of `FLAWED_IDS`.

    Returns
    -------
    list of Record
        Sorted by image id; `group` is plate and well, or the image id where unknown.

    Raises
    ------
    FlowsegError
        For the first thing that is wrong, with file and row: see `read_annotations`; also an
        image that is missing or has another size, or a cell type that is not there.
    """
    folder = Path(folder)
    table = folder / "train.csv"
    if not table.is_file():
        raise FlowsegError(
            "holds no train.csv" if folder.is_dir() else "is no folder",
            file=folder,
            remedy="name the folder of the unzipped competition data (--data)",
        )
    wanted = _check_cell_types(cell_types)
    records = []
    for image_id, annotated in read_annotations(table, wanted).items():
        if image_id in FLAWED_IDS and not include_flawed:
            continue
        path = folder / "train" / f"{image_id}.png"
        if not path.is_file():
            raise FlowsegError(
                f"the image of {image_id!r} is missing: {path}",
                file=table,
                remedy="unzip the competition's train/ beside it",
            )
        found = image_shape(path)
        if found != annotated.shape:
            raise size_differs(path, found, annotated.shape, table.name)
        group = group_of_sample(annotated.sample_id) or image_id
        records.append(
            Record(image_id, path, annotated.shape, annotated.cell_type, group, annotated.masks)
        )
    if not records:
        raise FlowsegError(f"lists no image of {', '.join(sorted(wanted))}", file=table)
    return records


def read_annotations(
    path: PathLike, cell_types: Iterable[str] | None = None
) -> dict[str, AnnotatedImage]:
    """Read a `train.csv` (or .csv.gz) without its images, for example as the truth to score on.

    Parameters
    ----------
    path : path
        The columns `id`, `annotation`, `width`, `height` and `cell_type` are needed; `sample_id`
        may be blank or absent. An image without cells has one row with a blank `annotation`.
    cell_types : iterable of str, optional
        Which of `CELL_TYPES`; all by default.

    Returns
    -------
    dict of AnnotatedImage
        By image id, sorted.

    Raises
    ------
    FlowsegError
        For the first bad row: an id that is no plain name, an unknown cell type, a size that is
        no number or changes within an image, or run lengths that are odd in count, out of range
        or no numbers.
    """
    path = Path(path)
    wanted = _check_cell_types(cell_types)
    images: dict[str, _Rows] = {}
    for row, fields in read_rows(path, _NEEDED):
        image_id, cell_type = fields["id"], fields["cell_type"]
        rows = images.get(image_id)
        if rows is None:
            rows = images[image_id] = _first_row(path, row, fields)
        same = (fields["width"], fields["height"]) == rows.size and cell_type == rows.cell_type
        if not same:
            raise FlowsegError(
                f"row {row}: width, height or cell type of {image_id!r} "
                f"differ from those in row {rows.numbers[0]}",
                file=path,
            )
        rows.numbers.append(row)
        rows.texts.append(fields["annotation"])
    return {
        image_id: _annotated(path, images[image_id])
        for image_id in sorted(images)
        if images[image_id].cell_type in wanted
    }


def group_of_sample(sample_id: str) -> str:
    """Plate and well of a `sample_id`; blank where it is.

    Examples
    --------
    >>> group_of_sample("shsy5y[diff]_E10-4_Vessel-714_Ph_3")
    'shsy5y[diff]_E10'
    """
    plate, _, rest = sample_id.strip().partition("_")
    well = rest.partition("_")[0].partition("-")[0]
    return f"{plate}_{well}" if well else plate


@dataclass(frozen=True)
class _Rows:
    """The rows of one image, not yet parsed."""

    size: tuple[str, str]
    shape: tuple[int, int]
    cell_type: str
    sample_id: str
    numbers: list[int]
    texts: list[str]


def _check_cell_types(cell_types: Iterable[str] | None) -> frozenset[str]:
    wanted = frozenset(CELL_TYPES if cell_types is None else cell_types)
    unknown = sorted(wanted - set(CELL_TYPES))
    if unknown or not wanted:
        raise FlowsegError(
            f"unknown cell type {', '.join(map(repr, unknown))}" if unknown else "no cell type",
            remedy=f"choose from {', '.join(CELL_TYPES)}",
        )
    return wanted


def _first_row(path: Path, row: int, fields: dict[str, str]) -> _Rows:
    try:
        check_name(fields["id"])
    except FlowsegError as error:
        raise FlowsegError(f"row {row}: {error.problem}", file=path) from error
    cell_type = fields["cell_type"]
    if cell_type not in CELL_TYPES:
        raise FlowsegError(
            f"row {row}: unknown cell type {cell_type[:40]!r}",
            file=path,
            remedy=f"known are {', '.join(CELL_TYPES)}",
        )
    size = fields["width"], fields["height"]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in size):
        raise FlowsegError(f"row {row}: width or height is no whole number", file=path)
    shape = int(size[1]), int(size[0])
    if not 0 < shape[0] * shape[1] <= MAX_PIXELS:
        raise FlowsegError(f"row {row}: an image of {size[0]} x {size[1]} pixels", file=path)
    return _Rows(size, shape, cell_type, fields.get("sample_id", ""), [], [])


def _annotated(path: Path, rows: _Rows) -> AnnotatedImage:
    filled = [number for number, text in zip(rows.numbers, rows.texts, strict=True) if text.strip()]
    if not filled and len(rows.texts) == 1:
        masks = Masks.from_strings([], rows.shape)
    else:
        masks, faults = parse_runs(rows.texts, rows.shape)
        for number, text, fault in zip(rows.numbers, rows.texts, faults.tolist(), strict=True):
            if fault or not text.strip():
                reason = fault_reason(fault) if fault else "is blank, but its image has other rows"
                raise FlowsegError(f"row {number}: the annotation {reason}", file=path)
    return AnnotatedImage(rows.shape, rows.cell_type, rows.sample_id, masks)
