"""Let predictions and trainings run out of memory, again and again, and look at what they do.

    python tests/reliability/memory.py --trials 100

Every trial is a process of its own. It does some small work, so that libraries are loaded and
threads run; then its address space may grow by an amount drawn evenly from nothing to what
suffices, and it is given large work: a picture of 4200 x 4200 pixels among small ones, or batches
of 256 crops. It must do the work, or say in one line that there is not enough memory. Where it does
not suffice, the same command without a limit (a training with --resume) must leave what an
undisturbed one leaves. Linux only.
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

from flowseg.data.synthetic import write_synthetic_sartorius
from flowseg.files import write_image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from shared import differences, save_wild_network

MIB = 2**20
LIMITED = """if True:
    import json, resource, sys
    from pathlib import Path
    from flowseg.cli import main
    small, large, room = json.loads(sys.argv[1])
    if main(small) != 0:
        sys.exit(70)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.exit(main(large))
"""
"""Two command lines in one process, the second with room for so many bytes more."""


def limited(small: list[str], large: list[str], room: int) -> subprocess.CompletedProcess[str]:
    """Run a small command, then a large one with so many bytes of room; what came of it."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps((small, large, room))],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def predict(images: Path, model: Path) -> Callable[[Path], list[str]]:
    """The command that predicts a folder's images into a folder."""

    def command(home: Path) -> list[str]:
        words = ["--in", str(images), "--model", str(model), "--device", "cpu"]
        outputs = ["--out", str(home / "s.csv"), "--save-labels", str(home / "labels")]
        return ["predict", *words, *outputs, "--diameter", "60"]

    return command


def train(data: Path, crops: int) -> Callable[[Path], list[str]]:
    """The command that trains in a folder, or goes on there, by batches of so many crops."""

    def command(home: Path) -> list[str]:
        out = home / "run"
        resume = ["--resume"] if (out / "config.yaml").is_file() else []
        settings = ["network.channels=[4, 8]", "network.blocks=1", "augment.crop=64"]
        settings += [f"training.crops={crops}", f"training.batch_size={crops}"]
        words = ["train", "--data", str(data), "--out", str(out), "--epochs", "2", "--folds", "2"]
        words += ["--fold", "0", "--device", "cpu", *resume]
        return [*words, *(word for setting in settings for word in ("--set", setting))]

    return command


def campaign(
    small: Callable[[Path], list[str]],
    large: Callable[[Path], list[str]],
    folder: Path,
    rooms: list[int],
) -> dict[str, int]:
    """Give a command so many bytes of room, again and again; how often what happened."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    counts: Counter[str] = Counter()
    done = limited(small(folder / "before"), large(whole), 2**50)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    for room in tqdm(rooms, unit="trial", desc=folder.name):
        shutil.rmtree(folder / "before")
        home = folder / "run"
        home.mkdir()
        done = limited(small(folder / "before"), large(home), room)
        told = [line for line in done.stderr.splitlines() if "not enough memory" in line]
        if done.returncode in (1, 2) and len(told) == 1 and "Traceback" not in done.stderr:
            counts["told"] += 1
        elif done.returncode == 0:
            counts["done"] += 1
        else:
            counts[f"exit code {done.returncode}"] += 1
            sys.stderr.write(f"{room} bytes: {done.stderr[-2000:]}\n")
        if done.returncode != 0:
            shutil.rmtree(folder / "before")
            limited(small(folder / "before"), large(home), 2**50)
        different = differences(whole, home)
        if different:
            counts["different"] += 1
            sys.stderr.write(f"{room} bytes: {', '.join(different)}\n")
        shutil.rmtree(home)
    return dict(counts)


def run(trials: int, seed: int, folder: Path) -> int:
    """Both campaigns; 0 where every trial did as it should."""
    data, model = folder / "data", folder / "wild.safetensors"
    images, pictures = folder / "images", folder / "images-and-large"
    write_synthetic_sartorius(data, 12, 0, 1, (96, 128))
    save_wild_network(model)
    paths = sorted((data / "train").iterdir())[:2]
    for place in (images, pictures):
        place.mkdir()
        for path in paths:
            shutil.copy(path, place)
    write_image(pictures / "large.png", np.zeros((4200, 4200), np.uint8))
    rng = np.random.default_rng(seed)
    rooms = [int(room) for room in rng.uniform(0, 600 * MIB, trials)]
    results = {
        "predict": campaign(
            predict(images, model), predict(pictures, model), folder / "predict", rooms
        ),
        "train": campaign(train(data, 4), train(data, 256), folder / "train", rooms),
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return int(any(set(counts) - {"done", "told"} for counts in results.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="of each of the two commands")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(run(args.trials, args.seed, Path(scratch)))
