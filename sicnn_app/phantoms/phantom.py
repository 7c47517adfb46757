"""The phantom of one subject: maps of F, D, D* and S0 with tissue labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from sicnn_app.errors import UsageError
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.phantoms import anatomy
from sicnn_app.phantoms.tissues import BOUNDS, TISSUES, Tissue, vary_tissues

DEFAULT_SHAPE = {"abdomen": (96, 80, 8), "brain": (80, 88, 8)}
"""Matrix size of a preset when none is asked for."""

TEXTURE_SMOOTHNESS_CM = 0.8
"""Standard deviation of the Gaussian that smooths the slow part of the texture, cm."""

S0_SCALE = 1000.0
"""Image units of a tissue with relative brightness 1."""


@dataclass(frozen=True)
class Phantom:
    """True maps of one subject.

    Attributes
    ----------
    preset : {"abdomen", "brain"}
    f, d, dstar, s0 : ndarray, shape (X, Y, Z), float64
        Fraction, mm^2/s, mm^2/s and image units; 0 in the background.
    labels : ndarray, shape (X, Y, Z), int16
        Code of the tissue; 0 is background.
    mask : ndarray, shape (X, Y, Z), bool
        The body or the brain: every voxel that is not background.
    tissues : tuple of Tissue
        Mean values of this subject's tissues.
    voxel_size : tuple of float, mm
    affine : ndarray, shape (4, 4)
        Voxel to world, mm; the first axis runs to the patient's left in the image and so
        to negative x in the world (LAS).
    """

    preset: str
    f: np.ndarray
    d: np.ndarray
    dstar: np.ndarray
    s0: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    tissues: tuple[Tissue, ...]
    voxel_size: tuple[float, float, float]
    affine: np.ndarray


def make_phantom(
    preset: str,
    shape: tuple[int, int, int] | None = None,
    *,
    seed: int | Sequence[int] = 0,
    texture: float = 0.1,
    tissue_variation: float = 0.0,
) -> Phantom:
    """Make the true maps of one subject.

    Parameters
    ----------
    preset : {"abdomen", "brain"}
    shape : tuple of int, (X, Y, Z), optional
        Default: :data:`DEFAULT_SHAPE`. The field of view is fixed, so the voxel size follows.
    seed : int or sequence of int
        Seed of the texture and of the subject's tissue values; the anatomy has none.
    texture : float
        Standard deviation of F, D, D* and S0 within a tissue, relative to the tissue's value:
        half of the variance is smooth in space, half is independent from voxel to voxel.
    tissue_variation : float
        Standard deviation of the subject's tissue values around the literature's, relative.

    Raises
    ------
    UsageError
        For an unknown preset, a shape that is not three positive numbers, or a negative deviation.
    """
    if preset not in TISSUES:
        raise UsageError(f"the preset must be one of {', '.join(TISSUES)}, not {preset!r}")
    sizes: tuple[int, ...] = DEFAULT_SHAPE[preset] if shape is None else tuple(shape)
    if len(sizes) != 3 or any(int(size) != size or size < 1 for size in sizes):
        raise UsageError(f"the shape must be three whole numbers of 1 or more, not {sizes}")
    shape = sizes[0], sizes[1], sizes[2]
    if not (0 <= texture < 1 and 0 <= tissue_variation < 0.5):
        raise UsageError(
            f"texture must be in 0..1 and between-subject variation in 0..0.5, "
            f"not {texture:g} and {tissue_variation:g}"
        )

    rng = np.random.default_rng(seed)
    tissues = vary_tissues(TISSUES[preset], tissue_variation, rng)
    labels = anatomy.label(preset, shape)
    _, spacing = anatomy.grid(preset, shape)
    voxel_size = 10.0 * spacing[0], 10.0 * spacing[1], 10.0 * spacing[2]
    smoothness = [TEXTURE_SMOOTHNESS_CM / step for step in spacing]

    maps = {}
    for name in PARAMETERS:
        means = np.zeros(max(tissue.code for tissue in tissues) + 1)
        for tissue in tissues:
            means[tissue.code] = getattr(tissue, name)
        values = means[labels] * (1.0 + texture * _texture_field(shape, smoothness, rng))
        values = S0_SCALE * np.clip(values, 0.0, None) if name == "s0" else np.clip(values, *BOUNDS[name])
        maps[name] = np.where(labels > 0, values, 0.0)

    affine = np.diag([-voxel_size[0], voxel_size[1], voxel_size[2], 1.0])
    # The world's origin lies in the middle of the image.
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Phantom(
        preset=preset,
        labels=labels,
        mask=labels > 0,
        tissues=tissues,
        voxel_size=voxel_size,
        affine=affine,
        **maps,
    )


def _texture_field(
    shape: tuple[int, int, int], smoothness: list[float], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian field of mean 0 and variance 1: half smooth, half white."""
    slow = gaussian_filter(rng.standard_normal(shape), smoothness, mode="wrap")
    spread = slow.std()
    fast = rng.standard_normal(shape)
    # A single voxel has no spread to normalise by.
    return fast if spread == 0 else (slow / spread + fast) / np.sqrt(2.0)
