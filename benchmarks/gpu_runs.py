"""Stages of gpu.py that train and predict: steps, loader, whole runs, repeats, and the peer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bench import CHECKOUT, Bench

import inference as images_benchmark
import training as steps_benchmark


def _resident(bench: Bench, recipe: str) -> tuple[Any, Any]:
    """A trainer and a batch that lies on the device already."""
    import torch

    from flowseg.config.loading import load_config
    from flowseg.network.device import pick_device
    from flowseg.network.unet import FlowNetwork
    from flowseg.training.batches import Batch
    from flowseg.training.run_folder import TRAINING
    from flowseg.training.stage import Stage
    from flowseg.training.trainer import Trainer

    sizes = ("training.batch_size=2", "augment.crop_size=64") if bench.small else ()
    config = load_config("all", recipe=recipe, overrides=sizes)
    device = pick_device(bench.device)
    stage = Stage(
        folder=bench.folder,
        config=config,
        schedule=config.training,
        training=[],
        validation=[],
        provenance={"stage": TRAINING},
    )
    trainer = Trainer(stage, FlowNetwork(config.network, len(config.cell_types), 1), device)
    trainer.ema.update_parameters(trainer.network)
    trainer.network.train()
    size, edge = config.training.batch_size, config.augment.crop_size
    generator = torch.Generator().manual_seed(0)
    flows = torch.nn.functional.normalize(
        torch.randn(size, 2, edge, edge, generator=generator), dim=1
    )
    inside = (torch.rand(size, edge, edge, generator=generator) > 0.5).float()
    images = torch.randn(size, 1, edge, edge, generator=generator)
    batch = Batch(images, flows * inside[:, None], inside, torch.zeros(size, dtype=torch.long))
    return trainer, Batch(*(tensor.to(device) for tensor in batch))


def step(bench: Bench) -> None:
    """A step with its batch on the device: time, kernels, memory; the loss falls."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    for recipe in ("laptop", "gpu"):
        trainer, batch = _resident(bench, recipe)
        losses = [
            float(trainer.train_step(batch, 1e-3)[0]) for _ in range(4 if bench.small else 60)
        ]
        falls = bool(np.isfinite(losses).all() and losses[-1] < losses[0])
        bench.gate(f"{recipe}: the loss falls from {losses[0]:.2f} to {losses[-1]:.2f}", falls)
        ms = bench.clock(lambda t=trainer, b=batch: t.train_step(b, 1e-3), 20)
        rate = 1e3 * trainer.schedule.batch_size / ms
        bench.row(f"{recipe}: step", ms, "ms", most=22 if recipe == "gpu" else 7)
        bench.row(f"{recipe}: crops of resident batches", rate, "crops/s")
        if bench.device == "cpu":
            continue
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
            trainer.train_step(batch, 1e-3)
            torch.cuda.synchronize()
        on_card = [
            event
            for event in profiled.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.name
        ]
        bench.row(f"{recipe}: kernels and copies a step", len(on_card), most=600)
        busy = sum(event.self_device_time_total for event in on_card) / 1e3
        bench.row(f"{recipe}: the card is busy for", busy, "ms")
        bench.row(f"{recipe}: memory", torch.cuda.max_memory_allocated() / 2**30, "GB")
        print(profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=15))


def loader(bench: Bench) -> None:
    """Crops a second from the loader alone, from decoded images on the disk."""
    from flowseg.config.loading import load_config
    from flowseg.data.detect import read_records
    from flowseg.training.batches import CropDataset, batches
    from flowseg.training.plan import measure_cells

    config = load_config("all", recipe="gpu")
    records = read_records(bench.data, tuple(config.cell_types))
    config = replace(config, cell_types=measure_cells(config.cell_types, records))
    small = replace(config, data=replace(config.data, cache_mb=0))
    size, count, workers = 16, 4 if bench.small else 40, 2 if bench.small else 8
    crops = CropDataset(records, small, decoded=bench.folder / "decoded")
    source = batches(crops, range(0, 2 * size * count, size), size, workers, pin=False)
    start = time.perf_counter()
    next(source)
    bench.row(f"{workers} processes: the first batch", time.perf_counter() - start, "s")
    for _ in range(count - 1):
        next(source)
    start = time.perf_counter()
    for _ in range(count):
        next(source)
    rate = size * count / (time.perf_counter() - start)
    bench.row(f"{workers} processes, nothing in memory", rate, "crops/s", least=200)


