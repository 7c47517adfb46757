"""Files of an output folder read again: whoever may write there may have put anything in their place.

What is read is a regular file of that folder and no more of it than an output of the app can have, so that a
broken or crafted run costs neither the memory nor the time of the others.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from PIL import Image

from sicnn_app.bids.geometry import grid_shape, placement
from sicnn_app.bids.gradients import read_bvals
from sicnn_app.bids.images import open_image, open_volume, read_volume, volume_count
from sicnn_app.bids.text_files import Boundary, read_bytes
from sicnn_app.errors import DataError, SicnnAppError, complaint, one_line
from sicnn_app.formats import printable

_T = TypeVar("_T")

MAX_BVALUE = 1e6
"""s/mm^2; far beyond what any scanner can do, and charts can draw it."""

MAX_PIXELS = 1 << 24
"""Of a picture; ours have a tenth of that."""


def own_file(path: Path, output_dir: Path) -> Path:
    """``path``, unless it is a link that would bring a file of elsewhere into tables and pages.

    Raises
    ------
    DataError
        It leads out of the folder of all outputs; its own annex is not out of it.
    """
    if path.is_symlink() and Boundary([output_dir]).target_outside(path) is not None:
        raise DataError(f"{path} is a link that leads out of the output folder: put the file itself there")
    return path


class Files:
    """Reads files of a run as far as that can be done, and keeps what is wrong with the others."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self.problems: list[str] = []

    def get(self, read: Callable[[Path], _T], path: Path, default: _T) -> _T:
        """Content of a file; ``default`` when it is not there, or cannot be read."""
        if not os.path.lexists(path):
            return default
        try:
            return read(own_file(path, self._output_dir))
        except SicnnAppError as error:
            # The advice is for those who write such a file by hand.
            self.problems.append(printable(complaint(error).replace(f"{path.parent}/", "")))
            return default


@dataclass(frozen=True)
class Volume:
    """Voxels of an image, shape (X, Y, Z), and what its header says of their place."""

    data: np.ndarray
    affine: np.ndarray | None
    zooms: tuple[float, float, float]


def read_volumes(files: Files, paths: Mapping[str, Path], name: str) -> dict[str, Volume]:
    """The images of a run that have the shape of most of them; no other is read.

    Parameters
    ----------
    files : Files
    paths : mapping of str to Path
        By what problems call them.
    name : str
        Of the run.
    """
    opened = {label: files.get(_open_map, path, None) for label, path in paths.items()}
    there = {label: image for label, image in opened.items() if image is not None}
    headers = {label: image.header for label, image in there.items()}
    shapes = {label: grid_shape(image) for label, image in there.items()}
    shape = Counter(shapes.values()).most_common(1)[0][0] if shapes else None
    found = {}
    for label, header in headers.items():
        if shapes[label] != shape:
            files.problems.append(f"the image {label} has another shape than the others of {name}")
            continue
        data = files.get(lambda path: read_volume(path, _open_map(path)), paths[label], None)
        # Another process may have replaced it since.
        if data is not None and data.shape == shape:
            found[label] = Volume(data, *placement(header))
    return found


def _open_map(path: Path) -> nib.Nifti1Image:
    image = open_volume(path)
    if volume_count(image) != 1:
        raise DataError(f"{path} has shape {image.shape}, and not the three dimensions of a map")
    return image


def read_series_bvals(path: Path) -> np.ndarray:
    """b-values of a series, shape (N,), s/mm^2.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.bids.gradients.read_bvals`; also one that is larger than :data:`MAX_BVALUE`.
    """
    bvals = read_bvals(path)
    if bvals.max() > MAX_BVALUE:
        raise DataError(f"{path} holds the b-value {bvals.max():g}: b-values are in s/mm^2")
    return bvals


def open_series(path: Path) -> nib.Nifti1Image:
    """Open a series to be read volume by volume."""
    image = open_image(path)
    # Held open so that a compressed series read volume by volume is decompressed once.
    found = image.dataobj
    voxels = ArrayProxy(
        str(path),
        (found.shape, found.dtype, found.offset, found.slope, found.inter),
        keep_file_open=True,
    )
    return type(image)(voxels, image.affine, image.header)


def read_picture(path: Path) -> bytes:
    """Content of a PNG that a browser can show.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.bids.text_files.read_bytes`; also what is no PNG, or a very large one.
    """
    content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are more than it can have")
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): process the run again") from None
    return content
