"""FlowsegError: the error for what a user can fix, in one line."""

from __future__ import annotations

import errno
import os
import re
from importlib import import_module
from typing import Any

_LONGEST = 2000
_NO_COMPILER = (
    *("No working C++ compiler", "C++ compile error", "Failed to find C compiler"),
    "Cannot find a working triton installation",
)
# torch's CPU allocator, CUDA and pandas, C++, OpenCV, oneDNN, the loader of libraries: none of them
# raises a MemoryError.
_NO_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|bad_alloc|Insufficient memory"
    "|^could not create a primitive$|failed to map segment from shared object"
)


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
        self, problem: str, *, file: str | os.PathLike[str] | None = None, remedy: str | None = None
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.remedy = remedy
        text = problem if self.file is None else f"{self.file}: {problem}"
        if remedy is not None:
            text = f"{text}; {remedy}"
        super().__init__(_one_line(text))

    def at(self, file: str | os.PathLike[str]) -> FlowsegError:
        """The same error with its file filled in."""
        return FlowsegError(self.problem, file=file, remedy=self.remedy)


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; what was done is kept, and the message says how to go on."""

    EXIT_CODE = 75
    """Of a command that was stopped so: EX_TEMPFAIL of sysexits.h, "try again"."""


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 300]} ... {text[-200:]}"
    # Neither a terminal nor a log is to obey it, and half a surrogate pair cannot be printed.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def out_of_memory(
    error: Exception, file: str | os.PathLike[str] | None = None
) -> FlowsegError | None:
    """The FlowsegError for an error that says that memory ran out; None for any other.

    Examples
    --------
    >>> print(out_of_memory(MemoryError(), "slide.tif"))
    slide.tif: there is not enough memory; free some, or use smaller images, crops or batches
    """
    if isinstance(error, OSError):
        lacks_memory = error.errno == errno.ENOMEM
    else:
        lacks_memory = (
            isinstance(error, MemoryError)
            or type(error).__name__ == "OutOfMemoryError"  # torch's, for which none is imported
            or _NO_MEMORY.search(str(error)) is not None
        )
    if not lacks_memory:
        return None
    remedy = "free some, or use smaller images, crops or batches"
    return FlowsegError("there is not enough memory", file=file, remedy=remedy)


def as_user_error(error: Exception) -> FlowsegError | None:
    """The FlowsegError for errors that the user can fix, memory and files included; else None.

    Examples
    --------
    >>> print(as_user_error(PermissionError(13, "Permission denied", "a.csv")))
    a.csv: Permission denied
    >>> as_user_error(ZeroDivisionError())
    """
    if isinstance(error, FlowsegError):
        return error
    if isinstance(error, OSError) and error.strerror is not None:
        file = error.filename if isinstance(error.filename, str | os.PathLike) else None
        return out_of_memory(error, file) or FlowsegError(error.strerror, file=file)
    if any(words in str(error) for words in _NO_COMPILER):
        return FlowsegError(
            "torch.compile finds no compiler that works",
            remedy="install one (gcc or clang, on CUDA Triton), or do without compiling",
        )
    return out_of_memory(error)


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package, or name the extra of flowseg that brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise FlowsegError(
            f"needs the package {module.partition('.')[0]}",
            remedy=f"install it: pip install 'flowseg[{extra}]'",
        ) from error
