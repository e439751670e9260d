"""Data sets of drawn neurons in the layouts of the competition and of LIVECell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.data.livecell import FOLDER
from flowseg.data.sartorius import CELL_TYPES, COLUMNS
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder, write_text
from flowseg.io.images import write_image
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike
from flowseg.io.tables import write_table
from flowseg.synthetic.render import draw_neurons

TEST_TRUTH = "test_truth.csv"
"""The truth of the test images, in the columns of `train.csv`."""

_PLATES = {"shsy5y": "shsy5y[diff]", "astro": "astros", "cort": "cort"}
_SUBPIXELS = 3  # outlines are a third of a pixel fine, so that polygons hold their pixels' centres


def write_synthetic_sartorius(
    folder: PathLike,
    n_train: int,
    n_test: int,
    seed: int,
    shape: tuple[int, int] = (520, 704),
    cell_types: Sequence[str] = CELL_TYPES,
) -> None:
    """Write a competition of drawn neurons, (H, W) images in which the cell types take turns.

    Written are `train/ID.png`, `test/ID.png`, `sample_submission.csv`, `test_truth.csv` and, last
    of all, `train.csv`: where it is, the set is complete. The same seed and numbers give the same
    files. The folder is made if it is not there.
    """
    folder = Path(folder)
    if (folder / "train.csv").exists():
        raise FlowsegError(
            "holds a train.csv already", file=folder, remedy="choose another folder or remove it"
        )
    train, test = (ensure_writable_folder(folder / name) for name in ("train", "test"))
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    truth: list[tuple[object, ...]] = []
    test_ids = []
    for number in tqdm(range(n_train + n_test), desc="drawing neurons", unit="image", delay=2):
        cell_type = cell_types[number % len(cell_types)]
        image_id = rng.bytes(6).hex()
        image, masks = draw_neurons(shape, cell_type, rng)
        in_train = number < n_train
        write_image((train if in_train else test) / f"{image_id}.png", image)
        described = _describe(image_id, masks, cell_type, number // len(cell_types))
        (rows if in_train else truth).extend(described)
        if not in_train:
            test_ids.append(image_id)
    sample = pd.DataFrame({"id": sorted(test_ids), "predicted": ""})
    write_table(folder / "sample_submission.csv", sample)
    write_table(folder / TEST_TRUTH, pd.DataFrame(truth, columns=COLUMNS))
    write_table(folder / "train.csv", pd.DataFrame(rows, columns=COLUMNS))


def write_synthetic_livecell(
    folder: PathLike, n_train: int, n_val: int, seed: int, shape: tuple[int, int] = (520, 704)
) -> None:
    """Write a LIVECell of drawn neurons, in the layout of the competition's mirror.

    `LIVECell_dataset_2021` is made in the folder. All cells are `shsy5y`, the one type that
    LIVECell shares with the competition. The two annotation files are written after the images;
    the same seed and numbers give the same files.
    """
    root = Path(folder) / FOLDER
    splits = {"train": n_train, "val": n_val}
    paths = {
        split: root / "annotations" / "LIVECell" / f"livecell_coco_{split}.json" for split in splits
    }
    if any(path.exists() for path in paths.values()):
        raise FlowsegError(
            "holds annotations already", file=root, remedy="choose another folder or remove it"
        )
    ensure_writable_folder(paths["train"].parent)
    images = ensure_writable_folder(root / "images" / "livecell_train_val_images" / "SHSY5Y")
    rng = np.random.default_rng(seed)
    documents = {split: _empty_coco() for split in splits}
    first_val = n_train + n_train % 2  # no field of view is both trained on and validated
    numbers = [*range(n_train), *range(first_val, first_val + n_val)]
    for number in tqdm(numbers, desc="drawing cells for pre-training", unit="image", delay=2):
        split = "train" if number < n_train else "val"
        image, masks = draw_neurons(shape, "shsy5y", rng)
        name = f"SHSY5Y_Phase_{_well(number)}_1_{number // 384:02d}d00h00m_{number % 2 + 1}.tif"
        write_image(images / name, image)
        _append(documents[split], name, masks, 10_000 * (number + 1))
    for split, path in paths.items():
        write_text(path, json.dumps(documents[split]) + "\n")


def _describe(
    image_id: str, masks: Masks, cell_type: str, number: int
) -> Iterator[tuple[object, ...]]:
    """The rows of one image; `number` counts the images of its type."""
    sample = (
        f"{_PLATES[cell_type]}_{_well(number)}-{number % 2 + 1}_Vessel-{number // 384 + 1}_Ph_1"
    )
    height, width = masks.shape
    metadata = ("11h30m00s", "2019-06-16", sample, "0 days 11:30:00")
    for text in masks.to_strings() or [""]:
        yield (image_id, text, width, height, cell_type, *metadata)


def _well(number: int) -> str:
    """The well of an image, which two images share."""
    return f"{chr(ord('A') + number // 24 % 16)}{number // 2 % 12 + 1}"


def _empty_coco() -> dict[str, Any]:
    return {
        "info": {"description": "drawn neurons"},
        "licenses": [],
        "categories": [{"supercategory": "cell", "id": 1, "name": "cell"}],
        "images": [],
        "annotations": [],
    }


def _append(document: dict[str, Any], name: str, masks: Masks, first_id: int) -> None:
    """Add one image and its cells, their ids following the image's."""
    height, width = masks.shape
    document["images"].append({"id": first_id, "width": width, "height": height, "file_name": name})
    areas = masks.areas()
    for index, corners in enumerate(_outlines(masks)):
        low, high = corners.min(0), corners.max(0)
        document["annotations"].append(
            {
                "id": first_id + 1 + index,
                "image_id": first_id,
                "category_id": 1,
                "segmentation": [corners.round(2).reshape(-1).tolist()],
                "area": float(areas[index]),
                "bbox": [round(float(v), 2) for v in (*low, *(high - low))],
                "iscrowd": 0,
            }
        )


def _outlines(masks: Masks) -> Iterator[npt.NDArray[np.float64]]:
    """The outline of each mask, (N, 2) x, y, where each mask is one component without holes."""
    cv2 = load_cv2()
    width = masks.shape[1]
    for first, last in pairwise(masks.offsets.tolist()):
        rows, columns = np.divmod(masks.starts[first:last], width)
        lengths = masks.lengths[first:last]
        top, left = int(rows.min()), int(columns.min())
        patch = np.zeros(
            (int(rows.max()) - top + 1, int((columns + lengths).max()) - left), np.uint8
        )
        for row, column, length in zip(rows - top, columns - left, lengths, strict=True):
            patch[row, column : column + length] = 1
        enlarged = patch.repeat(_SUBPIXELS, 0).repeat(_SUBPIXELS, 1)
        outlines = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        corners = max(outlines, key=cv2.contourArea)[:, 0].astype(np.float64)
        yield (corners + 0.5) / _SUBPIXELS + (left, top)
