"""Full disks, folders that cannot be written, too many files, too little memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.sartorius import read_annotations
from flowseg.errors import FlowsegError
from flowseg.inference.pipeline import Stage, pipeline
from flowseg.io.atomic import write_text
from flowseg.io.image_source import list_images
from flowseg.io.images import read_image, write_image, write_labels
from flowseg.network.checkpoint import Card, load_network, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.prediction.journal import Journal
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.run_folder import STATE

pytestmark = pytest.mark.slow

resource = pytest.importorskip("resource", reason="limits are set as POSIX does")

TINY = [
    *(
        "--set",
        "network.channels=[4, 8]",
        "--set",
        "network.blocks_per_level=1",
        "--set",
        "augment.crop_size=64",
    ),
    *("--set", "training.crops_per_epoch=4", "--set", "training.batch_size=4", "--device", "cpu"),
    *("--epochs", "2", "--set", "data.folds=2"),
]


@contextmanager
def limited(kind: str, value: int) -> Iterator[None]:
    """Lower a soft limit of this process; beyond RLIMIT_FSIZE writing fails as on a full disk."""
    number = getattr(resource, kind)
    before = resource.getrlimit(number)
    resource.setrlimit(number, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(number, before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn data in `data`, two of its images in `images`, their labels in `labels`, a model."""
    folder = tmp_path_factory.mktemp("home")
    write_synthetic_sartorius(folder / "data", 12, 1, 1, (96, 128))
    labels = np.kron(np.arange(48).reshape(6, 8), np.ones((9, 9), int))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for k, path in enumerate(sorted((folder / "data" / "train").iterdir())[:2]):
        shutil.copy(path, folder / "images" / f"i{k}.png")
        write_labels(folder / "labels" / f"i{k}.tif", labels)
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    card = Card(config, {"a": CellTypeSettings(diameter=20.0)})
    save_network(folder / "m.safetensors", FlowNetwork(config, 1).state_dict(), card)
    for name in FILES + FOLDERS:  # loops are compiled and kept here, while the disk has room
        (folder / "warm").mkdir(exist_ok=True)
        assert main(command(folder, name, folder / "warm" / name.replace(" ", "_"))) == 0
    return folder


def command(home: Path, name: str, out: Path) -> list[str]:
    """A command line whose results go to `out`."""
    given: dict[str, list[object]] = {
        "train": ["--data", home / "data", "--out", out, *TINY],
        "predict": ["--in", home / "images", "--model", home / "m.safetensors", "--out", out],
        "predict labels": [
            *("--in", home / "images", "--model", home / "m.safetensors", "--device", "cpu"),
            *("--out", out / "s.csv", "--save-labels", out, "--overlays", out),
        ],
        "evaluate": ["--truth", home / "labels", "--pred", home / "labels", "--report", out],
        "evaluate csv": ["--truth", home / "labels", "--pred", home / "labels", "--csv", out],
        "export": ["--labels", home / "labels", "--coco", out],
        "export rois": ["--labels", home / "labels", "--seg-npy", out],
        "explore": ["--data", home / "data", "--out", out, "--folds", "2"],
    }
    return [name.split(maxsplit=1)[0], *map(str, given[name])]


