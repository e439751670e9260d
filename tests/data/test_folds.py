"""Folds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowseg.arrays.rle import Masks
from flowseg.data.folds import (
    TRAIN_ONLY,
    assign_folds,
    read_ids,
    split_fold,
    write_folds,
)
from flowseg.data.record import Record
from flowseg.data.sartorius import read_sartorius
from flowseg.errors import FlowsegError

NOTHING = Masks.from_strings([], (4, 4))


def record(image_id: str, cell_type: str = "cort", group: str | None = None) -> Record:
    return Record(
        image_id=image_id,
        image_path=Path(f"{image_id}.png"),
        shape=(4, 4),
        cell_type=cell_type,
        group=group or image_id,
        annotation=NOTHING,
    )


def competition() -> list[Record]:
    """The size of the competition: 606 images, 155 shsy5y, 131 astro, 320 cort, in wells."""
    rng = np.random.default_rng(0)
    counts = {"shsy5y": 155, "astro": 131, "cort": 320}
    return [
        record(f"{cell_type}{i}", cell_type, f"{cell_type}_{rng.integers(40)}")
        for cell_type, count in counts.items()
        for i in range(count)
    ]


def test_wells_stay_together_and_types_are_spread() -> None:
    records = competition()
    folds = assign_folds(records, 5)
    assert set(folds) == {r.image_id for r in records}
    for group in {r.group for r in records}:
        assert len({folds[r.image_id] for r in records if r.group == group}) == 1
    table = Counter((r.cell_type, folds[r.image_id]) for r in records)
    for cell_type, count in {"shsy5y": 155, "astro": 131, "cort": 320}.items():
        in_folds = [table[cell_type, fold] for fold in range(5)]
        assert sum(in_folds) == count
        assert max(in_folds) - min(in_folds) <= 6  # smaller than one well
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= 10


def test_order_does_not_matter_and_the_seed_does() -> None:
    records = competition()
    shuffled = [records[i] for i in np.random.default_rng(1).permutation(len(records))]
    assert assign_folds(records, 5) == assign_folds(shuffled, 5)
    assert assign_folds(records, 5) == assign_folds(records, 5, seed=42)
    assert assign_folds(records, 5) != assign_folds(records, 5, seed=43)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=4, max_size=40),
    st.integers(2, 5),
)
def test_every_fold_has_images(images: list[tuple[str, int]], count: int) -> None:
    records = [record(f"i{k}", t, f"{t}{well}") for k, (t, well) in enumerate(images)]
    groups = {r.group for r in records}
    if count > len(groups):
        with pytest.raises(FlowsegError, match=f"{count} folds"):
            assign_folds(records, count)
        return
    folds = assign_folds(records, count)
    assert all(len({folds[r.image_id] for r in records if r.group == g}) == 1 for g in groups)
    for fold in range(count):
        train, validation = split_fold(records, folds, fold)
        assert len(train) + len(validation) == len(records)
        assert {r.group for r in train}.isdisjoint(r.group for r in validation)


def test_train_only() -> None:
    records = [record(f"i{k}", group=f"g{k // 2}") for k in range(8)]
    folds = assign_folds(records, 2, train_only={"i0", "i6", "i7", "elsewhere"})
    assert [folds[f"i{k}"] for k in (0, 6, 7)] == [TRAIN_ONLY] * 3
    assert "elsewhere" not in folds
    for fold in (0, 1):
        train, validation = split_fold(records, folds, fold)
        assert {"i0", "i6", "i7"}.isdisjoint(r.image_id for r in validation)
        assert {"i6", "i7"} <= {r.image_id for r in train}
        # i0 shares a well with i1: where i1 is validated, i0 must not be trained on
        assert ("i0" in {r.image_id for r in train}) == (folds["i1"] != fold)


@pytest.mark.parametrize("count", [-1, 0, 1, 5])
def test_too_many_or_too_few(count: int) -> None:
    with pytest.raises(FlowsegError, match="at least 2 folds"):
        assign_folds([record(name) for name in "abcd"], count)


def test_a_fold_that_is_not_there() -> None:
    records = [record(name) for name in "abcd"]
    folds = assign_folds(records, 2)
    with pytest.raises(FlowsegError, match="fold 2 has 4 images to train on and 0"):
        split_fold(records, folds, 2)
    with pytest.raises(FlowsegError, match="1 images have no fold, first 'e'"):
        split_fold([*records, record("e")], folds, 0)


def test_file(tmp_path: Path) -> None:
    records = [record("b", "cort"), record("a", "astro", "astros_A1")]
    folds = {"a": 1, "b": TRAIN_ONLY}
    path = tmp_path / "folds.csv"
    write_folds(path, records, folds)
    assert path.read_text() == "id,cell_type,group,fold\na,astro,astros_A1,1\nb,cort,b,-1\n"


def test_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("\ufeffa\n\n  b \r\n")
    assert read_ids(path) == {"a", "b"}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FlowsegError, match="cannot be read: 'utf-8'"):
        read_ids(path)
    with pytest.raises(FlowsegError, match="is missing"):
        read_ids(tmp_path / "none.txt")
    path.write_text("../a\n")
    with pytest.raises(FlowsegError, match="not a plain file name"):
        read_ids(path)


def test_real_data(real_data: Path) -> None:
    records = read_sartorius(real_data)
    train_only = read_ids(real_data / "approximate_ids.txt")
    folds = assign_folds(records, 4, train_only=train_only)
    table = Counter((r.cell_type, folds[r.image_id]) for r in records)
    assert table["shsy5y", TRAIN_ONLY] == 4
    assert [table["shsy5y", fold] for fold in range(4)] == [1, 1, 1, 1]
    assert all(table["cort", fold] in (4, 5) for fold in range(4))
    assert all(table["astro", fold] in (2, 3) for fold in range(4))
