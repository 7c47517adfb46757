"""Kinds of truth, a row each: what lies where, with which values, and how these vary in space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from sicnn_app.errors import UsageError
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.phantoms import anatomy
from sicnn_app.phantoms.fields import gaussian_field
from sicnn_app.phantoms.tissues import DRAWN, TISSUES, VALUES, Ranges, Tissue, draw_tissues

S0_SCALE = 1000.0
"""Image units of a tissue with relative brightness 1."""

TEXTURE_SMOOTHNESS_CM = 0.8
"""Standard deviation of the Gaussian that smooths the slow part of the texture, cm."""

RANDOM_ORGANS = 12
"""Tissues of a random anatomy besides its vessels."""

COMMON = 0.3
"""Share of the variance of a continuous map that F, D, D* and S0 have in common."""

SPREADS_IN_RANGE = 5.0
"""Standard deviations of a continuous map that its range holds; 1.2 % of the voxels lie at its ends."""


@dataclass(frozen=True)
class Truth:
    """Choices of a phantom beyond its preset; by default its drawing. Raises UsageError for impossible ones.

    Attributes
    ----------
    anatomy : str
        Row of :data:`ANATOMIES`.
    values : str
        Row of :data:`sicnn_app.phantoms.tissues.VALUES`.
    correlation_length : float, voxels
        Of continuous fields: distance at which their correlation has fallen to 1/e.
    deformation : float, cm
        Standard deviation of how far the anatomy is moved, another way for every seed.
    partial_volume : int
        Parts of a voxel along each axis that have values of their own; 1: a voxel has one.
    shading : float
        Coil sensitivity falls from 1 + shading at one side of the image to 1 - shading at the other.
    equal_s0 : bool
        All tissues have the same mean S0.
    lesions : int
        Number of small lesions.
    lesion_voxels : tuple of int
        Smallest and largest number of voxels of a lesion.
    """

    anatomy: str = "drawing"
    values: str = "literature"
    correlation_length: float = 4.0
    deformation: float = 0.0
    partial_volume: int = 1
    shading: float = 0.0
    equal_s0: bool = False
    lesions: int = 0
    lesion_voxels: tuple[int, int] = (2, 4)

    def __post_init__(self) -> None:
        for name, rows in (("anatomy", ANATOMIES), ("values", VALUES)):
            if (value := getattr(self, name)) not in rows:
                raise UsageError(f"--{name} must be one of {', '.join(rows)}, not {value!r}")
        limits = {
            "correlation_length": (0, 1000),
            "deformation": (0, 3),
            "partial_volume": (1, 8),
            "shading": (0, 0.95),
            "lesions": (0, 10_000),
        }
        for name, (least, most) in limits.items():
            if not least <= (number := getattr(self, name)) <= most:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be between {least:g} and {most:g}, not {number:g}")
        least, most = self.lesion_voxels
        if not 1 <= least <= most <= 100:
            raise UsageError(
                f"--lesion-voxels must be two ascending numbers between 1 and 100, not {least} and {most}"
            )


@dataclass(frozen=True)
class Place:
    """A grid to be filled, and what with."""

    grid: anatomy.Grid
    truth: Truth
    ranges: Ranges
    texture: float


def _drawing(place: Place, rng: np.random.Generator) -> np.ndarray:
    return anatomy.drawn_label(place.grid, rng, deformation=place.truth.deformation)


def _random(place: Place, rng: np.random.Generator) -> np.ndarray:
    body = _drawing(place, rng) > 0
    return anatomy.random_label(place.grid, body, RANDOM_ORGANS, RANDOM_ORGANS + 1, rng)


def _body(place: Place, rng: np.random.Generator) -> np.ndarray:
    return (_drawing(place, rng) > 0).astype(np.int16)


def _table(place: Place, rng: np.random.Generator) -> tuple[Tissue, ...]:
    tables = VALUES[place.truth.values].tables
    if place.grid.preset in tables:
        return tables[place.grid.preset]
    return draw_tissues(TISSUES[place.grid.preset], place.ranges, rng)


def _random_table(place: Place, rng: np.random.Generator) -> tuple[Tissue, ...]:
    known = {tissue.name: tissue for tissue in TISSUES[place.grid.preset]}
    fluid = next(tissue for tissue in known.values() if tissue.f == 0 and tissue.d == 3e-3)
    organs = [
        Tissue(code, f"organ_{code}", 0.5, 0.0, 0.0, 1.0, DRAWN, f"#{60 + 15 * code:02x}9980")
        for code in range(1, RANDOM_ORGANS)
    ]
    return (
        *draw_tissues(tuple(organs), place.ranges, rng),
        replace(fluid, code=RANDOM_ORGANS),
        replace(known["vessel"], code=RANDOM_ORGANS + 1),
    )


def _one_tissue(place: Place, _rng: np.random.Generator) -> tuple[Tissue, ...]:
    f, d, dstar, s0 = (math.sqrt(math.prod(getattr(place.ranges, name))) for name in PARAMETERS)
    return (Tissue(1, "tissue", f, d, dstar, s0, DRAWN, "#8c4a2f"),)


def _textured(
    place: Place, labels: np.ndarray, tissues: tuple[Tissue, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Every tissue around its mean."""
    smoothness = [TEXTURE_SMOOTHNESS_CM / step for step in place.grid.spacing]
    maps = {}
    for name in PARAMETERS:
        means = np.zeros(max(tissue.code for tissue in tissues) + 1)
        for tissue in tissues:
            means[tissue.code] = getattr(tissue, name)
        maps[name] = means[labels] * (1.0 + place.texture * _texture_field(place.grid.shape, smoothness, rng))
    return maps


