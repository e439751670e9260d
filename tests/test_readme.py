"""What the README and the pages of docs/ tell to type can be typed; what they list exists."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import flowseg
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.cli import build_parser, main
from flowseg.config.loading import load_config, to_mapping
from flowseg.data.sartorius import read_sartorius
from flowseg.io.images import write_image, write_labels
from flowseg.network.checkpoint import load_network, save_network
from flowseg.synthetic.datasets import write_synthetic_sartorius
from helpers.runs import save_wild_network

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")

# Options of other programs that the pages mention.
FOREIGN = {
    "--shm-size",
    "--build-arg",
    "--nthreads",
    "--nproc-per-node",
    "--nnodes",
    "--rdzv-endpoint",
    "--version",
    "--help",
}
SHARED = {"--debug", "--quiet", "--verbose"}


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.M | re.S)


def code(page: str) -> list[str]:
    """The words set as code within the text, those of blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGES[page], flags=re.M | re.S))


def lines(page: str) -> list[str]:
    text = "\n".join(blocks("sh", page)).replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.strip()]


def arguments(line: str) -> list[str] | None:
    """What flowseg's parser is given by a line, None where it runs something else."""
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("--nproc-per-node") + 2 :]]
    if words[0] == "flowseg":
        return words[1:]
    if words[0] == "python" and words[1] in ("train.py", "predict.py"):
        return [words[1].removesuffix(".py"), *words[2:]]
    return None


