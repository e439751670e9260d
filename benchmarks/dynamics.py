"""Labels to flows to labels, against Cellpose 3 and 4, on real annotations, in one run.

    python benchmarks/dynamics.py --data ../shared/data \\
        --cellpose3 ENV3/bin/python --cellpose4 ENV4/bin/python --markdown

Every image goes through all sides in turn, so that a busy machine is busy for all of them; each
side runs in an interpreter of its own, on the same number of threads. Label images: larger masks
first, smaller on top, then each cell's largest connected component. A peer not given is left out
with a message.
"""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from flowseg.arrays.labels import keep_largest_component
from flowseg.arrays.rle import Masks
from flowseg.data.sartorius import read_annotations
from flowseg.metrics.competition import competition_score

Labels = NDArray[np.int32]
STEPS = {
    "flows": "masks -> flows",
    "unchecked": "flows -> masks, unchecked",
    "checked": "flows -> masks, checked",
    "together": "masks -> flows -> masks",
}


class Side:
    """A process that runs tasks."""

    def __init__(self, python: str, kind: str, threads: int) -> None:
        worker = Path(__file__).with_name("dynamics_worker.py")
        command = [python, str(worker), kind, str(threads)]
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr
        )
        self.name: str = self._receive()

    def run(self, *task: Any) -> tuple[float, NDArray[Any]]:
        pickle.dump(task, self.process.stdin)
        self.process.stdin.flush()
        result: tuple[float, NDArray[Any]] = self._receive()
        return result

    def _receive(self) -> Any:
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            self.stderr.seek(0)
            raise SystemExit(f"a side ended:\n{self.stderr.read().decode()}") from None


def small_on_top(masks: Masks) -> Labels:
    """One label image; a pixel that several masks claim goes to the smallest."""
    return masks.select(np.argsort(-masks.areas(), kind="stable")).paint()


def load(folder: Path, count: int | None) -> list[tuple[str, Labels]]:
    """Cell type and label image of the annotated images, `count` of them evenly spread by type."""
    images = read_annotations(folder / "annotations_without_images.csv.gz")
    names = sorted(images, key=lambda name: (images[name].cell_type, name))
    if count is not None and count < len(names):
        names = [names[k] for k in np.linspace(0, len(names) - 1, count).round().astype(int)]
    return [
        (
            images[name].cell_type,
            keep_largest_component(small_on_top(images[name].masks)),
        )
        for name in names
    ]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Gaussian noise, smooth over 4 px, of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 4, 4))
    return np.asarray(noise / noise.std())


def shapes() -> dict[str, Labels]:
    """Cells that noise splits, and cells that touch and must stay apart."""
    y, x = np.mgrid[:140, :180]
    bar = ((y >= 60) & (y < 66) & (x >= 30) & (x < 150)).astype(np.int32)
    u = np.zeros_like(bar)
    u[30:110, 50:58] = u[30:110, 110:118] = u[102:110, 50:118] = 1
    soma = ((y - 70) ** 2 + (x - 50) ** 2 <= 225).astype(np.int32)
    soma[68:72, 60:125] = 1
    disc = ((y - 70) ** 2 + (x - 90) ** 2 <= 225).astype(np.int32)
    discs = disc.copy()
    discs[((y - 70) ** 2 + (x - 120) ** 2 <= 225) & (disc == 0)] = 2
    bars = np.zeros_like(bar)
    bars[60:65, 30:150], bars[65:70, 30:150] = 1, 2
    return {
        "bar of 120 px": bar,
        "U": u,
        "soma with process": soma,
        "disc": disc,
        "two discs touching": discs,
        "two bars of 5 px touching": bars,
    }


