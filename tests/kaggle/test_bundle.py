"""A bundle holds what the runtime lacks, and its notebook ends with a valid submission."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.errors import FlowsegError
from flowseg.formats.submission import read_submission, validate_submission
from flowseg.io.images import write_image
from flowseg.kaggle import bundle
from flowseg.kaggle.notebook import notebook
from flowseg.kaggle.runtime import lacking, read_runtime, runtimes
from helpers.runs import save_wild_network

SHAPE = (60, 80)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "wild.safetensors"
    save_wild_network(path)
    return path


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Wheels are asked for, and made of nothing."""
    asked: list[str] = []

    def pip(_: Sequence[str], folder: Path, what: str) -> str:
        asked.append(what)
        (folder / f"{what.split('>', maxsplit=1)[0]}-1-py3-none-any.whl").touch()
        return what

    monkeypatch.setattr(bundle, "_pip", pip)
    return asked


def test_what_the_runtime_lacks(no_pip: list[str], model: Path, tmp_path: Path) -> None:
    assert runtimes() == ["kaggle-2026-05"]
    names = [one.name for one in lacking(read_runtime("kaggle-2026-05"))]
    assert "fastremap" in names
    assert not {"torch", "numpy", "numba", "opencv-python"} & {*names}
    made = bundle.make_bundle([model, model], tmp_path / "out", user="somebody", accelerator="l4")
    assert [what.split(">")[0] for what in no_pip] == ["flowseg", *names]
    assert made.models == ("model0.safetensors", "model1.safetensors")
    assert (made.dataset / "model1.safetensors").read_bytes() == model.read_bytes()
    about = json.loads((made.kernel / "kernel-metadata.json").read_text())
    assert (about["id"], about["machine_shape"]) == ("somebody/flowseg-submit", "NvidiaL4")
    assert about["enable_internet"] == "false"
    dataset = json.loads((made.dataset / "dataset-metadata.json").read_text())
    assert about["dataset_sources"] == [dataset["id"]]


def test_only_a_bundle_is_replaced(no_pip: list[str], model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle.make_bundle([model], out)
    bundle.make_bundle([model], out)
    shutil.rmtree(out / "dataset")
    (out / "mine.txt").touch()
    with pytest.raises(FlowsegError, match="is there, and no bundle"):
        bundle.make_bundle([model], out)
    assert sorted(path.name for path in out.iterdir()) == ["kernel", "mine.txt"]


def test_what_does_not_fit_is_refused(
    no_pip: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bundle", "--out", str(tmp_path / "out"), "--model"]
    assert main([*argv, str(tmp_path / "none.safetensors")]) == 2
    assert main([*argv, str(model), "--runtime", "kaggle-1999"]) == 2
    assert "unknown runtime 'kaggle-1999'; choose kaggle-2026-05" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_network_one_line_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(bundle, "_build_wheel", lambda _: "flowseg.whl")
    with pytest.raises(FlowsegError, match=r"the wheel of fastremap\S* cannot be had: .*PyPI"):
        bundle.make_bundle([model], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mount", ["competitions/sartorius", "sartorius"])
def test_the_notebook_ends_with_a_valid_submission(
    no_pip: list[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    mount: str,
) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    made = bundle.make_bundle([model], tmp_path / "out", options="--tta 1 --device cpu")
    root = tmp_path / "kaggle"
    data = root / "input" / mount
    (data / "test").mkdir(parents=True)
    (root / "working").mkdir()
    shutil.copytree(made.dataset, root / "input" / "datasets" / "somebody" / "bundle")
    for name in "ab":
        write_image(data / "test" / f"{name}.png", rng.integers(0, 255, SHAPE, np.uint8))
    (data / "test" / "broken.png").write_bytes(b"nonsense")
    ids = ["b", "missing", "broken", "a"]
    (data / "sample_submission.csv").write_text("id,predicted\n" + "".join(f"{i},\n" for i in ids))
    monkeypatch.setenv("FLOWSEG_ROOT", str(root))
    document: Any = nbformat.read(made.kernel / "submit.ipynb", as_version=4)
    nbformat.validate(document)
    nbclient.NotebookClient(document, timeout=300, kernel_name="python3").execute()
    out = root / "working" / "submission.csv"
    rows = read_submission(out).images
    assert list(rows) == ids
    assert [bool(rows[name][0][1]) for name in ids] == [True, False, False, True]
    assert not validate_submission(out, dict.fromkeys(ids, SHAPE)).problems
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_notebook_names_its_options() -> None:
    document = json.loads(notebook(["flowseg", "fastremap>=1.15"], "--tta 4 --time-budget 480m"))
    text = "".join(line for cell in document["cells"] for line in cell["source"])
    assert "--tta 4 --time-budget 480m" in text
    assert "\"'flowseg'\", \"'fastremap>=1.15'\"" in text
