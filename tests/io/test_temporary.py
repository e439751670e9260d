"""Temporary files are removed when their writer has died, and only then."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowseg.io import temporary as _temporary
from flowseg.io.atomic import atomic_path, write_text
from flowseg.io.temporary import part_of

WRITER = """if True:
    import sys, time
    from pathlib import Path
    from flowseg.io.atomic import atomic_path
    with atomic_path(sys.argv[1]) as part:
        part.write_bytes(b"half")
        sys.stdout.write("writing\\n")
        sys.stdout.flush()
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that just started."""
    monkeypatch.setattr(_temporary, "_swept", set())


def start_writer(path: Path) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    return writer


@pytest.mark.skipif(os.name != "posix", reason="processes are looked for on POSIX only")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead, living = (start_writer(tmp_path / name) for name in ("dead.csv", "living.csv"))
    try:
        dead.kill()
        dead.wait()
        (tmp_path / part_of(Path("z.zarr")).name.replace(str(os.getpid()), str(dead.pid))).mkdir()
        assert len(list(tmp_path.iterdir())) == 3
        write_text(tmp_path / "other.csv", "text")
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names[-1] == "other.csv"
        assert len(names) == 2
        assert names[0].endswith("-living.csv")
    finally:
        for writer in (dead, living):
            writer.kill()
            writer.communicate()


def test_of_another_machine_age_decides(tmp_path: Path) -> None:
    own = re.escape(_temporary._machine())
    names = [re.sub(own, "00000000", part_of(Path(name)).name) for name in ("old", "new")]
    names += [".part-0123456789ab-older-flowseg.csv"]
    for name in names:
        (tmp_path / name).touch()
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (0, time.time() - 90_000))
    write_text(tmp_path / "a.txt", "text")
    assert {path.name for path in tmp_path.iterdir()} == {names[1], "a.txt"}


def test_our_own_stay_and_each_folder_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))
    with atomic_path(tmp_path / "outer") as part:
        part.touch()
        write_text(tmp_path / "inner", "text")
        assert part.exists()
    assert listed == [tmp_path]