def _training(
    bench: Bench, out: Path, recipe: str, epochs: int, device: str = "", **training: int
) -> list[str]:
    """The arguments of a training on the drawn images; `training` has settings of that name."""
    settings = {"crops_per_epoch": 64 if bench.small else 1600, "validate_every": epochs}
    sets = [f"training.{name}={value}" for name, value in (settings | training).items()]
    sets += ["network.channels=[4,6,8,8]", "augment.crop_size=64"] if bench.small else []
    command = ["train", "--data", str(bench.data), "--pretrain", "none", "--recipe", recipe]
    command += ["--device", device or bench.device, "--epochs", str(epochs), "--out", str(out)]
    command += ["--folds", "3", "--fold", "0"]
    return command + [word for setting in sets for word in ("--set", setting)]


def fit(bench: Bench) -> None:
    """Whole trainings through the command; the second one is the model of later stages."""
    import pandas as pd

    for recipe, epochs in (("gpu", 3), ("laptop", 3)):
        out = bench.folder / "runs" / ("model" if recipe == "laptop" else recipe)
        if (out / "best.safetensors").exists():  # a model that was put there is taken
            continue
        seconds = bench.flowseg(*_training(bench, out, recipe, epochs))
        rows = pd.read_csv(out / "metrics.csv")
        last = rows.iloc[1:]  # the first epoch starts the loader's processes
        crops = 64 if bench.small else 1600
        trained = last["seconds"] - last["seconds_validating"]
        rate = crops * len(last) / trained.sum()
        bench.row(f"{recipe}: training", rate, "crops/s", least=500 * (recipe == "gpu"))
        share = last["seconds_waiting"].sum() / trained.sum()
        bench.row(f"{recipe}: of it waiting for crops", 100 * share, "%")
        bench.row(f"{recipe}: first epoch, processes started", rows["seconds"].iloc[0], "s")
        bench.row(f"{recipe}: score on drawn images not trained on", rows["score"].iloc[-1])
        bench.row(f"{recipe}: from start to end", seconds, "s")


def predict(bench: Bench) -> None:
    """240 images of 520 x 704 from PNG to CSV, a process from its start to its end."""
    from flowseg.inference.options import SegmentOptions
    from flowseg.io.paths import find_images
    from flowseg.prediction.predict import predict as predict_files

    count = len(list((bench.data / "test").iterdir()))
    base = ["predict", "--in", str(bench.data / "test"), "--model", str(bench.model)]
    base += ["--device", bench.device]
    for what, more in (("not given", []), ("given", ["--cell-type", "shsy5y"])):
        file = bench.folder / f"type_{what.replace(' ', '_')}.csv"
        seconds = bench.flowseg(*base, "--out", str(file), *more)
        bench.row(f"{count} images, type {what}, start included", seconds, "s", most=10)
    images = find_images(bench.data / "test")
    checkpoint = bench.model / "best.safetensors"
    for what, options in (
        ("given", SegmentOptions(cell_type="shsy5y")),
        ("not given", SegmentOptions()),
    ):
        again = bench.folder / "again.csv"
        predict_files(checkpoint, images[:8], again, device=bench.device, options=options)
        start = time.perf_counter()
        predict_files(checkpoint, images, again, device=bench.device, options=options)
        rate = count / (time.perf_counter() - start)
        bench.row(f"type {what}, without the start", rate, "images/s")
    first = bench.folder / "type_not_given.csv"
    bench.gate("the same file twice", again.read_bytes() == first.read_bytes())


