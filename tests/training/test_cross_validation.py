"""All folds as one command: every image scored by the network that did not learn from it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.arrays.intensity import normalize
from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.data import record as record_module
from flowseg.errors import FlowsegError
from flowseg.flow.representation import flows_to_labels
from flowseg.inference.auto_scale import resolve_settings
from flowseg.inference.flow_field import load_fields
from flowseg.inference.options import SegmentOptions, settings_for
from flowseg.inference.segmenter import Segmenter
from flowseg.io.images import read_image
from flowseg.io.tables import read_table
from flowseg.metrics.competition import competition_score
from flowseg.network.checkpoint import load_network, read_card, save_network
from flowseg.prediction.find_models import find_models
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
from flowseg.training import provenance
from flowseg.training.cross_validation import cross_validate
from flowseg.training.describe import describe
from flowseg.training.out_of_fold import CrossValidation, report
from flowseg.training.plan import plan_training
from flowseg.training.run import train
from flowseg.training.run_folder import OUT_OF_FOLD_FLOWS, OUT_OF_FOLD_SCORES
from helpers.runs import differences

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition")
    write_synthetic_sartorius(folder, 6, 0, 1, (96, 128), ("shsy5y", "cort"))
    return folder


@pytest.fixture(scope="module")
def config() -> Config:
    overrides = (
        *("network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"),
        *(
            "training.crops_per_epoch=8",
            "training.batch_size=4",
            "training.epochs=2",
            "data.folds=2",
        ),
    )
    both = load_config("all", overrides=overrides)
    cells = {name: both.cell_types[name] for name in ("shsy5y", "cort")}
    return Config(
        cell_types=cells,
        tta=2,
        data=both.data,
        network=both.network,
        augment=both.augment,
        training=both.training,
    )


@pytest.fixture(scope="module")
def result(data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    return cross_validate(config, data, tmp_path_factory.mktemp("runs") / "both", device="cpu")


def test_every_image_is_scored_once_by_the_fold_that_kept_it_back(
    result: CrossValidation, data: Path, config: Config
) -> None:
    plan = plan_training(config, data)
    records, fold_of = plan.records, plan.folds
    assert [image.id for image in result.images] == [record.image_id for record in records]
    for record, image in zip(records, result.images, strict=True):
        assert image.fold == fold_of[record.image_id]
        summary = json.loads((result.folds[image.fold].folder / "summary.json").read_text())
        assert record.image_id in summary["validation_images"]
        flows, cellprob = load_fields(result.folder / OUT_OF_FOLD_FLOWS / f"{record.image_id}.npz")
        checkpoint = result.folds[image.fold].checkpoint
        segmenter = Segmenter.load(checkpoint, "cpu", tta=config.tta)
        grey = normalize(record.image())
        field = segmenter.predict_flows(grey, settings_for(segmenter.card, record.cell_type))
        assert np.array_equal(cellprob, field.cellprob.astype(np.float16))
        assert image.named == resolve_settings(segmenter, grey, SegmentOptions())[0]
        labels = flows_to_labels(flows, cellprob, cellprob_threshold=0.0, flow_threshold=0.4)
        assert image.score == competition_score(record.masks(), labels)


def test_the_folds_are_different_networks(result: CrossValidation) -> None:
    weights = [load_network(fold.checkpoint)[0].stem.weight for fold in result.folds]
    assert not torch.equal(*weights)


def test_what_it_leaves(result: CrossValidation) -> None:
    scores = read_table(result.folder / OUT_OF_FOLD_SCORES, ("id", "score"))["score"].astype(float)
    assert scores.tolist() == [image.score for image in result.images]
    summary = json.loads((result.folder / "summary.json").read_text())
    expected = np.mean([image.calibrated_score for image in result.images])
    assert summary["validation_score"] == pytest.approx(expected)
    assert summary["tta"] == result.tta == 2
    *table, tta = report(result).splitlines()
    assert [line.split()[0] for line in table[1:]] == ["shsy5y", "cort", "all"]
    assert tta == "(averages of 2 views)"


def test_the_cards_hold_the_calibrated_thresholds(result: CrossValidation) -> None:
    for fold in result.folds:
        card = read_card(fold.checkpoint)
        assert card.provenance["calibration"] == result.calibration.to_mapping()
        for name, cell in card.cell_types.items():
            tuned = result.calibration.cell_types[name]
            assert cell.cellprob_threshold == tuned.cellprob_threshold
            assert cell.min_size == tuned.min_size


def test_the_folds_are_the_newest_model(result: CrossValidation) -> None:
    models = [fold.checkpoint for fold in result.folds]
    assert find_models(None, result.folder.parent) == models
    assert find_models([result.folder]) == models


def test_resumed_it_comes_to_the_same(result: CrossValidation, data: Path, config: Config) -> None:
    def contents() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in sorted(result.folder.rglob("*")) if p.is_file()}

    before = contents()
    with pytest.raises(FlowsegError, match="is not empty"):
        cross_validate(config, data, result.folder, device="cpu")
    other = replace(config, seed=7)
    with pytest.raises(FlowsegError, match="other settings: seed 42 -> 7"):
        cross_validate(other, data, result.folder, device="cpu", resume=True)
    assert cross_validate(config, data, result.folder, device="cpu", resume=True).images == (
        result.images
    )
    assert contents() == before


def test_it_does_not_move_into_another_folder(data: Path, config: Config, tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="holds no run to resume"):
        cross_validate(config, data, tmp_path / "none", device="cpu", resume=True)
    train(config, data, tmp_path / "one", device="cpu")
    with pytest.raises(FlowsegError, match="started with other settings"):
        cross_validate(config, data, tmp_path / "one", device="cpu", resume=True)


def test_what_a_later_fold_lacks_is_said_before_the_first_is_trained(
    data: Path, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "x0" / "images").mkdir(parents=True)
    extra = replace(config, data=replace(config.data, extra=str(tmp_path / "x{fold}")))
    with pytest.raises(FlowsegError):
        cross_validate(extra, data, tmp_path / "out", device="cpu", pretrain="livecell")
    assert not (tmp_path / "out").exists()


def test_a_start_that_has_seen_the_images_is_warned_of(
    result: CrossValidation,
    data: Path,
    config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = replace(config, training=replace(config.training, epochs=1, crops_per_epoch=4))
    start = str(result.folds[0].folder)
    cross_validate(short, data, tmp_path / "out", pretrain=start, device="cpu")
    assert "out-of-fold scores are too high" in caplog.text


def test_every_image_is_checked_once_and_then_read_when_it_is_needed(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()

    def counted(path: Path) -> object:
        reads[path.name] += 1
        return read_image(path)

    monkeypatch.setattr(record_module, "read_image", counted)
    short = replace(config.training, epochs=1, crops_per_epoch=16)
    three = replace(config, training=short, data=replace(config.data, folds=3))
    cross_validate(three, data, tmp_path / "out", device="cpu")
    assert len(reads) == 6
    # Checked; trained on in two folds; validated, drawn and scored in the third.
    assert set(reads.values()) == {1 + 2 + 3}


def test_info_knows_a_cross_validation(result: CrossValidation) -> None:
    text = describe(result.folder)
    assert "finished: cross validation" in text
    assert "fold0" in text


def test_the_command_trains_all_folds_unless_one_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
    settings += ["training.crops_per_epoch=4", "training.batch_size=4", "training.epochs=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    run = ["train", "--data", str(data), "--cell-type", "cort", "--device", "cpu", *words]
    assert main([*run, "--folds", "2", "--set", "data.fold=1"]) == 2
    assert "--set data.fold names one" in capsys.readouterr().err
    assert main([*run, "--extra-weight", "1"]) == 2
    assert "name images with --extra" in capsys.readouterr().err
    assert main([*run, "--folds", "2", "--out", str(tmp_path / "all")]) == 0
    assert "2 folds in" in capsys.readouterr().out
    assert (tmp_path / "all" / "fold1" / "best.safetensors").is_file()
    assert main([*run, "--folds", "2", "--fold", "1", "--out", str(tmp_path / "one")]) == 0
    assert "validation score" in capsys.readouterr().out
    assert (tmp_path / "one" / "best.safetensors").is_file()
    again = ["--config", str(tmp_path / "one" / "config.yaml"), "--folds", "2"]
    again += ["--pretrain", str(tmp_path / "one"), "--out", str(tmp_path / "again")]
    assert main([*run, *again]) == 0


def test_one_that_died_among_the_cards_ends_like_one_that_did_not(
    result: CrossValidation, data: Path, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "both"
    shutil.copytree(result.folder, out)
    first = out / "fold0" / "best.safetensors"
    network, card = load_network(first)
    strange = {
        name: replace(cell, cellprob_threshold=5.0) for name, cell in card.cell_types.items()
    }
    save_network(first, network.state_dict(), replace(card, cell_types=strange))
    again = cross_validate(config, data, out, device="cpu", resume=True)
    assert again.images == result.images
    assert first.read_bytes() == result.folds[0].checkpoint.read_bytes()


def test_folds_of_separate_jobs_are_gathered_into_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "git_revision", lambda: None)  # someone may commit meanwhile
    data, one, jobs = tmp_path / "data", tmp_path / "one" / "cv", tmp_path / "jobs" / "cv"
    write_synthetic_sartorius(data, 4, 0, 1, (96, 128), ("cort",))
    write_synthetic_livecell(data, 2, 1, 2, (96, 128))
    settings = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
    for stage in ("training", "pretraining"):
        settings += [f"{stage}.{key}" for key in ("epochs=1", "crops_per_epoch=4", "batch_size=4")]
    words = [word for setting in settings for word in ("--set", setting)]
    run = ["cross-validate", "--data", str(data), "--cell-type", "cort", "--folds", "2", *words]
    run += ["--pretrain", "livecell", "--device", "cpu", "--tta", "1", "--out"]
    assert main([*run, str(one)]) == 0
    printed = capsys.readouterr().out.replace(str(one), str(jobs))

    def job(*words: str, code: int = 0) -> tuple[str, str]:
        assert main([*run, str(jobs), *words]) == code
        return capsys.readouterr()

    remedy = "first give the same command with --fold 0, --fold 1 (and --resume auto)"
    assert f"fold 0 was not started, fold 1 was not started; {remedy}" in job("--gather", code=2)[1]
    assert not jobs.exists()
    assert "fold 1: validation score" in job("--fold", "1")[0]
    assert "fold 0 was not started; first" in job("--gather", code=2)[1]
    assert "other settings: seed 42 -> 7" in job("--fold", "0", "--seed", "7", code=2)[1]
    budget = ("--set", "time_budget=60")
    assert "need one schedule; set --epochs" in job("--fold", "0", *budget, code=2)[1]
    job("--fold", "0")
    assert "continue its run with --resume" in job("--fold", "0", code=2)[1]
    (jobs / "fold0" / "summary.json").unlink()
    assert "fold 0 is not finished; first" in job("--gather", code=2)[1]
    job("--fold", "0", "--resume")
    for _ in range(2):
        assert job("--gather")[0] == printed
        assert differences(one.parent, jobs.parent) == []
    assert "tta 1 -> 2" in job("--gather", "--tta", "2", code=2)[1]
