"""Folds of a cross validation: grouped by well or movie, stratified by cell type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.paths import PathLike, check_name
from flowseg.io.tables import read_table, write_table

__all__ = ["TRAIN_ONLY", "assign_folds", "read_folds", "read_ids", "split_fold", "write_folds"]

TRAIN_ONLY = -1
"""The fold of an image that is used for training only, never for validation."""

_COLUMNS = ("id", "cell_type", "group", "fold")


def assign_folds(
    records: Sequence[Record], folds: int, seed: int = 42, train_only: Collection[str] = ()
) -> dict[str, int]:
    """Assign a fold to each image.

    Parameters
    ----------
    records : sequence of Record
        In any order: it does not change the result.
    folds : int
        How many, at least 2 and at most the number of groups.
    seed : int
        Decides among groups of equal size.
    train_only : collection of str
        Ids of images that are never used for validation; they get the fold `TRAIN_ONLY`.

    Returns
    -------
    dict of int
        Fold, 0 to ``folds - 1`` or `TRAIN_ONLY`, by image id, ids sorted.

    Raises
    ------
    FlowsegError
        If there are fewer than two folds or fewer groups than folds.

    Notes
    -----
    Groups are assigned largest first, each to the fold that then holds the fewest images of the
    group's cell types; among those to the one with the fewest images, and then the lowest number.
    """
    groups: dict[str, Counter[str]] = {}
    for record in records:
        if record.image_id not in train_only:
            groups.setdefault(record.group, Counter())[record.cell_type] += 1
    if not 2 <= folds <= len(groups):
        most = f" (--folds {len(groups)})" if len(groups) > 1 else ""
        raise FlowsegError(
            f"{folds} folds cannot be made of {len(groups)} groups (wells) of images",
            remedy=f"ask for at least 2 folds and at most as many as there are groups{most}",
        )
    names = sorted(groups)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    counts = [Counter[str]() for _ in range(folds)]
    fold_of_group: dict[str, int] = {}
    for name in sorted(shuffled, key=lambda name: -groups[name].total()):  # stable: seed decides
        types = groups[name]
        fold = min(
            range(folds),
            key=lambda k: (sum(types[t] * counts[k][t] for t in types), counts[k].total(), k),
        )
        counts[fold].update(types)
        fold_of_group[name] = fold
    return {
        record.image_id: (
            TRAIN_ONLY if record.image_id in train_only else fold_of_group[record.group]
        )
        for record in sorted(records, key=lambda record: record.image_id)
    }


def split_fold(
    records: Sequence[Record], folds: Mapping[str, int], fold: int
) -> tuple[list[Record], list[Record]]:
    """Split records into those for training and those for validation.

    Parameters
    ----------
    records : sequence of Record
    folds : mapping of int
        Fold by image id, as from `assign_folds`.
    fold : int
        The fold for validation.

    Returns
    -------
    train, validation : list of Record
        In the given order. A train-only image from a well of the validation is in neither list.

    Raises
    ------
    FlowsegError
        If an image has no fold, or one of the two lists is empty.
    """
    unknown = [record.image_id for record in records if record.image_id not in folds]
    if unknown:
        raise FlowsegError(
            f"{len(unknown)} images have no fold, first {unknown[0]!r}",
            remedy="assign the folds anew",
        )
    validation = [record for record in records if folds[record.image_id] == fold]
    wells = {record.group for record in validation}
    train = [record for record in records if record.group not in wells]
    if not train or not validation:
        raise FlowsegError(
            f"fold {fold} has {len(train)} images to train on and {len(validation)} to validate on",
            remedy="choose another fold or fewer folds",
        )
    return train, validation


def write_folds(path: PathLike, records: Sequence[Record], folds: Mapping[str, int]) -> None:
    """Write folds as CSV, columns id, cell_type, group and fold, sorted by id."""
    import pandas as pd

    ordered = sorted(records, key=lambda record: record.image_id)
    rows = [(r.image_id, r.cell_type, r.group, folds[r.image_id]) for r in ordered]
    write_table(path, pd.DataFrame(rows, columns=_COLUMNS))


def read_folds(path: PathLike) -> dict[str, int]:
    """Read the fold of each image id from what `write_folds` wrote.

    Raises
    ------
    FlowsegError
        If an id is listed twice or a fold is no whole number of at least -1.
    """
    folds: dict[str, int] = {}
    for row, image_id, text in read_table(path, ("id", "fold"))[["id", "fold"]].itertuples():
        if image_id in folds:
            raise FlowsegError(f"row {row}: {image_id!r} is listed twice", file=path)
        digits = text == str(TRAIN_ONLY) or (text.isascii() and text.isdigit() and len(text) < 10)
        if not digits:
            raise FlowsegError(f"row {row}: the fold {text[:40]!r} is no whole number", file=path)
        folds[image_id] = int(text)
    return folds


def read_ids(path: PathLike) -> frozenset[str]:
    """Read image ids, one a line; blank lines are skipped.

    Raises
    ------
    FlowsegError
        If the file cannot be read as text or a line is no image id.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "is not text in UTF-8"
        raise FlowsegError(f"cannot be read: {reason}", file=path) from error
    return frozenset(check_name(line.strip(), file=path) for line in lines if line.strip())
