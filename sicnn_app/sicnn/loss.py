"""Forward models and the loss: re-synthesise the signals and compare."""

from __future__ import annotations

import math
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

PATCH_SIZE = 4
"""Voxels along both axes: single voxels would be known through their neighbours in the network's input."""

ForwardModel = Callable[[Parameters, Tensor], Tensor]
"""(parameters of shape (slices, X, Y), noise of shape (slices, X, Y)) -> signals (slices, B, X, Y)."""


def noise_free_model(bvals: Tensor) -> ForwardModel:
    """Forward model of the IVIM equation for ``bvals`` of shape (B,), s/mm^2."""
    b = bvals[None, :, None, None]

    def forward(parameters: Parameters, _sigma: Tensor) -> Tensor:
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

    Signals have the shape (members * slices, B, X, Y), weights of voxels, 0 outside the mask, the shape
    (members * slices, X, Y), those of b-values a mean of 1; the differences have the shape (members,).
    """
    squared = ((predicted - target).square() * bval_weight[None, :, None, None]).mean(dim=1)
    return (squared * weight).reshape(members, -1).sum(dim=1) / weight.reshape(members, -1).sum(dim=1)


def bval_weights(sigma_per_bval: Tensor, *, weigh: bool) -> Tensor:
    """Weight of every b-value, shape (B,), mean 1: the inverse variance of its averaged signals.

    All weigh 1 where they are not to be weighed, or where one has no noise.
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

    The normaliser, shape (slices, X, Y), in source units, is 0 outside the mask and above 0 somewhere; the
    weights are 0 outside the mask, and 1 on average inside.
    """
    inside = normaliser > 0
    bright = float(np.quantile(normaliser[inside].cpu().numpy(), BRIGHT_QUANTILE))
    weight = (normaliser / bright).clamp(*WEIGHT_LIMITS) * inside
    return weight / weight[inside].mean()


def held_out_patches(mask: Tensor, share: float, *, seed: int) -> Tensor:
    """Voxels of the mask in square patches drawn for a validation loss, shape (slices, X, Y), bool.

    ``share`` is that of the patches of every volume, on average.

    Raises
    ------
    ValueError
        When the mask is too small: nothing, or everything, would be held out.
    """
    slices, size_x, size_y = mask.shape
    count = (slices, math.ceil(size_x / PATCH_SIZE), math.ceil(size_y / PATCH_SIZE))
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share
    patches = drawn.repeat_interleave(PATCH_SIZE, 1).repeat_interleave(PATCH_SIZE, 2)
    held_out = patches[:, :size_x, :size_y].to(mask.device) & mask
    if not held_out.any() or not (mask & ~held_out).any():
        raise ValueError(
            f"a share of {share:g} in patches of {PATCH_SIZE} voxels leaves nothing to train or hold out"
        )
    return held_out
