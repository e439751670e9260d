"""CSV files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from flowseg.errors import FlowsegError
from flowseg.io import tables
from flowseg.io.tables import read_table, write_table


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [("a", "1 2", 3), ('quote"d', "line\nbreak", ""), ("ü,ä", "NA", 0.1 + 0.2)]
    write_table(path, pd.DataFrame(rows, columns=("id", "text", "n")))
    assert path.read_bytes().startswith(b"id,text,n\na,1 2,3\n")
    table = read_table(path, ("text", "id"))
    assert table.index.tolist() == [2, 3, 4]
    assert table.columns.tolist() == ["id", "text", "n"]
    assert [tuple(row) for row in table.to_numpy()] == [tuple(map(str, row)) for row in rows]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_compressed_and_from_a_spreadsheet(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "a.csv.gz"
    lines = ["\ufeffid,b", "1,2", "", "3,", ""]
    path.write_bytes(gzip.compress(line_end.join(lines).encode()))
    table = read_table(path, ("id",))
    assert table.to_dict("index") == {2: {"id": "1", "b": "2"}, 4: {"id": "3", "b": ""}}


def test_blank_rows_beside_blank_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id\n1\n\n""\n\n')
    assert read_table(path, ("id",))["id"].to_dict() == {2: "1", 4: ""}
    path.write_text('"i,d",b\n\n,\n"a,b",\n')
    assert read_table(path, ("i,d",))["i,d"].to_dict() == {3: "", 4: "a,b"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a,b\n", "has no column 'id'; its first row must name the columns id"),
        (b"id,b,b,,\n1,2,3,,\n", "has two columns 'b'"),
        (b"id,b\n1,2\n3\n", "row 3 has 1 fields, not 2"),
        (b'id,b,c\n"1,\n2",2,\n\n1,3\n', "row 4 has 2 fields, not 3"),
        (b"id,b\n1,2,3\n", "row 2 has 3 fields, not 2"),
        (b'id,b\n"1\n2",3\n\n1,2,3\n', "row 4 has 3 fields, not 2"),
        (b"id,b\n\xff\xfe,2\n", "UTF-8"),
        (b'id,b\n1,"2\n', "has a quotation mark that is never closed"),
        (b"id,b\n1,\x002\n", "NUL"),
        (b"\x1f\x8b\x08garbage", "UTF-8"),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(FlowsegError) as error:
        read_table(path, ("id",))
    assert problem in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folder_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id\n" * 1000)[:-9])
    (tmp_path / "b.csv.gz").write_bytes(b"id\n1\n")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"):
        with pytest.raises(FlowsegError) as error:
            read_table(path, ("id",))
        assert str(path) in str(error.value)


def test_one_endless_line_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MAX_ROW", 1000)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id\n" + b"1 " * 900)
    with pytest.raises(FlowsegError, match="more than 1,000 characters"):
        read_table(path, ("id",))


def test_a_long_field_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "1 1 " * 100_000
    write_table(path, pd.DataFrame({"id": [text]}))
    assert read_table(path, ("id",))["id"].tolist() == [text]


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="is a folder, not a file"):
        read_table(tmp_path, ("id",))
