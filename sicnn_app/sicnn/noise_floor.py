"""The floor under magnitude signals: what Rician noise makes of a signal on average, and back."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sicnn_app.ivim.magnitudes import TABLE_END, TABLE_STEP, mean_magnitude


def rician_mean(signal: Tensor) -> Tensor:
    """:func:`sicnn_app.ivim.magnitudes.mean_magnitude` of a tensor; gradients flow through it."""
    mean: Tensor = mean_magnitude(signal, i0e=torch.special.i0e, i1e=torch.special.i1e)
    return mean


def without_floor(mean: Tensor) -> Tensor:
    """The signal whose mean magnitude is ``mean``: the inverse of :func:`rician_mean`.

    ``mean`` is that of several measurements, any shape, in units of the noise of one channel. A single
    magnitude is no mean: what comes out for it is as noisy and biased. Where it is at most the mean of noise
    alone, sqrt(pi/2), the signal is 0.
    """
    signals, means = _table()
    signals, means = signals.to(mean.device), means.to(mean.device)
    inside = mean.double().clamp(float(means[0]), float(means[-1])).contiguous()
    above = torch.searchsorted(means, inside).clamp_min(1)
    low, high = means[above - 1], means[above]
    found = signals[above - 1] + TABLE_STEP * (inside - low) / (high - low)
    far = (mean.double().square() - 1.0).clamp_min(0.0).sqrt()
    return torch.where(mean >= float(means[-1]), far, found).to(mean.dtype)


@cache
def _table() -> tuple[Tensor, Tensor]:
    """Signals and their mean magnitudes, ascending."""
    signals = torch.arange(0.0, TABLE_END + TABLE_STEP / 2, TABLE_STEP, dtype=torch.float64)
    return signals, rician_mean(signals)
