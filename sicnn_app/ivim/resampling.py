"""Signals that could have been measured instead of those that were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Resample = Callable[[np.random.Generator], np.ndarray]
"""Draws averaged signals, shape (X, Y, Z, B), that could have been measured instead of those that were."""


def add_noise(
    signals: np.ndarray, mask: np.ndarray, sigma_per_bval: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The signals with as much noise again as they hold: a parametric resampling.

    The noise is Gaussian, also of magnitudes: a second Rician draw would raise the noise floor once more.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), units of the source image
    mask : ndarray, shape (X, Y, Z), bool
    sigma_per_bval : ndarray, shape (B,)
        Noise standard deviation of every averaged signal, same units.
    generator : numpy Generator

    Returns
    -------
    ndarray, shape (X, Y, Z, B), float32
        Unchanged outside the mask.
    """
    drawn = signals.astype(np.float32)
    noise = generator.standard_normal((int(mask.sum()), signals.shape[3]), dtype=np.float32)
    drawn[mask] += noise * np.asarray(sigma_per_bval, dtype=np.float32)
    return drawn
