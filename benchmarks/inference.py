"""Images per second from files to instances, ours and Cellpose 3, in one run on one machine.

    python benchmarks/inference.py --data ../shared/data --model RUN --peer CP3/bin/python

`--peer` is the interpreter of an environment with cellpose 3.x. Both sides read the same PNG files,
rescale to the same diameter, run a network of about Cellpose's size (6.6 million parameters, their
weights at random: they do not change the time), and follow flows with the flow check on. So that
the dynamics have real work, both networks' outputs are replaced by the flow field that the trained
`--model` predicts. Ours ends with the submission CSV on the disk, Cellpose with the masks in
memory. Ours is also timed with the trained model itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIAMETER = 17.0
"""Of shsy5y, the smallest cells: images are enlarged by 30 / 17."""


class Clock:
    """Seconds by step; steps of several threads overlap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                taken = time.perf_counter() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + taken

        return wrapped


def prepare(paths: list[Path], model: Path, folder: Path, device: str) -> None:
    """Save the trained model's fields, and a checkpoint of Cellpose's size with random weights."""
    from flowseg.config.schema import NetworkConfig
    from flowseg.inference.segmenter import Segmenter
    from flowseg.io.images import read_image
    from flowseg.network.checkpoint import read_card, save_network
    from flowseg.network.unet import FlowNetwork

    segmenter = Segmenter.load(model, device)
    for path in paths:
        found = segmenter.segment(read_image(path), cell_type="shsy5y", diameter=DIAMETER)
        np.save(folder / f"{path.stem}.npy", np.stack((*found.flows, found.cellprob)))
    card = read_card(model)
    # At the full resolution, as Cellpose's; the fields below are of its stride.
    config = NetworkConfig(channels=(32, 64, 128, 256), stem_stride=1, blocks_per_level=4)
    network = FlowNetwork(config, len(card.cell_types))
    save_network(
        folder / "large.safetensors", network.state_dict(), type(card)(config, card.cell_types)
    )


def ours(paths: list[Path], folder: Path, model: Path | None, device: str) -> dict[str, Any]:
    """Through the command's own worker; with `model` as it is, else at Cellpose's size."""
    import torch

    from flowseg.inference import ensemble, pipeline
    from flowseg.inference.options import SegmentOptions
    from flowseg.inference.rescale import rescale
    from flowseg.io.image_source import ImageSource
    from flowseg.network.checkpoint import load_network
    from flowseg.prediction.predict import predict

    clock = Clock()
    if model is None:
        real = ensemble.Ensemble.predict
        fields: Iterator[np.ndarray] = iter([])

        def replaced(self: Any, images: Any, *rest: Any) -> Any:
            return [
                output._replace(maps=torch.from_numpy(next(fields)).to(output.maps.device))
                for output in real(self, images, *rest)
            ]

        ensemble.Ensemble.predict = replaced  # type: ignore[method-assign]
    ImageSource.read = clock.timed("read", ImageSource.read)  # type: ignore[method-assign]
    for name in ("preprocess", "predict", "postprocess"):
        setattr(pipeline, name, clock.timed(name, getattr(pipeline, name)))
    checkpoint = model or folder / "large.safetensors"
    parameters = sum(p.numel() for p in load_network(checkpoint)[0].parameters())
    options = SegmentOptions(cell_type="shsy5y", diameter=DIAMETER)

    def run(images: list[Path]) -> float:
        nonlocal fields
        if model is None:
            loaded = [np.load(folder / f"{path.stem}.npy") for path in images]
            shapes = [tuple(round(n * 30 / DIAMETER / 8) * 8 for n in f.shape[1:]) for f in loaded]
            fields = iter(
                [np.stack([rescale(m, s) for m in f]) for f, s in zip(loaded, shapes, strict=True)]
            )
        start = time.perf_counter()
        predict(checkpoint, images, folder / "s.csv", device=device, options=options)
        return time.perf_counter() - start

    run(paths[:1])  # compiled loops are loaded
    clock.seconds.clear()
    seconds = run(paths)
    cells = sum(1 for line in (folder / "s.csv").open() if not line.endswith(",\n")) - 1
    return {"seconds": seconds, "steps": clock.seconds, "parameters": parameters, "cells": cells}


