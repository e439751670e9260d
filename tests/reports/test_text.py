"""Text tables."""

from __future__ import annotations

from flowseg.reports.text import text_table


def test_columns_are_aligned_and_lines_end_without_spaces() -> None:
    text = text_table([["a", 7, "x"], ["long", 12.5, ""]], ["name", "n", "note"], left=1)
    assert text.splitlines() == ["name     n  note", "a        7     x", "long  12.5"]
    assert text_table([["a", 1], ["bb", 22]], left=2) == "a   1\nbb  22"
    assert text_table([], ["a", "b"]) == "a  b"
    assert text_table([]) == ""
