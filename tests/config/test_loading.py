"""Settings: precedence, conversion, and refusals that say what to do."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from flowseg.config.choices import CONFIG_FOLDER, available_cell_types, available_recipes
from flowseg.config.loading import (
    from_mapping,
    is_complete,
    load_config,
    read_settings,
    to_mapping,
    to_yaml,
)
from flowseg.config.schema import (
    AugmentConfig,
    CellTypeSettings,
    Config,
    DataConfig,
    NetworkConfig,
    NormalizationConfig,
    ScheduleConfig,
)
from flowseg.errors import FlowsegError


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cell_types: {shsy5y: {diameter: 20}}\ntraining: {epochs: 7, batch_size: 4}\n")
    assert load_config("shsy5y").cell_types["shsy5y"].diameter == 17
    config = load_config("shsy5y", file, ["training.epochs=3"])
    assert config.cell_types["shsy5y"].diameter == 20
    assert (config.training.epochs, config.training.batch_size) == (3, 4)


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_loads_and_yields_to_what_is_set(name: str) -> None:
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
        ("training.epochs=0", "training.epochs must be greater than or equal to 1, found 0"),
        ("training.learning_rate=fast", "training.learning_rate must be a number"),
        ("training.learning_rate=.nan", "must be a finite number, found nan"),
        ("augment.flip=1", "augment.flip must be true or false"),
        (
            "training.precision=bf16",
            "be 'auto', 'float32', 'bfloat16' or 'float16', found 'bf16'",
        ),
        ("network.channels=32", "network.channels must be a list"),
        ("network.channels=[32]", "network.channels must be a list of 2 or more"),
        ("network.channels=[8, yes]", "network.channels.1 must be a whole number, found True"),
        ("data.extra=no", "data.extra must be text, found False"),
        ("training.workers=-1", "training.workers must be greater than or equal to 0, found -1"),
        ("seed=true", "seed must be a whole number, found True"),
        ("cell_types.shsy6y.diameter=3", "did you mean 'cell_types.shsy5y'"),
        ("cell_types.shsy5y.diametre=3", "did you mean 'cell_types.shsy5y.diameter'"),
        ("data.fold=5", "data.fold must be 0 to 4 with 5 folds, found 5"),
        ("training=3", "training must be settings as 'key: value', found 3"),
        ("seed", "write key=value"),
        ("seed=[", "not valid YAML"),
        ("tta=3", "tta must be 1, 2, 4 or 8, found 3"),
        ("tta=yes", "tta must be 1, 2, 4 or 8, found True"),
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
        ("training: {epochs: 0}", "training.epochs must be greater than or equal to 1, found 0"),
        ("- 1", "the config must be settings as 'key: value', found [1]"),
        ("5: 1", "unknown key '5'"),
        ("a: [", "not valid YAML"),
        ("cell_types: 3", "cell_types must be settings as 'key: value', found 3"),
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
    with pytest.raises(
        FlowsegError, match="choose one of all, astro, cell, cort, livecell, shsy5y"
    ):
        load_config("shsy")


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().seed = 3  # type: ignore[misc]


def test_from_mapping_takes_defaults_for_what_is_missing() -> None:
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
    with pytest.raises(FlowsegError, match=r"data\.fold must be 0 to 4 with 5 folds"):
        load_config("all", file, ["data.folds=5"])
    with pytest.raises(FlowsegError, match="data must be settings as 'key: value', found 3"):
        load_config(overrides=["data=3", "data.fold=2"])


def test_a_complete_config_takes_the_place_of_the_recipes(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("all")))
    assert is_complete(file)
    assert load_config("cort", file, recipe="gpu") == load_config("all")
    file.write_text(to_yaml(load_config("all")).replace("tta: 4\n", ""))
    assert is_complete(file)
    file.write_text("{cells: {cort: {}}, seed: 1, data: , network: , augment: , training: }")
    assert not is_complete(file)


def test_a_run_older_than_a_setting_keeps_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_config("all")).replace("  stem_stride: 2\n", ""))
    assert load_config(path=file).network.stem_stride == 1
    file.write_text("network: {channels: [8, 16]}")  # someone's differences from today's defaults
    assert load_config("all", path=file).network.stem_stride == 2


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


def test_settings_refuse_what_does_not_fit() -> None:
    with pytest.raises(FlowsegError, match="diameter must be greater than 0, found -3"):
        CellTypeSettings(diameter=-3)
    with pytest.raises(FlowsegError, match=r"min_size must be a whole number, found 2\.5"):
        replace(CellTypeSettings(), min_size=2.5)
    with pytest.raises(FlowsegError, match="unknown key 'sed'; did you mean 'seed'"):
        Config(sed=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        CellTypeSettings(3)  # type: ignore[misc]


def test_an_empty_section_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pretraining:\ntraining: {workers: null}\ncell_types: {mine: }\n")
    config = load_config(path=file)
    assert config == Config(cell_types={"mine": CellTypeSettings()})
    assert config.pretraining.epochs == 24


OLD_CONFIG = """
cells: {cort: {diameter: 17.5}}
views: 8
data: {repair: repair, fold: 3}
network: {blocks: 1, diameter: 25}
augment: {crop: 96, paste: 0.5, swap_scale: 0.2}
training: {crops: 48, warmup: 0.1, ema: 0.9, compiled: true}
pretraining: {crops: 32}
"""
OLD_KEYS = (
    *("cells", "views", "data.repair", "network.blocks", "network.diameter", "augment.crop"),
    *("augment.paste", "augment.swap_scale", "training.crops", "training.warmup"),
    *("training.ema", "training.compiled", "pretraining.crops"),
)


def test_old_names_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(OLD_CONFIG)
    config = load_config(path=file)
    assert [record.args[1] for record in caplog.records] == [
        key.rpartition(".")[2] for key in OLD_KEYS
    ]
    assert "the setting 'training.ema' is now called 'training.ema_decay'" in caplog.text
    assert (config.cell_types["cort"].diameter, config.tta, config.data.mask_repair) == (
        *(17.5, 8, "fix"),
    )
    assert (config.network.blocks_per_level, config.network.target_diameter) == (1, 25)
    augment, training = config.augment, config.training
    assert (augment.crop_size, augment.paste_fraction) == (96, 0.5)
    assert augment.swap_scale_fraction == 0.2
    assert (training.crops_per_epoch, training.warmup_fraction) == (48, 0.1)
    assert training.ema_decay == 0.9
    assert training.compile
    assert config.pretraining.crops_per_epoch == 32
    assert set(read_settings(file)["data"]) == {"mask_repair", "fold"}
    file.write_text(to_yaml(config).replace("cell_types:", "cells:"))
    assert is_complete(file)


def test_old_names_as_overrides_and_keywords(caplog: pytest.LogCaptureFixture) -> None:
    assert load_config("cort", overrides=["training.crops=9"]).training.crops_per_epoch == 9
    assert load_config("cort", overrides=["cells.cort.min_size=9"]).cell_types["cort"].min_size == 9
    network = NetworkConfig(channels=(4, 8), blocks=1, diameter=20)  # type: ignore[call-arg]
    assert (network.blocks_per_level, network.target_diameter) == (1, 20.0)
    assert from_mapping(NetworkConfig, {"blocks": 3}).blocks_per_level == 3
    assert len(caplog.records) == 5
    with pytest.raises(FlowsegError, match=r"did you mean 'network\.blocks_per_level'"):
        load_config(overrides=["network={blocks: 1, blocks_per_level: 1}"])
    with pytest.raises(FlowsegError, match=r"did you mean 'data\.mask_repair'"):
        load_config(overrides=["data.repairs=fix"])


def test_the_json_schema_knows_every_setting() -> None:
    schema = json.loads((CONFIG_FOLDER / "schema.json").read_text(encoding="utf-8"))

    def check(properties: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> None:
        assert {name: setting["default"] for name, setting in properties.items()} == defaults
        assert all(setting["description"] for setting in properties.values())

    check(schema["properties"], to_mapping(Config()))
    kinds = (CellTypeSettings, DataConfig, NormalizationConfig, NetworkConfig)
    for kind in (*kinds, AugmentConfig, ScheduleConfig):
        check(schema["$defs"][kind.__name__]["properties"], to_mapping(kind()))
    for file in CONFIG_FOLDER.rglob("*.yaml"):
        line = file.read_text(encoding="utf-8").splitlines()[0]
        path = line.removeprefix("# yaml-language-server: $schema=")
        assert (file.parent / path).resolve() == (CONFIG_FOLDER / "schema.json").resolve()


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11),
    reason="an older pydantic writes another schema",
)
def test_the_json_schema_is_that_of_the_settings() -> None:
    """If not: write it to configs/schema.json, by which editors complete and check YAML."""
    schema = pydantic.TypeAdapter(Config).json_schema()
    file = CONFIG_FOLDER / "schema.json"
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(schema))
