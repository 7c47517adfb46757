"""Motion between the volumes of a series: rigid or affine, in 3-D or within slices, with dipy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.correction import (
    Corrected,
    NotPossible,
    Progress,
    fill_missing,
    find_slice_axis,
    slice_axis_record,
)
from sicnn_app.preprocess.registration import align, displacements, most_typical, moved
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import motion_obstacle
from sicnn_app.system.memory import empty_series

MIN_SLICES = 7
"""With fewer slices, motion through them changes mostly what was not imaged: it cannot be estimated."""

REFERENCE_MAX_BVAL = 50.0
"""s/mm^2; up to it the contrast is that of the lowest b-value but for the blood."""

OUTSIDE = 1.0
"""Voxels beyond the outermost voxel centres up to which the edge value is taken; NaN further out. With
half a voxel, the first and last of a few thick slices would be lost to every small motion."""

SPHERE_RADIUS = 50.0
"""mm; turns rotations into displacements (Power et al., NeuroImage 2012;59:2142-2154)."""

WITHIN_PLANE = np.ix_([0, 1, 3], [0, 1, 3])
"""Where the matrix of a slice stands in that of the volume."""

INTERPOLATION = (
    "Cubic splines, once per volume, clipped to the volume's range; not interpolated where nothing moved; "
    "not a number more than one voxel outside the field of view"
)


def correct(
    series: DwiSeries, *, kind: str, settings: PreprocessingSettings, progress: Progress | None = None
) -> Corrected:
    """Bring every volume to one position by ``rigid`` or ``affine`` transforms.

    The position is that of the volume of the lowest b-value most like the mean of that b-value; how others
    are found and accepted: :func:`sicnn_app.preprocess.registration.align`. In 3-D with :data:`MIN_SLICES`
    slices or more, with fewer within the plane of the first two axes, all slices of a volume together, or
    every slice of a volume by itself (``per_slice``). Volumes that did not move are returned bit by bit.
    Directions turn with their volume (with the rotation nearest to an affine transform; Leemans and Jones,
    Magn Reson Med 2009;61:1336-1349), except per slice, where a volume has no single rotation.

    Returns
    -------
    Corrected
        ``motion`` has one row per volume: ``volume``, ``b_value``, ``trans_x``, ``trans_y``, ``trans_z``
        (mm), ``rot_x``, ``rot_y``, ``rot_z`` (degrees), ``framewise_displacement`` (mm): where the volume
        lay relative to the reference, about the centre of the volume, along the axes of the world. Means
        over slices when every slice was corrected by itself.

    Raises
    ------
    NotPossible
        When motion cannot be estimated.
    """
    *grid, count = series.signals.shape
    across = find_slice_axis(tuple(grid), series.slice_axis)
    slices = grid[across]
    if obstacle := motion_obstacle(tuple(grid), count, across):
        raise NotPossible(obstacle, left="motion was not corrected", Kind="none")
    per_slice = settings.per_slice
    affine = _usable(series.affine)
    # From here to the matrices with the slices along the last axis.
    order = _swapped(across)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)[order[:3]]
    in_plane = per_slice or slices < MIN_SLICES
    nominal, groups = group_bvalues(series.bvals)
    reference_groups = max(1, int((nominal <= REFERENCE_MAX_BVAL).sum()))
    parts = slices if per_slice else 1
    registered = itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress("Motion correction", next(registered), parts * (count - 1))

    filled = _without_gaps(series.signals, across)
    matrices = np.tile(np.eye(4), (parts, count, 1, 1))
    size = np.zeros((parts, count))
    lowest = np.flatnonzero(groups == 0)
    reference = int(lowest[most_typical(filled[..., lowest])])
    failed = []
    flat = per_slice or slices == 1
    for part in range(parts):
        found = align(
            filled[:, :, part] if flat else filled,
            groups,
            reference=reference,
            reference_groups=reference_groups,
            zooms=zooms[:2] if flat else zooms,
            kind=kind,
            in_plane=in_plane,
            progress=step,
        )
        matrices[part] = [_in_three_dimensions(matrix) for matrix in found.matrices]
        failed += [(part, volume) for volume in found.failed]
        if found.object_voxels.size:
            shifts = [displacements(matrix, found.object_voxels) for matrix in found.matrices]
            scale = zooms[: found.object_voxels.shape[0], None]
            size[part] = [np.linalg.norm(shift * scale, axis=0).mean() for shift in shifts]

    signals = empty_series(series.signals.shape, like=series.signals)
    still = (matrices == np.eye(4)).all(axis=(0, 2, 3))
    outside = 0
    for volume, unmoved in enumerate(still):
        values = series.signals[..., volume]
        if unmoved:
            signals[..., volume] = values
            continue
        new, lost = _resampled(
            np.swapaxes(values, across, 2), filled[..., volume], matrices[:, volume], in_plane=in_plane
        )
        signals[..., volume] = np.swapaxes(new, across, 2)
        outside += lost
    matrices = matrices[:, :, order][..., order]
    bvecs = series.bvecs
    if turn := bvecs is not None and not per_slice:
        bvecs = _turned(bvecs, matrices[0], affine)
    record = {
        "Description": _describe(kind, per_slice=per_slice, in_plane=in_plane, slices=slices),
        "DirectionsRotated": turn,
        "Kind": kind,
        "PerSlice": per_slice,
        **slice_axis_record(series),
        "Reference": f"Mean of the aligned volumes at b <= {nominal[reference_groups - 1]:g} s/mm^2, "
        "in the position of the volume of the lowest b-value most like the mean of that b-value",
        "ReferenceVolume": int(series.source_volumes[reference]),
        "Similarity": "Mutual information; a motion is accepted when it explains the volume better than none "
        "(Bayesian information criterion)",
        "Interpolation": INTERPOLATION,
        "VolumesMoved": int((~still).sum()),
        "RegistrationsRejected": len(failed),
        "MeanDisplacement": float(size.mean()),
        "LargestDisplacement": float(size.max()),
        "ValuesOutsideFieldOfView": outside,
        "FramewiseDisplacement": "Sum of the absolute changes since the volume before, rotations on a "
        f"sphere of {SPHERE_RADIUS:g} mm (Power et al. 2012)",
    }
    return Corrected(
        replace(series, signals=signals, bvecs=bvecs),
        record,
        warnings=_warnings(series, failed, per_slice=per_slice),
        motion=_rows(series, matrices, affine),
    )


def _usable(affine: np.ndarray) -> np.ndarray:
    """The affine, or unit voxels where it cannot be inverted."""
    linear = affine[:3, :3]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(linear) < 3:
        return np.eye(4)
    return np.asarray(affine, dtype=np.float64)


def _swapped(across: int) -> list[int]:
    """Order of the axes of a voxel-to-voxel matrix that swaps one with the last of the image, and back."""
    order = [0, 1, 2, 3]
    order[across], order[2] = 2, across
    return order


def _without_gaps(signals: np.ndarray, across: int) -> np.ndarray:
    """Signals with the nearest finite value of the volume in place of those that are not finite.

    The axis ``across`` the slices is swapped with the last one of the image.
    """
    volumes = range(signals.shape[-1])
    if across == 2 and all(np.isfinite(signals[..., volume]).all() for volume in volumes):
        return signals
    x, y, z, count = (signals.shape[axis] for axis in _swapped(across))
    filled = empty_series((x, y, z, count), like=signals)
    for volume in volumes:
        filled[..., volume] = np.swapaxes(fill_missing(signals[..., volume]), across, 2)
    return filled


def _in_three_dimensions(matrix: np.ndarray) -> np.ndarray:
    """Voxel-to-voxel matrix of a slice as one of the volume; shape (4, 4)."""
    if matrix.shape == (4, 4):
        return matrix
    full = np.eye(4)
    full[WITHIN_PLANE] = matrix
    return full


def _resampled(
    values: np.ndarray, filled: np.ndarray, matrices: np.ndarray, *, in_plane: bool
) -> tuple[np.ndarray, int]:
    """One volume in its new position, and how many of its voxels came from outside the field of view."""
    if not in_plane:
        return _one_resampled(values, filled, matrices[0])
    result = np.empty_like(values)
    lost = 0
    for z in range(values.shape[2]):
        matrix = matrices[z if len(matrices) > 1 else 0][WITHIN_PLANE]
        result[:, :, z], outside = _one_resampled(values[:, :, z], filled[:, :, z], matrix)
        lost += outside
    return result, lost


def _one_resampled(values: np.ndarray, filled: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, int]:
    dims = values.ndim
    if np.array_equal(matrix, np.eye(dims + 1)):
        return values, 0
    result = moved(filled, matrix).astype(values.dtype)
    outside = np.zeros(values.shape, dtype=bool)
    grid = np.ogrid[tuple(slice(0, size) for size in values.shape)]
    for axis, size in enumerate(values.shape):
        source = matrix[axis, dims] + sum(matrix[axis, k] * grid[k] for k in range(dims))
        outside |= (source < -OUTSIDE) | (source > size - 1 + OUTSIDE)
    result[outside] = np.nan
    gaps = ~np.isfinite(values)
    if gaps.any():
        share = ndimage.affine_transform(
            gaps.astype(np.float64), matrix[:dims, :dims], matrix[:dims, dims], order=1, mode="nearest"
        )
        result[share > 0.5] = np.nan
    return result, int(outside.sum())


def _world(matrices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel-to-voxel matrices as world-to-world ones."""
    return affine @ matrices @ np.linalg.inv(affine)


