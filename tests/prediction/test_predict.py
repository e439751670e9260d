"""From files to a submission: past bad images, resumed, in shards, pages and slides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.cli import main
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import read_predictions, read_truth
from flowseg.formats.seg_npy import read_seg
from flowseg.formats.writers import WRITERS, Formats
from flowseg.inference.options import SegmentOptions
from flowseg.inference.rescale import rescale
from flowseg.inference.segmenter import Segmenter
from flowseg.io.image_source import list_images
from flowseg.io.images import read_image, read_labels, write_image
from flowseg.io.paths import find_inputs
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.device import local_device
from flowseg.network.unet import FlowNetwork
from flowseg.prediction import predict as room
from flowseg.prediction import slide_outputs as slides
from flowseg.prediction.export import export_labels
from flowseg.prediction.find_models import find_models
from flowseg.prediction.journal import Journal, run_key
from flowseg.prediction.predict import Distribution, Summary, predict
from flowseg.prediction.shards import Shard, join_shards

OPTIONS = SegmentOptions(cellprob_threshold=-0.5, flow_threshold=0.0, min_size=4)


def save_model(path: Path, seed: int, names: tuple[str, ...] = ("a", "b")) -> Path:
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    network = FlowNetwork(config, len(names), seed)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(network.head.weight, std=1.0, generator=generator)
    cells = {name: CellTypeSettings(diameter=20.0 + seed + k) for k, name in enumerate(names)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, network.state_dict(), Card(config, cells))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m.safetensors", 1)


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(7):
        image = np.kron(rng.integers(0, 255, (8, 6 + k), np.uint8), np.ones((8, 8), np.uint8))
        write_image(folder / f"i{k}.png", image)
    return find_inputs([str(folder)], "data")


def run(model: Any, images: list[Path], out: Path, **options: Any) -> Summary:
    outputs = options.pop("outputs", out)
    options.setdefault("options", OPTIONS)
    options["distribution"] = Distribution(options.pop("shard", None), options.pop("dask", None))
    return predict(model, images, outputs, device="cpu", **options)


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_a_bad_image_is_left_out_and_the_rest_is_done(
    model: Path, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "s.csv"
    assert run(model, images, out).failed == ()
    whole = out.read_text().splitlines()
    break_file(images[2])
    images[4].write_bytes(b"no image")
    done = run(model, images, out)
    assert [error.file for error in done.failed] == [str(images[2]), str(images[4])]
    assert done.images == 5
    assert all(error.problem in caplog.text for error in done.failed)
    expected = [row for row in whole if row.split(",")[0] not in ("i2", "i4")]
    assert out.read_text().splitlines() == expected
    assert done.cells == sum(not row.endswith(",") for row in expected[1:]) > 10
    assert {path.name for path in tmp_path.iterdir()} == {"images", "s.csv"}


def test_nothing_is_written_where_nothing_can_be_done(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    for path in images[:2]:
        break_file(path)
    with pytest.raises(FlowsegError, match=r"i0\.png: is cut off"):
        run(model, images[:1], tmp_path / "s.csv")
    with pytest.raises(FlowsegError, match=r"none of 2 images could be done; the first: .*i0\.png"):
        run(model, images[:2], tmp_path / "s.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interrupt the run when `count` images are in the journal; the images that were written."""
    added: list[str] = []
    add = Journal.add

    def counting(self: Journal, image_id: str, path: Path, parts: Any) -> None:
        if len(added) == count:
            raise KeyboardInterrupt
        added.append(image_id)
        add(self, image_id, path, parts)

    monkeypatch.setattr(Journal, "add", counting)
    return added


def test_a_stopped_run_goes_on_where_it_was(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "s.csv", tmp_path / "undisturbed.csv"
    run(model, images, other)
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    assert not out.exists()
    (journal,) = (tmp_path / "s.csv.journal").iterdir()
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-5])  # killed within a line
    images[0].write_bytes(images[0].read_bytes())  # written anew: its row may be another
    with monkeypatch.context() as patched:
        added = stop_after(99, patched)
        run(model, images, out)
    assert added == ["i0", "i3", "i4", "i5", "i6"]
    assert out.read_bytes() == other.read_bytes()
    assert not (tmp_path / "s.csv.journal").exists()


