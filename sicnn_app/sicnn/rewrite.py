"""The rewriting of training signals: which signals, and by what."""

from __future__ import annotations

import torch
from torch import Tensor

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn.neighbours import Sample, add_similar_of_sample, similar_neighbour_sum
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.noise_floor import rician_mean, without_floor
from sicnn_app.sicnn.train import TrainingData

EMPTY = 1e-6
"""Sums of normalised signals below this hold none."""

VOXELS_AT_ONCE = 2**15
"""Slices of about so many voxels are rewritten together: temporary copies stay small, and in caches."""

FLOOR_LIMIT = 3.0
"""S0 over the noise of one volume from which on the noise floor is taken off.

Darker voxels lie so near the floor that taking it off amplifies their noise more than it mends their bias."""

LEAST_FOR_FLOOR = 9
"""Similar voxels from which on the noise floor is taken off their mean: with fewer the inverse amplifies
their noise more than it mends their bias."""

SCALE_ROUNDS = 4
"""Of the scale of a curve under a noise floor; each divides its error by about four or more."""


def threshold_map(threshold: Threshold, sigma: Tensor) -> Tensor:
    """Threshold on normalised signals for every entry of ``sigma``, the noise relative to the normaliser."""
    return sigma * threshold.value if threshold.unit == "sigma" else torch.full_like(sigma, threshold.value)


def fitting_error(predicted: Tensor, noisy: Tensor) -> Tensor:
    """Fitting Error |p - n| per voxel and b-value (supplement, Eq. 2)."""
    return (predicted - noisy).abs()


def signals_to_rewrite(
    predicted: Tensor, noisy: Tensor, threshold: Tensor, mask: Tensor, *, whole: bool = False
) -> Tensor:
    """Signals whose fitting error exceeds the threshold; all of shape (slices, B, X, Y).

    Phenomenon 2 of the supplement: the larger the fitting error, the larger the advantage of the
    prediction over the noisy signal. ``whole`` decides for whole curves, by the root mean square over b of
    fitting error over threshold.
    """
    errors = fitting_error(predicted, noisy)
    if whole:
        smallest = torch.finfo(threshold.dtype).tiny
        excess = (errors / threshold.clamp_min(smallest)).square().mean(dim=1, keepdim=True)
        return (excess > 1.0).expand_as(errors) & mask[:, None]
    return (errors > threshold) & mask[:, None]


