"""A submission is valid whatever fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.formats.submission import read_submission
from flowseg.io.images import write_image
from flowseg.kaggle import submit as module
from flowseg.kaggle.notebook import MARKER
from flowseg.kaggle.submit import submit
from flowseg.prediction.journal import journal_folder

IDS = ("a", "b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two test images, and a bundle that names a model."""
    data = tmp_path / "input" / "sartorius"
    (data / "test").mkdir(parents=True)
    for name in IDS:
        write_image(data / "test" / f"{name}.png", np.zeros((10, 12), np.uint8))
    (data / "sample_submission.csv").write_text("id,predicted\na,\nb,\n")
    (tmp_path / "input" / "bundle").mkdir()
    (tmp_path / "input" / "bundle" / MARKER).write_text(json.dumps({"models": ["m.safetensors"]}))
    return tmp_path


def rows(out: Path) -> dict[str, list[str]]:
    images = read_submission(out).images
    return {name: [text for _, text in found] for name, found in images.items()}


def run(root: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, list[str]]) -> Any:
    monkeypatch.setattr(module, "_predict", lambda *_: (found, []))
    return submit(root / "input" / "bundle", root / "out.csv", root=root, device="cpu")


def test_missing_ids_are_blank(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(root, monkeypatch, {"b": ["1 2", "5 1"]})
    assert rows(root / "out.csv") == {"a": [""], "b": ["1 2", "5 1"]}
    assert (done.images, done.blank, done.cells) == (2, ("a",), 2)


def test_where_nothing_is_done_an_error_says_so_and_the_file_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlowsegError, match="none of the images could be done"):
        run(root, monkeypatch, {})
    assert rows(root / "out.csv") == {"a": [""], "b": [""]}


def test_an_overlap_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlowsegError, match="is not valid: row 3: shares pixels"):
        run(root, monkeypatch, {"a": ["1 4", "3 2"]})


def test_an_empty_test_folder(root: Path) -> None:
    for path in (root / "input" / "sartorius" / "test").iterdir():
        path.unlink()
    done = submit(root / "input" / "bundle", root / "out.csv", root=root, device="cpu")
    assert (done.images, done.cells) == (2, 0)
    assert rows(root / "out.csv") == {"a": [""], "b": [""]}


@pytest.mark.parametrize("missing", ["sample_submission.csv", MARKER])
def test_what_is_not_there_is_named(root: Path, missing: str) -> None:
    (path,) = (root / "input").rglob(missing)
    path.unlink()
    with pytest.raises(FlowsegError, match=f"holds no {missing}"):
        submit(root / "input" / "bundle", root / "out.csv", root=root)


def crashing(attempts: int, folder: Path) -> Callable[..., list[str]]:
    """A process that is killed so many times before it writes what it was to write."""

    def command(models: Any, images: Path, whole: Path, tta: int, shard: Any, device: str) -> Any:
        script = (
            "import pathlib, os\n"
            f"p = pathlib.Path({str(folder / device)!r}); p.mkdir(exist_ok=True)\n"
            f"n = len(list(p.iterdir())); (p / str(n)).touch()\n"
            f"if n < {attempts}: os.kill(os.getpid(), 9)\n"
            f"pathlib.Path({str(shard.path(whole))!r}).write_text('id,predicted\\n{device},1 1\\n')"
        )
        return [sys.executable, "-c", script]

    return command


@pytest.mark.parametrize(("attempts", "found"), [(0, True), (1, True), (2, False)])
def test_a_part_that_is_killed_goes_on_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, attempts: int, found: bool
) -> None:
    monkeypatch.setattr(module, "_devices", lambda _: ["a", "b"])
    monkeypatch.setattr(module, "_command", crashing(attempts, root))
    bundle, out = root / "input" / "bundle", root / "out.csv"
    if found:
        submit(bundle, out, root=root)
    else:
        with pytest.raises(FlowsegError, match="none of the images"):
            submit(bundle, out, root=root)
    assert rows(out) == {name: ["1 1" if found else ""] for name in IDS}
    assert not list(root.glob("shards*"))


@pytest.mark.parametrize("code", [1, 2, -9])
def test_a_device_that_is_lost_is_no_success(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Python's exit code after an exception is that of `predict` after images that failed: 1."""
    starts: list[str] = []

    def command(models: Any, images: Path, whole: Path, tta: int, shard: Any, device: str) -> Any:
        starts.append(device)
        written = f"open({str(shard.path(whole))!r}, 'w').write('id,predicted\\n{device},1 1\\n')"
        end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"os._exit({code})"
        return [sys.executable, "-c", f"import os; {end if device == 'b' else written}"]

    monkeypatch.setattr(module, "_devices", lambda _: ["a", "b"])
    monkeypatch.setattr(module, "_command", command)
    (root / "shards.2-of-2.csv").write_text("id,predicted\nb,9 9\n")  # of an earlier, killed one
    with pytest.raises(FlowsegError, match="1 images are blank: what predicted them on b crashed"):
        submit(root / "input" / "bundle", root / "out.csv", root=root)
    assert rows(root / "out.csv") == {"a": ["1 1"], "b": [""]}
    assert starts == (["a", "b"] if code == 2 else ["a", "b", "b"])


@pytest.mark.parametrize("finished", [["b"], ["a", "b"]])
def test_what_a_killed_part_had_finished_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch, finished: list[str]
) -> None:
    def command(models: Any, images: Path, whole: Path, tta: int, shard: Any, device: str) -> Any:
        script = (
            "import os, pathlib\n"
            "from flowseg.prediction.journal import Journal\n"
            f"journal = Journal({str(whole)!r}, 'key')\n"
            f"for name in {finished}:\n"
            f"    path = next(pathlib.Path({str(images)!r}).glob(name + '.*'))\n"
            "    journal.add(name, path, {'submission': [name, ['1 1']]})\n"
            "os.kill(os.getpid(), 9)\n"
        )
        return [sys.executable, "-c", script]

    monkeypatch.setattr(module, "_command", command)
    stale = journal_folder(root / "shards.csv")
    stale.mkdir()
    entry = {"id": "a", "file": [1, 1], "parts": {"submission": ["a", ["9 9"]]}}
    (stale / "other.jsonl").write_text(json.dumps(entry) + "\n")
    os.utime(stale / "other.jsonl", (1, 1))
    bundle, out = root / "input" / "bundle", root / "out.csv"
    if finished == list(IDS):
        submit(bundle, out, root=root, device="cpu")
    else:
        with pytest.raises(FlowsegError, match="1 images are blank: what predicted them on cpu"):
            submit(bundle, out, root=root, device="cpu")
    assert rows(out) == {name: ["1 1" if name in finished else ""] for name in IDS}
    assert not list(root.glob("shards*"))
