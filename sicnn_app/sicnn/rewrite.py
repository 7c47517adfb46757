"""The rewriting of training signals: which signals, and by what."""

from __future__ import annotations

import torch
from torch import Tensor

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.fitting_error import signals_to_rewrite, threshold_map
from sicnn_app.sicnn.neighbours import similar_neighbour_sum
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.train import TrainingData

EMPTY = 1e-6
"""Sums of normalised signals below this hold none."""

VOXELS_AT_ONCE = 2**15
"""Slices of about so many voxels are rewritten together: temporary copies stay small, and in caches."""


def rewrite(
    parameters: Parameters,
    predicted: Tensor,
    data: TrainingData,
    bvals: Tensor,
    sigma_per_bval: Tensor,
    settings: EstimationSettings,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Training signals for the next data iteration: n, and the replacement where the fitting error is large.

    Parameters
    ----------
    parameters : Parameters, each of shape (slices, X, Y)
    predicted : Tensor, shape (slices, B, X, Y)
    data : TrainingData
    bvals : Tensor, shape (B,), s/mm^2
    sigma_per_bval : Tensor, shape (B,)
        Noise of every averaged signal relative to that of one volume.
    settings : EstimationSettings
        Of a method that rewrites.

    Returns
    -------
    target : Tensor, shape (slices, B, X, Y)
    rewritten : Tensor, shape (slices, B, X, Y), bool
    neighbour_count : Tensor, shape (slices, X, Y), or None where no neighbours are searched
    """
    rule = settings.resolved_update_rule
    curve_sigma = sigma_per_bval.square().mean().sqrt()
    target = torch.empty_like(data.signals)
    rewritten = torch.empty_like(data.signals, dtype=torch.bool)
    counts = None if rule == "own-prediction" else torch.empty_like(data.sigma)
    at_once = max(1, VOXELS_AT_ONCE // data.mask[0].numel())
    for start in range(0, len(data.mask), at_once):
        some = slice(start, start + at_once)
        part = data.slices(some)
        threshold = threshold_map(
            settings.fitting_threshold, part.sigma[:, None] * sigma_per_bval[None, :, None, None]
        )
        rewritten[some] = signals_to_rewrite(predicted[some], part.signals, threshold, part.mask)
        if counts is None:
            replacement = predicted[some]
        else:
            replacement, counts[some] = neighbour_mean(
                Parameters(*(values[some] for values in parameters)),
                part,
                bvals,
                threshold_map(settings.neighbour_threshold, part.sigma * curve_sigma),
                radius=settings.neighbour_radius,
                observed=rule == "observed-neighbours",
            )
        target[some] = torch.where(rewritten[some], replacement, part.signals)
    return target, rewritten, counts


def neighbour_mean(
    parameters: Parameters,
    data: TrainingData,
    bvals: Tensor,
    threshold: Tensor,
    *,
    radius: int,
    observed: bool,
) -> tuple[Tensor, Tensor]:
    """Mean signals of the similar neighbours, brought to every voxel's own scale.

    Similarity is judged on the predicted curves at S0 = 1, so that the noise of a voxel's
    normaliser does not choose its neighbours. The mean curve is a ratio of sums,
    m(b) = sum_u S(u, b) / sum_u S0(u) in source units: bright voxels count for more because their
    signals carry less relative noise, and no noisy normaliser is divided by. Its scale is the
    least-squares one against the voxel's own signals, sum_b n m / sum_b m^2: taking the predicted
    S0 instead lets its errors feed on themselves from one data iteration to the next.

    Parameters
    ----------
    parameters : Parameters, each of shape (slices, X, Y)
    data : TrainingData
        Signals are relative to the normaliser; ``data.normaliser`` brings them back.
    bvals : Tensor, shape (B,)
    threshold : Tensor, shape (slices, X, Y)
    radius : int
    observed : bool
        Average the observed signals (the default update) or the predicted ones.

    Returns
    -------
    means : Tensor, shape (slices, B, X, Y), relative to the normaliser
    counts : Tensor, shape (slices, X, Y)
    """
    b = bvals[None, :, None, None]
    f, d, dstar, s0 = (value[:, None] for value in parameters)
    curves = ivim_signal_torch(b, f, d, dstar) * data.mask[:, None]
    scale = s0 * data.normaliser[:, None]
    values = data.signals * data.normaliser[:, None] if observed else curves * scale
    sums, counts = similar_neighbour_sum(
        curves, torch.cat([values, scale], dim=1), data.mask, threshold, radius
    )
    shapes = sums[:, :-1] / sums[:, -1:].clamp_min(EMPTY)
    power = shapes.square().sum(dim=1, keepdim=True)
    own_scale = (data.signals * shapes).sum(dim=1, keepdim=True) / power.clamp_min(EMPTY)
    return own_scale * shapes * data.mask[:, None], counts
