"""The two long loops of this room on a CUDA device, as Triton kernels.

`follow_flows`, `flow_residuals` and `diffuse` stand in for those of `dynamics`, `residuals` and
`diffusion`. They add in the same order in single precision without fusing, so their results are
the same but for the last bit. A flow field is a tensor on the device, (3, H, W) float32: flows and
cellprob; the flows of cells are compared with it there. This module is imported when a CUDA device
is asked for; Triton comes with the CUDA builds of torch.
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

from flowseg.flow import diffusion
from flowseg.flow import dynamics as basins
from flowseg.flow.diffusion import Floats, Ints, Longs, make_plan

__all__ = ["diffuse", "flow_residuals", "follow_flows", "to_device"]

_BLOCK = 256


@triton.jit
def _column(heat, place, stride, warm, seed, warmth, inside):
    """The sum of three pixels above each other, the heat that enters at the seed included."""
    above = tl.load(heat + place - stride, mask=inside, other=0.0)
    below = tl.load(heat + place + stride, mask=inside, other=0.0)
    here = tl.load(heat + place, mask=inside, other=0.0)
    above = tl.where(warm - stride == seed, above + warmth, above)
    below = tl.where(warm + stride == seed, below + warmth, below)
    here = tl.where(warm == seed, here + warmth, here)
    return (above + below) + here


@triton.jit
def _spread(heat, other, share, first, strides, sizes, seeds, rounds, warmth, BLOCK: tl.constexpr):
    """All rounds of one piece: one program, whose threads wait for each other after each round."""
    piece = tl.program_id(0)
    base = tl.load(first + piece)
    stride = tl.load(strides + piece)
    size = tl.load(sizes + piece)
    seed = tl.load(seeds + piece)
    source, target = heat, other
    for _ in range(tl.load(rounds + piece)):
        for start in range(0, size, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = k < size
            left = _column(source, base + k - 1, stride, k - 1, seed, warmth, inside)
            right = _column(source, base + k + 1, stride, k + 1, seed, warmth, inside)
            middle = _column(source, base + k, stride, k, seed, warmth, inside)
            part = tl.load(share + base + k, mask=inside, other=0.0)
            tl.store(target + base + k, ((left + right) + middle) * part, mask=inside)
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
        here, there = row * width + column, to_row * width + to_column
        apart = (tl.load(flows + there) - tl.load(flows + here)) * v.to(tl.float32)
        apart += (tl.load(flows + plane + there) - tl.load(flows + plane + here)) * u.to(tl.float32)
        apart = tl.where((v != 0) & (u != 0), apart * 0.70710678, apart)
        moved = (v != 0) | (u != 0)
        blocked = moved & ((tl.load(ranks + there) == 0) | (apart > wall))
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
    table: Ints, offsets: Longs, places: Longs, flows: Floats, device: str = "cuda"
) -> None:
    """`flowseg.flow.diffusion.diffuse` on a CUDA device."""
    at = _spelled(places, table[2] - table[1], device).cpu().numpy()
    flows[:, at] = _own_flows(table, offsets, device).cpu().numpy()


def flow_residuals(maps: Any, table: Ints, offsets: Longs) -> NDArray[np.float64]:
    """`flowseg.flow.residuals.flow_residuals` of a flow field on a CUDA device."""
    import torch

    if not table.shape[1]:
        return np.zeros(0)
    lengths = table[2] - table[1]
    starts = table[0].astype(np.int64) * maps.shape[2] + table[1]
    at = _spelled(starts, lengths, maps.device)
    apart = maps[:2].reshape(2, -1)[:, at] - _own_flows(table, offsets, maps.device)
    squares = (apart[0] * apart[0] + apart[1] * apart[1]).double()
    counts = to_device(np.add.reduceat(lengths, offsets[:-1], dtype=np.int64), maps.device)
    # Sums in a fixed order, which `index_add` has not.
    sums = torch.segment_reduce(squares, "sum", lengths=counts, unsafe=True)
    return np.asarray(sums.cpu().numpy())


def _spelled(begins: Any, lengths: Any, device: Any) -> Any:
    """Runs spelled out: `begins` plus 0, 1, 2, ... for each pixel of a run."""
    import torch

    ends = np.cumsum(lengths, dtype=np.int64)
    repeats = to_device(lengths, device, np.int64)
    shift = torch.repeat_interleave(to_device(begins - (ends - lengths), device), repeats)
    return shift + torch.arange(int(ends[-1]) if ends.size else 0, device=device)


def _own_flows(table: Ints, offsets: Longs, device: Any) -> Any:
    """The flows that pieces given as runs have, pixel by pixel in the order of the runs: (2, n).

    Pieces whose heat leaves single precision (long and thin ones) are left to the CPU, in double.
    """
    import torch

    plan = make_plan(table, offsets)
    lengths = (table[2] - table[1]).astype(np.int64)
    if not len(plan):
        return torch.zeros((2, 0), device=device)
    strides = plan[:, diffusion.WIDTH].astype(np.int64) + 1
    sizes = plan[:, diffusion.HEIGHT] * strides
    room = sizes + 2 * (strides + 1)
    first = np.cumsum(room) - room + strides + 1

    def within(k: Any, y: Any, x: Any) -> Any:
        return (y - plan[k, diffusion.TOP]) * strides[k] + x - plan[k, diffusion.LEFT]

    piece = np.repeat(np.arange(len(plan)), np.diff(offsets))
    at = _spelled(first[piece] + within(piece, table[0], table[1]), lengths, device)
    owner = torch.repeat_interleave(to_device(piece, device), to_device(lengths, device))
    seeds = within(np.arange(len(plan)), plan[:, diffusion.SEED_Y], plan[:, diffusion.SEED_X])
    heat = _heat(plan, at, first, strides, seeds, int(room.sum()))
    result = _climb(heat, at, to_device(strides, device)[owner])
    coldest = torch.full((len(plan),), float("inf"), device=device)
    coldest.scatter_reduce_(0, owner, heat[at], "amin")
    limit = 1 / float(diffusion.WARMTH_SINGLE)
    cold = np.flatnonzero(coldest.cpu().numpy() < limit)
    if cold.size:
        runs = np.flatnonzero(np.isin(piece, cold))
        counts = np.concatenate(([0], np.cumsum(np.diff(offsets)[cold])))
        own = lengths[runs]
        exact = np.zeros((2, int(own.sum())), np.float32)
        diffusion.diffuse_planned(table[:, runs], counts, plan[cold], np.cumsum(own) - own, exact)
        begins = (np.cumsum(lengths) - lengths)[runs]
        result[:, _spelled(begins, own, device)] = to_device(exact, device)
    return result


def _heat(plan: Ints, at: Any, first: Longs, strides: Longs, seeds: Longs, room: int) -> Any:
    """The heat of all pieces after their rounds, each in a frame of its own."""
    import torch

    device = at.device
    heat = torch.zeros(room, dtype=torch.float32, device=device)
    share, other = torch.zeros_like(heat), torch.zeros_like(heat)
    share[at] = float(np.float32(1 / 9))
    sizes = plan[:, diffusion.HEIGHT] * strides
    heavy = np.argsort(-(plan[:, diffusion.ROUNDS] * sizes), kind="stable")
    for parity in (0, 1):  # the last round's heat lies in `heat` after an even number of rounds
        chosen = heavy[plan[heavy, diffusion.ROUNDS] % 2 == parity]
        if not chosen.size:
            continue
        _spread[(chosen.size,)](
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


def _climb(heat: Any, at: Any, stride: Any) -> Any:
    """Unit vectors up the heat, (2, n): as `flowseg.flow.diffusion`."""
    import torch

    dy = heat[at + stride].double() - heat[at - stride].double()
    dx = heat[at + 1].double() - heat[at - 1].double()
    level = (dy == 0) & (dx == 0)
    warmest = heat[at]
    for v in (-1, 0, 1):
        for u in (-1, 0, 1):
            beside = heat[at + v * stride + u]
            better = level & (beside > warmest)
            warmest = torch.where(better, beside, warmest)
            dy, dx = torch.where(better, float(v), dy), torch.where(better, float(u), dx)
    scale = torch.maximum(dy.abs(), dx.abs())
    scale = torch.where(scale > 0, scale, 1.0)
    dy, dx = dy / scale, dx / scale
    norm = torch.sqrt(dy * dy + dx * dx)
    norm = torch.where(norm > 0, norm, 1.0)
    return torch.stack((dy / norm, dx / norm)).float()


def follow_flows(flows: Floats, maps: Any, threshold: float, niter: int) -> Ints:
    """`flowseg.flow.dynamics.follow_flows` of a flow field on a CUDA device.

    `flows` are those of `maps` on the host, where the sinks, few as they are, are put together.
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
            float(basins.WALL),
            STEPS=basins.STEPS,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    for _ in range(basins.doublings(niter)):
        further = ends[ends.long()]
        if torch.equal(further, ends):
            break
        ends = further
    result: Ints = ranks.cpu().numpy()
    basins.label_sinks(ends.cpu().numpy(), flows, pixels.cpu().numpy(), result)
    return result
