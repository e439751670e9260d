"""CSV files to pandas DataFrames and back; a row keeps the number that a spreadsheet shows."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

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
    csv.field_size_limit(_MAX_ROW)  # of the engine; its default is 131,072
    try:
        with _open_text(path) as file:
            # Python's engine, and the names as a row: a row that is too short is told from blanks.
            rows = pd.read_csv(
                cast("IO[str]", _Lines(file)),
                header=None,
                dtype=object,
                keep_default_na=False,
                skip_blank_lines=False,
                engine="python",
            )
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except IsADirectoryError as error:
        raise FlowsegError("is a folder, not a file", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a text file in UTF-8", file=path) from error
    except pd.errors.EmptyDataError as error:
        raise FlowsegError("is empty", file=path) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        long = re.fullmatch(r"Expected (\d+) fields in line (\d+), saw (\d+).*", str(error))
        problem = f"row {long[2]} has {long[3]} fields, not {long[1]}" if long else None
        if "unexpected end of data" in str(error):
            problem = "has a quotation mark that is never closed"
        raise out_of_memory(error, path) or FlowsegError(
            problem or f"cannot be read: {error}", file=path
        ) from error
    rows.index += 1
    rows = rows[rows.notna().any(axis=1)]
    if not len(rows):
        raise FlowsegError("is empty", file=path)
    names = list(rows.iloc[0])
    for number, fields in rows.notna().sum(axis=1).items():
        if fields != len(names):
            problem = f"row {number} has {fields} fields, not {len(names)}"
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
    return rows.iloc[1:].set_axis(names, axis=1)


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


class _Lines:
    """A text file for pandas; what is no table is refused before it is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self.readline = self.read = file.readline
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_MAX_ROW + 1):
            if len(line) > _MAX_ROW:
                raise ValueError(f"it has a row of more than {_MAX_ROW:,} characters")
            if "\0" in line:
                raise ValueError("it holds NUL characters, so it is no text")
            yield line
