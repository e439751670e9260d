"""The one error: one line, whatever it has to say."""

from __future__ import annotations

import errno

import pytest
import torch

from flowseg.errors import FlowsegError, as_user_error, require


def test_a_terminal_is_told_nothing() -> None:
    error = FlowsegError("holds \x1b[2J, \ud800,\u202e\n\tand \u00fc", file="a\nb", remedy="\r")
    assert str(error) == "a b: holds \\x1b[2J, \\ud800,\\u202e and \u00fc;"


def test_a_long_story_is_cut() -> None:
    error = FlowsegError("x" * 10**6, file="a.csv", remedy="mend it")
    assert len(str(error)) < 2000
    assert str(error).startswith("a.csv: xxx")
    assert str(error).endswith("xxx; mend it")


def test_a_compiler_that_is_missing_is_the_users_to_mend() -> None:
    words = "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx"
    assert "install one" in str(as_user_error(RuntimeError(words)))
    assert as_user_error(RuntimeError("a bug")) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("OpenCV(5.0.0) error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory", "m.safetensors"),
    ],
)
def test_a_lack_of_memory_is_named_whoever_says_it(error: Exception) -> None:
    known = as_user_error(error)
    assert known is not None
    assert known.problem == "there is not enough memory"
    assert known.file == ("m.safetensors" if isinstance(error, OSError) else None)


def test_what_onednn_cannot_do_is_no_lack_of_memory() -> None:
    what = "could not create a primitive descriptor for the convolution forward propagation"
    assert as_user_error(RuntimeError(what)) is None


def test_an_optional_package_is_named_with_its_extra() -> None:
    with pytest.raises(FlowsegError, match=r"package nowhere; .*'flowseg\[extra\]'"):
        require("nowhere.inside", "extra")
    assert require("errno", "none") is errno
