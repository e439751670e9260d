"""The model that comes with the package, and where it is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.inference.segmenter import Segmenter
from flowseg.io.images import write_image, write_labels
from flowseg.network.checkpoint import load_network, read_card
from flowseg.network.shipped import DEFAULT_MODEL, named_model, shipped_models
from flowseg.prediction.convert import convert_model
from flowseg.prediction.find_models import find_models
from flowseg.synthetic.render import draw_neurons
from flowseg.training.plan import plan_training
from helpers.runs import save_wild_network


def test_what_ships_is_small_and_says_what_it_is() -> None:
    path = shipped_models()[DEFAULT_MODEL]
    assert path.stat().st_size <= 8_000_000
    card = read_card(DEFAULT_MODEL)
    assert card.network == NetworkConfig()  # so that trainings start from it
    assert card.provenance["training_images"] == 0
    assert card.provenance["data"].startswith("drawn")
    assert card.provenance["license"] == "BSD-3-Clause"
    assert card.cell_types["cell"].diameter is None  # measured on each image


def test_a_name_is_a_path_where_something_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_model("phase") == shipped_models()["phase"]
    assert named_model("./models/phase") == Path("models/phase")
    assert named_model("other") == Path("other")
    (tmp_path / "phase").write_bytes(b"mine")
    assert named_model("phase") == Path("phase")


def test_it_is_taken_where_nothing_was_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "flowseg"):
        assert find_models(None, tmp_path / "runs") == [shipped_models()["phase"]]
    assert "using the model 'phase' that comes with flowseg" in caplog.text
    assert find_models(["phase"]) == [shipped_models()["phase"]]
    with pytest.raises(FlowsegError, match="there is no such checkpoint"):
        find_models(["phases"])


def test_models_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("phase\n")
    assert "BSD-3-Clause" in text
    assert main(["info", "phase"]) == 0


@pytest.mark.slow
def test_it_finds_drawn_cells_and_their_size() -> None:
    image, masks = draw_neurons((260, 320), "shsy5y", np.random.default_rng(8))
    found = Segmenter.load("phase", "cpu").segment(image)
    true = float(np.sqrt(4 * masks.areas() / np.pi).mean())
    assert abs(np.log2(found.diameter / true)) < 0.5
    assert 0.4 < found.labels.max() / len(masks) < 1.6


def test_a_folder_of_ones_own_starts_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        image, masks = draw_neurons((64, 64), "cort", np.random.default_rng(seed), cells=4)
        labels = np.zeros((64, 64), np.int32)
        for number in range(len(masks)):
            labels[masks.dense(number)] = number + 1
        write_image(tmp_path / f"w{seed}.png", image)
        write_labels(tmp_path / f"w{seed}_masks.tif", labels)
    with caplog.at_level("INFO", "flowseg"):
        plan = plan_training(load_config("cell"), tmp_path)
    assert plan.first == shipped_models()["phase"]
    assert "starting from the model 'phase'" in caplog.text
    assert plan_training(load_config("cell"), tmp_path, "none").first is None
    other = load_config("cell", overrides=["network.channels=[8, 16]"])
    assert plan_training(other, tmp_path).first is None  # it would not fit
    # A larger recipe takes its architecture over, as from any start.
    large = plan_training(load_config("cell", recipe="gpu"), tmp_path)
    assert large.config.network == NetworkConfig()


def test_half_precision_halves_a_checkpoint(tmp_path: Path) -> None:
    whole, half = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_wild_network(whole)
    with pytest.raises(FlowsegError, match="a checkpoint of flowseg already"):
        convert_model(whole, half)
    assert main(["convert", str(whole), "--half", "--out", str(half), "--license", "CC0"]) == 0
    assert read_card(half).provenance["license"] == "CC0"
    assert read_card(half).cell_types == read_card(whole).cell_types
    for one, other in zip(
        load_network(whole)[0].parameters(), load_network(half)[0].parameters(), strict=True
    ):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= 1e-3 * one.abs().max() + 1e-6
