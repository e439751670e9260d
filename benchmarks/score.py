"""Speed of the score and of the run lengths, against what people use, in one run.

    python benchmarks/score.py --data ../shared/data

`--data` is a folder with the competition's `train.csv`, and `annotations_without_images.csv.gz`
beside it if there is one. Peers are taken where they are installed (cellpose, stardist,
pycocotools) and named as missing where not; the equality of counts is checked on the same pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.jit import in_threads, threads
from flowseg.arrays.labels import keep_largest_component, outlines, renumber
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.data.sartorius import read_annotations
from flowseg.metrics.competition import THRESHOLDS, compare, competition_score

Labels = NDArray[np.int32]
SHAPE = (520, 704)


def best_of(work: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs; the first compiles and is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def optional(name: str) -> Any:
    """A peer's module, or None with a word on what is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        print(f"({name} is left out: {error})")
        return None


def load(folder: Path) -> dict[str, Masks]:
    """Masks of every annotated image of the competition's size."""
    files = [folder / "train.csv", folder / "annotations_without_images.csv.gz"]
    images = {
        image_id: image.masks
        for path in files
        if path.is_file()
        for image_id, image in read_annotations(path).items()
    }
    return {name: masks for name, masks in sorted(images.items()) if masks.shape == SHAPE}


def spoil(truth: Labels, rng: np.random.Generator) -> Labels:
    """A prediction with the usual faults: shifted, half of the cells thin, some lost or merged."""
    count = int(truth.max()) + 1
    ids = np.arange(count, dtype=np.int32)
    join = np.flatnonzero(rng.random(count) < 0.04)
    ids[join[join > 1]] = ids[join[join > 1] - 1]
    ids[1:][rng.random(count - 1) < 0.08] = 0
    thin = (rng.random(count) < 0.5)[truth] & outlines(truth)
    moved = np.roll(np.where(thin, 0, ids[truth]), rng.integers(-2, 3, size=2), axis=(0, 1))
    moved = keep_largest_component(moved)
    return renumber(np.where(np.bincount(moved.ravel())[moved] >= 10, moved, 0))


def pairwise_score(truth: NDArray[np.bool_], pred: NDArray[np.bool_]) -> float:
    """The kernel many notebooks use: each truth mask against each predicted mask."""
    if not len(truth) or not len(pred):
        return float(len(truth) == len(pred))
    iou = np.zeros((len(truth), len(pred)))
    for i, a in enumerate(truth):
        for j, b in enumerate(pred):
            iou[i, j] = np.logical_and(a, b).sum() / np.logical_or(a, b).sum()
    scores = []
    for threshold in np.arange(0.5, 1, 0.05):
        hits = iou > threshold
        tp = (hits.sum(1) == 1).sum()
        scores.append(tp / (tp + (hits.sum(1) == 0).sum() + (hits.sum(0) == 0).sum()))
    return float(np.mean(scores))


