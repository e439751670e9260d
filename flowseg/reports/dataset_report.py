"""The page on a data set: statistics, samples, wells, folds and flagged annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from flowseg.arrays.intensity import normalize
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.detect import detect_layout, read_records
from flowseg.data.folds import assign_folds
from flowseg.data.livecell import FLAWED, split_livecell
from flowseg.data.record import Record
from flowseg.data.sartorius import FLAWED_IDS
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_file
from flowseg.io.notes import Note
from flowseg.io.opencv import load_cv2
from flowseg.io.outputs import claim_outputs, input_files
from flowseg.io.paths import PathLike
from flowseg.reports.charts import Chart, distribution_chart
from flowseg.reports.dataset_stats import QUALITY_FLAGS, ImageStats, QualityFlag, dataset_stats
from flowseg.reports.overlay import draw_overlay
from flowseg.reports.page import Picture, picture, write_page

_CROP = 144  # pixels; of the pictures of single masks
_MARGIN = 12  # pixels of the image around a mask
_MAX_SAMPLE = 900  # pixels; width of the samples
_SAMPLES = (0.1, 0.5, 0.9)  # which images stand for a type, by their rank in number of cells
_OUTLINE = np.array([255, 214, 10], np.uint8)

_TITLES = {"competition": "Competition data", "livecell": "LIVECell", "folder": "Images and labels"}

Stats = Sequence[ImageStats]
Row = dict[str, object]


def explore(
    data: PathLike, out: PathLike, *, folds: int = 5, seed: int = 42, pictures: int = 24
) -> tuple[int, int]:
    """Write one HTML page about a data set, and count its images and cells.

    `data` is the competition, LIVECell, or a folder of images and labels; `folds` and `seed` make
    the folds that are shown, as for training. So many `pictures` of annotations are shown for each
    flag, the worst first; all are counted.
    """
    data, out = Path(data), Path(out)
    with claim_outputs([out], input_files(data, tables=True)):
        return _explore(data, ensure_writable_file(out), folds, seed, pictures)


def _explore(data: Path, out: Path, folds: int, seed: int, pictures: int) -> tuple[int, int]:
    notes: list[Note] = []
    records = read_records(data, include_flawed=True, note=notes.append)
    stats = dataset_stats(records)
    notes += _notes_of_training(data, records)
    by_type = {
        name: [image for image in stats if image.record.cell_type == name]
        for name in sorted({image.record.cell_type for image in stats})
    }
    fold_of, folds_note = _assign(stats, folds, seed)
    galleries = [_gallery(stats, flag, pictures) for flag in QUALITY_FLAGS]
    cells = sum(len(image.areas) for image in stats)
    totals = {
        "images": len(stats),
        "cells": cells,
        "cell types": len(by_type),
        "flagged annotations": sum(image.flagged for image in stats),
    }
    write_page(
        out,
        "dataset.html.j2",
        title=f"{_TITLES[detect_layout(data)]}: {data.resolve().name}",
        totals={name: f"{count:,}" for name, count in totals.items()},
        types=[_type_row(name, images) for name, images in by_type.items()],
        distributions=_distributions(by_type),
        samples=_samples(by_type),
        wells=_well_rows(stats, fold_of),
        images_in_wells=sum(map(_in_well, stats)),
        folds=_fold_rows(stats, fold_of),
        folds_note=folds_note,
        flags=_flag_rows(by_type),
        galleries=[gallery for gallery in galleries if gallery is not None],
        images=[_image_row(image, fold_of) for image in stats],
        left_out=[_note_row(note) for note in dict.fromkeys(notes)],
    )
    return len(stats), cells


def _notes_of_training(data: Path, records: Sequence[Record]) -> list[Note]:
    """What the page shows and training or pre-training leaves out."""
    notes: list[Note] = []
    if detect_layout(data) == "livecell":
        with suppress(FlowsegError):  # there may be no validation images
            split_livecell(data, include_flawed=True, note=notes.append)
    flawed = {record.image_id for record in records} & (FLAWED_IDS | FLAWED)
    if flawed:
        text = "images are left out of training, known to be annotated wrongly"
        remedy = "data.include_flawed=true takes them in"
        notes.append(Note(text, tuple(sorted(flawed)), remedy))
    return notes


def _note_row(note: Note) -> Row:
    names = ", ".join(note.names)
    remedy = note.remedy or None
    return {"number": len(note.names), "what": note.text, "which": names, "otherwise": remedy}


def _type_row(name: str, images: Stats) -> Row:
    counts = np.array([len(image.areas) for image in images])
    flagged = sum(image.flagged for image in images)
    return {
        "cell type": name,
        "images": len(images),
        "cells": int(counts.sum()),
        "cells/image (median)": float(np.median(counts)),
        "least": int(counts.min()),
        "most": int(counts.max()),
        "mean area, px": _mean(np.concatenate([image.areas for image in images])),
        "mean diameter, px": _mean(np.concatenate([image.diameters for image in images])),
        "covered, %": 100 * _mean([image.covered for image in images]),
        "overlap, %": 100 * _mean([image.overlap for image in images]),
        "at border, %": 100 * _mean(np.concatenate([image.at_border for image in images])),
        "flagged, %": 100 * flagged / max(1, int(counts.sum())),
        "intensity": _mean([image.mean for image in images]),
        "contrast (sd)": _mean([image.std for image in images]),
    }


def _distributions(by_type: Mapping[str, Stats]) -> list[Chart]:
    def chart(
        title: str, measure: Callable[[ImageStats], ArrayLike], unit: str, log: bool = False
    ) -> Chart:
        """Of one value of each image, or of each of its cells."""
        values = {
            name: np.concatenate([np.atleast_1d(measure(image)).astype(float) for image in images])
            for name, images in by_type.items()
        }
        return distribution_chart(title, values, unit, log=log)

    return [
        chart("Cells per image", lambda image: len(image.areas), "cells"),
        chart("Area of cells", lambda image: image.areas, "pixels", log=True),
        chart("Diameter of cells", lambda image: image.diameters, "pixels"),
        chart("Overlap", lambda image: 100 * image.overlap, "% of an image's cell pixels"),
        chart("Cells at the border", lambda image: 100 * _mean(image.at_border), "% of cells"),
        chart("Area in cells", lambda image: 100 * image.covered, "% of the image"),
        chart("Brightness of images", lambda image: image.mean, "mean intensity, as stored"),
        chart("Contrast of images", lambda image: image.std, "standard deviation, as stored"),
    ]


def _samples(by_type: Mapping[str, Stats]) -> dict[str, list[Picture]]:
    samples: dict[str, list[Picture]] = {}
    for name, images in tqdm(by_type.items(), desc="drawing samples", unit="type", delay=1):
        ranked = sorted(images, key=lambda image: (len(image.areas), image.record.image_id))
        ranks = dict.fromkeys(round(share * (len(ranked) - 1)) for share in _SAMPLES)
        samples[name] = []
        for image in (ranked[k] for k in ranks):
            record = image.record
            overlay = draw_overlay(normalize(record.image()), masks_to_labels(record.masks()))
            caption = f"{record.image_id}, {len(image.areas):,} cells"
            samples[name].append(picture(_shrink(overlay, _MAX_SAMPLE), caption))
    return samples


def _well_rows(stats: Stats, fold_of: Mapping[str, int]) -> list[Row]:
    groups: dict[str, list[ImageStats]] = {}
    for image in filter(_in_well, stats):
        groups.setdefault(image.record.group, []).append(image)
    rows: list[Row] = []
    for name, images in sorted(groups.items()):
        plate, _, well = name.rpartition("_")
        counts = [len(image.areas) for image in images]
        rows.append(
            {
                "plate": plate or well,
                "well": well if plate else None,
                "cell type": ", ".join(sorted({image.record.cell_type for image in images})),
                "images": len(images),
                "cells": sum(counts),
                "cells/image": _mean(counts),
                "intensity": _mean([image.mean for image in images]),
                "fold": fold_of.get(images[0].record.image_id),
            }
        )
    return rows


def _assign(stats: Stats, folds: int, seed: int) -> tuple[dict[str, int], str]:
    """The fold of each image and a note; no folds where these images cannot be split so."""
    try:
        fold_of = assign_folds([image.record for image in stats], folds, seed)
    except FlowsegError as error:
        return {}, f"No folds are shown: {error.problem}."
    return fold_of, f"Wells stay together, cell types are spread evenly; split seed {seed}."


def _fold_rows(stats: Stats, fold_of: Mapping[str, int]) -> list[Row]:
    types = sorted({image.record.cell_type for image in stats})
    rows: list[Row] = []
    for fold in sorted(set(fold_of.values())):
        images, cells = Counter[str](), Counter[str]()
        for image in stats:
            if fold_of[image.record.image_id] == fold:
                images[image.record.cell_type] += 1
                cells[image.record.cell_type] += len(image.areas)
        row: Row = {"fold": fold, "images": images.total(), "cells": cells.total()}
        for name in types:
            row |= {f"{name}, images": images[name], f"{name}, cells": cells[name]}
        rows.append(row)
    return rows


def _flag_rows(by_type: Mapping[str, Stats]) -> list[Row]:
    rows: list[Row] = []
    for flag in QUALITY_FLAGS:
        counts = {
            name: sum(int((image.severity[flag.name] > 0).sum()) for image in images)
            for name, images in by_type.items()
        }
        rows.append({"flag": flag.title, "all": sum(counts.values()), **counts})
    return rows


def _gallery(stats: Stats, flag: QualityFlag, limit: int) -> dict[str, object] | None:
    """The worst masks with one flag, each with its picture; None where no mask has it."""
    flagged = sorted(
        (-int(image.severity[flag.name][mask]), index, mask)
        for index, image in enumerate(stats)
        for mask in np.flatnonzero(image.severity[flag.name]).tolist()
    )
    if not flagged:
        return None
    worst = flagged[:limit]
    masks_of: dict[int, list[int]] = {}
    for _, index, mask in worst:
        masks_of.setdefault(index, []).append(mask)
    crops: dict[tuple[int, int], NDArray[np.uint8]] = {}
    bar = tqdm(masks_of.items(), desc=f"drawing {flag.title.lower()}", unit="image", delay=1)
    for index, indices in bar:
        record = stats[index].record
        image, masks = normalize(record.image()), record.masks()
        crops |= {(index, mask): _crop(image, masks.dense(mask)) for mask in indices}
    pictures = []
    for severity, index, mask in worst:
        record = stats[index].record
        measure = f"{-severity:,} {flag.unit} ({record.cell_type})"
        caption = f"{record.image_id}, mask {mask + 1}: {measure}"
        pictures.append(picture(crops[index, mask], caption, width=_CROP))
    count, total = len(worst), len(flagged)
    shown = f"{count} of {total:,}, the worst" if count < total else f"all {total:,}"
    return {"flag": flag, "shown": shown, "pictures": pictures}


def _crop(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A square around the mask, its outline drawn in a colour."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((_CROP, _CROP, 3), np.uint8)
    edge = max(int(np.ptp(rows)), int(np.ptp(columns)), 24) + 2 * _MARGIN
    window = tuple(
        _span(int(indices[0] + indices[-1] + 1) // 2, edge, length)
        for indices, length in zip((rows, columns), image.shape, strict=True)
    )
    grey, inside = np.clip(image, 0, 1)[window], mask[window]
    padding = [(0, edge - length) for length in grey.shape]
    grey, inside = np.pad(grey, padding), np.pad(inside, padding)
    cv2 = load_cv2()
    size = _CROP * 2  # sharp on a phone's screen
    method = cv2.INTER_AREA if edge > size else cv2.INTER_LINEAR
    zoomed = cv2.resize((grey * 255).astype(np.uint8), (size, size), interpolation=method)
    inside = cv2.resize(inside.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    colour = np.repeat(zoomed[:, :, None], 3, axis=2)
    outline = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    colour[outline] = _OUTLINE
    return colour


def _span(middle: int, edge: int, length: int) -> slice:
    """`edge` pixels around `middle`, moved so that they lie in the image where they can."""
    start = max(0, min(middle - edge // 2, length - edge))
    return slice(start, start + edge)


def _image_row(image: ImageStats, fold_of: Mapping[str, int]) -> Row:
    return {
        "image": image.record.image_id,
        "cell type": image.record.cell_type,
        "plate and well": image.record.group if _in_well(image) else None,
        "fold": fold_of.get(image.record.image_id),
        "width": image.record.shape[1],
        "height": image.record.shape[0],
        "cells": len(image.areas),
        "mean diameter": _mean(image.diameters),
        "covered, %": 100 * image.covered,
        "overlap, %": 100 * image.overlap,
        "at border, %": 100 * _mean(image.at_border),
        "flagged": image.flagged,
        "intensity": image.mean,
        "contrast": image.std,
    }


def _in_well(image: ImageStats) -> bool:
    return image.record.group != image.record.image_id


def _shrink(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The image reduced to at most `width` pixels."""
    if image.shape[1] <= width:
        return image
    cv2 = load_cv2()
    size = width, max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _mean(values: Sequence[float] | NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
