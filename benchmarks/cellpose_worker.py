"""Cellpose 3 at work, in the interpreter that has it; nothing of flowseg is imported here.

Its argument is a task of cellpose_peer.py in JSON; the answer is the last line that it prints.
Images and labels lie in folders of ID.npy.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellpose import models, train, transforms

MIN_MASKS = 5  # train_seg's default
# All of train_seg's own defaults but the channels: grey, and no nuclei.
SETTINGS: dict[str, Any] = {
    "channels": [0, 0],
    "SGD": False,  # so AdamW
    "learning_rate": 0.005,
    "weight_decay": 1e-5,
    "batch_size": 8,
    "bsize": 224,
    "rescale": True,
    "normalize": True,
    "min_train_masks": MIN_MASKS,
}


class Stamps:
    """The time at which each step of train_seg begins: when it asks for its crops."""

    def __init__(self, device: str) -> None:
        self.times: list[float] = []
        cut = transforms.random_rotate_and_resize

        def stamped(*args: Any, **options: Any) -> Any:
            if device != "cpu":
                torch.cuda.synchronize()  # as train_seg does itself, at the end of each step
            self.times.append(time.perf_counter())
            return cut(*args, **options)

        transforms.random_rotate_and_resize = stamped


def fresh(device: str, seed: int, start: str | None = None) -> Any:
    """Its residual U-Net with random weights, or with those of a file."""
    torch.manual_seed(seed)
    return models.CellposeModel(gpu=device != "cpu", pretrained_model=start or False)


def in_bfloat16(model: Any, device: str) -> None:
    """Let its network learn as ours does, in mixed precision with channels last.

    train_seg knows float32 only; on processors with bfloat16 this takes less than half its time.
    """
    net = model.net.to(memory_format=torch.channels_last)
    net.mkldnn = False  # its own layout for CPUs, which autocast does not know
    forward = net.forward

    def mixed(images: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            output, *rest = forward(images.contiguous(memory_format=torch.channels_last))
        return (output.float(), *rest)

    net.forward = mixed


def load(data: str, ids: list[str]) -> tuple[list[Any], list[Any]]:
    """Those images, and their labels, that train_seg does not leave out."""
    labels = {name: np.load(Path(data, "labels", f"{name}.npy")) for name in ids}
    kept = [name for name in ids if np.unique(labels[name]).size > MIN_MASKS]
    images = [np.load(Path(data, "images", f"{name}.npy")) for name in kept]
    return images, [labels[name] for name in kept]


def learn(
    data: str,
    ids: list[str],
    crops: int,
    seed: int,
    precision: str,
    start: str | None,
    out: str,
    device: str,
) -> dict[str, Any]:
    """Train on about `crops` crops, in whole epochs, and leave the weights in `out`/models.

    It begins with the weights of the file `start`, or with random ones.
    """
    model, stamps = fresh(device, seed, start), Stamps(device)
    if precision == "bfloat16":
        in_bfloat16(model, device)
    images, labels = load(data, ids)
    epochs = max(1, round(crops / len(images)))
    train.train_seg(
        model.net, images, labels, n_epochs=epochs, save_path=out, model_name="weights", **SETTINGS
    )
    return {
        "seconds": time.perf_counter() - stamps.times[0],
        "images": len(images),
        "epochs": epochs,
        "crops": epochs * len(images),
        "diameter": float(model.net.diam_labels),
        "version": version("cellpose"),
    }


def predict(
    data: str, diameters: dict[str, float], out: str, device: str, suffix: str, augment: bool
) -> dict[str, Any]:
    """Segment images of known diameter with the weights in `out`, into `out`/ID`suffix`."""
    weights = str(Path(out, "models", "weights"))
    model = models.CellposeModel(gpu=device != "cpu", pretrained_model=weights)
    start = time.perf_counter()
    for name, diameter in diameters.items():
        masks, _, _ = model.eval(
            np.load(Path(data, "images", f"{name}.npy")),
            channels=[0, 0],
            diameter=diameter,
            flow_threshold=0.4,
            cellprob_threshold=0.0,
            augment=augment,
        )
        part = Path(out, f"{name}.part")
        with part.open("wb") as file:
            np.save(file, np.asarray(masks, dtype=np.int32))
        part.replace(Path(out, f"{name}{suffix}"))
    return {"seconds": time.perf_counter() - start}


def pace(
    data: str,
    ids: list[str],
    steps: int,
    warm_up: int,
    batch: int,
    crop: int,
    out: str,
    device: str,
) -> dict[str, Any]:
    """Seconds of `steps` steps of train_seg after others that warm it up."""
    model, stamps = fresh(device, 0), Stamps(device)
    crops = (warm_up + steps + 1) * batch
    settings = SETTINGS | {"batch_size": batch, "bsize": crop, "nimg_per_epoch": crops}
    train.train_seg(model.net, *load(data, ids), n_epochs=1, save_path=out, **settings)
    return {
        "seconds": stamps.times[warm_up + steps] - stamps.times[warm_up],
        "parameters": sum(p.numel() for p in model.net.parameters() if p.requires_grad),
        "precision": "float32",
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    if not version("cellpose").startswith("3."):
        raise SystemExit(
            f"cellpose {version('cellpose')} is not the peer; install cellpose==3.1.1.3"
        )
    logging.basicConfig(stream=sys.stderr, format="cellpose: %(message)s")
    logging.getLogger("cellpose").setLevel(logging.INFO)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what it prints must not get into the answer
    task = json.loads(sys.argv[1])
    work = {"learn": learn, "predict": predict, "pace": pace}[task.pop("do")]
    print(json.dumps(work(**task)), file=answer, flush=True)


if __name__ == "__main__":
    main()
