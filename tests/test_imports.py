"""Imports go one way, and heavy packages wait until they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flowseg

PACKAGE = Path(flowseg.__file__).parent

# A room imports from rooms of lower rank, and from itself; rooms of one rank not from each other.
# The files at the top are ranked one by one.
RANKS = {
    "__init__": 0,
    "errors": 0,
    "_jit": 1,
    "_plain": 1,
    "config": 2,
    "_decode": 3,
    "_picture": 1,
    "_tiff": 2,
    "_temporary": 1,
    "_zarr": 1,
    "_pieces": 2,
    "rle": 2,
    "overlaps": 3,
    "labels": 4,
    "files": 5,
    "tables": 6,
    "pages": 6,
    "strips": 7,
    "image": 6,
    "overlay": 7,
    "data": 8,
    "flow": 8,
    "network": 9,
    "inference": 10,
    "evaluation": 11,
    "export": 11,
    "training": 12,
    "demo": 13,
    "cli": 14,
    "__main__": 15,
}

NO_TORCH = ("flow", "rle", "labels", "files", "image", "data", "errors", "config", "evaluation")


def imports(path: Path, *, everywhere: bool) -> list[str]:
    """Modules that a file imports; with `everywhere` also those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return  # the public names are imported when first used
    assert own in RANKS, f"{own} has no rank"
    for module in imports(path, everywhere=True):
        if module == "flowseg" or module.startswith("flowseg."):
            other = room(module)
            assert other == own or RANKS[other] < RANKS[own], f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_where_none_is_needed(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if place.with_suffix("").parts[0] in NO_TORCH and place != Path("flow/cuda.py"):
        # The kernels of flow/cuda.py need it, so that file is imported in the hour of need.
        heavy = {"torch", "triton", "flowseg.flow.cuda"}
        found = imports(path, everywhere=False)
        assert not [m for m in found if m in heavy or m.split(".")[0] in heavy]


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, flowseg, flowseg.cli\n"
        "try: flowseg.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'cv2', 'pandas', 'scipy', 'tifffile'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numpy_functions_need_no_torch() -> None:
    code = (
        "import sys, numpy as np, flowseg\n"
        "labels = np.zeros((20, 20), int); labels[5:15, 5:15] = 1\n"
        "flows = flowseg.labels_to_flows(labels)\n"
        "found = flowseg.flows_to_labels(flows, np.where(labels > 0, 5.0, -5.0))\n"
        "assert flowseg.competition_score(labels, found) == 1\n"
        "assert flowseg.rle_decode(flowseg.rle_encode(labels > 0), (20, 20)).sum() == 100\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    assert len(flowseg.__all__) == 12
    for name in flowseg.__all__:
        assert getattr(flowseg, name) is not None
    with pytest.raises(AttributeError, match="segmentor"):
        _ = flowseg.segmentor
