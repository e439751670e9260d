"""The same inputs give the same bytes in any process; other thread counts give close results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import flowseg
from flowseg import Segmenter, load_config, train
from flowseg.io.images import read_image
from flowseg.io.paths import find_images
from flowseg.synthetic.datasets import write_synthetic_sartorius
from helpers.runs import differences, save_wild_network

pytestmark = pytest.mark.slow

SETTINGS = [
    *(
        "network.channels=[4, 8]",
        "network.blocks_per_level=1",
        "augment.crop_size=64",
        "data.folds=2",
    ),
    *("training.crops_per_epoch=8", "training.batch_size=4", "training.precision=float32"),
]

BOTH = """if True:
    import sys
    from flowseg.cli import main
    from flowseg.training import provenance
    provenance.git_revision = lambda: None  # someone may commit meanwhile
    settings = [word for value in sys.argv[2:] for word in ("--set", value)]
    code = main(["train", "--data", sys.argv[1], "--epochs", "2", "--device", "cpu", *settings,
                 "--cell-type", "shsy5y", "--out", "run"])
    code = code or main(["predict", "--in", sys.argv[1] + "/train", "--model", "wild.safetensors",
                         "--device", "cpu", "--save-labels", "labels", "--overlays", "overlays"])
    raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_synthetic_sartorius(folder, 8, 0, 1, (96, 128), ("shsy5y",))
    return folder


def test_two_fresh_processes_write_the_same_bytes(data: Path, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("one", "other")]
    for home, hashes in zip(homes, "12", strict=True):
        home.mkdir()
        save_wild_network(home / "wild.safetensors")
        environment = os.environ | {
            "PYTHONPATH": str(Path(flowseg.__file__).parents[1]),
            "PYTHONHASHSEED": hashes,  # another order of sets
        }
        command = [sys.executable, "-c", BOTH, str(data), *SETTINGS]
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(homes[0] / "submission.csv")) > 50
    assert differences(*homes) == []


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_another_number_of_threads_changes_little(
    data: Path, tmp_path: Path, torch_threads: None
) -> None:
    """oneDNN cuts its sums by the number of threads, so that bits differ."""
    config = load_config("shsy5y", overrides=[*SETTINGS, "training.epochs=2"])
    save_wild_network(tmp_path / "wild.safetensors")
    image = read_image(find_images(data / "train")[0])
    losses, fields = [], []
    for count in (1, 2):
        torch.set_num_threads(count)
        train(config, data, tmp_path / str(count), device="cpu")
        losses.append(pd.read_csv(tmp_path / str(count) / "metrics.csv")["loss"])
        segmenter = Segmenter.load(tmp_path / "wild.safetensors", "cpu", precision="float32")
        found = segmenter.segment(image)
        fields.append(np.concatenate((found.flows, found.cellprob[None])))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert np.abs(fields[0] - fields[1]).max() < 1e-3 * np.abs(fields[0]).max()
