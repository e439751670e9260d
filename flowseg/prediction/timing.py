"""How long a prediction will take, and what of it fits into the time that there is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from flowseg.config.choices import TTA_CHOICES
from flowseg.errors import FlowsegError
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import ensure_writable_folder, write_text
from flowseg.io.image_source import list_images
from flowseg.io.paths import PathLike
from flowseg.prediction.journal import journal_folder, run_key
from flowseg.training.timing import duration

_TRIAL = 4  # images, after the first, which compiles
_PACE = 10  # images
_RESERVE = 0.15
"""Part of a budget that is not planned for."""

_log = logging.getLogger(__name__)


class Pace:
    """Says once, after ten images, how many a second there are and how long all will take."""

    def __init__(self, images: int) -> None:
        self._images, self._done, self._start = images, 0, 0.0

    def count(self) -> None:
        """Count an image that is done."""
        self._done += 1
        if self._done == 1:  # which compiles
            self._start = time.monotonic()
        elif self._done == _PACE:
            pace = (_PACE - 1) / max(time.monotonic() - self._start, 1e-9)
            total = self._images / pace
            _log.info(
                "%.2f images/s: %d images take %s (%.2f h)",
                pace,
                self._images,
                duration(total),
                total / 3600,
            )


class Effort(NamedTuple):
    """How much is computed for each image."""

    models: int
    """The first so many of the ensemble."""
    tta: int
    """Views of test-time augmentation."""


def fit_effort(full: Effort, seconds: float, budget: float) -> Effort:
    """The most effort, up to `full`, that fits into a number of seconds.

    Parameters
    ----------
    full : Effort
        What was asked for.
    seconds : float
        That all images take with one model and one view; others take as many times longer.
    budget : float
        Seconds that there are.

    Returns
    -------
    Effort
        First test-time augmentation is lowered, down to one view, then the ensemble, down to one
        model, which may still take longer.

    Examples
    --------
    >>> fit_effort(Effort(models=5, tta=8), seconds=600, budget=3 * 3600)
    Effort(models=5, tta=2)
    >>> fit_effort(Effort(models=5, tta=8), seconds=3600, budget=3 * 3600)
    Effort(models=2, tta=1)
    """
    views = [tta for tta in reversed(TTA_CHOICES) if tta <= full.tta]
    efforts = [Effort(full.models, tta) for tta in views]
    efforts += [Effort(models, 1) for models in range(full.models - 1, 0, -1)]
    room = (1 - _RESERVE) * budget
    return next((e for e in efforts if seconds * e.models * e.tta <= room), efforts[-1])


def seconds_per_image(
    model: PathLike, files: Sequence[Path], device: str, options: SegmentOptions
) -> float:
    """Seconds of an image with one model and one view, measured on the first of the files.

    Raises FlowsegError where none of them can be segmented.
    """
    segmenter = Segmenter.load(model, device)
    times: list[float] = []
    problem = FlowsegError("there is no image to measure the time of")
    for path in files:
        start = time.monotonic()
        try:
            image = list_images(path, options.channel)[0].read()
            segmenter.segment(image, cell_type=options.cell_type, diameter=options.diameter)
        except FlowsegError as error:  # whoever predicts it says so
            problem = error
            continue
        times.append(time.monotonic() - start)
        if len(times) > _TRIAL:
            break
    if not times:
        raise problem
    counted = times[1:] or times
    return sum(counted) / len(counted)


@contextmanager
def within_time_budget(
    models: Sequence[Path],
    files: Sequence[Path],
    submission: PathLike,
    budget: float | None,
    *,
    tta: int = 1,
    device: str = "auto",
    options: SegmentOptions = SegmentOptions(),  # noqa: B008
    processes: int = 1,
) -> Iterator[tuple[list[Path], int]]:
    """The models and views with which all files take at most `budget` seconds, see `fit_effort`.

    Parameters
    ----------
    models, files, tta, device, options
        Of the prediction.
    submission : path
        Its CSV; the choice is kept in the journal beside it until the block ends without an error,
        so that a prediction that is resumed makes the same.
    budget : float or None
        Seconds; None: as many as it takes.
    processes : int
        How many of them share the files.

    Yields
    ------
    models : list of Path
    tta : int
    """
    if budget is None:
        yield list(models), tta
        return
    folder = journal_folder(submission)
    key = run_key(models, {"budget": [budget, tta, len(files), processes]})
    kept = folder / f"{key}.budget.json"
    full = Effort(len(models), tta)
    try:
        effort = Effort(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        each = seconds_per_image(models[0], files, device, options)
        seconds = each * -(-len(files) // processes)
        effort = fit_effort(full, seconds, budget)
        total = seconds * effort.models * effort.tta
        _log.info(
            "%.2f s an image with one model and one view: %d of %d models and %d of %d views, "
            "%s of %s for %d images",
            each,
            effort.models,
            full.models,
            effort.tta,
            full.tta,
            duration(total),
            duration(budget),
            len(files),
        )
        if total > budget:
            _log.warning("even so it will take longer than %s", duration(budget))
        write_text(ensure_writable_folder(folder) / kept.name, json.dumps(effort._asdict()))
    yield list(models[: effort.models]), effort.tta
    kept.unlink(missing_ok=True)
    with suppress(OSError):  # there are journals of others
        folder.rmdir()
