"""The report on a data set: what everyone looks at before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.intensity import normalize
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.detect import detect_layout, read_records
from flowseg.data.folds import assign_folds
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike
from flowseg.reports.charts import distribution
from flowseg.reports.dataset_stats import QUALITY_FLAGS, ImageStats, QualityFlag, dataset_stats
from flowseg.reports.html import Html, data_table, picture, section, tag, write_page
from flowseg.reports.overlay import draw_overlay

__all__ = ["explore"]

_CROP = 144  # pixels; of the pictures of single masks
_AROUND = 12  # pixels of the image around a mask
_SAMPLES = (0.1, 0.5, 0.9)  # which images stand for a type, by their rank in number of cells
_LOUD = np.array([255, 214, 10], np.uint8)

_TITLES = {"competition": "Competition data", "livecell": "LIVECell", "folder": "Images and labels"}

Stats = Sequence[ImageStats]


def explore(
    data: PathLike, out: PathLike, *, folds: int = 5, seed: int = 42, pictures: int = 24
) -> tuple[int, int]:
    """Write one HTML file about a data set.

    Parameters
    ----------
    data : path
        The competition, LIVECell, or a folder of images and labels.
    out : path
        The HTML file.
    folds, seed : int
        Of the folds that are shown, as for training.
    pictures : int
        Suspicious annotations shown of each kind, the worst first; all are counted.

    Returns
    -------
    int, int
        Images and cells.

    Raises
    ------
    FlowsegError
        If the data or `out` cannot be used.
    """
    data, out = Path(data), Path(out)
    ensure_writable_folder(out.parent)
    if out.is_dir():
        raise FlowsegError("is a folder", file=out, remedy="name an .html file")
    facts = dataset_stats(read_records(data, include_flawed=True))
    by_type = {
        name: [image for image in facts if image.record.cell_type == name]
        for name in sorted({image.record.cell_type for image in facts})
    }
    fold_of, why = _folds(facts, folds, seed)
    title = f"{_TITLES[detect_layout(data)]}: {data.resolve().name}"
    sections = [
        _overview(facts, by_type),
        _distributions(by_type),
        _samples(by_type),
        _wells(facts, fold_of),
        _fold_table(facts, fold_of, why),
        _suspicions(facts, pictures),
        _image_table(facts, fold_of),
    ]
    write_page(out, title, sections)
    return len(facts), sum(len(image.areas) for image in facts)


def _overview(facts: Stats, by_type: Mapping[str, Stats]) -> Html:
    cells = sum(len(image.areas) for image in facts)
    suspicious = sum(image.suspicious for image in facts)
    as_user_error = {
        "images": len(facts),
        "cells": cells,
        "cell types": len(by_type),
        "suspicious annotations": suspicious,
    }
    boxes = [tag("div", tag("b", f"{count:,}"), name) for name, count in as_user_error.items()]
    rows = []
    for name, images in by_type.items():
        counts = np.array([len(image.areas) for image in images])
        areas = np.concatenate([image.areas for image in images])
        broken = sum(image.suspicious for image in images)
        rows.append(
            {
                "cell type": name,
                "images": len(images),
                "cells": int(counts.sum()),
                "cells/image (median)": float(np.median(counts)),
                "least": int(counts.min()),
                "most": int(counts.max()),
                "mean area, px": _mean(areas),
                "mean diameter, px": _mean(np.concatenate([i.diameters for i in images])),
                "covered, %": 100 * _mean([image.covered for image in images]),
                "overlap, %": 100 * _mean([image.overlap for image in images]),
                "at border, %": 100 * _mean(np.concatenate([i.at_border for i in images])),
                "suspicious, %": 100 * broken / max(1, len(areas)),
                "intensity": _mean([image.mean for image in images]),
                "contrast (sd)": _mean([image.spread for image in images]),
            }
        )
    note = (
        "Diameter: of a disk as large as the mask. Covered: share of the image in cells. Overlap: "
        "share of those pixels that several masks claim. At border: cells that touch it."
    )
    facts_row = tag("div", *boxes, class_="facts")
    return section("Overview", facts_row, data_table(rows), note=note)


def _distributions(by_type: Mapping[str, Stats]) -> Html:
    def of_cells(
        get: Callable[[ImageStats], NDArray[Any]],
    ) -> dict[str, NDArray[np.floating]]:
        return {
            name: np.concatenate([get(image) for image in images]).astype(np.float64)
            for name, images in by_type.items()
        }

    def of_images(get: Callable[[ImageStats], float]) -> dict[str, NDArray[np.floating]]:
        return {
            name: np.array([get(image) for image in images]) for name, images in by_type.items()
        }

    charts = [
        distribution("Cells per image", of_images(lambda i: len(i.areas)), "cells"),
        distribution("Area of cells", of_cells(lambda i: i.areas), "pixels", log=True),
        distribution("Diameter of cells", of_cells(lambda i: i.diameters), "pixels"),
        distribution(
            "Overlap", of_images(lambda i: 100 * i.overlap), "% of an image's cell pixels"
        ),
        distribution(
            "Cells at the border", of_images(lambda i: 100 * _mean(i.at_border)), "% of cells"
        ),
        distribution("Area in cells", of_images(lambda i: 100 * i.covered), "% of the image"),
        distribution(
            "Brightness of images", of_images(lambda i: i.mean), "mean intensity, as stored"
        ),
        distribution("Contrast of images", of_images(lambda i: i.spread), "standard deviation"),
    ]
    return section("Distributions", tag("div", *charts, class_="charts"))


def _samples(by_type: Mapping[str, Stats]) -> Html:
    groups: list[Html] = []
    bar = tqdm(by_type.items(), desc="drawing samples", unit="type", delay=1)
    for name, images in bar:
        ranked = sorted(images, key=lambda image: (len(image.areas), image.record.image_id))
        places = dict.fromkeys(round(share * (len(ranked) - 1)) for share in _SAMPLES)
        figures = []
        for record, count in ((ranked[k].record, len(ranked[k].areas)) for k in places):
            drawn = draw_overlay(normalize(record.image()), masks_to_labels(record.masks()))
            said = f"{record.image_id}, {count:,} cells"
            figures.append(
                tag("figure", picture(_at_most(drawn, 900), said), tag("figcaption", said))
            )
        groups += [tag("h3", name), tag("div", *figures, class_="pictures")]
    note = "Of each type an image with few, one with middling and one with many cells."
    return section("Samples", *groups, note=note)


def _wells(facts: Stats, fold_of: dict[str, int]) -> Html:
    groups: dict[str, list[ImageStats]] = {}
    for image in facts:
        if _in_well(image):
            groups.setdefault(image.record.group, []).append(image)
    alone = len(facts) - sum(map(len, groups.values()))
    said = f"Wells known: {len(groups)}, of {len(facts) - alone} of {len(facts)} images."
    if not groups:
        return section("Plates and wells", note="Of no image the plate and well are known.")
    rows = []
    for name, images in sorted(groups.items()):
        plate, well = _plate_and_well(name)
        counts = [len(image.areas) for image in images]
        rows.append(
            {
                "plate": plate,
                "well": well,
                "cell type": ", ".join(sorted({image.record.cell_type for image in images})),
                "images": len(images),
                "cells": sum(counts),
                "cells/image": _mean(counts),
                "intensity": _mean([image.mean for image in images]),
                "fold": fold_of.get(images[0].record.image_id),
            }
        )
    return section("Plates and wells", data_table(rows, search=len(rows) > 10), note=said)


def _fold_table(facts: Stats, fold_of: dict[str, int], why: str) -> Html:
    if not fold_of:
        return section("Folds", note=why)
    types = sorted({image.record.cell_type for image in facts})
    rows = []
    for fold in sorted(set(fold_of.values())):
        own = [image for image in facts if fold_of[image.record.image_id] == fold]
        images = Counter(image.record.cell_type for image in own)
        cells: Counter[str] = Counter()
        for image in own:
            cells[image.record.cell_type] += len(image.areas)
        row = {"fold": fold, "images": len(own), "cells": cells.total()}
        for name in types:
            row |= {f"{name}, images": images[name], f"{name}, cells": cells[name]}
        rows.append(row)
    return section("Folds", data_table(rows), note=why)


def _suspicions(facts: Stats, limit: int) -> Html:
    types = sorted({image.record.cell_type for image in facts})
    rows, parts = [], []
    for kind in QUALITY_FLAGS:
        counts: Counter[str] = Counter()
        for image in facts:
            counts[image.record.cell_type] += int((image.severity[kind.name] > 0).sum())
        by_name = {name: counts[name] for name in types}
        rows.append({"kind": kind.title, "all": counts.total(), **by_name})
        if counts.total():
            parts += _gallery(facts, kind, counts.total(), limit)
    note = (
        "Masks that may be mistakes of the annotation; data.mask_repair says what training does "
        "with them. A mask may be of several kinds."
    )
    return section("Suspicious annotations", data_table(rows), *parts, note=note)


def _gallery(facts: Stats, kind: QualityFlag, count: int, limit: int) -> list[Html]:
    """The worst masks of one kind, each with its picture."""
    worst = sorted(
        (-int(image.severity[kind.name][mask]), number, mask)
        for number, image in enumerate(facts)
        for mask in np.flatnonzero(image.severity[kind.name]).tolist()
    )[:limit]
    wanted: dict[int, list[int]] = {}
    for _, number, mask in worst:
        wanted.setdefault(number, []).append(mask)
    crops = {}
    bar = tqdm(wanted.items(), desc=f"drawing {kind.title.lower()}", unit="image", delay=1)
    for number, masks in bar:
        record = facts[number].record
        image, own = normalize(record.image()), record.masks()
        for mask in masks:
            crops[number, mask] = _crop(image, own.dense(mask))
    figures = []
    for severity, number, mask in worst:
        record = facts[number].record
        said = f"{record.image_id}, mask {mask + 1}: {-severity:,} {kind.unit} ({record.cell_type})"
        shown = picture(crops[number, mask], said, width=_CROP)
        figures.append(tag("figure", shown, tag("figcaption", said)))
    shown_of = (
        f"{len(figures)} of {count:,}, the worst" if len(figures) < count else f"all {count:,}"
    )
    return [
        tag("h3", f"{kind.title} ({shown_of})"),
        tag("p", kind.note, class_="note"),
        tag("div", *figures, class_="crops"),
    ]


def _crop(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A square around the mask, its outline drawn in a loud colour."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((_CROP, _CROP, 3), np.uint8)
    edge = max(int(np.ptp(rows)), int(np.ptp(columns)), 24) + 2 * _AROUND
    window = tuple(
        _span(int(places[0] + places[-1] + 1) // 2, edge, length)
        for places, length in zip((rows, columns), image.shape, strict=True)
    )
    grey, inside = np.clip(image, 0, 1)[window], mask[window]
    beyond = [(0, edge - length) for length in grey.shape]
    grey, inside = np.pad(grey, beyond), np.pad(inside, beyond)
    cv2 = load_cv2()
    zoom = _CROP * 2  # sharp on a phone's screen
    how = cv2.INTER_AREA if edge > zoom else cv2.INTER_LINEAR
    shown = cv2.resize((grey * 255).astype(np.uint8), (zoom, zoom), interpolation=how)
    large = cv2.resize(inside.astype(np.uint8), (zoom, zoom), interpolation=cv2.INTER_NEAREST)
    colour = np.repeat(shown[:, :, None], 3, axis=2)
    outline = cv2.morphologyEx(large, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    colour[outline] = _LOUD
    return colour


def _span(middle: int, edge: int, length: int) -> slice:
    """`edge` pixels around `middle`, moved so that they lie in the image where they can."""
    start = max(0, min(middle - edge // 2, length - edge))
    return slice(start, start + edge)


def _image_table(facts: Stats, fold_of: dict[str, int]) -> Html:
    rows = [
        {
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
            "suspicious": image.suspicious,
            "intensity": image.mean,
            "contrast": image.spread,
        }
        for image in facts
    ]
    note = "Click the name of a column to sort by it; type a part of a name to see only those."
    return section("All images", data_table(rows, search=True), note=note)


def _folds(facts: Stats, folds: int, seed: int) -> tuple[dict[str, int], str]:
    try:
        found = assign_folds([image.record for image in facts], folds, seed)
    except FlowsegError as error:
        return {}, f"No folds are shown: {error.problem}."
    return found, f"Wells stay together, cell types are spread evenly; split seed {seed}."


def _in_well(image: ImageStats) -> bool:
    return image.record.group != image.record.image_id


def _plate_and_well(group: str) -> tuple[str, str]:
    plate, _, well = group.rpartition("_")
    return (plate, well) if plate else (well, "–")


def _at_most(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if image.shape[1] <= width:
        return image
    cv2 = load_cv2()
    size = width, max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _mean(values: Sequence[float] | NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
