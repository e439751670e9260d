"""What a machine can do, as text: its parts, and a trial of them; for `flowseg info --device`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from flowseg._version import __version__
from flowseg.arrays.jit import keeps_machine_code, threads
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.schema import Config
from flowseg.data.record import Record
from flowseg.data.sartorius import read_sartorius
from flowseg.flow.representation import labels_to_flows
from flowseg.inference.ensemble import own_stream
from flowseg.inference.flow_field import DeviceField
from flowseg.inference.options import SegmentOptions
from flowseg.inference.pipeline import on_device
from flowseg.inference.segmenter import (
    Prediction,
    ScaledPrediction,
    Segmenter,
    postprocess,
    predict,
    preprocess,
)
from flowseg.network.architecture import Architecture
from flowseg.network.build import build_network
from flowseg.network.checkpoint import Card
from flowseg.network.device import auto_precision, compute_exactly, gpu_problems, pick_device
from flowseg.reports.text import text_table
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.batches import (
    Batch,
    CropDataset,
    batches,
    loader_processes,
    report_worker_crash,
)
from flowseg.training.run_folder import TRAINING
from flowseg.training.stage import Stage
from flowseg.training.trainer import Trainer

_NOISE = 0.3
"""Standard deviation of the noise on the flows of drawn cells, which are too easy without."""
_LOGIT = 5.0

_BUSY = 0.25
"""Load of a core above which figures are doubted."""

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a machine got done in a second."""

    images: float
    """From the file to the labels, the cell type given."""
    step_crops: float
    """Crops of optimiser steps whose batch is on the device already."""
    loader_crops: float
    """Crops that are prepared for training while nothing else runs."""
    processes: int
    """Loader processes that prepared them; 0: the process that trains."""

    @property
    def training_crops(self) -> float:
        """Crops a second of a training."""
        if self.processes:  # side by side: the slower one decides
            return min(self.step_crops, self.loader_crops)
        return 1 / (1 / self.step_crops + 1 / self.loader_crops)


def describe_machine(
    config: Config,
    device: str = "auto",
    *,
    seconds: float = 10.0,
    shape: tuple[int, int] = (520, 704),
) -> str:
    """Describe this machine, and what it gets done with the settings of a training.

    Parameters
    ----------
    config : Config
        Its cell types are those of the competition, their diameters known.
    device : str
        As for :func:`flowseg.train`.
    seconds : float
        How long to try; starting up, drawing the images and compiling come on top.
    shape : (int, int)
        Height and width of the images.

    Raises
    ------
    FlowsegError
        If the named device is not there, or cannot compute.
    """
    chosen = pick_device(device)
    schedule, edge = config.training, config.augment.crop_size
    processes = loader_processes(schedule.workers, chosen, schedule.batch_size, edge)
    # Before the trial, which takes memory and cores itself.
    rows = [*_machine(chosen), *_settings(config, chosen, processes)]
    problems = _problems()
    rows += _results(try_machine(config, chosen, processes, seconds, shape), shape)
    rows += [("problem", problem) for problem in problems] or [("problems", "none found")]
    return text_table(rows, left=2)


def try_machine(
    config: Config, device: torch.device, processes: int, seconds: float, shape: tuple[int, int]
) -> Trial:
    """Predict, take optimiser steps and prepare crops, a third of the time each.

    The images are drawn, one of each cell type, and the network is not trained.
    """
    with TemporaryDirectory() as folder:
        types = tuple(config.cell_types)
        write_synthetic_sartorius(folder, len(types), 0, config.seed, shape, types)
        records = read_sartorius(folder, types)
        network = build_network(config.network, len(types), config.seed)
        images = _try_prediction(network, config, device, records, seconds / 3)
        size = config.training.batch_size
        source = batches(
            CropDataset(records, config),
            range(0, 2**31, size),
            size,
            processes,
            device.type == "cuda",
        )
        with report_worker_crash(), closing(source):  # type: ignore[type-var]
            trainer = _start_trainer(Path(folder), network, config, records, device)
            batch = Batch(*(tensor.to(device) for tensor in next(source)))

            def step() -> None:
                trainer.train_step(batch, config.training.learning_rate)

            steps = _per_second(step, seconds / 3, device)
            for _ in range(2 * processes):  # prepared already, while the steps were taken
                next(source)
            loaded = _per_second(lambda: next(source), seconds / 3, device)
    return Trial(
        images=images, step_crops=steps * size, loader_crops=loaded * size, processes=processes
    )


def _start_trainer(
    folder: Path,
    network: Architecture,
    config: Config,
    records: Sequence[Record],
    device: torch.device,
) -> Trainer:
    compute_exactly(device)
    stage = Stage(
        folder=folder,
        config=config,
        schedule=config.training,
        training=records,
        validation=[],
        provenance={"stage": TRAINING},
    )
    trainer = Trainer(stage, network, device)
    trainer.start(resume=False)
    trainer.network.train()
    return trainer


