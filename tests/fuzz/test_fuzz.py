"""A few hundred inputs of each reader; `campaign.py` reads as many as you like."""

from __future__ import annotations

import pytest
from campaign import attempt, one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TARGETS)
def test_only_flowseg_errors_come_out(
    name: str, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    target = TARGETS[name]
    folder = tmp_path_factory.mktemp("fuzz-")
    target.prepare(folder)
    outcomes = [attempt(target, one(target, 7, k), folder / target.path) for k in range(300)]
    read = sum(outcome is None for outcome in outcomes)
    assert 0 < read < len(outcomes)  # neither all refused nor all left whole
    capfd.readouterr()  # the decoders' own words


@pytest.mark.parametrize("name", ["rle", "train.csv", "coco", "yaml", "checkpoint"])
@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True)
@given(random=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_other_error(
    name: str, tmp_path_factory: pytest.TempPathFactory, random: object
) -> None:
    """The same inputs, chosen by hypothesis, which makes those small that fail."""
    target = TARGETS[name]
    folder = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    if not folder.is_dir():
        folder.mkdir()
        target.prepare(folder)
    attempt(target, target.make(random), folder / target.path)
