"""Settings: precedence, conversion, and refusals that say what to do."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from flowseg.config.loading import (
    available_cell_types,
    available_recipes,
    from_mapping,
    is_whole,
    load_config,
    to_yaml,
)
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cell_types: {shsy5y: {diameter: 20}}\ntraining: {epochs: 7, batch_size: 4}\n")
    assert load_config("shsy5y").cell_types["shsy5y"].diameter == 17
    config = load_config("shsy5y", file, ["training.epochs=3"])
    assert config.cell_types["shsy5y"].diameter == 20
    assert (config.training.epochs, config.training.batch_size) == (3, 4)


@pytest.mark.parametrize("name", available_recipes())
def test_every_machine_loads_and_yields_to_what_is_set(name: str) -> None:
    config = load_config("cort", overrides=["training.epochs=3"], recipe=name)
    assert list(config.cell_types) == ["cort"]
    assert config.training.epochs == 3


def test_a_laptop_is_the_default() -> None:
    assert load_config("all", recipe="laptop") == load_config("all")
    with pytest.raises(FlowsegError, match="unknown recipe 'phone'; choose one of gpu, gpus"):
        load_config(recipe="phone")


@pytest.mark.parametrize("name", available_cell_types())
def test_yaml_reads_back(name: str, tmp_path: Path) -> None:
    config = load_config(name, overrides=["network.channels=[8, 16]", "training.workers=2"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config(path=file) == config


def test_scientific_notation_is_a_number() -> None:
    # PyYAML reads 1e-4, which has no dot, as text.
    assert load_config(overrides=["training.learning_rate=1e-4"]).training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'training.epochs'"),
        ("trainig.epochs=3", "did you mean 'training'"),
        ("training.epochs=no", "training.epochs must be a whole number, found False"),
        ("training.epochs=2.5", "a whole number"),
        ("training.epochs=0", "'epochs' must be 1 or more"),
        ("training.learning_rate=fast", "training.learning_rate must be a number"),
        ("training.learning_rate=.nan", "must be a number"),
        ("augment.flip=1", "augment.flip must be true or false"),
        ("training.precision=bf16", "must be one of auto, float32, bfloat16, float16"),
        ("network.channels=32", "network.channels must be a list"),
        ("cell_types.shsy6y.diameter=3", "did you mean 'cell_types.shsy5y'"),
        ("cell_types.shsy5y.diametre=3", "did you mean 'cell_types.shsy5y.diameter'"),
        ("data.fold=5", "'fold' must be 0 to 4 with 5 folds"),
        ("training=3", "expected settings as 'key: value' for training"),
        ("seed", "write key=value"),
        ("seed=[", "not valid YAML"),
        ("tta=3", "1, 2, 4 or 8"),
    ],
)
def test_refusals(override: str, message: str) -> None:
    with pytest.raises(FlowsegError) as caught:
        load_config("shsy5y", overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traning: {epochs: 3}", "unknown key 'traning'; did you mean 'training'"),
        ("training: {epochs: 0}", "must be 1 or more"),
        ("- 1", "expected settings"),
        ("a: [", "not valid YAML"),
        ("cell_types: 3", "'cell_types' must hold names, found 3"),
        ("cell_types: {no: {diameter: 3}}", "a name in 'cell_types' must be text, found False"),
    ],
)
def test_refusals_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(FlowsegError) as caught:
        load_config("shsy5y", file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_missing_file_and_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="cannot be read"):
        load_config(path=tmp_path / "none.yaml")
    with pytest.raises(FlowsegError, match="choose one of all, astro, cell, cort, shsy5y"):
        load_config("shsy")


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().seed = 3  # type: ignore[misc]


def test_from_mapping_takes_defaults_for_what_is_missing() -> None:
    from flowseg.config.schema import CellTypeSettings

    assert from_mapping(CellTypeSettings, {"diameter": 20}) == CellTypeSettings(diameter=20.0)


def test_a_runs_config_keeps_its_cell_types(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("shsy5y")))
    assert list(load_config("all", file).cell_types) == ["shsy5y"]
    file.write_text("cell_types: {shsy5y: {diameter: 20}}\n")
    assert list(load_config("all", file).cell_types) == ["shsy5y", "astro", "cort"]


def test_overrides_are_checked_together(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {folds: 8, fold: 6}\n")
    for overrides in (["data.folds=5", "data.fold=2"], ["data.fold=2", "data.folds=5"]):
        data = load_config("all", file, overrides).data
        assert (data.folds, data.fold) == (5, 2)
    cells = load_config(
        "all", overrides=["cell_types.cort.min_size=3", "cell_types.cort.diameter=9"]
    ).cell_types
    assert (cells["cort"].min_size, cells["cort"].diameter, len(cells)) == (3, 9, 3)
    with pytest.raises(FlowsegError, match="'fold' must be 0 to 4 with 5 folds"):
        load_config("all", file, ["data.folds=5"])
    with pytest.raises(FlowsegError, match="expected settings as 'key: value' for data"):
        load_config(overrides=["data=3", "data.fold=2"])


def test_a_whole_config_takes_the_place_of_the_recipes(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("all")))
    assert is_whole(file)
    assert load_config("cort", file, recipe="gpu") == load_config("all")
    file.write_text(to_yaml(load_config("all")).replace("views: 4\n", ""))
    assert is_whole(file)
    file.write_text("{cells: {cort: {}}, seed: 1, data: , network: , augment: , training: }")
    assert not is_whole(file)


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!int ''",
        "seed: !!bool x",
        "seed: !!timestamp x",
        "seed: !!python/object/apply:os.getpid []",
        f"seed: 0x{'f' * 5000}x",
        f"0x{'f' * 5000}: 1",
        f"training: 0x{'f' * 5000}",
        f"cell_types: {{cort: {{diameter: {'9' * 400}}}}}",
        f"network: [{'9, ' * 10_000}]",
        "[" * 10_000,
        "#" * 70_000,
    ],
)
def test_hostile_yaml_is_one_short_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(FlowsegError) as caught:
        load_config("cort", file)
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value)) < 2200


def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    """A billion laughs: 30 lines of ten aliases each would become 10**30 values."""
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 30)]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(FlowsegError, match="aliases are not read"):
        load_config(path=tmp_path / "mine.yaml")
    with pytest.raises(FlowsegError, match="aliases are not read"):
        load_config(overrides=["seed=[&a 1, *a]"])