def _per_second(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    """How often in a second some work gets done, after once that warms it up."""
    work()
    _wait_for(device)
    start, count = time.monotonic(), 0
    while time.monotonic() < start + seconds or not count:
        work()
        count += 1
    _wait_for(device)
    return count / (time.monotonic() - start)


def _wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given: only then can a value be read from it."""
    torch.zeros((), device=device).item()


def _try_prediction(
    network: Architecture,
    config: Config,
    device: torch.device,
    records: Sequence[Record],
    seconds: float,
) -> float:
    """Images a second, in rounds of all records.

    What an untrained network finds would not be followed as cells are: flows of the drawn cells, on
    which there is noise, take the place of its output.
    """
    card = Card(config.network, config.cell_types, normalization=config.normalization)
    segmenter = Segmenter(network, card, str(device))
    fields: dict[str, DeviceField] = {}

    def read(record: Record) -> tuple[Record, np.ndarray]:
        return record, preprocess(segmenter, record.image())

    def compute(job: tuple[Record, np.ndarray]) -> ScaledPrediction:
        record, grey = job
        predicted = predict(segmenter, grey, SegmentOptions(cell_type=record.cell_type))
        if record.image_id not in fields:
            drawn = DeviceField(_drawn_maps(record).to(device), predicted.field.cell_type)
            height, width = predicted.field.maps.shape[1:]
            fields[record.image_id] = drawn.resized((height, width))
        return predicted._replace(field=fields[record.image_id])

    def write(predicted: ScaledPrediction) -> Prediction:
        return postprocess(segmenter, predicted)

    def rounds() -> Iterator[Record]:
        while time.monotonic() < start + seconds or not done:
            yield from records

    with own_stream(device):
        for record in records:  # warm up, and leave all fields complete
            write(compute(read(record)))
    start, done = time.monotonic(), 0
    weight = int(np.prod(records[0].shape))
    outcomes = on_device(segmenter, rounds(), read, compute, write, lambda _: weight)
    with closing(outcomes):
        for outcome in outcomes:
            outcome.get()
            done += 1
    return done / (time.monotonic() - start)


def _drawn_maps(record: Record) -> torch.Tensor:
    """(3, H, W): flows and cellprob as a trained network would predict them."""
    labels = masks_to_labels(record.masks())
    flows = labels_to_flows(labels)
    flows += np.random.default_rng(0).normal(0, _NOISE, flows.shape).astype(np.float32)
    cellprob = np.where(labels > 0, _LOGIT, -_LOGIT).astype(np.float32)
    return torch.from_numpy(np.concatenate((flows, cellprob[None])))


def _machine(device: torch.device) -> Pairs:
    """The hardware and the versions."""
    cuda = "no CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    cudnn = torch.backends.cudnn
    if cudnn.is_available():  # type: ignore[no-untyped-call]
        cuda += f", cuDNN {cudnn.version()}"  # type: ignore[no-untyped-call]
    versions = f"flowseg {__version__}, Python {platform.python_version()}"
    cores = f"{os.cpu_count()}; compiled loops take {threads()}, torch {torch.get_num_threads()}"
    return [
        ("software", f"{versions}, torch {torch.__version__} ({cuda})"),
        ("processor", _processor()),
        ("cores", cores),
        ("memory", _memory()),
        ("device", _device(device)),
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _memory() -> str:
    if not hasattr(os, "sysconf"):  # Windows
        return "unknown"
    return _gigabytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device}"
    card = torch.cuda.get_device_properties(device)
    free, total = (_gigabytes(size) for size in torch.cuda.mem_get_info(device))
    version = f"{card.major}.{card.minor}"
    return f"{device}: {card.name}, {total}, {free} free, compute capability {version}"


def _settings(config: Config, device: torch.device, processes: int) -> Pairs:
    """What flowseg chooses here."""
    network, schedule = config.network, config.training
    channels = ", ".join(map(str, network.channels))
    dtype, reason = auto_precision(device)
    return [
        ("precision", f"{str(dtype).removeprefix('torch.')}: {reason}"),
        ("network", f"channels {channels}; {network.blocks_per_level} blocks"),
        ("training step", f"{schedule.batch_size} crops of {config.augment.crop_size} px"),
        ("loader processes", str(processes) if processes else "none: crops are made between steps"),
    ]


def _results(trial: Trial, shape: tuple[int, int]) -> Pairs:
    """The figures of a trial."""
    size = f"{shape[0]} x {shape[1]}"
    return [
        ("prediction", f"{_rate(trial.images)} images/s of {size}, the cell type given"),
        ("optimiser steps", f"{_rate(trial.step_crops)} crops/s"),
        ("crops prepared", f"{_rate(trial.loader_crops)} crops/s, images in memory"),
        ("training", f"{_rate(trial.training_crops)} crops/s"),
    ]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _problems() -> list[str]:
    """What keeps this machine from doing what it could."""
    found = gpu_problems()
    if not keeps_machine_code():
        found.append(
            "compiled loops cannot be kept, so that every process compiles them again: set "
            "NUMBA_CACHE_DIR to a folder that can be written"
        )
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows has none
    if load > _BUSY * cores:
        found.append(
            f"other processes kept {load:.1f} of {cores} cores busy in the last minute: figures "
            "are lower than on a quiet machine, those of optimiser steps on a CPU many times"
        )
    return found
