"""The refinement of maps by what signals say of all tissue, of similar voxels, and of every voxel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import PARAMETERS, TISSUE_LABELS
from sicnn_app.ivim.series import Evidence
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.settings import Bounds, EstimationSettings
from sicnn_app.sicnn.iterate import Progress
from sicnn_app.sicnn.posterior import ROUNDS, Posterior, noise_in_common, refine
from sicnn_app.sicnn.similar_means import similar_means

PRIOR = "the network's maps and those of one tissue everywhere, both by the mean signals of similar voxels"

OF_ONE_TISSUE = (0.1, 0.5, 0.5)
"""Departures of F, log D and log D* to begin with from the medians of all tissue."""

ROUNDS_OF_MEANS = 5
"""Of the posteriors by mean signals, which leave little to find of how far tissue departs: with 20 rounds
errors of F are 2 % larger."""

MET = ("f", "d")
"""What the second prior has a say in. Signals tell so little of D* that it stays near that of one tissue
there: organs were drawn together by a quarter to a half, compared with the network."""

SECOND_VARIANCE = 3.0
"""Times which its variances are taken. With 1 D of organs is up to 7 % worse than with the network's prior
alone, since it averages fewer voxels; with 2 to 6 at most 2 %."""

LEAST_SPREAD = 1e-6
"""Of F and log D; smaller standard deviations, of signals without noise, count as this."""

Maps = dict[str, np.ndarray]


def refined_maps(
    found: Estimate,
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    noise: np.ndarray,
    sigma: float,
    *,
    settings: EstimationSettings,
    evidence: Evidence,
    progress: Progress | None = None,
) -> Estimate:
    """Maps by each voxel's own signals, with a prior of two that err in different ways.

    A network is slow to learn what changes signals little, as F and D* of small structures do. So there is a
    second prior that has seen neither it nor denoised signals: the posterior of one tissue everywhere, of
    which each voxel departs as those around it. Both are refined by the mean evidence of the voxels that each
    finds similar in the whole image, and meet in F and D where their standard deviations put them.

    Parameters are those of :func:`sicnn_app.sicnn.estimate.estimate`.
    """
    bvals = np.asarray(bvals, dtype=np.float64)
    floor = sigma if settings.rician else 0.0
    done, total = count(1), 2 * (ROUNDS + ROUNDS_OF_MEANS)

    def tell() -> None:
        if progress is not None:
            progress("refinement", next(done), total)

    def posterior(maps: Maps, of: Evidence, **options: Any) -> Maps:
        bounds = settings.bounds
        return _in_volumes(
            _posterior(maps, of, signals, mask, bvals, bounds=bounds, progress=tell, **options), mask
        )

    def by_similar_voxels(maps: Maps, neighbours: np.ndarray | None) -> Maps:
        means, left, similar = similar_means(
            maps,
            evidence.signals,
            mask,
            bvals,
            sigma=sigma,
            noise=evidence.noise,
            settings=settings,
            unit=noise,
            in_common=noise_in_common(maps, evidence, mask, bvals, floor),
        )
        return posterior(
            maps,
            # Of the means the floor was taken off.
            Evidence(means, left, "mean signals of similar voxels"),
            neighbours=similar if neighbours is None else neighbours,
            rounds=ROUNDS_OF_MEANS,
        )

    typical = {label: np.where(mask, np.median(found.maps[label][mask]), np.nan) for label in TISSUE_LABELS}
    alone = posterior(
        {**typical, "s0": found.maps["s0"]},
        evidence,
        first=OF_ONE_TISSUE,
        floor=floor,
    )
    prior = _meeting(by_similar_voxels(found.maps, found.neighbour_count), by_similar_voxels(alone, None))
    final = refined(
        replace(found, maps={**found.maps, **prior}),
        signals,
        mask,
        bvals,
        evidence,
        bounds=settings.bounds,
        floor=floor,
        progress=tell,
    )
    return replace(final, parameters={**final.parameters, "refinement_prior": PRIOR})


def refined(
    estimate: Estimate,
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    evidence: Evidence,
    *,
    bounds: Bounds,
    floor: float = 0.0,
    progress: Callable[[], None] | None = None,
) -> Estimate:
    """An estimate whose maps were refined by the evidence, with standard deviations; its sidecar says how.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), units of the source image
        What the estimate was made of: residuals are those from them.
    floor : float
    progress : callable (), optional
        Both as for :func:`sicnn_app.sicnn.posterior.refine`.
    """
    found = _posterior(
        estimate.maps,
        evidence,
        signals,
        mask,
        bvals,
        neighbours=estimate.neighbour_count,
        bounds=bounds,
        floor=floor,
        progress=progress,
    )
    predicted = np.zeros_like(estimate.predicted)
    predicted[mask] = ivim_signal_maps(bvals, *(found.maps[label] for label in PARAMETERS))
    residual = (np.hypot(predicted[mask], floor) if floor else predicted[mask]) - signals[mask]
    maps = _in_volumes(found, mask)
    maps["rmse"] = np.full(mask.shape, np.nan, dtype=np.float32)
    maps["rmse"][mask] = np.sqrt(np.square(residual, dtype=np.float64).mean(axis=1)) / found.maps["s0"]
    departure = dict(zip(("f", "log_d", "log_dstar"), found.departure.tolist(), strict=True))
    record: dict[str, Any] = {
        "refinement_evidence": evidence.source,
        "refinement_rounds": ROUNDS,
        "refinement_departure_median": departure,
    }
    return replace(
        estimate,
        maps={**{label: maps[label] for label in estimate.maps if label in maps}, **maps},
        predicted=predicted,
        prior={label: estimate.maps[label] for label in PARAMETERS},
        members_at_bound=None,
        parameters={**estimate.parameters, **record},
    )


def _posterior(
    maps: Maps,
    evidence: Evidence,
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    neighbours: np.ndarray | None = None,
    **options: Any,
) -> Posterior:
    noise = np.broadcast_to(evidence.noise, evidence.signals.shape)
    return refine(
        evidence.signals[mask],
        noise[mask],
        bvals,
        {label: maps[label][mask] for label in PARAMETERS},
        mask,
        neighbours=np.ones(int(mask.sum())) if neighbours is None else neighbours[mask],
        normaliser=signals[..., 0][mask],
        **options,
    )


def _in_volumes(found: Posterior, mask: np.ndarray) -> Maps:
    """Maps and, with ``_std`` appended, standard deviations, shape (X, Y, Z), float32; NaN outside."""
    values = {**found.maps, **{f"{label}_std": spread for label, spread in found.std.items()}}
    volumes = {label: np.full(mask.shape, np.nan, dtype=np.float32) for label in values}
    for label, one in values.items():
        volumes[label][mask] = one
    return volumes


def _meeting(first: Maps, second: Maps) -> Maps:
    """Means of F and log D of two estimates, by the inverse of their variances; D* and S0 of the first."""
    met = {label: first[label] for label in PARAMETERS}
    for label in MET:
        values = np.stack([of[label] for of in (first, second)]).astype(np.float64)
        spread = np.stack([of[f"{label}_std"] for of in (first, second)]).astype(np.float64)
        if label != "f":
            values, spread = np.log(values), spread / values
        weights = np.maximum(spread, LEAST_SPREAD) ** -2
        weights[1] /= SECOND_VARIANCE
        mean = (weights * values).sum(axis=0) / weights.sum(axis=0)
        met[label] = (mean if label == "f" else np.exp(mean)).astype(np.float32)
    return met
