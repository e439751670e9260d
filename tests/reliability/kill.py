"""Stop trainings and predictions at random moments, again and again, and compare what they leave.

    python tests/reliability/kill.py --kills 100 [--signal TERM] [--bucket]

Every attempt is a process of its own, forked from one that has loaded torch and started no thread,
and gets SIGKILL or SIGTERM after a time drawn evenly from nothing to what an undisturbed attempt
takes. Then the same command is given again, a training with --resume auto, until it finishes; all
its files must then equal those of the undisturbed run, but for seconds. The training begins with a
pre-training on LIVECell of its own, which is stopped as well. With --bucket the trainings' folder
behaves as a mounted bucket does: there are no locks, and a file that is there is replaced, never
written to. POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flowseg.prediction.predict
import flowseg.training.run  # noqa: F401
from flowseg.arrays.jit import set_threads
from flowseg.cli import main
from flowseg.errors import Stopped
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.runs import differences, save_wild_network

Command = Callable[[Path], list[str]]

_TINY = (
    *("network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"),
    *("training.crops_per_epoch=8", "training.batch_size=4", "pretraining.crops_per_epoch=8"),
    *("pretraining.batch_size=4", "pretraining.epochs=4"),
)


def train(data: Path) -> Command:
    """The command that trains in a folder, or goes on there."""

    def command(home: Path) -> list[str]:
        out = home / "run"
        settings = [word for setting in _TINY for word in ("--set", setting)]
        words = ["--data", str(data), "--out", str(out), "--pretrain", "livecell", *settings]
        schedule = ["--epochs", "6", "--folds", "2", "--fold", "0"]
        return ["train", *words, *schedule, "--device", "cpu", "--resume", "auto"]

    return command


def predict(data: Path, model: Path) -> Command:
    """The command that predicts into a folder."""

    def command(home: Path) -> list[str]:
        words = ["--in", str(data / "train"), "--model", str(model), "--device", "cpu"]
        outputs = ["--out", str(home / "submission.csv"), "--save-labels", str(home / "labels")]
        return ["predict", *words, *outputs, "--overlays", str(home / "overlays")]

    return command


class Ended(NamedTuple):
    """How an attempt ended, and the seconds from the signal to its end."""

    finished: bool
    seconds: float


def attempt(
    work: Callable[[], object],
    log: Path,
    seconds: float = 600,
    number: signal.Signals = signal.SIGKILL,
) -> Ended:
    """Do some work in a forked process, which gets a signal unless it has ended before."""
    child = os.fork()
    if child == 0:
        code: object = 70
        with contextlib.suppress(BaseException), log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                code = work()
            except BaseException:
                traceback.print_exc()
        os._exit(code if isinstance(code, int) else 0)
    end, told = time.monotonic() + seconds, False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            # Without a handler, before the command has one, a signal ends the process.
            if code not in ((0, Stopped.EXIT_CODE, -number) if told else (0,)):
                raise SystemExit(f"exit code {code}: {log.read_text()[-2000:]}")
            return Ended(code == 0, time.monotonic() - end)
        if time.monotonic() > end and not told:
            os.kill(child, number)
            end, told = time.monotonic(), True
        time.sleep(0.002)


def as_on_a_bucket(work: Callable[[], object], home: Path) -> object:
    """Do the work where files below `home` are made and replaced, but not locked or written to."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    def check(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path, flags = os.fsdecode(args[0]), args[2]
        if not path.startswith(str(home)):
            return
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        is_ours = Path(path).is_file() and ".part-" not in path and not path.endswith(".lock")
        if flags & os.O_APPEND or (writes and is_ours):
            os.write(2, f"{path} is opened to be written to\n".encode())
            os._exit(71)

    fcntl.flock = no_locks  # type: ignore[assignment]
    sys.addaudithook(check)
    return work()


def campaign(
    command: Command,
    folder: Path,
    kills: int,
    rng: np.random.Generator,
    number: signal.Signals = signal.SIGKILL,
    *,
    bucket: bool = False,
) -> dict[str, float]:
    """Stop it until that was often enough; what happened."""

    def work(home: Path) -> Callable[[], object]:
        work = partial(main, command(home))
        return partial(as_on_a_bucket, work, home) if bucket else work

    whole = folder / "whole"
    whole.mkdir(parents=True)
    log = folder / "log"
    began = time.monotonic()
    attempt(work(whole), log)
    seconds = time.monotonic() - began
    counts = dict.fromkeys(("signals", "while_a_file_was_written", "finished", "different"), 0.0)
    until_end = []
    bar = tqdm(total=kills, unit="signal", desc=folder.name)
    while counts["signals"] < kills:
        home = folder / f"run{counts['finished']:.0f}"
        home.mkdir()
        while not (ended := attempt(work(home), log, rng.uniform(0, seconds), number)).finished:
            counts["signals"] += 1
            counts["while_a_file_was_written"] += any(home.rglob(".part-*"))
            until_end.append(ended.seconds)
            bar.update()
        counts["finished"] += 1
        different = differences(whole, home)
        if different:
            counts["different"] += 1
            sys.stderr.write(f"{home}: {', '.join(different)}\n")
        else:
            shutil.rmtree(home)
    bar.close()
    counts |= {"median_seconds": float(np.median(until_end)), "most_seconds": max(until_end)}
    return counts


def run(args: argparse.Namespace, folder: Path) -> int:
    """The campaigns; 0 where nothing differed."""
    data, model = folder / "data", folder / "wild.safetensors"

    def draw() -> None:
        write_synthetic_sartorius(data, 12, 0, 1, (96, 128))
        write_synthetic_livecell(data, 2, 1, 2, (96, 128))
        save_wild_network(model)

    # Not in this process: OpenCV would start threads, which a fork does not copy.
    attempt(draw, folder / "log")
    rng = np.random.default_rng(args.seed)
    number = signal.Signals[f"SIG{args.signal}"]
    options = {"kills": args.kills, "rng": rng, "number": number}
    results = {"train": campaign(train(data), folder / "train", **options, bucket=args.bucket)}
    if not args.bucket:  # the journal of a prediction is appended to
        results["predict"] = campaign(predict(data, model), folder / "predict", **options)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 1 if any(result["different"] for result in results.values()) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of each of the two commands")
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--bucket", action="store_true", help="train in a folder as a bucket's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # A forked process has no threads but its own.
    set_threads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(run(args, Path(scratch)))
