"""Views and ensembles: vectors turn along, means are means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flowseg.config.schema import NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import DeviceField
from flowseg.network.unet import FlowNetwork


def network(seed: int) -> FlowNetwork:
    made = FlowNetwork(NetworkConfig(channels=(4, 6), blocks_per_level=1), 2, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return made


def ensemble(*seeds: int, **options: Any) -> Ensemble:
    return Ensemble([network(seed) for seed in seeds], "cpu", "float32", **options)


def ask(asked: Ensemble, images: np.ndarray, disagreement: bool = False) -> Any:
    """The answer for a batch of one, on the host."""
    (answer,) = asked.predict(images, disagreement)
    apart = answer.disagreement
    return DeviceField(
        maps=answer.maps.cpu().numpy()[None],
        cell_type=answer.cell_type[None],
        disagreement=None if apart is None else apart.cpu().numpy()[None],
    )


def turned(maps: np.ndarray) -> np.ndarray:
    """Maps (3, h, w) of an image, turned counter-clockwise with the image."""
    dy, dx, prob = np.rot90(maps, axes=(1, 2))
    return np.stack((-dx, dy, prob))


def mirrored(maps: np.ndarray) -> np.ndarray:
    dy, dx, prob = maps[..., ::-1]
    return np.stack((dy, -dx, prob))


IMAGE = np.random.default_rng(1).standard_normal((1, 24, 32), dtype=np.float32)


@pytest.mark.parametrize("tta", [4, 8])
def test_the_answer_turns_with_the_image(tta: int) -> None:
    asked = ensemble(1, tta=tta)
    upright = ask(asked, IMAGE)
    around = ask(asked, np.rot90(IMAGE, axes=(1, 2)))
    np.testing.assert_allclose(around.maps[0], turned(upright.maps[0]), atol=1e-5)
    np.testing.assert_allclose(around.cell_type, upright.cell_type, atol=1e-5)
    assert not np.allclose(
        ask(ensemble(1), np.rot90(IMAGE, axes=(1, 2))).maps[0],
        turned(ask(ensemble(1), IMAGE).maps[0]),
        atol=1e-2,
    )


def test_two_views_turn_upside_down_and_eight_mirror() -> None:
    asked = ensemble(1, tta=2)
    upright = ask(asked, IMAGE).maps[0]
    around = ask(asked, np.rot90(IMAGE, 2, axes=(1, 2))).maps[0]
    np.testing.assert_allclose(around, turned(turned(upright)), atol=1e-5)
    asked = ensemble(1, tta=8)
    flipped = ask(asked, IMAGE[..., ::-1]).maps[0]
    np.testing.assert_allclose(flipped, mirrored(ask(asked, IMAGE).maps[0]), atol=1e-5)


def test_several_networks_answer_with_their_mean() -> None:
    one, two, both = (ask(ensemble(*seeds), IMAGE, True) for seeds in ([1], [2], [1, 2]))
    np.testing.assert_allclose(both.maps, (one.maps + two.maps) / 2, atol=1e-6)
    np.testing.assert_allclose(both.cell_type, (one.cell_type + two.cell_type) / 2, atol=1e-6)
    apart = np.sqrt(np.square((one.maps - two.maps)[:, :2] / 2).sum(axis=1))
    np.testing.assert_allclose(both.disagreement, apart, atol=1e-3)
    assert apart.max() > 0.1
    assert one.disagreement is not None
    assert one.disagreement.max() < 1e-3


def test_the_network_given_is_left_as_it_was() -> None:
    given = network(3).eval()
    before = {key: value.clone() for key, value in given.state_dict().items()}
    image = torch.from_numpy(IMAGE)[:, None]
    with torch.inference_mode():
        expected = given(image)
    found = ask(Ensemble([given], "cpu", "float32"), IMAGE)
    np.testing.assert_allclose(found.maps[0, 2], expected.cellprob[0], atol=1e-4)
    after = given.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_cannot_answer_together_is_refused() -> None:
    with pytest.raises(FlowsegError, match="tta must be one of"):
        ensemble(1, tta=3)
    other = FlowNetwork(NetworkConfig(channels=(4, 6), blocks_per_level=1, target_diameter=20.0), 2)
    with pytest.raises(FlowsegError, match="different diameters"):
        Ensemble([network(1), other], "cpu", "float32")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_answers_as_the_cpu_does() -> None:
    expected = ask(ensemble(1, 2, tta=4), IMAGE, True)
    members = [network(1), network(2)]
    found = ask(Ensemble(members, "cuda", "float32", tta=4), IMAGE, True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)


@pytest.mark.slow
def test_images_of_all_sizes_share_two_compiled_graphs() -> None:
    graphs: list[Any] = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = ensemble(1, tta=8)
    compiled._run = [torch.compile(compiled.networks[0], backend=count, dynamic=True)]
    for shape in ((160, 240), (240, 160), (176, 176), (256, 160)):
        for size in (1, 2, 3):
            compiled.predict(np.zeros((size, *shape), np.float32))
    torch.compiler.reset()
    assert len(graphs) == 2
