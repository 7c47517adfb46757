"""A run's files to a DwiSeries: every rule on what an image and its gradient table may look like."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from sicnn_app.bids.associate import require_content
from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import MAX_LOW_BVAL, MIN_DISTINCT_BVALS, DwiSeries

NO_DIRECTION_BVAL = 50.0
"""s/mm^2; at or below it a zero direction is normal and not worth a warning."""

GRID_TOLERANCE = 1e-3
"""mm; affines of combined runs that differ less are one grid."""

MASK_GRID_TOLERANCE = 0.1
"""Share of a voxel by which a mask may lie beside its image: other programs round affines."""

CHUNK = 1 << 16
"""Bytes read at once; deflate expands at most 1032 times, so memory stays below 70 MB."""

GZIP_MAGIC = b"\x1f\x8b"
READ_ERRORS = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class LoadedRun:
    """A run in memory.

    Attributes
    ----------
    series : DwiSeries
    header : nibabel header
        Header of the (first) source image: geometry is copied from it.
    affine : ndarray, shape (4, 4), voxel to world, mm
    warnings : list of str
        What was assumed or left out, one line each.
    """

    series: DwiSeries
    header: Any
    affine: np.ndarray
    warnings: list[str]


def _numbers(path: Path, rows: list[str]) -> list[list[float]]:
    try:
        return [[float(word) for word in row.split()] for row in rows]
    except ValueError as error:
        raise DataError(f"{path} holds something that is no number ({error}): write numbers only") from None


def _text(path: Path) -> str:
    require_content(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from None


def read_bvals(path: Path) -> np.ndarray:
    """Read a .bval file: numbers in one row or one column.

    Parameters
    ----------
    path : Path

    Returns
    -------
    ndarray, shape (N,), float64, s/mm^2

    Raises
    ------
    MissingInputError
        The file is not there.
    DataError
        It is empty, or holds words, negative, infinite or NaN values.
    """
    bvals = np.array([value for row in _numbers(path, _text(path).splitlines()) for value in row])
    if bvals.size == 0:
        raise DataError(f"{path} is empty: write one b-value in s/mm^2 per volume")
    bad = bvals[~(np.isfinite(bvals) & (bvals >= 0))]
    if bad.size:
        raise DataError(f"{path} holds the b-value {bad[0]:g}: b-values are numbers of 0 or more, in s/mm^2")
    return bvals


def read_bvecs(path: Path, bvals: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """Read a .bvec file, 3 rows or 3 columns; IVIM can do without, so nothing in it is an error.

    Parameters
    ----------
    path : Path
    bvals : ndarray, shape (N,), s/mm^2

    Returns
    -------
    bvecs : ndarray, shape (N, 3), or None
        None when the file does not fit; 3 x 3 values are taken as rows. NaN becomes 0.
    warnings : list of str
    """
    try:
        rows = [row for row in _numbers(path, _text(path).splitlines()) if row]
        table = np.array(rows, dtype=np.float64)
    except (DataError, ValueError):
        return None, [f"{path} is left out: it is no table of numbers; only |b| is used"]
    if table.shape == (3, bvals.size):
        table = table.T
    elif table.shape != (bvals.size, 3):
        shape = " x ".join(str(size) for size in table.shape)
        return None, [f"{path} is left out: {shape} values for {bvals.size} volumes; only |b| is used"]
    finite = np.isfinite(table).all(axis=1)
    table = np.where(finite[:, None], table, 0.0)
    lost = int(np.sum((~table.any(axis=1)) & (bvals > NO_DIRECTION_BVAL)))
    warnings = [f"{path}: {lost} volumes above b = {NO_DIRECTION_BVAL:g} have no direction"] if lost else []
    return table, warnings


def _uncompressed_size(path: Path) -> tuple[int, bool]:
    """Bytes in a gzip file, and whether other bytes follow it; raises for a damaged stream."""
    size = 0
    with path.open("rb") as stream:
        data = stream.read(CHUNK)
        while data.startswith(GZIP_MAGIC):
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            while not member.eof:
                if not data:
                    raise EOFError("the gzip stream ends early")
                size += len(member.decompress(data))
                data = member.unused_data if member.eof else b""
                data = data or stream.read(CHUNK)
    # Zeros are the padding of tape blocks, which gzip itself ignores.
    return size, bool(data.strip(b"\0"))


def _open(path: Path) -> nib.filebasedimages.FileBasedImage:
    try:
        return nib.load(path)
    except ImageFileError:
        if not path.name.endswith(".gz"):
            raise
        # To tell the type nibabel reads a kilobyte, and with a shorter stream stumbles over what follows it.
        return nib.Nifti1Image.from_filename(path)


def open_image(path: Path) -> nib.Nifti1Image:
    """Open an image and check all that its header tells; the data are not read.

    Parameters
    ----------
    path : Path

    Returns
    -------
    nibabel.Nifti1Image

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It is no NIfTI image, or holds complex or colour values, or has more than 4
        dimensions, or an affine that is not finite.
    """
    require_content(path)
    try:
        image = _open(path)
        shape, dtype = image.shape, image.get_data_dtype()
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read as NIfTI ({error})") from None
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path} is a {type(image).__name__}, not NIfTI: convert it")
    if dtype.kind not in "iufb":
        raise DataError(f"{path} holds {dtype} values: give the real magnitude image")
    if not shape or min(shape) < 1:
        raise DataError(f"{path} is empty: its shape is {shape}")
    if np.sum(np.array(shape[3:]) > 1) > 1:
        raise DataError(f"{path} has shape {shape}: a DWI has at most 4 dimensions")
    if not np.isfinite(image.affine).all():
        raise DataError(f"{path} has a position that is not finite: correct its sform or qform")
    return image


def volume_count(image: nib.Nifti1Image) -> int:
    """Volumes of an image; a 3-D image is one."""
    return int(np.prod(image.shape[3:], dtype=np.int64))


def _read_signals(path: Path, image: nib.Nifti1Image, warnings: list[str]) -> np.ndarray:
    """Signals, shape (X, Y, Z, N), float32, NaN for whatever is not finite."""
    needed = image.dataobj.offset + int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    try:
        # A header can claim any size; memory is only asked for once the bytes are known to be there.
        trailing = False
        if path.name.endswith(".gz"):
            size, trailing = _uncompressed_size(path)
        else:
            size = path.stat().st_size
        if size < needed:
            raise DataError(f"{path} is truncated: its header promises {needed} bytes, it holds {size}")
        with np.errstate(over="ignore", invalid="ignore"):
            signals = np.asarray(image.dataobj, dtype=np.float32)
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from None
    if trailing:
        warnings.append(f"{path}: bytes after the end of the gzip stream are ignored")
    spatial = (*image.shape[:3], 1, 1)[:3]
    if signals.ndim > 4:
        warnings.append(f"{path}: singleton dimensions of shape {image.shape} are dropped")
    signals = signals.reshape((*spatial, volume_count(image)))
    infinite = np.isinf(signals)
    if infinite.any():
        warnings.append(f"{path}: {int(infinite.sum())} infinite values are treated as missing")
        signals = np.where(infinite, np.float32(np.nan), signals)
    return signals


@dataclass(frozen=True)
class _Part:
    image: nib.Nifti1Image
    signals: np.ndarray
    bvals: np.ndarray
    bvecs: np.ndarray | None


def bvals_path(source: SourceImage, bvals_file: Path | None) -> Path | None:
    """The file an image's b-values come from: its own .bval before the one of the command line."""
    return source.bval or bvals_file


