"""The stages of gpu.py, one a process: `python gpu_stages.py NAME FOLDER`."""

from __future__ import annotations

import argparse
import faulthandler
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from gpu_bench import CHECKOUT, Bench


def machine(bench: Bench) -> None:
    import torch

    bench.row("python", platform.python_version())
    bench.row("torch", torch.__version__)
    bench.row("cores", len(os.sched_getaffinity(0)))
    bench.row("/dev/shm", round(shutil.disk_usage("/dev/shm").total / 2**30, 1), "GB")
    if bench.device == "cpu":
        return
    card = torch.cuda.get_device_properties(0)
    bench.row("card", card.name)
    bench.row("memory", round(card.total_memory / 2**30, 1), "GB")
    bench.row("cuDNN", torch.backends.cudnn.version())
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    bench.row("product of 8192 x 8192 in bfloat16", 1.1e3 / bench.clock(lambda: a @ a), "TFLOP/s")
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rate = 2 * 2**30 / 1e6 / bench.clock(lambda: target.copy_(source))
    bench.row("copy on the card, read and written", rate, "GB/s")


def _draw(part: tuple[str, int, int, int]) -> None:
    from flowseg.synthetic.datasets import write_synthetic_sartorius

    folder, train, test, seed = part
    write_synthetic_sartorius(Path(folder), train, test, seed)


def data(bench: Bench) -> None:
    """A competition of drawn neurons: 48 images to train on, 240 to predict."""
    import pandas as pd

    count, train, test = (1, 9, 3) if bench.small else (8, 6, 30)
    parts = [(str(bench.folder / f"part{k}"), train, test, k) for k in range(count)]
    start = time.perf_counter()
    with ProcessPoolExecutor(min(count, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(_draw, parts))
    shutil.rmtree(bench.data, ignore_errors=True)
    for name in ("train", "test"):
        (bench.data / name).mkdir(parents=True)
    tables = []
    for folder, *_ in parts:
        for name in ("train", "test"):
            for image in (Path(folder) / name).iterdir():
                image.rename(bench.data / name / image.name)
        table = pd.read_csv(Path(folder) / "train.csv")
        # Each part drew the same wells.
        table["sample_id"] = table["sample_id"].str.replace("_A", f"_{Path(folder).name}A")
        tables.append(table)
        shutil.rmtree(folder)
    pd.concat(tables).to_csv(bench.data / "train.csv", index=False)
    bench.row("images drawn", count * (train + test))
    bench.row("drawing them", time.perf_counter() - start, "s")


def warm_up(bench: Bench) -> None:
    """What the first process on a machine pays for compiled loops: a small training, predicted."""
    code = """
import sys
import flowseg
from flowseg.synthetic.datasets import write_synthetic_sartorius

data = sys.argv[1]
write_synthetic_sartorius(data, 9, 1, 0, (128, 160))
small = ["network.channels=[4,6,8,8]", "augment.crop_size=64", "data.folds=3"]
short = ["training.epochs=1", "training.crops_per_epoch=8"]
config = flowseg.load_config("all", overrides=small + short)
run = flowseg.train(config, data, data + "/run", device="cpu")
flowseg.predict(run.checkpoint, data + "/test", data + "/submission.csv", device="cpu")
"""
    for what in ("a small training in a first process", "in a later one"):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            command = [sys.executable, "-c", code, str(Path(folder) / "data")]
            subprocess.run(command, check=True, cwd=CHECKOUT)
            bench.row(what, time.perf_counter() - start, "s")


def tests(bench: Bench) -> None:
    """The tests that need a card."""
    report = bench.folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "cuda"]
    command += ["-W", "default", f"--junitxml={report}", "tests"]
    subprocess.run(command, check=False, cwd=CHECKOUT)
    text = report.read_text(encoding="utf-8").split("<testsuite ", maxsplit=1)[1]
    counts = {
        name: int(text.split(f' {name}="', maxsplit=1)[1].split('"', maxsplit=1)[0])
        for name in ("tests", "failures", "errors", "skipped")
    }
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    bench.row("tests passed", passed, f"of {counts['tests'] - counts['skipped']}")
    bench.gate("no test fails", bad == 0 and (passed > 0 or bench.device == "cpu"))


def _networks() -> dict[str, Any]:
    from flowseg.config.loading import load_config
    from flowseg.network.unet import FlowNetwork

    configs = {"default": load_config("all"), "gpu.yaml": load_config("all", recipe="gpu")}
    return {name: FlowNetwork(config.network, 3, seed=1) for name, config in configs.items()}


def net(bench: Bench) -> None:
    """The network alone: an image of 520 x 704 at the scale of shsy5y and of astro."""
    import numpy as np
    import torch

    from flowseg.inference.ensemble import Ensemble

    shapes = [(64, 96)] if bench.small else [(920, 1240), (456, 624)]
    rng = np.random.default_rng(0)
    targets = {("default", (920, 1240)): 6.0, ("gpu.yaml", (920, 1240)): 9.0}
    for name, network in _networks().items():
        expected: dict[Any, Any] = {}
        for precision in ("float32", "bfloat16"):
            ensemble = Ensemble([network], bench.device, precision)  # type: ignore[arg-type]
            for shape in shapes:
                image = rng.standard_normal((1, *shape), dtype=np.float32)
                ms = bench.clock(lambda e=ensemble, i=image: e.predict(i))
                most = targets.get((name, shape), 0) if precision == "bfloat16" else 0
                bench.row(f"{name}, {precision}, {shape[0]} x {shape[1]}", ms, "ms", most=most)
            probe = np.random.default_rng(3).standard_normal((1, 64, 96), dtype=np.float32)
            maps = ensemble.predict(probe)[0].maps.float().cpu()
            expected.setdefault(
                "maps", Ensemble([network], "cpu", "float32").predict(probe)[0].maps
            )
            away = float((maps - expected["maps"]).abs().mean())
            limit = 1e-4 if precision == "float32" else 0.05
            bench.gate(
                f"{name}, {precision}: {away:.1e} from the CPU, at most {limit}", away <= limit
            )
    if bench.device == "cpu":
        return
    torch.cuda.reset_peak_memory_stats()
    ensemble = Ensemble([_networks()["default"]], bench.device, "bfloat16", compile=True)
    start = time.perf_counter()
    images = [rng.standard_normal((1, *shape), dtype=np.float32) for shape in shapes]
    ensemble.predict(images[0])
    bench.row("compiling the default network", time.perf_counter() - start, "s")
    ms = bench.clock(lambda: ensemble.predict(images[0]))
    bench.row("default, compiled, bfloat16, 920 x 1240", ms, "ms", most=3)


def main() -> None:
    # A stage that hangs tells where. The limit comes last, so that the imports below count.
    faulthandler.dump_traceback_later(float(sys.argv[-1]) - 4, exit=False)
    import gpu_runs  # heavy, and the loader's processes import this file

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peer-python")
    parser.add_argument("--limit", type=float, default=100)
    args = parser.parse_args()
    stages = {"machine": machine, "data": data, "warm_up": warm_up, "tests": tests, "net": net}
    (stages | gpu_runs.STAGES)[args.name](Bench(args.name, args))


if __name__ == "__main__":
    main()
