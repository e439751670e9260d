"""The one error flowseg raises for anything its user can mend."""

from __future__ import annotations

import os

__all__ = ["FlowsegError"]

_LONGEST = 2000


class FlowsegError(Exception):
    """What is wrong, in which file, and what to do, in one line.

    Parameters
    ----------
    problem : str
        What is wrong.
    file : path, optional
        The file or folder it is wrong with.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> print(FlowsegError("has no column 'id'", file="train.csv", remedy="see the data layout"))
    train.csv: has no column 'id'; see the data layout
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.remedy = remedy
        text = problem if self.file is None else f"{self.file}: {problem}"
        if remedy is not None:
            text = f"{text}; {remedy}"
        super().__init__(_one_line(text))


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 300]} ... {text[-200:]}"
    # Neither a terminal nor a log is to obey it, and half a surrogate pair cannot be printed.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
