"""Provenance: every annotation counts, and the code of every module."""

from __future__ import annotations

from pathlib import Path

from flowseg.data.livecell import read_livecell
from flowseg.synthetic.datasets import write_synthetic_livecell
from flowseg.training.provenance import digest_of_code, fingerprint, provenance_of
from helpers.training import CONFIG, record


def test_the_fingerprint_sees_every_annotation(tmp_path: Path) -> None:
    write_synthetic_livecell(tmp_path, 2, 1, 3, (64, 80))
    before = fingerprint(read_livecell(tmp_path))
    assert fingerprint(list(reversed(read_livecell(tmp_path)))) == before
    table = next((tmp_path / "LIVECell_dataset_2021/annotations/LIVECell").glob("*train.json"))
    text = table.read_text()
    first = text.index('"segmentation"')
    digit = next(i for i in range(first, len(text)) if text[i].isdigit())
    table.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert fingerprint(read_livecell(tmp_path)) != before


def test_the_fingerprint_sees_images_and_their_types(tmp_path: Path) -> None:
    one, other = record(tmp_path, "a", 1), record(tmp_path, "b", 2)
    assert fingerprint([one, other]) == fingerprint([other, one]) != fingerprint([one])
    assert fingerprint([one]) != fingerprint([record(tmp_path, "a", 1, "other")])


def test_what_goes_on_the_card(tmp_path: Path) -> None:
    records = [record(tmp_path, "a", 1), record(tmp_path, "b", 2)]
    provenance = provenance_of(CONFIG, records[:1], records[1:])
    assert provenance["data"] == fingerprint(records)
    assert provenance["settings"]["network"]["channels"] == [4, 8]
    assert {"flowseg", "revision", "torch"} <= provenance["versions"].keys()
    assert digest_of_code() == digest_of_code()
