"""A run's folder: one training at a time, resumed as it was started, found when finished."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowseg.config.loading import load_config
from flowseg.errors import FlowsegError
from flowseg.training.run_folder import (
    CROSS_VALIDATION,
    ORIGIN,
    PRETRAINING,
    STATE,
    TRAINING,
    find_finished,
    is_finished,
    lock_run_folder,
    open_run_folder,
    read_summary,
    write_summary,
)

# It leaves a child behind, as a killed training may leave its loader processes.
OTHER = """
import subprocess, sys, time
from pathlib import Path
from flowseg.training.run_folder import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
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
            with open_run_folder(folder, load_config("cort"), {}, resume=False) as has_state:
                assert not has_state
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_one_after_the_other(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_run_folder(tmp_path, wait=True):
            pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has none")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_run_folder(tmp_path / "run"):
        pass
    assert "let no other process write there" in caplog.text
    assert len(caplog.messages) == 1


def test_a_run_of_a_flowseg_that_lacked_a_setting_is_not_resumed(tmp_path: Path) -> None:
    config, file = load_config("cort"), tmp_path / "run" / "config.yaml"
    with open_run_folder(file.parent, config, {"processes": 1}, resume=False):
        pass
    with open_run_folder(file.parent, config, {"processes": 1}, resume=True) as has_state:
        assert not has_state
    (file.parent / STATE).touch()
    with open_run_folder(file.parent, config, {"processes": 1}, resume=True) as has_state:
        assert has_state
    file.write_text(file.read_text().replace("  paste_fraction: 0.3\n", ""))
    with (
        pytest.raises(FlowsegError, match=r"other settings: augment\.paste_fraction None -> 0\.3;"),
        open_run_folder(file.parent, config, {"processes": 1}, resume=True),
    ):
        pass


def test_the_number_of_processes_does_not_change_silently(tmp_path: Path) -> None:
    config, alone = load_config(), {"pretrain": "none", "processes": 1}
    with open_run_folder(tmp_path, config, alone | {"processes": 2}, resume=False):
        pass
    with (
        pytest.raises(FlowsegError, match="processes 2 -> 1"),
        open_run_folder(tmp_path, config, alone, resume=True),
    ):
        pass
    # A run of the time before processes were counted had one.
    (tmp_path / ORIGIN).write_text('{"pretrain": "none"}')
    with open_run_folder(tmp_path, config, alone, resume=True) as has_state:
        assert not has_state


def test_what_is_not_there_is_not_made_by_resuming(tmp_path: Path) -> None:
    with (
        pytest.raises(FlowsegError, match="holds no run to resume"),
        open_run_folder(tmp_path / "run", load_config("cort"), {}, resume=True),
    ):
        pass
    assert not any(tmp_path.iterdir())


def test_finished_runs_are_found_in_the_order_they_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages = {"b": TRAINING, "c": PRETRAINING, "a": TRAINING, "d": CROSS_VALIDATION}
    for seconds, (name, stage) in enumerate(stages.items()):
        (tmp_path / name).mkdir()
        assert not is_finished(tmp_path / name)
        assert read_summary(tmp_path / name) is None
        write_summary(tmp_path / name, stage, {"epochs": 3})
        os.utime(tmp_path / name / "summary.json", (seconds, seconds))
    assert is_finished(tmp_path / "a")
    assert read_summary(tmp_path / "a") == {"stage": "training", "epochs": 3}
    assert [run.name for run in find_finished(tmp_path, TRAINING)] == ["b", "a"]
    (tmp_path / "b" / "summary.json").write_text("{")
    found = find_finished(tmp_path, TRAINING, CROSS_VALIDATION)
    assert [run.name for run in found] == ["a", "d"]
    assert "summary.json: is damaged" in caplog.text


@pytest.mark.slow
def test_it_needs_no_torch() -> None:
    code = "import sys, flowseg.training.run_folder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
