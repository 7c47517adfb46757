"""Published IVIM fits beside the app's methods: same signals, mask and bounds, one table.

    python -m benchmarks.peers --out out/peers
    python -m benchmarks.peers --quick
    python -m benchmarks.peers --peers lsq ivim-mri-seg si-cnn --truths organs brain --snr 10 50 --seeds 0 1

Every published fit is installed from a pinned list (``benchmarks/peers/requirements``) into an environment of
its own, with uv where that is there and with venv and pip otherwise, once; every fit runs in a process of its
own on one thread of the CPU and, except for what is said here, at the defaults of its package. A stopped run
goes on where it was; what cannot be installed or fails has a line below the table that says why. Published
fits are kept in ``fits`` by what they were given: any version of the app with the same signals finds them.

- lsq, si-cnn, cnn: this app with its defaults; cnn is the plain network for as many epochs as si-cnn.
- dipy-trr, dipy-trr-200: dipy's IvimModel by trust region, the second with D started from b = 200 s/mm^2 on.
- dipy-varpro: the same model by variable projection, 50 ms per voxel and more: on ``--sample`` voxels that
  have every tissue in proportion, and held against least squares there. S0 has no bounds, and a first search
  is fixed to D* of 0.005 to 0.01 and D of 0.0001 to 0.001 mm^2/s.
- ivim-mri-seg, ivim-mri-bayes, ivim-mri-spatial: segmented and Bayesian fits of ivim-mri in its diffusive
  regime, the last with its prior that neighbours in the slice are alike. Their bounds are fixed: D to 0.003,
  D* 0.003 to 0.1 and 0 to 1 mm^2/s.
- ivimnet, ivimnet-patient: IVIM-NET optim trained on the voxels of the mask, with the stop of its package, or
  with a stop that waits for as many steps as that means with large data. Voxels that it takes for implausible
  it leaves at 0, outside the bounds of D*.
- super-ivim-dc: SUPER-IVIM-DC trained on its own simulations, once per b-values and SNR; it knows F of 0.05
  to 0.55, D of 0.0005 to 0.003 and D* of 0.01 to 0.1 mm^2/s.

Truths: those of ``benchmarks.common.truths``. Root mean square errors of F, D (outside of vessels) and D*
(where the true F is above 0.02), each relative to the better of least squares with and without MP-PCA. Values
that are not finite are replaced by typical ones, values outside of the bounds are clipped into them, both
before the errors: "outside" is the share of voxels where any was either. Halves: measured abdomens, as in
``benchmarks.accuracy.averages``; S0 of the prediction is the least-squares one for all. Seconds are processor
time without imports; memory is the highest of the process, with them; "installed" is the size of the
environment, or of the app with what it needs.

Per truth about five minutes on one core with both signals, most of it for ivimnet-patient, the Bayesian fits
and SI-CNN; a network of super-ivim-dc takes ten minutes more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import gmean

from benchmarks.accuracy.refinement import SHAPE
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
from benchmarks.common.halves import DATA, RUNS, require_files
from benchmarks.common.metrics import LABELS, SCALES
from benchmarks.common.truths import TRUTHS
from benchmarks.peers.environments import ENVIRONMENTS, environments_of
from benchmarks.peers.fits import OWN, PEERS, Environment, PeerError
from benchmarks.peers.measurements import SIGNALS, TABLES, Simulation, fit_halves, fit_truth

BASE = "lsq"

QUICK_SHAPE = (32, 30, 1)

LEAD = """Root mean square errors of F / D / D\\*, where each has a meaning, relative to the better of least
squares with and without MP-PCA. All fits had the same signals, mask and bounds; how each is called, and where
its bounds differ: `python -m benchmarks.peers --help`."""
"""What the page says before its tables."""

Fits = dict[tuple[str, str, Simulation], dict[str, Any]]
"""Results by fit, signals and measurement."""

Halves = dict[tuple[str, str], list[float]]
"""Numbers by fit and signals."""


def build_parser():
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/peers"), help="for the page, table and cells")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where they are kept")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS))
    parser.add_argument("--truths", nargs="*", choices=tuple(TRUTHS), default=tuple(TRUTHS))
    parser.add_argument("--signals", nargs="+", choices=tuple(SIGNALS), default=tuple(SIGNALS))
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--seeds", type=int, nargs="+", default=(31,))
    parser.add_argument("--volumes", type=int, default=1, help="per b-value")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--sample", type=int, default=200, help="voxels for slow fits")
    parser.add_argument("--data", type=Path, default=DATA, help="abdominal dataset of the halves")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=RUNS, help="of the halves")
    parser.add_argument("--quick", action="store_true", help="one small truth, quick fits, no halves")
    return parser


def collect(
    simulations: Sequence[Simulation],
    environments: dict[str, Environment],
    kind: str,
    cells: Cells,
    *,
    sample: int,
    kept: Path,
) -> tuple[Fits, list[str]]:
    """Every fit on every measurement with one kind of signals, and a line for every one that failed."""
    found: Fits = {}
    failures = []
    # A fit on all truths before the next one: a run that is stopped has whole columns.
    for (peer, environment), one in product(environments.items(), simulations):
        own: dict[str, Any] = {}
        if peer == "cnn" and ("si-cnn", kind, one) in found:
            own["epochs"] = found["si-cnn", kind, one]["epochs"]
        spec = {"simulation": asdict(one), "signals": kind, "sample": sample, **own}
        work = partial(fit_truth, peer, environment, one, kind, sample, kept=kept, **own)
        try:
            cell = _found(peer, environment, cells, spec, work)
        except PeerError as error:
            failures.append(f"{peer}, {one.truth}, SNR {one.snr:g}, seed {one.seed}, {kind}: {error}")
            continue
        found[peer, kind, one] = cell
        _say(f"{one.truth}, SNR {one.snr:g}, seed {one.seed}, {kind}, {peer}: {cell['seconds']:.1f} s")
    return found, failures


def collect_halves(
    runs: Sequence[str],
    environments: dict[str, Environment],
    kind: str,
    cells: Cells,
    *,
    data: Path,
    seed: int,
    kept: Path,
) -> tuple[Halves, list[str]]:
    """The same on both halves of all runs."""
    found: Halves = {}
    failures = []
    epochs = None
    for peer, environment in environments.items():
        own: dict[str, Any] = {"epochs": epochs} if peer == "cnn" and epochs else {}
        spec = {"halves": list(runs), "seed": seed, "signals": kind, **own}
        work = partial(fit_halves, peer, environment, data, runs, kind, seed, kept=kept, **own)
        try:
            cell = _found(peer, environment, cells, spec, work)
        except PeerError as error:
            failures.append(f"{peer}, halves, {kind}: {error}")
            continue
        epochs = cell["epochs"] if peer == "si-cnn" else epochs
        found[peer, kind] = cell["numbers"]
        _say(f"halves, {kind}, {peer}")
    return found, failures


def _found(
    peer: str,
    environment: Environment,
    cells: Cells,
    spec: dict[str, Any],
    work: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The result of one of the app's methods from its cell; published fits are kept where they are made."""
    if peer not in OWN:
        return work()
    spec = {**spec, "peer": peer, "versions": environment.versions, "code": code_digest()}
    return cells.get(spec, work)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ratios_of(found: Fits, peer: str, kind: str, one: Simulation) -> np.ndarray | None:
    """Errors of F, D and D* relative to the better least squares in the same voxels; None if not known."""
    bases = [found.get((BASE, each, one)) for each in SIGNALS]
    cell = found.get((peer, kind, one))
    if cell is None or None in bases:
        return None
    table = next(name for name in TABLES if name in cell["errors"])
    return np.array(cell["errors"][table]) / np.min([base["errors"][table] for base in bases], axis=0)


