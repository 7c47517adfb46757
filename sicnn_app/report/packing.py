"""Numbers of voxels -> few bytes, as text that a page unpacks."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sicnn_app.report.display import Turned

LARGEST = 60_000.0
"""Of the numbers that a half can be."""

EFFORT = 6
"""Of gzip: more takes longer and saves no hundredth."""


@dataclass(frozen=True)
class Halves:
    """Numbers as multiples of a unit in half precision (IEEE 754 binary16), NaN where there is none.

    Two bytes hold three digits of everything down to a billionth of the largest number.

    Attributes
    ----------
    numbers : ndarray, shape (M,), float16
    unit : float
        In the unit of the numbers.
    """

    numbers: np.ndarray
    unit: float


def halve(values: np.ndarray) -> Halves:
    """Round finite numbers, shape (M,), to three digits.

    Examples
    --------
    >>> halves = halve(np.array([0.0, 0.5, np.nan, 1.0]))
    >>> (halves.numbers * halves.unit).tolist()
    [0.0, 0.5, nan, 1.0]
    """
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    largest = float(np.abs(wide[finite]).max()) if finite.any() else 0.0
    # A power of two, which adds no rounding of its own.
    unit = 2.0 ** np.ceil(np.log2(largest) - np.log2(LARGEST)) if largest > 0 else 1.0
    halves = np.full(wide.shape, np.nan, dtype="<f2")
    halves[finite] = wide[finite] / unit
    return Halves(halves, float(unit))


def pack_voxels(
    mask: np.ndarray,
    underlay: np.ndarray,
    codes: Iterable[np.ndarray],
    fields: Iterable[Halves],
    turned: Turned,
) -> str:
    """Everything about the voxels of a box as base64 of gzip.

    The first axis of the box runs fastest. There is a bit per voxel of the box (is it one of the mask?),
    rounded up to whole bytes; the underlay, a byte per voxel of the box; and then of the voxels of the mask
    for each of ``codes`` a byte, and for each field the lower bytes of all numbers, followed by the upper
    ones: alike as they are, these take least room next to each other.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
    underlay : ndarray, shape (X, Y, Z), uint8
    codes : iterable of ndarray, shape (M,), uint8
        At the M voxels of the mask, as for ``fields``.
    """
    position = np.full(mask.shape, -1, dtype=np.int64)
    position[mask] = np.arange(int(mask.sum()))
    order = turned.box(position).ravel(order="F")
    inside = order >= 0
    voxels = order[inside]
    parts = [
        np.packbits(inside).tobytes(),
        turned.box(underlay).ravel(order="F").tobytes(),
        *(code[voxels].astype(np.uint8).tobytes() for code in codes),
        *(field.numbers[voxels].view(np.uint8).reshape(-1, 2).T.tobytes() for field in fields),
    ]
    return packed(b"".join(parts))


def packed(content: bytes) -> str:
    """Bytes as base64 of gzip, the same every time."""
    return base64.b64encode(gzip.compress(content, EFFORT, mtime=0)).decode("ascii")


def first_voxel(mask: np.ndarray, preferred: np.ndarray) -> list[int]:
    """Where a reader starts: in the fullest slice, near the middle of what is preferred there.

    The volumes have the shape (X, Y, Z).
    """
    index = int(np.argmax(mask.sum(axis=(0, 1))))
    candidates = preferred[..., index] if preferred[..., index].any() else mask[..., index]
    pixels = np.argwhere(candidates)
    nearest = pixels[np.argmin(((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1))]
    return [*map(int, nearest), index]
