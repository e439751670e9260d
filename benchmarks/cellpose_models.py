"""One model of Cellpose here and in Cellpose 3: seconds an image, scores, and how alike they are.

    python benchmarks/cellpose_models.py --data ../shared/data --weights cyto3 --peer CP3/bin/python

`--peer` is the interpreter of an environment with cellpose 3.x. Both sides read the same images of
the competition, rescale by the same diameters, and check the flows; the sides run one after the
other, each in a process of its own, on all cores. Cellpose has its own tiles and dynamics, flowseg
its own: their masks are scored against the annotation and compared with each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIAMETERS = {"shsy5y": 17.0, "astro": 34.0, "cort": 17.5}


def ours(weights: str, folder: Path, ids: dict[str, float]) -> float:
    """Seconds an image; flows, cellprob and labels are left in the folder."""
    from flowseg.inference.segmenter import Segmenter

    segmenter = Segmenter.load(weights)
    segmenter.segment(np.zeros((64, 64), np.uint8))  # compiled loops are loaded
    seconds = 0.0
    for image_id, diameter in ids.items():
        image = np.load(folder / f"{image_id}.npy")
        start = time.perf_counter()
        found = segmenter.segment(image, diameter=diameter)
        seconds += time.perf_counter() - start
        maps = np.stack((*found.flows, found.cellprob))
        np.savez(folder / f"{image_id}.ours.npz", maps=maps, labels=found.labels)
    return seconds / len(ids)


def cellpose(weights: str, folder: Path, ids: dict[str, float]) -> float:
    """The same by Cellpose 3; nothing of flowseg is imported here."""
    from cellpose import models

    model = models.CellposeModel(gpu=False, pretrained_model=weights)
    model.eval(np.random.default_rng(0).random((64, 64)) * 255, channels=[0, 0], diameter=30)
    seconds = 0.0
    for image_id, diameter in ids.items():
        image = np.load(folder / f"{image_id}.npy")
        start = time.perf_counter()
        labels, flows, _ = model.eval(image, channels=[0, 0], diameter=diameter)
        seconds += time.perf_counter() - start
        maps = np.stack((*(flows[1] / 5), flows[2]))
        np.savez(folder / f"{image_id}.cellpose.npz", maps=maps, labels=labels.astype(np.int32))
    return seconds / len(ids)


def compare(args: argparse.Namespace) -> None:
    from flowseg.data.sartorius import read_sartorius
    from flowseg.metrics.competition import competition_score

    records = read_sartorius(args.data)
    places = np.linspace(0, len(records) - 1, min(args.images, len(records))).round().astype(int)
    chosen = [records[place] for place in places]
    ids = {record.image_id: DIAMETERS[record.cell_type] for record in chosen}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for record in chosen:
            np.save(folder / f"{record.image_id}.npy", record.image().astype(np.uint8))
        seconds = {}
        for side, python in (("cellpose", args.peer), ("ours", sys.executable)):
            command = [python, __file__, "--side", side, "--weights", args.weights]
            command += ["--folder", name, "--ids", json.dumps(ids)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds[side] = float(done.stdout.splitlines()[-1])
        for record in chosen:
            found = {side: np.load(folder / f"{record.image_id}.{side}.npz") for side in seconds}
            truth = record.masks()
            ours_labels, peer_labels = found["ours"]["labels"], found["cellpose"]["labels"]
            away = np.abs(found["ours"]["maps"] - found["cellpose"]["maps"])
            rows.append(
                {
                    "type": record.cell_type,
                    "ours": competition_score(truth, ours_labels),
                    "cellpose": competition_score(truth, peer_labels),
                    "agreement": competition_score(peer_labels, ours_labels),
                    "flows apart": float(away[:2].mean()),
                    "cellprob apart": float(away[2].mean()),
                }
            )
    print("type     ours  cellpose  agreement  flows apart  cellprob apart")
    for row in rows:
        print(
            f"{row['type']:7} {row['ours']:.4f}    {row['cellpose']:.4f}     {row['agreement']:.4f}"
            f"       {row['flows apart']:.4f}          {row['cellprob apart']:.3f}"
        )
    mean = {side: np.mean([row[side] for row in rows]) for side in seconds}
    print(f"\nmean score: ours {mean['ours']:.4f}, Cellpose 3 {mean['cellpose']:.4f}")
    print(f"seconds an image: ours {seconds['ours']:.2f}, Cellpose 3 {seconds['cellpose']:.2f}")
    print(f"flowseg is {seconds['cellpose'] / seconds['ours']:.1f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="the competition's folder")
    parser.add_argument("--weights", required=True, help="a model of Cellpose 1 to 3")
    parser.add_argument("--peer", help="python with cellpose 3.x")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "cellpose"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side = {"ours": ours, "cellpose": cellpose}[args.side]
        print(side(args.weights, args.folder, json.loads(args.ids)))
        return
    if args.data is None or args.peer is None:
        parser.error("name the competition's folder with --data, and --peer")
    compare(args)


if __name__ == "__main__":
    main()
