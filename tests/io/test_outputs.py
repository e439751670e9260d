"""No output is an input, another output, or what another living process writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowseg.errors import FlowsegError
from flowseg.io.outputs import claim_outputs, input_files


def claims(path: Path) -> list[Path]:
    return [file for file in path.rglob(".writing-*") if file.is_file()]


def test_an_output_that_is_an_input_is_refused_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    image = folder / "a.tif"
    image.write_bytes(b"image")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "a.csv").symlink_to(image)
    for output in (
        image,
        folder / ".." / "images" / "a.tif",
        tmp_path / "link" / "a.tif",
        tmp_path / "a.csv",
        Path(os.path.relpath(image)),
    ):
        with (
            pytest.raises(FlowsegError, match=r"is an input.*another file or folder"),
            claim_outputs([tmp_path / "fine.csv", output], [image]),
        ):
            pass
    with claim_outputs([folder / "b.tif", tmp_path / "new" / "a.tif"], [image]):
        assert len(claims(tmp_path)) == 4  # a list and a lock in each folder
    assert not claims(tmp_path)


def test_a_folder_that_is_an_image_is_an_input_with_all_that_it_holds(tmp_path: Path) -> None:
    store, inside = tmp_path / "a.zarr", tmp_path / "b.zarr" / "image.tif"
    store.mkdir()
    inside.parent.mkdir()
    inside.touch()
    for output in (store, store / "x.tif", store / "deep" / "x.tif", inside.parent):
        with (
            pytest.raises(FlowsegError, match="is an input"),
            claim_outputs([output], [store, inside]),
        ):
            pass


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for other in (tmp_path / "a.png", tmp_path / "link" / "a.png"):
        with (
            pytest.raises(FlowsegError, match="two outputs"),
            claim_outputs([tmp_path / "a.png", other]),
        ):
            pass


def test_case_counts_where_the_file_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (tmp_path.parent / tmp_path.name.swapcase()).exists():
        with claim_outputs([tmp_path / "A.csv", tmp_path / "a.csv"]):
            pass
    monkeypatch.setattr(sys, "platform", "win32")
    with (
        pytest.raises(FlowsegError, match="two outputs"),
        claim_outputs([tmp_path / "new" / "A.csv", tmp_path / "new" / "a.csv"]),
    ):
        pass


def test_what_a_living_process_writes_is_refused_and_what_a_killed_one_wrote_is_not(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, time\nfrom flowseg.io.outputs import claim_outputs\n"
        "with claim_outputs(['new/a.tif', 'x.csv']):\n    print('ready', flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        for output in ("x.csv", "new/a.tif"):
            with (
                pytest.raises(FlowsegError, match="being written by another process"),
                claim_outputs([tmp_path / output]),
            ):
                pass
        with claim_outputs([tmp_path / "new" / "b.tif", tmp_path / "y.csv"]):
            pass
        other.kill()
    assert claims(tmp_path)
    with claim_outputs([tmp_path / "new" / "a.tif", tmp_path / "x.csv"]):
        pass
    assert not claims(tmp_path)


def test_the_images_and_labels_of_a_folder_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a.TIF", "masks/a_seg.npy", "scores.csv", "page.html", "train.csv"):
        (tmp_path / name).touch()
    names = {str(path.relative_to(tmp_path)) for path in input_files(tmp_path)}
    assert names == {"a.TIF", "masks/a_seg.npy"}
    names = {path.name for path in input_files(tmp_path / "page.html", tmp_path, tables=True)}
    assert names == {"page.html", "a.TIF", "a_seg.npy", "scores.csv", "train.csv"}
