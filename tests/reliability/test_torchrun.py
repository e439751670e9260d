"""The commands under torchrun: one run's folder from two processes, and images shared out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import flowseg
from flowseg.cli import main
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
from helpers.runs import save_wild_network

pytestmark = pytest.mark.slow

START = """if True:
    import sys
    from flowseg.cli import main
    raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_synthetic_sartorius(folder, 8, 0, 1, (96, 128), ("shsy5y",))
    write_synthetic_livecell(folder, 2, 1, 2, (96, 128))
    return folder


def torchrun(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    script = home / "start.py"
    script.write_text(START)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(flowseg.__file__).parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # torchrun's own choice is 1
    }
    return subprocess.run(
        [sys.executable, *launch, str(script), *argv],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_training_with_its_pretraining(data: Path, tmp_path: Path) -> None:
    settings = [
        *(
            "network.channels=[4, 8]",
            "network.blocks_per_level=1",
            "augment.crop_size=64",
            "training.crops_per_epoch=8",
        ),
        *("training.batch_size=2", "pretraining.crops_per_epoch=8", "pretraining.batch_size=2"),
        *("pretraining.epochs=1", "data.folds=2"),
    ]
    sets = [word for setting in settings for word in ("--set", setting)]
    words = ["train", "--data", str(data), "--pretrain", "livecell", "--cell-type", "shsy5y"]
    words += [*sets, "--device", "cpu", "--epochs", "2", "--out", "runs/two"]
    done = torchrun(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation score") == 1
    assert done.stderr.count("pre-training on 2 LIVECell images") == 1
    run = tmp_path / "runs" / "two"
    assert pd.read_csv(run / "metrics.csv")["epoch"].tolist() == [1, 2]
    assert (run / "summary.json").is_file()
    assert not list(tmp_path.rglob(".part-*"))
    # A run that was stopped at its very end is taken up again, by as many processes.
    (run / "summary.json").unlink()
    done = torchrun(tmp_path, *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert "reusing the LIVECell pre-training" in done.stderr
    assert (run / "summary.json").is_file()


def test_prediction_in_shards(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "wild.safetensors"
    save_wild_network(model)
    words = ["predict", "--in", str(data / "train"), "--model", str(model), "--device", "cpu"]
    done = torchrun(tmp_path, *words, "--out", str(tmp_path / "two.csv"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.1-of-2.csv").is_file()
    assert main(["predict", "--join", "--out", str(tmp_path / "two.csv")]) == 0
    assert main([*words, "--out", str(tmp_path / "one.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "one.csv")) > 50
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
