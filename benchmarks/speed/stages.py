"""How long the app takes, stage by stage, beside published fits: ratios, memory, and accuracy beside times.

    python -m benchmarks.speed.stages --out docs/speed
    python -m benchmarks.speed.stages --sizes medium --arms app ensemble --device cuda --out docs/speed

Simulated abdomen with 12 b-values at SNR 20 (a held-out seed of benchmarks/common/scenarios.py), in three
sizes. Every computation is kept in ``cells.jsonl`` when it is done, so that parts can be run one by one, in
any order, and a stopped benchmark goes on; the tables hold whatever is there, and say what is missing.
Results of other code of the app, another device or another torch are not mixed.

- app: the command line at its defaults, a process of its own, with a clock on every stage.
- lsq: the same with ``--method lsq``.
- ensemble: the estimator alone on the signals as measured, with the true noise, for every ``--ensemble``.
- help: ``sicnn-app --help``.
- dipy-trr, dipy-varpro, ivim-mri-seg, ivim-mri-bayes, ivimnet: see benchmarks/peers for how they are called
  and for their environments. They are given the signals as measured, run on one thread of the CPU,
  and fit a sample of the mask with every tissue in proportion: 2,000 voxels, 200 for variable projection.
  IVIM-NET is trained on the whole mask, at the settings of its package, until it stops by itself.
- mppca+ these, and mppca+lsq: the same given the signals after MP-PCA, whose time on one core is added.

The time of a published fit is its processor time, which on one thread is also the least wall-clock time. A
ratio to the time for the whole mask from fewer voxels is called extrapolated. The page of a CPU has no
seconds, only ratios of what ran on one machine; the CSV keeps the seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.cells import Cells, command_line, parser_of, provenance, write_tables
from benchmarks.common.clocks import code_digest, device_name
from benchmarks.common.scenarios import HELD_OUT_SEEDS, Scenario
from benchmarks.peers.environments import ENVIRONMENTS, environments_of
from benchmarks.peers.fits import Environment, PeerError
from benchmarks.speed.stage_cells import (
    AS_MEASURED,
    COMPETITORS,
    OWN,
    SIZES,
    Cell,
    FailedRun,
    run_app,
    run_competitor,
    run_estimator,
    run_help,
)
from benchmarks.speed.stage_tables import page, records
from sicnn_app.errors import DeviceError
from sicnn_app.system.device import choose_device

ENSEMBLES = (1, 5, 10)

MOST_REPEATS = 20


@dataclass(frozen=True)
class Surroundings:
    """What all computations of one call share.

    Attributes
    ----------
    device : str
        ``cpu`` or ``cuda:N``.
    snr : float
    seed : int
    environments : dict of str to Environment
        Of every published fit that can be run.
    """

    device: str
    snr: float
    seed: int
    environments: dict[str, Environment] = field(default_factory=dict)

    def scenario(self, cell: Cell) -> Scenario:
        return Scenario(self.snr, self.seed, shape=SIZES[cell.size])

    def spec(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides a result; published fits by themselves do not depend on the app's code."""
        spec = {"benchmark": "speed", "cell": repr(cell), "snr": self.snr, "seed": self.seed}
        if cell.arm in AS_MEASURED and cell.arm != "dipy-trr":
            return {**spec, "device": _name("cpu")}
        return {**spec, "device": _name(self.device), "torch": torch.__version__, "code": _digest()}

    def compute(self, cell: Cell) -> dict[str, Any]:
        if cell.arm == "help":
            return run_help()
        if competitor := COMPETITORS.get(cell.arm):
            return run_competitor(self.scenario(cell), self.environments[competitor.peer], competitor)
        if cell.arm == "ensemble":
            return run_estimator(self.scenario(cell), self.device, {"ensemble": cell.members})
        options = ("--method", "lsq") if cell.arm == "lsq" else ()
        return run_app(self.scenario(cell), self.device, options)


_name = lru_cache(device_name)
_digest = lru_cache(code_digest)


def cells_of(arm: str, sizes: list[str], ensemble: list[int], repeats: int) -> Iterator[Cell]:
    """The computations of an arm; those of a size follow one another."""
    for size in [""] if arm == "help" else sizes:
        for members in ensemble if arm == "ensemble" else [1]:
            # A published fit is timed voxel by voxel already: once is enough.
            for repeat in range(1 if arm in COMPETITORS else repeats):
                yield Cell(size, arm, members, repeat)


def collect(
    wanted: list[Cell], surroundings: Surroundings, cells: Cells, say: Callable[[str], None]
) -> list[str]:
    """Compute what is missing; gives a line for everything that failed."""
    failures = []
    for cell in wanted:
        if cells.has(surroundings.spec(cell)):
            continue
        say(str(cell))
        try:
            cells.get(surroundings.spec(cell), lambda cell=cell: surroundings.compute(cell))
        except (FailedRun, PeerError) as error:
            failures.append(f"{cell}: {error}")
    return failures


def gathered(surroundings: Surroundings, cells: Cells, ensemble: list[int]) -> dict[Cell, dict[str, Any]]:
    """Every result that is there, also of earlier calls."""
    possible = [
        cell
        for arm in (*OWN, *COMPETITORS)
        for cell in cells_of(arm, list(SIZES), ensemble, MOST_REPEATS)
        if cells.has(surroundings.spec(cell))
    ]
    return {cell: cells.get(surroundings.spec(cell), dict) for cell in possible}


def build_parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--arms", nargs="+", choices=(*OWN, *COMPETITORS), default=[*OWN, *COMPETITORS])
    parser.add_argument("--ensemble", type=int, nargs="+", default=list(ENSEMBLES), help="members")
    parser.add_argument("--repeats", type=int, choices=range(1, MOST_REPEATS + 1), default=1, metavar="N")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the published fits")
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEEDS[0])
    return parser


def main() -> None:
    options = build_parser().parse_args()
    try:
        device, _ = choose_device(options.device)
    except DeviceError as error:
        raise SystemExit(str(error)) from error
    asked = list(dict.fromkeys(COMPETITORS[arm].peer for arm in options.arms if arm in COMPETITORS))
    usable, missing = environments_of(asked, options.environments)
    versions = {
        name: version
        for one in usable.values()
        for name, version in one.versions.items()
        if name != "sicnn-app"
    }
    surroundings = Surroundings(device, options.snr, options.seed, usable)
    wanted = [
        cell
        for arm in options.arms
        if arm in OWN or COMPETITORS[arm].peer in usable
        for cell in cells_of(arm, options.sizes, options.ensemble, options.repeats)
    ]
    cells = Cells(options.out / "cells.jsonl")
    failures = collect(wanted, surroundings, cells, lambda text: print(text, file=sys.stderr, flush=True))
    found = gathered(surroundings, cells, sorted({*ENSEMBLES, *options.ensemble}))
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    source = provenance(command_line(), device=_name(device))
    source += f", torch {torch.__version__}, SNR {options.snr:g}; peers: {installed or 'not asked for'}"
    text = page(found, device, source, [*missing, *failures])
    stem = "speed" if device == "cpu" else "speed_cuda"
    write_tables(options.out, stem, text, f"# {source}\n{records(found)}")
    print(text)


if __name__ == "__main__":
    main()
