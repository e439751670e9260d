"""One training at a time in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowseg.config.loading import load_config
from flowseg.errors import FlowsegError
from flowseg.training.run_folder import lock_run_folder, open_run_folder

pytest.importorskip("fcntl", reason="Windows has no such lock")

# It leaves a child behind, as a killed training may leave its loader processes.
OTHER = """
import os, sys, time
from pathlib import Path
from flowseg.training.run_folder import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    if os.fork():
        print("in", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", OTHER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"in\n"
            with (
                pytest.raises(FlowsegError, match="run: another training is at work"),
                open_run_folder(folder, load_config("cort"), {}, resume=False),
            ):
                pass
            assert [path.name for path in folder.iterdir()] == [".lock"]
            other.kill()
            other.wait()
            with open_run_folder(folder, load_config("cort"), {}, resume=False) as begun:
                assert not begun
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_a_run_of_a_flowseg_that_lacked_a_setting_is_not_resumed(tmp_path: Path) -> None:
    config, file = load_config("cort"), tmp_path / "run" / "config.yaml"
    with open_run_folder(file.parent, config, {"processes": 1}, resume=False):
        pass
    with open_run_folder(file.parent, config, {"processes": 1}, resume=True) as begun:
        assert not begun
    file.write_text(file.read_text().replace("  paste_fraction: 0.3\n", ""))
    with (
        pytest.raises(FlowsegError, match=r"other settings: augment\.paste_fraction None -> 0\.3;"),
        open_run_folder(file.parent, config, {"processes": 1}, resume=True),
    ):
        pass


def test_what_is_not_there_is_not_made_by_resuming(tmp_path: Path) -> None:
    with (
        pytest.raises(FlowsegError, match="holds no run to resume"),
        open_run_folder(tmp_path / "run", load_config("cort"), {}, resume=True),
    ):
        pass
    assert not any(tmp_path.iterdir())


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_run_folder(tmp_path, wait=True):
            pass
