"""CSV files to pandas DataFrames and back; a row keeps the number that a spreadsheet shows."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

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
        rows = _read_rows(path)
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a text file in UTF-8", file=path) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        problem = f"cannot be read: {error}"
        raise out_of_memory(error, path) or FlowsegError(problem, file=path) from error
    if not rows:
        raise FlowsegError("is empty", file=path)
    numbers, (names, *fields) = list(rows), rows.values()
    for number, row in rows.items():
        if len(row) != len(names):
            problem = f"row {number} has {len(row)} fields, not {len(names)}"
            raise FlowsegError(problem, file=path)
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice is not None:
        raise FlowsegError(f"has two columns {twice!r}", file=path, remedy="rename one of them")
    missing = [name for name in columns if name not in names]
    if missing:
        raise FlowsegError(
            f"has no column {', '.join(map(repr, missing))}",
            file=path,
            remedy=f"its first row must name the columns {','.join(columns)}",
        )
    return pd.DataFrame(fields, index=numbers[1:], columns=names, dtype=object)


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


def _read_rows(path: Path) -> dict[int, list[str]]:
    """The rows that are not blank, by number."""
    csv.field_size_limit(_MAX_ROW)  # its default is 131,072
    number, rows = 0, {}
    with _open_text(path) as file:
        try:
            for number, row in enumerate(csv.reader(_lines(file), strict=True), start=1):
                if row:
                    rows[number] = row
        except csv.Error as error:
            if str(error) != "unexpected end of data":
                raise ValueError(f"row {number + 1}: {error}") from error
            problem = f"row {number + 1} has a quotation mark that is never closed"
            raise FlowsegError(problem, file=path) from error
    return rows


def _lines(file: IO[str]) -> Iterator[str]:
    """Its lines; what is no text is refused before it is in memory."""
    while line := file.readline(_MAX_ROW + 1):
        if len(line) > _MAX_ROW:
            raise ValueError(f"it has a row of more than {_MAX_ROW:,} characters")
        if "\0" in line:
            raise ValueError("it holds NUL characters, so it is no text")
        yield line
