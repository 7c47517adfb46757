"""Why a voxel is not to be trusted: one code per voxel, the first reason that holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sicnn_app.ivim.own_signals import Objections
from sicnn_app.ivim.parameters import PARAMETERS, TISSUE_LABELS

NEGLIGIBLE_F = 0.02
"""Perfusion fraction below which D* has no meaning (the blood signal is under 2 % of S0)."""

BOUND_MARGIN = 0.005
"""A parameter within this share of its interval from an end counts as at the bound."""

MAX_RELATIVE_SPREAD = {"f": 1.0, "d": 0.5, "dstar": 0.5}
"""Standard deviation over the value itself above which a map says little. On phantoms these fire in most
voxels that are wrong and few of those that are right (docs/uncertainty.md); F, which often is near 0, may be
known to within its own size."""

MIN_SIGNAL_TO_NOISE = 3.0
"""S0 / sigma below which Rician noise is no longer near Gaussian (Gudbjartsson and Patz 1995)."""


@dataclass(frozen=True)
class FlagSpec:
    """One reason: its code in the segmentation, name, meaning, and if statistics leave such voxels out.

    They do not for want of precision, which averaging makes good: leaving out what is large beside its
    standard deviation no more than what is small would bias every mean.
    """

    code: int
    name: str
    color: str
    description: str
    left_out: bool = True


FLAGS: tuple[FlagSpec, ...] = (
    FlagSpec(6, "saturated", "#000000", "Signal cut off at the largest value of the image in some volume"),
    FlagSpec(3, "dstar_undefined", "#56b4e9", "F below 0.02: D* has no meaning"),
    FlagSpec(
        1,
        "parameter_at_bound",
        "#e69f00",
        "F at its upper end, or D, S0 or, where F is at least 0.02, D* at an end, of the allowed interval",
    ),
    FlagSpec(
        2,
        "residual_above_noise",
        "#d55e00",
        "The signals are farther from the fitted decay than noise brings one voxel in a thousand",
    ),
    FlagSpec(
        7,
        "pulled_from_own_signals",
        "#882255",
        "The voxel's own signals call for other values, as noise makes those of one voxel in a thousand: the "
        "maps follow its neighbours",
    ),
    FlagSpec(
        4, "outside_noise_model", "#cc79a7", "S0 below 3 times the noise: the noise is not near Gaussian"
    ),
    FlagSpec(
        5,
        "no_similar_neighbour",
        "#009e73",
        "No similar neighbour in the search window besides the voxel itself",
    ),
    FlagSpec(
        8,
        "imprecise",
        "#f0e442",
        "Standard deviation of D or D* more than half of the value, or that of F more than F; counts in "
        "means and medians all the same",
        left_out=False,
    ),
)
"""Reasons in the order in which the first one that holds is written."""


def left_out(flags: np.ndarray) -> np.ndarray:
    """Voxels that statistics leave out, bool, of flags of any shape."""
    return np.isin(flags, [spec.code for spec in FLAGS if spec.left_out])


def at_bounds(
    maps: dict[str, np.ndarray],
    mask: np.ndarray,
    bounds: dict[str, tuple[float, float]],
    normaliser: np.ndarray,
) -> np.ndarray:
    """Voxels in which a parameter stopped at an end of its interval.

    F at 0 is an answer like any other, and D* is none where F is negligible. Beyond the end counts as well:
    the mean S0 of an ensemble is held against the measured normaliser, while those of its members were
    bounded by their own. Arguments are as for :func:`doubts`. False outside the mask.
    """
    relative = np.where(mask, maps["s0"], 0.0) / np.where(mask, normaliser, 1.0)
    found = np.zeros(mask.shape, dtype=bool)
    for label in PARAMETERS:
        values = relative if label == "s0" else maps[label]
        low, high = bounds[label]
        margin = BOUND_MARGIN * (high - low)
        ends = values >= high - margin
        if label != "f":
            ends |= values <= low + margin
        found |= ends & (maps["f"] >= NEGLIGIBLE_F) if label == "dstar" else ends
    return found & mask


def doubts(
    maps: dict[str, np.ndarray],
    mask: np.ndarray,
    bounds: dict[str, tuple[float, float]],
    sigma: float,
    objections: Objections,
    neighbour_count: np.ndarray | None,
    normaliser: np.ndarray,
    members_at_bound: np.ndarray | None = None,
    saturated: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Voxels for which each reason holds, shape (X, Y, Z), bool, by the names of :data:`FLAGS`.

    Parameters
    ----------
    maps : dict of str to ndarray, shape (X, Y, Z)
        ``f``, ``d``, ``dstar``, ``s0`` (source units) and, where they are known, standard deviations:
        ``f_std``, ``d_std``, ``dstar_std``.
    mask : ndarray, shape (X, Y, Z), bool
    bounds : dict
        Interval of ``f``, ``d`` and ``dstar``, and of ``s0`` relative to the normaliser.
    sigma : float
        Noise standard deviation of one volume, source units.
    objections : Objections
        What the voxels' own signals say against the maps.
    neighbour_count : ndarray, shape (X, Y, Z), or None
    normaliser : ndarray, shape (X, Y, Z)
        Signal at the lowest b-value, source units, above 0 inside the mask.
    members_at_bound : ndarray, shape (X, Y, Z), bool, optional
        Voxels in which at least half of the networks of an ensemble stopped at a bound, whatever their mean.
    saturated : ndarray, shape (X, Y, Z), bool, optional
        Voxels whose signal was cut off in some volume.
    """
    s0 = np.where(mask, maps["s0"], 0.0)
    nowhere = np.zeros_like(mask)
    stopped = nowhere if members_at_bound is None else members_at_bound
    reasons = {
        "saturated": nowhere if saturated is None else saturated,
        "dstar_undefined": maps["f"] < NEGLIGIBLE_F,
        "parameter_at_bound": at_bounds(maps, mask, bounds, normaliser) | stopped,
        "residual_above_noise": objections.not_described,
        "pulled_from_own_signals": objections.other_values,
        "outside_noise_model": s0 < MIN_SIGNAL_TO_NOISE * sigma,
        "imprecise": _imprecise(maps),
        "no_similar_neighbour": nowhere if neighbour_count is None else neighbour_count <= 1,
    }
    return {name: holds & mask for name, holds in reasons.items()}


def flag_voxels(reasons: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Label every voxel with the first reason not to trust it.

    Returns
    -------
    flags : ndarray, shape (X, Y, Z), uint8
        0 where nothing is flagged and outside the mask.
    counts : dict of str to int
        Voxels for which each reason holds, whether or not an earlier one does.
    """
    flags = np.zeros(next(iter(reasons.values())).shape, dtype=np.uint8)
    counts = {}
    for spec in FLAGS:
        holds = reasons[spec.name]
        counts[spec.name] = int(holds.sum())
        flags[holds & (flags == 0)] = spec.code
    return flags, counts


def _imprecise(maps: dict[str, np.ndarray]) -> np.ndarray:
    """Voxels in which a standard deviation is large beside its value; F and D* only where F is."""
    perfused = maps["f"] >= NEGLIGIBLE_F
    found = np.zeros(perfused.shape, dtype=bool)
    for label in TISSUE_LABELS:
        if f"{label}_std" in maps:
            wide = maps[f"{label}_std"] > MAX_RELATIVE_SPREAD[label] * maps[label]
            found |= wide if label == "d" else wide & perfused
    return found
