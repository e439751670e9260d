"""Shards: the parts of one prediction on several machines, and joining their files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, TypeVar

from flowseg.errors import FlowsegError
from flowseg.formats.submission import read_submission, write_submission
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike
from flowseg.network.device import torchrun_rank

Item = TypeVar("Item")


class Shard(NamedTuple):
    """The part `number` (from 1) of `total`.

    Examples
    --------
    >>> Shard.parse("2/3").part(["a", "b", "c", "d"])
    ['b']
    >>> Shard(2, 3).path(Path("submission.csv")).name
    'submission.2-of-3.csv'
    """

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "K/N", K from 1 to N."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found and 1 <= int(found[1]) <= int(found[2]):
            return cls(int(found[1]), int(found[2]))
        raise FlowsegError(f"cannot read the shard {text!r}", remedy="write K/N, as in 1/4")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard | None:
        """That of this process if torchrun started several, else None."""
        found = torchrun_rank(environment)
        return None if found is None else cls(found[0] + 1, found[1])

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this shard; those of all shards, in their order, are all items."""
        first, last = (len(items) * k // self.total for k in (self.number - 1, self.number))
        return items[first:last]

    def path(self, submission: Path) -> Path:
        """The file of this shard beside `submission`."""
        name = f"{submission.stem}.{self.number}-of-{self.total}{submission.suffix}"
        return submission.with_name(name)


def join_shards(submission: PathLike) -> tuple[int, int]:
    """Join the shards' files beside `submission`, as it was named to each; count shards and cells.

    Raises FlowsegError if there is no shard's file, one is missing, or there are those of two runs.
    """
    submission = Path(submission)
    stem, suffix = re.escape(submission.stem), re.escape(submission.suffix)
    pattern = re.compile(rf"{stem}\.(\d+)-of-(\d+){suffix}")
    folder = submission.parent
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else iter(())
    shards = {Shard(int(f[1]), int(f[2])) for name in names if (f := pattern.fullmatch(name))}
    if not shards:
        raise FlowsegError(
            f"has no shard's file such as {Shard(1, 2).path(submission).name} beside it",
            file=submission,
            remedy="predict with --shard K/N and the same --out first",
        )
    counts = {shard.total for shard in shards}
    if len(counts) > 1:
        raise FlowsegError(
            f"has files of {' and of '.join(map(str, sorted(counts)))} shards beside it",
            file=submission,
            remedy="remove those of the other run",
        )
    count = counts.pop()
    expected = [Shard(number, count) for number in range(1, count + 1)]
    missing = [shard.path(submission).name for shard in expected if shard not in shards]
    if missing:
        raise FlowsegError(
            f"lacks the shards' files {', '.join(missing[:5])}",
            file=submission,
            remedy="predict those shards, or copy their files here",
        )

    def predictions() -> Iterator[tuple[str, list[str]]]:
        for shard in expected:
            for image_id, rows in read_submission(shard.path(submission)).images.items():
                yield image_id, [text for _, text in rows]

    with claim_outputs([submission], map(Shard.path, expected, repeat(submission))):
        return len(expected), write_submission(submission, predictions())
