"""Let trainings and predictions run out of memory anywhere, and see what they say and leave.

    python tests/reliability/memory.py --trials 100

Every trial is a process of its own, forked from one that has loaded torch and started no thread.
It may take an address space drawn evenly from what it has at its start to what an undisturbed
attempt takes. A trial is to end by itself within 5 times as long as the undisturbed attempt: with
exit code 0, 1 (images are left out by name) or 2 (one line), and no traceback. One that does not
says where its threads are. Then the same command is given without a limit, and all its files must
equal those of the undisturbed run, but for seconds. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kill import Command, attempt, predict, train

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from flowseg.arrays.jit import set_threads
from flowseg.cli import main
from flowseg.io.images import write_image
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
from helpers.runs import differences, save_wild_network

PATIENCE = 5  # times what an undisturbed attempt takes


class Needed(NamedTuple):
    """Bytes that an undisturbed attempt takes beyond what it starts with, and its seconds."""

    room: int
    seconds: float


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Raise where a signal comes, so that what was begun is ended."""
    raise SystemExit(128 + number)


def address_space(key: str) -> int:
    """Bytes of this process, as Linux counts them under that key."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def trial(command: list[str], room: int, patience: float, log: Path) -> str:
    """How the command ended in a forked process with so many bytes beyond what it starts with."""
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException), log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            # Its thread is started here, where there is memory for it.
            faulthandler.dump_traceback_later(0.9 * patience, file=file)
            limit = address_space("VmSize") + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                code = main(command)
            except BaseException:
                traceback.print_exc()
        os._exit(code)
    status = None
    try:
        status = wait(child, patience)
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    said = log.read_text(errors="replace")
    if status is None:
        sys.stderr.write(f"hangs: {said[-6000:]}\n")
        return "hangs"
    code = os.waitstatus_to_exitcode(status)
    if code in (0, 1, 2) and "Traceback" not in said:
        return f"exit code {code}"
    sys.stderr.write(f"exit code {code}: {said[-1500:]}\n")
    return "traceback" if "Traceback" in said else f"killed by {-code}"


def wait(child: int, seconds: float) -> int | None:
    """The status of a process that ends by itself in that time; else None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.01)
    return None


def needed(command: list[str], folder: Path) -> Needed:
    """What an undisturbed attempt takes."""
    told = folder / "needed"

    def work() -> int:
        start, began = address_space("VmSize"), time.monotonic()
        code = main(command)
        told.write_text(f"{address_space('VmPeak') - start} {time.monotonic() - began}")
        return code

    attempt(work, folder / "log")
    room, seconds = told.read_text().split()
    return Needed(int(room), float(seconds))


def campaign(
    command: Command, folder: Path, trials: int, rng: np.random.Generator
) -> dict[str, int]:
    """So many trials; how they ended, and how many left what another run does not mend."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    most = needed(command(whole), folder)
    patience = PATIENCE * most.seconds
    counts: Counter[str] = Counter()
    for number in tqdm(range(trials), desc=folder.name):
        home = folder / f"run{number}"
        home.mkdir()
        room = int(rng.uniform(0, most.room))
        counts[trial(command(home), room, patience, folder / "log")] += 1
        attempt(partial(main, command(home)), folder / "log")
        if different := differences(whole, home):
            counts["different"] += 1
            sys.stderr.write(f"{home}: {', '.join(different)}\n")
        shutil.rmtree(home)
    return dict(counts)


def run(args: argparse.Namespace, folder: Path) -> int:
    """Both campaigns; 0 where all ended as they should."""
    data, model = folder / "data", folder / "wild.safetensors"

    def draw() -> None:
        write_synthetic_sartorius(data, 12, 0, 1, (96, 128))
        write_synthetic_livecell(data, 2, 1, 2, (96, 128))
        # One image that is computed in tiles, among small ones.
        noise = np.random.default_rng(3).integers(0, 255, (1100, 1200), np.uint8)
        (folder / "images" / "train").mkdir(parents=True)
        write_image(folder / "images" / "train" / "large.png", noise)
        for name in "ab":
            write_image(folder / "images" / "train" / f"{name}.png", noise[:90, :110])
        save_wild_network(model)

    attempt(draw, folder / "log")
    rng = np.random.default_rng(args.seed)
    commands = {"train": train(data), "predict": predict(folder / "images", model)}
    results = {
        name: campaign(commands[name], folder / name, args.trials, rng) for name in args.only
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    fine = {"exit code 0", "exit code 1", "exit code 2"}
    return 1 if any(set(counts) - fine for counts in results.values()) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="of each of the two commands")
    parser.add_argument("--only", nargs="+", default=["train", "predict"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # A forked process has no threads but its own.
    set_threads(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(run(arguments, Path(scratch)))