class Record:
    """What is measured, for each side."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.score: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self.agreement: dict[str, list[NDArray[np.float64]]] = defaultdict(list)

    def image(self, sides: list[Side], cell_type: str, labels: Labels, repeats: int) -> None:
        """Time every step of one image, and keep flows and scores."""
        inside = labels > 0
        cellprob = np.where(inside, 3.0, -3.0).astype(np.float32)
        flows: dict[str, NDArray[Any]] = {}
        found: dict[tuple[str, str], Labels] = {}
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(repeats):
            for side in sides:
                seconds, field = side.run("flows", labels)
                flows[side.name] = field.astype(np.float32)
                times[side.name, "flows"].append(seconds)
                for step, threshold in (("unchecked", 0.0), ("checked", 0.4)):
                    seconds, found[side.name, step] = side.run(
                        "labels", flows[side.name], cellprob, threshold
                    )
                    times[side.name, step].append(seconds)
        for side in sides:
            median = {step: np.median(times[side.name, step]) for step in list(STEPS)[:3]}
            median["together"] = median["flows"] + median["checked"]
            for step, value in median.items():
                self.seconds[side.name, step].append(float(value))
            for step in ("unchecked", "checked"):
                score = competition_score(labels, found[side.name, step].astype(np.int32))
                self.score[side.name, cell_type, step].append(score)
            if side.name.startswith("cellpose 3"):
                cosine = (flows[sides[0].name] * flows[side.name]).sum(axis=0)
                self.agreement[cell_type].append(cosine[np.hypot(*flows[side.name]) > 0])

    def noise(self, sides: list[Side], cell_type: str, labels: Labels, seed: int) -> None:
        """Score every side on the same noisy flows, without the check."""
        inside = labels > 0
        cellprob = np.where(inside, 3.0, -3.0).astype(np.float32)
        clean = sides[0].run("flows", labels)[1]
        noise = smooth_noise(np.random.default_rng(seed), clean.shape)
        for amplitude in (0.3, 0.6):
            noisy = ((clean + amplitude * noise) * inside).astype(np.float32)
            for side in sides:
                found = side.run("labels", noisy, cellprob, 0.0)[1].astype(np.int32)
                score = competition_score(labels, found)
                self.score[side.name, cell_type, f"noise {amplitude}"].append(score)


def count_shapes(sides: list[Side], seeds: int) -> dict[tuple[str, str], float]:
    """Mean number of instances of each shape under noise of 0.6."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, labels in shapes().items():
        inside = labels > 0
        cellprob = np.where(inside, 3.0, -3.0).astype(np.float32)
        clean = sides[0].run("flows", labels)[1]
        for seed in range(seeds):
            noise = smooth_noise(np.random.default_rng(seed), clean.shape)
            noisy = ((clean + 0.6 * noise) * inside).astype(np.float32)
            for side in sides:
                found = side.run("labels", noisy, cellprob, 0.0)[1]
                counts[side.name, name].append(int(found.max()))
    return {key: float(np.mean(values)) for key, values in counts.items()}


def table(rows: list[list[str]], markdown: bool) -> str:
    """Rows as a markdown table, or in columns."""
    if markdown:
        rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def report(record: Record, sides: list[Side], markdown: bool) -> None:
    names = [side.name for side in sides]
    own, peers = names[0], names[1:]
    images = len(record.seconds[own, "flows"])
    rows = [["ms an image", *names, *(f"times faster than {peer}" for peer in peers)]]
    for step, title in STEPS.items():
        total = {name: 1e3 * np.sum(record.seconds[name, step]) / images for name in names}
        ratios = [f"{total[peer] / total[own]:.1f}" for peer in peers]
        rows.append([title, *(f"{total[name]:.2f}" for name in names), *ratios])
    print(f"\n{images} images, each side's time summed over them\n")
    print(table(rows, markdown))
    types = sorted({cell_type for _, cell_type, _ in record.score})
    rows = [["mean score against the label image", "cell type", *names]]
    titles = {
        "checked": "clean flows, all defaults",
        "unchecked": "clean flows, unchecked",
        "noise 0.3": "noise of 0.3, unchecked",
        "noise 0.6": "noise of 0.6, unchecked",
    }
    for key, title in titles.items():
        for cell_type in types:
            scores = [record.score[name, cell_type, key] for name in names]
            if all(scores):
                rows.append([title, cell_type, *(f"{np.mean(score):.4f}" for score in scores)])
    print()
    print(table(rows, markdown))
    if record.agreement:
        print("\nflows against cellpose 3, pixels with cosine similarity of at least 0.999:")
        for cell_type, cosines in sorted(record.agreement.items()):
            share = np.mean(np.concatenate(cosines) >= 0.999)
            print(f"- {cell_type}: {100 * share:.3f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the annotations")
    parser.add_argument("--images", type=int, help="use only so many images (default: all)")
    parser.add_argument("--repeats", type=int, default=1, help="take the median of so many times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--noisy-images", type=int, default=60, help="images for the noise test")
    parser.add_argument("--cellpose3", help="a Python that has cellpose 3")
    parser.add_argument("--cellpose4", help="a Python that has cellpose 4")
    parser.add_argument("--markdown", action="store_true", help="print tables for the README")
    options = parser.parse_args()
    sides = [Side(sys.executable, "flowseg", options.threads)]
    for name in ("cellpose3", "cellpose4"):
        python = getattr(options, name)
        if python is None:
            print(f"({name} is left out: no --{name} PYTHON given)")
        else:
            sides.append(Side(python, name, options.threads))
    images = load(options.data, options.images)
    Record().image(sides, *images[0], repeats=1)  # compiles and warms up, not counted
    record = Record()
    for cell_type, labels in tqdm(images, desc="clean", unit="image"):
        record.image(sides, cell_type, labels, options.repeats)
    some = np.linspace(0, len(images) - 1, min(options.noisy_images, len(images)))
    for k in tqdm(some.round().astype(int), desc="noise", unit="image"):
        record.noise(sides, *images[k], seed=int(k))
    report(record, sides, options.markdown)
    counts = count_shapes(sides, seeds=20)
    rows = [["instances under noise of 0.6, mean of 20", *(side.name for side in sides)]]
    for name in shapes():
        rows.append([name, *(f"{counts[side.name, name]:.2f}" for side in sides)])
    print()
    print(table(rows, options.markdown))


if __name__ == "__main__":
    main()
