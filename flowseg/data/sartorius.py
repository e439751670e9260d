"""The layout of the Sartorius competition: `train.csv` with run lengths, `train/ID.png`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowseg.arrays.rle import FAULTS, Masks, parse_runs
from flowseg.data.record import Record, select_names, size_differs
from flowseg.errors import FlowsegError
from flowseg.io.binary import MAX_PIXELS
from flowseg.io.images import image_shape
from flowseg.io.notes import Note, Notify, log_note
from flowseg.io.paths import PathLike, check_name
from flowseg.io.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

CELL_TYPES = ("shsy5y", "astro", "cort")

_NEEDED = ("id", "annotation", "width", "height", "cell_type")
COLUMNS = (*_NEEDED, "plate_time", "sample_date", "sample_id", "elapsed_timedelta")

FLAWED_IDS = frozenset(
    {
        *("03b27b381a5f", "e92c56871769", "eec79772cb99"),  # 4 to 9 wrong masks
        *("ce5d0de993bd", "a9fc5e872671"),  # two thirds of the cells annotated twice over
    }
)
"""Images of the competition with annotations known to be wrong."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """The rows of one image in `train.csv`.

    The sample id is blank where the file does not tell; masks are in the order of the rows,
    overlaps kept.
    """

    shape: tuple[int, int]
    cell_type: str
    sample_id: str
    masks: Masks


def read_sartorius(
    folder: PathLike,
    cell_types: Iterable[str] | None = None,
    include_flawed: bool = False,
    note: Notify = log_note,
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
    note : callable
        Takes what is left out.

    Returns
    -------
    list of Record
        Sorted by image id; `group` is plate and well, or the image id where unknown.

    Raises
    ------
    FlowsegError
        If the table is wrong (see `read_annotations`; the message names the row), an image is
        missing or has another size, or no image of these cell types is listed.
    """
    folder = Path(folder)
    table = folder / "train.csv"
    if not table.is_file():
        raise FlowsegError(
            "holds no train.csv" if folder.is_dir() else "is no folder",
            file=folder,
            remedy="name the folder of the unzipped competition data (--data)",
        )
    wanted = select_names(cell_types, CELL_TYPES, "cell type")
    records, flawed = [], []
    for image_id, annotated in read_annotations(table, wanted).items():
        if image_id in FLAWED_IDS and not include_flawed:
            flawed.append(image_id)
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
            Record(
                image_id=image_id,
                image_path=path,
                shape=annotated.shape,
                cell_type=annotated.cell_type,
                group=group,
                annotation=annotated.masks,
            )
        )
    if flawed:
        text = "images are left out, known to be annotated wrongly or twice over"
        note(Note(text, tuple(flawed), "data.include_flawed=true takes them in"))
    if not records:
        raise FlowsegError(f"lists no image of {', '.join(sorted(wanted))}", file=table)
    return records


def read_annotations(
    path: PathLike, cell_types: Iterable[str] | None = None
) -> dict[str, AnnotatedImage]:
    """Read a `train.csv` (or .csv.gz) without its images, for example as the truth to score on.

    The columns `id`, `annotation`, `width`, `height` and `cell_type` are needed; `sample_id` may be
    blank or absent. An image without cells has one row with a blank `annotation`. The result is by
    image id, sorted. Raises FlowsegError if a row is wrong (the first one is named): an id that is
    no plain name, an unknown cell type, a size that is no number or changes within an image, or run
    lengths that are odd in count, out of range or no numbers.
    """
    path = Path(path)
    wanted = select_names(cell_types, CELL_TYPES, "cell type")
    table = read_table(path, _NEEDED)
    firsts = table.drop_duplicates("id")
    shapes = {str(row.id): _shape(path, row) for row in firsts.itertuples()}
    _check_same_in_all_rows(path, table, firsts)
    cell_types = dict(zip(firsts["id"], firsts["cell_type"], strict=True))
    sample_ids = dict(zip(firsts["id"], firsts.get("sample_id", [""] * len(firsts)), strict=True))
    annotations_by_image = [(str(name), rows) for name, rows in table.groupby("id")["annotation"]]
    return {
        image_id: AnnotatedImage(
            shape=shapes[image_id],
            cell_type=cell_types[image_id],
            sample_id=sample_ids[image_id],
            masks=_masks(path, annotations, shapes[image_id]),
        )
        for image_id, annotations in annotations_by_image
        if cell_types[image_id] in wanted
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


def _shape(path: Path, row: Any) -> tuple[int, int]:
    """Height and width in the first row of an image, whose other fields are checked as well."""
    try:
        check_name(row.id)
    except FlowsegError as error:
        raise FlowsegError(f"row {row.Index}: {error.problem}", file=path) from error
    if row.cell_type not in CELL_TYPES:
        raise FlowsegError(
            f"row {row.Index}: unknown cell type {row.cell_type[:40]!r}",
            file=path,
            remedy=f"known are {', '.join(CELL_TYPES)}",
        )
    size = row.width, row.height
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in size):
        raise FlowsegError(f"row {row.Index}: width or height is no whole number", file=path)
    shape = int(size[1]), int(size[0])
    if not 0 < shape[0] * shape[1] <= MAX_PIXELS:
        raise FlowsegError(f"row {row.Index}: an image of {size[0]} x {size[1]} pixels", file=path)
    return shape


def _check_same_in_all_rows(path: Path, table: pd.DataFrame, firsts: pd.DataFrame) -> None:
    """Refuse an image whose size or cell type differs from that in its first row."""
    columns = ["width", "height", "cell_type"]
    expected = firsts.set_index("id").loc[table["id"], columns].to_numpy()
    differ = table[(table[columns].to_numpy() != expected).any(axis=1)]
    if len(differ):
        row, image_id = differ.index[0], differ["id"].iloc[0]
        first = firsts.index[firsts["id"] == image_id][0]
        raise FlowsegError(
            f"row {row}: width, height or cell type of {image_id!r} "
            f"differ from those in row {first}",
            file=path,
        )


def _masks(path: Path, annotations: pd.Series[str], shape: tuple[int, int]) -> Masks:
    """The masks of one image; `annotations` are indexed by their rows' numbers."""
    texts = annotations.tolist()
    if len(texts) == 1 and not texts[0].strip():
        return Masks.from_strings([], shape)
    masks, faults = parse_runs(texts, shape)
    for number, text, fault in zip(annotations.index, texts, faults.tolist(), strict=True):
        if fault or not text.strip():
            reason = FAULTS[fault] if fault else "is blank, but its image has other rows"
            raise FlowsegError(f"row {number}: the annotation {reason}", file=path)
    return masks
