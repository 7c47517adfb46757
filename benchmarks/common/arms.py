"""One estimation on one simulated measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from benchmarks.common.metrics import map_errors
from benchmarks.common.pool import Job
from benchmarks.common.scenarios import Scenario, measure
from sicnn_app.ivim.maps import Estimate
from sicnn_app.methods import estimator
from sicnn_app.settings import EstimationSettings


@dataclass(frozen=True)
class Arm(Job):
    """One method with one set of settings on one measurement.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        But for the seed, which is the scenario's.
    """

    scenario: Scenario
    settings: EstimationSettings

    benchmark = "arms"

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        settings = replace(self.settings, random_seed=self.scenario.seed)
        found = estimated(measured, settings)
        return {
            **map_errors(measured.phantom, measured.mask, found.maps),
            "epochs": found.parameters.get("epochs", 0),
        }


class Estimable(Protocol):
    """Anything with these attributes: a simulated measurement, or averaged signals."""

    signals: np.ndarray
    mask: np.ndarray
    bvals: np.ndarray
    sigma: float

    @property
    def noise(self) -> np.ndarray: ...


def estimated(measured: Estimable, settings: EstimationSettings, **others: Any) -> Estimate:
    """Maps by the method of the settings.

    Parameters
    ----------
    measured : Estimable
    settings : EstimationSettings
    **others
        More arguments of the estimator, such as ``device`` or ``observe``.
    """
    return estimator(settings.method).estimate(
        measured.signals,
        measured.mask,
        measured.bvals,
        noise=measured.noise,
        sigma=measured.sigma,
        settings=settings,
        **others,
    )
