"""Run lengths and masks: row-major, and 1-based where they are text.

The text of one mask is ``"start length start length ..."``; pixels are counted along rows, the
first pixel of the image is 1. Inside flowseg all masks of an image are one :class:`Masks`, which
holds runs, not pixels: 790 cells of a 520x704 image are 0.2 MB as runs and 290 MB as pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.jit import jit
from flowseg.errors import FlowsegError

Shape = tuple[int, int]

FAULTS = (
    "",
    "holds something that is not a whole number",
    "holds an odd count of numbers, not pairs of start and length",
    "holds a start below 1 (starts are counted from 1)",
    "holds a length below 1",
    "runs past the last pixel of the image",
    "holds runs that overlap or do not ascend",
)
"""What each fault code of `parse_runs` says of a text; 0 is none."""


@dataclass(frozen=True, eq=False)
class Masks:
    """All masks of one image as run lengths, overlaps kept.

    Mask ``i`` owns the runs ``offsets[i]:offsets[i + 1]``. Its runs ascend, do not touch and lie
    inside the image; every constructor below sees to that. Runs may cross the end of a row.

    Examples
    --------
    >>> masks = Masks.from_strings(["1 2 5 2", "2 1"], (2, 4))
    >>> len(masks), masks.areas().tolist()
    (2, [4, 1])
    >>> masks.dense(0).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]])
    >>> masks.to_strings()
    ['1 2 5 2', '2 1']
    """

    shape: Shape
    """Height and width of the image, in pixels."""
    starts: NDArray[np.int64]
    """(R,): First pixel of each run: 0-based, row-major."""
    lengths: NDArray[np.int64]
    """(R,): Pixels of each run, at least 1."""
    offsets: NDArray[np.int64]
    """(N + 1,): Where the runs of each mask begin; the last entry is R."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask: (N,) int64."""
        total = np.concatenate([[0], np.cumsum(self.lengths)])
        areas: NDArray[np.int64] = total[self.offsets[1:]] - total[self.offsets[:-1]]
        return areas

    def dense(self, index: int) -> NDArray[np.bool_]:
        """Mask `index` as an (H, W) bool array."""
        index = range(len(self))[index]
        first, last = self.offsets[index], self.offsets[index + 1]
        mask = np.zeros(self.shape, dtype=np.bool_)
        ones = np.ones(last - first, dtype=np.bool_)
        _paint(mask.reshape(-1), self.starts[first:last], self.lengths[first:last], ones)
        return mask

    def paint(self) -> NDArray[np.int32]:
        """All masks in one (H, W) int32 image, mask ``i`` as ``i + 1``, later ones on top."""
        labels = np.zeros(self.shape, dtype=np.int32)
        ids = np.repeat(np.arange(1, len(self) + 1, dtype=np.int32), np.diff(self.offsets))
        _paint(labels.reshape(-1), self.starts, self.lengths, ids)
        return labels

    def select(self, indices: ArrayLike) -> Masks:
        """The masks at `indices`, in that order (or where a bool array of N entries is true)."""
        chosen = np.asarray(indices)
        if not chosen.size:  # an empty list is float64 to numpy, which cannot index
            chosen = chosen.astype(np.int64)
        picked = np.arange(len(self))[chosen]
        counts = np.diff(self.offsets)[picked]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        runs = np.arange(offsets[-1]) + np.repeat(self.offsets[picked] - offsets[:-1], counts)
        return Masks(self.shape, self.starts[runs], self.lengths[runs], offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Masks], shape: Shape) -> Masks:
        """The masks of several :class:`Masks` of one image of `shape`, one after the other."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(
            shape,
            np.concatenate([nothing, *(part.starts for part in parts)]),
            np.concatenate([nothing, *(part.lengths for part in parts)]),
            np.cumsum(
                np.concatenate([[0], *(np.diff(part.offsets) for part in parts)]), dtype=np.int64
            ),
        )

    @classmethod
    def from_dense(cls, masks: Iterable[ArrayLike], shape: Shape | None = None) -> Masks:
        """From (H, W) arrays, bool or integer (anything but 0 is inside).

        `shape` is needed only where there may be no mask at all.
        """
        arrays = [_as_mask(mask) for mask in masks]
        if shape is None:
            if not arrays:
                raise FlowsegError("no masks and no image shape: the shape cannot be told")
            shape = _as_shape(arrays[0].shape)
        for index, array in enumerate(arrays):
            if array.shape != shape:
                raise FlowsegError(f"mask {index} has shape {array.shape}, the image {shape}")
        edges = [_edges(array.reshape(-1)) for array in arrays]
        every = np.concatenate([np.zeros(0, dtype=np.int64), *edges])
        offsets = np.cumsum([0] + [len(edge) // 2 for edge in edges], dtype=np.int64)
        starts = np.ascontiguousarray(every[0::2])
        return cls(shape, starts, every[1::2] - starts, offsets)

    @classmethod
    def from_labels(cls, labels: ArrayLike) -> Masks:
        """From an (H, W) label image of any integer type, ids ascending; 0 is background.

        All cells in one pass over the pixels; ids may have gaps and any size.
        """
        image = np.asarray(labels)
        if image.ndim != 2 or not np.issubdtype(image.dtype, np.integer):
            raise FlowsegError(
                f"a label image is a 2-D array of integers, not {image.ndim}-D {image.dtype}"
            )
        flat = image.reshape(-1)
        starts = np.flatnonzero(np.concatenate([flat[:1] != 0, flat[1:] != flat[:-1]]))
        lengths = np.diff(starts, append=flat.size)
        ids = flat[starts]
        inside = ids != 0
        starts, lengths, ids = starts[inside], lengths[inside], ids[inside]
        if ids.size and ids.min() < 0:
            raise FlowsegError(f"a label image has no negative ids, this one has {ids.min()}")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        new = np.flatnonzero(np.concatenate([ids[:1] == ids[:1], ids[1:] != ids[:-1]]))
        offsets = np.append(new, len(ids)).astype(np.int64)
        return cls(_as_shape(image.shape), starts[order], lengths[order], offsets)

    @classmethod
    def from_strings(cls, texts: Sequence[str], shape: Shape) -> Masks:
        """From run-length texts, one a mask; a blank text is an empty mask.

        Raises FlowsegError for the first text that is not a mask of this shape.
        """
        masks, faults = parse_runs(texts, shape)
        bad = np.flatnonzero(faults)
        if len(bad):
            raise FlowsegError(f"mask {bad[0]}: the run lengths: {FAULTS[faults[bad[0]]]}")
        return masks

    def to_strings(self) -> list[str]:
        """The run-length text of each mask; a blank text for an empty one."""
        buffer, cuts = _format(self.starts, self.lengths, self.offsets)
        text = buffer.tobytes().decode("ascii")
        return [text[a:b].rstrip(" ") for a, b in pairwise(cuts.tolist())]


def rle_encode(mask: ArrayLike) -> str:
    """The run-length text of one mask: row-major, 1-based, ``"start length start length ..."``.

    Parameters
    ----------
    mask : (H, W) bool or integer
        Anything but 0 is inside.

    Examples
    --------
    >>> rle_encode([[0, 1, 1], [1, 0, 1]])
    '2 3 6 1'
    """
    return Masks.from_dense([mask]).to_strings()[0]


def rle_decode(text: str, shape: Shape) -> NDArray[np.bool_]:
    """The mask of a run-length text: (H, W) bool.

    Parameters
    ----------
    text : str
        Row-major, 1-based, ``"start length start length ..."``; blank for an empty mask.
    shape : (int, int)
        Height and width of the image, in pixels.

    Raises
    ------
    FlowsegError
        Where the text is not a mask of this shape.

    Examples
    --------
    >>> rle_decode("2 3 6 1", (2, 3)).astype(int)
    array([[0, 1, 1],
           [1, 0, 1]])
    """
    return Masks.from_strings([text], shape).dense(0)


def parse_runs(texts: Sequence[str], shape: Shape) -> tuple[Masks, NDArray[np.int8]]:
    """All masks of `texts`, and for each a fault code: 0, or one of `FAULTS`.

    A text with a fault leaves an empty mask. This is for readers that want every bad row, not
    only the first; others call :meth:`Masks.from_strings`.
    """
    height, width = _as_shape(shape)
    # a row that is not text (a blank cell read as NaN) becomes a text that cannot be parsed
    parts = [t.encode("utf-8", "replace") if isinstance(t, str) else b"?" for t in texts]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    buffer = np.frombuffer(b"".join(parts), dtype=np.uint8)
    starts, lengths, offsets, faults = _parse(buffer, ends, height * width)
    return Masks((height, width), starts, lengths, offsets), faults


def _as_shape(shape: Sequence[int]) -> Shape:
    if len(shape) != 2 or any(int(side) != side or side < 0 for side in shape):
        raise FlowsegError(f"an image shape is (height, width), not {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def _as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.ndim != 2 or not (array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)):
        raise FlowsegError(
            f"a mask is a 2-D array of bool or integers, not {array.ndim}-D {array.dtype}"
        )
    inside: NDArray[np.bool_] = array if array.dtype == np.bool_ else array != 0
    return inside


def _edges(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where runs start and end, by turns: an even count of ascending positions."""
    inner = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0] if flat.size and flat[0] else []
    last = [flat.size] if flat.size and flat[-1] else []
    return np.concatenate([first, inner, last]).astype(np.int64)


