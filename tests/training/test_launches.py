"""What a GPU is asked to do in a step: few operations, since each is launched on its own."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowseg.config.loading import load_config
from flowseg.network.losses import flow_loss
from flowseg.network.unet import FlowNetwork
from flowseg.training.averaging import average_weights
from flowseg.training.optimiser import MuonAdamW

# They compute nothing: views, and memory without contents.
VIEWS = {
    *("alias", "as_strided", "detach", "empty", "empty_like", "expand", "permute", "select"),
    *("slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten"),
    *("unsqueeze", "view", "_unsafe_view", "reshape", "new_empty", "empty_strided"),
}


class Operations(TorchDispatchMode):
    """Counts the operations that compute something on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_of_the_default_network_is_few_operations_without_waiting() -> None:
    config = load_config("all")
    network = FlowNetwork(config.network, len(config.cell_types), seed=0).train()
    optimiser = MuonAdamW(network, 0.01, torch.float32)
    average = average_weights(network, 0.999)
    average.update_parameters(network)
    inside = torch.zeros(2, 32, 32)
    inside[:, 8:24, 8:24] = 1
    flows = torch.stack((inside, -inside), 1)
    operations = Operations()
    for step in range(2):  # the first one also makes the state of the optimiser
        with operations if step else torch.enable_grad():
            output = network(torch.ones(2, 1, 32, 32))
            loss = flow_loss(output, flows, inside, torch.tensor([0, -1]), 5.0)
            network.zero_grad(set_to_none=True)
            loss.total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            average.update_parameters(network)
    # Those that make the host wait for the device are the average's own counter, on the host.
    waiting = {"_local_scalar_dense", "nonzero", "item", "index"}
    assert average.n_averaged.device.type == "cpu"
    assert sum(name in waiting for name in operations.names) <= 4
    assert len(operations.names) < 430
