"""Where the time of a training step goes, by kind of work.

    python benchmarks/step_profile.py [--set network.stem_stride=2 ...]
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/step_profile.py

Drawn images of the three cell types, the settings of the laptop's recipe, the CPU. The time of an
operation is its own, without what it calls; crops are timed apart, as nothing else runs then.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from flowseg.config.loading import load_config
from flowseg.data.sartorius import read_sartorius
from flowseg.network.build import build_network
from flowseg.reports.text import text_table
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.run_folder import TRAINING
from flowseg.training.stage import Stage
from flowseg.training.trainer import Trainer

STEPS, WARM_UP = 4, 2

KINDS = {
    "convolutions, forward": ("mkldnn_convolution", "slow_conv", "thnn_conv"),
    "convolutions, backward": ("convolution_backward", "mkldnn_convolution_backward"),
    "batch norm": ("batch_norm",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "pooling and doubling": ("max_pool", "upsample"),
    "additions": ("aten::add",),
    "layout and number types": ("copy_", "contiguous", "clone", "to_copy", "mkldnn_reorder"),
    "matrix products (Muon)": ("bmm", "addmm", "matmul", "baddbmm"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    config = load_config("all", overrides=args.set)
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic_sartorius(folder, 6, 0, 1)
        records = read_sartorius(folder, tuple(config.cell_types))
        stage = Stage(
            folder=Path(folder) / "run",
            config=config,
            schedule=config.training,
            training=records,
            validation=(),
            provenance={"stage": TRAINING},
        )
        network = build_network(config.network, len(config.cell_types))
        trainer = Trainer(stage, network, torch.device("cpu"))
        trainer.network.train()
        source = trainer.batches()
        batches = [next(source) for _ in range(WARM_UP)]
        start = time.perf_counter()
        batches += [next(source) for _ in range(STEPS)]
        crops = (time.perf_counter() - start) / STEPS
        optimise, average = trainer.optimiser.step, trainer.ema.update_parameters

        def labelled(name: str, work):  # type: ignore[no-untyped-def]
            def run(*arguments, **options):  # type: ignore[no-untyped-def]
                with record_function(name):
                    return work(*arguments, **options)

            return run

        trainer.optimiser.step = labelled("optimiser", optimise)  # type: ignore[method-assign]
        trainer.ema.update_parameters = labelled("average", average)  # type: ignore[method-assign]
        for batch in batches[:WARM_UP]:
            trainer.train_step(batch, 1e-3)
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for batch in batches[WARM_UP:]:
                trainer.train_step(batch, 1e-3)
        step = (time.perf_counter() - start) / STEPS
    seconds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kind = next((k for k, parts in KINDS.items() if any(p in event.key for p in parts)), "rest")
        seconds[kind] += event.self_cpu_time_total / 1e6 / STEPS
        if event.key in ("optimiser", "average"):
            seconds[f"({event.key}, all that it calls)"] += event.cpu_time_total / 1e6 / STEPS
    rows = sorted(seconds.items(), key=lambda pair: -pair[1])
    table = [(name, f"{1000 * value:.0f}", f"{value / step:.0%}") for name, value in rows]
    table += [("step", f"{1000 * step:.0f}", ""), ("crops of a step", f"{1000 * crops:.0f}", "")]
    print(text_table(table, ["work", "ms a step", "share"]))


if __name__ == "__main__":
    main()
