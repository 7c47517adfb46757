"""Mean signals of the voxels that an estimate finds similar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.neighbours import Sample
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.rewrite import VOXELS_AT_ONCE, compared, neighbour_mean, threshold_map
from sicnn_app.sicnn.train import TrainingData

SAMPLED = 2048
"""Voxels of the whole mask that every voxel is compared with, beside those of its window. With 500 errors of
F of organs are 7 % larger than with all 2,300 voxels of a phantom."""


def similar_means(
    maps: dict[str, np.ndarray],
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    sigma: float,
    noise: np.ndarray,
    settings: EstimationSettings,
    unit: np.ndarray | None = None,
    in_common: np.ndarray | float = 0.0,
    sampled: int = SAMPLED,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean signals of similar voxels, in every voxel's own scale.

    Similar are voxels of the search window, and of a sample of the whole mask, the same for all. All that are
    similar weigh the same, so that the noise of their mean is known.

    Parameters
    ----------
    maps : dict of str to ndarray, shape (X, Y, Z)
        f, d, dstar and s0, which tell what is similar.
    signals : ndarray, shape (X, Y, Z, B), units of the source image
    mask : ndarray, shape (X, Y, Z), bool
    bvals : ndarray, shape (B,), s/mm^2
    sigma : float
        Noise of a single volume.
    noise : ndarray, shape (X, Y, Z, B) or (B,)
        Of the signals.
    settings : EstimationSettings
        Its neighbour threshold, radius and similarity, but for the weighting.
    unit : ndarray, shape (X, Y, Z, B) or (B,), optional
        Noise that thresholds in sigma are a multiple of; by default that of the signals.
    in_common : ndarray, shape (X, Y, Z), or float
        Share of the variance of their noise that neighbours have in common: no mean lowers it.
    sampled : int
        Voxels of the sample; 0 for those of the window alone.

    Returns
    -------
    means, noise : ndarray, shape (X, Y, Z, B), float32
        The latter is that of the means.
    count : ndarray, shape (X, Y, Z), int32
        Similar voxels that were averaged.
    """
    settings = replace(settings, similarity=replace(settings.similarity, weighting="equal"))
    box = Box.around(mask)
    data, scale = training_data(signals, box, sigma, noise)
    given = {
        label: torch.from_numpy(np.nan_to_num(box.cut(maps[label]))).movedim(2, 0).float()
        for label in PARAMETERS
    }
    # Outside of the mask nothing is divided by.
    given["s0"] = torch.where(data.mask, given["s0"] / scale.clamp_min(torch.finfo(scale.dtype).tiny), 1.0)
    parameters = Parameters(**given)
    limit = threshold_map(
        settings.resolved_neighbour_threshold, _relative(noise if unit is None else unit, box, scale)
    )
    b, weight = torch.tensor(bvals, dtype=torch.float32), torch.ones(len(bvals))
    sample = _sample(parameters, data, limit, b, settings, sampled) if sampled else None
    means, count = torch.empty_like(data.signals), torch.empty_like(data.sigma)
    at_once = max(1, VOXELS_AT_ONCE // data.mask[0].numel())
    for start in range(0, len(data.mask), at_once):
        some = slice(start, start + at_once)
        means[some], count[some], _ = neighbour_mean(
            Parameters(*(values[some] for values in parameters)),
            data.slices(some),
            b,
            limit[some],
            weight,
            settings,
            sample and sample.from_slice(start),
        )
    common = torch.from_numpy(box.cut(np.broadcast_to(np.float32(in_common), mask.shape))).movedim(2, 0)
    left = (1.0 / count.clamp_min(1.0) + common).sqrt()
    # In place: whole images of all b-values are large.
    means *= scale[:, None]
    remaining = data.noise.mul_((left * scale)[:, None])
    del data
    return (
        box.put_back(means.movedim(1, -1), 0.0, np.float32),
        box.put_back(remaining.movedim(1, -1), 0.0, np.float32),
        box.put_back(count, 0, np.int32),
    )


def _relative(noise: np.ndarray, box: Box, scale: Tensor) -> Tensor:
    """Root mean square of noise over b, relative to the normaliser, shape (slices, X, Y)."""
    square = np.square(noise if noise.ndim == 1 else box.cut(noise), dtype=np.float32).mean(axis=-1)
    level = torch.from_numpy(np.sqrt(np.broadcast_to(square, box.shape))).movedim(2, 0)
    return level / torch.where(scale > 0, scale, torch.inf)


def _sample(
    parameters: Parameters,
    data: TrainingData,
    limit: Tensor,
    bvals: Tensor,
    settings: EstimationSettings,
    size: int,
) -> Sample:
    """Of the mask, the same voxels for every estimate of an image."""
    places = torch.nonzero(data.weight > 0)
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:size]
    places = places[drawn.sort().values]
    slices, x, y = places.T

    def taken(values: Tensor) -> Tensor:
        return values[slices, ..., x, y][..., None, None]

    curves, values = compared(
        Parameters(*map(taken, parameters)), TrainingData(*map(taken, data)), bvals, settings
    )
    curves, values = curves[..., 0, 0], values[..., 0, 0]
    return Sample(curves, values, limit[slices, x, y], values[:, -1], places)
