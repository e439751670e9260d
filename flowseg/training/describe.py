"""Descriptions of a checkpoint and of a run's folder as text, for `flowseg info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.io.paths import PathLike
from flowseg.io.tables import read_table
from flowseg.network.checkpoint import Card, read_card
from flowseg.network.shipped import named_model
from flowseg.reports.text import text_table
from flowseg.training.run_folder import (
    BEST,
    CONFIG,
    CROSS_VALIDATION,
    METRICS,
    STATE,
    TRAINING,
    fold_folder,
    is_at_work,
    is_finished,
    read_origin,
    read_summary,
)
from flowseg.training.timing import duration


def describe(path: PathLike) -> str:
    """Describe a checkpoint, or the folder of a run or a cross validation and its best checkpoint.

    The checkpoint of a cross validation is its first fold's; all have the same thresholds.
    """
    path = named_model(path)
    if not path.is_dir():
        return _checkpoint(path)
    best = (fold_folder(path, 0) if _is_cross_validation(path) else path) / BEST
    if not any(file.is_file() for file in (best, path / STATE, path / CONFIG)):
        raise FlowsegError(
            f"holds no {BEST}", file=path, remedy="name a run's folder or a checkpoint"
        )
    parts = [_run(path)]
    if best.is_file():
        parts.append(_checkpoint(best))
    return "\n\n".join(parts)


def _is_cross_validation(folder: Path) -> bool:
    stage = read_origin(folder).get("stage")
    return fold_folder(folder, 0).is_dir() or stage == CROSS_VALIDATION


def _progress(folder: Path) -> tuple[str, list[dict[str, str]]]:
    """The progress of an unfinished run and its epochs, or those of the current fold."""
    if not _is_cross_validation(folder):
        rows = _epochs(folder)
        done = rows[-1]["epoch"] if rows else "0"
        if (folder / CONFIG).is_file():
            done += f" of {load_config(path=folder / CONFIG).training.epochs}"
        return f"{done} epochs done", rows
    folds = load_config(path=folder / CONFIG).data.folds
    unfinished = [k for k in range(folds) if not is_finished(fold_folder(folder, k))]
    done = f"{folds - len(unfinished)} of {folds} folds done"
    if not unfinished:
        return done, []
    epochs, rows = _progress(fold_folder(folder, unfinished[0]))
    return f"{done}, in fold {unfinished[0]}: {epochs}", rows


def _epochs(folder: Path) -> list[dict[str, str]]:
    metrics = folder / METRICS
    if not metrics.is_file():
        return []
    return cast("list[dict[str, str]]", read_table(metrics, ("epoch",)).to_dict("records"))


def _run(folder: Path) -> str:
    lines, rows = [("run", str(folder))], _epochs(folder)
    summary = read_summary(folder)
    if summary is None:
        done, rows = _progress(folder)
        # Folds may be jobs of their own.
        at_work = any(map(is_at_work, (folder, *folder.glob("fold*"))))
        state = "at work" if at_work else "continue it with --resume"
        lines.append(("state", f"not finished, {done}; {state}"))
        lines += _forecast(folder, rows)
    else:
        lines.append(("state", f"finished: {summary.get('stage', TRAINING)}"))
        keys = ("folds", "tta", "epochs", "best_epoch", "validation_score", "seconds")
        lines += _lines(summary, (*keys, "training_images"))
        validation = summary.get("validation_images")
        if isinstance(validation, list):
            lines.append(("validation images", str(len(validation))))
    if rows:
        values = {k: v for k, v in rows[-1].items() if v and k.startswith(("loss", "score"))}
        lines.append(("last epoch", ", ".join(f"{k} {float(v):.4f}" for k, v in values.items())))
    files = [p.name for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    return text_table([*lines, ("holds", ", ".join(files))], left=2)


def _forecast(folder: Path, rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Seconds of an epoch, and how long the rest takes at that pace, as far as `rows` tell."""
    seconds = [float(row["seconds"]) for row in rows if row.get("seconds")]
    if not seconds or not (folder / CONFIG).is_file():
        return []
    each, config = sum(seconds) / len(seconds), load_config(path=folder / CONFIG)
    epochs, left = config.training.epochs, config.training.epochs - len(rows)
    if _is_cross_validation(folder):
        unfinished = sum(not is_finished(fold_folder(folder, k)) for k in range(config.data.folds))
        left += (unfinished - 1) * epochs
    end = datetime.now().astimezone() + timedelta(seconds=each * left)
    text = f"{duration(each)} each, {left} left take {duration(each * left)}"
    return [("epochs", f"{text}, until {end:%Y-%m-%d %H:%M} if it goes on now")]


def _checkpoint(path: Path) -> str:
    card = read_card(path)
    facts = text_table([("checkpoint", str(path)), *_facts(path, card)], left=2)
    return f"{facts}\n\n{_cells(card.cell_types)}"


def _facts(path: Path, card: Card) -> list[tuple[str, str]]:
    network = card.network
    lines = [
        ("size", f"{path.stat().st_size / 1e6:.1f} MB"),
        (
            "network",
            f"channels {', '.join(map(str, network.channels))}; {network.blocks_per_level} blocks; "
            f"stem of stride {network.stem_stride}",
        ),
        ("target diameter", f"cells of {network.target_diameter:g} px"),
    ]
    keys = ("stage", "epoch", "validation_score", "training_images", "validation_images")
    lines += _lines(card.provenance, (*keys, "pretraining", "data", "license"))
    versions = card.provenance.get("versions")
    if isinstance(versions, Mapping):
        lines.append(("made with", ", ".join(f"{k} {v}" for k, v in versions.items())))
    return lines


def _cells(cells: Mapping[str, CellTypeSettings]) -> str:
    header = ("cell type", "diameter", "cellprob", "flow", "min size")
    rows = [
        (
            *(name, "unknown" if cell.diameter is None else f"{cell.diameter:g} px"),
            *(f"> {cell.cellprob_threshold:g}", f"<= {cell.flow_threshold:g}"),
            f"{cell.min_size} px",
        )
        for name, cell in cells.items()
    ]
    return text_table(rows, header, left=len(header))


def _lines(values: Mapping[str, object], keys: Sequence[str]) -> list[tuple[str, str]]:
    known = [key for key in keys if values.get(key) is not None]
    return [(key.replace("_", " "), _short(values[key])) for key in known]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.0f}"
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
