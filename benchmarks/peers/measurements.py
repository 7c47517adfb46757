"""Accuracy of one fit on one truth, and its agreement between halves of measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.averages import Agreement, foreground, measured_halves
from benchmarks.accuracy.refinement import measured, prepared_of
from benchmarks.common.metrics import LABELS, map_errors
from benchmarks.peers.fits import PEERS, Environment, Fit, fit_peer, stratified_sample, within_bounds
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.preprocess.steps import Prepared

SIGNALS = {"denoised": "mppca", "raw": "none"}
"""Name to how they are denoised."""

TABLES = ("all", "sample")
"""Voxels of the mask that errors are taken over."""


@dataclass(frozen=True)
class Simulation:
    """One measurement of a truth.

    Attributes
    ----------
    truth : str
        Key of :data:`benchmarks.common.truths.TRUTHS`.
    snr : float
        Of a single volume.
    seed : int
    volumes : int
        Per b-value.
    shape : tuple of int
    """

    truth: str
    snr: float
    seed: int
    volumes: int
    shape: tuple[int, int, int]


@lru_cache(maxsize=64)
def prepared_truth(one: Simulation) -> tuple[Phantom, np.ndarray, dict[str, Prepared]]:
    """The truth, the mask that holds for all fits, and the signals by their names."""
    phantom, series, options = measured(one.truth, one.snr, one.seed, one.volumes, one.shape)
    found = {name: prepared_of(series, phantom.mask, denoise, **options) for name, denoise in SIGNALS.items()}
    return phantom, np.logical_and(*(each.averaged.mask for each in found.values())), found


def fit_truth(
    peer: str, environment: Environment, one: Simulation, signals: str, sample: int, **others: Any
) -> dict[str, Any]:
    """Root mean square errors of F, D and D* in every table that the fitted voxels cover, and costs."""
    phantom, mask, found = prepared_truth(one)
    voxels = {"all": mask, "sample": stratified_sample(phantom.labels, mask, sample, one.seed)}
    slow = PEERS[peer].slow
    chosen = voxels["sample" if slow else "all"]
    fit = fit_prepared(peer, environment, found[signals], chosen, one.seed, **others)
    maps, outside = within_bounds(fit.maps)
    tables = TABLES[1:] if slow else TABLES
    errors = {name: map_errors(phantom, mask, maps, only=voxels[name]) for name in tables}
    return {
        **costs_of(fit),
        "epochs": fit.epochs,
        "outside": float(outside[voxels[tables[0]]].mean()),
        "errors": {name: [each[f"rmse_{label}"] for label in LABELS] for name, each in errors.items()},
    }


def costs_of(fit: Fit) -> dict[str, float]:
    """What a fit took."""
    return {name: getattr(fit, name) for name in ("seconds", "training", "memory", "voxels")}


def fit_prepared(
    peer: str, environment: Environment, given: Prepared, voxels: np.ndarray, seed: int, **others: Any
) -> Fit:
    """A fit of prepared signals, with those before denoising for whom they help."""
    averaged = given.averaged
    return fit_peer(
        environment, peer, averaged, voxels, seed, evidence=given.evidence, volumes=averaged.repeats, **others
    )


@lru_cache(maxsize=16)
def prepared_halves(
    data: Path, run: str, signals: str
) -> tuple[list[DwiSeries], list[Prepared], np.ndarray, np.ndarray]:
    """Both halves of a run, the same prepared, the voxels of its organs, and those that are fitted."""
    ((halves, organs),) = measured_halves(data, runs=[run])
    found = [
        prepared_of(half, foreground(half) | organs, SIGNALS[signals], anatomy="body", average="auto")
        for half in halves
    ]
    mask = np.logical_and(*(each.averaged.mask for each in found))
    return halves, found, organs & mask, mask


def fit_halves(
    peer: str,
    environment: Environment,
    data: Path,
    runs: Sequence[str],
    signals: str,
    seed: int,
    *,
    epochs: Sequence[int] | None = None,
    kept: Path,
) -> dict[str, Any]:
    """wCV of F, D and D* over the organs of all runs, and the difference to single volumes of the other half.

    What a fit predicts has the S0 that is the least-squares one of the signals it was given, for all alike:
    packages differ in which S0 they hand back, or hand back none.
    """
    agreement, taken = Agreement(), []
    given_epochs = iter(epochs or ())
    for run in runs:
        halves, found, organs, mask = prepared_halves(data, run, signals)
        voxels, both = organs if PEERS[peer].voxelwise else mask, []
        for each in found:
            others: dict[str, Any] = {"epochs": next(given_epochs)} if epochs else {}
            fit = fit_prepared(peer, environment, each, voxels, seed, kept=kept, **others)
            taken.append(fit.epochs)
            maps, _ = within_bounds(fit.maps)
            both.append({**maps, "s0": least_squares_s0(maps, each)})
        level = np.mean([each.averaged.signals[organs, 0] for each in found], axis=0)
        agreement.add(both, halves, organs, level)
    return {"numbers": [float(number) for number in agreement.numbers], "epochs": taken}


def least_squares_s0(maps: dict[str, np.ndarray], given: Prepared) -> np.ndarray:
    """S0 that fits the signals best where F, D and D* are as they are; shape (X, Y, Z)."""
    averaged = given.averaged
    curve = ivim_signal_maps(averaged.bvals, *(maps[label] for label in LABELS))
    return (curve * averaged.signals).sum(axis=-1) / np.square(curve).sum(axis=-1)
