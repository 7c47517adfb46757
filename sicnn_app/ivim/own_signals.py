"""What a voxel's own signals say against the values of its maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import chdtri

from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.ivim.precision import signal_derivatives
from sicnn_app.ivim.signal import ivim_signal_maps

FALSE_ALARMS = 1e-3
"""Share of voxels whose noise alone makes one of the two appear."""

VOXELS_AT_ONCE = 2**14

NOT_SEEN = 1e-9
"""Squared cosine below which a combination of the parameters changes no signal."""


class Objections(NamedTuple):
    """Voxels whose own signals speak against the maps, shape (X, Y, Z), bool; False outside the mask.

    Attributes
    ----------
    not_described : ndarray
        No noise explains the distance of the signals to the bi-exponential of these values.
    other_values : ndarray
        The signals call for other values, which noise does not explain either.
    """

    not_described: np.ndarray
    other_values: np.ndarray


def objections(
    signals: np.ndarray,
    noise: np.ndarray,
    bvals: np.ndarray,
    maps: dict[str, np.ndarray],
    mask: np.ndarray,
    *,
    prior: dict[str, np.ndarray] | None = None,
) -> Objections:
    """Hold maps against the signals of every voxel alone, whatever was averaged for the maps.

    The first is the chi-square of the residuals with as many degrees of freedom as there are b-values beyond
    the four unknowns; with none to spare nobody objects. The second is Rao's score of the four values: what
    the best step away from them takes off chi-square, with four degrees of freedom. Maps that were fitted to
    the voxel have nothing to gain; those drawn to what its neighbours are like have, where they differ.

    Parameters
    ----------
    signals, noise : ndarray, shape (X, Y, Z, B), or (B,) for the noise, any unit
        Standard deviations independent between b-values; where one is 0 nobody objects.
    bvals : ndarray, shape (B,), s/mm^2
    maps : dict of str to ndarray, shape (X, Y, Z)
        f, d, dstar and s0, in the unit of the signals.
    prior : dict of str to ndarray, shape (X, Y, Z), optional
        The maps before they were refined, which then are those that the second is about.
    mask : ndarray, shape (X, Y, Z), bool

    Notes
    -----
    Rao, Proc Camb Phil Soc 1948;44:50-57.
    """
    own, spread = signals[mask], np.broadcast_to(noise, signals.shape)[mask]
    misfit, gain = np.empty((2, len(own)))
    described, asked = (
        np.stack([one[label][mask] for label in PARAMETERS], axis=1).astype(np.float64)
        for one in (maps, maps if prior is None else prior)
    )
    for start in range(0, len(own), VOXELS_AT_ONCE):
        part = slice(start, start + VOXELS_AT_ONCE)
        known = np.all(spread[part] > 0, axis=1, keepdims=True)
        scale = np.where(known, spread[part], np.inf)
        misfit[part] = np.square((own[part] - ivim_signal_maps(bvals, *described[part].T)) / scale).sum(
            axis=1
        )
        gain[part] = _gain(own[part], scale, bvals, asked[part])
    freedom = len(bvals) - len(PARAMETERS)
    # Quantiles of chi-square; scipy.stats, which names them, takes half a second to load.
    unlikely = [chdtri(count, FALSE_ALARMS) if count > 0 else np.inf for count in (freedom, len(PARAMETERS))]
    found = []
    for square, limit in zip((misfit, gain), unlikely, strict=True):
        volume = np.zeros(mask.shape, dtype=bool)
        volume[mask] = square > limit
        found.append(volume)
    return Objections(*found)


def _gain(signals: np.ndarray, scale: np.ndarray, bvals: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Chi-square that the best step of the four values takes off, shape (V,)."""
    slopes = signal_derivatives(bvals, *values.T)
    residual = (signals - slopes[..., -1] * values[:, -1:]) / scale
    slopes /= scale[..., None]
    # Of length 1, so that what is not seen shows.
    slopes /= np.maximum(np.sqrt(np.square(slopes).sum(axis=1, keepdims=True)), np.finfo(np.float64).tiny)
    pull = np.einsum("vbi,vb->vi", slopes, residual)
    normal = np.swapaxes(slopes, 1, 2) @ slopes + NOT_SEEN * np.eye(len(PARAMETERS))
    step = np.linalg.solve(normal, pull[..., None])[..., 0]
    return (pull * step).sum(axis=1)
