"""An ensemble: what its members are trained on, and what they say together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sicnn_app.ivim.flags import at_bounds
from sicnn_app.ivim.resampling import Resample
from sicnn_app.settings import Bounds, EstimationSettings
from sicnn_app.sicnn.cropping import Box, cropped_data
from sicnn_app.sicnn.iterate import IterationResult
from sicnn_app.sicnn.loss import ForwardModel
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.train import TrainingData

STRENGTH = 0.5
"""Share of the noise that is drawn anew. With all of it the members would see what an SNR lower by sqrt(2)
gives."""

SPREAD_FACTOR = {"f": 3.1, "d": 3.4, "dstar": 2.3}
"""Of the standard deviation over the members that is written, so that the truth lies within one of it in 68 %
of the voxels: found by benchmarks/accuracy/calibration.py on a phantom, shown on others in
docs/uncertainty.md."""


def ensemble_data(
    signals: np.ndarray,
    box: Box,
    sigma: float,
    noise: np.ndarray,
    settings: EstimationSettings,
    resample: Resample,
) -> tuple[TrainingData, Tensor]:
    """Data that the members are trained on, all slices of the first one first, and their normalisers.

    Every member sees the measured signals plus :data:`STRENGTH` times what a draw differs from them. What all
    draws together differ is taken off: the mean over the members then holds no noise besides that of the
    measurement, and their standard deviation stays that of the draws. Signals at the lowest b-value that
    would not be positive, which nothing can be divided by, stay as measured.

    Arguments are as for :func:`sicnn_app.sicnn.cropping.training_data`; the normalisers have the shape
    (members * slices, box X, box Y).
    """
    measured = box.cut(signals)
    drawn = [
        box.cut(resample(np.random.default_rng((settings.random_seed, member)))) - measured
        for member in range(settings.ensemble)
    ]
    common = sum(drawn) / len(drawn)
    noise = noise if noise.ndim == 1 else box.cut(noise)
    found = []
    while drawn:
        seen = (measured + STRENGTH * (drawn.pop(0) - common)).astype(np.float32)
        lowest = seen[..., 0]
        lowest[lowest <= 0] = measured[..., 0][lowest <= 0]
        found.append(cropped_data(seen, box.cut(box.mask), sigma, noise))
    parts, scales = zip(*found, strict=True)
    return TrainingData(*map(torch.cat, zip(*parts, strict=True))), torch.cat(scales)


def together(
    result: IterationResult,
    scales: Tensor,
    members: int,
    measured: TrainingData,
    scale: Tensor,
    forward_model: ForwardModel,
    bounds: Bounds,
) -> tuple[dict[str, Tensor], Tensor, Tensor | None, Tensor | None]:
    """Means and standard deviations over the members, and how well the means explain the measured signals.

    Parameters
    ----------
    result : IterationResult
        Of members * slices, on the CPU.
    scales : Tensor, shape (members * slices, X, Y), source units
        Normalisers of what the members were trained on.
    scale : Tensor, shape (slices, X, Y), source units
        Normaliser of the signals as measured.

    Returns
    -------
    maps : dict of str to Tensor, shape (slices, X, Y)
        Means over the members of f, d, dstar and s0, the rmse of the signals that these predict, and with
        several members ``f_std`` and so on, the standard deviations over them times
        :data:`SPREAD_FACTOR`; S0 in source units.
    predicted : Tensor, shape (slices, B, X, Y), source units
        Signals that the mean maps predict.
    neighbour_count : Tensor, shape (slices, X, Y), or None
        Mean over the members, rounded.
    at_bound : Tensor, shape (slices, X, Y), bool, or None
        Where at least half of the members have a parameter at a bound; None for one network.
    """
    usable = scale > 0
    split = {
        label: torch.unflatten(values, 0, (members, -1))
        for label, values in {**result.parameters._asdict(), "s0": result.parameters.s0 * scales}.items()
    }
    maps = {label: values.mean(dim=0) for label, values in split.items()}
    predicted, relative_s0, count = result.predicted, result.parameters.s0, result.neighbour_count
    at_bound = None
    if members > 1:
        relative_s0 = torch.where(usable, maps["s0"] / torch.where(usable, scale, 1.0), 1.0)
        means = Parameters(maps["f"], maps["d"], maps["dstar"], relative_s0)
        predicted = forward_model(means, measured.sigma) * measured.mask[:, None]
        maps |= {f"{label}_std": factor * split[label].std(dim=0) for label, factor in SPREAD_FACTOR.items()}
        at_bound = _members_at_bound(result.parameters, measured.mask, bounds, members)
    maps["rmse"] = (predicted - measured.signals).square().mean(dim=1).sqrt() / relative_s0
    if count is not None:
        count = torch.unflatten(count, 0, (members, -1)).mean(dim=0).round()
    return maps, predicted * scale[:, None], count, at_bound


def _members_at_bound(parameters: Parameters, mask: Tensor, bounds: Bounds, members: int) -> Tensor:
    """Where at least half of the members have a parameter at a bound, shape (slices, X, Y)."""
    one, everywhere = np.ones(1), mask.numpy()
    found = [
        at_bounds(dict(zip(Parameters._fields, member, strict=True)), everywhere, vars(bounds), one)
        for member in zip(
            *(values.numpy().reshape(members, *mask.shape) for values in parameters), strict=True
        )
    ]
    return torch.from_numpy(2 * np.sum(found, axis=0) >= members) & mask


def ensemble_parameters(settings: EstimationSettings) -> dict[str, Any]:
    """Entries of a sidecar about the ensemble."""
    if settings.ensemble == 1:
        return {"ensemble": 1}
    found = {"ensemble": settings.ensemble, "ensemble_resampling_strength": STRENGTH}
    if settings.resolved_refinement == "none":
        found["ensemble_spread_factor"] = dict(SPREAD_FACTOR)
    return found
