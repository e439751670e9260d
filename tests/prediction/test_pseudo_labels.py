"""A model's own labels: which cells are sure, which images are kept, and training on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from flowseg.arrays.labels import keep_largest_component, renumber
from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.detect import read_records
from flowseg.data.folder import TYPE_TABLE as TABLE
from flowseg.data.sartorius import CELL_TYPES, read_sartorius
from flowseg.errors import FlowsegError
from flowseg.flow.representation import labels_to_flows
from flowseg.flow.residuals import instance_scores
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.images import read_image, read_labels, write_image, write_labels
from flowseg.io.tables import read_table
from flowseg.network.checkpoint import Card, read_card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.prediction.pseudo_labels import (
    Limits,
    confident_cells,
    pseudo_label,
    report,
    type_of_name,
)
from flowseg.synthetic.datasets import write_synthetic_sartorius

pytestmark = pytest.mark.slow

NAMES = ("astros[cereb]_A1", "cort[debris]_B2", "shsy5y[diff]_C3", "well7")
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
    *("--epochs", "1", "--folds", "2", "--fold", "1"),
]


def _settings(diameter: float) -> CellTypeSettings:
    return CellTypeSettings(
        diameter=diameter, cellprob_threshold=-0.5, flow_threshold=0.0, min_size=4
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, a drawn competition; `more`, images without labels; `m.safetensors`, a network."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_sartorius(home / "data", 12, 4, 1, (96, 128))
    (home / "more").mkdir()
    for path, name in zip(sorted((home / "data" / "test").iterdir()), NAMES, strict=True):
        shutil.copyfile(path, home / "more" / f"{name}.png")
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    network = FlowNetwork(config, 3, 1)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    cells = {name: _settings(20.0 + k) for k, name in enumerate(CELL_TYPES)}
    save_network(home / "m.safetensors", network.state_dict(), Card(config, cells))
    return home


@pytest.fixture(scope="module")
def pseudo(home: Path) -> Path:
    """All that the network found."""
    out = home / "pseudo"
    assert main([*command(home, out), "--min-score", "0", "--min-share", "0"]) == 0
    return out


def command(home: Path, out: Path, images: str = "more") -> list[str]:
    model = str(home / "m.safetensors")
    asked = ["--model", model, "--out", str(out), "--device", "cpu"]
    return ["pseudo-label", "--in", str(home / images), *asked]


def save_model_of(cell_type: str, path: Path) -> None:
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    network, card = (
        FlowNetwork(config, 1, 1),
        Card(config, {cell_type: _settings(20)}),
    )
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    save_network(path, network.state_dict(), card)


def fails(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"flowseg {argv[0]}: ")
    return line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("astro[hippo]_E10-4", "astro"),
        ("astros[cereb]_E10-4", "astro"),
        ("cort[debris]_A1", "cort"),
        ("CORT_A1", "cort"),
        ("shsy5y[diff]_A1", "shsy5y"),
        ("0030fd0e6378", None),
        ("my_cort", None),
    ],
)
def test_the_name_tells_the_type(name: str, expected: str | None) -> None:
    assert type_of_name(name, CELL_TYPES) == expected


def test_images_of_a_type_that_the_model_lacks_are_left_out(
    home: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model_of("cort", tmp_path / "m.safetensors")
    shutil.copytree(home / "more", tmp_path / "more")
    argv = [*command(tmp_path, tmp_path / "out"), "--min-score", "0", "--min-share", "0"]
    assert main(argv) == 0
    rows = read_table(tmp_path / "out" / TABLE, ("id",))
    assert rows["id"].tolist() == ["cort[debris]_B2", "well7"]
    assert "1 images left out: the model does not know astro" in caplog.text
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["astro", "0", "1", "0", "0"] in lines
    assert ["shsy5y", "0", "1", "0", "0"] in lines
    for name in NAMES[1::2]:
        (tmp_path / "more" / f"{name}.png").unlink()
    line = fails(capsys, command(tmp_path, tmp_path / "none"))
    assert "cell types that the model does not know: astro, shsy5y; name their" in line
    assert not (tmp_path / "none").exists()


def test_the_competitions_names_mean_nothing_to_a_model_of_other_cells(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model_of("cell", tmp_path / "m.safetensors")
    shutil.copytree(home / "more", tmp_path / "more")
    argv = [*command(tmp_path, tmp_path / "out"), "--min-score", "0", "--min-share", "0"]
    assert main(argv) == 0
    rows = read_table(tmp_path / "out" / TABLE, ("id", "cell_type"))
    assert rows["id"].tolist() == sorted(NAMES)
    assert set(rows["cell_type"]) == {"cell"}
    assert "left out" not in caplog.text


def test_the_longest_type_is_meant() -> None:
    assert type_of_name("skbr3_a", ["sk", "skbr3", "s"]) == "skbr3"


def test_confident_cells_are_those_that_flows_and_cellprob_agree_on() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[4:14, 4:14], labels[4:14, 24:34], labels[24:34, 4:14] = 1, 2, 3
    flows = labels_to_flows(labels)
    flows[:, labels == 2] *= -1  # points outwards
    cellprob = np.where(labels > 0, 5.0, -5.0).astype(np.float32)
    cellprob[labels == 3] = 0.5  # hardly a cell
    cellprob[24:34, 24:34] = 1.0  # taken for a cell, but none was found
    prediction = Prediction(labels, flows, cellprob, "cort", 10.0)
    kept, share = confident_cells(prediction, 0.0, 0.7)
    assert np.array_equal(kept, labels == 1)
    assert share == 1 / 4
    kept, share = confident_cells(prediction, 0.0, 0.5)
    assert np.array_equal(kept, np.where(labels == 3, 2, labels == 1))
    assert share == 2 / 4
    empty = Prediction(np.zeros_like(labels), flows, np.full_like(cellprob, -5), "cort", 10.0)
    assert confident_cells(empty, 0.0, 0.0)[1] == 0


def test_the_folder_can_be_read_and_holds_what_was_found(home: Path, pseudo: Path) -> None:
    assert {path.name for path in pseudo.iterdir()} == {"images", "masks", TABLE, "origin.json"}
    segmenter = Segmenter.load(home / "m.safetensors", "cpu")
    records = read_records(pseudo, CELL_TYPES)
    assert [record.image_id for record in records] == sorted(NAMES)
    types = {record.image_id: record.cell_type for record in records}
    assert [types[name] for name in NAMES[:3]] == ["astro", "cort", "shsy5y"]
    for record in records:
        path = home / "more" / record.image_path.name
        assert record.image_path.read_bytes() == path.read_bytes()
        named = None if record.image_id == "well7" else record.cell_type
        found = segmenter.segment(read_image(path), cell_type=named)
        assert record.cell_type == found.cell_type
        labels = read_labels(pseudo / "masks" / f"{record.image_id}_masks.tif")
        assert labels.max() > 0
        assert np.array_equal(labels, renumber(keep_largest_component(found.labels)))
    assert [r.image_id for r in read_records(pseudo, ("astro",))] == [
        name for name in sorted(NAMES) if types[name] == "astro"
    ]


def test_less_confident_ones_are_left_out(home: Path, pseudo: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(home / "m.safetensors", "cpu")
    images = [home / "more" / f"{name}.png" for name in NAMES]
    found = [segmenter.segment(read_image(path), cell_type="cort") for path in images]
    sure = [instance_scores(one.labels, one.flows, one.cellprob) for one in found]
    cut = float(np.median(np.concatenate(sure)))
    wanted = dict(zip(NAMES, (int((one >= cut).sum()) for one in sure), strict=True))
    some = Limits(cut, 0)
    models = [home / "m.safetensors"]
    done = pseudo_label(models, images, tmp_path / "a", cell_type="cort", limits=some, device="cpu")
    assert {row.id: row.cells for row in done.kept} == {k: n for k, n in wanted.items() if n}
    assert 0 < sum(row.cells for row in done.kept) < sum(row.found for row in done.kept)
    shares = sorted(row.share for row in done.kept)
    few = Limits(cut, shares[-1] - 1e-4)
    best = pseudo_label(models, images, tmp_path / "b", cell_type="cort", limits=few, device="cpu")
    assert [row.share for row in best.kept] == [share for share in shares if share >= few.share]
    assert len(best.kept) + len(best.left_out) == len(images) > len(best.kept)
    assert len(list((tmp_path / "b" / "images").iterdir())) == len(best.kept)
    rows = read_table(tmp_path / "b" / TABLE, ("id", "cell_type"))
    assert rows["id"].tolist() == [row.id for row in best.kept]
    assert report(best).splitlines()[1].split()[:2] == ["cort", str(len(best.kept))]


def test_bad_input_is_one_line_and_leaves_nothing(
    home: Path, pseudo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = command(home, out)
    assert "is no empty folder" in fails(capsys, command(home, pseudo))
    assert "from 0 to 1, not 1.5" in fails(capsys, [*argv, "--min-score", "1.5"])
    assert "from 0 to 1, not nan" in fails(capsys, [*argv, "--min-share", "nan"])
    assert "knows no cell type 'hela'" in fails(capsys, [*argv, "--cell-type", "hela"])
    assert "none of 4 images has enough" in fails(capsys, [*argv, "--min-score", "1"])
    assert "is neither here nor" in fails(capsys, command(home, out, "none"))
    assert list(tmp_path.iterdir()) == []


def test_bad_images_are_told_and_the_rest_is_done(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(home / "more", tmp_path / "more")
    (tmp_path / "more" / "cort_bad.png").write_bytes(b"no image")
    tifffile.imwrite(tmp_path / "more" / "cort_two.tif", np.zeros((2, 64, 64), np.uint8))
    shutil.copyfile(home / "m.safetensors", tmp_path / "m.safetensors")
    argv = [*command(tmp_path, tmp_path / "out"), "--min-score", "0", "--min-share", "0"]
    assert main(argv) == 1
    assert "images that could not be done: 2" in capsys.readouterr().out
    assert "cort_bad.png" in caplog.text
    assert "cort_two.tif: is no file of one image" in caplog.text
    assert len(read_records(tmp_path / "out", CELL_TYPES)) == 4


def train(home: Path, out: Path, *more: str) -> list[str]:
    return ["train", "--data", str(home / "data"), "--out", str(out), *TINY, *more]


def test_trained_on_and_never_validated_on(
    home: Path, pseudo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pseudo, tmp_path / "pseudo1")
    extra = ["--extra", str(tmp_path / "pseudo{fold}"), "--extra-weight", "1"]
    run, plain = tmp_path / "run", tmp_path / "plain"
    assert main(train(home, run, *extra)) == 0
    assert main(train(home, plain)) == 0
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, plain)]
    assert summaries[0]["validation_images"] == summaries[1]["validation_images"]
    cards = [read_card(folder / "last.safetensors").provenance for folder in (run, plain)]
    assert [card["extra_images"] for card in cards] == [4, 0]
    config = load_config(path=run / "config.yaml")
    assert (config.data.extra, config.data.extra_weight) == (extra[1], 1)
    before = (run / "last.safetensors").read_bytes()
    assert before != (plain / "last.safetensors").read_bytes()
    assert main(train(home, run, *extra, "--resume")) == 0
    assert (run / "last.safetensors").read_bytes() == before
    other = [*extra[:3], "0.25", "--resume"]
    assert "data.extra_weight 1.0 -> 0.25" in fails(capsys, train(home, run, *other))
    assert "data.extra" in fails(capsys, train(home, run, "--resume"))
    masks = tmp_path / "pseudo1" / "masks" / f"{NAMES[0]}_masks.tif"
    labels = read_labels(masks)
    labels[labels == 1] = 0
    write_labels(masks, labels)
    line = fails(capsys, train(home, run, *extra, "--resume"))
    assert "was started with other settings: extra " in line


def test_labelled_images_are_no_extra_ones(
    home: Path, pseudo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = tmp_path / "extra"
    shutil.copytree(pseudo, extra)
    record = read_sartorius(home / "data")[0]
    shutil.copyfile(record.image_path, extra / "images" / record.image_path.name)
    labels = np.ones(record.shape, np.int32)
    write_labels(extra / "masks" / f"{record.image_id}_masks.tif", labels)
    line = fails(capsys, train(home, tmp_path / "run", "--extra", str(extra)))
    assert f"{record.image_id}.png: has no cell type in {TABLE}" in line
    with (extra / TABLE).open("a") as file:
        file.write(f"{record.image_id},{record.cell_type},1,1,1\n")
    line = fails(capsys, train(home, tmp_path / "run", "--extra", str(extra)))
    assert f"1 of its images are among the labelled ones, first '{record.image_id}'" in line
    line = fails(capsys, train(home, tmp_path / "run", "--extra", str(tmp_path / "none")))
    assert "is no folder of extra images" in line
    weight = ("--extra", str(extra), "--extra-weight", "-1")
    line = fails(capsys, train(home, tmp_path / "run", *weight))
    assert "data.extra_weight must be greater than or equal to 0" in line
    assert not (tmp_path / "run").exists()


def test_a_table_without_the_types_that_are_wanted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    write_labels(tmp_path / "a_masks.tif", np.eye(8, dtype=np.int32))
    (tmp_path / TABLE).write_text("id,cell_type\na,cort\n")
    assert [record.cell_type for record in read_records(tmp_path)] == ["cort"]
    with pytest.raises(FlowsegError, match="lists no image of astro"):
        read_records(tmp_path, ("astro",))
