"""Numbers of voxels -> few bytes, slice by slice, for a page that reads single voxels from them.

The bytes are not compressed: measured signals and maps are mostly noise, which deflate shortens by a
twentieth only, and the page can then look up one number without unpacking anything.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sicnn_app.report.display import Display

CODE_BYTES = (2, 1)
"""Bytes of a number, the finest first."""

MISSING_CODE = 0
"""Code of a voxel without a number."""


@dataclass(frozen=True)
class Quantised:
    """Numbers as whole codes: ``low + (code - 1) * step``, and :data:`MISSING_CODE` where there is none.

    Attributes
    ----------
    codes : ndarray, shape (M,), uint8 or uint16
    low, step : float
        In the unit of the numbers; a number is at most half a step from what its code means.
    """

    codes: np.ndarray
    low: float
    step: float


def quantise(values: np.ndarray, code_bytes: int) -> Quantised:
    """Spread codes evenly over the range of the finite values.

    Parameters
    ----------
    values : ndarray, shape (M,)
    code_bytes : {1, 2}

    Examples
    --------
    >>> quantise(np.array([0.0, 0.5, np.nan, 1.0]), 1).codes.tolist()
    [1, 128, 0, 255]
    """
    top = 256**code_bytes - 1
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    low, high = (float(wide[finite].min()), float(wide[finite].max())) if finite.any() else (0.0, 0.0)
    step = (high - low) / (top - 1)
    codes = np.full(wide.shape, MISSING_CODE, dtype=f"<u{code_bytes}")
    codes[finite] = 1 if step == 0 else 1 + np.rint((wide[finite] - low) / step)
    return Quantised(codes, low, step)


def plan_packing(
    mask: np.ndarray, display: Display, fields: int, max_bytes: int
) -> tuple[tuple[int, ...], int]:
    """Indices of slices along the third array axis, and bytes of a number, whose text stays within a size.

    First numbers get one byte instead of two; if that is not enough, every second slice is left out,
    then two of three, and so on.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
        With at least one voxel.
    fields : int
        Numbers per voxel.
    max_bytes : int
        Of all slices together as text; a single slice is packed even if it is larger.
    """
    area = mask.sum(axis=(0, 1))
    occupied = np.flatnonzero(area)
    pixels = display.picture(mask[..., 0]).size
    fine, coarse = CODE_BYTES
    for step, code_bytes in [(1, fine), *((step, coarse) for step in range(1, occupied.size + 1))]:
        slices = tuple(int(index) for index in occupied[::step])
        size = sum(_text_size(pixels, int(area[index]), fields, code_bytes) for index in slices)
        if size <= max_bytes:
            break
    return slices, code_bytes


def _text_size(pixels: int, voxels: int, fields: int, code_bytes: int) -> int:
    size = -(-pixels // 8) + pixels + voxels * (1 + fields * code_bytes)
    return 4 * -(-size // 3)


def pack_slices(
    mask: np.ndarray,
    underlay: np.ndarray,
    flags: np.ndarray,
    fields: Sequence[Quantised],
    display: Display,
    slices: Sequence[int],
) -> list[str]:
    """Bytes of every slice as base64.

    One slice holds, its pixels in rows from the top as they are shown: a bit per pixel (is it a voxel of the
    mask?), rounded up to whole bytes; the underlay, a byte per pixel; the flags, a byte per voxel
    of the mask; and for each field the codes of these voxels, little-endian.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
    underlay : ndarray, shape (X, Y, Z), uint8
    flags : ndarray, shape (M,), uint8
        At the M voxels of the mask, as for ``fields``.
    """
    position = np.full(mask.shape, -1, dtype=np.int64)
    position[mask] = np.arange(int(mask.sum()))
    texts = []
    for index in slices:
        shown = display.picture(position[..., index])
        inside = shown >= 0
        voxels = shown[inside]
        parts = [
            np.packbits(inside).tobytes(),
            display.picture(underlay[..., index]).tobytes(),
            flags[voxels].astype(np.uint8).tobytes(),
            *(quantised.codes[voxels].tobytes() for quantised in fields),
        ]
        texts.append(base64.b64encode(b"".join(parts)).decode("ascii"))
    return texts


def first_voxel(
    mask: np.ndarray, preferred: np.ndarray, display: Display, slices: Sequence[int]
) -> dict[str, int]:
    """Where a reader starts: in the fullest slice, near the middle of what is preferred there.

    ``slice`` is a position in ``slices``, ``row`` and ``column`` are those of the picture. The volumes have
    the shape (X, Y, Z).
    """
    place = int(np.argmax(mask[..., list(slices)].sum(axis=(0, 1))))
    index = slices[place]
    candidates = preferred[..., index] if preferred[..., index].any() else mask[..., index]
    pixels = np.argwhere(display.picture(candidates))
    row, column = pixels[np.argmin(((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1))]
    return {"slice": place, "row": int(row), "column": int(column)}
