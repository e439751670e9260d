"""Writes cellpose_reference.npz: run by hand, with a Python that has cellpose 3.1.

Networks of random weights, images, and what Cellpose's own network makes of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

WIDTHS = {"grey": (1, 2, 3, 4), "two": (2, 3, 4, 5, 6)}


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
    np.savez_compressed(Path(__file__).with_name("cellpose_reference.npz"), **arrays)


if __name__ == "__main__":
    main()
