"""A data set of LIVECell's shape, and what it costs to index it.

    python benchmarks/livecell_shape.py write FOLDER
    python benchmarks/livecell_shape.py index FOLDER
    python train.py --data FOLDER --pretrain livecell ...

`write` makes the numbers of the release as public reports have them: 3,253 + 570 + 1,564 entries
for 3,727 + 1,512 images and 1.7 million polygons, of which 65 images stand twice in the training
annotations, 52 in the test annotations and 31 in train and val; wells, fields, times and crops as
the release names them, its incompletely annotated images among them. The cells are ellipses at
random places and the images links to four TIFFs of noise: nothing is of the real data. A few drawn
images of the competition's kind lie beside it, so that a training can start.

`index` reads it as pre-training does, and the test split, and prints seconds of the clock and of
the CPU, and the memory at the peak; `--scale 0.01` of `write` makes a hundredth of the cells.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WELLS = {  # of train and val; of the test
    "A172": (("A7", "B7", "D7"), ("C7",)),
    "BT474": (("A3", "B3", "C3"), ("D3",)),
    "BV2": (("B4", "C4", "D4"), ("A4",)),
    "Huh7": (("A10", "A11"), ("A12",)),
    "MCF7": (("E4", "F4", "G4"), ("H4",)),
    "SHSY5Y": (("B10", "C10", "D10"), ("A10",)),
    "SKOV3": (("G4", "H4"), ("E4", "F4")),
    "SkBr3": (("E3", "F3", "H3"), ("G3",)),
}
TRAIN_VAL, TEST = 3727, 1512
VAL, SHARED, TRAIN_TWICE, TEST_TWICE = 570, 31, 65, 52
CELLS = 1_686_352
SHAPE = (520, 704)


def names(of_test: bool, count: int) -> list[str]:
    """The first `count` names of images, field after field of all wells, time after time."""
    found: list[str] = []
    for hours in range(0, 24 * 30, 4):
        when = f"{hours // 24:02d}d{hours % 24:02d}h00m"
        for cell_type, wells in WELLS.items():
            for well in wells[of_test]:
                for field in (1, 2):
                    stem = f"{cell_type}_Phase_{well}_{field}_{when}"
                    found += [f"{stem}_{crop}.tif" for crop in (1, 2, 3, 4)]
    return found[:count]


def polygons(rng: np.random.Generator, count: int = 2000) -> list[str]:
    """JSON of ellipses, 20 to 60 corners each."""
    texts = []
    for _ in range(count):
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(20, 61)), endpoint=False)
        radii = rng.uniform(5, 15, 2)[:, None] * (1 + 0.05 * rng.standard_normal(len(angles)))
        x = rng.uniform(0, SHAPE[1]) + radii[0] * np.cos(angles)
        y = rng.uniform(0, SHAPE[0]) + radii[1] * np.sin(angles)
        corners = np.stack([x.clip(0, SHAPE[1]), y.clip(0, SHAPE[0])], axis=1)
        texts.append(json.dumps([corners.round(2).reshape(-1).tolist()]))
    return texts


def write_split(path: Path, entries: list[str], cells: int, rng: np.random.Generator) -> None:
    """One annotation file, item by item."""
    bank = polygons(rng)
    share = rng.gamma(1.5, size=len(entries))
    counts = np.floor(cells * share / share.sum()).astype(int)

    def images() -> Iterator[str]:
        for number, name in enumerate(entries):
            yield json.dumps(
                {"id": number, "width": SHAPE[1], "height": SHAPE[0], "file_name": name}
            )

    def annotations() -> Iterator[str]:
        number = len(entries)
        for image, count in enumerate(counts.tolist()):
            for choice in rng.integers(len(bank), size=count).tolist():
                number += 1
                yield (
                    f'{{"id": {number}, "image_id": {image}, "category_id": 1, "segmentation": '
                    f'{bank[choice]}, "area": 350.5, "bbox": [1.0, 2.0, 20.0, 25.0], "iscrowd": 0}}'
                )

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "categories": [{"id": 1, "name": "cell"}]')
        for member, items in (("images", images()), ("annotations", annotations())):
            file.write(f', "{member}": [')
            for position, item in enumerate(items):
                file.write(f", {item}" if position else item)
            file.write("]")
        file.write("}\n")


def write(folder: Path, scale: float, seed: int = 7) -> None:
    """Write everything."""
    from flowseg.io.images import write_image
    from flowseg.synthetic.datasets import write_synthetic_sartorius

    rng = np.random.default_rng(seed)
    write_synthetic_sartorius(folder, 6, 0, seed, (128, 160), ("shsy5y",))
    root = folder / "LIVECell_dataset_2021"
    pool, test = names(False, TRAIN_VAL), names(True, TEST)
    order = [pool[k] for k in rng.permutation(len(pool))]
    val, train = order[:VAL], order[VAL:] + order[:SHARED]
    splits = {
        "train": train + train[:TRAIN_TWICE],
        "val": val,
        "test": test + test[:TEST_TWICE],
    }
    total = sum(map(len, splits.values()))
    for split, entries in splits.items():
        path = root / "annotations" / "LIVECell" / f"livecell_coco_{split}.json"
        write_split(path, entries, int(scale * CELLS * len(entries) / total), rng)
    for number in range(4):
        noise = rng.normal(128, 12, SHAPE).clip(0, 255).astype(np.uint8)
        write_image(folder / f"noise{number}.tif", noise)
    for part, stems in (("train_val", pool), ("test", test)):
        for number, name in enumerate(stems):
            link = root / "images" / f"livecell_{part}_images" / name.split("_")[0] / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / f"noise{number % 4}.tif").resolve())


def index(folder: Path) -> None:
    """Read all splits and print what it takes."""
    from flowseg.data.livecell import read_livecell, split_livecell

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    before = _peak()
    clock, cpu = time.perf_counter(), time.process_time()
    training, validation = split_livecell(folder)
    took = time.perf_counter() - clock, time.process_time() - cpu
    print(f"train and val: {took[0]:.0f} s, {took[1]:.0f} s of CPU, peak {_peak():.0f} MB")
    test = read_livecell(folder, ("test",))
    took = time.perf_counter() - clock, time.process_time() - cpu
    print(f"and test: {took[0]:.0f} s, {took[1]:.0f} s of CPU, peak {_peak():.0f} MB")
    print(f"of these {before:.0f} MB before the first file")
    print(f"{len(training)} + {len(validation)} + {len(test)} images")
    clock = time.perf_counter()
    cells = sum(len(record.masks()) for record in training[:100])
    print(f"{cells} cells of 100 images drawn in {time.perf_counter() - clock:.1f} s")


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=("write", "index"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    if args.action == "write":
        write(args.folder, args.scale)
    else:
        index(args.folder)


if __name__ == "__main__":
    main()
