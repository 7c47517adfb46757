"""Pulsation, signal lost to motion, and noise that varies in space: what spoils an acquisition besides noise.

Every function returns what it puts in, so that it can be written beside the images as a truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sicnn_app.errors import UsageError
from sicnn_app.phantoms.fields import gaussian_field

PULSATION_LENGTH = 10.0
"""Distance within a slice over which pulsation is the same, voxels: a part of an organ."""

BLOOD_PULSATES = 3.0
"""Pulsation of blood relative to that of tissue without any: it flows in and out of the slice."""

RADIUS_OF_LOSSES = 5.0, 9.0
"""Radius of a region that loses its signal, voxels."""

LOSSES_OF_SIGNAL = 0.3, 0.8
"""Share of its signal that such a region loses in the middle."""


@dataclass(frozen=True)
class Disturbances:
    """Disturbances of an acquisition; by default there are none. Raises UsageError for impossible ones.

    Attributes
    ----------
    pulsation : float
        Standard deviation over the volumes of the signal of tissue without blood, relative to it: see
        :func:`pulsation`.
    losses : float
        Regions that lose their signal per volume above b = 0, on average: see :func:`kept_signal`.
    g_factor : float
        Noise in the middle of the image relative to that at its edge: see :func:`noise_gain`.
    """

    pulsation: float = 0.0
    losses: float = 0.0
    g_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, least, most in (("pulsation", 0, 1), ("losses", 0, 100), ("g_factor", 1, 10)):
            if not least <= (value := getattr(self, name)) <= most:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be between {least} and {most}, not {value:g}")


UNDISTURBED = Disturbances()


def noise_gain(shape: tuple[int, int, int], g_factor: float) -> np.ndarray:
    """Noise relative to that at the edge, shape (X, Y, Z): ``g_factor`` in the middle, 1 at the edge.

    It falls with the squared cosine of the distance from the middle of the slice, as the geometry factor of a
    parallel acquisition, which is highest where the coils see least.
    """
    axes = [np.abs(2 * np.arange(size) - (size - 1)) / max(size - 1, 1) for size in shape[:2]]
    distance = np.clip(np.hypot(axes[0][:, None], axes[1][None, :]), 0.0, 1.0)
    gain = 1.0 + (g_factor - 1.0) * np.cos(np.pi / 2 * distance) ** 2
    return np.repeat(gain[..., None], shape[2], axis=2)


def pulsation(
    shape: tuple[int, int, int, int],
    deviation: float,
    rng: np.random.Generator,
    *,
    blood: np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> np.ndarray:
    """Factor of the signal of every voxel and volume, shape (X, Y, Z, N): log-normal with mean 1.

    Every slice of every volume meets another phase of the heart, so that both are independent of all others.

    Parameters
    ----------
    shape : tuple of int, (X, Y, Z, N)
    deviation : float
        Standard deviation of the factor where there is no blood.
    blood : ndarray, shape (X, Y, Z, N), optional
        Share of the signal that comes from blood, 0..1: it pulsates :data:`BLOOD_PULSATES` times as much,
        so that pulsation is largest in vessels and at low b-values. Without it all pulsates alike.
    regions : ndarray of int, shape (X, Y, Z), optional
        Voxels of one number in a slice pulsate as one. By default the factor varies smoothly over
        :data:`PULSATION_LENGTH` voxels.
    """
    if regions is None:
        phase = gaussian_field(shape, (PULSATION_LENGTH, PULSATION_LENGTH, 0, 0), rng)
    else:
        codes, index = np.unique(regions, return_inverse=True)
        drawn = rng.standard_normal((codes.size, *shape[2:]))
        phase = drawn[index.reshape(regions.shape), np.arange(shape[2])]
    deviations = deviation * (1.0 if blood is None else 1.0 + (BLOOD_PULSATES - 1.0) * blood)
    width = np.sqrt(np.log1p(np.square(deviations)))
    return np.exp(width * phase - width**2 / 2)


def kept_signal(
    shape: tuple[int, int, int, int],
    losses: float | Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    *,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Share of the signal that is not lost to motion, shape (X, Y, Z, N).

    A loss is a disc with soft edges in one slice of one volume (:data:`RADIUS_OF_LOSSES`,
    :data:`LOSSES_OF_SIGNAL`).

    Parameters
    ----------
    shape : tuple of int, (X, Y, Z, N)
    losses : float or array_like, shape (N,)
        Losses per volume, on average: of all volumes or of each.
    within : ndarray, shape (X, Y, Z), bool, optional
        Where the middle of a loss may lie; by default anywhere.
    """
    kept = np.ones(shape)
    x, y = np.indices(shape[:2])
    places = None if within is None else np.argwhere(within)
    chances = np.broadcast_to(np.asarray(losses, dtype=np.float64), shape[3:])
    for full in range(math.ceil(chances.max())):
        for volume in np.flatnonzero(rng.random(shape[3]) < chances - full):
            centre = rng.uniform((0, 0), shape[:2]) if places is None else rng.choice(places)
            radius, loss = rng.uniform(*RADIUS_OF_LOSSES), rng.uniform(*LOSSES_OF_SIGNAL)
            distance = np.hypot(x - centre[0], y - centre[1])
            k = rng.integers(shape[2]) if places is None else centre[2]
            kept[:, :, k, volume] *= 1.0 - loss / (1.0 + np.exp(2.0 * (distance - radius)))
    return kept
