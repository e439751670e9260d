"""The CUDA kernels against the CPU, on a device where there is one and in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flowseg import FlowsegError, flows_to_labels, labels_to_flows
from helpers.shapes import blobs, smooth_noise

pytestmark = pytest.mark.slow

INTERPRETED = """
import numpy as np
from helpers.shapes import blobs, smooth_noise
from flowseg.flow import backend, cuda, diffusion, dynamics, residuals
from flowseg.flow.representation import find_instances, flows_to_labels
from flowseg.flow.runs import find_runs, group

rng = np.random.default_rng(0)
labels = blobs(rng, (32, 40))
labels[:4] = 0
labels[1, 1:39] = 999
labels = np.pad(labels, ((0, 0), (0, 200)))
labels[8:10, 45:235] = 1000  # its far ends are too cold for single precision
runs = find_runs(labels)
order, offsets = group(runs.components, runs.total)
table = np.stack((runs.rows, runs.starts, runs.stops, runs.ids))[:, order]
places = table[0].astype(np.int64) * labels.shape[1] + table[1]
expected, found = np.zeros((2, 2, labels.size), dtype=np.float32)
diffusion.diffuse(table, offsets, places, expected)
cuda.diffuse(table, offsets, places, found, device="cpu")
assert np.hypot(*expected).sum() > 500
assert np.abs(found - expected).max() < 1e-6, np.abs(found - expected).max()

flows = expected.reshape(2, *labels.shape)
flows = flows + smooth_noise(rng, flows.shape, 0.5)
cellprob = np.where(labels > 0, 1, -1).astype(np.float32)
maps = cuda.to_device(np.stack((*flows, cellprob)), "cpu")
for niter in (1, 200):
    expected = dynamics.follow_flows(flows, cellprob, 0.0, niter)
    assert np.array_equal(cuda.follow_flows(flows, maps, 0.0, niter), expected)
expected = residuals.flow_residuals(table, offsets, flows)
assert expected.max() > 10
assert np.allclose(cuda.flow_residuals(maps, table, offsets), expected, rtol=1e-5)
backend._cuda, backend._on = (lambda device: cuda), (lambda device, work: work)
cells = find_instances(flows, cellprob, device="cuda", on_device=maps)
assert np.array_equal(cells.labels(cells.keep_mask(0.4, 15)), flows_to_labels(flows, cellprob))
assert cells.areas.max() > 50
nothing = np.zeros((4, 0), np.int32), np.zeros(1, np.int64)
assert cuda.flow_residuals(maps, *nothing).shape == (0,)
assert residuals.flow_residuals(*nothing, flows).shape == (0,)
"""


def test_kernels_equal_the_cpu_in_the_interpreter() -> None:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed (it comes with the CUDA builds of torch)")
    here = Path(__file__).parent
    path = os.pathsep.join((str(here.parent), str(here.parents[1])))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.cuda
def test_device_equals_the_cpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    labels = np.kron(blobs(np.random.default_rng(1), (120, 160)), np.ones((3, 3), dtype=np.int32))
    labels[2, 2:470] = labels.max() + 1
    flows = labels_to_flows(labels)
    assert np.abs(labels_to_flows(labels, device="cuda") - flows).max() < 1e-4
    noisy = flows + smooth_noise(np.random.default_rng(2), flows.shape, 0.4)
    cellprob = np.where(labels > 0, 3.0, -3.0)
    expected = flows_to_labels(noisy, cellprob)
    assert np.mean(flows_to_labels(noisy, cellprob, device="cuda") == expected) > 0.999


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(FlowsegError, match="there is no device 'tpu'"):
        labels_to_flows(np.ones((3, 3), dtype=int), device="tpu")
