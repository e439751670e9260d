"""A folder with all that a notebook without internet needs: wheels, weights, metadata, notebook."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from flowseg._version import __version__
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_folder, write_text
from flowseg.io.paths import PathLike
from flowseg.kaggle.notebook import MARKER, notebook
from flowseg.kaggle.runtime import DEFAULT_RUNTIME, Runtime, lacking, read_runtime
from flowseg.network.checkpoint import read_card

COMPETITION = "sartorius-cell-instance-segmentation"

ACCELERATORS = {"t4": "NvidiaTeslaT4", "l4": "NvidiaL4"}
"""Kaggle's names of machines: two T4, or four L4."""

USER = "USER"
"""Stands for the name on Kaggle where none is given."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What was written."""

    dataset: Path
    """The folder to upload as a data set."""
    kernel: Path
    """The folder to push as a notebook."""
    wheels: tuple[str, ...]
    models: tuple[str, ...]


def make_bundle(
    models: Sequence[Path],
    out: PathLike,
    *,
    runtime: str = DEFAULT_RUNTIME,
    user: str = USER,
    accelerator: str = "t4",
    options: str = "",
) -> Bundle:
    """Write the bundle of some models; a folder that is there is replaced if it is a bundle.

    Parameters
    ----------
    models : sequence of path
        Checkpoints, all of them of one ensemble.
    out : path
        The folder; in it `dataset` is to be uploaded, and `kernel` to be pushed.
    runtime : str
        The runtime of the notebook, by its name in ``runtimes.yaml``.
    user : str
        The name on Kaggle.
    accelerator : {"t4", "l4"}
        The machine asked for.
    options : str
        Of `flowseg submit` in the notebook.

    Returns
    -------
    Bundle

    Raises
    ------
    FlowsegError
        If a name is unknown, `out` holds something else, a model cannot be read, or a wheel cannot
        be built or downloaded.
    """
    out = Path(out)
    if accelerator not in ACCELERATORS:
        raise FlowsegError(
            f"unknown machine {accelerator!r}", remedy=f"choose {', '.join(ACCELERATORS)}"
        )
    if out.exists() and not (out / "dataset" / MARKER).is_file():
        raise FlowsegError("is there, and no bundle", file=out, remedy="name another --out")
    found = read_runtime(runtime)
    for model in models:
        read_card(model)
    missing = lacking(found)
    with atomic_folder(out) as part:
        dataset, kernel = part / "dataset", part / "kernel"
        dataset.mkdir(parents=True)
        kernel.mkdir()
        wheels = [_build_wheel(dataset), *(_download(one, found, dataset) for one in missing)]
        names = [f"model{number}.safetensors" for number in range(len(models))]
        for name, model in zip(names, models, strict=True):
            shutil.copyfile(model, dataset / name)
        about = {"flowseg": __version__, "runtime": runtime, "models": names}
        _write_json(dataset / MARKER, about)
        _write_json(dataset / "dataset-metadata.json", _dataset(user))
        _write_json(kernel / "kernel-metadata.json", _kernel(user, ACCELERATORS[accelerator]))
        requirements = ["flowseg", *(f"{one.name}{one.specifier}" for one in missing)]
        write_text(kernel / "submit.ipynb", notebook(requirements, options))
    return Bundle(
        dataset=out / "dataset", kernel=out / "kernel", wheels=tuple(wheels), models=tuple(names)
    )


def _write_json(path: Path, values: object) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")


def _dataset(user: str) -> dict[str, object]:
    return {
        "title": "flowseg bundle",
        "id": f"{user}/flowseg-bundle",
        "licenses": [{"name": "other"}],
    }


def _kernel(user: str, machine: str) -> dict[str, object]:
    return {
        "id": f"{user}/flowseg-submit",
        "title": "flowseg submit",
        "code_file": "submit.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": "true",
        "enable_gpu": "true",
        "enable_internet": "false",
        "machine_shape": machine,
        "dataset_sources": [f"{user}/flowseg-bundle"],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }


def _build_wheel(folder: Path) -> str:
    """Build flowseg's own wheel, from the checkout that this package is in."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():
        raise FlowsegError(
            "flowseg's own wheel is built from its checkout, and this package is in none",
            file=checkout,
            remedy="install it by pip install -e CHECKOUT, and give the command again",
        )
    with TemporaryDirectory() as scratch:  # setuptools leaves its build folder beside the sources
        sources = Path(scratch) / "flowseg"
        left_out = shutil.ignore_patterns(".*", "tests", "docs", "benchmarks", "runs", "demo")
        shutil.copytree(checkout, sources, ignore=left_out)
        return _pip(["wheel", "--no-deps", "--no-build-isolation", str(sources)], folder, "flowseg")


def _download(requirement: Requirement, runtime: Runtime, folder: Path) -> str:
    """Download the wheel of a requirement for the runtime's Python."""
    _log.info("%s has no %s: its wheel goes into the bundle", runtime.name, requirement)
    what = f"{requirement.name}{requirement.specifier}"
    target = ["--only-binary=:all:", "--python-version", runtime.python]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64"):
        target += ["--platform", platform]
    return _pip(["download", "--no-deps", *target, what], folder, what)


def _pip(arguments: Sequence[str], folder: Path, what: str) -> str:
    """Have pip put a wheel into a folder; the wheel's name."""
    before = set(folder.glob("*.whl"))
    where = "--wheel-dir" if arguments[0] == "wheel" else "--dest"
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", where, str(folder)]
    command += ["--disable-pip-version-check", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = set(folder.glob("*.whl")) - before
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR")), "pip failed")
        raise FlowsegError(
            f"the wheel of {what} cannot be had: {reason.removeprefix('ERROR: ')}",
            remedy="see whether this machine reaches PyPI, and give the command again",
        )
    return wheels.pop().name
