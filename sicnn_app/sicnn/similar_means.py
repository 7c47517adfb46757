"""Mean signals of the voxels that an estimate finds similar."""

from __future__ import annotations

import numpy as np
import torch

from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.rewrite import VOXELS_AT_ONCE, neighbour_mean, threshold_map


def similar_means(
    maps: dict[str, np.ndarray],
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    sigma: float,
    noise: np.ndarray,
    settings: EstimationSettings,
    in_common: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean signals of similar voxels, in every voxel's own scale.

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
    settings : EstimationSettings
        Its neighbour threshold, radius and similarity, as :func:`sicnn_app.sicnn.rewrite.neighbour_mean`.
    in_common : ndarray, shape (X, Y, Z), or float
        Share of the variance of their noise that neighbours have in common: no mean lowers it.

    Returns
    -------
    means, noise : ndarray, shape (X, Y, Z, B), float32
        The latter is that of the means.
    count : ndarray, shape (X, Y, Z), int32
        Similar voxels that were averaged.
    """
    box = Box.around(mask)
    data, scale = training_data(signals, box, sigma, noise)
    given = {
        label: torch.from_numpy(np.nan_to_num(box.cut(maps[label]))).movedim(2, 0).float()
        for label in PARAMETERS
    }
    # Outside of the mask nothing is divided by.
    given["s0"] = torch.where(data.mask, given["s0"] / scale.clamp_min(torch.finfo(scale.dtype).tiny), 1.0)
    means, count = torch.empty_like(data.signals), torch.empty_like(data.sigma)
    at_once = max(1, VOXELS_AT_ONCE // data.mask[0].numel())
    b, weight = torch.tensor(bvals, dtype=torch.float32), torch.ones(len(bvals))
    for start in range(0, len(data.mask), at_once):
        some = slice(start, start + at_once)
        part = data.slices(some)
        means[some], count[some], _ = neighbour_mean(
            Parameters(**{label: values[some] for label, values in given.items()}),
            part,
            b,
            threshold_map(settings.resolved_neighbour_threshold, part.noise.square().mean(dim=1).sqrt()),
            weight,
            settings,
        )
    common = torch.from_numpy(box.cut(np.broadcast_to(np.float32(in_common), mask.shape))).movedim(2, 0)
    left = (1.0 / count.clamp_min(1.0) + common).sqrt()
    # In place: whole images of all b-values are large.
    means *= scale[:, None]
    remaining = data.noise.mul_((left * scale)[:, None])
    del data, part
    return (
        box.put_back(means.movedim(1, -1), 0.0, np.float32),
        box.put_back(remaining.movedim(1, -1), 0.0, np.float32),
        box.put_back(count, 0, np.int32),
    )
