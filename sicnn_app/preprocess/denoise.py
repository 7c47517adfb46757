"""Remove noise that repeats nowhere: MP-PCA and Patch2Self of dipy."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.corrected import Corrected, Progress, not_done
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS, Situation
from sicnn_app.system.memory import empty_series

MIN_PATCH_VOXELS = 25
"""Voxels of the smallest MP-PCA patch (5 x 5 in a single slice, 3 x 3 x 3 in a volume).

With 9 voxels and 4 volumes noise and signal cannot be told apart: at an SNR of 300 the error of F tripled."""

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


def choose_denoising(
    series: DwiSeries, settings: PreprocessingSettings, situation: Situation
) -> tuple[str, str]:
    """Resolve ``--denoise``: the method (``none``, ``mppca``, ``patch2self``), and what decided it, in words.

    ``auto`` is that of :data:`sicnn_app.steps.STEPS` when the image has room for a patch of MP-PCA, and
    nothing otherwise. Patch2Self is never chosen: it removed no more noise than MP-PCA, and damaged series
    without repeats.
    """
    *shape, volumes = series.signals.shape
    method, reason = STEPS["denoising"].wanted(settings, replace(situation, volumes=volumes))
    if settings.denoise == "auto" and method != "none" and _largest_patch(shape) < MIN_PATCH_VOXELS:
        size = " x ".join(map(str, shape))
        return "none", f"automatic: an image of {size} voxels has no patch of {MIN_PATCH_VOXELS}"
    return method, reason


def correct(
    series: DwiSeries,
    *,
    settings: PreprocessingSettings,
    situation: Situation,
    progress: Progress | None = None,
) -> Corrected:
    """The step of :data:`sicnn_app.steps.STEPS`."""
    method, reason = choose_denoising(series, settings, situation)
    if method == "none":
        return not_done("Denoising", series, reason)
    if progress is not None:
        progress("denoising", 0, 1)
    return denoise(series, method=method).because(reason)


def denoise(series: DwiSeries, *, method: str, mask: np.ndarray | None = None) -> Corrected:
    """Denoise the whole series.

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

    Parameters
    ----------
    series : DwiSeries
    method : {'mppca', 'patch2self'}
    mask : ndarray, shape (X, Y, Z), bool, or None
        Voxels to denoise, the others stay as they are; None: all. Saves time, which grows with the voxels.

    Returns
    -------
    Corrected
        Signals of the same shape, float32. The noise left in it is no longer independent between
        volumes: its level cannot be taken from differences of repeats or from what a smooth decay
        leaves over.

    Raises
    ------
    DataError
        When the image has too few voxels or volumes for the method.

    References
    ----------
    MP-PCA: Veraart et al., NeuroImage 2016;142:394-406. Patch2Self: Fadnavis et al., NeurIPS 2020.
    """
    run = {"mppca": _mppca, "patch2self": _patch2self}[method]
    inside = np.zeros(series.signals.shape[:3], dtype=bool)
    for volume in range(series.bvals.size):
        values = series.signals[..., volume]
        inside |= np.isfinite(values) & (values != 0)
    if mask is not None:
        inside &= mask
    if not inside.any():
        raise DataError("no voxel has data to denoise: use --denoise none")
    signals, record, notes = run(series, inside)
    total = squares = count = 0.0
    for volume in range(series.bvals.size):
        before = series.signals[..., volume]
        changed = inside & np.isfinite(before)
        change = signals[..., volume][changed].astype(np.float64) - before[changed]
        signals[..., volume][~changed] = before[~changed]
        total, squares, count = total + change.sum(), squares + change @ change, count + change.size
    mean = total / count
    return Corrected(
        series=replace(series, signals=signals),
        record={
            "Name": "Denoising",
            **record,
            "VoxelsDenoised": int(inside.sum()),
            "ResidualMean": float(mean),
            "ResidualStandardDeviation": float(np.sqrt(max(squares / count - mean**2, 0.0))),
        },
        warnings=notes,
    )


def fill_missing(volume: np.ndarray) -> np.ndarray:
    """Replace what is not finite by the nearest finite voxel, by 0 when there is none.

    Parameters
    ----------
    volume : ndarray, shape (X, Y, Z)

    Returns
    -------
    ndarray, shape (X, Y, Z), float64
    """
    missing = ~np.isfinite(volume)
    if missing.all():
        return np.zeros(volume.shape)
    if missing.any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        volume = volume[tuple(nearest)]
    return volume.astype(np.float64)


def _largest_patch(shape: tuple[int, ...] | list[int]) -> int:
    """Voxels of the largest patch of odd sides that fits the image."""
    return math.prod(size - 1 + size % 2 for size in shape)


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
    from dipy.denoise.localpca import mppca

    room = _largest_patch(inside.shape)
    if room < MIN_PATCH_VOXELS:
        size = " x ".join(map(str, inside.shape))
        raise DataError(
            f"an image of {size} voxels is too small for MP-PCA, which needs a patch of {MIN_PATCH_VOXELS} "
            "voxels: use --denoise none"
        )
    groups = _groups(series.bvals, min(MAX_GROUP, room))
    radius = _patch_radius(inside.shape, max(MIN_PATCH_VOXELS, groups[0].size))
    box = _box(inside, 2 * radius)
    # dipy centres patches on voxels of its mask that have room for one: at the border the nearest such
    # voxel stands in, so that every voxel inside belongs to a patch.
    shape = inside[box].shape
    centres = np.zeros(shape, dtype=bool)
    centres[tuple(np.clip(np.argwhere(inside[box]), radius, np.array(shape) - 1 - radius).T)] = True

    signals = empty_series(series.signals.shape, like=series.signals)
    variances = []
    for group in groups:
        noisy = np.stack([fill_missing(series.signals[(*box, volume)]) for volume in group], axis=3)
        lowest = noisy.min()
        # dipy clips at 0. The patches' means are taken out first, so an offset changes nothing else.
        offset = float(noisy.max() - 2.0 * lowest) if lowest < 0 else 0.0
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            clean, sigma = mppca(
                noisy + offset,
                mask=inside[box] | centres,
                patch_radius=radius,
                return_sigma=True,
                suppress_warning=True,
            )
        signals[(*box, group)] = clean - offset
        # Patches without any noise have a level of NaN.
        variances.append(np.median(np.nan_to_num(sigma[inside[box]]) ** 2))
    size = (2 * radius + 1).tolist()
    return (
        signals,
        {
            "Description": "Principal components of local patches below the Marchenko-Pastur limit removed "
            f"(MP-PCA), patches of {' x '.join(map(str, size))} voxels{_in_groups(groups)}",
            "Method": "mppca",
            "PatchSize": size,
            "VolumeGroups": len(groups),
            "NoiseStandardDeviationRemoved": float(np.sqrt(np.mean(variances))),
        },
        [],
    )


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
    notes = (
        [
            f"Patch2Self was used on {volumes} volumes: below about {FEW_PATCH2SELF_VOLUMES}, above all "
            "without repeats, it distorts the decay; --denoise mppca is safer"
        ]
        if volumes < FEW_PATCH2SELF_VOLUMES
        else []
    )
    return (
        signals,
        {
            "Description": "Every volume predicted from the others by linear regression over the voxels "
            f"(Patch2Self){_in_groups(groups)}",
            "Method": "patch2self",
            "PatchSize": [1, 1, 1],
            "VolumeGroups": len(groups),
        },
        notes,
    )


def _predict_from_the_others(signals: np.ndarray) -> np.ndarray:
    """Ordinary least squares of every volume on the others, by dipy.

    Parameters
    ----------
    signals : ndarray, shape (M, N), float64

    Returns
    -------
    ndarray, shape (M, N)
    """
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


def _box(inside: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around the voxels inside, wider by a margin per axis where the image goes on."""
    where = np.argwhere(inside)
    low, high = where.min(axis=0) - margin, where.max(axis=0) + margin + 1
    return tuple(
        slice(int(max(first, 0)), int(min(last, size)))
        for first, last, size in zip(low, high, inside.shape, strict=True)
    )


def _in_groups(groups: list[np.ndarray]) -> str:
    return f", {len(groups)} groups of up to {groups[0].size} volumes each" if len(groups) > 1 else ""
