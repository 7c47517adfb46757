"""SI-CNN on every truth beside what a user could do instead with the same denoised signals.

    python -m benchmarks.accuracy.controls --seeds 31
    python -m benchmarks.accuracy.controls --peers ivim-mri-seg ivim-mri-spatial --snr 10 50 --volumes 3

Root mean square errors of F / D (1e-4 mm^2/s) / D* (1e-3 mm^2/s) of least squares with and without MP-PCA, as
in :mod:`benchmarks.accuracy.refinement`; those of all others, after MP-PCA, relative to the better of these
two, each parameter for itself:

- averaging: least squares of the means of similar voxels, which are found from the curves of least squares as
  SI-CNN finds them from the network's, with its threshold; three passes. "refined": the refinement of SI-CNN
  with these maps as the prior, so that only the network is missing.
- cnn: the network without rewriting and refinement, for as many epochs as SI-CNN.
- constant: the median of least squares after MP-PCA everywhere.
- published fits, with ``--peers``, as in :mod:`benchmarks.peers`, which has a table of all of them.
- si-cnn: at the app's defaults. "to the best": relative to the best of all others, which is another one for
  every parameter and truth, and which nobody without the truth knows.

The last column is the root mean square error of predicted signals, least squares after MP-PCA (or, if better,
without) and SI-CNN, in units of the noise of the averaged signals. A minute or two per truth; a stopped one
goes on where it was, and ``--peers`` adds its fits to what is there. They are kept in ``fits`` by what they
were given: any version of the app with the same signals finds them. One that fails is NaN in its row. Several
seeds are followed by a table over all of them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.averages import fitted
from benchmarks.accuracy.refinement import Found, measured, prepared_of, refined_of, simulated
from benchmarks.common.arms import estimated
from benchmarks.common.cells import Cells, markdown, parser_of
from benchmarks.common.methods import epochs_of
from benchmarks.common.metrics import LABELS, SCALES, voxels_of
from benchmarks.common.truths import TRUTHS
from benchmarks.peers.environments import ENVIRONMENTS, environments_of
from benchmarks.peers.fits import PUBLISHED, Environment, PeerError, fit_peer, within_bounds
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn.similar_means import similar_means

PASSES = 3
BASES = ("lsq", "MP-PCA + lsq")
OURS = "si-cnn"


def averaged_without_network(found: Found, threshold: Threshold) -> Estimate:
    """Least squares of the means of similar voxels, found from the maps of least squares."""
    given, estimate = found.denoised, found.maps["MP-PCA + lsq"]
    settings = EstimationSettings(neighbour_threshold=threshold)
    for _ in range(PASSES):
        signals, _, count = similar_means(
            estimate.maps,
            given.signals,
            given.mask,
            given.bvals,
            sigma=given.sigma,
            noise=given.noise,
            settings=settings,
        )
        estimate = replace(fitted(replace(given, signals=signals)), neighbour_count=count)
    return estimate


def own_errors(name: str, snr: float, seed: int, volumes: int) -> dict[str, list[float]]:
    """Errors of F, D, D* and signals by method, of all that needs no other environment."""
    phantom, found = simulated(name, snr, seed, volumes)
    given, network = found.denoised, found.maps["MP-PCA + network"]
    threshold = network.parameters["neighbour_threshold"]
    averaged = averaged_without_network(found, Threshold.parse(threshold))
    again = refined_of(averaged, given, found.evidence, threshold)
    plain = EstimationSettings(method="cnn", random_seed=seed, epochs=epochs_of(network))
    fit = found.maps["MP-PCA + lsq"].maps
    medians = {label: np.median(fit[label][given.mask]) for label in (*LABELS, "s0")}
    maps = {
        **{base: found.maps[base].maps for base in BASES},
        "averaging": averaged.maps,
        "averaging, refined": again.maps,
        "cnn": estimated(given, plain, volumes=given.repeats).maps,
        "constant": {label: np.full(given.mask.shape, value) for label, value in medians.items()},
        OURS: found.maps["MP-PCA + network, refined"].maps,
    }
    return {
        method: [*errors(phantom, found.mask, one), signal_error(phantom, found, one)]
        for method, one in maps.items()
    }


def peers_errors(
    environments: dict[str, Environment], name: str, snr: float, seed: int, volumes: int, *, kept: Path
) -> dict[str, list[float]]:
    """Errors of F, D and D* of published fits of the denoised signals; NaN of those that fail."""
    if not environments:
        return {}
    phantom, series, options = measured(name, snr, seed, volumes)
    plain, given = (prepared_of(series, phantom.mask, denoise, **options) for denoise in ("none", "mppca"))
    mask = plain.averaged.mask & given.averaged.mask
    found = {}
    for peer, environment in environments.items():
        try:
            fit = fit_peer(environment, peer, given.averaged, mask, seed, evidence=given.evidence, kept=kept)
            found[peer] = errors(phantom, mask, within_bounds(fit.maps)[0])
        except PeerError as error:
            print(f"{name}, SNR {snr:g}, seed {seed}, {peer}: {error}", file=sys.stderr, flush=True)
            found[peer] = [np.nan] * 3
    return found


def errors(phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray]) -> list[float]:
    """Root mean square errors of F, D and D* where each has a meaning."""
    return [
        float(np.sqrt(np.mean(np.square(maps[label][where] - getattr(phantom, label)[where]))))
        for label, where in voxels_of(phantom, mask).items()
    ]


def signal_error(phantom: Phantom, found: Found, maps: dict[str, np.ndarray]) -> float:
    """Root mean square error of the predicted signals in units of the noise of the averaged ones."""
    plain, mask = found.plain, found.mask
    predicted = ivim_signal_maps(plain.bvals, *(maps[label][mask] for label in (*LABELS, "s0")))
    noise = np.broadcast_to(plain.noise, plain.signals.shape)[mask]
    return float(np.sqrt(np.mean(np.square((predicted - phantom.signals(plain.bvals)[mask]) / noise))))


def row(found: dict[str, list[float]]) -> list[str]:
    """Cells of one measurement from the errors of all methods."""
    of_maps = {name: np.array(values[:3]) for name, values in found.items()}
    fits = [of_maps.pop(name) for name in BASES]
    ours, base = of_maps.pop(OURS), np.minimum(*fits)
    best = np.nanmin([base, *of_maps.values()], axis=0)
    scales = [SCALES[label] for label in LABELS]
    ratios = [other / base for other in (*of_maps.values(), ours)]
    return [
        *(triple(fit * scales, ".3g") for fit in fits),
        *(triple(ratio, ".2f") for ratio in (*ratios, ours / best)),
        f"{min(found[name][3] for name in BASES):.2f} / {found[OURS][3]:.2f}",
    ]


def over_seeds(found: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Root mean square errors over all seeds of a truth, by method."""
    return {
        name: np.sqrt(np.mean(np.square([one[name] for one in found]), axis=0)).tolist() for name in found[0]
    }


