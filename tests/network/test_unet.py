"""The network: shapes, odd sizes, seeds, receptive field."""

from __future__ import annotations

import pytest
import torch

from flowseg.config.schema import NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.network.unet import FlowNetwork

SMALL = NetworkConfig(channels=(4, 8, 16), blocks_per_level=1)


def test_shapes() -> None:
    network = FlowNetwork(SMALL, 3)
    output = network(torch.zeros(2, 1, 16, 24))
    assert output.flows.shape == (2, 2, 16, 24)
    assert output.cellprob.shape == (2, 16, 24)
    assert output.cell_type.shape == (2, 3)


@pytest.mark.parametrize("stem_stride", [2, 4])
def test_a_stem_of_a_stride_gives_all_pixels(stem_stride: int) -> None:
    config = NetworkConfig(channels=(4, 8), stem_stride=stem_stride)  # type: ignore[arg-type]
    network = FlowNetwork(config, 1).eval()
    edge = 4 * network.stride
    assert network.stride == 2 * stem_stride
    images = torch.randn(1, 1, edge, edge, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        output = network(images)
    assert output.flows.shape == (1, 2, edge, edge)
    assert output.cellprob.shape == (1, edge, edge)
    first = output.cellprob[..., ::stem_stride, ::stem_stride]
    assert not torch.equal(first, output.cellprob[..., 1::stem_stride, ::stem_stride])
    assert not torch.equal(first, output.cellprob[..., ::stem_stride, 1::stem_stride])


def test_odd_size_is_answered_with_the_padded_one() -> None:
    with pytest.raises(FlowsegError, match="multiples of 8: pad it to 24 x 24"):
        FlowNetwork(SMALL, 1)(torch.zeros(1, 1, 17, 24))


def test_seed_decides_the_weights() -> None:
    first, same, other = (FlowNetwork(SMALL, 2, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_weights_do_not_depend_on_torchs_global_seed() -> None:
    torch.manual_seed(1)
    first = FlowNetwork(SMALL, 1, 5).stem.weight
    torch.manual_seed(2)
    assert torch.equal(first, FlowNetwork(SMALL, 1, 5).stem.weight)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("blocks", [1, 2])
def test_nothing_beyond_the_reach_counts(blocks: int, stem_stride: int) -> None:
    config = NetworkConfig(
        channels=(3, 4, 5),
        blocks_per_level=blocks,
        stem_stride=stem_stride,  # type: ignore[arg-type]
    )
    network = FlowNetwork(config, 1, seed=3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    radius = network.receptive_field_radius
    size = 4 * radius
    image = torch.randn(1, 1, network.stride, size, generator=torch.Generator().manual_seed(2))
    changed = image.clone()
    place = 2 * radius + 1
    changed[..., place] += 100
    with torch.inference_mode():
        difference = (network(image).cellprob - network(changed).cellprob).abs().amax(dim=1)[0]
    touched = torch.nonzero(difference > 0).flatten()
    assert touched.numel() > 1
    assert touched.min() >= place - radius
    assert touched.max() <= place + radius
    # A radius twice too long would pass the line above and waste most of each tile.
    assert touched.max() - touched.min() > radius / 2


def test_gradients_reach_every_weight() -> None:
    network = FlowNetwork(SMALL, 2)
    for _ in range(2):  # the zero convolutions open after the first step
        output = network(torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
        loss = sum(part.square().mean() for part in output)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