def cellpose(paths: list[Path], folder: Path, device: str) -> dict[str, Any]:
    """One image after the other, as `eval` does."""
    import cv2
    from cellpose import io, models

    clock = Clock()
    untimed = Clock()
    model = models.CellposeModel(gpu=device != "cpu", pretrained_model=False)
    model.net.eval()
    real = models.run_net
    current = paths[0]

    def load_field(shape: tuple[int, ...]) -> np.ndarray:
        maps = np.load(folder / f"{current.stem}.npy")
        maps[:2] *= 5
        sized = [cv2.resize(m, (shape[2], shape[1]), interpolation=cv2.INTER_LINEAR) for m in maps]
        return np.stack(sized, axis=-1)[None]

    load_untimed = untimed.timed("load", load_field)

    def replaced(*args: Any, **options: Any) -> Any:
        output, styles = real(*args, **options)
        return load_untimed(output.shape), styles

    models.run_net = replaced
    model._run_net = clock.timed("predict", model._run_net)
    model._compute_masks = clock.timed("postprocess", model._compute_masks)
    read = clock.timed("read", io.imread)

    def run(images: list[Path]) -> tuple[float, int]:
        nonlocal current
        cells = 0
        start = time.perf_counter()
        for current in images:
            masks, _, _ = model.eval(read(str(current)), channels=[0, 0], diameter=DIAMETER)
            cells += int(masks.max())
        return time.perf_counter() - start, cells

    # Loads its compiled loops; on a small part, since the network takes long.
    model._compute_masks((1, 99, 99, 2), *_small(folder, paths[0]), flow_threshold=0.4, niter=20)
    clock.seconds.clear()
    seconds, cells = run(paths)
    loading = untimed.seconds.get("load", 0.0)
    clock.seconds["predict"] -= loading
    # The network in use is converted for MKL-DNN and hides them.
    plain = models.CellposeModel(gpu=False, pretrained_model=False, mkldnn=False).net
    parameters = sum(p.numel() for p in plain.parameters())
    return {
        "seconds": seconds - loading,
        "steps": clock.seconds,
        "parameters": parameters,
        "cells": cells,
    }


def _small(folder: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    maps = np.load(folder / f"{path.stem}.npy")[:, :99, :99]
    return 5 * maps[:2, None], maps[2][None]


def side(interpreter: str, task: list[str]) -> dict[str, Any]:
    """Run one side in a process of its own."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [interpreter, __file__, *task]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    parser.add_argument("--model", type=Path, required=True, help="a trained run or checkpoint")
    parser.add_argument("--peer", help="python with cellpose 3.x; without it ours is timed alone")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=("ours", "model", "cellpose"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    paths = sorted((args.data / "train").glob("*.png"))[: args.images]
    model = args.model / "best.safetensors" if args.model.is_dir() else args.model
    if args.side:
        if args.side == "cellpose":
            result = cellpose(paths, args.folder, args.device)
        else:
            result = ours(paths, args.folder, model if args.side == "model" else None, args.device)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(paths, model, Path(folder), args.device)
        rest = [*sys.argv[1:], "--folder", folder, "--side"]
        sides = {"ours": sys.executable, "model": sys.executable}
        if args.peer:
            sides["cellpose"] = args.peer
        results = {name: side(python, [*rest, name]) for name, python in sides.items()}
    names = {
        "ours": "flowseg, network of Cellpose's size",
        "model": "flowseg, the trained model",
        "cellpose": "Cellpose 3",
    }
    print(f"\n{len(paths)} images of 520 x 704, cells of {DIAMETER:.0f} px, on {args.device}\n")
    for name, result in results.items():
        steps = ", ".join(f"{step} {value:.2f}" for step, value in result["steps"].items())
        rate = len(paths) / result["seconds"]
        print(f"{names[name]} ({result['parameters'] / 1e6:.1f} M parameters)")
        print(f"  {rate:.3f} images/s, {result['seconds']:.2f} s, {result['cells']} cells")
        print(f"  seconds in each step (ours overlap): {steps}")
    if "cellpose" in results:
        ratio = results["cellpose"]["seconds"] / results["ours"]["seconds"]
        print(f"\nflowseg is {ratio:.1f} times as fast end to end at the same size of network")


if __name__ == "__main__":
    main()
