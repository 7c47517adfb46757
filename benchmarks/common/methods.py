"""Every method on one measurement, with the time each took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.common.arms import estimated
from benchmarks.common.scenarios import Measurement
from sicnn_app.ivim.maps import Estimate, Observation
from sicnn_app.settings import EstimationSettings

METHODS = ("lsq", "cnn", "di-cnn", "si-cnn")


def with_all_methods(
    measured: Measurement, settings: EstimationSettings
) -> dict[str, tuple[Estimate, float]]:
    """Estimate and processor seconds of every method."""
    found, epochs = {}, None
    for method in reversed(METHODS):
        chosen = replace(settings, method=method, epochs=epochs if method == "cnn" else None)
        found[method] = timed(measured, chosen)
        if method == "si-cnn":
            epochs = epochs_of(found[method][0])
    return found


def timed(
    measured: Measurement,
    settings: EstimationSettings,
    observe: Callable[[Observation], None] | None = None,
) -> tuple[Estimate, float]:
    """The estimate and the processor seconds it took, which other processes do not lengthen."""
    begin = time.process_time()
    observing = {} if observe is None else {"observe": observe}
    estimate = estimated(measured, settings, **observing)
    return estimate, time.process_time() - begin


def epochs_of(estimate: Estimate) -> int:
    """Epochs of a training, or steps of a fit."""
    return sum(row.get("epochs", row.get("iterations", 0)) for row in estimate.history)