def _continuous(
    place: Place, _labels: np.ndarray, tissues: tuple[Tissue, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Log-normal fields around the geometric middle of their range."""
    length = place.truth.correlation_length * place.grid.subdivision
    common = gaussian_field(place.grid.shape, length, rng)
    maps = {}
    for name in PARAMETERS:
        own = gaussian_field(place.grid.shape, length, rng)
        field = math.sqrt(COMMON) * common + math.sqrt(1 - COMMON) * own
        low, high = getattr(place.ranges, name)
        spread = 0.0 if name == "s0" and place.truth.equal_s0 else math.log(high / low) / SPREADS_IN_RANGE
        maps[name] = np.clip(getattr(tissues[0], name) * np.exp(spread * field), low, high)
    return maps


def _texture_field(
    shape: tuple[int, int, int], smoothness: list[float], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian field of mean 0 and variance 1: half smooth, half white."""
    slow = gaussian_filter(rng.standard_normal(shape), smoothness, mode="wrap")
    spread = slow.std()
    fast = rng.standard_normal(shape)
    # A single voxel has no spread to normalise by.
    return fast if spread == 0 else (slow / spread + fast) / np.sqrt(2.0)


@dataclass(frozen=True)
class Anatomy:
    """One kind of anatomy.

    Attributes
    ----------
    labels : callable
        Codes of a :class:`Place`, of the shape of its grid, int16, 0 in the background.
    tissues : callable
        Tissues that have the codes.
    maps : callable
        F, D, D* and relative S0, of the same shape, of labels and tissues.
    made : str
        How it was made, for the README of a dataset.
    within : str
        How values vary within a tissue; by default they have a texture.
    """

    labels: Callable[[Place, np.random.Generator], np.ndarray]
    tissues: Callable[[Place, np.random.Generator], tuple[Tissue, ...]]
    maps: Callable[[Place, np.ndarray, tuple[Tissue, ...], np.random.Generator], dict[str, np.ndarray]]
    made: str = "the anatomy is a drawing by formulas"
    within: str = ""


ANATOMIES = {
    "drawing": Anatomy(_drawing, _table, _textured),
    "random": Anatomy(
        _random,
        _random_table,
        _textured,
        "places, sizes and shapes of the organs are random",
    ),
    "fields": Anatomy(
        _body,
        _one_tissue,
        _continuous,
        "there are no organs",
        "are continuous log-normal fields",
    ),
}
"""Choices of ``--anatomy``."""


def shading(shape: tuple[int, int, int], strength: float, rng: np.random.Generator) -> np.ndarray:
    """Coil sensitivity, shape (X, Y, 1): 1 + strength at one side, 1 - strength at the other, 1 on average.

    The direction in which it falls is drawn.
    """
    angle = rng.uniform(0.0, 2.0 * np.pi)
    axes = [(2 * np.arange(size) - (size - 1)) / size for size in shape[:2]]
    direction = np.cos(angle), np.sin(angle)
    along = (axes[0][:, None] * direction[0] + axes[1][None, :] * direction[1]) / sum(np.abs(direction))
    return 1.0 + strength * np.sin(np.pi / 2 * along)[..., None]
