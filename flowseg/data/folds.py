"""Folds of a cross validation: grouped by well or movie, stratified by cell type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.binary import open_binary
from flowseg.io.paths import PathLike, check_name
from flowseg.io.tables import write_table

TRAIN_ONLY = -1
"""The fold of an image that is used for training only, never for validation."""

_COLUMNS = ("id", "cell_type", "group", "fold")


def assign_folds(
    records: Sequence[Record], folds: int, seed: int = 42, train_only: Collection[str] = ()
) -> dict[str, int]:
    """Assign a fold to each image, 0 to ``folds - 1``: by image id, ids sorted.

    Groups are assigned largest first, each to the fold that then holds the fewest images of the
    group's cell types; among those to the one with the fewest images, and then the lowest number.
    The seed decides among groups of equal size; the order of the records changes nothing. Images of
    `train_only` are never used for validation; their fold is `TRAIN_ONLY`. Raises FlowsegError if
    there are fewer than two folds or fewer groups than folds.
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
    """Split records into those for training and those for validation, in the given order.

    A train-only image from a well of the validation is in neither list. Raises FlowsegError if an
    image has no fold, or one of the two lists is empty.
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


def read_ids(path: PathLike) -> frozenset[str]:
    """Read image ids, one a line; blank lines are skipped."""
    with open_binary(Path(path)) as file:
        lines = file.read().decode("utf-8-sig").splitlines()
    return frozenset(check_name(line.strip(), file=path) for line in lines if line.strip())
