"""The computations behind figures and tables: decided by their fields alone, with results for JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.methods import epochs_of, timed, with_all_methods
from benchmarks.common.metrics import LABELS, map_errors
from benchmarks.common.pool import Job
from benchmarks.common.scenarios import SCHEMES, Measurement, Scenario, measure
from benchmarks.supplement.in_vivo import in_vivo_phantom
from benchmarks.supplement.signal_quality import SignalQuality, group_by_fitting_error, signal_quality
from sicnn_app.ivim.maps import Estimate, Observation
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import NORMALISED_LIMITS

EDGES = tuple(round(0.02 * step, 2) for step in range(16))
"""Of the Fitting Error intervals of Figure 2, relative to the normaliser."""

REPORTED_EVERY = 20
"""Epochs between reported ones, from epoch 10 on, as in the supplement."""

OBSERVED_EVERY = 10
"""Epochs between observations of a plain network; the converged epoch is rounded to one of them."""

STORED_DIGITS = 4
"""Significant digits of stored maps."""


@dataclass(frozen=True)
class AllMethods(Job):
    """Every method on one phantom; cnn has the epochs that si-cnn took.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        But for method, seed and epochs.
    shown_slice : int or None
        Slice whose maps are stored, in the voxels of the mask.
    """

    scenario: Scenario
    settings: EstimationSettings
    shown_slice: int | None = None

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        found = with_all_methods(measured, replace(self.settings, random_seed=self.scenario.seed))
        return {method: self._stored(measured, *rest) for method, rest in found.items()}

    def _stored(self, measured: Measurement, estimate: Estimate, seconds: float) -> dict[str, Any]:
        result = summary(measured, estimate, seconds)
        if self.shown_slice is None:
            return result
        shown = measured.mask[:, :, self.shown_slice]
        maps = {
            label: [
                float(f"{value:.{STORED_DIGITS}g}")
                for value in estimate.maps[label][:, :, self.shown_slice][shown]
            ]
            for label in LABELS
        }
        return {**result, "maps": maps}


@dataclass(frozen=True)
class InVivo(Job):
    """Every method on noisy signals of maps that were estimated from a measured abdomen.

    Attributes
    ----------
    data : str
        Folder of the dataset.
    run : str
    truth : {'lsq', 'si-cnn'}
        Method whose maps are the truth.
    snr : float
    seed : int
        Of noise and training.
    scheme : str
        Key of :data:`benchmarks.common.scenarios.SCHEMES` without repeats.
    settings : EstimationSettings
    """

    data: str
    run: str
    truth: str
    snr: float
    seed: int
    scheme: str
    settings: EstimationSettings

    def compute(self) -> dict[str, Any]:
        phantom = in_vivo_phantom(Path(self.data), self.run, replace(self.settings, method=self.truth))
        bvals = np.array(SCHEMES[self.scheme][0], dtype=np.float64)
        signals = acquire(phantom, bvals, snr=self.snr, seed=self.seed).astype(np.float32)
        sigma = noise_sigma(phantom, self.snr)
        measured = Measurement(
            phantom=phantom,
            signals=signals,
            clean=acquire(phantom, bvals).astype(np.float32),
            mask=phantom.mask & (signals[..., 0] > 0),
            bvals=bvals,
            sigma=sigma,
            noise=np.full(bvals.size, sigma),
        )
        found = with_all_methods(measured, replace(self.settings, random_seed=self.seed))
        return {method: summary(measured, *rest) for method, rest in found.items()}


@dataclass(frozen=True)
class Training(Job):
    """One training of a network, observed after every data iteration, or every few epochs of a plain one.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        But for the seed.
    """

    scenario: Scenario
    settings: EstimationSettings

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        clean = normalised(measured, measured.clean)
        iterations = []

        def observe(seen: Observation) -> None:
            errors = map_errors(measured.phantom, measured.mask, seen.maps)
            training = normalised(measured, seen.training_signals) - clean
            iterations.append(
                {
                    **{f"rmse_{label}": errors[f"rmse_{label}"] for label in LABELS},
                    "rmse_signals": float(np.sqrt(np.mean(training**2))),
                    "data_iteration": seen.data_iteration,
                    "epochs": seen.epochs,
                }
            )

        settings = replace(self.settings, random_seed=self.scenario.seed)
        estimate, seconds = timed(measured, settings, observe)
        changes = {row["data_iteration"]: row["training_signal_change"] for row in estimate.history}
        return {
            **summary(measured, estimate, seconds),
            "iterations": [{**row, "change": changes[row["data_iteration"]]} for row in iterations],
            "losses": [list(row) for row in estimate.losses],
            "validation_losses": [list(row) for row in estimate.validation_losses],
        }


@dataclass(frozen=True)
class Quality(Job):
    """Noise, Recon Error and their groups by Fitting Error over the epochs of a plain network.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        Of the plain network, with its epochs, but for the seed.
    grouped : tuple of int
        Epochs whose signals are grouped, besides the converged one: where si-cnn would rewrite first.
    """

    scenario: Scenario
    settings: EstimationSettings
    grouped: tuple[int, ...]

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        settings = replace(self.settings, random_seed=self.scenario.seed)
        first, _ = timed(measured, replace(settings, method="si-cnn", epochs=None, max_iterations=0))
        converged = OBSERVED_EVERY * round(epochs_of(first) / OBSERVED_EVERY)
        clean = normalised(measured, measured.clean)
        noisy = np.clip(normalised(measured, measured.signals), *NORMALISED_LIMITS)
        epochs, groups, q_n = [], {}, 0.0

        def observe(seen: Observation) -> None:
            nonlocal q_n
            wanted = seen.epochs in (*self.grouped, converged)
            if not wanted and not self._reported(seen.epochs):
                return
            quality = signal_quality(normalised(measured, seen.predicted), noisy, clean)
            q_n = quality.q_n
            if self._reported(seen.epochs):
                errors = map_errors(measured.phantom, measured.mask, seen.maps)
                rmse = {f"rmse_{label}": errors[f"rmse_{label}"] for label in LABELS}
                epochs.append({"epoch": seen.epochs, "q_p": quality.q_p, **rmse})
            if wanted:
                groups[str(seen.epochs)] = grouped(quality)

        timed(measured, replace(settings, epochs=max(settings.epochs, converged)), observe)
        return {"q_n": q_n, "epochs": epochs, "groups": groups, "converged": converged}

    def _reported(self, epoch: int) -> bool:
        """Epoch 1, epoch 10 and every 20 from there; the same ones for every seed."""
        return epoch <= self.settings.epochs and (epoch == 1 or epoch % REPORTED_EVERY == OBSERVED_EVERY)


def grouped(quality: SignalQuality) -> dict[str, list]:
    """Count, mean Noise, Recon Error and Delta of every interval of :data:`EDGES`; None for empty ones."""
    groups = group_by_fitting_error(quality, EDGES)
    means = {
        "noise": groups.mean_noise,
        "recon_error": groups.mean_recon_error,
        "delta": groups.mean_delta,
    }
    return {
        "count": groups.count.tolist(),
        **{
            name: [float(value) if np.isfinite(value) else None for value in values]
            for name, values in means.items()
        },
    }


def normalised(measured: Measurement, signals: np.ndarray) -> np.ndarray:
    """Signals of the mask, shape (V, B), relative to the noisy one at the lowest b-value, as in the training.

    The same normaliser for noisy, clean, predicted and training signals.
    """
    inside = measured.mask
    return signals[inside].astype(np.float64) / measured.signals[inside][:, :1]


def summary(measured: Measurement, estimate: Estimate, seconds: float) -> dict[str, Any]:
    """Errors of the maps and the course of the estimation, in plain numbers."""
    last = estimate.history[-1]
    return {
        **map_errors(measured.phantom, measured.mask, estimate.maps),
        "seconds": seconds,
        "epochs": epochs_of(estimate),
        "data_iterations": len(estimate.history) - 1,
        "stop_reason": estimate.parameters.get("stop_reason"),
        "noisy_loss": last.get("noisy_loss"),
        "replaced": last.get("replaced_fraction"),
    }
