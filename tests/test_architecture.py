"""Imports go one way, and heavy packages wait until they are needed."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flowseg

PACKAGE = Path(flowseg.__file__).parent

# From left to right: a room imports from rooms to its left, and from itself. Rooms of one group do
# not know each other.
ROOMS = (
    {"errors", "_version"},
    {"config", "arrays"},
    {"io"},
    {"formats", "flow"},
    {"data", "network"},
    {"synthetic", "inference"},
    {"metrics"},
    {"evaluation"},
    {"reports"},
    {"training"},
    {"prediction"},
    {"demo", "kaggle", "napari"},
    {"cli"},
    {"__main__"},
)
RANKS = {room: rank for rank, group in enumerate(ROOMS) for room in group}

NO_TORCH = (
    *("errors", "config", "arrays", "io", "formats", "data", "synthetic", "flow", "metrics"),
    *("evaluation", "reports"),
)


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


def modules(path: Path) -> set[str]:
    """Modules of flowseg that a file imports, `from package import module` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
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
    assert own in RANKS, f"{own} is no room"
    for module in imports(path, everywhere=True):
        if module == "flowseg" or module.startswith("flowseg."):
            other = room(module)
            assert other == own or RANKS[other] < RANKS[own], f"{path} imports {module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {
        ".".join(("flowseg", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
        if path.name != "__init__.py"
    }
    edges = {name: modules(path) & names.keys() for name, path in names.items()}
    while leaves := [name for name, targets in edges.items() if not targets]:
        for leaf in leaves:
            del edges[leaf]
        edges = {name: targets - set(leaves) for name, targets in edges.items()}
    assert not edges, f"these import each other: {edges}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_where_none_is_needed(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if place.with_suffix("").parts[0] in NO_TORCH:
        found = imports(path, everywhere=True)
        assert not [module for module in found if module.split(".")[0] == "torch"]


HEAVY = (
    *("torch", "numba", "cv2", "pandas", "scipy", "tifffile", "numpy"),
    *("pydantic", "matplotlib", "PIL", "yaml", "tqdm"),
)


@pytest.mark.parametrize("command", [[], ["train"], ["cross-validate"], ["predict"]])
def test_import_and_help_load_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys, flowseg, flowseg.cli\n"
        f"try: flowseg.cli.main([*{command}, '--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = {set(HEAVY)} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: flowseg" in done.stdout


def test_help_is_quick() -> None:
    def seconds(*words: str) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    for _ in range(3):  # a busy machine gets another chance
        if seconds("-m", "flowseg", "--help") < seconds("-c", "pass") + 0.4:
            return
    pytest.fail("flowseg --help is slow")


@pytest.mark.slow
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
    assert len(flowseg.__all__) == 14
    for name in flowseg.__all__:
        assert getattr(flowseg, name) is not None
    with pytest.raises(AttributeError, match="segmentor"):
        _ = flowseg.segmentor
