"""The commands from end to end on a tiny drawn competition, and what they say to bad input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowseg.arrays.rle import rle_decode
from flowseg.cli import main
from flowseg.config.loading import load_config, to_yaml
from flowseg.io.images import read_image, read_labels
from flowseg.prediction.journal import Journal
from flowseg.synthetic.datasets import (
    TEST_TRUTH,
    write_synthetic_livecell,
    write_synthetic_sartorius,
)

pytestmark = pytest.mark.slow

SHAPE = (96, 128)
TINY = [
    *(
        "--set",
        "network.channels=[4, 8]",
        "--set",
        "network.blocks_per_level=1",
        "--set",
        "augment.crop_size=64",
    ),
    *("--set", "training.crops_per_epoch=8", "--set", "training.batch_size=4", "--device", "cpu"),
    *("--set", "pretraining.crops_per_epoch=8", "--set", "pretraining.epochs=1"),
    *("--epochs", "2", "--folds", "2", "--fold", "0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition")
    write_synthetic_sartorius(folder, 12, 3, 1, SHAPE)
    write_synthetic_livecell(folder, 2, 1, 2, SHAPE)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``runs/all-fold0`` is finished."""
    home = tmp_path_factory.mktemp("home")
    run = home / "runs" / "all-fold0"
    code = main(["train", "--data", str(data), "--out", str(run), "--pretrain", "livecell", *TINY])
    assert code == 0
    return home


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Run a command that must fail with one clear line; that line."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith(f"flowseg {argv[0]}: ")
    return line


def test_a_run_leaves_what_the_readme_says(trained: Path, data: Path) -> None:
    run = trained / "runs" / "all-fold0"
    names = {path.name for path in run.iterdir()}
    assert names - {".lock"} == {
        *("best.safetensors", "last.safetensors", "state.safetensors", "config.yaml"),
        "origin.json",
        *("folds.csv", "metrics.csv", "curves.png", "overlays", "summary.json"),
    }
    summary = json.loads((run / "summary.json").read_text())
    folds = pd.read_csv(run / "folds.csv", dtype={"id": str})
    assert len(folds) == 12
    validation = set(folds["id"][folds["fold"] == 0])
    assert validation == set(summary["validation_images"])
    assert {path.stem for path in (run / "overlays").iterdir()} == validation
    wells = folds.groupby("group")["fold"].nunique()
    assert (wells == 1).all()
    picture = read_image(next((run / "overlays").iterdir()))
    assert picture.shape == (SHAPE[0], 2 * SHAPE[1] + 8, 3)


