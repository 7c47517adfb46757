"""A short simulation: what least squares and SI-CNN make of one noisy phantom, tissue by tissue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sicnn_app.ivim.parameters import TISSUE_LABELS
from sicnn_app.methods import LEAST_SQUARES, METHODS, estimator
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.phantoms.tissues import Tissue
from sicnn_app.settings import EstimationSettings

COMPARED = (LEAST_SQUARES, "si-cnn")
"""Methods that are tried."""

_TITLES = {method: METHODS[method].title for method in COMPARED}
NAMES = {method: title if title.isupper() else title.lower() for method, title in _TITLES.items()}
"""Their names within a sentence."""


@dataclass(frozen=True)
class Errors:
    """Root mean square and mean of the errors over the voxels of a tissue, in the unit of the map.

    NaN where the tissue has no voxel in the phantom.
    """

    root_mean_square: float = math.nan
    mean: float = math.nan


def try_methods(
    phantom: Phantom,
    volumes: np.ndarray,
    tissues: tuple[Tissue, ...],
    *,
    snr: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[tuple[str, str], Errors]]:
    """Errors of the maps of one noisy phantom, by method, then by name of the tissue and label.

    Volumes of one b-value are averaged; nothing is denoised, and the methods are told the true noise.

    Parameters
    ----------
    volumes : ndarray, shape (N,), s/mm^2, ascending
        b-value of every volume.
    snr : float
        As :data:`sicnn_app.phantoms.acquire.SNR_DEFINITION`.
    seed : int
        Of the noise and of the training.
    """
    bvals, index, count = np.unique(volumes, return_inverse=True, return_counts=True)
    noisy = acquire(phantom, volumes, snr=snr, seed=[seed, 1])
    averages = [noisy[..., index == position].mean(axis=-1) for position in range(bvals.size)]
    signals = np.stack(averages, axis=-1).astype(np.float32)
    sigma = noise_sigma(phantom, snr)
    mask = phantom.mask & (signals[..., 0] > 0)
    found = {}
    for method in COMPARED:
        estimate = estimator(method).estimate(
            signals,
            mask,
            bvals,
            noise=sigma / np.sqrt(count),
            sigma=sigma,
            settings=EstimationSettings(method=method, random_seed=seed),
            progress=progress,
        )
        found[method] = {
            (tissue.name, label): _errors(
                estimate.maps[label], getattr(phantom, label), mask & (phantom.labels == tissue.code)
            )
            for tissue in tissues
            for label in TISSUE_LABELS
        }
    return found


def _errors(found: np.ndarray, truth: np.ndarray, voxels: np.ndarray) -> Errors:
    if not voxels.any():
        return Errors()
    difference = found[voxels].astype(np.float64) - truth[voxels]
    return Errors(float(np.sqrt(np.mean(difference**2))), float(difference.mean()))
