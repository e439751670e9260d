"""The one error flowseg raises for anything its user can mend."""

from __future__ import annotations

import os

__all__ = ["FlowsegError", "as_user_error", "out_of_memory"]

_LONGEST = 2000
_NO_COMPILER = (
    *("No working C++ compiler", "C++ compile error", "Failed to find C compiler"),
    "Cannot find a working triton installation",
)
_NO_MEMORY = (
    *("can't allocate", "cannot allocate memory", "unable to allocate", "bad_alloc"),
    *("not enough memory", "out of memory", "insufficient memory", "paging file is too small"),
    *("alloc_failed", "allocation_failed", "unable to write to file </torch"),
)
"""How torch, CUDA, OpenCV, safetensors and the system say it, which raise no MemoryError."""
_ONEDNN_NO_MEMORY = frozenset(
    f"could not {what}"
    for what in ("create a primitive", "create a memory object", "execute a primitive")
)
"""What oneDNN says where it finds no room for its code, its buffers or its scratch pad.

It never tells the cause; another one, such as a system that lets no code be made, is rare.
"""
_NO_THREAD = "can't start new thread"


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


def out_of_memory(
    error: Exception, file: str | os.PathLike[str] | None = None
) -> FlowsegError | None:
    """The FlowsegError for an error that says that memory ran out; None for any other.

    Examples
    --------
    >>> print(out_of_memory(MemoryError(), "slide.tif"))
    slide.tif: there is not enough memory; free some, or use smaller images, crops or batches
    """
    # An OSError's whole text holds a file's name, which may say anything.
    said = str((isinstance(error, OSError) and error.strerror) or error).lower()
    if not (
        isinstance(error, MemoryError)
        or said in _ONEDNN_NO_MEMORY
        or any(words in said for words in _NO_MEMORY)
    ):
        return None
    remedy = "free some, or use smaller images, crops or batches"
    return FlowsegError("there is not enough memory", file=file, remedy=remedy)


def as_user_error(error: Exception) -> FlowsegError | None:
    """The FlowsegError for what the user can mend, memory and files included; None for a bug.

    Examples
    --------
    >>> print(as_user_error(PermissionError(13, "Permission denied", "a.csv")))
    a.csv: Permission denied
    >>> as_user_error(ZeroDivisionError())
    """
    if isinstance(error, FlowsegError):
        return error
    if isinstance(error, OSError) and error.strerror is not None:
        place = error.filename if isinstance(error.filename, str | os.PathLike) else None
        return out_of_memory(error, place) or FlowsegError(error.strerror, file=place)
    if _NO_THREAD in str(error):
        return FlowsegError(
            "no thread can be started", remedy="free memory, or allow more processes"
        )
    if any(words in str(error) for words in _NO_COMPILER):
        return FlowsegError(
            "torch.compile finds no compiler that works",
            remedy="install one (gcc or clang, on CUDA Triton), or do without compiling",
        )
    return out_of_memory(error)
