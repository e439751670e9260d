"""The demo from training to report, with as few images, epochs and crops as will do."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowseg import demo
from flowseg.cli import main
from flowseg.io.images import read_image

pytestmark = pytest.mark.slow

TINY = (
    *(
        "network.channels=[4, 8]",
        "network.blocks_per_level=1",
        "augment.crop_size=64",
        "data.folds=2",
    ),
    *(
        "pretraining.epochs=1",
        "pretraining.crops_per_epoch=4",
        "training.epochs=1",
        "training.crops_per_epoch=4",
    ),
)


def test_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SETTINGS", TINY)
    monkeypatch.setattr(demo, "TRAIN_IMAGES", 12)
    monkeypatch.setattr(demo, "TEST_IMAGES", 1)
    monkeypatch.setattr(demo, "LIVECELL_IMAGES", (1, 1))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for line in printed.splitlines()[:-2]:
        path = Path(line.rsplit("  ", 1)[-1].strip())
        assert not str(path).startswith(str(out)) or path.exists(), line
    assert "competition score on images not trained on: " in printed
    assert (out / "submission.csv").is_file()
    assert (out / "data.html").stat().st_size > 10_000
    assert (out / "scores.html").stat().st_size > 10_000
    (fields,) = (out / "fields").iterdir()
    assert read_image(fields).shape == (520, 2 * 704, 3)
    assert main(["demo", "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
