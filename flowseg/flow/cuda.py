"""The two long loops of this room on a CUDA device, as Triton kernels.

`diffuse` and `find_basins` stand in for those of `diffusion` and `basins`. They add in the same
order in single precision without fusing, so their results are the same but for the last bit. This
module is imported when a CUDA device is asked for; Triton comes with the CUDA builds of torch.
"""

# Kernels take pointers and constants one by one, and Triton annotates them in its own way.
# ruff: noqa: N803, PLR0913, PLR0917
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from flowseg.flow import basins, diffusion
from flowseg.flow.diffusion import Floats, Ints, Longs, make_plan

__all__ = ["diffuse", "find_basins"]

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
def _step(
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


def diffuse(
    table: Ints, offsets: Longs, places: Longs, flows: Floats, device: str = "cuda"
) -> None:
    """`flowseg.flow.diffusion.diffuse` on a CUDA device.

    Pieces whose heat leaves single precision (long and thin ones) are left to the CPU, in double.
    """
    import torch

    plan = make_plan(table, offsets)
    if not len(plan):
        return
    strides = plan[:, diffusion.WIDTH].astype(np.int64) + 1
    sizes = plan[:, diffusion.HEIGHT] * strides
    room = sizes + 2 * (strides + 1)
    first = np.cumsum(room) - room + strides + 1

    def within(k: Any, y: Any, x: Any) -> Any:
        return (y - plan[k, diffusion.TOP]) * strides[k] + x - plan[k, diffusion.LEFT]

    piece = np.repeat(np.arange(len(plan)), np.diff(offsets))
    lengths = (table[2] - table[1]).astype(np.int64)
    starts = first[piece] + within(piece, table[0], table[1])
    seeds = within(np.arange(len(plan)), plan[:, diffusion.SEED_Y], plan[:, diffusion.SEED_X])

    def send(array: Any, dtype: Any = np.int64) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)

    def pixels(begins: Any) -> Any:
        """Runs spelled out: `begins` plus 0, 1, 2, ... for each pixel of a run."""
        ends = np.cumsum(lengths)
        shift = torch.repeat_interleave(send(begins - (ends - lengths)), send(lengths))
        return shift + torch.arange(int(ends[-1]), device=device)

    at = pixels(starts)
    owner = torch.repeat_interleave(send(piece), send(lengths))
    heat = torch.zeros(int(room.sum()), dtype=torch.float32, device=device)
    share = torch.zeros_like(heat)
    share[at] = float(np.float32(1 / 9))
    other = torch.zeros_like(heat)
    heavy = np.argsort(-(plan[:, diffusion.ROUNDS] * sizes), kind="stable")
    warmth = float(diffusion.WARMTH_SINGLE)
    for parity in (0, 1):  # the last round's heat lies in `heat` after an even number of rounds
        chosen = heavy[plan[heavy, diffusion.ROUNDS] % 2 == parity]
        if not chosen.size:
            continue
        _spread[(chosen.size,)](
            *((heat, other) if parity == 0 else (other, heat)),
            share,
            send(first[chosen]),
            send(strides[chosen], np.int32),
            send(sizes[chosen], np.int32),
            send(seeds[chosen], np.int32),
            send(plan[chosen, diffusion.ROUNDS], np.int32),
            warmth,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    coldest = torch.full((len(plan),), float("inf"), device=device)
    coldest.scatter_reduce_(0, owner, heat[at], "amin")
    steps = send(strides)[owner]
    result = _climb(heat, at, steps).cpu().numpy()
    flows[:, pixels(places).cpu().numpy()] = result
    cold = np.flatnonzero(coldest.cpu().numpy() < 1 / warmth)
    if cold.size:
        runs = np.flatnonzero(np.isin(piece, cold))
        counts = np.concatenate(([0], np.cumsum(np.diff(offsets)[cold])))
        diffusion.diffuse_planned(table[:, runs], counts, plan[cold], places[runs], flows)


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


def find_basins(
    flows: Floats, cellprob: Floats, threshold: float, niter: int, device: str = "cuda"
) -> Ints:
    """`flowseg.flow.basins.find_basins`, following on a CUDA device."""
    import torch

    ranks, pixels = basins.number(cellprob, np.float32(threshold))
    count = pixels.size
    ends = torch.empty(count, dtype=torch.int32, device=device)
    if count:
        height, width = ranks.shape
        _step[(triton.cdiv(count, _BLOCK),)](
            torch.from_numpy(flows).to(device),
            torch.from_numpy(ranks).to(device),
            torch.from_numpy(pixels).to(device),
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
    result: Ints = ranks
    basins.label(ends.cpu().numpy(), flows, pixels, result)
    return result
