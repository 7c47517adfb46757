"""Where the voxels of an image lie: comparing grids, and what a header leaves open."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

GRID_SHARE = 0.1
"""Share of a voxel by which two grids that are meant to be one may differ: programs round affines."""


def greatest_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Greatest distance along an axis, mm, between where two affines put a voxel of a grid.

    Parameters
    ----------
    first, second : ndarray, shape (4, 4)
        Voxel to world, mm.
    shape : tuple of 3 int
        Voxels of the grid.
    """
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape), (1,))).reshape(4, -1)
    return float(np.abs((first - second) @ corners).max())


def same_grid(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two affines put the voxels of a grid at the same places, to :data:`GRID_SHARE` of a voxel."""
    smallest = nib.affines.voxel_sizes(second).min()
    return greatest_distance(first, second, shape) <= GRID_SHARE * smallest


def position_warnings(path: Path, image: nib.Nifti1Image) -> list[str]:
    """What has to be assumed of the position of an image; outputs keep its sform and qform as they are.

    Parameters
    ----------
    path : Path
    image : nibabel.Nifti1Image
        Its affine is the sform where that is set, otherwise the qform.

    Returns
    -------
    list of str
    """
    sform_code, qform_code = int(image.header["sform_code"]), int(image.header["qform_code"])
    if sform_code == qform_code == 0:
        return [
            f"{path.name} states no orientation (neither sform nor qform is set): the maps lie as it does, "
            "but left and right cannot be told from it"
        ]
    if sform_code == 0 or qform_code == 0:
        return []
    try:
        qform = image.header.get_qform()
    except (HeaderDataError, ValueError):
        return [f"{path.name} has a qform that cannot be read: the sform is used, the maps keep both"]
    shape = (*image.shape[:3], 1, 1)[:3]
    if same_grid(qform, image.affine, shape):
        return []
    distance = greatest_distance(qform, image.affine, shape)
    return [
        f"{path.name}: sform and qform put voxels up to {distance:.3g} mm apart: the sform is used, "
        "the maps keep both"
    ]
