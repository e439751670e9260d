"""Pre-training: the checkpoint to start from, and the first stage on LIVECell."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
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
from flowseg.io.atomic import (
    atomic_path,
    discard,
    ensure_writable_folder,
    is_part,
    write_text,
)
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
    METRICS,
    PRETRAINING,
    STATE,
    SUMMARY,
    fold_folder,
    is_finished,
    lock_run_folder,
)
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage

_log = logging.getLogger(__name__)


def pretrained(plan: Plan, out: Path, device: torch.device, run: str | None = None) -> Path | None:
    """The checkpoint to start from; the LIVECell stage is trained unless it is finished.

    A run in `out` that started from a LIVECell stage continues with that one, even if flowseg has
    changed since and would train another.

    Runs beside each other share the stage: one trains it, and the others wait. Each trains in a
    folder of its own, by its name `run`, and moves the finished stage into the shared one. So
    machines whose locks do not reach each other, as on a mounted bucket, each train it, and none
    touches what another has begun or finished.
    """
    if not plan.livecell or plan.data is None:
        return plan.first
    earlier = from_rank_zero(lambda: _earlier_stage(out, plan.config.data.folds))
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
    work = folder.with_name(f"{folder.name}-{out.name if run is None else run}")
    with on_rank_zero(lock_run_folder(folder, wait=True)):
        if from_rank_zero(lambda: is_finished(folder)):
            _log.info("reusing the LIVECell pre-training in %s", folder)
        elif not from_rank_zero(lambda: is_finished(work)):
            from_rank_zero(lambda: _take_over(folder, work))
            _pretrain(work, config, training, validation, device, plan.first)
        from_rank_zero(lambda: _publish(work, folder))
    return folder / BEST


def _take_over(folder: Path, work: Path) -> None:
    """Make the folder `work`, from the newest state of another run that was stopped in the stage.

    That run may be alive where locks do not reach it: its state, which it writes last, is read
    first, so that no other file is behind it.
    """
    ensure_writable_folder(work)
    states = folder.parent.glob(f"{folder.name}-*/{STATE}")
    newest = max(states, key=lambda state: state.stat().st_mtime_ns, default=None)
    if newest is None or (work / STATE).is_file():
        return
    _log.info("continuing the LIVECell pre-training in %s", newest.parent)
    with atomic_path(work / STATE) as part:
        for name, path in ((STATE, part), *((name, work / name) for name in (BEST, LAST, METRICS))):
            if (newest.parent / name).is_file():
                shutil.copyfile(newest.parent / name, path)


def _publish(work: Path, folder: Path) -> None:
    """Move a finished stage to where all runs look for it, unless another was faster.

    The summary goes last, which marks it as finished, and the state first: without it no run takes
    over what is left.
    """
    if not is_finished(folder):
        files = [path for path in work.iterdir() if not is_part(path.name)]
        for path in sorted(files, key=lambda path: (path.name == SUMMARY, path.name != STATE)):
            path.replace(folder / path.name)
    discard(work)


def _earlier_stage(out: Path, folds: int) -> Path | None:
    """The LIVECell stage that the card of a run or of one of its folds names, if it exists."""
    for last in (out / LAST, *(fold_folder(out, fold) / LAST for fold in range(folds))):
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
    _log.info("pre-training on %d LIVECell images in %s", len(training), folder)
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
