"""Docstrings name the parameters that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowseg

PACKAGE = Path(flowseg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def documented(docstring: str) -> set[str]:
    """The names of the section `Parameters`; several may share a line."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?:^\w+\n-+\n|\Z)", docstring, flags=re.M | re.S)
    lines = re.findall(r"^(\*{0,2}\w.*)$", section[1], flags=re.M) if section else []
    return {name.lstrip("*") for line in lines for name in line.split(" : ")[0].split(", ")}


def functions(tree: ast.Module) -> Iterator[tuple[ast.AST, Function]]:
    """Every documented function, or class with the `__init__` that it documents."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node, node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, Function) and member.name == "__init__":
                    yield node, member


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_parameters_exist(path: Path) -> None:
    for owner, function in functions(ast.parse(path.read_text(encoding="utf-8"))):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        known = {
            argument.arg for argument in [*named, arguments.vararg, arguments.kwarg] if argument
        }
        stale = documented(ast.get_docstring(owner) or "") - known  # type: ignore[arg-type]
        assert not stale, f"{path}:{function.lineno} documents {sorted(stale)}"


def test_a_stale_name_is_found() -> None:
    assert documented(
        "Do.\n\nParameters\n----------\na, b : int\n    No c : d.\n*e\n\nReturns\n-------\nf : g\n"
    ) == {"a", "b", "e"}
