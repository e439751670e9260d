"""LIVECell: polygons in COCO JSON and TIFF images, in the mirror's layout and in the public one.

The released data break rules of their own, which the reader mends and says in its log:

- 65 images stand twice in the training annotations and 52 in those of the test, annotated twice by
  mistake. They are read once: the entry with the most cells, and from the other the cells that it
  lacks. All cells of both would be outlines drawn twice, and to leave out the images or one entry
  would lose cells.
- About 30 images stand in train and in val, and the four crops of one field of view at one time are
  spread over both. An image listed in both is for validation only. A field at one time is on the
  side of most of its crops (validation in case of doubt), and its crops of the other side are left
  out of both: an official validation image is never trained on, and little is lost.
- Wells are trained on and validated; `split_livecell` can separate them.
- `FLAWED` images are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowseg.data.record import Record, select_names
from flowseg.errors import FlowsegError
from flowseg.formats.coco_masks import CocoMasks
from flowseg.formats.coco_reader import read_coco
from flowseg.io.notes import Note, Notify, log_note
from flowseg.io.paths import PathLike

FOLDER = "LIVECell_dataset_2021"
"""Name of the data set's folder, in the public release and in the competition's mirror."""

SPLITS = ("train", "val", "test")

CELL_TYPES = ("a172", "bt474", "bv2", "huh7", "mcf7", "shsy5y", "skbr3", "skov3")

FLAWED = frozenset(
    {
        # 1 to 9 of hundreds of cells annotated: sartorius-research/LIVECell, issue 21
        "A172_Phase_A7_1_01d04h00m_3",
        "A172_Phase_D7_1_01d20h00m_1",
        "BT474_Phase_B3_1_03d00h00m_3",
        "BV2_Phase_A4_2_00d00h00m_1",
        "BV2_Phase_A4_2_02d04h00m_3",
        "BV2_Phase_C4_1_01d16h00m_3",
        "BV2_Phase_D4_1_00d12h00m_2",
        "SHSY5Y_Phase_D10_1_01d16h00m_4",
        "SkBr3_Phase_H3_2_00d00h00m_1",
        # outlines drawn twice over: issue 30
        "A172_Phase_B7_2_00d08h00m_3",
        *(f"A172_Phase_C7_1_00d00h00m_{crop}" for crop in (1, 2, 3, 4)),
    }
)
"""Images that are known to be annotated incompletely or twice over."""

_TRAIN_VAL = frozenset({"train", "val"})


class _Listed(NamedTuple):
    """An image and the splits that list it."""

    record: Record
    splits: frozenset[str]


def read_livecell(
    folder: PathLike,
    splits: Sequence[str] = ("train", "val"),
    cell_types: Iterable[str] | None = None,
    include_flawed: bool = False,
    note: Notify = log_note,
) -> list[Record]:
    """Read LIVECell: images are not opened, and polygons are only located in their file.

    Parameters
    ----------
    folder : path
        `LIVECell_dataset_2021` or the folder that holds it.
    splits : sequence of str
        Which of `SPLITS`. The annotations of a split are `annotations/LIVECell/*SPLIT.json`, or
        where that is not there `annotations/LIVECell_single_cells/TYPE/*SPLIT.json`. Of train and
        val each alone is as in `split_livecell`; both together are all images of the two.
    cell_types : iterable of str, optional
        Which of `CELL_TYPES`; all by default.
    include_flawed : bool
        Whether to keep the images of `FLAWED`.
    note : callable
        Takes what is left out or united.

    Returns
    -------
    list of Record
        Sorted by image id, the file's name without suffix. Cell type and well (the group) come
        from the name: `Huh7_Phase_A12_1_02d12h00m_3.tif` is `huh7` in well A12.

    Raises
    ------
    FlowsegError
        If there are no annotations, they are cut off or not in COCO format, or no image of theirs
        is there.

    Notes
    -----
    The JSON is scanned once, item by item, to locate each image's annotations in the file;
    `Record.masks` reads them there. The memory needed is some 50 bytes a cell, whatever the size
    of the file.
    """
    wanted = select_names(splits, SPLITS, "split")
    types = select_names(cell_types, CELL_TYPES, "cell type")
    root = _root(Path(folder))
    alone = len(wanted & _TRAIN_VAL) == 1
    found = _read_splits(root, wanted, _TRAIN_VAL if alone else frozenset(), note)
    listed = _select(root, found, types, include_flawed, note)
    if alone:
        training, validation = _separate(listed, note, by_well=False)
        chosen = training if "train" in wanted else validation
        chosen = chosen + [image.record for image in listed if "test" in image.splits & wanted]
    else:
        chosen = [image.record for image in listed]
    by_id = {record.image_id: record for record in chosen}
    return [by_id[image_id] for image_id in sorted(by_id)]


def split_livecell(
    folder: PathLike,
    *,
    by_well: bool = False,
    include_flawed: bool = False,
    note: Notify = log_note,
) -> tuple[list[Record], list[Record]]:
    """The images to train on and those to validate on, without an image or field in common.

    Parameters
    ----------
    folder, include_flawed, note
        As for `read_livecell`.
    by_well : bool
        Whether of each cell type one well is validated and not trained on, the one that costs the
        fewest training images; else wells are shared, as in the official split.

    Returns
    -------
    training, validation : list of Record
        Sorted by image id; official training and validation images respectively.

    Raises
    ------
    FlowsegError
        As `read_livecell`; also if one of the two is empty.
    """
    root = _root(Path(folder))
    found = _read_splits(root, _TRAIN_VAL, frozenset(), note)
    listed = _select(root, found, frozenset(CELL_TYPES), include_flawed, note)
    training, validation = _separate(listed, note, by_well=by_well)
    if not training or not validation:
        raise FlowsegError(
            f"has {len(training)} images to train on and {len(validation)} to validate on that "
            "have no field of view in common",
            file=root,
        )
    return training, validation


# --- files ------------------------------------------------------------------------------------


def _root(folder: Path) -> Path:
    for root in (folder, folder / FOLDER):
        if (root / "annotations").is_dir():
            return root
    raise FlowsegError(
        f"holds no {FOLDER} with annotations" if folder.is_dir() else "is no folder",
        file=folder,
        remedy="name the folder of the unzipped data (--data)",
    )


def _image_files(folder: Path) -> dict[str, Path]:
    """All files below a folder, by name."""
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            files.setdefault(name, Path(parent, name))
    return files


def _annotation_files(root: Path, split: str) -> list[Path]:
    folder = root / "annotations"
    combined = sorted((folder / "LIVECell").glob(f"[!.]*{split}.json"))
    single = sorted((folder / "LIVECell_single_cells").glob(f"*/[!.]*{split}.json"))
    return combined or single or sorted((folder / "LIVECell_single_cells").glob(f"*/{split}.json"))


def _read_splits(
    root: Path, wanted: frozenset[str], others: frozenset[str], note: Notify
) -> dict[str, _Listed]:
    """The images of some splits by id; `others` are read where they are there."""
    files = _image_files(root / "images")
    listed: dict[str, _Listed] = {}
    missing: dict[str, Path] = {}
    crowded: list[str] = []
    for split in (split for split in SPLITS if split in wanted | others):
        paths = _annotation_files(root, split)
        if not paths and split in wanted:
            raise FlowsegError(
                f"holds no annotations of the split {split!r}: "
                f"neither LIVECell/*{split}.json nor LIVECell_single_cells/*/*{split}.json",
                file=root / "annotations",
            )
        for path in paths:
            for image in read_coco(path, note):
                name = PurePosixPath(image.file_name).name
                if name not in files:
                    missing[name] = path
                    continue
                if image.crowd.entries:
                    crowded.append(name)
                cell_type, group = _cell_type_and_group(name)
                record = Record(
                    image_id=image.image_id,
                    image_path=files[name],
                    shape=image.shape,
                    cell_type=cell_type,
                    group=group,
                    annotation=image.cells,
                    crowd=image.crowd if image.crowd.entries else None,
                )
                listed[image.image_id] = _again(listed.get(image.image_id), record, split, path)
    if missing and not listed:
        name, path = min(missing.items())
        raise FlowsegError(
            f"lists {name!r}, which is nowhere under images/",
            file=path,
            remedy="unzip the images beside the annotations",
        )
    if missing:
        note(Note("images listed are nowhere under images/, left out", tuple(sorted(missing))))
    if crowded:
        note(Note("images have iscrowd regions, which do not count", tuple(crowded)))
    return listed


def _again(other: _Listed | None, record: Record, split: str, path: Path) -> _Listed:
    """An image that may be listed in another file as well."""
    if other is None:
        return _Listed(record, frozenset({split}))
    if other.record.shape != record.shape:
        raise FlowsegError(
            f"lists {record.image_id!r} at another size than another file", file=path
        )
    cells = other.record.annotation
    if isinstance(cells, CocoMasks) and isinstance(record.annotation, CocoMasks):
        cells = cells + record.annotation
    return _Listed(replace(other.record, annotation=cells), other.splits | {split})


def _select(
    root: Path,
    listed: dict[str, _Listed],
    types: frozenset[str],
    include_flawed: bool,
    note: Notify,
) -> list[_Listed]:
    """The images of some cell types, sorted by id; flawed ones only if they are to be included."""
    chosen = [listed[key] for key in sorted(listed) if listed[key].record.cell_type in types]
    flawed = tuple(i.record.image_id for i in chosen if i.record.image_id in FLAWED)
    if flawed and not include_flawed:
        text = "images are left out, known to be annotated incompletely or twice over"
        note(Note(text, flawed, "data.include_flawed=true takes them in"))
        chosen = [image for image in chosen if image.record.image_id not in FLAWED]
    if not chosen:
        raise FlowsegError(f"holds no image of {', '.join(sorted(types))}", file=root)
    return chosen


# --- training and validation ------------------------------------------------------------------


def _separate(
    listed: Sequence[_Listed], note: Notify, *, by_well: bool
) -> tuple[list[Record], list[Record]]:
    """Training and validation images that have no field of view at one time, or well, in common."""
    pool = [image for image in listed if image.splits & _TRAIN_VAL]
    shared = tuple(i.record.image_id for i in pool if i.splits >= _TRAIN_VAL)
    if shared:
        note(Note("images are listed in train and in val, and only validated", shared))
    held_out: set[str] = set()
    key: Callable[[Record], str] = _field_and_time
    if by_well:
        key, held_out = _group, _wells_to_validate(pool)
    if not held_out:
        key, held_out = _field_and_time, _fields_to_validate(pool)
    sides: dict[tuple[bool, bool], list[Record]] = {
        (official, held): [] for official in (False, True) for held in (False, True)
    }
    for image in pool:
        sides["val" in image.splits, key(image.record) in held_out].append(image.record)
    reason = "well" if key is _group else "field of view at one time"
    for official, split, other in ((False, "training", "validat"), (True, "validation", "train")):
        left_out = tuple(record.image_id for record in sides[official, not official])
        if left_out:
            text = f"{split} images are left out, their {reason} is {other}ed on"
            note(Note(text.replace("validated on", "validated"), left_out))
    training, validation = sides[False, False], sides[True, True]
    wells = {record.group for record in validation} & {record.group for record in training}
    if wells:
        text = "wells are trained on and validated, which flatters the validation"
        note(Note(text, tuple(sorted(wells)), "data.livecell_by_well=true separates them"))
    return training, validation


def _fields_to_validate(pool: Sequence[_Listed]) -> set[str]:
    """Fields at one time most of whose crops are in val, or all with one where there are none."""
    crops = Counter(_field_and_time(image.record) for image in pool)
    validated = Counter(_field_and_time(image.record) for image in pool if "val" in image.splits)
    most = {field for field, count in validated.items() if 2 * count >= crops[field]}
    return most or set(validated)


def _wells_to_validate(pool: Sequence[_Listed]) -> set[str]:
    """Of each cell type with several wells the one in val that costs the fewest images of train."""
    wells: dict[str, set[str]] = {}
    for image in pool:
        wells.setdefault(image.record.cell_type, set()).add(image.record.group)
    lost = Counter(image.record.group for image in pool if "val" not in image.splits)
    in_val = {image.record.group for image in pool if "val" in image.splits}
    candidates = [sorted(names & in_val) for names in wells.values() if len(names) > 1]
    return {min(names, key=lambda name: (lost[name], name)) for names in candidates if names}


def _group(record: Record) -> str:
    return record.group


def _field_and_time(record: Record) -> str:
    """`Huh7_Phase_A12_1_02d12h00m` of the crop `Huh7_Phase_A12_1_02d12h00m_3`."""
    stem, _, crop = record.image_id.rpartition("_")
    return stem if stem.count("_") == 4 and crop.isdigit() else record.image_id


def _cell_type_and_group(name: str) -> tuple[str, str]:
    """`Huh7_Phase_A12_1_02d12h00m_3.tif` -> `huh7`, `huh7_A12`; other names are groups of one."""
    stem = Path(name).stem
    parts = stem.split("_")
    cell_type = parts[0].lower()
    return cell_type, f"{cell_type}_{parts[2]}" if len(parts) >= 3 else stem
