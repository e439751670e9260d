"""The recipes of deploy/ run here, in a folder: what their tools would call is called."""

from __future__ import annotations

import os
import re
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowseg.cli import build_parser
from flowseg.errors import Stopped
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
from flowseg.training.run_folder import is_finished

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SKYPILOT = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text(encoding="utf-8"))

TINY = "--device cpu --folds 2 --tta 1 --set network.channels=[4,8] --set augment.crop_size=32 " + (
    " ".join(
        f"--set {stage}.{setting}"
        for stage in ("training", "pretraining")
        for setting in ("epochs=1", "crops_per_epoch=2", "batch_size=2")
    )
)
RECORDING = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >> "$CALLS"\nexit "${CODE:-0}"\n'

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the recipes are bash")


class Machine:
    """A folder of commands that come first in PATH, and what was called of those that record."""

    def __init__(self, home: Path) -> None:
        self.bin, self.log = home / "bin", home / "calls"
        self.bin.mkdir()
        self.environment = os.environ | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CALLS": str(self.log),
            "SLURM_JOB_ID": "42",
        }
        self.command("srun", '#!/bin/sh\nexec "$@"\n')
        self.command("scontrol", RECORDING)
        self.command("flowseg", f'#!/bin/sh\nexec "{sys.executable}" -m flowseg "$@"\n')

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def bash(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            ["bash", *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def slurm(self, *words: str, code: int = 0, **environment: str) -> str:
        return self.bash(str(DEPLOY / "slurm.sh"), *words, code=code, **environment)

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [line.removeprefix(f"{self.bin}/") for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def vertex(bucket: str, job: str) -> dict[str, Any]:
    text = (DEPLOY / "vertex.yaml").read_text(encoding="utf-8")
    values = {"IMAGE": "host/image:cuda", "BUCKET": bucket, "JOB": job}
    return dict(yaml.safe_load(string.Template(text).safe_substitute(values)))


@pytest.mark.slow
def test_folds_of_one_recipe_each_are_gathered_by_a_third(machine: Machine, tmp_path: Path) -> None:
    data, runs = tmp_path / "b" / "sartorius", tmp_path / "b" / "runs"
    write_synthetic_sartorius(data, 12, 0, 1, (64, 80))
    write_synthetic_livecell(data, 2, 1, 2, (64, 80))
    options = f"--cell-type all --pretrain livecell {TINY}"
    out = f"--data {data} --out {runs}/all-5folds".split()
    machine.slurm("fold", *out, *options.split(), SLURM_ARRAY_TASK_ID="0")
    environment = {"DATA": str(data), "RUNS": str(runs), "OPTIONS": options, "JOB": "--fold=1"}
    machine.bash("-c", SKYPILOT["run"], **environment)
    assert [path.name for path in runs.glob("livecell-*")] == [
        path.parent.name for path in runs.glob("livecell-*/summary.json")
    ]
    (pool,) = vertex("b", "--gather")["workerPoolSpecs"]
    words = [word.replace("/gcs", str(tmp_path)) for word in pool["containerSpec"]["args"]]
    assert "2 folds in" in machine.bash("-c", 'flowseg "$@"', "_", *words, *TINY.split())
    assert is_finished(runs / "all-5folds")


def test_slurm_runs_what_the_parser_understands(machine: Machine) -> None:
    machine.command("flowseg", RECORDING)
    machine.slurm("fold", "--data", "d", SLURM_ARRAY_TASK_ID="3")
    machine.slurm("gather", "--data", "d")
    array = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8"}
    machine.slurm("shard", "--in", "i", "--out", "s.csv", **array)
    machine.slurm("join", "--out", "s.csv")
    assert machine.calls() == [
        "flowseg cross-validate --data d --fold 3 --resume auto",
        "flowseg cross-validate --data d --gather",
        "flowseg predict --in i --out s.csv --shard 2/8",
        "flowseg predict --out s.csv --join",
    ]
    for call in machine.calls():
        build_parser().parse_args(call.split()[1:])
    assert "nap is no kind of job" in machine.slurm("nap", code=2)
    assert "name a kind of job" in machine.slurm(code=1)


@pytest.mark.parametrize("code", [Stopped.EXIT_CODE, 2])
def test_slurm_queues_a_job_again_that_goes_on(machine: Machine, code: int) -> None:
    machine.command("flowseg", RECORDING)
    machine.slurm("gather", code=code, CODE=str(code))
    again = ["scontrol requeue 42"] if code == Stopped.EXIT_CODE else []
    assert machine.calls()[1:] == again


@pytest.mark.slow
def test_slurm_outlives_a_signal_to_all_its_processes(machine: Machine, tmp_path: Path) -> None:
    machine.command(
        "flowseg",
        f"#!{sys.executable}\nimport pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\ntime.sleep(60)\n",
    )
    command = ["bash", str(DEPLOY / "slurm.sh"), "gather"]
    with subprocess.Popen(command, env=machine.environment, start_new_session=True) as job:
        wait_for((tmp_path / "ready").is_file)
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(30) == Stopped.EXIT_CODE
    assert machine.calls() == ["scontrol requeue 42"]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_cloud_recipes_train_what_the_parser_understands() -> None:
    command = re.sub(r"\\\n", " ", SKYPILOT["run"]).strip()
    words = string.Template(command.replace('"', "")).substitute(SKYPILOT["envs"]).split()
    (pool,) = vertex("b", "--fold=0")["workerPoolSpecs"]
    for argv in (words[1:], pool["containerSpec"]["args"]):
        args = build_parser().parse_args(argv)
        assert (args.command, args.fold, args.resume) == ("cross-validate", 0, "auto")
        assert (args.cell_type, args.pretrain, args.device) == ("all", "livecell", "cuda")
    assert SKYPILOT["resources"]["job_recovery"]["recover_on_exit_codes"] == [Stopped.EXIT_CODE]


def test_the_dockerfile_fits_the_package() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    arguments = dict(rest.split("=", 1) for name, rest in lines if name == "ARG")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in arguments["EXTRAS"].split(","):
        assert re.search(rf"^{extra} = \[", project, flags=re.M), extra
    assert 'pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"' in text
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), flags=re.M)

    copied = {source for name, rest in lines if name == "COPY" for source in rest.split()[:-1]}
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    read = re.findall(r'readme = "(.+)"|license-files = \["(.+)"\]', project)
    assert {name for names in read for name in names if name} <= copied

    names = [name for name, _ in lines]
    assert [rest for name, rest in lines if name == "USER"] == ["flowseg"]
    assert names.index("USER") > max(k for k, name in enumerate(names) if name == "RUN")
    assert lines[names.index("ENTRYPOINT")][1] == '["flowseg"]'