def _load_part(source: SourceImage, bvals_file: Path | None, warnings: list[str]) -> _Part:
    image = open_image(source.image)
    table = bvals_path(source, bvals_file)
    if table is None:
        raise DataError(f"{source.image} has no .bval")
    bvals = read_bvals(table)
    volumes = volume_count(image)
    if bvals.size != volumes:
        raise DataError(
            f"{source.image.name} has {volumes} volumes but {table.name} has {bvals.size} b-values: "
            f"check {table}"
        )
    bvecs = None
    if source.bvec is not None:
        bvecs, more = read_bvecs(source.bvec, bvals)
        warnings.extend(more)
    return _Part(image, _read_signals(source.image, image, warnings), bvals, bvecs)


def _require_one_grid(run: DwiRun, parts: list[_Part]) -> None:
    first = parts[0]
    for source, part in zip(run.parts, parts, strict=True):
        same_shape = part.signals.shape[:3] == first.signals.shape[:3]
        shift = np.abs(part.image.affine - first.image.affine).max()
        if not same_shape or shift > GRID_TOLERANCE:
            raise DataError(
                f"{run.parts[0].image.name} and {source.image.name} have different grids: "
                "runs can be combined only when shape and position are equal (see --combine)"
            )


def _require_ivim(name: str, bvals: np.ndarray) -> None:
    nominal, _ = group_bvalues(bvals)
    values = ", ".join(f"{b:g}" for b in nominal)
    if nominal.size < MIN_DISTINCT_BVALS:
        raise DataError(
            f"{name} has {nominal.size} distinct b-values ({values}): IVIM needs {MIN_DISTINCT_BVALS} or more"
        )
    if nominal[0] > MAX_LOW_BVAL:
        raise DataError(
            f"{name} has no b-value up to {MAX_LOW_BVAL:g} s/mm^2 ({values}): perfusion needs one"
        )


