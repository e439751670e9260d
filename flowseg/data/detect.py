"""Detects the layout of a data folder, and reads its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from flowseg.data.folder import CELL_TYPE, TYPE_TABLE, read_folder
from flowseg.data.livecell import FOLDER, read_livecell
from flowseg.data.record import Record
from flowseg.data.sartorius import read_sartorius
from flowseg.errors import FlowsegError
from flowseg.io.notes import Notify, log_note
from flowseg.io.paths import PathLike

Layout = Literal["competition", "livecell", "folder"]


def detect_layout(folder: PathLike) -> Layout:
    """The layout of a data folder, by its files; a path that is no folder counts as competition.

    The competition with LIVECell inside is the competition.
    """
    folder = Path(folder)
    if (folder / "train.csv").exists() or not folder.is_dir():
        return "competition"
    if any(any(root.glob("annotations/LIVECell*")) for root in (folder, folder / FOLDER)):
        return "livecell"
    return "folder"


def read_records(
    folder: PathLike,
    cell_types: Sequence[str] | None = None,
    include_flawed: bool = False,
    note: Notify = log_note,
) -> list[Record]:
    """The annotated images of the competition, of LIVECell, or of a folder of one's own.

    A folder of one's own holds one cell type, which `cell_types` names, unless a table in it tells
    the type of each image. Raises as `read_sartorius`, `read_livecell` and `read_folder`.
    """
    layout = detect_layout(folder)
    if layout == "competition":
        return read_sartorius(folder, cell_types, include_flawed, note)
    if layout == "livecell":
        return read_livecell(
            folder, cell_types=cell_types, include_flawed=include_flawed, note=note
        )
    if (Path(folder) / TYPE_TABLE).exists():
        records = read_folder(folder)
        wanted = {record.cell_type for record in records} if cell_types is None else {*cell_types}
        if found := [record for record in records if record.cell_type in wanted]:
            return found
        raise FlowsegError(
            f"lists no image of {', '.join(sorted(wanted))}", file=Path(folder) / TYPE_TABLE
        )
    names = (CELL_TYPE,) if cell_types is None else tuple(cell_types)
    if len(names) != 1:
        raise FlowsegError(
            f"holds images of one cell type, not of {', '.join(names)}",
            file=folder,
            remedy=f"leave out --cell-type, or give one such as {CELL_TYPE}",
        )
    return read_folder(folder, names[0])
