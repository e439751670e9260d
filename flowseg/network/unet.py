"""The residual U-Net: one grey image in; flows, cell probability and cell type out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowseg.config.schema import NetworkConfig
from flowseg.network.architecture import Architecture, NetworkOutput


class _Residual(nn.Module):
    """A pre-activation residual block: two 3x3 convolutions beside an identity path."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu_(self.norm1(x)))
        y = self.conv2(torch.relu_(self.norm2(y)))
        total: Tensor = self.skip(x) + y
        return total


class FlowNetwork(Architecture):
    """A residual U-Net over grey images that tells `cell_types` types apart.

    Notes
    -----
    A stem of a stride above 1 lets the network compute at a part of the image's resolution; its
    head then gives all pixels of each position at once [2]_.

    Convolutions start from He's normal distribution with a zero last convolution in each
    residual block, so that a fresh network is close to its identity paths [1]_.

    References
    ----------
    .. [1] Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    .. [2] Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
       Sub-Pixel Convolutional Neural Network", 2016.
    """

    def __init__(self, config: NetworkConfig, cell_types: int, seed: int = 0) -> None:
        super().__init__(config, cell_types)
        channels = config.channels
        stride = config.stem_stride
        self.stem = nn.Conv2d(1, channels[0], 3 * stride, stride=stride, padding=stride)
        self.down = nn.ModuleList()
        inputs = channels[0]
        for width in channels:
            blocks = [_Residual(inputs, width)]
            blocks += [_Residual(width, width) for _ in range(config.blocks_per_level - 1)]
            self.down.append(nn.Sequential(*blocks))
            inputs = width
        self.lift = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1)
            for deep, shallow in zip(channels[1:], channels, strict=False)
        )
        self.up = nn.ModuleList(_Residual(width, width) for width in channels[:-1])
        self.norm = nn.BatchNorm2d(channels[0])
        self.head = nn.Conv2d(channels[0], 3 * stride**2, 1)
        self.type_head = nn.Linear(channels[-1], cell_types)
        self._initialise(torch.Generator().manual_seed(seed))

    @property
    def receptive_field_radius(self) -> int:
        """Receptive-field radius, in pixels, rounded up to a multiple of `stride`."""
        levels = range(len(self.config.channels))
        down = sum(2 * self.config.blocks_per_level << level for level in levels)
        up = sum(2 << level for level in levels[:-1])
        # The stem's one pixel of its own level, and the rounding of position by the pools.
        radius = (1 + down + up) * self.config.stem_stride + self.stride
        return -(-radius // self.stride) * self.stride

    @property
    def ends(self) -> set[Tensor]:
        """The weights of the first and the last layers."""
        return {self.stem.weight, self.head.weight, self.type_head.weight}

    def fold(self) -> None:
        """Fold batch norms that follow a convolution into it."""
        for block in self.modules():
            if isinstance(block, _Residual) and isinstance(block.norm2, nn.BatchNorm2d):
                block.conv1 = fuse_conv_bn_eval(block.conv1, block.norm2)
                block.norm2 = nn.Identity()

    def forward(self, images: Tensor) -> NetworkOutput:
        """Images (B, 1, H, W), normalised and rescaled, to the output maps."""
        self.check_edges(*images.shape[-2:])
        x = self.stem(images)
        skips = []
        for level, blocks in enumerate(self.down):
            if level > 0:
                x = nn.functional.max_pool2d(x, 2)
            x = blocks(x)
            skips.append(x)
        pooled = x.mean(dim=(-2, -1))
        for level in reversed(range(len(self.up))):
            lifted = self.lift[level](x)
            x = nn.functional.interpolate(lifted, scale_factor=2.0, mode="nearest") + skips[level]
            x = self.up[level](x)
        maps = self.head(torch.relu(self.norm(x)))
        if self.config.stem_stride > 1:
            maps = nn.functional.pixel_shuffle(maps, self.config.stem_stride)
        return NetworkOutput(maps[:, :2], maps[:, 2], self.type_head(pooled))

    def _initialise(self, generator: torch.Generator) -> None:
        if self.head.weight.is_meta:
            return  # shapes only, and torch would load its compiler to draw none of their values
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _Residual):
                nn.init.zeros_(module.conv2.weight)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.normal_(self.type_head.weight, std=0.01, generator=generator)
