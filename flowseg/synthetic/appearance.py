"""What drawn images look like: of the three cell types, or of anything a microscope may show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from flowseg.synthetic.optics import Optics, random_optics

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CellForm:
    """One kind of cell. Lengths are in diameters of the cell, thickness in radians of phase."""

    elongation: Range = (1.0, 1.6)
    """Length of the body over its width."""
    bend: float = 0.0
    """Curvature of the body's axis, over its length."""
    raggedness: float = 0.1
    """Standard deviation of the logarithm of the outline's distance from the centre."""
    processes: tuple[int, int] = (0, 0)
    """Number of thick processes; they belong to the cell."""
    process_length: Range = (0.5, 1.5)
    process_width: Range = (0.3, 0.8)
    """At their base, over the body's width."""
    branching: float = 0.0
    """Probability that a process forks."""
    polar: bool = False
    """Whether processes leave at the body's two ends rather than all around."""
    neurites: int = 0
    """At most so many thin processes a cell; they are drawn but belong to no cell."""
    thickness: Range = (0.4, 0.9)
    """In the middle of the cell."""
    rise: Range = (0.3, 0.8)
    """Part of the body's half width over which it becomes thick: a flat cell, or a dome."""
    nucleus: Range = (0.0, 0.3)
    """What a nucleus adds to the thickness."""
    ridge: Range = (0.0, 0.1)
    """What a ridge along the outline adds."""
    texture: Range = (0.1, 0.4)
    """Strength of the structure within the cell, over its thickness."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Cells and microscope of one image. Lengths in pixels unless a diameter is their unit."""

    diameter: float
    """Mean diameter of a disc of a cell's area."""
    log_diameter_std: float
    """Standard deviation of the logarithm of the cells' diameters."""
    forms: tuple[tuple[float, CellForm], ...]
    """The kinds of cells there are, and how often."""
    coverage: float
    """Share of the image that cells would cover if all found room."""
    crowding: float
    """Share of the cells that are placed next to another one."""
    overlap: float = 0.1
    """Largest share of a cell that may be in common with those before it."""
    fitted: bool = False
    """Whether a cell that overlaps others more is cut to the room there is, as in a sheet."""
    alignment: float = 0.0
    """0: cells lie in any direction; 1: all in the same one."""
    neurite_length: Range = (1.0, 5.0)
    """In diameters."""
    neurite_thickness: Range = (0.1, 0.5)
    fibres: float = 0.0
    """Thin processes of cells outside the image, for each 100 squared diameters."""
    debris: float = 0.0
    """Small dots that are no cells, for each 100 squared diameters."""
    debris_radius: float = 0.09
    """Median, in diameters."""
    debris_thickness: Range = (0.5, 2.0)
    clumps: float = 0.0
    """Heaps of such dots beside cells, a cell."""
    texture_scale: float = 0.7
    """Standard deviation of the blur of the cells' structure."""
    outline: float = 0.0
    """How far annotators draw outlines outside the cell's edge; inside if negative."""
    cut_processes: float = 0.0
    """Half width, over the body's, below which processes are left out of the masks."""
    smooth: bool = False
    """Whether annotators round the outlines."""
    optics: Optics


_NEUROBLASTOMA = CellForm(
    elongation=(1.2, 2.6),
    raggedness=0.1,
    processes=(1, 3),
    process_length=(0.5, 1.6),
    process_width=(0.5, 0.9),
    branching=0.1,
    polar=True,
    neurites=1,
    thickness=(0.25, 0.6),
    rise=(0.25, 0.6),
    nucleus=(0.0, 0.15),
)
_ASTROCYTE = CellForm(
    elongation=(1.0, 2.4),
    raggedness=0.15,
    processes=(2, 5),
    process_length=(0.6, 2.2),
    process_width=(0.3, 0.7),
    branching=0.3,
    neurites=2,
    thickness=(0.15, 0.6),
    rise=(0.2, 0.6),
    nucleus=(0.0, 0.3),
    ridge=(0.0, 0.15),
)
_NEURON = CellForm(
    elongation=(1.0, 1.5),
    raggedness=0.07,
    processes=(0, 3),
    process_length=(0.2, 0.6),
    process_width=(0.3, 0.7),
    neurites=5,
    thickness=(0.9, 1.6),
    rise=(0.4, 0.8),
)
_INCUCYTE = Optics(halo=2.2, leak=0.9, defocus=0.6, high_pass=6.0, contrast=55.0, noise=2.0)

APPEARANCES: Mapping[str, Appearance] = MappingProxyType(
    {
        "shsy5y": Appearance(
            diameter=16.5,
            log_diameter_std=0.22,
            forms=((1.0, _NEUROBLASTOMA),),
            coverage=0.17,
            crowding=0.4,
            neurite_length=(1.2, 5.3),
            neurite_thickness=(0.05, 0.3),
            debris=1.4,
            optics=_INCUCYTE,
        ),
        "astro": Appearance(
            diameter=29,
            log_diameter_std=0.4,
            forms=((1.0, _ASTROCYTE),),
            coverage=0.12,
            crowding=0.4,
            neurite_length=(0.6, 2.4),
            neurite_thickness=(0.05, 0.3),
            debris=7.0,
            optics=replace(_INCUCYTE, noise=1.8),
        ),
        "cort": Appearance(
            diameter=17,
            log_diameter_std=0.2,
            forms=((1.0, _NEURON),),
            coverage=0.03,
            crowding=0.2,
            neurite_length=(1.1, 8.5),
            neurite_thickness=(0.05, 0.3),
            debris=12.0,
            optics=replace(_INCUCYTE, noise=2.2),
        ),
    }
)


