"""Dynamics, residuals and diffusion on a CUDA device, as Triton kernels.

`follow_flows`, `flow_residuals` and `diffuse` replace those of `dynamics`, `residuals` and
`diffusion`. They add in the same order in single precision without fusing, so their results are
the same but for the last bit. A flow field is a tensor on the device, (3, H, W) float32: flows and
cellprob; residuals are computed there. This module is imported when a CUDA device is asked for;
Triton comes with the CUDA builds of torch.
"""

# Kernels take pointers and constants one by one, and Triton annotates them in its own way.
# ruff: noqa: N803, PLR0913, PLR0917
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from flowseg.flow import diffusion, dynamics
from flowseg.flow.diffusion import Floats, Ints, Longs, make_plan

_BLOCK = 256


@triton.jit
def _column(heat, pixel, stride, index, seed, warmth, inside):
    """The sum of three pixels above each other, the heat that enters at the seed included."""
    above = tl.load(heat + pixel - stride, mask=inside, other=0.0)
    below = tl.load(heat + pixel + stride, mask=inside, other=0.0)
    centre = tl.load(heat + pixel, mask=inside, other=0.0)
    above = tl.where(index - stride == seed, above + warmth, above)
    below = tl.where(index + stride == seed, below + warmth, below)
    centre = tl.where(index == seed, centre + warmth, centre)
    return (above + below) + centre


