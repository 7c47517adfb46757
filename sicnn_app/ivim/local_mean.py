"""Means and sums over the surroundings of voxels, within a mask."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter


def local_mean(volume: np.ndarray, mask: np.ndarray, width: float) -> np.ndarray:
    """Mean around every voxel of the mask, shape (V,), float32.

    It is that of the finite values of the mask in its slice, weighted by a Gaussian of ``width`` voxels; 0
    where there is none. ``volume`` and ``mask`` are of shape (X, Y, Z).
    """
    known = mask & np.isfinite(volume)
    widths = (width, width, 0)
    share = gaussian_filter(known.astype(np.float32), widths)[mask]
    total = gaussian_filter(np.where(known, volume, 0).astype(np.float32), widths)[mask]
    return np.divide(total, share, out=np.zeros_like(total), where=share > np.finfo(np.float32).eps)


def local_means(volumes: np.ndarray, mask: np.ndarray, width: float) -> np.ndarray:
    """:func:`local_mean` of volumes, shape (X, Y, Z, B), finite in the mask; shape (V, B), float32."""
    widths = (width, width, 0)
    share = gaussian_filter(mask.astype(np.float32), widths)[mask]
    means = np.empty((len(share), volumes.shape[3]), dtype=np.float32)
    for mean, volume in zip(means.T, np.moveaxis(volumes, 3, 0), strict=True):
        mean[:] = gaussian_filter(np.where(mask, volume, 0).astype(np.float32), widths)[mask] / share
    return means


def local_sum(volume: np.ndarray, mask: np.ndarray, width: float) -> np.ndarray:
    """Sum around every voxel of the mask, shape (V,), float32, itself with a weight of 1.

    It is that of the mask in its slice, weighted by a Gaussian of ``width`` voxels. ``volume`` and ``mask``
    are of shape (X, Y, Z), the former finite in the latter.
    """
    inside = np.where(mask, volume, 0).astype(np.float32)
    mean = gaussian_filter(inside, (width, width, 0))[mask]
    return np.asarray(mean * np.float32(2 * np.pi * width**2))
