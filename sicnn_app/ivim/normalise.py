"""Signals relative to the one at the lowest b-value: what the model and the networks are fitted to."""

from __future__ import annotations

import numpy as np


def normalise(signals: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide every signal by the one at the lowest b-value, s(b) = S(b) / S(b_min).

    The normaliser is itself a noisy measurement: s(b_min) is 1 by construction and the error of
    S(b_min) is shared by all other s(b), which is why S0 is fitted relative to it and not fixed at 1.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), source units
        Averaged signals, b-values ascending along the last axis.

    Returns
    -------
    normalised : ndarray, shape (X, Y, Z, B), float32, no unit
        0 outside the mask and where the normaliser is not positive.
    normaliser : ndarray, shape (X, Y, Z), float32, units of the source image
        S(b_min); 0 outside the mask and where it is not positive.

    Examples
    --------
    >>> signals = np.array([[[[8.0, 6.0, 4.0, 2.0]]], [[[1.0, 2.0, 3.0, 4.0]]]], dtype=np.float32)
    >>> normalised, normaliser = normalise(signals, np.array([[[True]], [[False]]]))
    >>> normalised[0, 0, 0].tolist(), normalised[1, 0, 0].tolist(), float(normaliser[0, 0, 0])
    ([1.0, 0.75, 0.5, 0.25], [0.0, 0.0, 0.0, 0.0], 8.0)
    """
    lowest = signals[..., 0]
    usable = mask & (lowest > 0)
    normaliser = np.where(usable, lowest, 0).astype(np.float32)
    normalised = np.zeros(signals.shape, dtype=np.float32)
    normalised[usable] = signals[usable] / normaliser[usable][:, None]
    return normalised, normaliser