def test_pretraining_is_kept_and_reused(
    trained: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = list((trained / "runs").glob("livecell-*"))
    assert len(kept) == 1
    before = (kept[0] / "best.safetensors").stat().st_mtime_ns
    argv = ["train", "--data", str(data), "--pretrain", "livecell", *TINY]
    with caplog.at_level("INFO"):
        assert main([*argv, "--out", str(trained / "runs" / "second"), "--fold", "1"]) == 0
    assert f"reusing the LIVECell pre-training in {kept[0]}" in caplog.text
    assert (kept[0] / "best.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(trained / "runs" / "second")


def predict(trained: Path, data: Path, out: Path, *more: str | Path) -> int:
    model = trained / "runs" / "all-fold0"
    argv = ["predict", "--in", data / "test", "--out", out, "--model", model, "--device", "cpu"]
    return main([str(arg) for arg in [*argv, *more]])


def test_predict_evaluate_validate(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, labels, overlays = tmp_path / "s.csv", tmp_path / "labels", tmp_path / "overlays"
    more = ["--save-labels", labels, "--overlays", overlays, "--flow-threshold", "0"]
    assert predict(trained, data, out, *more, "--cellprob-threshold", "-1") == 0
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert list(table.columns) == ["id", "predicted"]
    images = sorted(path.stem for path in (data / "test").iterdir())
    assert sorted(set(table["id"])) == images
    for image in images:
        found = read_labels(labels / f"{image}.tif")
        texts = [text for text in table["predicted"][table["id"] == image] if text]
        assert len(texts) == found.max()
        painted = np.zeros(SHAPE, int)
        for number, text in enumerate(texts, start=1):
            painted[rle_decode(text, SHAPE)] += number
        assert np.array_equal(painted, found)
        assert read_image(overlays / f"{image}.png").shape == (*SHAPE, 3)
    assert main(["evaluate", "--truth", str(data / TEST_TRUTH), "--pred", str(out)]) == 0
    assert "competition score" in capsys.readouterr().out
    assert main(["validate", str(out), "--images", str(data / "test")]) == 0
    again = tmp_path / "again.csv"
    predict(trained, data, again, "--flow-threshold", "0", "--cellprob-threshold", "-1")
    assert out.read_bytes() == again.read_bytes()


def test_images_without_cells_keep_a_blank_row(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    assert predict(trained, data, out, "--cellprob-threshold", "1000") == 0
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert len(table) == 3
    assert (table["predicted"] == "").all()


def test_the_newest_finished_run_is_the_model(
    trained: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained)
    out = tmp_path / "s.csv"
    # "test" is not here, so it is the one in the data folder.
    argv = ["predict", "--in", "test", "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert main(argv) == 0
    assert "runs/all-fold0/best.safetensors" in capsys.readouterr().out.replace("\\", "/")
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 0  # nothing was trained here
    assert "models/phase.safetensors" in capsys.readouterr().out.replace("\\", "/")


def test_bad_input_of_predict(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", trained / "runs" / "all-fold0", "--device", "cpu"]
    images = ["predict", "--in", data / "test"]
    out = tmp_path / "s.csv"
    assert "neither here nor" in fails(capsys, "predict", "--in", "nowhere", *model)
    assert "knows no cell type 'hela'" in fails(capsys, *images, *model, "--cell-type", "hela")
    assert "no such checkpoint" in fails(capsys, *images, "--model", tmp_path / "none")
    assert "diameter must be greater than 0" in fails(
        capsys, *images, *model, "--out", out, "--diameter", "-3"
    )
    cut = tmp_path / "images" / "cut.png"
    cut.parent.mkdir()
    whole = next((data / "test").iterdir()).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    line = fails(capsys, "predict", "--in", cut.parent, *model, "--out", out)
    assert str(cut) in line
    assert not out.exists()
    (tmp_path / "file").write_text("x")
    assert "file" in fails(capsys, *images, *model, "--out", tmp_path / "file" / "s.csv")
    assert "is a folder" in fails(capsys, *images, *model, "--out", tmp_path)


def copy_of(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


def test_bad_data_of_train(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train = ["train", "--out", out, *TINY]
    assert "is no folder" in fails(capsys, *train, "--data", tmp_path / "none")
    bad = copy_of(data, tmp_path)
    table = bad / "train.csv"
    whole = table.read_text()
    rows = whole.splitlines()
    image_id = rows[1].split(",")[0]

    def with_first(annotation: str, width: str = "128") -> None:
        fields = rows[1].split(",")
        fields[1:3] = [annotation, width]
        table.write_text("\n".join([rows[0], ",".join(fields), *rows[2:]]) + "\n")

    for annotation in ("1 2 3", "1 99999", "0 3", "1 x"):
        with_first(annotation)
        line = fails(capsys, *train, "--data", bad)
        assert "train.csv: row 2: the annotation" in line
    with_first("1 2", width="127")
    assert "row 3: width, height" in fails(capsys, *train, "--data", bad)
    table.write_text(whole.replace(",128,96,", ",129,96,"))
    assert "128 x 96 pixels (width x height)" in fails(capsys, *train, "--data", bad)
    table.write_text(whole.replace(",astro,", ",hela,"))
    assert "unknown cell type 'hela'" in fails(capsys, *train, "--data", bad)
    table.write_text(whole)
    picture = bad / "train" / f"{image_id}.png"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    line = fails(capsys, *train, "--data", bad)
    assert picture.name in line
    picture.unlink()
    assert "is missing" in fails(capsys, *train, "--data", bad)
    assert not out.exists()


def test_bad_settings_of_train(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    out = tmp_path / "run"
    train = ["train", "--out", out, "--data", data]
    assert "did you mean 'training.epochs'" in fails(capsys, *train, "--set", "training.epoch=3")
    assert "holds no run to resume" in fails(capsys, *train, "--resume")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "'cuda' was asked for" in fails(capsys, *train, "--device", "cuda")
    assert "no such checkpoint" in fails(capsys, *train, *TINY, "--pretrain", tmp_path / "none")
    assert "folds cannot be made" in fails(capsys, *train, "--folds", "40")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--cell-type", "hela"])
    assert caught.value.code == 2
    (tmp_path / "file").write_text("x")
    assert "file" in fails(capsys, "train", "--data", data, "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("--epochs=5", "training.epochs=3"),
        ("--fold=1", "data.fold=2"),
        ("--folds=3", "data.folds=2"),
        ("--seed=1", "seed=2"),
        ("--extra=a", "data.extra=b"),
        ("--extra-weight=1", "data.extra_weight=2"),
        ("--tta=1", "tta=2"),
        ("--compile", "training.compile=false"),
        ("--compile", "pretraining.compile=false"),
    ],
)
def test_what_is_said_twice_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, setting: str
) -> None:
    line = fails(capsys, "train", option, "--set", setting)
    key, name = setting.partition("=")[0], option.partition("=")[0]
    assert f"{name} and --set {key} say the same; leave one out" in line


def test_an_old_name_says_the_same_as_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "train", "--tta=1", "--set", "views=2")
    assert "--tta and --set tta say the same" in line


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cross-validate", "--gath"])
    assert "unrecognized arguments: --gath" in capsys.readouterr().err


def test_an_unknown_option_names_the_help_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["predict", "--in", "a", "--views", "4"])
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line == (
        "flowseg predict: unrecognized arguments: --views 4; see flowseg predict --help\n"
    )


@pytest.mark.parametrize("command", [["train", "--folds", "2"], ["cross-validate"]])
def test_a_cross_validation_trains_all_folds(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    line = fails(capsys, *command, "--set", "data.fold=1")
    assert "a cross validation trains all folds, but --set data.fold names one" in line


def test_cross_validate_is_train_with_folds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "--data",
        str(data),
        "--cell-type",
        "cort",
        *TINY[:-4],
        "--epochs",
        "1",
        "--tta",
        "1",
    ]
    printed = []
    for command in (["cross-validate", "--out", "a"], ["train", "--out", "b"]):
        assert main([*command, "--folds", "2", *options]) == 0
        printed.append(capsys.readouterr().out.replace(f"in {command[-1]}", ""))
    assert printed[0] == printed[1]
    assert "2 folds" in printed[0]
    assert "(one view)" in printed[0]
    config = load_config(path=tmp_path / "a" / "config.yaml")
    assert (config.tta, config.data.folds, config.training.epochs) == (1, 2, 1)
    for name in ("out_of_fold.csv", "config.yaml", "fold1/best.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_complete_config_and_what_it_takes_the_place_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("all")))
    train = ["train", "--data", data, "--config", file, *TINY, "--epochs", "1"]
    line = fails(capsys, *train, "--recipe", "gpu")
    assert f"{file}: names all settings, so --recipe gpu would change nothing" in line
    line = fails(capsys, *train, "--cell-type", "cort")
    assert "names shsy5y, astro, cort, so --cell-type cort would change nothing" in line
    assert not (tmp_path / "runs").exists()
    file.write_text(to_yaml(load_config("cort", overrides=["data.folds=8", "data.fold=6"])))
    assert main([str(word) for word in train]) == 0
    assert main([str(word) for word in [*train, "--cell-type", "cort", "--fold", "1"]]) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"cort-fold0", "cort-fold1"}


def test_a_run_is_not_overwritten_and_resumes_only_itself(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "runs" / "all-fold0"
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    train = ["train", "--out", run, "--data", data, *TINY]
    assert "is not empty" in fails(capsys, *train)
    for resume in (["--resume"], ["--resume", "auto"]):
        line = fails(capsys, *train, *resume, "--seed", "7")
        assert "started with other settings: seed 42 -> 7" in line
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in run.iterdir()} == {".lock", *(path.name for path in before)}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGTERM")
def test_sigterm_stops_a_training_that_then_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["train", "--data", str(data), "--out", str(run), *TINY, "--epochs", "400"]
    command = [sys.executable, "-m", "flowseg", *argv, "--resume", "auto"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1 of 400" in line:
                process.terminate()
                break
        said = process.stderr.read()
    assert process.returncode == 75
    assert "flowseg train: stopped after" in said
    assert "continue with --resume" in said
    assert "Traceback" not in said
    assert (run / "state.safetensors").is_file()
    assert not list(run.glob(".part-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_prediction_that_a_signal_stops_goes_on(
    trained: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    out, expected = tmp_path / "found.csv", tmp_path / "expected.csv"
    argv = ["predict", "--model", str(trained / "runs"), "--in", str(data / "test"), "--out"]
    assert main([*argv, str(expected)]) == 0
    added: list[str] = []
    add = Journal.add

    def add_and_signal(journal: Journal, image_id: str, *rest: Any) -> None:
        add(journal, image_id, *rest)
        added.append(image_id)
        if len(added) == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(Journal, "add", add_and_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    assert main([*argv, str(out)]) == 75
    assert capsys.readouterr().err.endswith("flowseg predict: stopped\n")
    assert not out.exists()
    assert main([*argv, str(out)]) == 0
    assert len(added) == len(set(added)) == 3
    assert out.read_bytes() == expected.read_bytes()


def test_debug_shows_where(tmp_path: Path) -> None:
    from flowseg.errors import FlowsegError

    with pytest.raises(FlowsegError):
        main(["train", "--debug", "--data", str(tmp_path)])


def test_train_only_images_are_never_validated_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = sorted(path.stem for path in (data / "train").iterdir())
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join([*ids[:3], "another"]) + "\n")
    run = tmp_path / "run"
    argv = ["train", "--data", str(data), "--out", str(run), *TINY, "--epochs", "1"]
    assert main([*argv, "--train-only", str(listed)]) == 0
    folds = pd.read_csv(run / "folds.csv", dtype={"id": str}).set_index("id")["fold"]
    assert (folds[ids[:3]] == -1).all()
    assert set(folds) == {-1, 0, 1}
    listed.write_text("another\n")
    line = fails(capsys, *argv, "--out", tmp_path / "other", "--train-only", listed)
    assert "names no image of this training" in line


def test_resume_refuses_another_split_or_start(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "runs" / "all-fold0"
    train = ["train", "--out", run, "--data", data, *TINY, "--resume"]
    assert "pretrain livecell -> none" in fails(capsys, *train)
    ids = tmp_path / "ids.txt"
    validated = json.loads((run / "summary.json").read_text())["validation_images"]
    ids.write_text(validated[0] + "\n")
    line = fails(capsys, *train, "--pretrain", "livecell", "--train-only", ids)
    assert "was started with other settings" in line


def test_one_command_starts_a_run_and_resumes_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    argv = ["train", "--data", str(data), "--out", str(run), *TINY, "--epochs", "1"]
    assert main([*argv, "--resume", "auto"]) == 0
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    capsys.readouterr()
    assert main([*argv, "--resume", "auto"]) == 0
    assert "validation score" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--resume", "always"])
    assert caught.value.code == 2


def test_a_start_that_fails_does_not_block_the_corrected_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "data"
    shutil.copytree(data, bare)
    shutil.rmtree(bare / "LIVECell_dataset_2021")
    train = ["train", "--out", tmp_path / "run", "--data", bare, *TINY, "--epochs", "1"]
    assert "LIVECell_dataset_2021" in fails(capsys, *train, "--pretrain", "livecell")
    assert main([str(arg) for arg in train]) == 0


def test_a_crop_that_does_not_fit_is_refused_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--out", tmp_path / "run", "--data", data, *TINY]
    line = fails(capsys, *train, "--set", "augment.crop_size=65")
    assert "augment.crop_size is 65" in line
    assert "set augment.crop_size=68" in line
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_none_are_refused(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", "--in", data / "test", "--model", trained / "runs" / "all-fold0"]
    assert "cellprob_threshold must be a finite number" in fails(
        capsys, *argv, "--cellprob-threshold", "nan"
    )
    assert "diameter must be a finite number" in fails(capsys, *argv, "--diameter", "inf")
    assert "too small to find cells" in fails(capsys, *argv, "--diameter", "0.5")
