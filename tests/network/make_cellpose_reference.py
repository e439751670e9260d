"""Writes cellpose_reference.npz: run by hand, with a Python that has cellpose 3.1.

Networks of random weights, images, and what Cellpose's own network makes of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

WIDTHS = {"grey": (1, 2, 3, 4), "two": (2, 3, 4, 5, 6)}
TILED_SHAPE, ZOOM = (150, 313), 1.4  # of an image that takes several tiles


def tiled(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """What Cellpose's tiles make of an image, each ninth pixel; the style only has to fit."""
    from cellpose import core, transforms

    class WideStyle(torch.nn.Module):
        nout, mkldnn = 3, False
        device = torch.device("cpu")

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps, style, _ = network(images)
            return maps, torch.nn.functional.pad(style, (0, 256 - style.shape[1]))

    y, x = np.mgrid[: TILED_SHAPE[0], : TILED_SHAPE[1]]
    image = (np.sin(y / 7) * np.cos(x / 11 + y / 30) + (x > 200)).astype(np.float32)
    scaled = transforms.resize_image(image, *(int(edge * ZOOM) for edge in TILED_SHAPE))
    maps, _ = core.run_net(WideStyle(), np.stack([scaled, 0 * scaled], 2)[None])
    maps = transforms.resize_image(maps, *TILED_SHAPE)[0]
    return {"tiled/maps": maps[::9, ::9]}


def main() -> None:
    from cellpose.resnet_torch import CPnet

    arrays: dict[str, np.ndarray] = {}
    for name, widths in WIDTHS.items():
        torch.manual_seed(len(widths))
        network = CPnet(list(widths), 3, 3).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.2)
        network.diam_labels.data[:] = 21.5
        images = torch.randn(2, widths[0], 24, 40)
        with torch.no_grad():
            maps, _, _ = network(images)
        arrays |= {
            f"{name}/weight/{key}": value.numpy() for key, value in network.state_dict().items()
        }
        arrays |= {f"{name}/images": images.numpy(), f"{name}/maps": maps.numpy()}
        if name == "two":
            arrays |= tiled(network)
    np.savez_compressed(Path(__file__).with_name("cellpose_reference.npz"), **arrays)


if __name__ == "__main__":
    main()
