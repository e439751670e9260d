"""The GPU's benchmark runs anywhere in miniature, so that it is right when a GPU is at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SCRIPT = CHECKOUT / "benchmarks" / "gpu.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.is_file(), reason="not in a checkout"),
]


def run(folder: Path, stages: str) -> tuple[int, dict[str, dict[str, object]], str]:
    """Exit code, figures and table of some stages in miniature on the CPU."""
    command = [sys.executable, str(SCRIPT), "--out", str(folder), "--device", "cpu", "--small"]
    done = subprocess.run(
        [*command, "--only", stages],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    stored = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    logs = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.log"))
    return done.returncode, stored, done.stdout + done.stderr + logs


def test_stages_run_on_the_cpu(tmp_path: Path) -> None:
    stages = ("data", "machine", "net", "step", "fit", "predict")
    status, stored, log = run(tmp_path, ",".join(stages))
    assert status == 0, log
    assert set(stored) == set(stages)
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| the same file twice | yes | yes | met |" in table.replace("yes  |", "yes |")


def test_a_stage_that_fails_costs_no_other_and_the_exit_code_says_so(tmp_path: Path) -> None:
    status, stored, _ = run(tmp_path, "predict,machine")  # there is no model
    assert status == 1
    assert stored["predict"]["status"] != 0
    assert stored["machine"]["status"] == 0
    assert "| predict | ended with 1 |" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
