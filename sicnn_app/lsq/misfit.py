"""Weights of the signals, from their noise and from what whole regions of a b-value are off by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sicnn_app.ivim.local_mean import local_means
from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.lsq.fit import fit_biexponential, one_thread
from sicnn_app.settings import Bounds

REGION = 3.0
"""Voxels: standard deviation of the Gaussian in the slice, within the mask, whose averages stand for a
region."""

BLOCK = 4
"""Voxels: side of the square in a slice that shares a fit of the averages, which hardly change within it."""

LEAST_SHARE = 0.01
"""Of the mean variance over the b-values, of one of them."""

NOT_IN_MISFIT = 0.5
"""Share of the variance: on halves of measured abdomens the wCV of D is lowest from 0.25 to 0.5."""

ROUNDS = 2
"""Of weighing the averages by what they were off by: what disagrees then moves the fit no more."""


@one_thread()
def signal_weights(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: Tensor,
    noise: np.ndarray,
    volumes: np.ndarray | None,
    bounds: Bounds,
) -> Tensor | None:
    """Inverse variances of the signals of every voxel, relative to their mean; None without noise.

    A b-value whose volumes lost signal to motion is wrong over a whole region, by more than its noise. The
    averages over a region have hardly any noise: what they are off the bi-exponential by, e, is such a loss,
    or what the model cannot describe. The variance of a signal is h sigma^2 + e^2: what of the noise is
    variation of regions shows in e, and h, :data:`NOT_IN_MISFIT`, is the rest. Where all fits, the weights
    are those of the noise alone.

    With ``volumes`` sigma^2 is the noise around the voxel of all b-values together, over the volumes of each:
    what the few volumes of one b-value show of their own noise says less.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B)
    bvals : Tensor, shape (B,), s/mm^2
    noise : ndarray, shape (X, Y, Z, B) or (B,)
        Standard deviation of the signals from the truth, same units.
    volumes : ndarray, shape (B,), or None
        Averaged per b-value.

    Returns
    -------
    Tensor, shape (V, B), float64, on the CPU, or None
    """
    variances = np.square(np.broadcast_to(noise, signals.shape)[mask].astype(np.float32), dtype=np.float64)
    if volumes is not None:
        variances = (variances * volumes).mean(axis=1, keepdims=True) / volumes
    if not (variances > 0).any(axis=0).all():
        return None
    x, y, z = np.nonzero(mask)
    place = np.ravel_multi_index((x // BLOCK, y // BLOCK, z), mask.shape)
    _, block, count = np.unique(place, return_inverse=True, return_counts=True)
    regional, variances = (
        np.stack([np.bincount(block, one) / count for one in values.T], axis=1)
        for values in (local_means(signals, mask, REGION), variances)
    )
    # Where a single b-value seems to have no noise it must not be all that counts.
    np.maximum(variances, LEAST_SHARE * variances.mean(axis=1, keepdims=True), out=variances)
    # To the digits that mean something: the last ones are those of the linear algebra library.
    variances = np.maximum(NOT_IN_MISFIT * variances, np.finfo(np.float32).tiny).astype(np.float32)
    of_noise = torch.from_numpy(variances).double()
    averages = torch.from_numpy(regional)
    level = averages[:, bvals.argmin(), None].clamp(min=torch.finfo(torch.float64).tiny)
    weights: Tensor | None = None
    for _ in range(ROUNDS + 1):
        fit = fit_biexponential(averages / level, bvals, bounds, weights=weights)
        s0, f, d, dstar = (values[:, None] for values in (fit.s0, fit.f, fit.d, fit.dstar))
        predicted = ivim_signal_torch(bvals, f, d, dstar, s0 * level)
        weights = 1 / (of_noise + (averages - predicted).square())
        weights /= weights.mean(dim=1, keepdim=True)
    assert weights is not None
    return weights[torch.from_numpy(block)]
