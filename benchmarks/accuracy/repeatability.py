"""How much the maps of one measurement change when the network is trained again with another seed.

    python -m benchmarks.accuracy.repeatability --out docs/repeatability

The same simulated abdomen and the same noise, ten seeds of the training. The coefficient of variation of a
map is the root mean square over voxels of the standard deviation over seeds, divided by the mean of the map;
voxels as in benchmarks/common/metrics.py. The limits are those that IVIM-NET optim reaches in its authors'
simulations (Kaandorp et al., Magn Reson Med 2021;86:2250-2265). Beside the defaults stand settings that might
repeat better; cnn has the epochs of the SI-CNN with its seed. Ten minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from benchmarks.common.metrics import LABELS, NAMES, voxels_of
from benchmarks.common.pool import Job, computed
from benchmarks.common.scenarios import HELD_OUT_SEEDS, SHAPE, Scenario, measure
from sicnn_app.settings import EstimationSettings, NetworkSettings

LIMITS = {"f": 0.020, "d": 0.013, "dstar": 0.036}
"""Of the coefficient of variation."""

VARIANTS: dict[str, dict[str, Any]] = {
    "si-cnn": {},
    "si-cnn, learning rate 1e-3": {"learning_rate": 1e-3},
    "si-cnn, delta 0.005": {"delta": 0.005},
    "si-cnn, voxelwise kernels": {"network": NetworkSettings(kernel_size=1)},
    "si-cnn, ensemble of 5": {"ensemble": 5},
}
"""By the name in the table, what differs from the defaults."""


@dataclass(frozen=True)
class Trained(Job):
    """Maps of one measurement with one seed of the training."""

    scenario: Scenario
    settings: EstimationSettings

    @property
    def seed(self) -> int:
        return self.settings.random_seed

    benchmark = "repeatability"

    def compute(self) -> dict[str, Any]:
        measured = measure(self.scenario)
        found = estimated(measured, self.settings)
        where = voxels_of(measured.phantom, measured.mask)
        maps = {label: [float(f"{v:.5g}") for v in found.maps[label][where[label]]] for label in LABELS}
        return {"epochs": found.parameters["epochs"], **maps}


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
    parser.add_argument("--count", type=int, default=10, help="seeds of the training")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    scenario = Scenario(options.snr, HELD_OUT_SEEDS[0], shape=tuple(options.shape))
    cells = Cells(options.out / "cells.jsonl")
    ours = {
        name: [
            Trained(scenario, EstimationSettings(random_seed=seed, **changes))
            for seed in range(options.count)
        ]
        for name, changes in VARIANTS.items()
    }
    found = computed([job for jobs in ours.values() for job in jobs], cells, options.workers)
    results = {name: [found[job] for job in jobs] for name, jobs in ours.items()}
    plain = [
        Trained(scenario, replace(job.settings, method="cnn", epochs=found[job]["epochs"]))
        for job in ours["si-cnn"]
    ]
    results["cnn"] = list(computed(plain, cells, options.workers).values())
    rows = [
        [
            method,
            NAMES[label].split()[0],
            f"{(measured := variation(np.array([one[label] for one in results[method]]))):.3f}",
            f"{limit:.3f}",
            "met" if measured <= limit else "MISSED",
        ]
        for method in results
        for label, limit in LIMITS.items()
    ]
    columns = ["method", "map", "coefficient of variation", "limit", "verdict"]
    text = f"Made by {provenance(command_line())}."
    write_tables(
        options.out, "repeatability", f"{text}\n\n{markdown(columns, rows)}\n", comma_separated(columns, rows)
    )
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
