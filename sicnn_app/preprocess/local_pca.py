"""MP-PCA on several cores: the arithmetic of dipy, bit for bit, without most of what Python adds to it.

dipy takes a patch at a time. Here a row of patches is one operation, but for the eigenvectors, whose routine
in scipy takes one matrix: that is two and a half times as fast at a dozen volumes.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.lapack import get_lapack_funcs

from sicnn_app.system.helpers import helpers_allowed, serve, shared_out

LEAST_VALUES = 250_000
"""Patches times volumes of a process: about as long as two of them take to start."""


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

    References
    ----------
    Veraart et al., NeuroImage 2016;142:394-406, as in ``dipy.denoise.localpca.mppca``; Manjon et al.,
    PLoS ONE 2013;8:e73021 (averages of the patches of a voxel).
    """
    axis = int(np.argmax(mask.shape))
    before = np.cumsum(mask.sum(axis=tuple({0, 1, 2} - {axis})))
    count = min(1 + helpers_allowed(), int(before[-1]) * signals.shape[3] // LEAST_VALUES)
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
    size_x, size_y, size_z = (2 * radius + 1).tolist()
    voxels, volumes = size_x * size_y * size_z, signals.shape[3]
    centres = mask[tuple(slice(edge, length - edge) for edge, length in zip(radius, mask.shape, strict=True))]
    limit = (1 + np.sqrt(volumes / voxels)) ** 2
    total, weight, variance = (np.zeros_like(signals[..., :last]) for last in (volumes, 1, 1))
    for z in range(centres.shape[2]):
        for y in range(centres.shape[1]):
            x = np.flatnonzero(centres[:, y, z])
            if not x.size:
                continue
            around = slice(y, y + size_y), slice(z, z + size_z)
            values = np.stack([signals[x + offset, *around] for offset in range(size_x)], axis=1)
            values = values.reshape(x.size, voxels, volumes)
            mean = values.mean(axis=1, keepdims=True)
            values -= mean
            powers, components = _components(values.swapaxes(1, 2) @ values / voxels)
            level = _noise_level(powers, voxels)
            is_noise = powers < limit * level[:, None]
            # Eigenvalues rise, so that those below come first.
            count = is_noise.sum(axis=1)
            components[np.arange(volumes) < count[:, None]] = 0
            clean = values @ components.swapaxes(1, 2) @ components + mean
            share = (1 / (1.0 + volumes - count))[:, None, None, None]
            clean = clean.reshape(x.size, size_x, size_y, size_z, volumes) * share[:, None]
            # A voxel gets what its patches say in the order of their places.
            for offset in reversed(range(size_x)):
                place = (x + offset, *around)
                total[place] += clean[:, offset]
                weight[place] += share
                variance[place] += level[:, None, None, None] * share
    with np.errstate(divide="ignore", invalid="ignore"):
        denoised, sigma = (total / weight).clip(min=0), np.sqrt(variance / weight)[..., 0]
    denoised[~mask], sigma[~mask] = 0, 0
    return denoised, sigma


def _components(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, shape (P, N), rising, and eigenvectors in rows, shape (P, N, N), of P matrices."""
    routine, workspace = get_lapack_funcs(("syevr", "syevr_lwork"), (covariances,))
    count, size, _ = covariances.shape
    lwork, liwork, _ = map(int, workspace(size, lower=True))
    powers, components = np.empty((count, size), covariances.dtype), np.empty_like(covariances)
    for place, one in enumerate(covariances):
        powers[place], vectors, *_, info = routine(one, lower=True, lwork=lwork, liwork=liwork)
        if info != 0:
            raise LinAlgError("the eigenvectors of a patch were not found")
        components[place] = vectors.T
    return powers, components


def _noise_level(powers: np.ndarray, voxels: int) -> np.ndarray:
    """Variance of the noise of patches: the mean of the eigenvalues whose range noise alone explains.

    Eigenvalues rise, shape (P, N). The level has the shape (P,).
    """
    powers = powers[:, -min(powers.shape[1], voxels - 1) :]
    level, wide = powers.mean(axis=1), np.arange(len(powers))
    for last in reversed(range(powers.shape[1])):
        width = powers[wide, last] - powers[wide, 0]
        wide = wide[width - 4 * np.sqrt((last + 1.0) / voxels) * level[wide] > 0]
        if not wide.size:
            break
        # Rounding leaves less than nothing of patches that are the same in every voxel.
        level[wide] = powers[wide, :last].mean(axis=1) if last else np.nan
    return level


if __name__ == "__main__":
    serve(_denoise)
