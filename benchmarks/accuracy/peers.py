"""Published IVIM fits beside the app's methods: same phantom, mask, voxels and bounds.

    python -m venv ~/peers && ~/peers/bin/pip install -r benchmarks/accuracy/peers_requirements.txt
    python -m benchmarks.accuracy.peers --python ~/peers/bin/python --out out/peers
    python -m benchmarks.accuracy.peers --python ~/peers/bin/python --quick

The peers have an environment of their own and run in processes of their own
(``benchmarks/accuracy/peer_fits.py``), on one thread of the CPU and, except for what is said here, at their
defaults. A stopped benchmark goes on where it was; a peer that is missing or fails gets a line that says so.

- lsq, cnn, si-cnn: this app with its defaults; cnn has the epochs of si-cnn. They get the true noise, which
  only si-cnn uses.
- dipy-trr, dipy-trr-200: dipy's IvimModel by trust region, the second with D started from b = 200 s/mm^2 on.
- dipy-varpro: the same model by variable projection. S0 has no bounds, and a first search is fixed to D* of
  0.005 to 0.01 and D of 0.0001 to 0.001 mm^2/s.
- ivim-mri-seg, ivim-mri-bayes, ivim-mri-spatial: segmented and Bayesian fits of ivim-mri, in its diffusive
  regime, and the latter with its prior that neighbours in the slice are alike. Their bounds are fixed:
  D to 0.003, D* 0.003 to 0.1 and 0 to 1 mm^2/s.
- ivimnet, ivimnet-patient: IVIM-NET optim trained on all voxels of the mask, with the stop of its package, or
  with a stop that waits for as many steps as that means with large data. F, D and D* have the common bounds,
  S0 only a largest amplitude; 1,000 epochs are its limit. Voxels that it takes for implausible it leaves at
  0, outside the bounds of D*.

Variable projection takes 50 ms per voxel and runs on a sample that has every tissue in proportion, at least
five voxels each. One table has all voxels, one the sample, for every method alike; networks are trained on
all voxels for both. Values that are not finite are replaced by typical ones, values outside of the bounds
are clipped into them, both before the errors: "outside bounds" is the share of voxels where F, D or D* was
either. Errors of D* and the correlation are taken where the true F is above 0.02, errors of D outside of
vessels. Seconds are processor time of the fit or the training on one thread, without imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.arms import Estimable
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    spread,
    write_tables,
)
from benchmarks.common.methods import epochs_of, timed
from benchmarks.common.metrics import LABELS, NAMES, SCALES, map_errors
from benchmarks.common.scenarios import HELD_OUT_SEEDS, SCHEMES, SHAPE, Measurement, Scenario, measure
from sicnn_app.phantoms.acquire import DEFAULT_BVALS
from sicnn_app.settings import Bounds, EstimationSettings

OWN = ("lsq", "si-cnn", "cnn")
"""si-cnn before cnn, which takes over its number of epochs."""

WORKER = Path(__file__).with_name("peer_fits.py")

LEAST_VOXELS = 5
"""Of a tissue in the sample; all of a smaller one."""

TYPICAL = {"f": 0.15, "d": 1.3e-3, "dstar": 0.03}
"""In place of values that are not finite; mm^2/s."""

ROUNDING = 1e-6
"""Of a bound's interval: maps in float32 may miss a bound by that."""

TABLES = ("all", "sample")

FORMS = {"f": ".4f", "d": ".2f", "dstar": ".1f"}


@dataclass(frozen=True)
class Peer:
    """A published fit.

    Attributes
    ----------
    needs : tuple of str
        Distributions that have to be installed.
    slow : bool
        Whether only the sample is fitted.
    quick : bool
        Whether a quick run has it.
    """

    needs: tuple[str, ...]
    slow: bool = False
    quick: bool = True


PEERS = {
    "dipy-trr": Peer(("dipy",)),
    "dipy-trr-200": Peer(("dipy",)),
    "dipy-varpro": Peer(("dipy", "cvxpy"), slow=True, quick=False),
    "ivim-mri-seg": Peer(("ivim-mri",)),
    "ivim-mri-bayes": Peer(("ivim-mri",)),
    "ivim-mri-spatial": Peer(("ivim-mri",), quick=False),
    "ivimnet": Peer(("IVIMNET", "torch")),
    "ivimnet-patient": Peer(("IVIMNET", "torch"), quick=False),
}


