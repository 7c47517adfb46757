"""Files of a run as far as they can be read; what is wrong with the others is said, and nothing ends."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from sicnn_app.bids.geometry import placement
from sicnn_app.bids.images import grid_shape
from sicnn_app.derivatives.outputs import open_output_volume, read_output_bytes, read_output_volume
from sicnn_app.errors import DataError, SicnnAppError, complaint, one_line
from sicnn_app.formats import printable

_T = TypeVar("_T")

MAX_PIXELS = 1 << 24
"""Of a picture; ours have a tenth of that."""


class Files:
    """Reads files of a run as far as that can be done, and keeps what is wrong with the others."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self.problems: list[str] = []

    def get(self, read: Callable[[Path, Path], _T], path: Path, default: _T) -> _T:
        """What a file holds; ``default`` when it is not there, or cannot be read."""
        if not os.path.lexists(path):
            return default
        try:
            return read(path, self._output_dir)
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
    opened = {label: files.get(open_output_volume, path, None) for label, path in paths.items()}
    headers = {label: image.header for label, image in opened.items() if image is not None}
    shapes = {label: grid_shape(image) for label, image in opened.items() if image is not None}
    shape = Counter(shapes.values()).most_common(1)[0][0] if shapes else None
    found = {}
    for label, header in headers.items():
        if shapes[label] != shape:
            files.problems.append(f"the image {label} has another shape than the others of {name}")
            continue
        data = files.get(read_output_volume, paths[label], None)
        # Another process may have replaced it since.
        if data is not None and data.shape == shape:
            found[label] = Volume(data, *placement(header))
    return found


def read_picture(path: Path, output_dir: Path) -> bytes:
    """Content of a PNG that a browser can show.

    Raises
    ------
    MissingInputError, DataError
        See :func:`sicnn_app.derivatives.outputs.read_output_bytes`; also what is no PNG, or a very large one.
    """
    content = read_output_bytes(path, output_dir)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are more than it can have")
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): process the run again") from None
    return content
