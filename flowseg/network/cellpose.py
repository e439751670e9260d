"""The U-Net of Cellpose 1 to 3, and how its checkpoints name its weights.

Cellpose (Stringer et al., Nature Methods 18, 2021) regresses the same flows and cell probability.
Its residual blocks normalise before each convolution and add, in the decoder, a projection of the
image's style: the mean of the deepest features, of length 1. So an output depends on the whole
image that the network sees. Cellpose computes the style of each of its tiles; here it is that of
the image, and tiles give what one pass over the image would.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowseg.config.schema import NetworkConfig
from flowseg.network.architecture import Architecture, NetworkOutput

_EPSILON, _MOMENTUM = 1e-5, 0.05


class _Convolution(nn.Module):
    """Batch norm, ReLU (but for projections), convolution."""

    def __init__(self, inputs: int, outputs: int, size: int, *, relu: bool = True) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(inputs, eps=_EPSILON, momentum=_MOMENTUM)
        # In place: the norm, or the convolution that it was folded into, has just made its input.
        self.relu: nn.Module = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.relu(self.norm(x)))
        return y


class _UpConvolution(nn.Module):
    """A convolution of 3 x 3 of an image that was doubled in size, computed on the small one.

    Taps of a kernel that lie in the same small pixel add up, so that 2 x 2 are left, others for
    each of the four positions of a large pixel in it: 4 products instead of 9.
    """

    def __init__(self, convolution: _Convolution) -> None:
        super().__init__()
        self.norm, self.relu = convolution.norm, convolution.relu
        weight = convolution.conv.weight.detach()
        outputs, inputs = weight.shape[:2]
        # Rows of the small image that the taps -1, 0, 1 of an upper, and of a lower pixel lie in.
        taps = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        kernels = torch.einsum("pit,qju,ocut->qpocji", taps, taps, weight)
        self.conv = nn.Conv2d(inputs, 4 * outputs, 2, padding=1)
        self.conv.weight = nn.Parameter(kernels.reshape(4 * outputs, inputs, 2, 2).contiguous())
        bias: Any = convolution.conv.bias
        self.conv.bias = nn.Parameter(bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        parts: tuple[Tensor, ...] = self.conv(self.relu(self.norm(x))).chunk(4, dim=1)
        count, channels, height, width = parts[0].shape
        doubled = torch.empty(
            (count, channels, 2 * height - 2, 2 * width - 2),
            dtype=parts[0].dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for index, part in enumerate(parts):
            row, column = divmod(index, 2)
            rows = slice(row, height - 1 + row)
            doubled[:, :, row::2, column::2] = part[:, :, rows, column : width - 1 + column]
        return doubled


class _Down(nn.Module):
    """Two residual blocks of the encoder; the first one changes the number of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = _Convolution(inputs, outputs, 1, relu=False)
        self.conv = nn.ModuleList(
            _Convolution(inputs if k == 0 else outputs, outputs, 3) for k in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv[1](self.conv[0](x)).add_(self.project(x))
        y: Tensor = self.conv[3](self.conv[2](x)).add_(x)
        return y


class _Up(nn.Module):
    """Two residual blocks of the decoder, which take the encoder's features and the style."""

    def __init__(self, inputs: int, outputs: int, style: int, *, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.project = _Convolution(inputs, outputs, 1, relu=False)
        self.conv = nn.ModuleList(
            _Convolution(inputs if k == 0 else outputs, outputs, 3) for k in range(4)
        )
        self.style = nn.ModuleList(nn.Linear(style, outputs) for _ in range(3))

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        shifts = [linear(style)[:, :, None, None] for linear in self.style]
        first = self.conv[0]
        projected = self.project(x)  # of each pixel alone: before or after doubling is the same
        if self.upsample:
            projected = _double(projected)
            x = x if isinstance(first, _UpConvolution) else _double(x)
        y = first(x).add_(skip).add_(shifts[0])
        x = self.conv[1](y).add_(projected)
        y = self.conv[2](x + shifts[1]).add_(shifts[2])
        z: Tensor = self.conv[3](y).add_(x)
        return z


class CellposeNetwork(Architecture):
    """Cellpose's U-Net over `config.input_channels` channels: cytoplasm, and maybe nuclei.

    Channels that an image lacks are zero. It knows no cell types: the logits of all are 0. With a
    `style` (B, C) given, it takes the place of the images' own.
    """

    def __init__(self, config: NetworkConfig, cell_types: int, seed: int = 0) -> None:
        super().__init__(config, cell_types)
        widths = (config.input_channels, *config.channels)
        up = (*config.channels, config.channels[-1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(_Down(*pair) for pair in pairwise(widths))
            deepest = len(config.channels) - 1
            self.up = nn.ModuleList(
                _Up(deep, shallow, up[-1], upsample=level < deepest)
                for level, (shallow, deep) in enumerate(pairwise(up))
            )
            self.head = _Convolution(config.channels[0], 3, 1)

    @property
    def receptive_field_radius(self) -> int:
        """Receptive-field radius, in pixels, but for the style."""
        levels = range(len(self.config.channels))
        radius = sum(8 << level for level in levels) + self.stride
        return -(-radius // self.stride) * self.stride

    @property
    def ends(self) -> set[Tensor]:
        """The weights of the first and the last layers."""
        first: Any = self.down[0]
        return {first.project.conv.weight, first.conv[0].conv.weight, self.head.conv.weight}

    def fold(self) -> None:
        """Fold norms that follow a convolution, and those of the projections, into it.

        The first convolutions of the decoder are computed before their input is doubled in size.
        What is folded already, as in a copy of an ensemble, stays as it is.
        """
        first: Any = self.down[0]
        if isinstance(first.project.norm, nn.Identity):
            return
        for block in list(self.modules()):
            if isinstance(block, _Down | _Up):
                _fold_before(block.project)
            if isinstance(block, _Down):
                for first, second in ((0, 1), (2, 3)):
                    _fold_after(block.conv[first], block.conv[second])
            if isinstance(block, _Up) and block.upsample:
                first_convolution: Any = block.conv[0]
                block.conv[0] = _UpConvolution(first_convolution)

    def features(self, images: Tensor) -> Tensor:
        """The deepest features (B, C, h, w), whose mean over the image gives its style."""
        return self._encode(images)[-1]

    def forward(self, images: Tensor, style: Tensor | None = None) -> NetworkOutput:
        """Images (B, C, H, W), normalised and rescaled, to the output maps."""
        self.check_edges(*images.shape[-2:])
        features = self._encode(images)
        if style is None:
            style = unit_style(features[-1].mean(dim=(-2, -1)))
        x = self.up[-1](features[-1], features[-1], style)
        for level in reversed(range(len(self.up) - 1)):
            x = self.up[level](x, features[level], style)
        maps = self.head(x)
        return NetworkOutput(
            maps[:, :2], maps[:, 2], maps.new_zeros((images.shape[0], self.cell_types))
        )

    def _encode(self, images: Tensor) -> list[Tensor]:
        lacking = self.config.input_channels - images.shape[1]
        x = nn.functional.pad(images, (0, 0, 0, 0, 0, lacking)) if lacking else images
        features: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            features.append(x)
        return features


def _double(x: Tensor) -> Tensor:
    """Each pixel becomes four."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def unit_style(mean: Tensor) -> Tensor:
    """The style of mean features (B, C): of length 1."""
    style: Tensor = mean / mean.square().sum(dim=1, keepdim=True).sqrt()
    return style


def _fold_after(first: Any, second: Any) -> None:
    """Fold the norm of the second convolution into the first, which it follows."""
    first.conv = fuse_conv_bn_eval(first.conv, second.norm)
    second.norm = nn.Identity()


def _fold_before(projection: _Convolution) -> None:
    """Fold the norm before a convolution of one pixel, which nothing comes between, into it."""
    norm: Any = projection.norm
    conv = projection.conv
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    with torch.no_grad():
        conv.bias += conv.weight[:, :, 0, 0] @ shift
        conv.weight *= scale[None, :, None, None]
    projection.norm = nn.Identity()


def cellpose_name(name: str) -> str:
    """What Cellpose's checkpoints call one of our weights.

    Examples
    --------
    >>> cellpose_name("down.0.conv.1.norm.weight")
    'downsample.down.res_down_0.conv.conv_1.0.weight'
    >>> cellpose_name("up.2.style.0.bias"), cellpose_name("head.conv.weight")
    ('upsample.up.res_up_2.conv.conv_1.full.bias', 'output.2.weight')
    """
    part, *rest = name.split(".")
    if part == "head":
        return f"output.{_place(rest[0], relu=True)}.{rest[1]}"
    index, kind, *rest = rest
    start = f"downsample.down.res_down_{index}" if part == "down" else f"upsample.up.res_up_{index}"
    if kind == "project":
        return f"{start}.proj.{_place(rest[0], relu=False)}.{rest[1]}"
    number, leaf = rest[0], rest[-1]
    if kind == "style":
        return f"{start}.conv.conv_{int(number) + 1}.full.{leaf}"
    inner = ".conv" if part == "up" and number != "0" else ""
    return f"{start}.conv.conv_{number}{inner}.{_place(rest[1], relu=True)}.{leaf}"


def _place(layer: str, *, relu: bool) -> int:
    """The index of norm and convolution among the layers of Cellpose's block."""
    return 0 if layer == "norm" else 1 + relu
