"""The header of a NIfTI file and nothing else of it.

nibabel also reads what stands between header and voxels, which may unfold to gigabytes, and makes of a file
what that says it is. Here a file is NIfTI or refused.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from sicnn_app.bids.geometry import settle_position
from sicnn_app.bids.unpacked import Unpacked

NIFTI1_MAGIC = (b"n+1\0", b"ni1\0")
NIFTI2_MAGIC = (b"n+2\0", b"ni2\0")


def read_header(path: Path) -> tuple[nib.Nifti1Header, list[str]]:
    """Read the header of a NIfTI file.

    Parameters
    ----------
    path : Path

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
    if start[344:348] in NIFTI1_MAGIC:
        kind = nib.Nifti1Header
    elif start[4:8] in NIFTI2_MAGIC:
        kind = nib.Nifti2Header
    else:
        raise ImageFileError("it does not begin as NIfTI does")
    header = kind(start[: kind.sizeof_hdr], check=False)
    if not 1 <= header["dim"][0] <= 7:
        # The byte order is told by it, and everything else would be read wrongly.
        raise ImageFileError(f"{header['dim'][0]} dimensions")
    # nibabel puts 1 mm in the place of a voxel size that is missing: looked at before.
    notes = settle_position(path, header)
    header.check_fix()
    return header, notes


def image_of(path: Path, header: nib.Nifti1Header, notes: list[str]) -> nib.Nifti1Image:
    """The image of a file whose header was read; ``notes`` stand in its ``extra`` as ``position``."""
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    voxels = kind.ImageArrayProxy(str(path), header.copy())
    return kind(voxels, header.get_best_affine(), header, extra={"position": notes})
