"""CSV files: read row by row with the row's number at hand, written atomically."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from flowseg.errors import FlowsegError
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike

__all__ = ["read_rows", "write_rows"]

_MAX_ROW = 2**26  # characters; the longest row of the competition has a few thousand


def read_rows(path: PathLike, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file (or .csv.gz), one at a time.

    Parameters
    ----------
    path : path
        UTF-8, comma-separated, the names of the columns in its first row.
    columns : sequence of str
        Columns that must be there; others are passed on as well.

    Yields
    ------
    int, dict of str
        The row's number as a spreadsheet shows it (the names are row 1), and its fields by
        column. Blank rows are passed over.

    Raises
    ------
    FlowsegError
        If the file is missing, empty, not UTF-8 or lacks a column, or a row has another number
        of fields or more than 67 million characters.
    """
    path = Path(path)
    row = 0
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_ROW))  # its default is 131,072
    try:
        with _opened(path) as file:
            reader = csv.reader(_lines(file, path), strict=True)
            names = next(reader, None)
            if not names:
                raise FlowsegError("is empty", file=path)
            missing = [name for name in columns if name not in names]
            if missing:
                raise FlowsegError(
                    f"has no column {', '.join(map(repr, missing))}",
                    file=path,
                    remedy=f"its first row must name the columns {','.join(columns)}",
                )
            for row, fields in enumerate(reader, start=2):
                if not fields:
                    continue
                if len(fields) != len(names):
                    raise FlowsegError(
                        f"row {row} has {len(fields)} fields, not {len(names)}", file=path
                    )
                yield row, dict(zip(names, fields, strict=True))
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except UnicodeDecodeError as error:
        raise FlowsegError("is not a text file in UTF-8", file=path) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error
    except csv.Error as error:
        raise FlowsegError(f"cannot be read after row {max(row, 1)}: {error}", file=path) from error


def write_rows(path: PathLike, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically: the names of the columns, then the rows; lines end in LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _opened(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    while line := file.readline(_MAX_ROW):
        if len(line) == _MAX_ROW:
            raise FlowsegError(f"has a row of more than {_MAX_ROW:,} characters", file=path)
        yield line
