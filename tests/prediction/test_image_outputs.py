"""The outputs of an image that another machine made."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from flowseg.formats.writers import Formats
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Segmenter
from flowseg.io.image_source import list_images
from flowseg.io.images import write_image
from flowseg.prediction import image_outputs
from flowseg.prediction.image_outputs import segment_to_bytes, write_bytes
from helpers.runs import differences, save_wild_network


@pytest.mark.parametrize("labels_format", ["tiff", "zarr"])
def test_what_is_sent_is_what_would_be_written(
    tmp_path: Path,
    rng: np.random.Generator,
    labels_format: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if labels_format == "zarr":
        pytest.importorskip("zarr", reason="zarr is not installed")
    write_image(tmp_path / "a.png", rng.integers(0, 255, (32, 40), dtype=np.uint8))
    (image,) = list_images(tmp_path / "a.png")
    save_wild_network(tmp_path / "wild.safetensors")
    segmenter = Segmenter.load(tmp_path / "wild.safetensors", "cpu")

    def formats(home: str) -> Formats:
        folders = {name: tmp_path / home / name for name in ("labels", "overlays", "seg_npy")}
        made = Formats(
            submission=tmp_path / home / "s.csv",
            labels_format=labels_format,  # type: ignore[arg-type]
            **folders,  # type: ignore[arg-type]
        )
        made.check()
        return made

    grey = image_outputs.preprocess(segmenter, image.read())
    prediction = segmenter.segment(image.read())
    parts = image_outputs.write_image(image, grey, prediction, formats("here"))

    written = image_outputs.write_image

    def odd(*arguments: object) -> dict[str, object]:
        logging.getLogger("flowseg.io").warning("%s is odd", "a.png")
        return written(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image_outputs, "write_image", odd)
    sent = segment_to_bytes(segmenter, image, SegmentOptions(), formats("there"))
    assert not any(path.is_file() for path in (tmp_path / "there").rglob("*"))
    caplog.clear()
    assert write_bytes(image, pickle.loads(pickle.dumps(sent)), formats("there")) == parts
    assert differences(tmp_path / "here", tmp_path / "there") == []
    assert caplog.messages == ["a.png is odd"]
