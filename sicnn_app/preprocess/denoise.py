"""Remove noise that repeats nowhere: MP-PCA as in dipy, and its Patch2Self."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.correction import (
    Corrected,
    bounding_box,
    fill_missing,
    holds_data,
    keep_others,
    positive_offset,
)
from sicnn_app.preprocess.local_pca import denoise_patches
from sicnn_app.steps import MIN_PATCH_VOXELS, largest_patch
from sicnn_app.system.memory import empty_series

MAX_GROUP = 64
"""Volumes denoised together; longer series are dealt into groups.

Time per voxel grows with the cube of the volumes and memory with their number; a group of this size holds
several times as many volumes as a decay has degrees of freedom."""

MIN_PATCH2SELF_VOLUMES = 10
"""Fewer volumes do not predict each other; dipy warns below the same number."""

FEW_PATCH2SELF_VOLUMES = 30
"""Below it Patch2Self comes with a warning: with 12 volumes without repeats it made F and D* worse."""

VOXELS_PER_VOLUME = 10
"""Voxels with data that a regression of Patch2Self takes per volume, so that it cannot fit the noise."""


def correct(series: DwiSeries, *, kind: str, **_others: Any) -> Corrected:
    """Denoise the whole series by ``mppca`` or ``patch2self``.

    MP-PCA: principal components of local patches that the Marchenko-Pastur law cannot tell from noise
    are dropped. The patch is the smallest with at least as many voxels as volumes; it is thinner along
    axes that are too short for it, down to a single slice. Patch2Self: every volume is predicted from
    all others by a linear regression over the voxels, volumes at low b like any other; being one for the
    whole image, it distorts the decay of tissues that fill few voxels.

    More than :data:`MAX_GROUP` volumes, or more than a small image allows, are dealt into groups by
    b-value, so that each spans the whole decay, and the groups are denoised one by one.

    Values that are not finite stay as they are; while denoising, the nearest finite voxel of the volume
    stands in for them. Voxels that are 0 in every volume stay 0. An image without negative values stays
    without. Neither method corrects the noise floor of magnitude images: what averages to the Rician
    mean still does.

    The noise that is left is no longer independent between volumes: its level cannot be taken from
    differences of repeats or from what a smooth decay leaves over.

    Raises
    ------
    DataError
        When the image has too few voxels or volumes for the method.

    References
    ----------
    MP-PCA: Veraart et al., NeuroImage 2016;142:394-406. Patch2Self: Fadnavis et al., NeurIPS 2020.
    """
    inside = np.zeros(series.signals.shape[:3], dtype=bool)
    for volume in range(series.bvals.size):
        inside |= holds_data(series.signals[..., volume])
    if not inside.any():
        raise DataError("no voxel has data to denoise: use --denoise none")
    run = {"mppca": _mppca, "patch2self": _patch2self}[kind]
    signals, record, notes = run(series, inside)
    mean, mean_square = keep_others(signals, series.signals, inside)
    record |= {
        "VoxelsDenoised": int(inside.sum()),
        "ResidualMean": mean,
        "ResidualStandardDeviation": float(np.sqrt(max(mean_square - mean**2, 0.0))),
    }
    return Corrected(replace(series, signals=signals), record, notes)


def _patch_radius(shape: tuple[int, int, int], voxels: int) -> np.ndarray:
    """Half width per axis of the smallest patch with at least so many voxels, shape (3,), int."""
    most = (np.array(shape) - 1) // 2
    radius = np.zeros(3, dtype=int)
    while np.prod(2 * radius + 1) < voxels and (radius < most).any():
        radius = np.minimum(radius + 1, most)
    return radius


def _groups(bvals: np.ndarray, most: int) -> list[np.ndarray]:
    """Deal the volumes, in the order of their b-values, into groups of at most so many.

    Groups of neighbouring b-values would look cleaner, but hardly more so than the average over repeats that
    comes later: on the phantom (74 volumes, SNR 15) the error of D* was 0.020 instead of 0.008 mm^2/s.
    """
    count = -(-bvals.size // most)
    order = np.argsort(bvals, kind="stable")
    return [np.sort(order[first::count]) for first in range(count)]


def _mppca(series: DwiSeries, inside: np.ndarray) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """MP-PCA of the voxels inside; signals outside are arbitrary."""
    room = largest_patch(inside.shape)
    if room < MIN_PATCH_VOXELS:
        size = " x ".join(map(str, inside.shape))
        raise DataError(
            f"an image of {size} voxels is too small for MP-PCA, which needs a patch of {MIN_PATCH_VOXELS} "
            "voxels: use --denoise none"
        )
    groups = _groups(series.bvals, min(MAX_GROUP, room))
    radius = _patch_radius(inside.shape, max(MIN_PATCH_VOXELS, groups[0].size))
    box = bounding_box(inside, 2 * radius)
    # dipy centres patches on voxels of its mask that have room for one: at the border the nearest such
    # voxel stands in, so that every voxel inside belongs to a patch.
    shape = inside[box].shape
    centres = np.zeros(shape, dtype=bool)
    centres[tuple(np.clip(np.argwhere(inside[box]), radius, np.array(shape) - 1 - radius).T)] = True

    signals = empty_series(series.signals.shape, like=series.signals)
    variances = []
    for group in groups:
        noisy = np.stack([fill_missing(series.signals[(*box, volume)]) for volume in group], axis=3)
        # dipy clips at 0. The patches' means are taken out first, so an offset changes nothing else.
        offset = positive_offset(noisy)
        clean, sigma = denoise_patches(noisy + offset, inside[box] | centres, radius)
        signals[(*box, group)] = clean - offset
        # Patches without any noise have a level of NaN.
        variances.append(np.median(np.nan_to_num(sigma[inside[box]]) ** 2))
    size = (2 * radius + 1).tolist()
    record = {
        "Description": "Principal components of local patches below the Marchenko-Pastur limit removed "
        f"(MP-PCA), patches of {' x '.join(map(str, size))} voxels{_in_groups(groups)}",
        "Method": "mppca",
        "PatchSize": size,
        "VolumeGroups": len(groups),
        "NoiseStandardDeviationRemoved": float(np.sqrt(np.mean(variances))),
    }
    return signals, record, []


def _patch2self(series: DwiSeries, inside: np.ndarray) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """Patch2Self of the voxels inside; signals outside are arbitrary."""
    volumes, voxels = series.bvals.size, int(inside.sum())
    if volumes < MIN_PATCH2SELF_VOLUMES:
        raise DataError(
            f"Patch2Self needs at least {MIN_PATCH2SELF_VOLUMES} volumes, there are {volumes}: "
            "use --denoise mppca or none"
        )
    groups = _groups(series.bvals, max(1, min(MAX_GROUP, voxels // VOXELS_PER_VOLUME)))
    if groups[-1].size < MIN_PATCH2SELF_VOLUMES:
        raise DataError(
            f"Patch2Self needs {VOXELS_PER_VOLUME} voxels with data per volume, there are {voxels} for "
            f"{volumes} volumes: use --denoise none"
        )
    signals = empty_series(series.signals.shape, like=series.signals)
    for group in groups:
        noisy = np.stack([fill_missing(series.signals[..., volume])[inside] for volume in group], axis=1)
        clean = _predict_from_the_others(noisy)
        for volume, values in zip(group, clean.T, strict=True):
            signals[inside, volume] = values if noisy.min() < 0 else np.maximum(values, 0.0)
    record = {
        "Description": "Every volume predicted from the others by linear regression over the voxels "
        f"(Patch2Self){_in_groups(groups)}",
        "Method": "patch2self",
        "PatchSize": [1, 1, 1],
        "VolumeGroups": len(groups),
    }
    note = (
        f"Patch2Self was used on {volumes} volumes: below about {FEW_PATCH2SELF_VOLUMES}, above all "
        "without repeats, it distorts the decay; --denoise mppca is safer"
    )
    return signals, record, [note] if volumes < FEW_PATCH2SELF_VOLUMES else []


def _predict_from_the_others(signals: np.ndarray) -> np.ndarray:
    """Ordinary least squares of every volume on the others, by dipy; shape (M, N), float64."""
    from dipy.denoise.patch2self import patch2self
    from scipy.linalg import LinAlgWarning

    spread = float(signals.std())
    if spread == 0:
        return signals
    # Version 1 of dipy 1.12 subtracts the mean of the regressors in place and predicts from what is left, so
    # the means go out before; version 3 (its default) draws an unseeded sketch and misplaces volumes when
    # their number is no multiple of 5. The scale keeps its ridge of 1e-10 negligible in any unit.
    means = signals.mean(axis=0)
    scale = 2.0 ** round(math.log2(spread))
    voxels, volumes = signals.shape
    rows = -(-voxels // 4)
    # An image of any shape does, without axes of one voxel, which dipy squeezes away. A volume of its own
    # below the b0 threshold makes all others one group: split in two, a single b = 0 is not denoised.
    block = np.zeros((rows, 2, 2, volumes + 1))
    block[..., 1:] = ((signals - means) / scale)[np.arange(4 * rows) % voxels].reshape(rows, 2, 2, volumes)
    bvals = np.concatenate([[0.0], np.full(volumes, 1000.0)])
    with warnings.catch_warnings():
        # Volumes that repeat each other exactly; the solver falls back by itself.
        warnings.simplefilter("ignore", LinAlgWarning)
        clean = patch2self(block, bvals, b0_threshold=50, version=1)
    return clean[..., 1:].reshape(4 * rows, volumes)[:voxels] * scale + means


def _in_groups(groups: list[np.ndarray]) -> str:
    return f", {len(groups)} groups of up to {groups[0].size} volumes each" if len(groups) > 1 else ""
