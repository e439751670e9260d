"""What a stage of gpu.py works with: its sizes, its clock, and the rows that it writes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
CHECKOUT = Path(__file__).resolve().parents[1]


class Bench:
    """The folder, device and sizes of a stage, and the rows that it has measured so far."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.folder: Path = args.folder
        self.device: str = args.device
        self.small: bool = args.small
        self.peer_python: str | None = args.peer_python
        self.limit: float = args.limit
        self.data = self.folder / "data"
        self.model = self.folder / "runs" / "model"
        self._file = self.folder / f"{name}.rows.json"
        self._rows: list[Row] = []

    def row(
        self, what: str, value: Any, unit: str = "", *, least: float = 0, most: float = 0
    ) -> None:
        """Note a figure, with the target that it should reach or stay below, if it has one."""
        met = value >= least if least else value <= most if most else None
        target = f"at least {least:g}" if least else f"at most {most:g}" if most else ""
        self._note(what, value, unit, target, met)

    def gate(self, what: str, holds: bool) -> None:
        """Note what has to hold: if it does not, the whole has failed."""
        self._note(what, "yes" if holds else "no", "", "yes", holds, gate=True)

    def _note(
        self, what: str, value: Any, unit: str, target: str, met: bool | None, gate: bool = False
    ) -> None:
        row = {"what": what, "value": value, "unit": unit, "target": target, "met": met}
        self._rows.append(row | {"gate": gate})
        text = json.dumps(self._rows, default=lambda number: number.item())  # of NumPy
        self._file.write_text(text, encoding="utf-8")

    def clock(self, work: Callable[[], Any], repeats: int = 7) -> float:
        """The median time of some work in milliseconds, after one that warms it up."""
        import torch

        def finish() -> None:
            work()
            if self.device != "cpu":
                torch.cuda.synchronize()

        finish()
        times = []
        for _ in range(1 if self.small else repeats):
            start = time.perf_counter()
            finish()
            times.append(1e3 * (time.perf_counter() - start))
        return median(times)

    def flowseg(self, *arguments: str, **environment: str) -> float:
        """Run the command as a user does; seconds from its start to its end."""
        start = time.perf_counter()
        command = [sys.executable, "-m", "flowseg", *arguments]
        subprocess.run(command, check=True, env={**os.environ, **environment}, cwd=CHECKOUT)
        return time.perf_counter() - start