class PeerError(Exception):
    """A peer that could not be run; the message says why."""


@dataclass(frozen=True)
class Fit:
    """What a method returned.

    Attributes
    ----------
    maps : dict of str to ndarray, shape (X, Y, Z)
        F fraction, D and D* in mm^2/s; anything outside of the fitted voxels.
    seconds : float
        Processor time: other work on the machine does not count.
    voxels : int
        Fitted ones.
    epochs : int
        Of a network of the app; 0 for others.
    """

    maps: dict[str, np.ndarray]
    seconds: float
    voxels: int
    epochs: int = 0


def stratified_sample(strata: np.ndarray, mask: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Random voxels of the mask, every stratum in proportion.

    Parameters
    ----------
    strata : ndarray of int, shape (X, Y, Z)
    mask : ndarray, shape (X, Y, Z), bool
    count : int
        Voxels in all; the whole mask when it has fewer.
    seed : int

    Returns
    -------
    ndarray, shape (X, Y, Z), bool
        At least :data:`LEAST_VOXELS` of every stratum; the largest one makes up for them.
    """
    if count >= mask.sum():
        return mask
    rng = np.random.default_rng(seed)
    codes, sizes = np.unique(strata[mask], return_counts=True)
    shares = np.round(sizes * count / sizes.sum()).astype(int)
    shares = np.minimum(np.maximum(shares, LEAST_VOXELS), sizes)
    shares[sizes.argmax()] += count - shares.sum()
    if shares.min() < 1:
        raise ValueError(f"{count} voxels are too few for {len(codes)} tissues")
    chosen = np.zeros(mask.shape, dtype=bool)
    for code, share in zip(codes, shares, strict=True):
        chosen.flat[rng.choice(np.flatnonzero(mask & (strata == code)), share, replace=False)] = True
    return chosen


@lru_cache(maxsize=1)
def problem_of(scenario: Scenario, sample: int) -> tuple[Measurement, dict[str, np.ndarray]]:
    """The measurement and the voxels of every table."""
    measured = measure(scenario)
    chosen = stratified_sample(measured.phantom.labels, measured.mask, sample, scenario.seed)
    return measured, dict(zip(TABLES, (measured.mask, chosen), strict=True))


def fit_own(method: str, measured: Measurement, seed: int, *, epochs: int | None = None) -> Fit:
    """A method of the app on the whole measurement."""
    settings = EstimationSettings(method=method, random_seed=seed, epochs=epochs)
    estimate, seconds = timed(measured, settings)
    return Fit(estimate.maps, seconds, int(measured.mask.sum()), epochs_of(estimate))


def fit_peer(python: Path, name: str, measured: Estimable, voxels: np.ndarray, seed: int) -> Fit:
    """A peer, in a process of its own, on some voxels (shape (X, Y, Z), bool); raises PeerError."""
    bounds = np.array(list(asdict(Bounds()).values()))
    with tempfile.TemporaryDirectory() as folder:
        problem, result = Path(folder, "problem.npz"), Path(folder, "result.npz")
        np.savez(
            problem,
            signals=measured.signals[voxels],
            bvals=measured.bvals,
            bounds=bounds,
            seed=seed,
            mask=voxels,
        )
        _worker(python, name, problem, result)
        with np.load(result) as found:
            maps = {label: np.full(voxels.shape, np.nan) for label in LABELS}
            for label, values in maps.items():
                values[voxels] = found[label]
            return Fit(maps, float(found["seconds"]), int(found["voxels"]))


def _worker(python: Path, *arguments: str | Path) -> str:
    """What the worker prints; raises PeerError with the last line of its complaint."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    surroundings = {**os.environ, **one_thread, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    try:
        done = subprocess.run(
            [python, WORKER, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=surroundings,
        )
    except OSError as error:
        raise PeerError(f"{python} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


def score(fit: Fit, measured: Measurement, tables: dict[str, np.ndarray], *, slow: bool) -> dict[str, Any]:
    """Errors of a fit in every table that its voxels cover; JSON-serialisable."""
    maps, outside = within_bounds(fit.maps)
    found: dict[str, Any] = {"seconds": fit.seconds, "voxels": fit.voxels, "epochs": fit.epochs}
    for name in TABLES[1:] if slow else TABLES:
        found[name] = {
            **map_errors(measured.phantom, measured.mask, maps, only=tables[name]),
            "outside": float(outside[tables[name]].mean()),
            "compared": int(tables[name].sum()),
        }
    return found


def within_bounds(maps: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps with every value inside the bounds, and where any was outside or not finite."""
    kept, outside = {}, np.zeros(maps["f"].shape, dtype=bool)
    for label in LABELS:
        lower, upper = getattr(Bounds(), label)
        values, margin = maps[label].astype(np.float64), ROUNDING * (upper - lower)
        usable = np.isfinite(values)
        outside |= ~usable | (values < lower - margin) | (values > upper + margin)
        kept[label] = np.where(usable, np.clip(values, lower, upper), TYPICAL[label])
    return kept, outside


def compute(name: str, scenario: Scenario, sample: int, *, python: Path | None, epochs: int | None) -> dict:
    """One cell: a method on a scenario."""
    measured, tables = problem_of(scenario, sample)
    if name in OWN:
        return score(fit_own(name, measured, scenario.seed, epochs=epochs), measured, tables, slow=False)
    slow = PEERS[name].slow
    fit = fit_peer(python, name, measured, tables["sample" if slow else "all"], scenario.seed)
    return score(fit, measured, tables, slow=slow)


def usable_peers(
    python: Path | None, asked: Iterable[str]
) -> tuple[list[str], dict[str, str | None], list[str]]:
    """Peers that can be run, versions in their environment, and a line for every peer that cannot."""
    if python is None:
        return [], {}, [f"{name}: left out, --python names no environment" for name in asked]
    try:
        versions = json.loads(_worker(python, "versions"))
    except PeerError as error:
        return [], {}, [f"{name}: left out, {error}" for name in asked]
    usable, lines = [], []
    for name in asked:
        missing = [needed for needed in PEERS[name].needs if versions[needed] is None]
        if missing:
            lines.append(f"{name}: left out, {' and '.join(missing)} not installed in that environment")
        else:
            usable.append(name)
    return usable, versions, lines


def collect(
    scenarios: list[Scenario],
    peers: list[str],
    versions: dict[str, str | None],
    cells: Cells,
    *,
    sample: int,
    python: Path | None,
) -> tuple[dict[tuple[Scenario, str], dict], list[str]]:
    """Every method on every scenario, and a line for every fit that failed."""
    found, failures = {}, []
    for scenario in scenarios:
        epochs = None
        for name in (*OWN, *peers):
            spec = {"scenario": asdict(scenario), "method": name, "sample": sample, "epochs": epochs}
            spec["settings"] = repr(EstimationSettings())
            if name in PEERS:
                spec["versions"] = versions
            try:
                cell = cells.get(
                    spec,
                    partial(
                        compute,
                        name,
                        scenario,
                        sample,
                        python=python,
                        epochs=epochs if name == "cnn" else None,
                    ),
                )
            except PeerError as error:
                failures.append(f"{name}, SNR {scenario.snr:g}, seed {scenario.seed}: failed, {error}")
                continue
            if name == "si-cnn":
                epochs = cell["epochs"]
            found[scenario, name] = cell
            print(
                f"SNR {scenario.snr:g}, seed {scenario.seed}, {name}: {cell['seconds']:.1f} s",
                file=sys.stderr,
            )
    return found, failures


def summary_rows(found: dict[tuple[Scenario, str], dict], snr: float, table: str) -> list[list[str]]:
    """One row per method: mean ± SD over the seeds."""
    rows = []
    for name in ("lsq", "cnn", "si-cnn", *PEERS):
        cells = [cell for (scenario, method), cell in found.items() if (scenario.snr, method) == (snr, name)]
        errors = [cell[table] for cell in cells if table in cell]
        if not errors:
            continue
        row = [name]
        for label in LABELS:
            for measure_of, sign in (("rmse", ""), ("bias", "+"), ("sd", "")):
                values = [SCALES[label] * each[f"{measure_of}_{label}"] for each in errors]
                mean, _, deviation = spread(values, sign + FORMS[label]).partition(" ± ")
                row.append(f"{mean} ± {deviation.lstrip('+')}" if deviation else mean)
        row.append(spread([each["edge_f"] for each in errors], ".4f"))
        row.append(spread([each["spearman"] for each in errors], "+.2f"))
        row.append(spread([100 * each["outside"] for each in errors], ".1f"))
        row.append(spread([cell["seconds"] for cell in cells], ".3g"))
        row.append(spread([1000 * cell["seconds"] / cell["voxels"] for cell in cells], ".3g"))
        rows.append(row)
    return rows


COLUMNS = (
    "method",
    *(f"{kind} {NAMES[label]}" for label in LABELS for kind in ("RMSE", "bias", "SD")),
    "RMSE F at boundaries",
    "Spearman D*, F",
    "outside bounds (%)",
    "CPU seconds",
    "CPU seconds per 1,000 voxels",
)


def report(found: dict[tuple[Scenario, str], dict], notes: list[str], source: str) -> str:
    """Markdown page of all tables."""
    parts = ["# Published IVIM fits side by side", source, *(f"- {note}" for note in notes)]
    for snr in dict.fromkeys(scenario.snr for scenario, _ in found):
        for table in TABLES:
            compared = [
                cell[table]["compared"]
                for (scenario, _), cell in found.items()
                if scenario.snr == snr and table in cell
            ]
            seeds = len({scenario.seed for scenario, _ in found if scenario.snr == snr})
            which = "all voxels" if table == "all" else "stratified sample"
            parts.append(
                f"## SNR {snr:g}, {which}: {np.mean(compared):,.0f} voxels, "
                f"{seeds} seed{'s' if seeds > 1 else ''}"
            )
            parts.append(markdown(COLUMNS, summary_rows(found, snr, table)))
    return "\n\n".join(parts) + "\n"


def records(found: dict[tuple[Scenario, str], dict]) -> str:
    """Every single result as comma-separated values; fractions and mm^2/s, nothing averaged."""
    rows, columns = [], None
    for (scenario, name), cell in found.items():
        for table in TABLES:
            if table in cell:
                columns = columns or list(cell[table])
                shape = "x".join(map(str, scenario.shape))
                rows.append(
                    [scenario.preset, scenario.scheme, shape, scenario.snr, scenario.seed, table, name]
                    + [cell[table][column] for column in columns]
                    + [cell["seconds"], cell["voxels"]]
                )
    head = ["preset", "scheme", "shape", "snr", "seed", "table", "method", *(columns or [])]
    return comma_separated([*head, "cpu_seconds", "voxels_fitted"], rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--python", type=Path, help="interpreter of the peers' environment")
    parser.add_argument("--snr", type=float, nargs="+", default=(10.0, 20.0, 40.0))
    parser.add_argument("--seeds", type=int, nargs="+", default=HELD_OUT_SEEDS)
    parser.add_argument("--preset", choices=tuple(DEFAULT_BVALS), default="abdomen")
    parser.add_argument("--scheme", choices=tuple(SCHEMES), default="12x1")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--sample", type=int, default=2000, help="voxels for slow peers")
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=tuple(PEERS))
    parser.add_argument("--out", type=Path, default=Path("out/peers"))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small phantom, SNR 20, seed 0, without the peers that take minutes",
    )
    options = parser.parse_args()
    if options.quick:
        options.shape, options.snr, options.seeds, options.sample = (32, 30, 1), (20.0,), (0,), 300
        options.peers = [name for name in options.peers if PEERS[name].quick]
    torch.set_num_threads(1)
    scenarios = [
        Scenario(snr, seed, options.preset, options.scheme, tuple(options.shape))
        for snr in options.snr
        for seed in options.seeds
    ]
    peers, versions, missing = usable_peers(options.python, options.peers)
    found, failures = collect(
        scenarios,
        peers,
        versions,
        Cells(options.out / "cells.jsonl"),
        sample=options.sample,
        python=options.python,
    )
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    source = f"{provenance(command_line(options.python))}, one thread; peers: {installed or 'none'}"
    page = report(found, [*missing, *failures], source)
    write_tables(options.out, "peers", page, f"# {source}\n{records(found)}")
    print(page)


if __name__ == "__main__":
    main()
