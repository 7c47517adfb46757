"""Signals that could have been measured instead of those that were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Resample = Callable[[np.random.Generator], np.ndarray]
"""Draws averaged signals, shape (X, Y, Z, B), that could have been measured instead of those that were."""


def add_noise(
    signals: np.ndarray, mask: np.ndarray, noise: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The signals with as much noise again as they hold: a parametric resampling.

    The noise is Gaussian, also of magnitudes: a second Rician draw would raise the noise floor once more.

    Signals, shape (X, Y, Z, B), and their noise, of the same shape or (B,), are in the same units; those
    drawn are float32, and unchanged outside the mask.
    """
    drawn = signals.astype(np.float32)
    random = generator.standard_normal((int(mask.sum()), signals.shape[3]), dtype=np.float32)
    drawn[mask] += random * np.broadcast_to(noise, signals.shape)[mask].astype(np.float32)
    return drawn
