"""How much the maps of one measurement change when the network is trained again with another seed.

    python -m benchmarks.accuracy.repeatability --out docs/repeatability

One measurement of the truth "organs" of ``benchmarks.common.truths``, simulated and denoised as by
:mod:`benchmarks.accuracy.controls`, one volume per b-value; ten seeds of the training. The coefficient of
variation of a map is the root mean square over voxels of the standard deviation over seeds, divided by the
mean of the map; voxels as in benchmarks/common/metrics.py. The limits are those that IVIM-NET optim reaches
in its authors' simulations (Kaandorp et al., Magn Reson Med 2021;86:2250-2265).

- si-cnn: at the app's defaults.
- si-cnn, network alone: ``--refinement none``.
- si-cnn, ensemble of 5: ``--ensemble 5``, whose members see noise drawn anew, as in the app.
- cnn: the network without rewriting and refinement, with the epochs of the SI-CNN of its seed.

Forty seconds per seed on one core; a stopped one goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.refinement import MEMBERS, SHAPE, measured, prepared_of
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
from benchmarks.common.methods import epochs_of
from benchmarks.common.metrics import LABELS, NAMES, voxels_of
from benchmarks.common.pool import Job, computed
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.preprocess.resample import Resampling
from sicnn_app.preprocess.steps import Prepared
from sicnn_app.settings import EstimationSettings

TRUTH = "organs"

LIMITS = {"f": 0.020, "d": 0.013, "dstar": 0.036}
"""Of the coefficient of variation."""

VARIANTS: dict[str, dict[str, Any]] = {
    "si-cnn": {},
    "si-cnn, network alone": {"refinement": "none"},
    f"si-cnn, ensemble of {MEMBERS}": {"ensemble": MEMBERS},
}
"""By the name in the table, what differs from the defaults."""


@dataclass(frozen=True)
class Simulation:
    """The measurement: of which noise, made from which seed, of how many voxels."""

    snr: float
    seed: int
    shape: tuple[int, int, int]


@lru_cache(maxsize=1)
def denoised(simulation: Simulation) -> tuple[Phantom, Prepared]:
    """The truth and its measurement after MP-PCA."""
    phantom, series, options = measured(TRUTH, simulation.snr, simulation.seed, 1, simulation.shape)
    return phantom, prepared_of(series, phantom.mask, "mppca", **options)


@dataclass(frozen=True)
class Trained(Job):
    """Maps of one measurement with one seed of the training."""

    scenario: Simulation
    settings: EstimationSettings

    benchmark = "repeatability"

    def compute(self) -> dict[str, Any]:
        phantom, found = denoised(self.scenario)
        given = found.averaged
        others = {}
        if self.settings.ensemble > 1:
            others["resample"] = Resampling.of(found.series, given, found.denoising)
        estimate = estimated(given, self.settings, volumes=given.repeats, evidence=found.evidence, **others)
        where = voxels_of(phantom, given.mask)
        maps = {label: [float(f"{v:.5g}") for v in estimate.maps[label][where[label]]] for label in LABELS}
        return {"epochs": epochs_of(estimate), **maps}


def variation(maps: np.ndarray) -> float:
    """Coefficient of variation over seeds.

    Parameters
    ----------
    maps : ndarray, shape (seeds, voxels)
    """
    return float(np.sqrt(np.mean(maps.var(axis=0, ddof=1))) / maps.mean())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=31, help="of the measurement")
    parser.add_argument("--count", type=int, default=10, help="seeds of the training")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    simulation = Simulation(options.snr, options.seed, tuple(options.shape))
    cells = Cells(options.out / "cells.jsonl")
    ours = {
        name: [
            Trained(simulation, EstimationSettings(random_seed=seed, **changes))
            for seed in range(options.count)
        ]
        for name, changes in VARIANTS.items()
    }
    found = computed([job for jobs in ours.values() for job in jobs], cells, options.workers)
    results = {name: [found[job] for job in jobs] for name, jobs in ours.items()}
    plain = [
        Trained(
            simulation,
            EstimationSettings(method="cnn", random_seed=seed, epochs=results["si-cnn"][seed]["epochs"]),
        )
        for seed in range(options.count)
    ]
    results["cnn"] = list(computed(plain, cells, options.workers).values())
    varied = {
        method: {label: variation(np.array([one[label] for one in of])) for label in LABELS}
        for method, of in results.items()
    }
    rows = [["limit", *(f"{limit:.3f}" for limit in LIMITS.values())]]
    for method, of_maps in varied.items():
        missed = ("" if of_maps[label] <= limit else ", MISSED" for label, limit in LIMITS.items())
        rows.append(
            [method, *(f"{value:.3f}{word}" for value, word in zip(of_maps.values(), missed, strict=True))]
        )
    table = markdown(["method", *(NAMES[label].split()[0].replace("*", r"\*") for label in LABELS)], rows)
    write_tables(
        options.out,
        "repeatability",
        f"Made by {provenance(command_line())}.\n\n{table}\n",
        comma_separated(
            ["method", "map", "coefficient of variation", "limit"],
            [
                [method, label, of_maps[label], LIMITS[label]]
                for method, of_maps in varied.items()
                for label in LABELS
            ],
        ),
    )
    print(table)


if __name__ == "__main__":
    main()