@jit
def _paint(flat: Any, starts: Any, lengths: Any, values: Any) -> None:
    for run in range(len(starts)):
        flat[starts[run] : starts[run] + lengths[run]] = values[run]


@jit
def _parse(buffer: Any, ends: Any, size: int) -> Any:
    # the shortest run is "1 1 ": four characters, the last of a text three
    capacity = len(buffer) // 4 + len(ends)
    starts = np.empty(capacity, np.int64)
    lengths = np.empty(capacity, np.int64)
    offsets = np.zeros(len(ends) + 1, np.int64)
    faults = np.zeros(len(ends), np.int8)
    runs = 0
    at = 0
    for index in range(len(ends)):
        fault = 0
        count = 0  # numbers seen in this text
        start = 0
        previous = 0  # end of the run before, 0-based
        while fault == 0:
            while at < ends[index] and (buffer[at] == 32 or 9 <= buffer[at] <= 13):
                at += 1
            if at == ends[index]:
                break
            value = 0
            while at < ends[index] and 48 <= buffer[at] <= 57:
                # beyond the image every number is as bad as the next: no overflow
                value = min(value * 10 + (buffer[at] - 48), size + 1)
                at += 1
            if at < ends[index] and not (buffer[at] == 32 or 9 <= buffer[at] <= 13):
                fault = 1
            elif count % 2 == 0:
                start = value - 1
                if start < 0:
                    fault = 3
                elif start >= size:
                    fault = 5
                elif start < previous:
                    fault = 6
            elif value < 1:
                fault = 4
            elif start + value > size:
                fault = 5
            else:
                if start == previous and runs > offsets[index]:
                    lengths[runs - 1] += value
                else:
                    starts[runs] = start
                    lengths[runs] = value
                    runs += 1
                previous = start + value
            count += 1
        if fault == 0 and count % 2 == 1:
            fault = 2
        if fault != 0:
            runs = offsets[index]
        faults[index] = fault
        at = ends[index]
        offsets[index + 1] = runs
    return starts[:runs].copy(), lengths[:runs].copy(), offsets, faults


@jit
def _digits(value: int) -> int:
    count = 1
    while value >= 10:
        value //= 10
        count += 1
    return count


@jit
def _format(starts: Any, lengths: Any, offsets: Any) -> Any:
    size = 0
    for run in range(len(starts)):
        size += _digits(starts[run] + 1) + _digits(lengths[run]) + 2
    buffer = np.full(size, 32, np.uint8)
    cuts = np.zeros(len(offsets), np.int64)
    at = 0
    for index in range(len(offsets) - 1):
        for run in range(offsets[index], offsets[index + 1]):
            for value in (starts[run] + 1, lengths[run]):
                width = _digits(value)
                rest = value
                for place in range(at + width - 1, at - 1, -1):
                    buffer[place] = 48 + rest % 10
                    rest //= 10
                at += width + 1
        cuts[index + 1] = at
    return buffer, cuts
