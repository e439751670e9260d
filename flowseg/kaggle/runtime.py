"""The runtimes of notebooks: their packages, and which of flowseg's requirements they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from flowseg.errors import FlowsegError

_TABLE = Path(__file__).with_name("runtimes.yaml")

DEFAULT_RUNTIME = "kaggle-2026-05"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a notebook finds installed."""

    name: str
    python: str
    """Such as "3.12"."""
    packages: Mapping[str, Version]
    """By canonical name."""

    def lacks(self, requirement: Requirement) -> bool:
        """Whether there is no version that fits."""
        version = self.packages.get(canonicalize_name(requirement.name))
        return version is None or not requirement.specifier.contains(version)


def runtimes() -> list[str]:
    """The names of all known runtimes."""
    return sorted(yaml.safe_load(_TABLE.read_text(encoding="utf-8")))


def read_runtime(name: str) -> Runtime:
    """The runtime of that name; FlowsegError if it is not known."""
    table = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    if name not in table:
        raise FlowsegError(f"unknown runtime {name!r}", remedy=f"choose {', '.join(table)}")
    packages = {name: Version(str(text)) for name, text in table[name]["packages"].items()}
    return Runtime(name=name, python=table[name]["python"], packages=packages)


def lacking(runtime: Runtime) -> list[Requirement]:
    """The requirements of flowseg, without extras, that a runtime does not meet."""
    requirements = [Requirement(text) for text in metadata.requires("flowseg") or ()]
    return [one for one in requirements if one.marker is None and runtime.lacks(one)]
