"""Which way the slices of an image lie."""

from __future__ import annotations


def find_slice_axis(shape: tuple[int, ...]) -> int:
    """Axis across the slices: the one with the fewest voxels, the last of equals.

    Examples
    --------
    >>> find_slice_axis((3, 64, 60)), find_slice_axis((64, 64, 64))
    (0, 2)
    """
    return max(range(3), key=lambda axis: (-shape[axis], axis))
