"""Files of an output folder read again: whoever may write there may have put anything in their place.

What is read is a regular file of that folder and no more of it than an output of the app can have, so that a
broken or crafted run costs neither the memory nor the time of the others.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from PIL import Image

from sicnn_app.bids.geometry import grid_shape
from sicnn_app.bids.gradients import read_bvals
from sicnn_app.bids.images import (
    LARGEST_VALUE,
    READ_ERRORS,
    open_image,
    open_volume,
    read_volume,
    volume_count,
)
from sicnn_app.bids.text_files import Boundary, read_bytes
from sicnn_app.errors import DataError, SicnnAppError, complaint, one_line
from sicnn_app.formats import printable
from sicnn_app.ivim.bvalues import bvalue_tolerance, group_bvalues, same_bvalues

_T = TypeVar("_T")

MAX_BVALUE = 1e6
"""s/mm^2; far beyond what any scanner can do, and charts can draw it."""

MAX_PIXELS = 1 << 24
"""Of a picture; ours have a tenth of that."""

MAX_VOLUMES = 100_000
"""In an average."""

MAX_SIGNALS = 1 << 29
"""Averages over voxels and b-values, two gigabytes of them: ten million voxels at 50 b-values."""


def own_file(path: Path, output_dir: Path) -> Path:
    """``path``, unless it is a link that would bring a file of elsewhere into tables and pages.

    Raises DataError when it leads out of the folder of all outputs; its own annex is not out of it.
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


def read_volumes(
    files: Files, paths: Mapping[str, Path], name: str
) -> tuple[dict[str, np.ndarray], nib.Nifti1Header | None]:
    """The images of a run that have the shape of most of them, and the header of the first; no other is read.

    Parameters
    ----------
    paths : mapping of str to Path
        By what problems call them.
    name : str
        Of the run.

    Returns
    -------
    volumes : dict of str to ndarray, shape (X, Y, Z)
    header : nibabel header, or None
    """
    opened = {label: files.get(_open_map, path, None) for label, path in paths.items()}
    there = {label: image for label, image in opened.items() if image is not None}
    shapes = Counter(map(grid_shape, there.values())).most_common(1)
    found = {}
    for label, image in there.items():
        if grid_shape(image) != shapes[0][0]:
            files.problems.append(f"the image {label} has another shape than the others of {name}")
            continue
        data = files.get(lambda path: read_volume(path, _open_map(path)), paths[label], None)
        # Another process may have replaced it since.
        if data is not None and data.shape == shapes[0][0]:
            found[label] = data
    return found, there[next(iter(found))].header if found else None


def _open_map(path: Path) -> nib.Nifti1Image:
    image = open_volume(path)
    if volume_count(image) != 1:
        raise DataError(f"{path} has shape {image.shape}, and not the three dimensions of a map")
    return image


