"""The plugin in a real window of napari, on a virtual screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WINDOW = Path(__file__).with_name("window.py")


@pytest.mark.slow
@pytest.mark.parametrize("walk", ["segment", "stack", "bad_input", "compare", "learn"])
def test_walk(walk: str, tmp_path: Path) -> None:
    pytest.importorskip("napari.layers", reason="napari is not installed")
    if shutil.which("xvfb-run") is None:
        pytest.skip("there is no virtual screen: install xvfb")
    for name in ("home", "runtime"):
        (tmp_path / name).mkdir(mode=0o700)
    places = {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, str(WINDOW), walk, str(tmp_path)],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=tmp_path,
    )
    if "could not load the Qt platform plugin" in done.stderr.lower():
        pytest.skip("Qt's libraries for X11 are not installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
