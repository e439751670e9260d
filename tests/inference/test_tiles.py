"""Tiles answer as one pass does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flowseg.config.schema import NetworkConfig
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.tiles import predict_rescaled
from flowseg.network.build import build_network
from flowseg.network.unet import FlowNetwork


def ensemble(tile: int = 1024) -> Ensemble:
    network = FlowNetwork(NetworkConfig(channels=(4, 6, 8), blocks_per_level=1), 2, seed=1).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(4))
    return Ensemble([network], "cpu", "float32", tile=tile)


@pytest.mark.parametrize("shape", [(300, 200), (257, 131), (90, 400)])
def test_tiles_equal_one_pass(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    whole, tiled = (
        predict_rescaled(made, image, made.diameter).to_host()
        for made in (ensemble(), ensemble(64))
    )
    scale = np.abs(whole.cellprob).max()
    assert scale > 0.1
    np.testing.assert_allclose(tiled.cellprob, whole.cellprob, atol=1e-5 * scale)
    np.testing.assert_allclose(tiled.flows, whole.flows, atol=1e-5 * np.abs(whole.flows).max())


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (5, 7), (8, 8)])
def test_any_size(shape: tuple[int, int]) -> None:
    made = ensemble()
    field = predict_rescaled(made, np.zeros(shape, np.float32), made.diameter)
    assert field.cell_type.shape == (2,)
    resized = field.resized(shape).to_host()
    assert resized.flows.shape == (2, *shape)
    assert resized.cellprob.shape == shape
    assert np.isfinite(resized.cellprob).all()


@pytest.mark.parametrize("pixels", [400_000, 250_000])
def test_a_gpu_short_of_memory_takes_smaller_tiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pixels: int
) -> None:
    image = np.random.default_rng(0).standard_normal((700, 600), dtype=np.float32)
    made = ensemble()
    expected = predict_rescaled(made, image, made.diameter).to_host()
    predict = Ensemble.predict

    def predict_little(self: Ensemble, images: np.ndarray, *rest: Any) -> object:
        if images.size > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, images, *rest)

    monkeypatch.setattr(Ensemble, "predict", predict_little)
    found = predict_rescaled(made, image, made.diameter).to_host()
    np.testing.assert_allclose(found.flows, expected.flows, atol=1e-4 * np.abs(found.flows).max())
    assert f"tiles have {made.tile} pixels now" in caplog.text
    assert made.tile < 1024
    pixels = 1000
    with pytest.raises(torch.OutOfMemoryError):
        predict_rescaled(made, image, made.diameter)


@pytest.mark.parametrize("tta", [1, 8])
def test_tiles_of_a_network_with_style_share_that_of_the_image(tta: int) -> None:
    config = NetworkConfig(kind="cellpose", channels=(3, 4, 5), input_channels=2, stem_stride=1)
    network = build_network(config, 1, seed=2).eval()
    generator = torch.Generator().manual_seed(4)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) / 5)
    image = np.random.default_rng(0).standard_normal((300, 212), dtype=np.float32)
    image[:150] += 2  # so that the style of a part is not that of the whole
    whole, tiled, other = (
        predict_rescaled(Ensemble([network], "cpu", "float32", tile=tile, tta=tta), part, 30.0)
        for tile, part in ((1024, image), (64, image), (1024, image[:150]))
    )
    scale = whole.maps.abs().max()
    torch.testing.assert_close(tiled.maps, whole.maps, rtol=0, atol=2e-5 * float(scale))
    rows = slice(0, 64)  # farther than the receptive field from the cut, but for the style
    assert (other.maps[:, rows] - whole.maps[:, rows]).abs().max() > 1e-3 * scale