def repeat(bench: Bench) -> None:
    """The same bytes twice, and after a training that was stopped and resumed."""
    runs = bench.folder / "runs"

    def weights(name: str) -> bytes:
        return (runs / name / "last.safetensors").read_bytes()

    def command(name: str) -> list[str]:
        return _training(bench, runs / name, "laptop", 2, crops_per_epoch=64, workers=2)

    for name in ("once", "twice"):
        bench.flowseg(*command(name))
    bench.gate("the same weights twice", weights("once") == weights("twice"))
    code = (
        "import sys; from flowseg.training import trainer\n"
        "finish = trainer.Trainer.finish_epoch\n"
        "def stop(self, *rest):\n"
        "    finish(self, *rest); sys.exit(7)\n"
        "trainer.Trainer.finish_epoch = stop\n"
        "from flowseg.cli import main; main(sys.argv[1:])"
    )
    stopped = [sys.executable, "-c", code, *command("resumed")]
    status = subprocess.run(stopped, check=False, cwd=CHECKOUT).returncode
    bench.gate("a training was stopped after an epoch", status == 7)
    bench.flowseg(*command("resumed"), "--resume")
    bench.gate("the same weights after a stop", weights("resumed") == weights("twice"))


def memory(bench: Bench) -> None:
    """An image of 4096 x 4096 on a card of 4 GB."""
    import torch

    from flowseg.inference.segmenter import Segmenter

    segmenter = Segmenter.load(bench.model / "best.safetensors", bench.device)
    image = np.random.default_rng(0).random((4096, 4096) if not bench.small else (300, 300))
    if bench.device != "cpu":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(4 * 2**30 / total)
    labels = segmenter.segment(image.astype(np.float32), cell_type="shsy5y").labels
    bench.gate("an image of 4096 x 4096 within 4 GB", labels.shape == image.shape)
    if bench.device != "cpu":
        bench.row("peak", torch.cuda.max_memory_allocated() / 2**30, "GB")


def nccl(bench: Bench) -> None:
    """One rank, and where there are several cards, or none, two."""
    import torch

    cards = torch.cuda.device_count() if bench.device != "cpu" else 0
    for ranks in (1, 2) if cards != 1 else (1,):
        device = "cuda" if cards >= ranks else "cpu"
        out = bench.folder / "runs" / f"ranks{ranks}"
        sizes = {"crops_per_epoch": 16, "batch_size": 8 // ranks}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", "-m", "flowseg"]
        command += _training(bench, out, "laptop", 1, device, **sizes)
        done = subprocess.run(command, check=False, cwd=CHECKOUT)
        bench.gate(f"torchrun trains with {ranks} on {device}", done.returncode == 0)


def peer(bench: Bench) -> None:
    """Cellpose 3 on the same card: end to end from images, and training."""
    python = bench.peer_python
    if python is None:
        bench.row("Cellpose 3", "not run: name --peer-python")
        return
    count = 3 if bench.small else 32
    base = ["--data", str(bench.data), "--model", str(bench.model / "best.safetensors")]
    base += ["--images", str(count), "--device", bench.device]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted((bench.data / "train").glob("*.png"))[:count]
        model = bench.model / "best.safetensors"
        images_benchmark.prepare(paths, model, Path(folder), bench.device)
        for name, interpreter in (
            ("model", sys.executable),
            ("ours", sys.executable),
            ("cellpose", python),
        ):
            task = [*base, "--folder", folder, "--side", name]
            seconds[name] = images_benchmark.side(interpreter, task)["seconds"]
            bench.row(f"end to end, {name}", count / seconds[name], "images/s")
    for name, what in (("model", "default network"), ("ours", "same size of network")):
        times = seconds["cellpose"] / seconds[name]
        bench.row(f"end to end against Cellpose 3, {what}", times, "times", least=8)
    steps = (2, 2) if bench.small else (60, 20)
    task = steps_benchmark.Task(
        data=str(bench.data),
        images=16,
        steps=steps[0],
        warm_up=steps[1],
        batch=8,
        crop=224,
        device=bench.device,
        same_size=False,
    )
    answers = steps_benchmark.compare(task, python, 1)
    rates = {name: task.steps * task.batch / a[0]["seconds"] for name, a in answers.items()}
    for name, rate in rates.items():
        bench.row(f"training, {name}", rate, "crops/s")
    for name in rates.keys() - {"cellpose"}:
        times = rates[name] / rates["cellpose"]
        bench.row(f"training against Cellpose 3, {name}", times, "times", least=5)


STAGES: dict[str, Callable[[Bench], None]] = {
    "step": step,
    "loader": loader,
    "fit": fit,
    "predict": predict,
    "repeat": repeat,
    "memory": memory,
    "nccl": nccl,
    "peer": peer,
}
