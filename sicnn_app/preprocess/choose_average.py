"""Choice of the average: by signal where volumes differ by motion, over directions where by anisotropy."""

from __future__ import annotations

import numpy as np

from sicnn_app.ivim.local_mean import local_mean
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.average import LOCAL, LOWEST_LEVEL, group_volumes

TISSUE_BVAL = 200.0
"""s/mm^2; from here on directions differ by anisotropy, below it rather by flow."""

ANISOTROPIC = 6.0
"""Ratio of :func:`anisotropy` above which directions differ by more than motion: 0.5 to 2.8 in measured
abdomens, 34 to 46 in a measured cord."""

MAX_JUDGED_VOXELS = 2000
"""Evenly spaced voxels in which :func:`anisotropy` is looked for."""


def choose_average(requested: str, series: DwiSeries, mask: np.ndarray, anatomy: str) -> tuple[str, str]:
    """Way of averaging, and what decided it: the value of ``--average``, or the data.

    Weights by the signal favour the directions in which tissue diffuses least, and D gets too low. Directions
    are therefore averaged geometrically in the brain, and wherever :func:`anisotropy` finds that they differ.
    """
    if requested != "auto":
        return requested, f"--average {requested}"
    if anatomy == "brain":
        return "geometric", "automatic: in a brain directions differ by anisotropy"
    ratio = anisotropy(series, mask)
    if ratio is None:
        return "robust", "automatic: organs move, and too few volumes tell whether directions differ"
    found = f"(ratio {ratio:.2g}, {ANISOTROPIC:g} would be anisotropy)"
    if ratio > ANISOTROPIC:
        return "geometric", f"automatic: the same directions differ at every b-value {found}"
    return "robust", f"automatic: organs move, and volumes differ as motion does, without order {found}"


def anisotropy(series: DwiSeries, mask: np.ndarray) -> float | None:
    """How much more of the differences within a b-value is due to directions than to chance.

    The logarithms of the local levels, less their mean at each b-value, are fitted by -b a: a trace-free
    tensor a where there are directions, else one number for the first, second, ... volume of every b-value.
    The ratio of explained to unexplained variance, each per degree of freedom, is about 1 for noise; the
    median over voxels. Motion strikes one volume and not a direction at every b-value in proportion to b.

    From :data:`TISSUE_BVAL` on. None when there are not at least 3 b-values with several volumes, or no
    degree of freedom is left.
    """
    groups = group_volumes(series)
    sets = [
        np.sort(np.concatenate(directions))
        for bval, directions in zip(groups.bvals, groups.members, strict=True)
        if bval >= TISSUE_BVAL
    ]
    sets = [volumes for volumes in sets if volumes.size > 1]
    if len(sets) < 3:
        return None
    volumes = np.concatenate(sets)
    places = np.concatenate([np.arange(one.size) for one in sets])
    if series.bvecs is None:
        slopes = np.eye(places.max() + 1)[places]
    else:
        x, y, z = np.nan_to_num(series.bvecs[volumes]).T
        slopes = np.stack([x * x - z * z, y * y - z * z, x * y, x * z, y * z], axis=1)
    inside = np.flatnonzero(mask)
    voxels = np.linspace(0, inside.size - 1, min(inside.size, MAX_JUDGED_VOXELS)).astype(int)
    levels = np.stack([local_mean(series.signals[..., volume], mask, LOCAL)[voxels] for volume in volumes])
    logs = np.log(
        np.maximum(levels, LOWEST_LEVEL * levels.max(axis=0)),
        where=levels.max(axis=0) > 0,
        out=np.zeros_like(levels),
    )
    of_bval = np.repeat(np.eye(len(sets)), [one.size for one in sets], axis=0)

    def differences(values: np.ndarray) -> np.ndarray:
        return values - of_bval @ (of_bval.T @ values / of_bval.sum(axis=0)[:, None])

    directions, sizes, _ = np.linalg.svd(
        differences(slopes * series.bvals[volumes, None]), full_matrices=False
    )
    directions = directions[:, sizes > 1e-6 * sizes.max(initial=0)]
    rank = directions.shape[1]
    freedom = volumes.size - len(sets) - rank
    if rank == 0 or freedom < 1:
        return None
    logs = differences(logs)
    explained = np.square(directions.T @ logs).sum(axis=0)
    rest = np.square(logs).sum(axis=0) - explained
    known = rest > 0
    return float(np.median(explained[known] / rest[known]) * freedom / rank) if known.any() else None
