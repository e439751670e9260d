"""The command line itself: faults, and how much is logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.io.images import write_image


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trin"], "argument COMMAND: invalid choice: 'trin'"),
        (["train", "--fold", "x"], "argument --fold: invalid int value: 'x'; see flowseg train -"),
        (["train", "--quiet", "--verbose"], "--verbose: not allowed with argument --quiet"),
        (["predict", "--in", "x", "--diameter", "abc"], "'abc' is neither pixels nor auto"),
        (["predict"], "one of the arguments --in --join is required"),
    ],
)
def test_faults_of_the_command_line_are_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("option", "seen"), [("--quiet", 0), ("--debug", 1), ("--verbose", 2)])
def test_how_much_is_logged(option: str, seen: int, tmp_path: Path) -> None:
    """In a process of its own: tqdm reads its environment when it is imported."""
    code = (
        "import logging, sys\n"
        "from flowseg.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "from tqdm import tqdm\n"
        "log = logging.getLogger('flowseg.training')\n"
        "log.debug('for developers'); log.info('progress'); log.warning('warning')\n"
        "list(tqdm(range(2), 'bar'))\n"
    )
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "s.csv").write_text("id,predicted\na,\n")
    argv = ["validate", "s.csv", "--images", "images", option]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "valid (1 rows" in done.stdout
    expected = [seen > 1, seen > 0, True, seen > 0]
    words = ("for developers", "progress", "warning", "bar: 100%")
    assert [word in done.stderr for word in words] == expected
