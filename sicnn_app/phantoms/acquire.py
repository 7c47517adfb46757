"""From true maps to a noisy diffusion-weighted series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sicnn_app.errors import UsageError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.phantoms.disturbances import (
    UNDISTURBED,
    Disturbances,
    kept_signal,
    noise_gain,
    pulsation,
)
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
    if not phantom.mask.any():
        raise UsageError(
            f"a {phantom.preset} of shape {phantom.mask.shape} has no voxel of tissue: ask for more voxels"
        )
    return _sigma(phantom.s0[phantom.mask], snr)


def _sigma(s0: np.ndarray, snr: float) -> float:
    if not snr > 0:
        raise UsageError(f"the SNR must be above 0 (inf: no noise), not {snr:g}")
    return float(s0.mean() / snr)


@dataclass(frozen=True)
class Acquisition:
    """Noisy volumes with all that was done to the signals.

    Attributes
    ----------
    signals, clean : ndarray, shape (X, Y, Z, N), float64, image units
        As acquired, and the true signals: without noise, pulsation or losses.
    bvals : ndarray, shape (N,), s/mm^2
    bvecs : ndarray, shape (N, 3), or None
    affine : ndarray, shape (4, 4), voxel to world, mm
    sigma : ndarray, shape (X, Y, Z), image units
        Standard deviation of one noise channel.
    pulsation : ndarray, shape (X, Y, Z, N), or None
        Factor of the true signal; None without pulsation.
    lost : ndarray, shape (X, Y, Z, N), or None
        Share of the signal that is lost, 0..1; None without losses.
    """

    signals: np.ndarray
    clean: np.ndarray
    bvals: np.ndarray
    bvecs: np.ndarray | None
    affine: np.ndarray
    sigma: np.ndarray
    pulsation: np.ndarray | None = None
    lost: np.ndarray | None = None

    @property
    def series(self) -> DwiSeries:
        """The volumes as the app takes them."""
        return DwiSeries(self.signals.astype(np.float32), self.bvals, self.bvecs, self.affine, slice_axis=2)


def acquire_series(
    truth: Phantom | np.ndarray,
    bvals: Sequence[float] | np.ndarray,
    *,
    snr: float = math.inf,
    seed: int | Sequence[int] = 0,
    bvecs: np.ndarray | None = None,
    disturbances: Disturbances = UNDISTURBED,
    mask: np.ndarray | None = None,
    regions: np.ndarray | None = None,
) -> Acquisition:
    """Acquire one volume per b-value with disturbances and Rician noise.

    The same seed gives the same noise with and without each of the disturbances, and the same volumes as
    :func:`acquire` without any.

    Parameters
    ----------
    truth : Phantom, or ndarray, shape (X, Y, Z, N)
        What is measured: a phantom, or a true signal for every volume, image units.
    bvals : array_like, shape (N,), s/mm^2
        One per volume.
    snr : float
        See :data:`SNR_DEFINITION`; with a g-factor it is that at the edge of the image, where the factor
        is 1. Infinity: no noise.
    seed : int or sequence of int
    bvecs : ndarray, shape (N, 3), optional
    disturbances : Disturbances
    mask : ndarray, shape (X, Y, Z), bool, optional
        Body or brain of a truth that is an array, by default all voxels with a signal: its mean signal at the
        lowest b-value is the S0 of the SNR.
    regions : ndarray of int, shape (X, Y, Z), optional
        See :func:`sicnn_app.phantoms.disturbances.pulsation`; that of blood is known for a phantom only.

    Raises
    ------
    UsageError
        As :func:`noise_sigma`.
    """
    b = np.asarray(bvals, dtype=np.float64)
    blood = None
    if isinstance(truth, Phantom):
        sigma, affine, mask = noise_sigma(truth, snr), truth.affine, truth.mask
        clean = truth.signals(b)
        if disturbances.pulsation:
            blood = np.divide(truth.blood(b), clean, out=np.zeros_like(clean), where=clean > 0)
    else:
        clean, affine = np.asarray(truth, dtype=np.float64), np.eye(4)
        low = clean[..., b.argmin()]
        mask = low > 0 if mask is None else mask
        sigma = _sigma(low[mask], snr)
    # Streams of their own: one disturbance more leaves the noise and the others as they are.
    streams = [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(2)]
    signals, pulsating, lost = clean, None, None
    if disturbances.pulsation:
        pulsating = pulsation(clean.shape, disturbances.pulsation, streams[0], blood=blood, regions=regions)
        signals = signals * pulsating
    if disturbances.losses:
        # Motion dephases what a gradient has encoded: without one nothing is lost.
        kept = kept_signal(clean.shape, disturbances.losses * (b > 0), streams[1], within=mask)
        signals, lost = signals * kept, 1.0 - kept
    gain = noise_gain(clean.shape[:3], disturbances.g_factor)
    return Acquisition(
        signals=_with_noise(signals, sigma * gain[..., None], seed) if sigma else signals,
        clean=clean,
        bvals=b,
        bvecs=bvecs,
        affine=affine,
        sigma=sigma * gain,
        pulsation=pulsating,
        lost=lost,
    )


def _with_noise(signals: np.ndarray, sigma: float | np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    real = signals + sigma * rng.standard_normal(signals.shape)
    imaginary = sigma * rng.standard_normal(signals.shape)
    return np.sqrt(real**2 + imaginary**2)


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
    return acquire_series(phantom, bvals, snr=snr, seed=seed).signals
