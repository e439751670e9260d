"""The one error: one line, whatever it has to say."""

from __future__ import annotations

from flowseg.errors import FlowsegError, told


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
    assert "install one" in str(told(RuntimeError(words)))
    assert told(RuntimeError("a bug")) is None