def random_appearance(rng: np.random.Generator) -> Appearance:
    """Any image of cells in phase contrast: each number from a wide range of its own."""
    diameter = _log_uniform(rng, 10, 45)
    dense = rng.random() < 0.4
    forms = [_random_form(rng) for _ in range(rng.integers(1, 4))]
    weights = rng.dirichlet([0.7] * len(forms))
    return Appearance(
        diameter=diameter,
        log_diameter_std=rng.uniform(0.08, 0.5),
        forms=tuple(zip(weights.tolist(), forms, strict=True)),
        coverage=rng.uniform(0.35, 1.1) if dense else _log_uniform(rng, 0.01, 0.4),
        crowding=rng.uniform(0, 1) ** 1.5,
        overlap=rng.uniform(0.02, 0.2),
        fitted=bool(rng.random() < 0.6),
        alignment=rng.uniform(0, 1) ** 2,
        neurite_length=(rng.uniform(0.5, 2), rng.uniform(2, 9)),
        neurite_thickness=(rng.uniform(0.05, 0.2), rng.uniform(0.2, 0.7)),
        fibres=_rarely(rng, 0.4) * rng.uniform(0.5, 10),
        debris=_rarely(rng, 0.7) * _log_uniform(rng, 0.3, 25),
        debris_radius=_log_uniform(rng, 0.03, 0.2),
        debris_thickness=(rng.uniform(0.2, 1), rng.uniform(1, 4)),
        clumps=_rarely(rng, 0.3) * rng.uniform(0.05, 0.5),
        texture_scale=rng.uniform(0.5, 1.6),
        outline=float(np.clip(rng.normal(0.3, 0.8), -1.2, 2.2)),
        cut_processes=_rarely(rng, 0.4) * rng.uniform(0.1, 0.5),
        smooth=bool(rng.random() < 0.5),
        optics=random_optics(diameter, rng),
    )


def _random_form(rng: np.random.Generator) -> CellForm:
    """A form between some well known ones: round, spindle, star, spread, neuron."""
    thick = _log_uniform(rng, 0.12, 1.6)
    base = CellForm(
        thickness=(0.6 * thick, 1.5 * thick),
        rise=(rng.uniform(0.1, 0.5), rng.uniform(0.5, 1.1)),
        nucleus=(0.0, _rarely(rng, 0.6) * rng.uniform(0.1, 0.8) * thick),
        ridge=(0.0, _rarely(rng, 0.4) * rng.uniform(0.1, 0.6) * thick),
        texture=(0.0, rng.uniform(0.05, 0.9)),
        raggedness=rng.uniform(0.02, 0.2),
        neurites=int(_rarely(rng, 0.4) * rng.integers(1, 6)),
    )
    kind = rng.choice(6, p=(0.15, 0.2, 0.2, 0.15, 0.2, 0.1))
    if kind == 0:  # round, also dead and dividing cells
        bright = float(rng.choice([1.0, 1.0, 3.0]))
        return replace(
            base,
            elongation=(1.0, rng.uniform(1.05, 1.5)),
            raggedness=rng.uniform(0.0, 0.06),
            thickness=(0.5 * bright, rng.uniform(0.8, 1.8) * bright),
            rise=(0.6, 1.2),
        )
    if kind == 1:  # spindle
        return replace(
            base,
            elongation=(1.5, _log_uniform(rng, 2.5, 14)),
            bend=rng.uniform(0, 0.3),
            processes=(0, 2),
            process_length=(0.3, _log_uniform(rng, 0.5, 3.5)),
            polar=True,
        )
    if kind == 2:  # star
        return replace(
            base,
            elongation=(1.0, 2.5),
            processes=(1, int(rng.integers(3, 8))),
            process_length=(0.4, _log_uniform(rng, 0.7, 3.5)),
            process_width=(rng.uniform(0.15, 0.4), rng.uniform(0.4, 1.0)),
            branching=rng.uniform(0, 0.5),
        )
    if kind == 3:  # spread and ragged
        return replace(
            base, elongation=(1.0, rng.uniform(1.2, 2.5)), raggedness=rng.uniform(0.15, 0.4)
        )
    if kind == 4:  # neuron: a body with few thick processes
        return replace(
            base,
            elongation=(1.0, rng.uniform(1.2, 2.8)),
            processes=(0, int(rng.integers(1, 5))),
            process_length=(0.2, rng.uniform(0.5, 1.8)),
            process_width=(rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.0)),
            polar=bool(rng.random() < 0.5),
            neurites=int(rng.integers(0, 6)),
        )
    return base  # epithelial


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _rarely(rng: np.random.Generator, probability: float) -> float:
    """1 with that probability, else 0."""
    return float(rng.random() < probability)
