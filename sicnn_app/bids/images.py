"""Image files: what a header may say, and the voxels as floating-point numbers."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from sicnn_app.bids.geometry import settle_position
from sicnn_app.bids.text_files import require_content
from sicnn_app.bids.unpacked import GZIP_MAGIC, MAX_EXPANSION, Unpacked
from sicnn_app.errors import DataError, one_line
from sicnn_app.files import open_regular
from sicnn_app.formats import shorten
from sicnn_app.system.memory import release

BLOCK = 1 << 18
"""Bytes of voxels converted at once; as float64 they take up to 8 times that."""

NIFTI_MAGIC = {
    nib.Nifti1Header: (slice(344, 348), (b"n+1\0", b"ni1\0")),
    nib.Nifti2Header: (slice(4, 8), (b"n+2\0", b"ni2\0")),
}
"""Where each kind of header says what it is, and how."""

MAX_VOXELS = 1 << 27
"""Of an image that is read as a whole; 512 x 512 x 512 are more than diffusion MRI has, half a gigabyte."""

LARGEST_VALUE = 1e15
"""What is larger was not measured, and its square is beyond float32."""

# What nibabel repairs in a header it also prints; what matters of that is said below.
nib.imageglobals.logger.setLevel(logging.CRITICAL)

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


def _require_honest_name(path: Path) -> None:
    """Refuse a name that is wrong about compression: readers go by it, ours and everybody else's."""
    with os.fdopen(open_regular(path), "rb") as stream:
        start = stream.read(len(GZIP_MAGIC))
    if start == GZIP_MAGIC and not path.name.endswith(".gz"):
        raise DataError(f"{path} is compressed with gzip, which its name does not say: rename it to .nii.gz")
    if start and start != GZIP_MAGIC and path.name.endswith(".gz"):
        raise DataError(
            f"{path} cannot be read: it is not compressed with gzip, as its name says "
            "(if it is an image nevertheless, rename it to .nii)"
        )


def _read_header(path: Path) -> tuple[nib.Nifti1Header, list[str]]:
    """Read the header of a NIfTI file and nothing else of it: what is none is refused.

    nibabel also reads what stands between header and voxels, which may unfold to gigabytes, and makes of a
    file what that says it is.

    Returns
    -------
    header : nibabel.Nifti1Header
        A ``Nifti2Header`` for NIfTI-2. Of its position only what can be used is left.
    notes : list of str
        What is wrong with the position, see :func:`sicnn_app.bids.geometry.settle_position`.

    Raises
    ------
    DataError
        It has no position that can be used.
    OSError, EOFError, ValueError, zlib.error, nibabel errors
        The file cannot be read or is no NIfTI.
    """
    start = Unpacked(path).start(nib.Nifti2Header.sizeof_hdr)
    kind = next((kind for kind, (place, magic) in NIFTI_MAGIC.items() if start[place] in magic), None)
    if kind is None:
        raise ImageFileError("it does not begin as NIfTI does")
    header = kind(start[: kind.sizeof_hdr], check=False)
    if not 1 <= header["dim"][0] <= 7:
        # The byte order is told by it, and everything else would be read wrongly.
        raise ImageFileError(f"{header['dim'][0]} dimensions")
    # nibabel puts 1 mm in the place of a voxel size that is missing: looked at before.
    notes = settle_position(path, header)
    header.check_fix()
    return header, notes


def open_image(path: Path) -> nib.Nifti1Image:
    """Open an image and check all that its header tells; nothing but the header is read.

    Returns
    -------
    nibabel.Nifti1Image
        Without the extensions of its header, and with a position that can be used; ``extra["position"]``
        lists what was wrong with the one in the file.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It is no NIfTI image, or holds complex or colour values, or has more than 4
        dimensions, or no position that can be used.
    """
    require_content(path)
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty, it has 0 bytes: copy it again")
        _require_honest_name(path)
        header, notes = _read_header(path)
        kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        voxels = kind.ImageArrayProxy(str(path), header.copy())
        image = kind(voxels, header.get_best_affine(), header, extra={"position": notes})
        shape, dtype = image.shape, image.get_data_dtype()
    except READ_ERRORS as error:
        reason = shorten(one_line(error).replace(str(path), path.name), 150)
        raise DataError(f"{path} cannot be read as NIfTI ({reason}): copy it again, or convert it") from None
    if dtype.kind not in "iufb":
        held = "colour" if dtype.names else dtype
        raise DataError(f"{path} holds {held} values: give the real magnitude image")
    if not shape or min(shape) < 1:
        raise DataError(f"{path} holds no voxel, its shape is {shape}: convert it again")
    if np.sum(np.array(shape[3:]) > 1) > 1:
        raise DataError(f"{path} has shape {shape}, a DWI at most 4 dimensions: give it as one 4-D series")
    if image.dataobj.offset < image.header.sizeof_hdr:
        # nibabel checks this only of what calls itself a single file.
        raise DataError(
            f"{path} says that its voxels start in its header, at byte {image.dataobj.offset}: "
            "convert it again"
        )
    most = path.stat().st_size * (MAX_EXPANSION if path.name.endswith(".gz") else 1)
    if promised_size(image) > most:
        raise DataError(
            f"{path} is truncated, its header promises {promised_size(image)} bytes and it can hold "
            f"at most {most}: copy it again"
        )
    return image


def promised_size(image: nib.Nifti1Image) -> int:
    """Bytes that a file has before compression, by its header."""
    return image.dataobj.offset + int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize


def volume_count(image: nib.Nifti1Image) -> int:
    """Volumes of an image; a 3-D image is one."""
    return int(np.prod(image.shape[3:], dtype=np.int64))


def require_voxels(path: Path, image: nib.Nifti1Image) -> list[str]:
    """Make sure that every byte the header promises is there; memory is only asked for after that.

    Returns
    -------
    list of str
        What is there besides, one line each.

    Raises
    ------
    DataError
        The file is shorter than its header promises, or damaged.
    """
    promised = promised_size(image)
    content = Unpacked(path)
    try:
        size = sum(map(len, content)) if path.name.endswith(".gz") else path.stat().st_size
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): copy it again") from None
    if size < promised:
        raise DataError(
            f"{path} is truncated, its header promises {promised} bytes and it holds {size}: copy it again"
        )
    warnings = []
    if size > promised:
        warnings.append(f"{path}: {size - promised} bytes after the voxels its header promises are ignored")
    if content.trailing:
        warnings.append(f"{path}: bytes after the end of the gzip stream are ignored")
    return warnings


def grid_shape(image: nib.Nifti1Image) -> tuple[int, int, int]:
    """Spatial shape (X, Y, Z) of an image; a missing axis has length 1."""
    x, y, z = (*image.shape[:3], 1, 1)[:3]
    return x, y, z


class _Voxels:
    """Takes the bytes of an image file and puts its scaled values into volumes of an array."""

    def __init__(self, image: nib.Nifti1Image, signals: np.ndarray, volumes: slice) -> None:
        self._proxy = image.dataobj
        self._dtype = image.get_data_dtype()
        self._signals = signals
        self._flat = np.asarray(signals)[..., volumes].reshape(-1, order="F")
        self._skip = int(self._proxy.offset)
        self._pending = bytearray()
        self._done = 0
        self.infinite = 0

    def take(self, piece: bytes) -> None:
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        self._pending += memoryview(piece)[skipped:]
        while len(self._pending) >= BLOCK:
            self.convert()

    @property
    def complete(self) -> bool:
        """Whether every value of the array has come in."""
        return self._done == self._flat.size

    def convert(self) -> None:
        """Convert one block of what has come in, in the precision nibabel takes for it."""
        waiting = min(len(self._pending), BLOCK) // self._dtype.itemsize
        count = min(waiting, self._flat.size - self._done)
        raw = np.frombuffer(bytes(self._pending[: count * self._dtype.itemsize]), dtype=self._dtype)
        del self._pending[: count * self._dtype.itemsize]
        with np.errstate(over="ignore", invalid="ignore"):
            values = apply_read_scaling(raw, self._proxy.slope, self._proxy.inter).astype(self._flat.dtype)
        infinite = np.isinf(values)
        self.infinite += int(infinite.sum())
        values[infinite] = np.nan
        self._flat[self._done : self._done + count] = values
        self._done += count
        if self.complete:
            self._pending.clear()
        release(self._signals)


def read_signals(path: Path, image: nib.Nifti1Image, signals: np.ndarray, volumes: slice) -> list[str]:
    """Read the voxels of an image into an array, a few megabytes at a time.

    Parameters
    ----------
    path : Path
        File that :func:`require_voxels` has passed.
    image : nibabel.Nifti1Image
        The same file, opened.
    signals : ndarray, shape (X, Y, Z, N), float32 or float64
        In the order of Fortran, as from :func:`sicnn_app.system.memory.empty_series`.
    volumes : slice
        Volumes of ``signals`` that get the scaled values, NaN for whatever is not finite.

    Returns
    -------
    list of str
        What was assumed, one line each.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    voxels = _Voxels(image, signals, volumes)
    try:
        for piece in Unpacked(path):
            voxels.take(piece)
        voxels.convert()
        if not voxels.complete:
            raise EOFError("it has become shorter")
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): copy it again") from None
    warnings = []
    if len(image.shape) > 4:
        warnings.append(f"{path}: singleton dimensions of shape {image.shape} are dropped")
    if voxels.infinite:
        warnings.append(f"{path}: {voxels.infinite} infinite values are treated as missing")
    return warnings


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open an image that is to be read as a whole: a small file must not be able to ask for all memory.

    Raises
    ------
    MissingInputError, DataError
        See :func:`open_image`; also more than :data:`MAX_VOXELS` voxels.
    """
    image = open_image(path)
    if int(np.prod(image.shape, dtype=object)) > MAX_VOXELS:
        raise DataError(f"{path} promises {image.shape} voxels, more than any map has: make it again")
    return image


def read_values(path: Path, image: nib.Nifti1Image, dtype: type = np.float64) -> tuple[np.ndarray, list[str]]:
    """Values of an image of one volume, opened by :func:`open_volume`, shape (X, Y, Z), and what was assumed.

    Raises
    ------
    DataError
        The file is shorter than its header promises, or damaged.
    """
    values: np.ndarray = np.empty((*grid_shape(image), 1), dtype=dtype, order="F")
    warnings = require_voxels(path, image) + read_signals(path, image, values, slice(None))
    return values[..., 0], warnings


def read_volume(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """The same as float32, NaN where a value is not finite or beyond :data:`LARGEST_VALUE`."""
    volume, _ = read_values(path, image, np.float32)
    volume[np.abs(volume) > LARGEST_VALUE] = np.nan
    return volume
