"""What the plugin is made of, without a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowseg import competition_score, flows_to_labels, labels_to_flows
from flowseg.arrays.labels import clear_border, renumber
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.folder import read_folder
from flowseg.errors import FlowsegError
from flowseg.formats.seg_npy import read_seg
from flowseg.metrics.competition import MISSED
from flowseg.napari.annotated import save_annotated
from flowseg.napari.live_field import LiveField, Thresholds
from flowseg.napari.outcomes import outcome_image
from flowseg.napari.readers import reader_of
from flowseg.napari.samples import drawn_neurons
from flowseg.napari.writers import write_cells
from flowseg.synthetic.render import draw_neurons


def drawn_labels() -> np.ndarray:
    _, masks = draw_neurons((96, 128), "shsy5y", np.random.default_rng(1))
    return renumber(masks_to_labels(masks))


@pytest.mark.parametrize("level", [-1.0, 0.5])
@pytest.mark.parametrize(("flow_threshold", "min_size"), [(0.0, 0), (0.4, 60)])
def test_a_kept_field_gives_the_labels_of_its_flows(level, flow_threshold, min_size) -> None:
    labels = drawn_labels()
    flows = labels_to_flows(labels)
    noise = np.random.default_rng(0).normal(0, 1, labels.shape)
    cellprob = np.where(labels > 0, 2, -2) + noise
    field = LiveField(flows, cellprob.astype(np.float32))
    for exclude in (False, True):
        found = field.labels(
            Thresholds(
                cellprob_threshold=level,
                flow_threshold=flow_threshold,
                min_size=min_size,
                exclude_border=exclude,
            )
        )
        whole = flows_to_labels(
            flows,
            cellprob,
            cellprob_threshold=level,
            flow_threshold=flow_threshold,
            min_size=min_size,
        )
        np.testing.assert_array_equal(found, renumber(clear_border(whole)) if exclude else whole)


def test_sample_is_as_large_as_an_image_of_the_competition() -> None:
    ((image, attributes, kind),) = drawn_neurons()
    assert image.shape == (520, 704)
    assert kind == "image"
    assert attributes == {"name": "drawn neurons"}


def test_seg_npy_goes_out_and_comes_back(tmp_path: Path) -> None:
    labels, file = drawn_labels(), str(tmp_path / "a_seg.npy")
    assert write_cells(file, labels, {"name": "a"}) == [file]
    reader = reader_of(file)
    assert reader is not None
    ((data, attributes, kind),) = reader(file)
    np.testing.assert_array_equal(data, labels)
    assert (attributes["name"], kind) == ("a", "labels")
    assert reader_of([file, "b.tif"]) is None


@pytest.mark.parametrize("suffix", [".geojson", ".csv", ".zip"])
def test_other_formats_are_written(suffix: str, tmp_path: Path) -> None:
    if suffix == ".zip":
        pytest.importorskip("roifile")
    file = tmp_path / f"a{suffix}"
    write_cells(str(file), drawn_labels(), {})
    assert file.stat().st_size > 100


def test_a_stack_is_refused_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    file = tmp_path / "a_seg.npy"
    with pytest.raises(FlowsegError, match="has 3 axes"):
        write_cells(str(file), np.zeros((2, 9, 9), np.int32), {})
    assert not file.exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a_seg.npy"
    file.write_bytes(b"nothing")
    reader = reader_of(str(file))
    assert reader is not None
    with pytest.raises(FlowsegError, match=r"a_seg\.npy"):
        reader(str(file))
    with pytest.raises(FlowsegError):
        read_seg(file)


def test_outcomes_are_those_of_the_metric() -> None:
    truth, pred = drawn_labels(), drawn_labels()
    pred[pred == 3] = 0
    pred[pred == 5] = 6
    found = outcome_image(truth, pred)
    assert found.score == competition_score(truth, pred)
    assert (found.image[truth == 3] == 1 + MISSED).all()
    assert (found.image > 0).sum() == ((truth > 0) | (pred > 0)).sum()
    assert ", 1 missed" in found.summary
    y, x = np.argwhere(truth == 3).mean(axis=0)
    assert any(np.allclose(place, (y, x)) for place in found.mistakes)
    assert found.mistakes == sorted(found.mistakes)


def test_nothing_against_nothing() -> None:
    found = outcome_image(np.zeros((5, 6), np.int64), np.zeros((5, 6), np.uint8))
    assert (found.score, found.mistakes, found.image.any()) == (1, [], False)


def test_corrected_cells_are_saved_as_training_reads_them(tmp_path: Path) -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[2:12, 2:12] = 4
    labels[5, 5] = 0  # a hole
    labels[20:30, 2:12], labels[35:39, 40:44] = 7, 7  # two pieces
    labels[2:4, 40:42] = 9  # a speck
    image = np.linspace(-1, 1, 2000).reshape(40, 50)
    image[0, 0] = np.nan
    text = save_annotated(tmp_path / "new", "a:b", image, labels)
    assert text.endswith(
        "a_b.tif: 2 cells; 1 in pieces (the largest stays), 1 with holes (filled), "
        "1 of fewer than 10 pixels (left out)"
    )
    (record,) = read_folder(tmp_path / "new")
    assert record.image().shape == (40, 50)
    assert record.masks().areas().tolist() == [100, 100]
    save_annotated(tmp_path / "new", "a:b", image, np.where(labels == 4, 4, 0))
    (record,) = read_folder(tmp_path / "new")
    assert record.masks().areas().tolist() == [100]
    save_annotated(tmp_path / "new", "a:b", image[::-1], labels[::-1])
    assert [one.image_id for one in read_folder(tmp_path / "new")] == ["a_b", "a_b_2"]


def test_only_the_annotated_part_is_saved(tmp_path: Path) -> None:
    image, labels = np.zeros((300, 40), np.uint8), drawn_labels()[:, :40]
    labels = np.pad(labels, ((0, 300 - 96), (0, 0)))
    save_annotated(tmp_path, "a", image, labels, (slice(0, 96), slice(10, 40)))
    (record,) = read_folder(tmp_path)
    assert record.image().shape == (96, 30)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(np.zeros((9, 9), int), "there is no cell"), (np.ones((9, 8), int), "9 x 9 .* 8 x 9")],
)
def test_what_cannot_be_learned_from(labels, problem: str, tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match=problem):
        save_annotated(tmp_path / "new", "a", np.zeros((9, 9), np.uint8), labels)
    assert not (tmp_path / "new").exists()