@triton.jit
def _diffuse_heat(
    heat, other, share, first, strides, sizes, seeds, rounds, warmth, BLOCK: tl.constexpr
):
    """All rounds of one component: one program, its threads in step after each round."""
    component = tl.program_id(0)
    base = tl.load(first + component)
    stride = tl.load(strides + component)
    size = tl.load(sizes + component)
    seed = tl.load(seeds + component)
    source, target = heat, other
    for _ in range(tl.load(rounds + component)):
        for start in range(0, size, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = k < size
            left = _column(source, base + k - 1, stride, k - 1, seed, warmth, inside)
            right = _column(source, base + k + 1, stride, k + 1, seed, warmth, inside)
            middle = _column(source, base + k, stride, k, seed, warmth, inside)
            weight = tl.load(share + base + k, mask=inside, other=0.0)
            tl.store(target + base + k, ((left + right) + middle) * weight, mask=inside)
        tl.debug_barrier()
        source, target = target, source


@triton.jit
def _euler_steps(
    flows, ranks, pixels, ends, count, height, width, wall, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Euler steps of at most one pixel, up to a wall, a fixed point, or the foreground's edge."""
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < count
    flat = tl.load(pixels + k, mask=live, other=0)
    plane = height * width
    row, column = flat // width, flat % width
    y, x = row.to(tl.float32), column.to(tl.float32)
    for step in tl.static_range(STEPS):
        if step == 0:
            dy = tl.load(flows + flat, mask=live, other=0.0)
            dx = tl.load(flows + plane + flat, mask=live, other=0.0)
        else:
            i, j = y.to(tl.int32), x.to(tl.int32)
            i1, j1 = tl.minimum(i + 1, height - 1), tl.minimum(j + 1, width - 1)
            v, u = y - i.to(tl.float32), x - j.to(tl.float32)
            a, b, c, d = (1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u
            p, q, r, s = i * width + j, i * width + j1, i1 * width + j, i1 * width + j1
            dy = (a * tl.load(flows + p) + d * tl.load(flows + s)) + (
                b * tl.load(flows + q) + c * tl.load(flows + r)
            )
            other = flows + plane
            dx = (a * tl.load(other + p) + d * tl.load(other + s)) + (
                b * tl.load(other + q) + c * tl.load(other + r)
            )
        length = dy * dy + dx * dx
        root = tl.sqrt_rn(tl.maximum(length, 1.0))
        dy = tl.div_rn(dy, root)
        dx = tl.div_rn(dx, root)
        ahead_y = tl.minimum(tl.maximum(y + dy, 0.0), height - 1.0)
        ahead_x = tl.minimum(tl.maximum(x + dx, 0.0), width - 1.0)
        to_row, to_column = (ahead_y + 0.5).to(tl.int32), (ahead_x + 0.5).to(tl.int32)
        v, u = to_row - row, to_column - column
        start, stop = row * width + column, to_row * width + to_column
        across = tl.load(flows + plane + stop) - tl.load(flows + plane + start)
        divergence = (tl.load(flows + stop) - tl.load(flows + start)) * v.to(tl.float32)
        divergence += across * u.to(tl.float32)
        divergence = tl.where((v != 0) & (u != 0), divergence * 0.70710678, divergence)
        moved = (v != 0) | (u != 0)
        blocked = moved & ((tl.load(ranks + stop) == 0) | (divergence > wall))
        live = live & ~blocked
        y, x = tl.where(live, ahead_y, y), tl.where(live, ahead_x, x)
        row, column = tl.where(live, to_row, row), tl.where(live, to_column, column)
    rank = tl.load(ranks + row * width + column)
    tl.store(ends + k, rank - 1, mask=k < count)


def to_device(array: Any, device: Any, dtype: Any = None) -> Any:
    """An array as a tensor on the device."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)


def diffuse(
    table: Ints, offsets: Longs, columns: Longs, flows: Floats, device: str = "cuda"
) -> None:
    """`flowseg.flow.diffusion.diffuse` on a CUDA device."""
    pixels = _expand(columns, table[2] - table[1], device).cpu().numpy()
    flows[:, pixels] = _component_flows(table, offsets, device).cpu().numpy()


def flow_residuals(maps: Any, table: Ints, offsets: Longs) -> NDArray[np.float64]:
    """`flowseg.flow.residuals.flow_residuals` of a flow field on a CUDA device."""
    import torch

    if not table.shape[1]:
        return np.zeros(0)
    lengths = table[2] - table[1]
    starts = table[0].astype(np.int64) * maps.shape[2] + table[1]
    pixels = _expand(starts, lengths, maps.device)
    expected = _component_flows(table, offsets, maps.device)
    difference = maps[:2].reshape(2, -1)[:, pixels] - expected
    squares = (difference[0] * difference[0] + difference[1] * difference[1]).double()
    counts = to_device(np.add.reduceat(lengths, offsets[:-1], dtype=np.int64), maps.device)
    # Sums in a fixed order, unlike `index_add`.
    sums = torch.segment_reduce(squares, "sum", lengths=counts, unsafe=True)
    return np.asarray(sums.cpu().numpy())


def _expand(starts: Any, lengths: Any, device: Any) -> Any:
    """The index of each pixel of runs: `starts` plus 0, 1, 2, ... along each run."""
    import torch

    ends = np.cumsum(lengths, dtype=np.int64)
    repeats = to_device(lengths, device, np.int64)
    shift = torch.repeat_interleave(to_device(starts - (ends - lengths), device), repeats)
    return shift + torch.arange(int(ends[-1]) if ends.size else 0, device=device)


def _component_flows(table: Ints, offsets: Longs, device: Any) -> Any:
    """The flows of components given as runs, pixel by pixel in the order of the runs: (2, n).

    Components whose heat leaves single precision (long and thin ones) are computed on the CPU, in
    double precision.
    """
    import torch

    plan = make_plan(table, offsets)
    lengths = (table[2] - table[1]).astype(np.int64)
    if not len(plan):
        return torch.zeros((2, 0), device=device)
    strides = plan[:, diffusion.WIDTH].astype(np.int64) + 1
    sizes = plan[:, diffusion.HEIGHT] * strides
    padded = sizes + 2 * (strides + 1)
    first = np.cumsum(padded) - padded + strides + 1

    def index_in_box(k: Any, y: Any, x: Any) -> Any:
        return (y - plan[k, diffusion.TOP]) * strides[k] + x - plan[k, diffusion.LEFT]

    component = np.repeat(np.arange(len(plan)), np.diff(offsets))
    pixels = _expand(
        first[component] + index_in_box(component, table[0], table[1]), lengths, device
    )
    owner = torch.repeat_interleave(to_device(component, device), to_device(lengths, device))
    seeds = index_in_box(np.arange(len(plan)), plan[:, diffusion.SEED_Y], plan[:, diffusion.SEED_X])
    heat = _heat(plan, pixels, first, strides, seeds, int(padded.sum()))
    result = _climb(heat, pixels, to_device(strides, device)[owner])
    coldest = torch.full((len(plan),), float("inf"), device=device)
    coldest.scatter_reduce_(0, owner, heat[pixels], "amin")
    limit = 1 / float(diffusion.WARMTH_SINGLE)
    cold = np.flatnonzero(coldest.cpu().numpy() < limit)
    if cold.size:
        runs = np.flatnonzero(np.isin(component, cold))
        counts = np.concatenate(([0], np.cumsum(np.diff(offsets)[cold])))
        sizes = lengths[runs]
        exact = np.zeros((2, int(sizes.sum())), np.float32)
        columns = np.cumsum(sizes) - sizes
        diffusion.diffuse_planned(table[:, runs], counts, plan[cold], columns, exact)
        starts = (np.cumsum(lengths) - lengths)[runs]
        result[:, _expand(starts, sizes, device)] = to_device(exact, device)
    return result


def _heat(plan: Ints, pixels: Any, first: Longs, strides: Longs, seeds: Longs, size: int) -> Any:
    """The heat of all components after their rounds, each in a padded box of its own."""
    import torch

    device = pixels.device
    heat = torch.zeros(size, dtype=torch.float32, device=device)
    share, other = torch.zeros_like(heat), torch.zeros_like(heat)
    share[pixels] = float(np.float32(1 / 9))
    sizes = plan[:, diffusion.HEIGHT] * strides
    heavy = np.argsort(-(plan[:, diffusion.ROUNDS] * sizes), kind="stable")
    for parity in (0, 1):  # the last round's heat lies in `heat` after an even number of rounds
        chosen = heavy[plan[heavy, diffusion.ROUNDS] % 2 == parity]
        if not chosen.size:
            continue
        _diffuse_heat[(chosen.size,)](
            *((heat, other) if parity == 0 else (other, heat)),
            share,
            to_device(first[chosen], device),
            to_device(strides[chosen], device, np.int32),
            to_device(sizes[chosen], device, np.int32),
            to_device(seeds[chosen], device, np.int32),
            to_device(plan[chosen, diffusion.ROUNDS], device, np.int32),
            float(diffusion.WARMTH_SINGLE),
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    return heat


def _climb(heat: Any, pixels: Any, stride: Any) -> Any:
    """Unit vectors up the heat, (2, n): as `flowseg.flow.diffusion`."""
    import torch

    dy = heat[pixels + stride].double() - heat[pixels - stride].double()
    dx = heat[pixels + 1].double() - heat[pixels - 1].double()
    level = (dy == 0) & (dx == 0)
    warmest = heat[pixels]
    for v in (-1, 0, 1):
        for u in (-1, 0, 1):
            neighbour = heat[pixels + v * stride + u]
            better = level & (neighbour > warmest)
            warmest = torch.where(better, neighbour, warmest)
            dy, dx = torch.where(better, float(v), dy), torch.where(better, float(u), dx)
    scale = torch.maximum(dy.abs(), dx.abs())
    scale = torch.where(scale > 0, scale, 1.0)
    dy, dx = dy / scale, dx / scale
    norm = torch.sqrt(dy * dy + dx * dx)
    norm = torch.where(norm > 0, norm, 1.0)
    return torch.stack((dy / norm, dx / norm)).float()


def follow_flows(flows: Floats, maps: Any, threshold: float, niter: int) -> Ints:
    """`flowseg.flow.dynamics.follow_flows` of a flow field on a CUDA device.

    `flows` are those of `maps` on the host, where the few sinks are merged.
    """
    import torch

    inside = maps[2] > float(np.float32(threshold))
    ranks = torch.cumsum(inside.reshape(-1), 0, dtype=torch.int32).reshape(inside.shape) * inside
    pixels = torch.nonzero(inside.reshape(-1))[:, 0].int()
    count = len(pixels)
    ends = torch.empty_like(pixels)
    if count:
        height, width = inside.shape
        _euler_steps[(triton.cdiv(count, _BLOCK),)](
            maps,
            ranks,
            pixels,
            ends,
            count,
            height,
            width,
            float(dynamics.WALL),
            STEPS=dynamics.STEPS,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    for _ in range(dynamics.doublings(niter)):
        composed = ends[ends.long()]
        if torch.equal(composed, ends):
            break
        ends = composed
    result: Ints = ranks.cpu().numpy()
    dynamics.label_sinks(ends.cpu().numpy(), flows, pixels.cpu().numpy(), result)
    return result