def _rotation(linear: np.ndarray) -> np.ndarray:
    """The rotation nearest to a matrix (finite strain), shape (..., 3, 3)."""
    left, _, right = np.linalg.svd(linear)
    return left @ right


def _turned(bvecs: np.ndarray, matrices: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Directions as the tissue in the reference position saw them, shape (N, 3).

    A .bvec file gives directions along the image axes, the first one reversed when the determinant of the
    affine is positive (BIDS, after FSL). Tissue turned by R met the direction g as R^-1 g of its own frame.
    """
    axes = _rotation(affine[:3, :3]) @ np.diag([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1.0, 1.0])
    turned = np.array(bvecs, dtype=np.float64)
    for volume, matrix in enumerate(_world(matrices, affine)):
        if not np.array_equal(matrices[volume], np.eye(4)):
            turned[volume] = axes.T @ _rotation(matrix[:3, :3]).T @ axes @ turned[volume]
    return turned


def _rows(series: DwiSeries, matrices: np.ndarray, affine: np.ndarray) -> list[dict[str, Any]]:
    centre = (affine @ np.append((np.array(series.signals.shape[:3]) - 1) / 2, 1.0))[:3]
    world = _world(matrices, affine)
    translations = world[..., :3, :3] @ centre + world[..., :3, 3] - centre
    rotations = Rotation.from_matrix(_rotation(world[..., :3, :3]).reshape(-1, 3, 3)).as_euler("xyz")
    rotations = rotations.reshape(translations.shape)
    # Volumes are in the order of acquisition only by their index in the source image.
    order = np.argsort(series.source_volumes, kind="stable")
    steps = np.abs(np.diff(translations[:, order], axis=1)).sum(axis=2)
    steps = steps + SPHERE_RADIUS * np.abs(np.diff(rotations[:, order], axis=1)).sum(axis=2)
    framewise = np.zeros(order.size)
    framewise[order[1:]] = steps.mean(axis=0)
    columns = {
        "volume": series.source_volumes,
        "b_value": series.bvals,
        **dict(zip(("trans_x", "trans_y", "trans_z"), translations.mean(axis=0).T, strict=True)),
        **dict(zip(("rot_x", "rot_y", "rot_z"), np.rad2deg(rotations.mean(axis=0)).T, strict=True)),
        "framewise_displacement": framewise,
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _describe(kind: str, *, per_slice: bool, in_plane: bool, slices: int) -> str:
    name = kind.capitalize()
    if per_slice:
        return f"{name} registration within the plane, every slice of a volume by itself"
    if in_plane:
        return f"{name} registration within the plane, {slices} slices of a volume together: too few for 3-D"
    return f"{name} registration in 3-D"


def _warnings(series: DwiSeries, failed: list[tuple[int, int]], *, per_slice: bool) -> list[str]:
    if not failed:
        return []
    names = [
        f"{series.source_volumes[volume]}" + (f" (slice {part})" if per_slice else "")
        for part, volume in sorted(failed, key=lambda item: (item[1], item[0]))
    ]
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return [
        f"motion correction failed (implausible, or explains the volume no better than no motion) "
        f"and was not applied: volumes {shown} (counted from 0)"
    ]
