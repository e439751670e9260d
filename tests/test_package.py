"""Wheel and sdist hold what an installed flowseg needs, and work outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flowseg.io.images import write_labels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BACKEND = "setuptools.build_meta"


def build(kind: str, source: Path, out: Path) -> Path:
    """A "wheel" or "sdist" of the sources, by the setuptools that is here: nothing is fetched."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, {BACKEND} as b; b.build_{kind}(sys.argv[1])",
            str(out),
        ],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, so that the checkout stays as it is."""
    pytest.importorskip("setuptools", minversion="77", reason="an older setuptools cannot build it")
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


def test_every_module_and_config_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "flowseg").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"flowseg/{path.relative_to(ROOT).as_posix()}" in names
    assert {"flowseg/py.typed", "flowseg/configs/schema.json"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "configs/")) for name in names)


def test_the_sdist_makes_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """Whoever builds from the sdist, as conda and Debian do, gets what the wheel holds."""
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "LICENSE").is_file()
    (tmp_path / "wheel").mkdir()
    again = build("wheel", unpacked, tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if "RECORD" not in name}


INSTALLED = """if True:
    import pathlib, sys
    import flowseg
    from flowseg.cli import main
    from flowseg.config.choices import available_cell_types
    assert str(pathlib.Path(flowseg.__file__)).startswith(sys.argv[1]), flowseg.__file__
    assert flowseg.load_config("cort").cell_types["cort"].diameter == 17.5
    assert len(available_cell_types()) >= 5
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_is_installed_and_used_elsewhere(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """pip installs it without network; labels become a score and a page, far from the checkout."""
    site, labels = tmp_path / "site", tmp_path / "labels"
    labels.mkdir()
    write_labels(labels / "a.tif", np.eye(20, dtype=np.int32).repeat(3, axis=0))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site)]
    pip += ["--no-build-isolation", "--disable-pip-version-check"]
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    wanted = ["evaluate", "--truth", "labels", "--pred", "labels", "--report", "page.html"]
    for line in (
        [*pip, str(request.getfixturevalue(kind))],
        [sys.executable, "-c", INSTALLED, str(site), *wanted],
    ):
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "competition score  1.0000" in done.stdout
    assert "<style>" in (tmp_path / "page.html").read_text(encoding="utf-8")
