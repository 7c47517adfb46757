"""From true maps to a noisy diffusion-weighted series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sicnn_app.errors import UsageError
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.phantom import Phantom

SNR_DEFINITION = (
    "mean true S0 over the body or brain mask, divided by the standard deviation of the Gaussian noise "
    "of one channel (real or imaginary), for a single volume at b = 0 before any averaging"
)
"""Meaning of the number called SNR wherever this package says it."""

DEFAULT_BVALS = {
    "abdomen": (0, 10, 20, 30, 40, 50, 75, 100, 150, 250, 400, 600),
    "brain": (0, 10, 20, 40, 80, 110, 140, 170, 200, 300, 400, 500, 600, 700, 800, 900),
}
"""s/mm^2: schemes used for IVIM of the pancreas and of the brain."""


@dataclass(frozen=True)
class Protocol:
    """Which volumes are acquired.

    Attributes
    ----------
    bvals : tuple of float, s/mm^2
        In the order of acquisition; a value given twice is acquired twice.
    repeats : int
        Volumes per b-value above 0 and direction.
    b0_repeats : int
        Volumes per b-value of 0.
    directions : int
        Gradient directions per b-value above 0. The phantoms are isotropic: they differ in
        their noise only.

    Raises
    ------
    UsageError
        For no b-values, a negative or infinite one, or a count below 1.
    """

    bvals: tuple[float, ...]
    repeats: int = 1
    b0_repeats: int = 1
    directions: int = 1

    def __post_init__(self) -> None:
        if not self.bvals or not all(math.isfinite(b) and b >= 0 for b in self.bvals):
            raise UsageError(f"b-values must be numbers of 0 or more in s/mm^2, not {list(self.bvals)}")
        for name in ("repeats", "b0_repeats", "directions"):
            if (count := getattr(self, name)) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, not {count}")

    def gradient_table(self) -> tuple[np.ndarray, np.ndarray]:
        """B-value, s/mm^2, shape (N,), and unit vector, zeros at b = 0, shape (N, 3), of every volume."""
        weighted = np.repeat(directions(self.directions), self.repeats, axis=0)
        vectors = [weighted if b > 0 else np.zeros((self.b0_repeats, 3)) for b in self.bvals]
        bvals = np.repeat(np.array(self.bvals, dtype=np.float64), [len(rows) for rows in vectors])
        return bvals, np.concatenate(vectors)


def directions(count: int) -> np.ndarray:
    """Unit vectors spread over a half-sphere, shape (count, 3): up to 3 axes, or a golden-angle spiral."""
    if count <= 3:
        return np.eye(3)[:count]
    z = (np.arange(count) + 0.5) / count
    turn = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(count)
    ring = np.sqrt(1.0 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def noise_sigma(phantom: Phantom, snr: float) -> float:
    """Standard deviation of one noise channel, image units, 0 for an SNR of infinity: :data:`SNR_DEFINITION`.

    Raises
    ------
    UsageError
        For an SNR that is not above 0, or a phantom without a voxel of tissue.
    """
    if not snr > 0:
        raise UsageError(f"the SNR must be above 0 (inf: no noise), not {snr:g}")
    if not phantom.mask.any():
        raise UsageError(
            f"a {phantom.preset} of shape {phantom.mask.shape} has no voxel of tissue: ask for more voxels"
        )
    return float(phantom.s0[phantom.mask].mean() / snr)


def acquire(
    phantom: Phantom,
    bvals: Sequence[float] | np.ndarray,
    *,
    snr: float = math.inf,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Acquire one volume per b-value with Rician noise.

    The magnitude of the true signal plus complex Gaussian noise, ``|s + sigma (n1 + i n2)|``,
    with a sigma that :func:`noise_sigma` takes from the SNR. Where there is no signal
    that is Rayleigh noise. Repeats and directions are repeated entries of ``bvals``
    (:meth:`Protocol.gradient_table`).

    Parameters
    ----------
    bvals : array_like, shape (N,), s/mm^2
    snr : float
        See :data:`SNR_DEFINITION`; infinity: no noise.
    seed : int or sequence of int

    Returns
    -------
    ndarray, shape (X, Y, Z, N), float64, image units

    Raises
    ------
    UsageError
        As :func:`noise_sigma`.
    """
    sigma = noise_sigma(phantom, snr)
    signals = ivim_signal_maps(np.asarray(bvals), phantom.f, phantom.d, phantom.dstar, phantom.s0)
    if sigma == 0:
        return signals
    rng = np.random.default_rng(seed)
    real = signals + sigma * rng.standard_normal(signals.shape)
    imaginary = sigma * rng.standard_normal(signals.shape)
    return np.sqrt(real**2 + imaginary**2)
