"""The notebook of a bundle: it installs what is missing, and runs `flowseg submit`."""

from __future__ import annotations

import json
from collections.abc import Sequence

MARKER = "flowseg-bundle.json"
"""The file by which the notebook finds the bundle among the inputs."""

_INTRODUCTION = """\
# Cells by flow fields

Written by `flowseg bundle`. It needs no internet: wheels and weights are in the attached bundle,
and what it does is `flowseg submit`. The file is valid whatever a single image holds."""

_INSTALL = """\
import os
import sys
from pathlib import Path

root = Path(os.environ.get("FLOWSEG_ROOT", "/kaggle"))
bundle = next(path.parent for path in sorted((root / "input").rglob("{marker}")))
requirements = {requirements}
install = f"-m pip install --quiet --no-index --no-deps --find-links {{bundle}}"
!{{sys.executable}} {{install}} {{" ".join(requirements)}}"""

_SUBMIT = """\
command = f"{{sys.executable}} -m flowseg submit --bundle {{bundle}} --root {{root}} {options}"
!{{command}}
# At the rerun on the hidden images nobody reads a log: what is there is handed in.
rerun = "KAGGLE_IS_COMPETITION_RERUN" in os.environ
assert _exit_code == 0 or rerun, "see the last lines above\""""


def notebook(requirements: Sequence[str], options: str) -> str:
    """The notebook as JSON.

    Parameters
    ----------
    requirements : sequence of str
        What pip installs from the bundle where the runtime does not have it.
    options : str
        Of `flowseg submit`, such as ``--tta 4``.
    """
    quoted = [f"'{text}'" for text in requirements]
    cells = [
        ("markdown", _INTRODUCTION),
        ("code", _INSTALL.format(marker=MARKER, requirements=json.dumps(quoted))),
        ("code", _SUBMIT.format(options=options)),
    ]
    document = {
        "cells": [_cell(number, kind, text) for number, (kind, text) in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}
