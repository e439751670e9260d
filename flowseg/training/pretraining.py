"""Pre-training: the checkpoint to start from, and the first stage on LIVECell."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowseg.config.loading import to_mapping, to_yaml
from flowseg.config.schema import CellTypeSettings, Config
from flowseg.data.livecell import split_livecell
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.atomic import write_text
from flowseg.io.paths import sha256_of
from flowseg.network.architecture import Architecture
from flowseg.network.build import build_network
from flowseg.network.checkpoint import load_network, read_card
from flowseg.training.distributed import from_rank_zero, on_rank_zero, world_size
from flowseg.training.finish import close_folder
from flowseg.training.plan import Plan, check_images, measure_cells
from flowseg.training.provenance import digest_of_code, fingerprint, provenance_of
from flowseg.training.run_folder import (
    BEST,
    CONFIG,
    LAST,
    PRETRAINING,
    STATE,
    fold_folder,
    is_finished,
    lock_run_folder,
)
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage

_log = logging.getLogger(__name__)


def pretrained(plan: Plan, out: Path, device: torch.device) -> Path | None:
    """The checkpoint to start from; the LIVECell stage is trained unless it is finished.

    A run in `out` that started from a LIVECell stage continues with that one, even if flowseg has
    changed since and would train another.
    """
    if not plan.livecell or plan.data is None:
        return plan.first
    earlier = from_rank_zero(lambda: _earlier_stage(out))
    if earlier is not None:
        _log.info("reusing the LIVECell pre-training in %s", earlier.parent)
        return earlier
    training, validation = split_livecell(
        plan.data,
        by_well=plan.config.data.livecell_by_well,
        include_flawed=plan.config.data.include_flawed,
    )
    names = sorted({record.cell_type for record in training})
    config = replace(plan.config, cell_types={name: CellTypeSettings() for name in names})
    key = _key(config, [*training, *validation], device, plan.first)
    folder = out.parent / f"livecell-{key}"
    with on_rank_zero(lock_run_folder(folder, wait=True)):
        if from_rank_zero(lambda: is_finished(folder)):
            _log.info("reusing the LIVECell pre-training in %s", folder)
        else:
            _pretrain(folder, config, training, validation, device, plan.first)
    return folder / BEST


def _earlier_stage(out: Path) -> Path | None:
    """The LIVECell stage that the card of a run or of its first fold names, if it still exists."""
    for last in (out / LAST, fold_folder(out, 0) / LAST):
        name = read_card(last).provenance.get("pretraining") if last.is_file() else None
        if isinstance(name, str) and (out.parent / name).is_file():
            return out.parent / name
    return None


def _pretrain(
    folder: Path,
    config: Config,
    training: Sequence[Record],
    validation: Sequence[Record],
    device: torch.device,
    first: Path | None,
) -> None:
    """Train the first stage, or resume it, and leave its checkpoint in `folder`.

    It starts from the checkpoint `first`, or from random weights.
    """
    from_rank_zero(lambda: check_images([*training, *validation]))
    config = replace(config, cell_types=measure_cells(config.cell_types, training))
    _log.info("pre-training on %d LIVECell images, kept in %s", len(training), folder)
    from_rank_zero(lambda: write_text(folder / CONFIG, to_yaml(config)))
    known = [record for record in validation if record.cell_type in config.cell_types]
    provenance = provenance_of(config, training, known) | {"stage": PRETRAINING}
    stage = Stage(
        folder=folder,
        config=config,
        schedule=config.pretraining,
        training=training,
        validation=known,
        provenance=provenance,
    )
    network = build_network(config.network, len(config.cell_types), config.seed)
    if first is not None:
        inherit(network, first)
    # The folder's name covers all that decides the weights, so resuming is safe.
    resume = from_rank_zero((folder / STATE).is_file)
    result = train_stage(stage, network, device, resume)
    from_rank_zero(lambda: close_folder(stage, result))


def inherit(network: Architecture, path: Path) -> None:
    """Load the weights of a checkpoint of the same architecture, but for its cell-type head."""
    other, _ = load_network(path)
    if other.config != network.config:
        raise FlowsegError(
            f"holds another architecture: {to_mapping(other.config)} -> "
            f"{to_mapping(network.config)}",
            file=path,
            remedy="set the same network.* or choose another --pretrain",
        )
    weights = {k: v for k, v in other.state_dict().items() if not k.startswith("type_head.")}
    network.load_state_dict(weights, strict=False)


def _key(
    config: Config, records: Iterable[Record], device: torch.device, first: Path | None = None
) -> str:
    """A short name for everything that decides the weights of a pre-training."""
    settings = to_mapping(config)
    # Neither the schedule of the second stage, the split nor the scoring changes the first.
    for unrelated in ("training", "data", "tta"):
        del settings[unrelated]
    del settings["pretraining"]["save_minutes"]
    material: dict[str, Any] = {
        "settings": settings,
        "data": fingerprint(records),
        "device": device.type,
        "code": digest_of_code(),
        "torch": str(torch.__version__),
    }
    if first is not None:
        material["first"] = sha256_of(first)
    if world_size() > 1:  # batches are that many times larger
        material["processes"] = world_size()
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()[:12]