def load_mask(path: Path, affine: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Read a mask and bring it into the axis order of the image it is for.

    Parameters
    ----------
    path : Path
    affine : ndarray, shape (4, 4)
        Voxel to world of the image, mm.

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
        It cannot be read, or lies on another grid than the image.
    """
    image = open_image(path)
    try:
        values = np.asanyarray(image.dataobj)
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error}): copy it again") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    mask = np.nan_to_num(values) > 0
    if mask.ndim != 3 or _same_grid(image.affine, affine, mask.shape):
        return mask, []
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        return mask, [f"{path.name} states no orientation: it is taken to lie as the image does"]
    axes = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.io_orientation(affine)
    )
    turned = nib.Nifti1Image(mask.astype(np.uint8), image.affine).as_reoriented(axes)
    if not _same_grid(turned.affine, affine, turned.shape):
        raise DataError(f"{path} lies on another grid than the image: resample it to the image's voxels")
    return np.asarray(turned.dataobj) > 0, [f"{path.name}: axes were turned to those of the image"]


def _same_grid(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two affines put the corners of a grid at the same place, to a tenth of a voxel."""
    corners = np.array(np.meshgrid(*((0, size - 1) for size in shape), (1,))).reshape(4, -1)
    distance = np.abs((first - second) @ corners).max()
    return bool(distance <= MASK_GRID_TOLERANCE * nib.affines.voxel_sizes(second).min())


def load_run(run: DwiRun, *, bvals_file: Path | None) -> LoadedRun:
    """Read the images of a run and their gradient tables.

    Parameters
    ----------
    run : DwiRun
    bvals_file : Path or None
        b-values for images without a .bval.

    Returns
    -------
    LoadedRun

    Raises
    ------
    MissingInputError
        A file is not there, or its content is not fetched.
    DataError
        The data break a rule; the message names the file and the rule.
    """
    warnings: list[str] = []
    parts = [_load_part(source, bvals_file, warnings) for source in run.parts]
    _require_one_grid(run, parts)
    several = len(parts) > 1
    without = [source.image.name for source in run.parts if source.bvec is None]
    if without:
        warnings.append(f"{', '.join(without)}: no .bvec: only |b| is used")
    with_directions = all(part.bvecs is not None for part in parts)
    series = DwiSeries(
        signals=np.concatenate([part.signals for part in parts], axis=3) if several else parts[0].signals,
        bvals=np.concatenate([part.bvals for part in parts]),
        bvecs=np.concatenate([part.bvecs for part in parts]) if with_directions else None,
        affine=parts[0].image.affine,
    )
    names = ", ".join(source.image.name for source in run.parts)
    volumes = [series.signals[..., v] for v in range(series.bvals.size)]
    missing = np.array([np.isnan(volume).all() for volume in volumes])
    if missing.all():
        raise DataError(f"{names} holds only NaN")
    if not any(np.nan_to_num(volume).any() for volume in volumes):
        raise DataError(f"{names} holds only zeros")
    if missing.any():
        positions = ", ".join(str(v) for v in np.flatnonzero(missing))
        warnings.append(f"{run.name}: volume {positions} (counted from 0) holds only NaN and is left out")
        series = series.select(~missing)
    _require_ivim(names, series.bvals)
    return LoadedRun(series, parts[0].image.header, series.affine, warnings)