LINES = [(page, line) for page in PAGES for line in lines(page)]
COMMANDS = [(page, line) for page, line in LINES if arguments(line) is not None]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 20
    assert {"README.md", "competition.md", "own-images.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_understood(page: str, line: str) -> None:
    argv = arguments(line)
    assert argv is not None
    args = build_parser().parse_args(argv)
    assert args.command == argv[0]
    if hasattr(args, "set"):
        load_config(getattr(args, "cell_type", None) or "all", overrides=args.set)


@pytest.mark.parametrize(("page", "line"), [pair for pair in LINES if pair not in COMMANDS])
def test_other_lines_name_what_is_there(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)
    elif words[0] == "python" and words[1] != "-m":
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z][a-z-]+", line):
            assert f'"{option}"' in script, option
    else:
        assert words[0] in ("pip", "python", "kaggle", "napari")


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    for path in re.findall(r"\btests/[\w/]+\.py\b", PAGES[page]):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_selected_exist(page: str) -> None:
    for paths, expression in re.findall(r"pytest ((?:tests\S+ )+)-k (\w+|\"[^\"]+\")", PAGES[page]):
        source = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths.split())
        names = " ".join(re.findall(r"(?:def|class) (\w+)", source)).lower()
        for word in expression.strip('"').split(" or "):
            assert word.lower() in names, f"{paths}-k {word}"


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of every command, without those that all share."""
    parsers = next(
        action.choices
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {
        name: {option for action in parser._actions for option in action.option_strings}
        - {"-h", "--help", *SHARED}
        for name, parser in parsers.items()
    }


def test_options_are_described(options: dict[str, set[str]]) -> None:
    sections = re.split(r"^## ", PAGES["commands.md"], flags=re.M)[1:]
    described = {
        section.split("\n")[0]: {
            option
            for row in re.findall(r"^\| (`--.*?) \|", section, flags=re.M)
            for option in re.findall(r"--[a-z][a-z-]+", row)
        }
        for section in sections
    }
    described["cross-validate"] |= described["train"] - {"--fold"}
    for name, known in options.items():
        missing, stale = known - described[name], described[name] - known
        assert not missing, f"{name}: not in docs/commands.md: {sorted(missing)}"
        assert not stale, f"{name}: in docs/commands.md alone: {sorted(stale)}"
    assert set(described) == set(options)


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str, options: dict[str, set[str]]) -> None:
    known = set.union(*options.values(), FOREIGN, SHARED)
    # the first column of the tables on Cellpose's page is Cellpose's
    text = re.sub(r"^\|[^|]*\|", "|", PAGES[page], flags=re.M) if page == "cellpose.md" else ""
    found = re.findall(r"`(--[a-z][a-z-]+)", text) if text else [
        option for word in code(page) for option in re.findall(r"^--[a-z][a-z-]+", word)
    ]  # fmt: skip
    benchmarks = {
        option
        for path in ROOT.glob("benchmarks/*.py")
        for option in re.findall(r'"(--[a-z-]+)"', path.read_text(encoding="utf-8"))
    }
    assert set(found) <= known | benchmarks, sorted(set(found) - known - benchmarks)


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page: str) -> None:
    words = [word for word in code(page) if page != "training.md" or "--set" in word]
    for key in re.findall(
        r"(?:^|--set )((?:data|network|augment|training)\.\w+)", "\n".join(words)
    ):
        section, name = key.split(".")
        assert name in to_mapping(load_config("all"))[section] or name == "KEY", key


def test_defaults_of_settings() -> None:
    """The tables of docs/settings.md give the defaults of the code."""
    config = to_mapping(load_config())
    section, checked = "", 0
    for row in PAGES["settings.md"].splitlines():
        section = "training" if row == "## Schedule" else row[3:] if row[:3] == "## " else section
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        names = re.findall(r"`([\w.]+)`", cells[0])
        if len(cells) < 3 or section == "Prediction" or not names:
            continue
        group = names[0].split(".")[0] if "." in names[0] else section
        values = [config[group][name.split(".")[-1]] for name in names]
        texts = [
            ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            for value in values
        ]
        expected = ", ".join(texts) if len(set(texts)) > 1 else texts[0]
        told = cells[1].replace("automatic", "None").split(" (")[0]
        assert told.lower() == re.sub(r"(\d)\.0\b", r"\1", expected).lower(), row
        checked += len(names)
    assert checked > 25


def test_every_setting_is_described() -> None:
    text = PAGES["settings.md"].replace("-", "_")
    config = to_mapping(load_config("astro"))
    config["cell_types"] = config["cell_types"]["astro"]
    for section, values in config.items():
        for key in values if isinstance(values, dict) else [section]:
            assert re.search(rf"`(\w+\.|__)?{key}`", text), f"{section}.{key}"


def test_python_names_exist() -> None:
    used = set()
    for page in PAGES:
        for block in blocks("python", page):
            for node in ast.walk(ast.parse(block)):
                is_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                if is_name and node.value.id == "flowseg":
                    used.add(node.attr)
    assert len(used) > 5
    for name in used:
        assert hasattr(flowseg, name)


def test_public_names_are_described() -> None:
    for name in set(flowseg.__all__) - {"__version__"}:
        assert f"::: flowseg.{name}\n" in PAGES["api.md"], name


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        if not target.startswith("http"):
            assert (folder / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_package_exist(page: str) -> None:
    """Also those that docs/architecture.md sends a newcomer to."""
    paths = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|json))?)[` ]", PAGES[page])
    for path in paths:
        ours = ("flowseg/", "benchmarks/", "configs/", "tests/")
        if page == "architecture.md" or path.startswith(ours):
            assert (ROOT / path).exists() or (ROOT / "flowseg" / path).exists(), path


# Commands that take no minute, in the order of the pages.
QUICK = ("explore", "predict", "validate", "evaluate", "export", "convert", "info")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name: drawn data, and runs of a network of noise."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_sartorius(home / "data", 3, 0, 1, (96, 128))
    shutil.rmtree(home / "data" / "test")
    shutil.copytree(home / "data" / "train", home / "data" / "test")
    for folder in ("my_cells", "my_images", "images", "plates"):
        (home / folder).mkdir()
    for record in read_sartorius(home / "data"):
        image = record.image().astype("uint8")
        labels = masks_to_labels(record.masks())
        for folder in ("my_cells", "my_images", "images", "plates"):
            write_image(home / folder / f"{record.image_id}.tif", image)
        write_labels(home / "my_cells" / f"{record.image_id}_masks.tif", labels)
    write_image(home / "slide.tif", image)
    (home / "models").mkdir()
    arrays = np.load(ROOT / "tests" / "network" / "cellpose_reference.npz")
    names = [name for name in arrays.files if name.startswith("two/weight/")]
    weights = {name.split("/")[-1]: torch.from_numpy(arrays[name]) for name in names}
    torch.save(weights, home / "models" / "cyto3")
    (home / "runs" / "mine").mkdir(parents=True)
    network, card = load_network(home / "models" / "cyto3")
    save_network(home / "runs" / "mine" / "best.safetensors", network.state_dict(), card)
    for run in ("phase", "shsy5y-fold0", "all-fold0", "all-5folds/fold0"):
        (home / "runs" / run).mkdir(parents=True)
        save_wild_network(home / "runs" / run / "best.safetensors")
        (home / "runs" / run / "summary.json").write_text('{"stage": "training"}')
    return home


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_quick_commands_run(page: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for line in lines(page):
        argv = arguments(line)
        if argv is None or argv[0] not in QUICK or "tcp" in line:
            continue
        if "--join" in argv and not list(home.glob("submission.*-of-*.csv")):
            continue
        if "--shard" in argv:
            argv[argv.index("--shard") + 1] = "1/1"
        assert main([*argv, *(["--device", "cpu"] if argv[0] == "predict" else [])]) == 0, line
