"""One volume as an array, where a small file must not be able to ask for all memory."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.bids.images import grid_shape, open_image, read_signals, require_voxels
from sicnn_app.errors import DataError

MAX_VOXELS = 1 << 27
"""Of one image; 512 x 512 x 512 are more than diffusion MRI has, and take half a gigabyte as float32."""

LARGEST_VALUE = 1e15
"""What is larger was not measured, and its square is beyond float32."""


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open an image that is to be read as a whole.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.bids.images.open_image`; also more than :data:`MAX_VOXELS` voxels.
    """
    image = open_image(path)
    if int(np.prod(image.shape, dtype=object)) > MAX_VOXELS:
        raise DataError(f"{path} promises {image.shape} voxels, more than any map has: make it again")
    return image


def read_volume(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """Voxels of an image of one volume.

    Parameters
    ----------
    path : Path
    image : nibabel.Nifti1Image
        The same file, opened by :func:`open_volume`.

    Returns
    -------
    ndarray, shape (X, Y, Z), float32
        NaN where a value is not finite or beyond :data:`LARGEST_VALUE`.

    Raises
    ------
    DataError
        The file is shorter than its header promises, or damaged.
    """
    require_voxels(path, image)
    volume = np.empty((*grid_shape(image), 1), dtype=np.float32, order="F")
    read_signals(path, image, volume, slice(None))
    volume[np.abs(volume) > LARGEST_VALUE] = np.nan
    return volume[..., 0]
