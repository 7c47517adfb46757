"""Forward models and the loss: re-synthesise the signals and compare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.noise_floor import rician_mean

BRIGHT_QUANTILE = 0.9
"""The normaliser of a bright voxel: fluid and vessels must not set the scale of the weights."""

WEIGHT_LIMITS = (0.05, 2.0)
"""Of the weight relative to that of a bright voxel: every voxel counts, none rules."""

ForwardModel = Callable[[Parameters, Tensor], Tensor]
"""(parameters of shape (slices, X, Y), noise of shape (slices, X, Y)) -> signals (slices, B, X, Y)."""


def noise_free_model(bvals: Tensor) -> ForwardModel:
    """Forward model of the IVIM equation for ``bvals`` of shape (B,), s/mm^2."""
    b = bvals[None, :, None, None]

    def forward(parameters: Parameters, sigma: Tensor) -> Tensor:
        f, d, dstar, s0 = (value[:, None] for value in parameters)
        return ivim_signal_torch(b, f, d, dstar, s0)

    return forward


def rician_model(bvals: Tensor) -> ForwardModel:
    """Forward model of the mean magnitude under Rician noise of one volume."""
    noise_free = noise_free_model(bvals)

    def forward(parameters: Parameters, sigma: Tensor) -> Tensor:
        sigma = sigma[:, None].clamp_min(1e-6)
        return sigma * rician_mean(noise_free(parameters, sigma[:, 0]) / sigma)

    return forward


def mean_squared_difference(
    predicted: Tensor, target: Tensor, weight: Tensor, bval_weight: Tensor, members: int = 1
) -> Tensor:
    """Weighted mean squared difference over voxels and b-values, of every member of an ensemble.

    Parameters
    ----------
    predicted, target : Tensor, shape (members * slices, B, X, Y)
    weight : Tensor, shape (members * slices, X, Y), 0 outside the mask
    bval_weight : Tensor, shape (B,), mean 1
    members : int

    Returns
    -------
    Tensor, shape (members,)
    """
    squared = ((predicted - target).square() * bval_weight[None, :, None, None]).mean(dim=1)
    return (squared * weight).reshape(members, -1).sum(dim=1) / weight.reshape(members, -1).sum(dim=1)


def bval_weights(sigma_per_bval: Tensor, *, weigh: bool) -> Tensor:
    """Weight of every b-value: the inverse variance of its averaged signals, or 1.

    Parameters
    ----------
    sigma_per_bval : Tensor, shape (B,)
        Noise of the averaged signals; without noise anywhere all weigh 1.
    weigh : bool

    Returns
    -------
    Tensor, shape (B,), mean 1
    """
    if not weigh or not bool((sigma_per_bval > 0).all()):
        return torch.ones_like(sigma_per_bval)
    precision = sigma_per_bval.square().reciprocal()
    return precision / precision.mean()


def voxel_weights(normaliser: Tensor) -> Tensor:
    """Weight of every voxel in the loss: proportional to its normaliser, within limits.

    Noise is equal in source units, so the errors of normalised signals grow with 1 / normaliser.
    Equal weights let dark voxels rule the training; the squared normaliser, the maximum-likelihood
    weight of independent voxels, leaves them to the bright ones. The first power lies between.

    Parameters
    ----------
    normaliser : Tensor, shape (slices, X, Y), source units
        0 outside the mask, above 0 somewhere.

    Returns
    -------
    Tensor, shape (slices, X, Y)
        Mean 1 inside the mask, 0 outside.
    """
    inside = normaliser > 0
    bright = float(np.quantile(normaliser[inside].cpu().numpy(), BRIGHT_QUANTILE))
    weight = (normaliser / bright).clamp(*WEIGHT_LIMITS) * inside
    return weight / weight[inside].mean()