@pytest.mark.parametrize(
    "line", ["{}", "[]", '{"id": 1, "file": [1, 2], "parts": {}}', "[" * 9999, "\0", "null"]
)
def test_a_damaged_journal_counts_up_to_the_damage(tmp_path: Path, line: str) -> None:
    image = tmp_path / "a.png"
    image.touch()
    journal = Journal(tmp_path / "s.csv", "key")
    journal.add("a", image, {"submission": ["a", ["1 2"]]})
    journal.leave()
    with journal.path.open("a") as file:
        file.write(line + "\n")
    again = Journal(tmp_path / "s.csv", "key")
    assert len(again) == 1
    assert again.holds("a", image)
    assert again.parts("a") == {"submission": ["a", ["1 2"]]}
    again.remove()


def test_a_name_that_cannot_be_a_row_is_left_out_and_the_rest_is_done(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    bad = images[1].with_name("a:b.png")
    images[1].rename(bad)
    done = run(model, [images[0], bad], tmp_path / "s.csv")
    assert done.images == 1
    assert "'a:b' is not a plain file name" in str(done.failed[0])


def test_a_journal_serves_its_own_settings_only(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    for options in ({"options": SegmentOptions(min_size=9)}, {"tta": 2}):
        with monkeypatch.context() as patched:
            added = stop_after(99, patched)
            run(model, images, out, **options)
        assert len(added) == len(images)
    other = save_model(tmp_path / "other.safetensors", 2)
    assert run_key([model], {}) != run_key([other], {})
    assert run_key([model], {}) == run_key([model], {})


def test_a_label_image_that_was_removed_is_made_again(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Formats(submission=tmp_path / "s.csv", labels=tmp_path / "labels")
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, outputs.submission, outputs=outputs)
    (tmp_path / "labels" / "i1.tif").unlink()
    added = stop_after(99, monkeypatch)
    run(model, images, outputs.submission, outputs=outputs)
    assert "i1" in added
    assert "i0" not in added
    assert len(list((tmp_path / "labels").iterdir())) == len(images)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shards_joined_are_one_run(
    model: Path, images: list[Path], tmp_path: Path, count: int
) -> None:
    out = tmp_path / "s.csv"
    cells = run(model, images, out).cells
    whole = out.read_bytes()
    out.unlink()
    for number in range(count, 0, -1):
        run(model, images, out, shard=Shard(number, count))
    assert not out.exists()
    assert join_shards(out) == (count, cells)
    assert out.read_bytes() == whole


def test_shards_that_do_not_fit_are_not_joined(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "s.csv"
    with pytest.raises(FlowsegError, match=r"no shard's file such as s\.1-of-2\.csv"):
        join_shards(out)
    run(model, images, out, shard=Shard(1, 3))
    run(model, images, out, shard=Shard(3, 3))
    with pytest.raises(FlowsegError, match=r"lacks the shards' files s\.2-of-3\.csv"):
        join_shards(out)
    run(model, images, out, shard=Shard(2, 4))
    with pytest.raises(FlowsegError, match="files of 3 and of 4 shards"):
        join_shards(out)
    assert not out.exists()


def test_shards_are_named_or_come_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Shard.parse("2/4") == (2, 4)
    for text in ("0/4", "5/4", "2", "a/b", "-1/4"):
        with pytest.raises(FlowsegError, match="write K/N"):
            Shard.parse(text)
    assert Shard.from_environment({}) is None
    assert Shard.from_environment({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert Shard.from_environment({"RANK": "2", "WORLD_SIZE": "8"}) == Shard(3, 8)
    parts = [Shard(k, 3).part(list(range(10))) for k in (1, 2, 3)]
    assert [item for part in parts for item in part] == list(range(10))
    assert {len(part) for part in parts} == {3, 4}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device("auto", {"LOCAL_RANK": "3"}) == "cuda:3"
    assert local_device("cpu", {"LOCAL_RANK": "3"}) == "cpu"
    assert local_device("auto", {}) == "auto"


def test_pages_are_images_of_their_own(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stack = np.kron(rng.integers(0, 999, (3, 8, 9), np.uint16), np.ones((1, 8, 8), np.uint16))
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    for k, image in enumerate(stack):
        write_image(tmp_path / f"p{k}.png", image)
    names = ["s_0000", "s_0001", "s_0002"]
    run(model, [tmp_path / "s.tif"], tmp_path / "pages.csv")
    run(model, [tmp_path / f"p{k}.png" for k in range(3)], tmp_path / "files.csv")
    text = (tmp_path / "files.csv").read_text()
    for k, name in enumerate(names):
        text = text.replace(f"p{k},", f"{name},")
    assert (tmp_path / "pages.csv").read_text() == text
    write_image(tmp_path / "s_0001.png", stack[0])
    done = run(model, [tmp_path / "s.tif", tmp_path / "s_0001.png"], tmp_path / "twice.csv")
    assert "an image named as one of" in str(done.failed[0])


def test_a_slide_has_the_rows_and_labels_of_the_whole(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("roifile")
    whole, parts = (
        Formats(
            submission=folder.with_suffix(".csv"),
            labels=folder,
            overlays=folder,
            label_tiff=folder / "label_tiff",
            rois=folder / "rois",
            cells=folder / "cells",
            seg_npy=folder / "seg",
        )
        for folder in (tmp_path / "whole", tmp_path / "parts")
    )
    run(model, images, whole.submission, outputs=whole)
    monkeypatch.setattr(room, "_SLIDE", 64 * 64)
    run(model, images, parts.submission, outputs=parts)
    assert whole.submission.read_bytes() == parts.submission.read_bytes()
    for image in images:
        for name in (f"label_tiff/{image.stem}_labels.tif", f"rois/{image.stem}_rois.zip"):
            assert (tmp_path / "whole" / name).read_bytes() == (
                tmp_path / "parts" / name
            ).read_bytes()
        tables = [
            pd.read_csv(one.paths["cells"] / f"{image.stem}_cells.csv") for one in (whole, parts)
        ]
        known = tables[0].columns.drop(["cellprob", "score"])  # of whole images only
        pd.testing.assert_frame_equal(tables[0][known], tables[1][known])
        name = f"{image.stem}.tif"
        assert np.array_equal(
            read_labels(tmp_path / "whole" / name), read_labels(tmp_path / "parts" / name)
        )
        pictures = [read_image(tmp_path / kind / image.name) for kind in ("whole", "parts")]
        assert np.array_equal(*pictures)
    with tifffile.TiffFile(tmp_path / "parts" / "i6.tif") as tiff:
        assert tiff.pages[0].is_tiled
    done = run(
        model,
        images,
        whole.submission,
        outputs=Formats(submission=whole.submission, fields=tmp_path),
    )
    assert "too large for fields" in str(done.failed[0])


def test_a_slide_that_cannot_be_written_leaves_no_thread(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def write_labels_by_rows(path: Path, strips: Iterator[np.ndarray], *_: object) -> None:
        next(strips)
        kept.append(strips)
        raise FlowsegError("cannot be written", file=path)

    monkeypatch.setattr(room, "_SLIDE", 64 * 64)
    monkeypatch.setattr(slides, "write_labels_by_rows", write_labels_by_rows)
    before = set(threading.enumerate())
    outputs = Formats(submission=tmp_path / "s.csv", labels=tmp_path)
    with pytest.raises(FlowsegError, match="cannot be written"):
        run(model, images[5:], outputs.submission, outputs=outputs)
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= before


def test_the_picture_of_a_slide_is_reduced(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_SLIDE", 64 * 64)
    monkeypatch.setattr(slides, "_OVERLAY_EDGE", 50)
    outputs = Formats(submission=tmp_path / "s.csv", overlays=tmp_path / "pictures")
    run(model, images[6:], outputs.submission, outputs=outputs)
    picture = read_image(tmp_path / "pictures" / "i6.png")
    assert picture.shape == (33, 50, 3)
    grey = (picture == picture[..., :1]).all(axis=2)
    assert 0.1 < grey.mean() < 0.99  # the rest are outlines
    image = normalize(to_grey(read_image(images[6])))
    expected = np.clip(rescale(image, (33, 50)) * 255, 0, 255).astype(np.uint8)
    assert np.array_equal(picture[grey][:, 0], expected[grey])


@pytest.mark.parametrize("slide", [2**24, 64 * 64])
def test_label_images_as_zarr(
    model: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slide: int,
) -> None:
    pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.setattr(room, "_SLIDE", slide)
    tiff = Formats(submission=tmp_path / "s.csv", labels=tmp_path / "found")
    for outputs in (tiff, replace(tiff, labels_format="zarr")):
        run(model, images[4:], outputs.submission, outputs=outputs)
    for image in images[4:]:
        (page,) = list_images(tmp_path / "found" / f"{image.stem}.zarr")
        expected = read_labels(tmp_path / "found" / f"{image.stem}.tif")
        assert expected.max() > 0
        assert np.array_equal(page.read(), expected)


@pytest.mark.slow
def test_a_slide_computed_on_a_cluster_has_the_same_rows_and_labels(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    slide = tmp_path / "slide.tif"
    tiles = [np.pad(read_image(path), ((0, 0), (0, 96)))[:, :96] for path in images] * 3
    tifffile.imwrite(slide, np.block([tiles[k : k + 7] for k in (0, 7, 14)]), tile=(64, 64))
    monkeypatch.setattr(room, "_SLIDE", 64 * 64)
    whole, spread = (
        Formats(submission=tmp_path / f"{k}.csv", labels=tmp_path / k) for k in ("whole", "spread")
    )
    cells = run(model, [slide], whole.submission, outputs=whole).cells
    assert cells > 50
    assert run(model, [slide], spread.submission, outputs=spread, dask="local").cells == cells
    assert whole.submission.read_bytes() == spread.submission.read_bytes()
    labels = [read_labels(tmp_path / kind / "slide.tif") for kind in ("whole", "spread")]
    assert np.array_equal(*labels)


def test_models_that_answer_together(model: Path, images: list[Path], tmp_path: Path) -> None:
    folds = tmp_path / "folds"
    for k in (1, 2):
        save_model(folds / f"f{k}" / "best.safetensors", k)
        (folds / f"f{k}" / "summary.json").write_text('{"stage": "training"}')
    save_model(folds / "livecell" / "best.safetensors", 3)
    (folds / "livecell" / "summary.json").write_text('{"stage": "pretraining"}')
    models = find_models([folds])
    assert models == [folds / "f1" / "best.safetensors", folds / "f2" / "best.safetensors"]
    assert find_models([folds / "f1", model]) == [models[0], model]
    card = Segmenter.load(models, "cpu").card
    assert card.cell_types["a"].diameter == 21.5
    outputs = Formats(submission=tmp_path / "s.csv", disagreement=tmp_path / "apart")
    options = SegmentOptions(disagreement=True)
    run(folds, images, outputs.submission, outputs=outputs, options=options)
    apart = read_image(tmp_path / "apart" / "i3.png")
    assert apart.dtype == np.uint8
    assert apart.max() > 0
    other = save_model(tmp_path / "other" / "best.safetensors", 4, ("a", "c"))
    with pytest.raises(FlowsegError, match=r"other.*differs from .* in its cell types"):
        run([model, other], images, outputs.submission)
    with pytest.raises(FlowsegError, match=r"holds no best\.safetensors and no finished run"):
        find_models([tmp_path / "images"])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 40), np.uint8),
        np.zeros((40, 1), np.uint16),
        np.full((30, 30), np.nan, np.float32),
        np.linspace(-1, 1, 900, dtype=np.float32).reshape(30, 30),
        np.full((30, 30, 3), 9, np.uint8),
    ],
)
def test_any_image_has_a_row(model: Path, tmp_path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "x.ome.tif", image, photometric="rgb" if image.ndim == 3 else None)
    assert run(model, [tmp_path / "x.ome.tif"], tmp_path / "s.csv").images == 1
    assert (tmp_path / "s.csv").read_text().splitlines()[1].startswith("x.ome,")


def test_what_other_tools_open_is_written_along(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("roifile", reason="ImageJ ROIs need roifile")
    folders = {
        kind: tmp_path / kind for kind in ("labels", "rois", "seg_npy", "label_tiff", "cells")
    }
    outputs = Formats(submission=tmp_path / "s.csv", **folders)
    assert run(model, images[:2], tmp_path / "s.csv", outputs=outputs).cells > 0
    for path in images[:2]:
        labels = read_labels(folders["labels"] / f"{path.stem}.tif")
        assert (folders["rois"] / f"{path.stem}_rois.zip").stat().st_size > 0
        tiff = read_labels(folders["label_tiff"] / f"{path.stem}_labels.tif")
        assert np.array_equal(tiff, labels)
        assert np.array_equal(read_seg(folders["seg_npy"] / f"{path.stem}_seg.npy"), labels)
        table = pd.read_csv(folders["cells"] / f"{path.stem}_cells.csv")
        assert table["area"].tolist() == np.bincount(labels.reshape(-1))[1:].tolist()
        assert table["score"].between(0, 1).all()
        assert table["cellprob"].notna().all()


COLLECTED = ("submission", "coco", "cells")


def all_in_one_file(folder: Path) -> Formats:
    return Formats(
        submission=folder / "s.csv", coco=folder / "coco.json", cells=folder / "cells.csv"
    )


def test_a_stopped_run_completes_the_files_of_all_images(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, stopped = (all_in_one_file(tmp_path / name) for name in ("a", "b"))
    cells = run(model, images, tmp_path, outputs=undisturbed).cells
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, tmp_path, outputs=stopped)
    assert not any(path.exists() for path in stopped.paths.values())
    added = stop_after(99, monkeypatch)
    assert run(model, images, tmp_path, outputs=stopped).cells == cells
    assert added == ["i4", "i5", "i6"]
    for name in COLLECTED:
        assert undisturbed.paths[name].read_bytes() == stopped.paths[name].read_bytes()
    content = json.loads(stopped.paths["coco"].read_text())
    assert len(content["annotations"]) == len(pd.read_csv(stopped.paths["cells"])) == cells
    assert all(0 <= cell["score"] <= 1 for cell in content["annotations"])
    truth = read_truth(stopped.paths["coco"])
    found = read_predictions(stopped.paths["submission"], truth)
    for name, source in truth.items():
        assert source.masks().to_strings() == found[name].masks().to_strings()


def test_predict_and_export_write_the_same(model: Path, images: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("roifile", reason="ImageJ ROIs need roifile")
    names = [name for name, writer in WRITERS.items() if not writer.predict_only]
    predicted, exported = (
        Formats(**{name: tmp_path / side / name for name in names}) for side in "pe"
    )
    options = replace(OPTIONS, cell_type="a")
    run(model, images, tmp_path, outputs=predicted, options=options)
    export_labels(predicted.paths["labels"], exported, images[0].parent, cell_type="a")
    for name in ("submission", "labels", "label_tiff", "rois"):
        sides = [one.paths[name] for one in (predicted, exported)]
        files = [sorted(path.iterdir()) if path.is_dir() else [path] for path in sides]
        assert len(files[0]) == len(files[1]) == (1 if name == "submission" else len(images))
        for one, other in zip(*files, strict=True):
            assert one.name == other.name
            assert one.read_bytes() == other.read_bytes()
    # a prediction knows more: scores, cellprob, and the normalised image
    contents = [json.loads(one.paths["coco"].read_text()) for one in (predicted, exported)]
    for cell in contents[0]["annotations"]:
        del cell["score"]
    assert contents[0] == contents[1]
    for path in images:
        tables = [
            pd.read_csv(one.paths["cells"] / f"{path.stem}_cells.csv")
            for one in (predicted, exported)
        ]
        known = tables[1].columns.drop(["cellprob", "score"])
        pd.testing.assert_frame_equal(tables[0][known], tables[1][known])
        segs = [
            np.load(one.paths["seg_npy"] / f"{path.stem}_seg.npy", allow_pickle=True).item()
            for one in (predicted, exported)
        ]
        assert segs[0].keys() == segs[1].keys()
        assert np.array_equal(segs[0]["masks"], segs[1]["masks"])
        assert np.array_equal(segs[0]["outlines"], segs[1]["outlines"])


def test_a_shard_writes_no_file_of_all_images(
    model: Path, images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(FlowsegError, match="a shard cannot write cells and coco"):
        run(model, images, tmp_path, outputs=all_in_one_file(tmp_path), shard=Shard(1, 2))
    with pytest.raises(FlowsegError, match="no submission to write"):
        run(model, images, tmp_path, outputs=Formats(coco=tmp_path / "c.json"))


def test_paths_are_enough(model: Path, images: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(model.read_bytes())
    out = tmp_path / "s.csv"
    done = predict(str(folder), str(images[0].parent), str(out), device="cpu", options=OPTIONS)
    assert done.images == len(images)
    assert done.submission == out


@pytest.mark.parametrize("slide", [2**24, 64 * 64])
def test_cells_that_the_edge_cuts_are_in_no_output(
    model: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slide: int
) -> None:
    monkeypatch.setattr(room, "_SLIDE", slide)
    every, inner, exported = (
        Formats(**{name: tmp_path / side / name for name in ("submission", "labels", "coco")})
        for side in ("every", "inner", "exported")
    )
    options = replace(OPTIONS, cell_type="a")
    cells = run(model, images, tmp_path, outputs=every, options=options).cells
    options = replace(options, exclude_border=True)
    left = run(model, images, tmp_path, outputs=inner, options=options).cells
    assert 0 < left < cells
    assert len(json.loads(inner.paths["coco"].read_text())["annotations"]) == left
    for path in inner.paths["labels"].iterdir():
        labels = read_labels(path)
        assert labels[1:-1, 1:-1].sum() == labels.sum()
    export_labels(every.paths["labels"], exported, exclude_border=True)
    assert inner.paths["submission"].read_bytes() == exported.paths["submission"].read_bytes()
    words = ["--coco", str(tmp_path / "c.json"), "--exclude-border"]
    assert main(["export", "--labels", str(every.paths["labels"]), *words]) == 0
    assert (tmp_path / "c.json").read_bytes() == exported.paths["coco"].read_bytes()
