"""What the README says can be typed can be typed."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import flowseg
from flowseg.cli import build_parser

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


COMMANDS = [
    line.split(" #")[0].strip()
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"python (train|predict)\.py|flowseg ", line)
]


def test_there_are_commands() -> None:
    assert any(line.startswith("python train.py") for line in COMMANDS)
    assert any(line.startswith("flowseg evaluate") for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line: str) -> None:
    words = shlex.split(line)
    argv = [words[1].removesuffix(".py"), *words[2:]] if words[0] == "python" else words[1:]
    assert build_parser().parse_args(argv).command == argv[0]


@pytest.mark.parametrize("command", ["train", "predict"])
def test_options_are_described(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    section = re.search(rf"^## {command.capitalize()}\n(.*?)^## ", README, flags=re.M | re.S)
    assert section is not None
    described = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section[1]))
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    known = set(re.findall(r"^  (?:-\w, )?(--[a-z][a-z-]+)", capsys.readouterr().out, flags=re.M))
    known -= {"--help", "--debug"}
    assert len(known) > 5
    assert known <= described, f"not in the README: {sorted(known - described)}"


def test_python_names_exist() -> None:
    used = set()
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            is_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if is_name and node.value.id == "flowseg":
                used.add(node.attr)
    assert used
    for name in used:
        assert hasattr(flowseg, name)


def test_linked_files_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (root / target).exists(), target
