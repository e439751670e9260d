"""Kill trainings and predictions at random moments, again and again, and compare what they leave.

    python tests/reliability/kill.py --kills 100

Every attempt is a process of its own, forked from one that has loaded torch and started no thread,
and killed (SIGKILL) after a time drawn evenly from nothing to what an undisturbed attempt takes.
Then the same command is given again, a training with --resume auto, until it finishes; all its
files must then equal those of the undisturbed run, but for seconds. The training begins with a pre-
training on LIVECell of its own, which is killed as well. POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flowseg.prediction.predict
import flowseg.training.run  # noqa: F401
from flowseg.arrays.jit import set_threads
from flowseg.cli import main
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


def attempt(work: Callable[[], object], log: Path, seconds: float = 600) -> bool:
    """Do some work in a forked process; whether it ended before it was killed."""
    child = os.fork()
    if child == 0:
        code: object = 70
        with contextlib.suppress(BaseException), log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = work()
        os._exit(code if isinstance(code, int) else 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if os.waitstatus_to_exitcode(status) != 0:
                raise SystemExit(log.read_text()[-2000:])
            return True
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def campaign(
    command: Command, folder: Path, kills: int, rng: np.random.Generator
) -> dict[str, int]:
    """Kill until there are enough; what happened."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    log = folder / "log"
    began = time.monotonic()
    if not attempt(lambda: main(command(whole)), log):
        raise SystemExit("an undisturbed run hangs")
    seconds = time.monotonic() - began
    counts = dict.fromkeys(("kills", "while_a_file_was_written", "finished", "different"), 0)
    bar = tqdm(total=kills, unit="kill", desc=folder.name)
    while counts["kills"] < kills:
        home = folder / f"run{counts['finished']}"
        home.mkdir()
        while not attempt(partial(main, command(home)), log, rng.uniform(0, seconds)):
            counts["kills"] += 1
            counts["while_a_file_was_written"] += any(home.rglob(".part-*"))
            bar.update()
        counts["finished"] += 1
        different = differences(whole, home)
        if different:
            counts["different"] += 1
            sys.stderr.write(f"{home}: {', '.join(different)}\n")
        else:
            shutil.rmtree(home)
    bar.close()
    return counts


def run(kills: int, seed: int, folder: Path) -> int:
    """Both campaigns; 0 where nothing differed."""
    data, model = folder / "data", folder / "wild.safetensors"

    def draw() -> None:
        write_synthetic_sartorius(data, 12, 0, 1, (96, 128))
        write_synthetic_livecell(data, 2, 1, 2, (96, 128))
        save_wild_network(model)

    # Not in this process: OpenCV would start threads, which a fork does not copy.
    attempt(draw, folder / "log")
    rng = np.random.default_rng(seed)
    results = {"train": campaign(train(data), folder / "train", kills, rng)}
    results["predict"] = campaign(predict(data, model), folder / "predict", kills, rng)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 1 if any(result["different"] for result in results.values()) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="of each of the two commands")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # A forked process has no threads but its own.
    set_threads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(run(args.kills, args.seed, Path(scratch)))
