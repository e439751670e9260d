"""CSV files to pandas DataFrames and back; a row keeps the number that a spreadsheet shows."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from flowseg.errors import FlowsegError, out_of_memory
from flowseg.io.atomic import atomic_path
from flowseg.io.paths import PathLike

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROW = 2**26  # characters; the longest row of the competition has a few thousand


def read_table(path: PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file (or .csv.gz) as text: no field is taken for a number or a missing value.

    Parameters
    ----------
    path : path
        UTF-8 with or without BOM, comma-separated, the names of the columns in its first row.
    columns : sequence of str
        Columns that must be there; others are read as well.

    Returns
    -------
    DataFrame of str
        Its index is the row's number as a spreadsheet shows it (the names are row 1). Blank rows
        are left out.

    Raises
    ------
    FlowsegError
        If the file is missing, empty, not UTF-8, lacks a column or has it twice, or a row has
        another number of fields or more than 67 million characters.
    """
    import pandas as pd

    path = Path(path)
    try:
        with _open_text(path) as file:
            text = _CheckedText(file)
            table = _parse(text, "c")
        if table.shape[1] == 1 or text.commas < _separators(table, text.quotes):
            csv.field_size_limit(_MAX_ROW)  # its default is 131,072
            with _open_text(path) as file:
                table = _without_blank_rows(_parse(file, "python"))
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a text file in UTF-8", file=path) from error
    except pd.errors.EmptyDataError as error:
        raise FlowsegError("is empty", file=path) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = _reason(str(error))
        raise out_of_memory(error, path) or FlowsegError(reason, file=path) from error
    table.columns = pd.Index(table.iloc[0], name=None)
    twice = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(twice):
        raise FlowsegError(f"has two columns {twice[0]!r}", file=path, remedy="rename one of them")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise FlowsegError(
            f"has no column {', '.join(map(repr, missing))}",
            file=path,
            remedy=f"its first row must name the columns {','.join(columns)}",
        )
    return table.iloc[1:]


def write_table(path: PathLike, table: pd.DataFrame) -> None:
    """Write a CSV file atomically, without the index; lines end in LF.

    Floats are written so that they are read back exactly; missing values are blank.
    """
    with atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n", compression=None)


def _open_text(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class _CheckedText:
    """What pandas reads from: refuses what is no table, and counts the commas and quotes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._row = 0  # characters since the last line end
        self.commas = self.quotes = 0

    def read(self, size: int = -1) -> str:
        block = self._file.read(size)
        if "\0" in block:
            raise ValueError("it holds NUL characters, so it is no text")
        line_end = max(block.rfind("\n"), block.rfind("\r"))
        self._row = len(block) - 1 - line_end + (self._row if line_end < 0 else 0)
        if self._row > _MAX_ROW:
            raise ValueError(f"it has a row of more than {_MAX_ROW:,} characters")
        self.commas += block.count(",")
        self.quotes += block.count('"')
        return block

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)


def _parse(text: Any, engine: Literal["c", "python"]) -> pd.DataFrame:
    """All rows, the names of the columns too, numbered from 1."""
    import pandas as pd

    table = pd.read_csv(
        text, engine=engine, header=None, dtype=object, na_filter=False, skip_blank_lines=False
    )
    table.index += 1
    return table


def _separators(table: pd.DataFrame, quotes: int) -> int:
    """The commas in the text of the table, if no row is blank or lacks a field."""
    inside = sum(table[column].str.count(",").sum() for column in table) if quotes else 0
    return len(table) * (table.shape[1] - 1) + int(inside)


def _without_blank_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out blank rows and refuse short ones; the C engine pads both with empty texts."""
    table = table.dropna(how="all")
    short = table[table.iloc[:, -1].isna()]
    if len(short):
        raise ValueError(_wrong_count(short.index[0], short.iloc[0].count(), table.shape[1]))
    return table


def _wrong_count(row: object, found: object, expected: object) -> str:
    return f"row {row} has {found} fields, not {expected}"


def _reason(message: str) -> str:
    """What pandas, gzip or the system say, in the words of this package."""
    if long := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        return _wrong_count(long[2], long[3], long[1])
    if quote := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"row {int(quote[1]) + 1} has a quotation mark that is never closed"
    return f"cannot be read: {message}"
