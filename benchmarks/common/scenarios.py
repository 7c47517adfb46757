"""Simulated measurements for the benchmarks: anatomy, b-values, noise and seed in, signals and truth out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire, noise_sigma
from sicnn_app.phantoms.phantom import Phantom, make_phantom

SCHEMES: dict[str, tuple[tuple[float, ...], int]] = {
    "12x1": (DEFAULT_BVALS["abdomen"], 1),
    "10x3": ((0, 10, 20, 40, 80, 120, 200, 400, 600, 800), 3),
}
"""b-values in s/mm^2 and volumes per b-value; repeats are averaged before the estimation, as the app does."""

SHAPE = (64, 60, 2)
"""Voxels: small enough for many seeds on two cores; small organs keep a few dozen voxels."""

TUNING_SEEDS = (0, 1, 2, 3, 4)
"""Phantoms and noise that choices were made on."""

HELD_OUT_SEEDS = (100, 101, 102, 103, 104)
"""Phantoms and noise that no choice was made on."""


@dataclass(frozen=True)
class Scenario:
    """One simulated measurement.

    Attributes
    ----------
    snr : float
        As :data:`sicnn_app.phantoms.acquire.SNR_DEFINITION`, for a single volume.
    seed : int
        Of texture, noise and training.
    preset : str
        ``abdomen`` or ``brain``.
    scheme : str
        Key of :data:`SCHEMES`.
    shape : tuple of int
    """

    snr: float
    seed: int
    preset: str = "abdomen"
    scheme: str = "12x1"
    shape: tuple[int, int, int] = SHAPE


@dataclass(frozen=True)
class Measurement:
    """What an estimator gets, and the truth.

    Attributes
    ----------
    phantom : Phantom
    signals : ndarray, shape (X, Y, Z, B), float32, averaged over repeats
    clean : ndarray, shape (X, Y, Z, B), float32
        Signals without noise.
    mask : ndarray, shape (X, Y, Z), bool
    bvals : ndarray, shape (B,), s/mm^2
    sigma : float
        Noise of one channel of a single volume, image units: the true one.
    sigma_per_bval : ndarray, shape (B,)
        Of the averaged signals.
    """

    phantom: Phantom
    signals: np.ndarray
    clean: np.ndarray
    mask: np.ndarray
    bvals: np.ndarray
    sigma: float
    sigma_per_bval: np.ndarray

    @property
    def noise(self) -> np.ndarray:
        """What an estimator takes: the same of all voxels."""
        return self.sigma_per_bval


def measure(scenario: Scenario) -> Measurement:
    """Simulate a scenario; the same scenario gives the same numbers."""
    bvals, repeats = SCHEMES[scenario.scheme]
    phantom = make_phantom(scenario.preset, scenario.shape, seed=scenario.seed)
    volumes = acquire(phantom, np.repeat(bvals, repeats), snr=scenario.snr, seed=scenario.seed + 100_000)
    signals = volumes.reshape(*scenario.shape, len(bvals), repeats).mean(axis=-1).astype(np.float32)
    sigma = noise_sigma(phantom, scenario.snr)
    return Measurement(
        phantom=phantom,
        signals=signals,
        clean=acquire(phantom, bvals).astype(np.float32),
        mask=phantom.mask & (signals[..., 0] > 0),
        bvals=np.array(bvals, dtype=np.float64),
        sigma=sigma,
        sigma_per_bval=np.full(len(bvals), sigma / np.sqrt(repeats)),
    )
