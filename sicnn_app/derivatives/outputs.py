"""Files of an output folder read again: whoever may write there may have put anything in their place.

What is read is a regular file of that folder and no more of it than an output of the app can have, so that a
broken or crafted run costs neither the memory nor the time of the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from sicnn_app.bids.gradients import read_bvals
from sicnn_app.bids.images import open_image, open_volume, read_volume, volume_count
from sicnn_app.bids.text_files import Boundary, read_bytes, read_json, read_table
from sicnn_app.errors import DataError

MAX_BVALUE = 1e6
"""s/mm^2; far beyond what any scanner can do, and charts can draw it."""


def _require_own(path: Path, output_dir: Path) -> None:
    """Refuse a link that would bring a file of elsewhere into tables and pages; its own annex is not."""
    if path.is_symlink() and Boundary([output_dir]).target_outside(path) is not None:
        raise DataError(f"{path} is a link that leads out of the output folder: put the file itself there")


def read_output_json(path: Path, output_dir: Path) -> dict[str, Any]:
    """Object in a sidecar of an output.

    Parameters
    ----------
    path : Path
    output_dir : Path
        The folder of all outputs, which links must not lead out of.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.bids.text_files.read_json`; also a link that leads elsewhere.
    """
    _require_own(path, output_dir)
    return read_json(path)


def read_output_table(path: Path, output_dir: Path) -> list[dict[str, str]]:
    """Rows of a table; see :func:`read_output_json` and :func:`sicnn_app.bids.text_files.read_table`."""
    _require_own(path, output_dir)
    return read_table(path)


def read_output_bytes(path: Path, output_dir: Path) -> bytes:
    """Content of a small file; see :func:`read_output_json`, :func:`sicnn_app.bids.text_files.read_bytes`."""
    _require_own(path, output_dir)
    return read_bytes(path)


def read_output_bvals(path: Path, output_dir: Path) -> np.ndarray:
    """b-values of a series, shape (N,), s/mm^2; see :func:`read_output_json`.

    Raises
    ------
    DataError
        Also when one of them is larger than :data:`MAX_BVALUE`.
    """
    _require_own(path, output_dir)
    bvals = read_bvals(path)
    if bvals.max() > MAX_BVALUE:
        raise DataError(f"{path} holds the b-value {bvals.max():g}: b-values are in s/mm^2")
    return bvals


def open_output_volume(path: Path, output_dir: Path) -> nib.Nifti1Image:
    """Open a map, mask or other image of one volume; the voxels are not read.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.bids.images.open_volume` and :func:`read_output_json`; also several volumes.
    """
    _require_own(path, output_dir)
    image = open_volume(path)
    if volume_count(image) != 1:
        raise DataError(f"{path} has shape {image.shape}, and not the three dimensions of a map")
    return image


def read_output_volume(path: Path, output_dir: Path) -> np.ndarray:
    """Voxels of an image of one volume, shape (X, Y, Z), float32, NaN where they are no sensible number.

    Raises
    ------
    MissingInputError, DataError
        See :func:`open_output_volume` and :func:`sicnn_app.bids.images.read_volume`.
    """
    return read_volume(path, open_output_volume(path, output_dir))


def open_output_series(path: Path, output_dir: Path) -> nib.Nifti1Image:
    """Open a series to be read volume by volume; see :func:`read_output_json`."""
    _require_own(path, output_dir)
    image = open_image(path)
    # Held open so that a compressed series read volume by volume is decompressed once.
    found = image.dataobj
    voxels = ArrayProxy(
        str(path),
        (found.shape, found.dtype, found.offset, found.slope, found.inter),
        keep_file_open=True,
    )
    return type(image)(voxels, image.affine, image.header)
