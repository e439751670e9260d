"""Dictionaries that `numpy.save` pickled, read without executing what is in them.

Unpickling calls whatever a pickle names. Here it may name numpy's arrays and plain containers only;
a file that names anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from flowseg.errors import FlowsegError
from flowseg.io.binary import open_binary
from flowseg.io.paths import PathLike

LARGEST = 2**33
"""Bytes; a larger file is not read into memory."""

_ALLOWED = {
    "numpy": {"ndarray", "dtype"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "_codecs": {"encode"},
    "builtins": {"bytearray", "bytes", "complex", "dict", "frozenset", "list", "set", "tuple"},
}
_OLD_NAMES = {"numpy.core.multiarray": "numpy._core.multiarray", "__builtin__": "builtins"}


def read_npy_dictionary(path: PathLike, remedy: str) -> dict[str, Any]:
    """The dictionary of an `.npy` file, as Cellpose saves several kinds of things.

    Raises FlowsegError, with that remedy, if the file is damaged, holds something else, or names
    more than arrays and plain containers.
    """
    path = Path(path)
    with open_binary(path) as file:
        if path.stat().st_size > LARGEST:
            raise FlowsegError(f"is larger than {LARGEST >> 30} GiB", file=path)
        content = file.read()
    try:
        return _load(content)
    except FlowsegError as error:
        raise FlowsegError(error.problem, file=path, remedy=remedy) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails anywhere, with any exception
        raise FlowsegError(
            f"is no file of Cellpose that can be read ({type(error).__name__}: {error})",
            file=path,
            remedy=remedy,
        ) from error


def _load(content: bytes) -> dict[str, Any]:
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # as of every header so short
    if shape != () or not dtype.hasobject:
        raise FlowsegError("holds a plain array, not what Cellpose saves")
    start = file.tell()
    # Unpickling makes room for as many values as the file claims before it looks for them.
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.endswith("PUT") and int(argument or 0) > len(content):
            raise ValueError("numbers more values than it holds")
    file.seek(start)
    found = _Reader(file).load().item()
    if not isinstance(found, dict):
        raise FlowsegError("holds no dictionary")
    return found


class _Reader(pickle.Unpickler):
    """Unpickles arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath"):
            return PurePosixPath  # of either system
        module = _OLD_NAMES.get(module, module)
        if name not in _ALLOWED.get(module, ()):
            raise FlowsegError(
                f"names {module}.{name}, which such a file does not need; it was not executed"
            )
        return super().find_class(module, name)
