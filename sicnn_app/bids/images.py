"""Image files: what a header may say, and the voxels as floating-point numbers."""

from __future__ import annotations

import io
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from sicnn_app.bids.geometry import grid_shape, settle_position
from sicnn_app.bids.text_files import require_content
from sicnn_app.bids.unpacked import COMPRESSED, GZIP_MAGIC, MAX_EXPANSION, Unpacked
from sicnn_app.errors import DataError, one_line
from sicnn_app.files import open_regular
from sicnn_app.formats import shorten
from sicnn_app.system.memory import release

BLOCK = 1 << 18
"""Bytes of voxels converted at once, whole voxels of every type; as float64 they take up to 8 times that."""

NIFTI_MAGIC = {
    nib.Nifti1Image: (slice(344, 348), (b"n+1\0", b"ni1\0")),
    nib.Nifti2Image: (slice(4, 8), (b"n+2\0", b"ni2\0")),
}
"""Where the header of each kind of image says what it is, and how."""

MGH_EXTENSIONS = (".mgz", ".mgh")
"""Of FreeSurfer's format; segmentations may have it."""

MAX_VOXELS = 1 << 27
"""Of an image that is read as a whole; 512 x 512 x 512 are more than diffusion MRI has, half a gigabyte."""

LARGEST_VALUE = 1e15
"""Larger values were not measured, and its square is beyond float32."""

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
    if start == GZIP_MAGIC and not path.name.endswith(COMPRESSED):
        raise DataError(f"{path} is compressed with gzip, which its name does not say: rename it to .nii.gz")
    if start and start != GZIP_MAGIC and path.name.endswith(COMPRESSED):
        raise DataError(
            f"{path} cannot be read: it is not compressed with gzip, as its name says "
            "(if it is an image nevertheless, rename it to .nii)"
        )


def _open_nifti(path: Path) -> nib.Nifti1Image:
    """Image made of the header of a NIfTI file and nothing else of it: what is none is refused.

    nibabel also reads what stands between header and voxels, which may unfold to gigabytes, and makes of a
    file what that says it is.

    Raises one of :data:`READ_ERRORS` for what is none, and DataError without a position that can be used.
    """
    start = Unpacked(path).start(nib.Nifti2Header.sizeof_hdr)
    kind = next((kind for kind, (place, magic) in NIFTI_MAGIC.items() if start[place] in magic), None)
    if kind is None:
        raise ImageFileError("it does not begin as NIfTI does")
    header = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
    if not 1 <= header["dim"][0] <= 7:
        # The byte order is told by it, and everything else would be read wrongly.
        raise ImageFileError(f"{header['dim'][0]} dimensions")
    # nibabel puts 1 mm in the place of a voxel size that is missing: looked at before.
    notes = settle_position(path, header)
    header.check_fix()
    voxels = kind.ImageArrayProxy(str(path), header.copy())
    if voxels.offset < header.sizeof_hdr:
        # nibabel checks this only of what calls itself a single file.
        raise DataError(
            f"{path} says that its voxels start in its header, at byte {voxels.offset}: convert it again"
        )
    return kind(voxels, header.get_best_affine(), header, extra={"position": notes})


def _open_mgh(path: Path) -> nib.Nifti1Image:
    """Image of FreeSurfer's format as one of NIfTI, of its header alone; raises as :func:`_open_nifti`."""
    start = Unpacked(path).start(nib.MGHImage.header_class.template_dtype.itemsize)
    try:
        stated = nib.MGHImage.header_class.from_fileobj(io.BytesIO(start))
        shape, dtype = stated.get_data_shape(), stated.get_data_dtype()
    except (MGHError, KeyError, TypeError) as error:
        raise ImageFileError(f"it does not begin as FreeSurfer's images do: {error}") from None
    # As its voxels are.
    header = nib.Nifti1Header(endianness=">")
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(stated.get_affine(), code="scanner" if stated["goodRASFlag"] > 0 else "unknown")
    notes = settle_position(path, header)
    voxels = ArrayProxy(str(path), (shape, dtype, stated.get_data_offset(), 1.0, 0.0))
    return nib.Nifti1Image(voxels, header.get_best_affine(), header, extra={"position": notes})