def score(pairs: list[tuple[Labels, Labels]]) -> None:
    """Time the score and compare its counts with the peers'."""
    cells = sum(int(truth.max()) for truth, _ in pairs)
    print(f"score of {len(pairs)} pairs of label images with {cells} true cells")
    ours = best_of(lambda: [competition_score(truth, pred) for truth, pred in pairs])
    print(f"  flowseg                                  {ours * 1e3:9.1f} ms")
    results = np.zeros(len(pairs))

    def both_cores() -> None:
        in_threads(lambda k: results.__setitem__(k, competition_score(*pairs[k])), len(pairs))

    threaded = best_of(both_cores)
    print(f"  flowseg on {threads()} threads                     {threaded * 1e3:9.1f} ms")
    metrics = optional("cellpose.metrics")
    if metrics is not None:
        truths, preds = [a for a, _ in pairs], [b for _, b in pairs]
        thresholds = np.array(THRESHOLDS) / 100
        theirs = best_of(lambda: metrics.average_precision(truths, preds, thresholds), repeats=3)
        print(
            f"  cellpose average_precision               {theirs * 1e3:9.1f} ms, "
            f"{theirs / ours:.1f}x, {theirs / threaded:.1f}x"
        )
        _, tp, fp, fn = metrics.average_precision(truths, preds, thresholds)
        check(
            "cellpose",
            pairs,
            [
                [(int(tp[n, k]), int(fp[n, k]), int(fn[n, k])) for k in range(len(THRESHOLDS))]
                for n in range(len(pairs))
            ],
        )
    matching = optional("stardist.matching")
    if matching is not None:

        def stardist() -> list[list[Any]]:
            return [
                [matching.matching(a, b, thresh=percent / 100) for percent in THRESHOLDS]
                for a, b in pairs
            ]

        theirs = best_of(stardist, repeats=1)
        print(
            f"  stardist matching                        {theirs * 1e3:9.1f} ms, "
            f"{theirs / ours:.1f}x"
        )
        check("stardist", pairs, [[(m.tp, m.fp, m.fn) for m in row] for row in stardist()])
    # quadratic in the cells, so on the pairs with few cells only: the ratio is a lower bound
    few = sorted(pairs, key=lambda pair: int(pair[0].max()))[5 : len(pairs) // 2 : 5]
    dense = [
        (
            np.stack([a == i for i in range(1, a.max() + 1)]),
            np.stack([b == i for i in range(1, b.max() + 1)]),
        )
        for a, b in few
    ]
    theirs = best_of(lambda: [pairwise_score(a, b) for a, b in dense], repeats=1)
    ours = best_of(lambda: [competition_score(a, b) for a, b in few])
    print(
        f"  the {len(few)} of up to {max(len(a) for a, _ in dense)} cells: flowseg "
        f"{ours * 1e3:.2f} ms, pairwise masks {theirs * 1e3:.0f} ms, {theirs / ours:.0f}x"
    )


def check(name: str, pairs: list[tuple[Labels, Labels]], counts: list[list[Any]]) -> None:
    """Compare counts where no IoU lies on the threshold."""
    equal = on_threshold = 0
    for (truth, pred), theirs in zip(pairs, counts, strict=True):
        table = compare(truth, pred)
        ours = table.counts()
        for k, percent in enumerate(THRESHOLDS):
            if (100 * table.shared == percent * table.unions()).any():
                on_threshold += 1
                continue
            mine = (ours.tp[k], ours.fp[k], ours.fn[k])
            if mine != theirs[k]:
                sys.exit(f"counts differ from {name}'s: {mine} and {theirs[k]}")
            equal += 1
    print(
        f"    TP, FP, FN equal to {name}'s in all {equal} cases "
        f"({on_threshold} with an IoU on the threshold are left out)"
    )


def usual_decode(text: str) -> NDArray[np.uint8]:
    """The decoder of the competition's public notebooks."""
    numbers = text.split()
    starts, lengths = (np.asarray(part, dtype=int) for part in (numbers[0::2], numbers[1::2]))
    starts -= 1
    mask = np.zeros(SHAPE[0] * SHAPE[1], dtype=np.uint8)
    for low, high in zip(starts, starts + lengths, strict=True):
        mask[low:high] = 1
    return mask.reshape(SHAPE)


def run_lengths(images: dict[str, Masks]) -> None:
    """Time decoding and encoding."""
    per_image = [masks.to_strings() for masks in images.values()]
    texts = [text for part in per_image for text in part]
    masks = Masks.from_strings(texts, SHAPE)
    print(f"run lengths of {len(texts)} masks, {len(masks.starts)} runs")

    def to_dense() -> None:
        parsed = Masks.from_strings(texts, SHAPE)
        for index in range(len(parsed)):
            parsed.dense(index)

    def usual() -> None:
        for text in texts:
            usual_decode(text)

    theirs = best_of(usual, repeats=2)
    runs = best_of(lambda: Masks.from_strings(texts, SHAPE))
    dense = best_of(to_dense, repeats=3)
    print(f"  usual NumPy loop, text to pixels         {theirs * 1e3:9.1f} ms")
    print(f"  flowseg, text to Masks                   {runs * 1e3:9.1f} ms, {theirs / runs:.1f}x")
    print(
        f"  flowseg, text to Masks to pixels         {dense * 1e3:9.1f} ms, {theirs / dense:.1f}x"
    )
    coco = optional("pycocotools.mask")
    if coco is not None:
        packed = [
            coco.encode(np.asfortranarray(masks.dense(index).view(np.uint8)))
            for index in range(len(masks))
        ]

        def decode() -> None:
            for runs in packed:
                coco.decode(runs)

        theirs = best_of(decode, repeats=1)
        print(
            f"  pycocotools, packed text to pixels       {theirs * 1e3:9.1f} ms, "
            f"{theirs / dense:.1f}x"
        )
    print(f"  flowseg, Masks to text                   {best_of(masks.to_strings) * 1e3:9.1f} ms")
    labels = [masks_to_labels(part) for part in images.values()]
    every = best_of(lambda: [Masks.from_labels(image) for image in labels])
    size = sum(image.nbytes for image in labels) / 1e9
    print(
        f"  flowseg, {len(labels)} label images to Masks    {every * 1e3:9.1f} ms, "
        f"{size / every:.1f} GB/s"
    )


def main() -> None:
    """Run every comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100)
    args = parser.parse_args()
    images = load(args.data)
    rng = np.random.default_rng(0)
    names = list(images)
    chosen = [names[k] for k in np.linspace(0, len(names) - 1, args.pairs).astype(int)]
    truths = [renumber(masks_to_labels(images[name])) for name in chosen]
    score([(truth, spoil(truth, rng)) for truth in truths])
    run_lengths(images)


if __name__ == "__main__":
    main()
