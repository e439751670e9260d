"""Fixtures of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowseg.training.stage import Stage
from helpers.training import make_stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(tmp_path)
