"""MP-PCA of dipy, on several cores."""

from __future__ import annotations

import warnings

import numpy as np

from sicnn_app.system.helpers import helpers_allowed, serve, shared_out

LEAST_PATCHES = 8000
"""Of a process: about as long as two of them take to start."""


def denoise_patches(
    signals: np.ndarray, mask: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Signals without the principal components that are noise, and its standard deviation.

    Each value is a sum over the patches it belongs to, in the order of their places, so that parts of the
    image that hold all patches of their voxels give the same bits.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, N), not below 0
    mask : ndarray, shape (X, Y, Z), bool
        Centres of patches, and voxels that are wanted.
    radius : ndarray, shape (3,), int
        Half width of the patches.

    Returns
    -------
    denoised : ndarray, shape (X, Y, Z, N)
    sigma : ndarray, shape (X, Y, Z)
        NaN where patches have no noise; 0 outside the mask.
    """
    axis = int(np.argmax(mask.shape))
    before = np.cumsum(mask.sum(axis=tuple({0, 1, 2} - {axis})))
    count = min(1 + helpers_allowed(), int(before[-1]) // LEAST_PATCHES)
    if count < 2:
        return _denoise(signals, mask, radius)
    ends = np.searchsorted(before, before[-1] * np.arange(1, count) / count) + 1
    cuts = np.unique([0, *ends, mask.shape[axis]])
    margin = 2 * int(radius[axis])

    def along(start: int, stop: int) -> tuple[slice, ...]:
        return tuple(slice(start, stop) if one == axis else slice(None) for one in range(3))

    places, inner, parts = [], [], []
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        low, high = max(start - margin, 0), min(stop + margin, mask.shape[axis])
        places.append(along(start, stop))
        inner.append(along(start - low, stop - low))
        parts.append((signals[along(low, high)], mask[along(low, high)], radius))
    denoised, sigma = np.empty_like(signals), np.empty(mask.shape, dtype=signals.dtype)
    for place, part, found in zip(places, inner, shared_out(__name__, _denoise, parts), strict=True):
        denoised[place], sigma[place] = (one[part] for one in found)
    return denoised, sigma


def _denoise(signals: np.ndarray, mask: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from dipy.denoise.localpca import mppca

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        denoised, sigma = mppca(
            signals, mask=mask, patch_radius=radius, return_sigma=True, suppress_warning=True
        )
    return denoised, sigma


if __name__ == "__main__":
    serve(_denoise)
