"""CSV files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from flowseg.errors import FlowsegError
from flowseg.io import tables
from flowseg.io.tables import read_rows, write_rows


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [("a", "1 2", 3), ('quote"d', "line\nbreak", ""), ("ü,ä", "", 0.5)]
    write_rows(path, ("id", "text", "n"), rows)
    assert path.read_bytes().startswith(b"id,text,n\na,1 2,3\n")
    found = list(read_rows(path, ("text", "id")))
    assert [row for row, _ in found] == [2, 3, 4]
    assert [tuple(fields.values()) for _, fields in found] == [tuple(map(str, r)) for r in rows]


def test_compressed_and_from_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("\ufeffid,b\r\n1,2\r\n\r\n3,4\r\n".encode()))
    assert list(read_rows(path, ("id",))) == [
        (2, {"id": "1", "b": "2"}),
        (4, {"id": "3", "b": "4"}),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a,b\n", "has no column 'id'"),
        (b"id,b\n1,2\n3\n", "row 3 has 1 fields, not 2"),
        (b"id,b\n1,2,3\n", "row 2 has 3 fields, not 2"),
        (b"id,b\n\xff\xfe,2\n", "UTF-8"),
        (b'id,b\n1,"2\n', "cannot be read after row 1"),
        (b"\x1f\x8b\x08garbage", "UTF-8"),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(FlowsegError) as error:
        list(read_rows(path, ("id",)))
    assert problem in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folder_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id\n" * 1000)[:-9])
    (tmp_path / "b.csv.gz").write_bytes(b"id\n1\n")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"):
        with pytest.raises(FlowsegError) as error:
            list(read_rows(path, ("id",)))
        assert str(path) in str(error.value)


def test_one_endless_line_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MAX_ROW", 1000)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id\n" + b"1 " * 900)
    with pytest.raises(FlowsegError, match="more than 1,000 characters"):
        list(read_rows(path, ("id",)))


def test_a_long_field_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "1 1 " * 100_000
    write_rows(path, ("id",), [(text,)])
    assert next(read_rows(path, ("id",)))[1]["id"] == text