def read_picture(path: Path) -> bytes:
    """Content of a PNG that a browser can show.

    Raises DataError when it is no PNG, or a very large one, besides what
    :func:`sicnn_app.bids.text_files.read_bytes` raises.
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


@dataclass(frozen=True)
class MeasuredSignals:
    """Signals and images of a run per nominal b-value.

    Attributes
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    volumes : ndarray, shape (B,), int, volumes averaged
    in_mask : ndarray, shape (B, M), float32, signals of the M voxels of the mask
    fitted : bool
        They are the averages that were fitted; else arithmetic means of the preprocessed volumes, which lie
        lower where volumes lost signal.
    baseline : ndarray, shape (X, Y, Z), float32, mean of the volumes of the lowest b-value
    slices : ndarray, shape (B, X, Y), float32, the slice ``slice_index`` at every b-value
    slice_index : int
    """

    bvals: np.ndarray
    volumes: np.ndarray
    in_mask: np.ndarray
    fitted: bool
    baseline: np.ndarray
    slices: np.ndarray
    slice_index: int

    @property
    def words(self) -> str:
        """Words on ``in_mask``."""
        if self.fitted:
            return "averages of the volumes that were fitted"
        return "arithmetic means of the volumes, as this run has no usable file of those that were fitted"


def measure_signals(
    files: Files,
    averaged: Path,
    series: Path,
    mask: np.ndarray,
    used: Sequence[float],
    volumes: Sequence[float],
) -> MeasuredSignals | None:
    """Signals as they were fitted and images of the series, of what there is of both; None of neither.

    Outputs of versions before 0.11 have the series alone: its arithmetic means take the place of the signals.
    Where only the averages are left they are the images, too.

    Parameters
    ----------
    averaged, series : Path
        The paths of the averages and of the preprocessed series, without their endings.
    mask : ndarray, shape (X, Y, Z), bool
    used : sequence of float, s/mm^2
        b-values that the estimation used; all of them count when there are none.
    volumes : sequence of float
        Volumes in each of the averages; one each where their number is another.
    """
    signals, images = (_measured(files, stem, mask, used) for stem in (averaged, series))
    if signals is None:
        return images
    if len(volumes) == signals.bvals.size:
        signals = replace(signals, volumes=np.clip(volumes, 1, MAX_VOLUMES).astype(int))
    if images is None:
        return replace(signals, fitted=True)
    if not same_bvalues(signals.bvals, images.bvals):
        files.problems.append(f"{averaged.name}.bval has other b-values than the preprocessed series")
        return images
    return replace(signals, fitted=True, baseline=images.baseline, slices=images.slices)


def _measured(files: Files, stem: Path, mask: np.ndarray, used: Sequence[float]) -> MeasuredSignals | None:
    """Arithmetic means of a series; None when it or its b-values are missing or cannot be read."""
    image_path, bval_path = stem.with_name(f"{stem.name}.nii.gz"), stem.with_name(f"{stem.name}.bval")
    series = files.get(_open_series, image_path, None)
    bvals = files.get(_read_bvals, bval_path, None)
    if series is None or bvals is None:
        return None
    if series.shape != (*mask.shape, bvals.size):
        files.problems.append(f"{image_path.name} does not fit its b-values or the maps")
        return None
    try:
        return _averages(series, bvals, mask, used)
    except READ_ERRORS as error:
        files.problems.append(printable(f"{image_path.name} cannot be read ({one_line(error)})"))
        return None


def _averages(
    series: nib.Nifti1Image, bvals: np.ndarray, mask: np.ndarray, used: Sequence[float]
) -> MeasuredSignals:
    nominal, index = group_bvalues(bvals)
    wanted = np.zeros(nominal.size, dtype=bool)
    if used:
        distance = np.abs(nominal[:, None] - np.asarray(used)).min(axis=1)
        wanted = distance <= bvalue_tolerance(nominal)
    if not wanted.any():
        wanted[:] = True
    slice_index = int(np.argmax(mask.sum(axis=(0, 1))))
    counts = np.zeros(nominal.size, dtype=int)
    voxels = int(mask.sum())
    if nominal.size * voxels > MAX_SIGNALS:
        raise ValueError(f"{nominal.size} b-values in {voxels} voxels are more than any series has")
    in_mask = np.zeros((nominal.size, voxels), dtype=np.float32)
    slices = np.zeros((nominal.size, *mask.shape[:2]), dtype=np.float32)
    baseline = np.zeros(mask.shape, dtype=np.float32)
    for position in np.flatnonzero(wanted[index]):
        volume = np.asarray(series.dataobj[..., position], dtype=np.float32)
        volume = np.where(np.abs(volume) <= LARGEST_VALUE, volume, np.float32(0))
        group = index[position]
        counts[group] += 1
        in_mask[group] += volume[mask]
        slices[group] += volume[..., slice_index]
        if group == np.argmax(wanted):
            baseline += volume
    counts = counts[wanted]
    return MeasuredSignals(
        bvals=nominal[wanted],
        volumes=counts,
        in_mask=in_mask[wanted] / counts[:, None],
        fitted=False,
        baseline=baseline / counts[0],
        slices=slices[wanted] / counts[:, None, None],
        slice_index=slice_index,
    )


def _read_bvals(path: Path) -> np.ndarray:
    bvals = read_bvals(path)
    if bvals.max() > MAX_BVALUE:
        raise DataError(f"{path} holds the b-value {bvals.max():g}: b-values are in s/mm^2")
    return bvals


def _open_series(path: Path) -> nib.Nifti1Image:
    image = open_image(path)
    # Held open so that a compressed series read volume by volume is decompressed once.
    found = image.dataobj
    layout = (found.shape, found.dtype, found.offset, found.slope, found.inter)
    voxels = ArrayProxy(str(path), layout, keep_file_open=True)
    return type(image)(voxels, image.affine, image.header)
