"""Ways to train less on large volumes, and what they cost in accuracy.

    python -m benchmarks.speed.large_volumes --out docs/speed

A simulated abdomen of 128 x 128 x 24 voxels, 12 b-values, SNR 20: a tile of 64 x 64 voxels per optimiser step
makes a hundred steps per epoch, and the fewest epochs of a period decide how long is trained. Time is that of
all cores, so that other jobs on the machine matter little; errors are those of benchmarks/common/metrics.py;
all relative to the defaults. The warm start first trains a network on simulated signals of another phantom,
and its time counts. About a quarter of an hour on one core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.arms import estimated
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.clocks import code_digest
from benchmarks.common.metrics import LABELS, NAMES, map_errors
from benchmarks.common.pool import Job
from benchmarks.common.scenarios import Scenario, measure
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.study import study_case, train_study
from sicnn_app.sicnn.study_network import StudyNetwork

SHAPE = (128, 128, 24)
SNR = 20.0
SEEDS = (0, 1)

START_SCENARIO = Scenario(SNR, 1000, shape=(128, 128, 4))
"""Of the warm start: a phantom of another seed."""


@dataclass(frozen=True)
class Way(Job):
    """One training on one large simulated measurement.

    Attributes
    ----------
    scenario : Scenario
    settings : dict
        What differs from the defaults.
    min_epochs : int
        Fewest epochs per period.
    warm_start : bool
    """

    scenario: Scenario
    settings: dict[str, Any] = field(default_factory=dict)
    min_epochs: int = iterate.MIN_EPOCHS
    warm_start: bool = False

    def spec(self) -> dict[str, Any]:
        code = {"code": code_digest(), "torch": torch.__version__}
        return {"benchmark": "large_volumes", "job": repr(self), **code}

    def compute(self) -> dict[str, Any]:
        torch.set_num_threads(1)
        measured = measure(self.scenario)
        settings = EstimationSettings(random_seed=self.scenario.seed, **self.settings)
        with _at_least(self.min_epochs):
            started = time.process_time()
            start = _simulated_start(settings) if self.warm_start else None
            found = estimated(measured, settings, start=start)
            seconds = time.process_time() - started
        return {
            **map_errors(measured.phantom, measured.mask, found.maps),
            "seconds": seconds,
            "epochs": found.parameters["epochs"],
            "data_iterations": found.parameters["data_iterations"],
        }


@contextmanager
def _at_least(epochs: int) -> Iterator[None]:
    before = iterate.MIN_EPOCHS
    iterate.MIN_EPOCHS = epochs
    try:
        yield
    finally:
        iterate.MIN_EPOCHS = before


def _simulated_start(settings: EstimationSettings) -> StudyNetwork:
    """A network trained, without truth, on simulated signals of the same b-values."""
    measured = measure(START_SCENARIO)
    case = study_case(measured.signals, measured.mask, measured.sigma)
    return train_study({"simulated": case}, measured.bvals, settings=settings)


def ways(scenario: Scenario) -> dict[str, Way]:
    """By the name in the table; the defaults come first."""
    return {
        "as it is": Way(scenario),
        "at least 4 epochs per period instead of 10": Way(scenario, min_epochs=4),
        "4 tiles per step, learning rate doubled": Way(scenario, {"batch_size": 4, "learning_rate": 6e-3}),
        "at least 4 epochs, learning rate doubled": Way(scenario, {"learning_rate": 6e-3}, min_epochs=4),
        "start from simulated signals": Way(scenario, warm_start=True),
        "start from simulated signals, at least 4 epochs": Way(scenario, min_epochs=4, warm_start=True),
    }


def table(results: list[dict[str, dict[str, float]]]) -> list[list[str]]:
    """One row per way: means over measurements of the ratios to the first way.

    Parameters
    ----------
    results : list of dict
        Of every measurement, what :meth:`Way.compute` returned by the name of the way.
    """
    first = next(iter(results[0]))
    rows = []
    for name in results[0]:
        ratios = {
            key: np.mean([found[name][key] / found[first][key] for found in results])
            for key in ("seconds", "epochs", *(f"rmse_{label}" for label in LABELS), "edge_f")
        }
        rows.append([name, *(f"{value:.2f}" for value in ratios.values())])
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and of what is done")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    cells = Cells(options.out / "cells.jsonl")
    results = []
    for seed in options.seeds:
        scenario = Scenario(SNR, seed, shape=tuple(options.shape))
        results.append({name: cells.get(way.spec(), way.compute) for name, way in ways(scenario).items()})
    columns = ["way", "time", "epochs", *(NAMES[label].split(" ")[0] for label in LABELS), "F at edges"]
    rows = table(results)
    text = f"Made by {provenance(command_line())}.\n\n"
    text += f"Seeds {', '.join(map(str, options.seeds))}; relative to the first row.\n\n"
    text += markdown(columns, rows) + "\n"
    print(text)
    write_tables(options.out, "large_volumes", text, comma_separated(columns, rows))


if __name__ == "__main__":
    main()
