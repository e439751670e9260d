"""A submission where nobody looks on: valid whatever fails, and within the time that there is."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flowseg.arrays.jit import keeps_machine_code
from flowseg.errors import FlowsegError
from flowseg.formats.submission import read_submission, validate_submission, write_submission
from flowseg.io.image_source import list_images
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike
from flowseg.io.tables import read_table
from flowseg.kaggle.notebook import MARKER
from flowseg.network.device import pick_device
from flowseg.prediction.journal import finished_since, journal_folder
from flowseg.prediction.shards import Shard
from flowseg.prediction.timing import within_time_budget
from flowseg.training.timing import duration

SAMPLE = "sample_submission.csv"
"""The file by which the competition's data are found; its ids are those of the submission."""

_HIDDEN = 240
"""Images of the rerun, roughly."""

_ATTEMPTS = 2
"""How often a part of the images is begun: a process that was killed goes on where it was."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What is in a submission."""

    images: int
    """Rows' ids, as the sample has them."""
    blank: tuple[str, ...]
    """Those of images that are missing or could not be done; an image without cells is none."""
    cells: int
    seconds: float


def submit(
    bundle: PathLike,
    out: PathLike,
    *,
    root: PathLike = "/kaggle",
    tta: int = 1,
    time_budget: float | None = None,
    device: str = "auto",
) -> Submitted:
    """Predict the competition's test images with a bundle's models, on all GPUs.

    Parameters
    ----------
    bundle : path
        The data set that `flowseg bundle` wrote.
    out : path
        The submission. It is valid from the first second on, all blank; and at the end for every
        image that could be done.
    root : path
        In whose folder `input` the competition's data are, wherever they are mounted.
    tta : {1, 2, 4, 8}
        Test-time augmentation.
    time_budget : float, optional
        Seconds for all images: see :func:`flowseg.prediction.timing.fit_effort`.
    device : str
        "auto": all CUDA devices, or the CPU.

    Returns
    -------
    Submitted

    Raises
    ------
    FlowsegError
        If the bundle or the competition's data are not there, or the images of a device, or all,
        could not be done; then, too, the submission is valid.
    """
    start, out = time.monotonic(), Path(out)
    sample = _find_sample(Path(root))
    ids = list(dict.fromkeys(read_table(sample, ("id",))["id"]))
    models = _models(Path(bundle))
    with claim_outputs([out], [sample, *models]):
        _write(out, ids, {})
        known = set(ids)
        files = sorted(p for p in (sample.parent / "test").iterdir() if p.stem in known)
        if len(files) < len(ids):
            _log.warning("%d images of the sample are not in test/", len(ids) - len(files))
        if not files:
            return Submitted(images=len(ids), blank=tuple(ids), cells=0, seconds=0.0)
        devices = _devices(device)
        if not keeps_machine_code():  # home and package are read-only: else all compile anew
            os.environ["NUMBA_CACHE_DIR"] = str(out.absolute().with_name("numba"))
        with within_time_budget(
            models,
            files,
            out,
            time_budget,
            tta=tta,
            device=devices[0],
            processes=len(devices),
        ) as (chosen, views):
            found, lost = _predict(chosen, sample.parent / "test", out, views, devices)
        cells = _write(out, ids, found)
        seconds = time.monotonic() - start
        blank = tuple(image_id for image_id in ids if image_id not in found)
        _check(out, files, ids)
    if not found:
        raise FlowsegError("none of the images could be done", file=sample.parent / "test")
    unfinished = sum(path.stem not in found for path in files)
    if lost and unfinished:
        raise FlowsegError(
            f"{unfinished} images are blank: what predicted them on {', '.join(lost)} crashed",
            file=out,
            remedy="see its last lines above",
        )
    _log.info(
        "%d images in %s, start included: %d would take %.2f h",
        len(files),
        duration(seconds),
        _HIDDEN,
        seconds / len(files) * _HIDDEN / 3600,
    )
    return Submitted(images=len(ids), blank=blank, cells=cells, seconds=seconds)


