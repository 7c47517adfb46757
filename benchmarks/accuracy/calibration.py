"""Whether the standard deviations of an ensemble say how far its maps are from the truth.

    python -m benchmarks.accuracy.calibration --out docs/calibration

An ensemble of five on simulated measurements. For every voxel the error of the mean map is divided by the
written standard deviation; voxels as in benchmarks/common/metrics.py. The factors of
``sicnn_app.sicnn.ensemble.SPREAD_FACTOR`` are found on phantoms of the tuning seeds: the mean over these of
the quotient that 68.3 % of the voxels stay below, without a factor. The tables show on phantoms of the
held-out seeds, and on the brain, which no factor was found on, how many voxels lie within one and two
standard deviations, and what share of the variance over the members comes from their seeds alone: that of
an ensemble whose members all see the measured signals. Errors of the mean maps stand beside those of a
single network. Half an hour on two cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.arms import Arm, estimated
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.metrics import FORMS, LABELS, NAMES, SCALES, map_errors, voxels_of
from benchmarks.common.pool import Job, computed
from benchmarks.common.scenarios import HELD_OUT_SEEDS, SHAPE, TUNING_SEEDS, Scenario, measure
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.ensemble import SPREAD_FACTOR

MEMBERS = 5

SHARES = np.linspace(0.0, 1.0, 201)
"""Of the voxels: where the quantiles of their quotients are kept."""

WITHIN_ONE, WITHIN_TWO = 0.683, 0.954
"""Of a normal distribution."""

SNRS = (8.0, 15.0, 30.0, 60.0)

OTHERS = (("abdomen", "10x3"), ("brain", "12x1"))
OTHER_SNRS = (15.0, 50.0)


@dataclass(frozen=True)
class Ensemble(Job):
    """An ensemble on one measurement.

    Attributes
    ----------
    scenario : Scenario
    settings : EstimationSettings
        But for the seed, which is the scenario's.
    resampled : bool
        Whether the members see noise drawn anew, as in the app, or all the measured signals.
    """

    scenario: Scenario
    settings: EstimationSettings
    resampled: bool = True

    benchmark = "calibration"

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        resample = None if self.resampled else lambda generator: measured.signals
        settings = replace(self.settings, random_seed=self.scenario.seed)
        found = estimated(measured, settings, resample=resample).maps
        result: dict[str, Any] = map_errors(measured.phantom, measured.mask, found)
        for label, where in voxels_of(measured.phantom, measured.mask).items():
            # Without the factor in force, so that results do not depend on it.
            spread = found[f"{label}_std"][where].astype(np.float64) / SPREAD_FACTOR[label]
            errors = np.abs(found[label][where].astype(np.float64) - getattr(measured.phantom, label)[where])
            quotients = errors / np.maximum(spread, np.finfo(np.float32).tiny)
            result[f"variance_{label}"] = float(np.mean(spread**2))
            result[f"quotients_{label}"] = [float(f"{q:.4g}") for q in np.quantile(quotients, SHARES)]
        return result


def seeds_alone(job: Ensemble) -> Ensemble:
    """The same without noise drawn anew."""
    return replace(job, resampled=False)


def kind_of(job: Ensemble) -> tuple[str, str, float]:
    """Anatomy, b-values and SNR."""
    return job.scenario.preset, job.scenario.scheme, job.scenario.snr


def needed_factor(quotients: list[float]) -> float:
    """What the spread has to be multiplied with so that 68.3 % of the errors are at most as large.

    Parameters
    ----------
    quotients : list of float
        Quantiles at :data:`SHARES` of error over spread.
    """
    return float(np.interp(WITHIN_ONE, SHARES, quotients))


def share_within(quotients: list[float], factor: float) -> float:
    """Share of the voxels whose error is at most ``factor`` times the spread."""
    return float(np.interp(factor, quotients, SHARES))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snr", type=float, nargs="+", default=SNRS)
    parser.add_argument("--count", type=int, default=2, help="phantoms of each kind")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    shape, cells = tuple(options.shape), Cells(options.out / "cells.jsonl")
    several = EstimationSettings(ensemble=MEMBERS, refinement="none")

    def ensembles(seeds: Iterable[int], kinds: Iterable[tuple[str, str, float]]) -> list[Ensemble]:
        return [
            Ensemble(Scenario(snr, seed, preset, scheme, shape), several)
            for preset, scheme, snr in kinds
            for seed in seeds
        ]

    main_kinds = [("abdomen", "12x1", snr) for snr in options.snr]
    kinds = main_kinds + [(*kind, snr) for kind in OTHERS for snr in OTHER_SNRS]
    tuning = ensembles(TUNING_SEEDS[: options.count], main_kinds)
    held_out = ensembles(HELD_OUT_SEEDS[: options.count], kinds)
    alone = [seeds_alone(job) for job in held_out if job.scenario.seed == HELD_OUT_SEEDS[0]]
    single = [Arm(job.scenario, EstimationSettings(refinement="none")) for job in held_out]
    results = computed([*tuning, *held_out, *alone, *single], cells, options.workers)
    write(options.out, results, tuning, held_out)


def write(out: Path, results: dict[Job, dict[str, Any]], tuning: list[Ensemble], held_out: list[Ensemble]):
    """Write the tables and print the factors."""
    factor_rows = [
        [
            f"{job.scenario.snr:g}",
            job.scenario.seed,
            *(f"{needed_factor(results[job][f'quotients_{label}']):.2f}" for label in LABELS),
        ]
        for job in tuning
    ]
    means = {
        label: np.mean([needed_factor(results[job][f"quotients_{label}"]) for job in tuning])
        for label in LABELS
    }
    factor_rows.append(["mean", "", *(f"{means[label]:.2f}" for label in LABELS)])
    factor_rows.append(["in force", "", *(f"{SPREAD_FACTOR[label]:.2f}" for label in LABELS)])
    names = [NAMES[label].split()[0] for label in LABELS]
    factor_columns = ["SNR", "seed", *names]
    columns = ["anatomy", "b-values", "SNR", "map", "within 1 SD", "within 2 SD", "of it seeds"]
    columns += ["error", "error of one network"]
    rows = []
    for (preset, scheme, snr), jobs in groupby(held_out, key=kind_of):
        jobs = list(jobs)
        rows += [[preset, scheme, f"{snr:g}", *_row(label, jobs, results)] for label in LABELS]
    text = f"Made by {provenance(command_line())}."
    out.mkdir(parents=True, exist_ok=True)
    page = [text, markdown(factor_columns, factor_rows), markdown(columns, rows)]
    write_tables(out, "calibration", "\n\n".join(page) + "\n", comma_separated(columns, rows))
    print("\n\n".join(page))


def _row(label: str, jobs: list[Ensemble], results: dict[Job, dict[str, Any]]) -> list[str]:
    """Means over the phantoms of one kind."""

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    factor = SPREAD_FACTOR[label]
    within = [
        mean(share_within(results[job][f"quotients_{label}"], times * factor) for job in jobs)
        for times in (1, 2)
    ]
    with_seeds = [
        (results[seeds_alone(job)], results[job]) for job in jobs if job.scenario.seed == HELD_OUT_SEEDS[0]
    ]
    seeds = mean(one[f"variance_{label}"] / both[f"variance_{label}"] for one, both in with_seeds)
    errors = [
        mean(results[job][f"rmse_{label}"] for job in chosen) * SCALES[label]
        for chosen in (jobs, [Arm(job.scenario, EstimationSettings(refinement="none")) for job in jobs])
    ]
    return [
        NAMES[label],
        *(f"{100 * share:.0f} %" for share in within),
        f"{100 * seeds:.0f} %",
        *(format(error, FORMS[label]) for error in errors),
    ]


if __name__ == "__main__":
    main()