def rewrite(
    parameters: Parameters,
    predicted: Tensor,
    training_signals: Tensor,
    data: TrainingData,
    bvals: Tensor,
    bval_weight: Tensor,
    settings: EstimationSettings,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Training signals for the next data iteration: n, and the replacement where the fitting error is large.

    Parameters
    ----------
    training_signals : Tensor, shape (slices, B, X, Y)
        Of the training that ``predicted`` comes from.
    data : TrainingData
        Voxels without weight are held out: never rewritten, and nobody's neighbours.
    bval_weight : Tensor, shape (B,)
        Of the own signals in the scale of a mean curve.
    settings : EstimationSettings
        Of a method that rewrites.

    Returns
    -------
    target : Tensor, shape (slices, B, X, Y)
    rewritten : Tensor, shape (slices, B, X, Y), bool
    neighbour_count, around : Tensor, or None where no neighbours are searched
        As :class:`sicnn_app.sicnn.neighbours.NeighbourSums`.
    """
    rule = settings.resolved_update_rule
    target = torch.empty_like(data.signals)
    rewritten = torch.empty_like(data.signals, dtype=torch.bool)
    counts = around = None
    if rule != "own-prediction":
        counts = torch.empty_like(data.sigma)
        around = counts.repeat(2, 1, 1, 1)
    # What agrees with rewritten signals stays rewritten; against the noisy ones T is built afresh.
    kept = data.signals if settings.fitting_error_against == "noisy" else training_signals
    generator = torch.Generator().manual_seed(settings.random_seed)
    at_once = max(1, VOXELS_AT_ONCE // data.mask[0].numel())
    for start in range(0, len(data.mask), at_once):
        some = slice(start, start + at_once)
        part = data.slices(some)
        threshold = threshold_map(settings.fitting_threshold, part.noise)
        rewritten[some] = signals_to_rewrite(
            predicted[some], kept[some], threshold, part.weight > 0, whole=settings.rewrite_curves
        )
        if settings.rewrite_at_random:
            rewritten[some] = _as_many_at_random(rewritten[some], part.weight > 0, generator)
        if counts is None or around is None:
            replacement = predicted[some]
        else:
            replacement, counts[some], around[:, some] = neighbour_mean(
                Parameters(*(values[some] for values in parameters)),
                part,
                bvals,
                threshold_map(settings.resolved_neighbour_threshold, part.noise.square().mean(dim=1).sqrt()),
                bval_weight,
                settings,
            )
        target[some] = torch.where(rewritten[some], replacement, kept[some])
    return target, rewritten, counts, around


def neighbour_mean(
    parameters: Parameters,
    data: TrainingData,
    bvals: Tensor,
    threshold: Tensor,
    bval_weight: Tensor,
    settings: EstimationSettings,
    sample: Sample | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean signals of the similar neighbours, brought to every voxel's own scale.

    Similarity is judged on the predicted curves at S0 = 1, so that the noise of a voxel's
    normaliser does not choose its neighbours. The mean curve is a ratio of sums,
    m(b) = sum_u S(u, b) / sum_u S0(u) in source units: bright voxels count for more because their
    signals carry less relative noise, and no noisy normaliser is divided by. Its scale is the
    least-squares one against the voxel's own signals, sum_b w n m / sum_b w m^2: taking the predicted
    S0 instead lets its errors feed on themselves from one data iteration to the next.

    Magnitudes have a positive mean even without a signal. Of a single one this noise floor cannot be taken
    off; of the mean of many observed ones it can, see :func:`sicnn_app.sicnn.noise_floor.without_floor`. If
    the settings ask for it, this is done for voxels whose S0 is above :data:`FLOOR_LIMIT` times the noise and
    that have :data:`LEAST_FOR_FLOOR` similar ones. It holds for arithmetic means over volumes.

    The threshold has the shape (slices, X, Y); ``bval_weight``, shape (B,), is that of the own signals in the
    scale. Similar voxels of a sample count as well, wherever they lie.

    Returns
    -------
    means : Tensor, shape (slices, B, X, Y), relative to the normaliser
    counts, around : Tensor
        As :class:`sicnn_app.sicnn.neighbours.NeighbourSums`.
    """
    used = data.weight > 0
    curves, values = compared(parameters, data, bvals, settings)
    radius, similarity, s0 = settings.neighbour_radius, settings.similarity, values[:, -1]
    found = similar_neighbour_sum(curves, values, used, threshold, radius, similarity=similarity, s0=s0)
    if sample is not None:
        add_similar_of_sample(found, curves, used, threshold, radius, sample, similarity=similarity, s0=s0)
    sums, weights, counts, around = found
    means = sums / weights[:, None].clamp_min(EMPTY)
    means, mean_s0 = means[:, :-1], means[:, -1:]
    above_floor = None
    if settings.takes_floor_off_means:
        sigma = (data.sigma * data.normaliser)[:, None].clamp_min(EMPTY)
        above_floor = (mean_s0 > FLOOR_LIMIT * sigma) & (counts[:, None] >= LEAST_FOR_FLOOR)
        means = torch.where(above_floor, without_floor(means / sigma) * sigma, means)
    shapes = means / mean_s0.clamp_min(EMPTY)
    scaled = _own_scale(shapes, data, above_floor, bval_weight) * shapes * used[:, None]
    return scaled, counts, around


def compared(
    parameters: Parameters, data: TrainingData, bvals: Tensor, settings: EstimationSettings
) -> tuple[Tensor, Tensor]:
    """Curves by which voxels are similar, and what is summed over those that are: signals and, last, S0.

    Shapes (slices, B, X, Y) and (slices, B + 1, X, Y); the latter relative to the mean normaliser.
    """
    f, d, dstar, s0 = (value[:, None] for value in parameters)
    curves = ivim_signal_torch(bvals[None, :, None, None], f, d, dstar) * (data.weight > 0)[:, None]
    scale = s0 * data.normaliser[:, None]
    observed = settings.resolved_update_rule == "observed-neighbours"
    signals = data.signals * data.normaliser[:, None] if observed else curves * scale
    return curves, torch.cat([signals, scale], dim=1)


def _own_scale(shapes: Tensor, data: TrainingData, above_floor: Tensor | None, bval_weight: Tensor) -> Tensor:
    """Least-squares scale of the curves against every voxel's own signals, shape (slices, 1, X, Y).

    Where the floor was taken off the curves, what it adds to the scaled curve is taken off the own signals.
    """
    weighted = shapes * bval_weight[None, :, None, None]
    power = (weighted * shapes).sum(dim=1, keepdim=True).clamp_min(EMPTY)
    scale = (data.signals * weighted).sum(dim=1, keepdim=True) / power
    if above_floor is None:
        return scale
    sigma = data.sigma[:, None].clamp_min(EMPTY)
    for _ in range(SCALE_ROUNDS):
        curve = scale.clamp_min(0.0) * shapes
        floor = torch.where(above_floor, rician_mean(curve / sigma) * sigma - curve, 0.0)
        scale = ((data.signals - floor) * weighted).sum(dim=1, keepdim=True) / power
    return scale


def _as_many_at_random(chosen: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Of every b-value as large a share of the mask as chosen, but drawn: the control of the choice.

    The same numbers are drawn in every data iteration: signals that changed each time would never settle.
    """
    inside = mask[:, None].expand_as(chosen)
    share = chosen.sum(dim=(0, 2, 3), keepdim=True) / mask.sum().clamp_min(1)
    drawn = torch.rand(chosen.shape, generator=generator).to(chosen.device)
    return (drawn < share) & inside