def triple(values: np.ndarray, form: str) -> str:
    """F / D / D*."""
    return " / ".join(format(value, form) for value in values)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=tuple(TRUTHS))
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--volumes", type=int, default=1, help="per b-value")
    parser.add_argument("--out", type=Path, default=Path("out/controls"), help="for cells.jsonl")
    parser.add_argument("--peers", nargs="*", choices=PUBLISHED, default=(), help="published fits")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="of the published fits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    environments, missing = environments_of(options.peers, options.environments)
    versions = {name: version for one in environments.values() for name, version in one.versions.items()}
    print("\n".join([*missing, *(f"{name} {version}" for name, version in versions.items()), ""]))
    cells = Cells(options.out / "cells.jsonl")
    rivals = ["averaging", "averaging, refined", "cnn", "constant", *environments]
    columns = ["truth", "SNR", "seed", *BASES, *rivals, OURS, "to the best", "signals"]
    print(markdown(columns, []))
    of_truths: dict[tuple[str, float], list[dict[str, list[float]]]] = {}
    for name, snr, seed in product(options.truths, options.snr, options.seeds):
        which = {"name": name, "snr": snr, "seed": seed, "volumes": options.volumes}
        found = {
            **cells.get(which, partial(own_errors, **which)),
            **peers_errors(environments, **which, kept=options.out / "fits"),
        }
        of_truths.setdefault((name, snr), []).append(found)
        print("| " + " | ".join([name, f"{snr:g}", str(seed), *row(found)]) + " |", flush=True)
    if len(options.seeds) > 1:
        seeds = f"{len(options.seeds)} together"
        rows = [[name, f"{snr:g}", seeds, *row(over_seeds(of))] for (name, snr), of in of_truths.items()]
        print("\n" + markdown(columns, rows))


if __name__ == "__main__":
    main()
