"""Drawn neurons, and the data sets made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from flowseg.data.livecell import read_livecell
from flowseg.data.sartorius import COLUMNS, read_annotations, read_sartorius
from flowseg.errors import FlowsegError
from flowseg.io.images import read_image
from flowseg.io.paths import find_images
from flowseg.io.tables import read_table
from flowseg.synthetic.datasets import (
    TEST_TRUTH,
    write_synthetic_livecell,
    write_synthetic_sartorius,
)
from flowseg.synthetic.render import APPEARANCES, draw_neurons


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


class TestDrawing:
    @pytest.mark.parametrize("cell_type", APPEARANCES)
    def test_cells_look_like_their_type(self, cell_type: str) -> None:
        """Numbers of the real images: median count, mean diameter, spread of the grey values."""
        diameter, cells, spread = {
            "shsy5y": (17, (200, 500), (8, 20)),
            "astro": (34, (25, 90), (4, 12)),
            "cort": (17.5, (20, 80), (7, 20)),
        }[cell_type]
        image, masks = draw_neurons((520, 704), cell_type, np.random.default_rng(1))
        areas = masks.areas()
        assert image.shape == (520, 704)
        assert image.dtype == np.uint8
        assert cells[0] <= len(masks) <= cells[1]
        assert np.sqrt(4 * areas.mean() / np.pi) == pytest.approx(diameter, rel=0.12)
        assert image.mean() == pytest.approx(128, abs=4)
        assert spread[0] < image.std() < spread[1]
        covered = np.sum([masks.dense(i) for i in range(len(masks))], axis=0)
        assert 0.002 < (covered > 1).sum() / (covered > 0).sum() < 0.056
        inside = image[covered > 0].mean()
        rim = ndimage.binary_dilation(covered > 0, iterations=2) & (covered == 0)
        assert inside < 128 < image[rim].mean()  # a dark body in a bright rim

    @pytest.mark.parametrize("cell_type", APPEARANCES)
    def test_each_mask_is_one_piece_without_holes(self, cell_type: str) -> None:
        _, masks = draw_neurons((200, 220), cell_type, np.random.default_rng(5))
        assert len(masks) > 2
        for index in range(len(masks)):
            mask = masks.dense(index)
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
            assert ndimage.label(~np.pad(mask, 1))[1] == 1
            assert mask.sum() >= 40

    def test_same_state_same_image(self) -> None:
        draws = [draw_neurons((90, 80), "astro", np.random.default_rng(3)) for _ in range(2)]
        np.testing.assert_array_equal(draws[0][0], draws[1][0])
        assert draws[0][1].to_strings() == draws[1][1].to_strings()
        other, _ = draw_neurons((90, 80), "astro", np.random.default_rng(4))
        assert (other != draws[0][0]).any()

    @pytest.mark.parametrize("shape", [(32, 32), (33, 400), (400, 35)])
    def test_small_and_odd_shapes(self, shape: tuple[int, int]) -> None:
        for cell_type in APPEARANCES:
            for seed in range(10):
                image, masks = draw_neurons(shape, cell_type, np.random.default_rng(seed), cells=9)
                assert image.shape == masks.shape == shape
                assert len(masks) <= 9

    def test_the_number_asked_for(self) -> None:
        assert len(draw_neurons((300, 300), "cort", np.random.default_rng(0), cells=5)[1]) == 5
        assert len(draw_neurons((300, 300), "cort", np.random.default_rng(0), cells=0)[1]) == 0

    def test_refusals(self, rng: np.random.Generator) -> None:
        with pytest.raises(FlowsegError, match="unknown cell type 'hela'"):
            draw_neurons((64, 64), "hela", rng)
        with pytest.raises(FlowsegError, match="at least 32 x 32"):
            draw_neurons((64, 31), "cort", rng)


class TestSartorius:
    def test_the_layout_of_the_competition(self, tmp_path: Path) -> None:
        write_synthetic_sartorius(tmp_path, 7, 3, seed=1, shape=(96, 128))
        records = read_sartorius(tmp_path)
        assert len(records) == 7
        assert {r.cell_type for r in records} == set(APPEARANCES)
        assert all(r.image().shape == (96, 128) for r in records)
        assert {r.group for r in records if r.cell_type == "cort"} == {"cort_A1"}
        names = [p.stem for p in find_images(tmp_path / "test")]
        truth = read_annotations(tmp_path / TEST_TRUTH)
        assert sorted(names) == list(truth)
        submission = read_table(tmp_path / "sample_submission.csv", ("id", "predicted"))
        assert submission.to_dict("records") == [{"id": i, "predicted": ""} for i in truth]
        assert (tmp_path / "train.csv").read_text().startswith(",".join(COLUMNS) + "\n")

    def test_the_truth_of_an_image_is_what_was_drawn(self, tmp_path: Path) -> None:
        write_synthetic_sartorius(tmp_path, 0, 1, seed=9, shape=(96, 128), cell_types=("astro",))
        rng = np.random.default_rng(9)
        name = rng.bytes(6).hex()
        image, masks = draw_neurons((96, 128), "astro", rng)
        np.testing.assert_array_equal(read_image(tmp_path / "test" / f"{name}.png"), image)
        truth = read_annotations(tmp_path / TEST_TRUTH)[name]
        assert truth.masks.to_strings() == masks.to_strings()

    def test_same_seed_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_synthetic_sartorius(tmp_path / name, 3, 1, seed=2, shape=(64, 64))
        assert contents(tmp_path / "a") == contents(tmp_path / "b")

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("precious")
        with pytest.raises(FlowsegError, match=r"holds a train\.csv already"):
            write_synthetic_sartorius(tmp_path, 1, 1, seed=1)
        assert contents(tmp_path) == {"train.csv": b"precious"}


class TestLivecell:
    def test_masks_come_back_pixel_by_pixel(self, tmp_path: Path) -> None:
        write_synthetic_livecell(tmp_path, 2, 1, seed=1, shape=(160, 200))
        records = read_livecell(tmp_path)
        assert len(records) == 3
        assert {r.cell_type for r in records} == {"shsy5y"}
        rng = np.random.default_rng(1)
        for _ in range(3):
            image, masks = draw_neurons((160, 200), "shsy5y", rng)
            (record,) = [r for r in records if (r.image() == image).all()]
            assert record.masks().to_strings() == masks.to_strings()

    def test_it_is_coco(self, tmp_path: Path) -> None:
        write_synthetic_livecell(tmp_path, 1, 1, seed=1, shape=(96, 96))
        folder = tmp_path / "LIVECell_dataset_2021" / "annotations" / "LIVECell"
        document = json.loads((folder / "livecell_coco_val.json").read_text())
        assert {"images", "annotations", "categories"} <= set(document)
        ids = [a["id"] for a in document["annotations"]]
        assert len(set(ids)) == len(ids) > 0
        cell = document["annotations"][0]
        x, y, width, height = cell["bbox"]
        corners = np.reshape(cell["segmentation"][0], (-1, 2))
        np.testing.assert_allclose(corners.min(0), [x, y], atol=0.01)
        np.testing.assert_allclose(corners.max(0), [x + width, y + height], atol=0.02)

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        write_synthetic_livecell(tmp_path, 1, 0, seed=1, shape=(64, 64))
        before = contents(tmp_path)
        with pytest.raises(FlowsegError, match="holds annotations already"):
            write_synthetic_livecell(tmp_path, 1, 1, seed=2, shape=(64, 64))
        assert contents(tmp_path) == before
