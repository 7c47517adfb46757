"""Where the voxels of an image lie: comparing grids, and what a header leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sicnn_app.errors import DataError

SMALLEST, LARGEST = 1e-6, 1e7
"""Voxel sizes and positions between which an affine makes sense, in whatever unit of length."""

SMALLEST_ZOOM = 1e-6
"""mm, or whatever the header counts in; smaller voxels, and those larger than its inverse, are not told."""

MIN_VOLUME = 1e-3
"""Share of the volume of a box with edges as long that a voxel has; a flat one has none."""

POSITION_FIELDS = {
    "sform": ("sform_code", "srow_x", "srow_y", "srow_z"),
    "qform": ("qform_code", *(f"quatern_{part}" for part in "bcd"), *(f"qoffset_{axis}" for axis in "xyz")),
}
"""Fields of a NIfTI header in which each of its two transforms is stated."""

CODES = nib.nifti1.xform_codes.value_set() - {0}
"""Values of a ``sform_code`` or ``qform_code`` that is set."""

SLICE_AXES = {axis + sign: number for number, axis in enumerate("ijk") for sign in ("", "-")}
"""Axes of an image by what ``SliceEncodingDirection`` may hold."""

GRID_SHARE = 0.1
"""Share of a voxel by which two grids that are meant to be one may differ: programs round affines."""


def grid_shape(image: nib.Nifti1Image) -> tuple[int, int, int]:
    """Spatial shape (X, Y, Z) of an image; a missing axis has length 1."""
    x, y, z = (*image.shape[:3], 1, 1)[:3]
    return x, y, z


def states_orientation(header: nib.Nifti1Header) -> bool:
    """True when the sform or the qform of an image is set."""
    return bool(header["sform_code"] > 0 or header["qform_code"] > 0)


def greatest_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Greatest distance along an axis, mm, between where two affines put a voxel of a grid."""
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape), (1,))).reshape(4, -1)
    return float(np.abs((first - second) @ corners).max())


def same_grid(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """True when two affines put the voxels of a grid at the same places, to :data:`GRID_SHARE` of a voxel."""
    smallest = nib.affines.voxel_sizes(second).min()
    return greatest_distance(first, second, shape) <= GRID_SHARE * smallest


def settle_position(path: Path, header: nib.Nifti1Header) -> list[str]:
    """Take out of a header what cannot be used of its position, so that every program reads the same one.

    A transform that is singular, not finite or of impossible size loses its code and its numbers; voxel sizes
    that are none become those of the sform. ``header`` is as it stands in the file, and is changed. Returns
    what was taken out, one line each; raises DataError when nothing is left.
    """
    pixdim, dim = header["pixdim"], header["dim"]
    # What is missing gets its default: a handedness, and a size along an axis of one voxel.
    pixdim[0] = -1 if pixdim[0] < 0 else 1
    single = (dim[1:4] == 1) | (np.arange(1, 4) > dim[0])
    pixdim[1:4] = np.where(single & (pixdim[1:4] == 0), 1, np.abs(pixdim[1:4]))
    with np.errstate(all="ignore"):
        usable = {
            "sform": int(header["sform_code"]) in CODES and _is_usable(header.get_sform()),
            "qform": int(header["qform_code"]) in CODES and _is_usable(_qform(header)),
            "voxel sizes": _is_usable(np.diag([*pixdim[1:4].astype(float), 1.0])),
        }
    coded = [name for name in ("sform", "qform") if header[f"{name}_code"] != 0]
    good = [name for name in coded if usable[name]]
    if not (good if coded else usable["voxel sizes"]):
        raise DataError(f"{path} has no position that can be used: correct its sform or qform")
    notes = []
    for name in coded:
        if not usable[name]:
            for field in POSITION_FIELDS[name]:
                header[field] = 0
            notes.append(f"{path.name}: its {name} cannot be used: its {good[0]} alone counts")
    if not usable["voxel sizes"]:
        pixdim[1:4] = nib.affines.voxel_sizes(header.get_sform())
        notes.append(f"{path.name}: its voxel sizes cannot be used: those of its sform count")
    return notes


def _qform(header: nib.Nifti1Header) -> np.ndarray:
    """Affine of the qform; all NaN for a quaternion that is none."""
    try:
        return header.get_qform()
    except ValueError:
        return np.full((4, 4), np.nan)


def _is_usable(affine: np.ndarray) -> bool:
    """True when an affine puts the voxels of an image at different places that can be told apart."""
    if not (np.isfinite(affine).all() and np.abs(affine).max() < LARGEST):
        return False
    sizes = nib.affines.voxel_sizes(affine)
    return bool(sizes.min() > SMALLEST and abs(np.linalg.det(affine[:3, :3] / sizes)) > MIN_VOLUME)


def position_warnings(path: Path, image: nib.Nifti1Image) -> list[str]:
    """Assumption about the position of an opened image; outputs keep what can be used as it is."""
    if not states_orientation(image.header):
        return [
            f"{path.name} states no orientation (neither sform nor qform is set): the maps lie as it does, "
            "but left and right cannot be told from it"
        ]
    qform, sform = image.header.get_qform(coded=True)[0], image.header.get_sform(coded=True)[0]
    if qform is None or sform is None or same_grid(qform, sform, grid_shape(image)):
        return []
    return [
        f"{path.name}: sform and qform put voxels up to "
        f"{greatest_distance(qform, sform, grid_shape(image)):.3g} mm apart: the sform is used, "
        "the maps keep both"
    ]


def stated_slice_axis(
    path: Path, header: nib.Nifti1Header, metadata: Mapping[str, Any]
) -> tuple[int | None, list[str]]:
    """Axis across the slices by the sidecar, or else by the header of an image; None when neither states it.

    Besides it what is contradictory, one line each: the sidecar, which somebody can correct, then counts.
    """
    direction = metadata.get("SliceEncodingDirection")
    by_sidecar = SLICE_AXES.get(direction) if isinstance(direction, str) else None
    frequency, phase, by_header = header.get_dim_info()
    if by_header in (frequency, phase):
        by_header = None
    if by_sidecar is None or by_header in (None, by_sidecar):
        return by_header if by_sidecar is None else by_sidecar, []
    return by_sidecar, [
        f"{path.name}: SliceEncodingDirection of the sidecar is {direction}, and dim_info of the header says "
        f"that slices lie along {'ijk'[by_header]}: the sidecar counts"
    ]


def placement(header: nib.Nifti1Header) -> tuple[np.ndarray | None, tuple[float, float, float]]:
    """How an image lies, by its header.

    Returns
    -------
    affine : ndarray, shape (4, 4), or None
        Voxel to RAS+ world; None when the header states no orientation, or none that makes sense.
    zooms : tuple of float
        Voxel size, mm.
    """
    affine = header.get_best_affine()
    usable = (
        states_orientation(header)
        and np.isfinite(affine).all()
        and abs(np.linalg.det(affine[:3, :3])) > 0
        # An axis that vanishes beside the others has no direction.
        and np.isfinite(nib.orientations.io_orientation(affine)).all()
    )
    stated_zooms = (*(float(zoom) for zoom in header.get_zooms()[:3]), 1.0, 1.0, 1.0)[:3]
    x, y, z = (zoom if SMALLEST_ZOOM < zoom < 1 / SMALLEST_ZOOM else 1.0 for zoom in stated_zooms)
    return np.asarray(affine) if usable else None, (x, y, z)