def triple(values: Sequence[float], form: str) -> str:
    """F / D / D*."""
    return " / ".join(format(value, form) for value in values)


def summary(
    found: Fits, halves: Halves, environments: dict[str, Environment], kinds: Sequence[str], snr: float
) -> str:
    """One row per fit and signals, over all truths and seeds of an SNR."""
    columns = [
        "fit",
        "signals",
        "truths",
        "F / D / D\\*, geometric mean",
        "worst truth",
        "outside (%)",
        "wCV F / D / D\\*",
        "difference to single volumes",
        "s per 1,000 voxels",
        "trained before (s)",
        "memory (GB)",
        "installed (GB)",
    ]
    rows = []
    for kind, peer in product(kinds, environments):
        cells = {
            one: cell
            for (name, each, one), cell in found.items()
            if (name, each) == (peer, kind) and one.snr == snr
        }
        ratios = [each for one in cells if (each := ratios_of(found, peer, kind, one)) is not None]
        if not ratios:
            continue
        *wcv, difference = halves.get((peer, kind), [np.nan])
        voxels = sum(cell["voxels"] for cell in cells.values())
        training = max(cell["training"] for cell in cells.values())
        rows.append(
            [
                f"{peer} (sample)" if PEERS[peer].slow else peer,
                kind,
                # Fewer than of others where some failed: such means are not to be held against theirs.
                str(len({one.truth for one in cells})),
                triple(gmean(ratios), ".2f"),
                triple(np.max(ratios, axis=0), ".2f"),
                f"{100 * np.mean([cell['outside'] for cell in cells.values()]):.1f}",
                triple(wcv, ".3f") if wcv else "",
                f"{difference:.4f}" if wcv else "",
                f"{1000 * sum(cell['seconds'] for cell in cells.values()) / voxels:.3g}",
                f"{training:.0f}" if training else "",
                f"{max(cell['memory'] for cell in cells.values()):.2f}",
                f"{environments[peer].size:.2f}",
            ]
        )
    return markdown(columns, rows)


