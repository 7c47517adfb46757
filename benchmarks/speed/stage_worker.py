"""Worker of :mod:`benchmarks.speed.stages`: one computation with clocks on its stages, a process of its own.

    python -m benchmarks.speed.stage_worker app RESULT.json BIDS_DIR OUT_DIR participant ...
    python -m benchmarks.speed.stage_worker estimate RESULT.json DEVICE SCENARIO SETTINGS

The first is the app's own command line; the second the estimator alone on a simulated measurement, after a
warm-up on a CUDA device. SCENARIO and SETTINGS are JSON: fields of
:class:`benchmarks.common.scenarios.Scenario` and of :class:`sicnn_app.settings.EstimationSettings`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.clocks import OUTSIDE, Stages, wait_for

IMPORTED = (
    "sicnn_app.pipeline.dispatch",
    "sicnn_app.preprocess.steps",
    "sicnn_app.sicnn.estimate",
    "sicnn_app.lsq.estimate",
    "sicnn_app.report.html",
)
"""What the app loads at the begin of each stage: all at once here, so that its time is told apart."""

ESTIMATORS = ("sicnn_app.sicnn.estimate", "sicnn_app.lsq.estimate")

WATCHED = (
    ("discovery", "sicnn_app.pipeline.dispatch", "check_dataset"),
    ("discovery", "sicnn_app.pipeline.dispatch", "discover"),
    ("load", "sicnn_app.pipeline.one_run", "load_run"),
    ("preprocessing", "sicnn_app.preprocess.steps", "prepare"),
    ("neighbour search", "sicnn_app.sicnn.iterate", "rewrite"),
    ("conventional comparison", "sicnn_app.pipeline.one_run", "fit_conventionally"),
    ("write", "sicnn_app.pipeline.one_run", "write_run"),
    ("report", "sicnn_app.report.before_after", "draw_steps"),
    ("report", "sicnn_app.pipeline.participant_level", "write_report"),
)
"""Stage, module and the function whose time it is."""

WARM_UP_SHAPE = (32, 30, 2)


class Iterations:
    """When every data iteration ended, as the estimator itself reports it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._since = time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, text: str, done: int, total: int) -> None:
        if not text.startswith("data iteration"):
            return
        wait_for(self._device)
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now


def clock_estimator(stages: Stages, module: Any, kept: dict[str, Any]) -> None:
    """Make a stage of the first estimation; keep its seconds per data iteration, epochs and voxels."""
    function = module.estimate

    def clocked(signals, mask, bvals, *, device="cpu", progress=None, **kwargs):
        if kept:
            # The conventional fit, which is a stage of its own.
            return function(signals, mask, bvals, device=device, progress=progress, **kwargs)
        iterations = Iterations(device)

        def report(text: str, done: int, total: int) -> None:
            iterations(text, done, total)
            if progress is not None:
                progress(text, done, total)

        with stages.stage("estimation"):
            found = function(signals, mask, bvals, device=device, progress=report, **kwargs)
        kept["iteration_seconds"] = iterations.seconds
        kept["epochs"] = [row.get("epochs", row.get("iterations", 0)) for row in found.history]
        kept["voxels"] = int(mask.sum())
        return found

    module.estimate = clocked


def watched_stages(kept: dict[str, Any]) -> Stages:
    """Clocks on all stages of the app, the first of them the imports."""
    stages = Stages()
    with stages.stage("import"):
        for name in IMPORTED:
            importlib.import_module(name)
    for name, module, attribute in WATCHED:
        stages.watch(importlib.import_module(module), attribute, name)
    for name in ESTIMATORS:
        clock_estimator(stages, importlib.import_module(name), kept)
    return stages


def run_app(arguments: list[str]) -> dict[str, Any]:
    """The app's own command line; its exit code is among the results."""
    kept: dict[str, Any] = {}
    stages = watched_stages(kept)
    from sicnn_app.cli.main import main

    code = main(arguments)
    return {"code": code, "stages": stages.finish(), **kept}


def run_estimator(device: str, scenario: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The estimator alone, with the errors of its maps."""
    from benchmarks.common.arms import estimated
    from benchmarks.common.metrics import map_errors
    from benchmarks.common.scenarios import Scenario, measure
    from sicnn_app.settings import EstimationSettings, ResourceSettings
    from sicnn_app.system.device import limit_threads

    limit_threads(ResourceSettings().omp_nthreads)
    asked = Scenario(**{**scenario, "shape": tuple(scenario["shape"])})
    chosen = EstimationSettings(**settings)
    if device != "cpu":
        warm_up = measure(replace(asked, shape=WARM_UP_SHAPE))
        estimated(warm_up, replace(chosen, max_iterations=1), device=device)
    measured = measure(asked)
    kept: dict[str, Any] = {}
    stages = watched_stages(kept)
    found = estimated(measured, chosen, device=device)
    inside = {name: row for name, row in stages.finish().items() if name not in (OUTSIDE, "import")}
    return {"stages": inside, "errors": map_errors(measured.phantom, measured.mask, found.maps), **kept}


def main() -> None:
    kind, result, *arguments = sys.argv[1:]
    if kind == "app":
        found = run_app(arguments)
    else:
        device, scenario, settings = arguments
        found = run_estimator(device, json.loads(scenario), json.loads(settings))
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    sys.exit(found.get("code", 0))


if __name__ == "__main__":
    main()