def open_image(path: Path) -> nib.Nifti1Image:
    """Open an image and check all that its header tells; nothing but the header is read.

    A ``Nifti2Image`` for NIfTI-2; without the extensions of its header. Of its position only what can be used
    is left; ``extra["position"]`` lists what was wrong, see :func:`sicnn_app.bids.geometry.settle_position`.

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
        image = _open_mgh(path) if path.name.endswith(MGH_EXTENSIONS) else _open_nifti(path)
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
    most = path.stat().st_size * (MAX_EXPANSION if path.name.endswith(COMPRESSED) else 1)
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

    Returns what is there besides, one line each; raises DataError for a file that is shorter, or damaged.
    """
    promised = promised_size(image)
    content = Unpacked(path)
    try:
        size = sum(map(len, content)) if path.name.endswith(COMPRESSED) else path.stat().st_size
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): copy it again") from None
    if size < promised:
        raise DataError(
            f"{path} is truncated, its header promises {promised} bytes and it holds {size}: copy it again"
        )
    warnings = []
    # FreeSurfer writes its history there.
    if size > promised and not path.name.endswith(MGH_EXTENSIONS):
        warnings.append(f"{path}: {size - promised} bytes after the voxels its header promises are ignored")
    if content.trailing:
        warnings.append(f"{path}: bytes after the end of the gzip stream are ignored")
    return warnings


def _blocks(pieces: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """The bytes after the first ``skip``, :data:`BLOCK` bytes at a time and the rest at the end."""
    pending = bytearray()
    for piece in pieces:
        pending += memoryview(piece)[skip:]
        skip -= min(skip, len(piece))
        while len(pending) >= BLOCK:
            yield bytes(pending[:BLOCK])
            del pending[:BLOCK]
    yield bytes(pending)


def read_signals(path: Path, image: nib.Nifti1Image, signals: np.ndarray, volumes: slice) -> list[str]:
    """Read the voxels of an image into an array, a few megabytes at a time.

    Returns what was assumed, one line each; raises DataError for a file that cannot be read.

    Parameters
    ----------
    path, image
        A file that :func:`require_voxels` has passed, and the same opened.
    signals : ndarray, shape (X, Y, Z, N), float32 or float64
        In the order of Fortran, as from :func:`sicnn_app.system.memory.empty_series`.
    volumes : slice
        Volumes of ``signals`` that get the scaled values, NaN for whatever is not finite.
    """
    dtype, scaling = image.get_data_dtype(), (image.dataobj.slope, image.dataobj.inter)
    flat = np.asarray(signals)[..., volumes].reshape(-1, order="F")
    done = infinite = 0
    try:
        # Gone through to its end, beyond the last voxel: its hash is that of the whole file.
        for block in _blocks(Unpacked(path), int(image.dataobj.offset)):
            count = min(len(block) // dtype.itemsize, flat.size - done)
            raw = np.frombuffer(block[: count * dtype.itemsize], dtype=dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                # In the precision that nibabel takes for it.
                values = apply_read_scaling(raw, *scaling).astype(flat.dtype)
            infinite += int(np.isinf(values).sum())
            values[np.isinf(values)] = np.nan
            flat[done : done + count] = values
            done += count
            release(signals)
        if done < flat.size:
            raise EOFError("it has become shorter")
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): copy it again") from None
    warnings = []
    if len(image.shape) > 4:
        warnings.append(f"{path}: singleton dimensions of shape {image.shape} are dropped")
    if infinite:
        warnings.append(f"{path}: {infinite} infinite values are treated as missing")
    return warnings


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open an image that is to be read as a whole: a small file must not be able to ask for all memory.

    Raises as :func:`open_image`, and DataError for more than :data:`MAX_VOXELS` voxels.
    """
    image = open_image(path)
    if int(np.prod(image.shape, dtype=object)) > MAX_VOXELS:
        raise DataError(f"{path} promises {image.shape} voxels, more than any map has: make it again")
    return image


def read_values(path: Path, image: nib.Nifti1Image, dtype: type = np.float64) -> tuple[np.ndarray, list[str]]:
    """Values of an image of one volume, opened by :func:`open_volume`, shape (X, Y, Z), and what was assumed.

    Raises DataError for a file that is shorter than its header promises, or damaged.
    """
    values: np.ndarray = np.empty((*grid_shape(image), 1), dtype=dtype, order="F")
    warnings = require_voxels(path, image) + read_signals(path, image, values, slice(None))
    return values[..., 0], warnings


def read_volume(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """The same as float32, NaN where a value is not finite or beyond :data:`LARGEST_VALUE`."""
    volume, _ = read_values(path, image, np.float32)
    volume[np.abs(volume) > LARGEST_VALUE] = np.nan
    return volume
