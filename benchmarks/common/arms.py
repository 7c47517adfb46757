"""The computations behind ablation and targets: one estimation or comparison on one simulated measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from dipy.denoise.nlmeans import nlmeans
from scipy.ndimage import gaussian_filter

from benchmarks.common.metrics import LABELS, map_errors
from benchmarks.common.pool import Job
from benchmarks.common.scenarios import Measurement, Scenario, measure
from sicnn_app.ivim.maps import Estimate, Observation
from sicnn_app.methods import estimator
from sicnn_app.settings import EstimationSettings, Threshold

BLUR = 1.0
"""Voxels, standard deviation of the Gaussian control, in the slice."""

SEARCH = 5
"""Voxels to every side among which non-local means look for similar ones."""


@dataclass(frozen=True)
class Arm(Job):
    """One method with one set of settings on one measurement.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        But for the seed, which is the scenario's.
    given : {'noisy', 'blurred', 'nlmeans'}
        What the method is given.
    sigma_factor : float
        The noise that the method is told, relative to the true one.
    """

    scenario: Scenario
    settings: EstimationSettings
    given: str = "noisy"
    sigma_factor: float = 1.0

    benchmark = "arms"

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        signals = treated(measured, self.given)
        settings = replace(self.settings, random_seed=self.scenario.seed)
        found = estimated(measured, settings, signals=signals, sigma_factor=self.sigma_factor)
        return {
            **map_errors(measured.phantom, measured.mask, found.maps),
            "epochs": found.parameters.get("epochs", 0),
        }


@dataclass(frozen=True)
class Comparison(Job):
    """SI-CNN, the plain network and least squares on one measurement, and what more training would do.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        Of SI-CNN, but for the seed.
    continued : bool
        Also go on with data iterations until twice the epochs are done.
    """

    scenario: Scenario
    settings: EstimationSettings
    continued: bool = False

    benchmark = "arms"

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        settings = replace(self.settings, random_seed=self.scenario.seed)

        def errors(maps: dict[str, np.ndarray]) -> dict[str, float]:
            return map_errors(measured.phantom, measured.mask, maps)

        rewriting = estimated(measured, settings)
        epochs = rewriting.parameters["epochs"]
        seen: list[dict[str, float]] = []
        plain = estimated(
            measured,
            replace(settings, method="cnn", epochs=epochs),
            observe=lambda moment: seen.append(errors(moment.maps)),
        )
        found = {
            "si-cnn": {**errors(rewriting.maps), "epochs": epochs},
            "cnn": errors(plain.maps),
            "cnn, best epoch": {name: min(moment[name] for moment in seen) for name in seen[0]},
            "lsq": errors(estimated(measured, replace(settings, method="lsq")).maps),
        }
        if self.continued:
            found["si-cnn, continued"] = self._continued(measured, settings, epochs, errors)
        return found

    def _continued(self, measured, settings, epochs, errors) -> dict[str, float]:
        """Errors at the first end of a data iteration with twice the epochs.

        Raises
        ------
        RuntimeError
            When the data iterations end before.
        """
        later: list[tuple[int, dict[str, float]]] = []
        longer = replace(
            settings, lambda_=Threshold(0.0, "absolute"), max_iterations=5 * settings.max_iterations
        )
        try:
            estimated(
                measured,
                longer,
                observe=lambda moment: _stop_after(moment, 2 * epochs, later, errors),
            )
        except _Enough:
            return {**later[-1][1], "epochs": later[-1][0]}
        raise RuntimeError(f"{longer.max_iterations} data iterations are too few for {2 * epochs} epochs")


class _Enough(Exception):
    """The training has gone on for long enough."""


def _stop_after(moment: Observation, epochs: int, later: list, errors) -> None:
    if moment.epochs >= epochs:
        later.append((moment.epochs, errors(moment.maps)))
        raise _Enough


def treated(measured: Measurement, given: str) -> np.ndarray:
    """Signals after one of the simple ways to denoise; the controls of the ablation."""
    if given == "noisy":
        return measured.signals
    if given == "blurred":
        weight = gaussian_filter(measured.mask.astype(np.float32), (BLUR, BLUR, 0))
        inside = measured.signals * measured.mask[..., None]
        blurred = gaussian_filter(inside, (BLUR, BLUR, 0, 0)) / np.maximum(weight, 1e-6)[..., None]
        return np.where(measured.mask[..., None], blurred, 0.0).astype(np.float32)
    if given == "nlmeans":
        # dipy mirrors volumes at their borders as far as it searches, and of volumes with fewer slices than
        # that it reads memory that is not theirs: mirrored here before, however few they are.
        beyond = ((0, 0), (0, 0), (SEARCH, SEARCH))
        smooth = nlmeans(
            np.pad(measured.signals.astype(np.float64), (*beyond, (0, 0)), mode="reflect"),
            measured.sigma_per_bval.astype(np.float64),
            mask=np.pad(measured.mask, beyond),
            patch_radius=1,
            block_radius=SEARCH,
            rician=False,
            # The blockwise method spoils volumes of few slices.
            method="classic",
            num_threads=1,
        )[:, :, SEARCH:-SEARCH]
        return np.where(measured.mask[..., None], smooth, 0.0).astype(np.float32)
    raise ValueError(f"unknown treatment {given!r}")


class Estimable(Protocol):
    """Anything with these attributes: a simulated measurement, or averaged signals."""

    signals: np.ndarray
    mask: np.ndarray
    bvals: np.ndarray
    sigma: float

    @property
    def noise(self) -> np.ndarray: ...


def estimated(
    measured: Estimable,
    settings: EstimationSettings,
    *,
    signals: np.ndarray | None = None,
    sigma_factor: float = 1.0,
    **others: Any,
) -> Estimate:
    """Maps by the method of the settings.

    Parameters
    ----------
    measured : Estimable
    settings : EstimationSettings
    signals : ndarray, shape (X, Y, Z, B), optional
        In place of the measured ones.
    sigma_factor : float
        The noise that the method is told, relative to that of ``measured``.
    **others
        More arguments of the estimator, such as ``device`` or ``observe``.
    """
    return estimator(settings.method).estimate(
        measured.signals if signals is None else signals,
        measured.mask,
        measured.bvals,
        noise=measured.noise * sigma_factor,
        sigma=measured.sigma * sigma_factor,
        settings=settings,
        **others,
    )


def mean_of(results: list[dict[str, float]], name: str) -> float:
    """Mean over seeds."""
    return float(np.mean([result[name] for result in results]))


RMSE = tuple(f"rmse_{label}" for label in LABELS)
