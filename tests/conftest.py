"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# No test is timed: the first call of a function compiles it, and the machine may be busy.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# As the command line does, and before torch is loaded: waiting threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(42)


@pytest.fixture
def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (40, 50), dtype=np.uint8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and annotations that stands beside the checkout."""
    if not (REAL / "train.csv").is_file():
        pytest.skip(f"the real data are not here: {REAL}")
    return REAL
