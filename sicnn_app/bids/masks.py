"""A mask file to a boolean array on the grid of its image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.bids.geometry import same_grid
from sicnn_app.bids.images import READ_ERRORS, open_image, require_voxels
from sicnn_app.errors import DataError


def load_mask(
    path: Path, affine: np.ndarray, *, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Read a mask and bring it into the axis order of the image it is for.

    Parameters
    ----------
    path : Path
    affine : ndarray, shape (4, 4)
        Voxel to world of the image, mm.
    shape : tuple of int, optional
        Spatial shape the mask must end up with; any by default.

    Returns
    -------
    mask : ndarray, shape (X, Y, Z), bool
        True where the file is above 0; trailing axes of length 1 are dropped.
    warnings : list of str
        What was done to its axes, or assumed of them.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, is empty, or lies on another grid than the image.
    """
    mask, warnings = _oriented(path, affine)
    if shape is not None and mask.shape != shape:
        raise DataError(
            f"{path} has shape {mask.shape}, its image {shape}: resample it to the grid of the image"
        )
    return mask, warnings


def _oriented(path: Path, affine: np.ndarray) -> tuple[np.ndarray, list[str]]:
    image = open_image(path)
    warnings = require_voxels(path, image)
    try:
        values = np.asanyarray(image.dataobj)
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error}): copy it again") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    mask = np.nan_to_num(values) > 0
    if not mask.any():
        raise DataError(f"{path} is empty, no voxel is above 0: make it again, or leave it out")
    if mask.ndim != 3 or same_grid(image.affine, affine, mask.shape):
        return mask, warnings
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        return mask, [*warnings, f"{path.name} states no orientation: it is taken to lie as the image does"]
    axes = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.io_orientation(affine)
    )
    turned = nib.Nifti1Image(mask.astype(np.uint8), image.affine).as_reoriented(axes)
    if not same_grid(turned.affine, affine, turned.shape):
        raise DataError(f"{path} lies on another grid than the image: resample it to the image's voxels")
    return np.asarray(turned.dataobj) > 0, [*warnings, f"{path.name}: axes were turned to those of the image"]