def _find_sample(root: Path) -> Path:
    """The competition's sample submission, below ``input``, as deep as Kaggle mounts it."""
    patterns = [f"input/{'*/' * depth}{SAMPLE}" for depth in range(1, 5)]
    samples = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    for path in samples:
        if (path.parent / "test").is_dir():
            return path
    raise FlowsegError(
        f"holds no {SAMPLE} beside a folder test",
        file=root / "input",
        remedy="add the competition's data to the notebook's input",
    )


def _models(bundle: Path) -> list[Path]:
    try:
        names = json.loads((bundle / MARKER).read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise FlowsegError(
            f"holds no {MARKER}", file=bundle, remedy="name the data set that flowseg bundle wrote"
        ) from error
    return [bundle / name for name in names]


def _devices(device: str) -> list[str]:
    """The devices to use side by side."""
    first = pick_device(device)
    if device != "auto" or first.type != "cuda":
        return [str(first)]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _predict(
    models: Sequence[Path], images: Path, out: Path, tta: int, devices: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """The column `predicted` of each image that could be done, by id; a process a device.

    And the devices whose process ended without its file; the images that it had finished are found.
    """
    start = time.time()
    shards = [Shard(number, len(devices)) for number in range(1, len(devices) + 1)]
    waiting = dict(zip(shards, devices, strict=True))
    whole = out.with_name("shards.csv")
    for shard in shards:  # of a submission that was killed
        shard.path(whole).unlink(missing_ok=True)
    for _ in range(_ATTEMPTS):
        running = {
            shard: subprocess.Popen(_command(models, images, whole, tta, shard, own))
            for shard, own in waiting.items()
        }
        codes = {shard: process.wait() for shard, process in running.items()}
        # Its exit code is 1 after images that failed and after a crash; only the file tells.
        crashed = {shard: code for shard, code in codes.items() if not shard.path(whole).is_file()}
        for shard, code in crashed.items():
            _log.warning("part %d of %d ended with exit code %d", *shard, code)
        # After an error of the user's (2) another attempt meets the same.
        waiting = {shard: waiting[shard] for shard, code in crashed.items() if code != 2}
    found: dict[str, list[str]] = {}
    lost: list[str] = []
    for shard, device in zip(shards, devices, strict=True):
        path = shard.path(whole)
        if not path.is_file():
            lost.append(device)
            continue
        rows = read_submission(path).images
        found |= {image_id: [text for _, text in texts] for image_id, texts in rows.items()}
        path.unlink()
    if lost:
        found = dict(parts["submission"] for parts in finished_since(whole, start)) | found
    shutil.rmtree(journal_folder(whole), ignore_errors=True)
    return found, lost


def _command(
    models: Sequence[Path], images: Path, whole: Path, tta: int, shard: Shard, device: str
) -> list[str]:
    return [
        *(sys.executable, "-m", "flowseg", "predict", "--in", str(images), "--out", str(whole)),
        *("--model", *map(str, models), "--tta", str(tta), "--device", device),
        *("--shard", f"{shard.number}/{shard.total}"),
    ]


def _write(out: Path, ids: Iterable[str], found: Mapping[str, list[str]]) -> int:
    """Write the rows of all ids; the number of cells."""
    return write_submission(out, ((image_id, found.get(image_id, [""])) for image_id in ids))


def _check(out: Path, files: Sequence[Path], ids: Sequence[str]) -> None:
    """Refuse a submission that the competition would refuse."""
    shapes = dict.fromkeys(ids, (1, 1))  # of an image that is missing or cannot be read
    for path in files:
        try:
            shapes[path.stem] = list_images(path)[0].shape
        except FlowsegError:
            continue
    problems = validate_submission(out, shapes).problems
    if problems:
        raise FlowsegError(f"is not valid: {problems[0]}", file=out)
