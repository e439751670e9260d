"""Let predictions and trainings run out of memory, again and again, and look at what they do.

    python tests/reliability/memory.py --trials 100

Every trial is a process of its own. It does some small work, so that libraries are loaded and
threads run; then its address space may grow by an amount drawn evenly from nothing to what the
large work took without a limit, and it is given that work: a picture among small ones that is
computed whole, one that is computed in tiles, or batches of 256 crops. It must do the work, or end
with lines that say that there is not enough memory and no other error (a process that is aborted,
as some libraries do where a thread finds no memory, is counted as a fault). The same command
without a limit, a training with --resume, must then leave what an undisturbed one leaves. Linux
only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flowseg.io.images import read_image, write_image
from flowseg.synthetic.datasets import write_synthetic_sartorius

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.runs import differences, save_wild_network

Command = Callable[[Path], list[str]]

_IN_TURN = """if True:
    import json, resource, sys
    from pathlib import Path
    from flowseg.cli import main
    small, large, room = json.loads(sys.argv[1])
    if main(small) != 0:
        sys.exit(70)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if room is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
    code = main(large)
    if room is None:
        words = Path("/proc/self/status").read_text().split()
        print(int(words[words.index("VmPeak:") + 1]) * 1024 - size)
    sys.exit(code)
"""
"""Two commands in one process, the second with so many bytes of room; without, what it took."""

_TOLD = ("not enough memory", "no thread can be started")


def in_turn(small: list[str], large: list[str], room: int | None) -> tuple[str, str, str]:
    """Run two commands in a process; what became of it, and what it wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IN_TURN, json.dumps((small, large, room))],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    except subprocess.TimeoutExpired:
        return "hang", "", ""
    lines = [
        line for line in done.stderr.splitlines() if "left out: " in line or "flowseg " in line
    ]
    as_user_error = lines and all(any(words in line for words in _TOLD) for line in lines)
    if done.returncode == 0:
        what = "said something" if lines else "done"
    elif done.returncode in (1, 2) and as_user_error and "Traceback" not in done.stderr:
        what = "told"
    else:
        what = f"exit code {done.returncode}"
    return what, done.stdout, done.stderr


def predict(images: Path, model: Path) -> Command:
    """The command that predicts a folder's images into a folder."""

    def command(home: Path) -> list[str]:
        words = ["--in", str(images), "--model", str(model), "--device", "cpu"]
        outputs = ["--out", str(home / "s.csv"), "--save-labels", str(home / "labels")]
        return ["predict", *words, *outputs, "--overlays", str(home / "overlays")]

    return command


def train(data: Path, crops: int) -> Command:
    """The command that trains in a folder, or goes on there, by batches of so many crops."""

    def command(home: Path) -> list[str]:
        out = home / "run"
        resume = ["--resume"] if (out / "config.yaml").is_file() else []
        settings = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
        settings += [f"training.crops_per_epoch={crops}", f"training.batch_size={crops}"]
        words = ["train", "--data", str(data), "--out", str(out), "--epochs", "2", "--folds", "2"]
        words += ["--fold", "0", "--device", "cpu", *resume]
        return [*words, *(word for setting in settings for word in ("--set", setting))]

    return command


def campaign(
    small: Command, large: Command, folder: Path, trials: int, rng: np.random.Generator
) -> tuple[int, dict[str, int]]:
    """Give the large work less room than it takes, again and again.

    The MiB that it takes, and how often what happened.
    """

    def both(home: Path, room: int | None) -> tuple[str, str, str]:
        shutil.rmtree(folder / "before", ignore_errors=True)
        return in_turn(small(folder / "before"), large(home), room)

    whole = folder / "whole"
    whole.mkdir(parents=True)
    both(folder / "first", None)  # compiles, which takes memory
    what, wrote, said = both(whole, None)
    if what != "done":
        raise SystemExit(said[-2000:])
    most = int(wrote.split()[-1])
    counts: Counter[str] = Counter()
    for room in tqdm(rng.uniform(0, most, trials).astype(int), unit="trial", desc=folder.name):
        home = folder / "run"
        home.mkdir()
        what, _, said = both(home, int(room))
        counts[what] += 1
        if what not in ("done", "told"):
            sys.stderr.write(f"{room} bytes: {what}: {said[-2000:]}\n")
        if what != "done":
            what, _, said = both(home, None)
        different = differences(whole, home)
        if what != "done" or different:
            counts["different"] += 1
            sys.stderr.write(f"{room} bytes: {', '.join(different)}: {said[-2000:]}\n")
        shutil.rmtree(home)
    return most >> 20, dict(counts)


def run(trials: int, seed: int, folder: Path) -> int:
    """All campaigns; 0 where every trial did as it should, and memory was too little in some."""
    data, model = folder / "data", folder / "wild.safetensors"
    write_synthetic_sartorius(data, 12, 0, 1, (96, 128))
    save_wild_network(model)
    paths = sorted((data / "train").iterdir())[:2]
    drawn = read_image(paths[0])
    for name, times in (("small", 0), ("image", 20), ("slide", 40)):
        (folder / name).mkdir()
        for path in paths:
            shutil.copy(path, folder / name)
        if times:
            write_image(folder / name / "large.png", np.tile(drawn, (times, times)))
    rng = np.random.default_rng(seed)
    before = predict(folder / "small", model)
    results = {
        name: campaign(small, large, folder / "trials" / name, trials, rng)
        for name, small, large in (
            ("image", before, predict(folder / "image", model)),
            ("slide", before, predict(folder / "slide", model)),
            ("train", train(data, 4), train(data, 256)),
        )
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    sound = all(set(counts) <= {"done", "told"} for _, counts in results.values())
    return 0 if sound and all("told" in counts for _, counts in results.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="of each of the three commands")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(run(args.trials, args.seed, Path(scratch)))
