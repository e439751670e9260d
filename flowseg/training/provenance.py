"""Provenance of a checkpoint: fingerprints of data and code, settings, versions, git revision."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from flowseg._version import __version__
from flowseg.arrays.rle import Masks
from flowseg.config.loading import to_mapping
from flowseg.config.schema import Config
from flowseg.data.record import Record
from flowseg.io.paths import sha256_of


def fingerprint(records: Iterable[Record]) -> str:
    """The SHA-256 of the images' ids, cell types, sizes in pixels and in bytes, and masks."""
    total = hashlib.sha256()
    for record in sorted(records, key=lambda record: record.image_id):
        size = record.image_path.stat().st_size
        total.update(f"{record.image_id} {size} {record.cell_type} {record.shape} ".encode())
        if isinstance(record.annotation, Masks):
            for runs in (record.annotation.offsets, record.annotation.starts):
                total.update(runs.tobytes())
            total.update(record.annotation.lengths.tobytes())
        else:
            total.update(record.annotation.digest().encode())
    return total.hexdigest()


def digest_of_code() -> str:
    """The SHA-256 of flowseg's source code, which changes between two releases as well."""
    total = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py"), key=lambda path: path.as_posix()):
        total.update(f"{path.relative_to(package).as_posix()} {sha256_of(path)} ".encode())
    return total.hexdigest()


def provenance_of(
    config: Config, training: Sequence[Record], validation: Sequence[Record]
) -> dict[str, Any]:
    """The provenance on a card: settings, data, and versions of flowseg and its libraries."""
    return {
        "settings": to_mapping(config),
        "training_images": len(training),
        "validation_images": len(validation),
        "data": fingerprint([*training, *validation]),
        "versions": {
            "flowseg": __version__,
            "revision": git_revision(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
        },
    }


def git_revision() -> str | None:
    """The git revision of the checkout that runs, "-dirty" if changed since; else None."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