FILES = ["predict", "evaluate", "evaluate csv", "export", "explore"]
FOLDERS = ["train", "predict labels", "export rois"]


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one clear line; that line."""
    capsys.readouterr()
    assert main(argv) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flowseg ")]
    assert len(said) == 1
    return said[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_earlier_result(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "result"
    out.write_bytes(b"earlier")
    with limited("RLIMIT_FSIZE", 20):
        line = fails(command(home, name, out), capsys)
    assert "cannot be written: File too large" in line
    assert str(tmp_path) in line
    assert contents(tmp_path) == {"result": b"earlier"}
    assert main(command(home, name, out)) == 0
    assert set(contents(tmp_path)) == {"result"} != {"result": b"earlier"}


@pytest.mark.parametrize("limit", [20, 2500])
def test_a_full_disk_before_the_first_epoch_does_not_block_the_next_start(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    out = tmp_path / "run"
    with limited("RLIMIT_FSIZE", limit):
        assert "cannot be written: File too large" in fails(command(home, "train", out), capsys)
    assert set(contents(out)) <= {"config.yaml", "origin.json", "folds.csv"}
    assert main(command(home, "train", out)) == 0
    assert not [name for name in contents(out) if ".part-" in name]


def test_a_full_disk_in_training_loses_nothing(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv, undisturbed = (command(home, "train", tmp_path / name) for name in ("run", "other"))
    assert main(undisturbed) == 0
    with monkeypatch.context() as patched:
        patched.setattr("flowseg.training.trainer.Trainer.validate", stop)
        assert main(argv) == 75
    before = contents(tmp_path / "run")
    assert STATE in before
    with limited("RLIMIT_FSIZE", 3000):
        line = fails([*argv, "--resume"], capsys)
    assert "cannot be written: File too large" in line
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in before if name != "folds.csv"} == {
        name: content for name, content in before.items() if name != "folds.csv"
    }
    assert main([*argv, "--resume"]) == 0
    ends = [contents(tmp_path / name) for name in ("run", "other")]
    assert ends[0]["last.safetensors"] == ends[1]["last.safetensors"]
    assert set(ends[0]) == set(ends[1])


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_while_predicting_keeps_what_is_finished(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overlays are larger than rows and labels: no image is done, and all is told in one line."""
    out = tmp_path / "out"
    with limited("RLIMIT_FSIZE", 3000):
        line = fails(command(home, "predict labels", out), capsys)
    assert "none of 2 images could be done; the first: " in line
    assert "i0.png: cannot be written: File too large" in line
    assert set(contents(out)) <= {"i0.tif", "i1.tif"}
    assert main(command(home, "predict labels", out)) == 0
    assert set(contents(out)) == {
        "s.csv",
        *(f"i{k}{end}" for k in (0, 1) for end in (".tif", ".png")),
    }


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that even root cannot write")
@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_folder_that_nobody_can_write(
    home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = fails(command(home, name, Path("/proc/flowseg-test")), capsys)
    assert "/proc" in line
    assert "cannot be written" in line


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_read_only_folder(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    tmp_path.chmod(0o500)
    try:
        line = fails(command(home, name, tmp_path / "out"), capsys)
    finally:
        tmp_path.chmod(0o700)
    assert str(tmp_path) in line
    assert "Permission denied" in line


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_file_where_a_folder_is_needed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    line = fails(command(home, name, tmp_path / "file" / "out"), capsys)
    assert str(tmp_path / "file") in line
    assert contents(tmp_path) == {"file": b"precious"}


def test_a_folder_that_vanishes(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    begin = Journal.__init__

    def begin_and_lose(journal: Journal, path: Path, key: str) -> None:
        begin(journal, path, key)
        shutil.rmtree(out)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "__init__", begin_and_lose)
        line = fails(command(home, "predict labels", out), capsys)
    assert "cannot be written: No such file or directory" in line
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(
            "flowseg.training.trainer.Trainer.validate", lambda *_: shutil.rmtree(run) or {}
        )
        line = fails(command(home, "train", run), capsys)
    assert str(run) in line
    assert "cannot be written: No such file or directory" in line
    assert not run.exists()


def test_too_many_open_files(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(home, "predict", tmp_path / "out"))  # imports what it imports
    (tmp_path / "out").unlink()
    free = os.dup(0)
    os.close(free)
    with limited("RLIMIT_NOFILE", free + 1):  # one for the journal, none for the images
        assert "Too many open files" in fails(command(home, "predict", tmp_path / "out"), capsys)
    assert contents(tmp_path) == {}
    reads: dict[Path, Callable[[Path], object]] = {
        home / "images" / "i0.png": read_image,
        home / "labels" / "i0.tif": list_images,
        home / "data" / "train.csv": read_annotations,
        home / "m.safetensors": load_network,
        tmp_path / "new.txt": lambda path: write_text(path, "text"),
    }
    with limited("RLIMIT_NOFILE", free):
        for path, read in reads.items():
            with pytest.raises(FlowsegError) as error:
                read(path)
            assert str(error.value).startswith(str(path))
            assert "Too many open files" in str(error.value)


def test_an_image_too_large_for_memory_is_left_out_by_name() -> None:
    errors = [MemoryError("Unable to allocate"), RuntimeError("could not create a primitive")]

    def work(number: int) -> int:
        if number:
            raise errors[number - 1]
        return number

    numbers = range(len(errors) + 1)
    outcomes = list(pipeline(numbers, [Stage(work, 2)], weight=lambda _: 1, limit=9, ahead=3))
    assert outcomes[0].error is None
    assert {outcome.error.problem for outcome in outcomes[1:] if outcome.error} == {
        "there is not enough memory"
    }
    assert all(outcome.error for outcome in outcomes[1:])


LIMITED = """if True:
    import resource, sys
    from pathlib import Path
    from flowseg.cli import main
    assert main(sys.argv[1:]) == 0
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 100 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv[sys.argv.index("--in") + 1] += "-and-large"
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_too_little_memory_is_one_line_that_names_the_image(home: Path, tmp_path: Path) -> None:
    images, large = tmp_path / "images", tmp_path / "images-and-large"
    for folder in (images, large):
        shutil.copytree(home / "images", folder)
    # Its pixels alone take more than there is left: where memory runs out is no chance.
    write_image(large / "i9.png", np.zeros((15000, 15000), np.uint8))
    argv = ["predict", "--in", images, "--model", home / "m.safetensors", "--device", "cpu"]
    argv += ["--diameter", "20", "--out", tmp_path / "s.csv"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, argv)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    said = [line for line in done.stderr.splitlines() if "not enough memory" in line]
    assert done.returncode == 1, done.stderr
    assert len(said) == 1, done.stderr
    assert f"left out: {large / 'i9.png'}: there is not enough memory" in said[0]
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"i0", "i1"}