def truths_table(found: Fits, kind: str, snr: float) -> str:
    """One row per truth, one column per fit: errors relative to the better least squares, over all seeds."""
    ones = list(dict.fromkeys(one for _, _, one in found if one.snr == snr))
    peers = [
        peer
        for peer in PEERS
        if (peer, kind) != (BASE, "raw")
        and any(key[:2] == (peer, kind) and key[2].snr == snr for key in found)
    ]
    rows = []
    for truth in dict.fromkeys(one.truth for one in ones):
        of_truth = [one for one in ones if one.truth == truth]
        bases = [
            np.min([found[BASE, each, one]["errors"]["all"] for each in SIGNALS], axis=0)
            for one in of_truth
            if all((BASE, each, one) in found for each in SIGNALS)
        ]
        if not bases:
            continue
        scaled = gmean(bases) * [SCALES[label] for label in LABELS]
        row = [truth, triple(scaled, ".3g")]
        for peer in peers:
            ratios = [each for one in of_truth if (each := ratios_of(found, peer, kind, one)) is not None]
            row.append(triple(gmean(ratios), ".2f") if ratios else "")
        rows.append(row)
    return markdown(["truth", "better least squares: F / D (1e-4) / D\\* (1e-3)", *peers], rows)


def records(found: Fits, halves: Halves) -> str:
    """Every single result as comma-separated values; fractions and mm^2/s, nothing averaged."""
    names = ("seconds", "training", "memory", "voxels", "outside")
    head = ["truth", "snr", "seed", "volumes", "shape", "fit", "signals", "table"]
    columns = [*head, *(f"rmse_{label}" for label in LABELS), *names]
    numbers = [*(f"wcv_{label}" for label in LABELS), "difference"]

    def rows() -> Iterator[list[object]]:
        for (peer, kind, one), cell in found.items():
            shape = "x".join(map(str, one.shape))
            for table, errors in cell["errors"].items():
                where = [one.truth, one.snr, one.seed, one.volumes, shape, peer, kind, table]
                yield [*where, *errors, *(cell[name] for name in names), *[""] * len(numbers)]
        for (peer, kind), values in halves.items():
            yield ["halves", *[""] * 4, peer, kind, *[""] * (len(columns) - 7), *values]

    return comma_separated([*columns, *numbers], rows())


def page_of(
    found: Fits,
    halves: Halves,
    environments: dict[str, Environment],
    kinds: Sequence[str],
    notes: Sequence[str],
    source: str,
) -> str:
    """Markdown page of all tables."""
    parts = ["# Published fits side by side", source, LEAD, "\n".join(f"- {note}" for note in notes)]
    for snr in dict.fromkeys(one.snr for _, _, one in found):
        ones = {one for _, _, one in found if one.snr == snr}
        seeds, truths = ({getattr(one, name) for one in ones} for name in ("seed", "truth"))
        parts += [
            f"## SNR {snr:g}: {len(truths)} truths, seed {', '.join(map(str, sorted(seeds)))}",
            summary(found, halves, environments, kinds, snr),
        ]
        for kind in kinds:
            parts += [f"### Every truth, {kind} signals", truths_table(found, kind, snr)]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    options = build_parser().parse_args()
    if options.quick:
        options.truths, options.shape, options.runs = options.truths[:1], QUICK_SHAPE, ()
        options.peers = [name for name in options.peers if PEERS[name].quick]
    torch.set_num_threads(1)
    # Least squares first: what all others are held against.
    asked = [name for name in PEERS if name in (BASE, *options.peers)]
    environments, notes = environments_of(asked, options.environments)
    for line in notes:
        _say(line)
    runs = options.runs if options.data.is_dir() else ()
    if runs:
        require_files(options.data, runs)
    elif options.runs:
        notes.append(f"halves: left out, {options.data} is not there")
    simulations = [
        Simulation(truth, snr, seed, options.volumes, tuple(options.shape))
        for snr, seed, truth in product(options.snr, options.seeds, options.truths)
    ]
    cells = Cells(options.out / "cells.jsonl")
    kept = options.out / "fits"
    found: Fits = {}
    halves: Halves = {}
    for kind in SIGNALS:
        # Both least squares are what all others are held against.
        fits = environments if kind in options.signals else {BASE: environments[BASE]}
        more, failed = collect(simulations, fits, kind, cells, sample=options.sample, kept=kept)
        found, notes = {**found, **more}, [*notes, *failed]
        if runs and kind in options.signals:
            agreed, failed = collect_halves(
                runs, fits, kind, cells, data=options.data, seed=options.seeds[0], kept=kept
            )
            halves, notes = {**halves, **agreed}, [*notes, *failed]
    if runs:
        notes.append(f"halves of {', '.join(runs)}")
    if any(PEERS[peer].slow for peer in environments):
        notes.append(f"sample: {options.sample} voxels, every tissue in proportion, for least squares too")
    versions = {name: version for one in environments.values() for name, version in one.versions.items()}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    shape = " x ".join(map(str, options.shape))
    source = (
        f"{provenance(command_line())}, one thread, {shape} voxels, volumes per b-value: {options.volumes}; "
    )
    source += installed
    page = page_of(found, halves, environments, options.signals, notes, source)
    write_tables(options.out, "peers", page, f"# {source}\n{records(found, halves)}")
    print(page)


if __name__ == "__main__":
    main()
