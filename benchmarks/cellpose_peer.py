"""What benchmarks of training ask of Cellpose 3, which has an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flowseg.arrays.labels import keep_largest_component
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.record import Record
from flowseg.io.atomic import atomic_path, ensure_writable_folder


def ask(python: str, do: str, **task: Any) -> dict[str, Any]:
    """The answer of cellpose_worker.py to a task; what it logs goes to our standard error."""
    worker = Path(__file__).with_name("cellpose_worker.py")
    return answer_of([python, str(worker), json.dumps({"do": do, **task})])


def answer_of(command: list[str]) -> dict[str, Any]:
    """What a process prints last, in JSON."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a side ended with status {done.returncode}: {command[:2]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write_images(records: Iterable[Record], folder: Path) -> None:
    """Images, and the labels that flowseg learns from, for the worker to load."""
    for record in records:
        arrays = {
            "images": record.image(),
            "labels": keep_largest_component(masks_to_labels(record.masks())),
        }
        for kind, array in arrays.items():
            path = ensure_writable_folder(folder / kind) / f"{record.image_id}.npy"
            with atomic_path(path) as part, part.open("wb") as file:
                np.save(file, array)
