"""What the refinement adds to the network's maps, and whether its standard deviations hold.

    python -m benchmarks.accuracy.refinement --seeds 10 11 12
    python -m benchmarks.accuracy.refinement --parts share ensemble --truths organs brain
    python -m benchmarks.accuracy.refinement --parts denoising
    python -m benchmarks.accuracy.refinement --parts halves

Phantom: root mean square errors of F, D and D* on the truths of ``benchmarks.common.truths``, of the network
after MP-PCA as the app trains it, and of the same refined with the signals before denoising. Both relative to
the better of least squares with and without MP-PCA; the share of the voxels whose error is within one and
two standard deviations, and of those of a single tissue within one; and the mean continuous ranked
probability score of normal distributions of F, log D and log D* (a standard deviation of D over D is that of
log D), in the unit of F and of natural logarithms. Ensemble: the same of the mean maps of five networks
without refinement (``--ensemble 5 --refinement none``), its noise drawn and denoised as in the app, and the
score above relative to its. Share: the regression of the errors of the network's F, log D and log D* on
the noise of each voxel's own fit around the truth, by the number of similar neighbours: what
``sicnn_app.sicnn.posterior.OWN_SHARE`` was taken from. With several seeds their means follow. Denoising:
errors of the refined maps, and of least squares, after MP-PCA relative to those of the same method without.

Halves: as in ``benchmarks.accuracy.averages``, all in the ways the app averages; the differences between the
maps of both halves over their standard deviations as well. Spread of organ medians: standard deviation over
the organs of a run (liver, kidney, spleen, pancreas) of their medians of F / D / D*, means of both halves;
root mean square over the runs, relative to MP-PCA + lsq. Below 1 a method draws organs together. The last row
is least squares of every organ's mean signal, without denoising. Half a minute per truth, two more for its
ensemble, some seconds per half of a run; a stopped table of truths goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from benchmarks.accuracy.averages import Agreement, fitted, foreground, measured_halves
from benchmarks.accuracy.roi_medians import mean_signal_fit
from benchmarks.common.arms import estimated
from benchmarks.common.cells import Cells, markdown, parser_of
from benchmarks.common.halves import (
    DATA,
    MIN_VOXELS,
    ORGANS,
    RUNS,
    contrast_ratio,
    labels_of,
    require_files,
)
from benchmarks.common.metrics import LABELS, errors_of, voxels_of
from benchmarks.common.truths import TRUTHS
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.precision import signal_derivatives
from sicnn_app.ivim.series import AveragedSignals, DwiSeries, Evidence
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire_series
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.resample import Resampling
from sicnn_app.preprocess.steps import Prepared, prepare
from sicnn_app.settings import EstimationSettings, PreprocessingSettings, Threshold
from sicnn_app.sicnn.refinement import refined_maps

SHAPE = (48, 44, 2)
LESIONS = 20
"""As many as have room in so small an image; fewer in smaller ones, in proportion."""

SHARE_BINS = (1, 2, 4, 8, 16, 32, 64, 1000)
"""Similar neighbours."""

MEAN_SIGNAL = "lsq of the organ's mean signal"

MEMBERS = 5
"""Networks of an ensemble."""


@dataclass(frozen=True)
class Found:
    """One measurement: averaged signals without and with MP-PCA, evidence, and estimates by their names."""

    plain: AveragedSignals
    denoised: AveragedSignals
    evidence: Evidence
    maps: dict[str, Estimate]

    @property
    def mask(self) -> np.ndarray:
        """Voxels of all estimates."""
        return self.plain.mask & self.denoised.mask


def prepared_of(series: DwiSeries, mask: np.ndarray, denoise: str, *, anatomy: str, average: str) -> Prepared:
    """A series with or without denoising, in the mask."""
    chosen = PreprocessingSettings(denoise=denoise, motion_correction="none", average=average)
    return prepare(series, anatomy=anatomy, external_mask=mask, settings=chosen)


def estimates(series: DwiSeries, mask: np.ndarray, *, anatomy: str, seed: int, average: str) -> Found:
    """Least squares twice, the network after MP-PCA, and the same refined."""
    prepared = partial(prepared_of, series, mask, anatomy=anatomy, average=average)
    plain, clean = prepared("none").averaged, prepared("mppca")
    given, evidence = clean.averaged, clean.evidence
    assert evidence is not None
    settings = EstimationSettings(random_seed=seed, refinement="none")
    network = estimated(given, settings, volumes=given.repeats, evidence=evidence)
    return Found(
        plain,
        given,
        evidence,
        {
            "lsq": fitted(plain),
            "MP-PCA + lsq": fitted(given),
            "MP-PCA + network": network,
            "MP-PCA + network, refined": refined_of(network, given, evidence),
        },
    )


def refined_of(
    estimate: Estimate, given: AveragedSignals, evidence: Evidence, threshold: str | None = None
) -> Estimate:
    """An estimate refined as the app refines that of the network, by default with its own threshold."""
    limit = Threshold.parse(threshold or estimate.parameters["neighbour_threshold"])
    return refined_maps(
        estimate,
        given.signals,
        given.mask,
        given.bvals,
        given.noise,
        given.sigma,
        settings=EstimationSettings(neighbour_threshold=limit),
        evidence=evidence,
    )


def simulated(name: str, snr: float, seed: int, volumes: int) -> tuple[Phantom, Found]:
    """A truth by its name, and the estimates of a measurement of it."""
    phantom, acquired, options = measured(name, snr, seed, volumes)
    return phantom, estimates(acquired, phantom.mask, seed=seed, **options)


def measured(
    name: str, snr: float, seed: int, volumes: int, shape: tuple[int, int, int] = SHAPE
) -> tuple[Phantom, DwiSeries, dict[str, str]]:
    """A truth by its name, a measurement of it, and how it is prepared."""
    preset, truth, disturbances = TRUTHS[name]
    truth = replace(truth, lesions=min(truth.lesions, LESIONS * prod(shape) // prod(SHAPE)))
    phantom = make_phantom(preset, shape, seed=seed, tissue_variation=0.05, truth=truth)
    bvals = np.repeat(DEFAULT_BVALS[preset], volumes)
    acquired = acquire_series(phantom, bvals, snr=snr, seed=seed + 100_000, disturbances=disturbances)
    anatomy = "brain" if preset == "brain" else "body"
    way = "auto" if volumes > 1 else "arithmetic"
    return phantom, acquired.series, {"anatomy": anatomy, "average": way}


def denoising_table(names: Sequence[str], snrs: Sequence[float], seeds: Sequence[int], volumes: int) -> None:
    """Print errors after MP-PCA relative to those without, F / D / D*."""
    print(markdown(["truth", "volumes per b", "SNR", "seed", "SI-CNN", "least squares"], []))
    for name, snr, seed in product(names, snrs, seeds):
        phantom, series, options = measured(name, snr, seed, volumes)
        errors: dict[str, list[np.ndarray]] = {"si-cnn": [], "lsq": []}
        for denoise in ("none", "mppca"):
            found = prepared_of(series, phantom.mask, denoise, **options)
            given = found.averaged
            chosen = EstimationSettings(random_seed=seed)
            refined_maps = estimated(given, chosen, volumes=given.repeats, evidence=found.evidence).maps
            for method, maps in (("si-cnn", refined_maps), ("lsq", fitted(given).maps)):
                errors[method].append(np.array(errors_of(phantom, given.mask, maps)))
        ratios = [" / ".join(f"{one:.2f}" for one in after / before) for before, after in errors.values()]
        print("| " + " | ".join(map(str, [name, volumes, f"{snr:g}", seed, *ratios])) + " |", flush=True)


def crps(errors: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of normal predictions, in the unit of the errors; 0 is best.

    Gneiting and Raftery, J Am Stat Assoc 2007;102:359-378.
    """
    z = errors / spread
    return spread * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))


def sureness(phantom: Phantom, mask: np.ndarray, maps: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """What standard deviations are worth, each for F, D and D*.

    Returns
    -------
    dict of str to list of float
        ``one`` and ``two``, shares of the voxels whose error is at most so many standard deviations, %;
        ``pure``, the first over voxels of a single tissue; ``crps``, means of those of F, log D and log D*.
    """
    found: dict[str, list[float]] = {name: [] for name in ("one", "two", "pure", "crps")}
    pure = phantom.purity == 1
    for label, where in voxels_of(phantom, mask).items():
        value, spread = (maps[name][where].astype(np.float64) for name in (label, f"{label}_std"))
        spread, truth = np.maximum(spread, np.finfo(np.float32).tiny), getattr(phantom, label)[where]
        quotients = np.abs(value - truth) / spread
        found["one"].append(100 * float(np.mean(quotients <= 1)))
        found["two"].append(100 * float(np.mean(quotients <= 2)))
        found["pure"].append(100 * float(np.mean(quotients[pure[where]] <= 1)))
        if label != "f":
            value, spread, truth = np.log(value), spread / value, np.log(truth)
        found["crps"].append(float(np.mean(crps(value - truth, spread))))
    return found


def simulation(name: str, snr: float, seed: int, volumes: int) -> dict[str, Any]:
    """Errors by method, worth of the standard deviations, and sums of the regression of every bin."""
    phantom, found = simulated(name, snr, seed, volumes)
    count, products, squares = own_noise(phantom, found)
    place = np.digitize(count, SHARE_BINS[1:])
    return {
        "errors": {name: errors_of(phantom, found.mask, one.maps) for name, one in found.maps.items()},
        **sureness(phantom, found.mask, found.maps["MP-PCA + network, refined"].maps),
        "share": [np.bincount(place, one, len(SHARE_BINS)).tolist() for one in (products, squares)],
    }


def of_ensemble(name: str, snr: float, seed: int, volumes: int) -> dict[str, Any]:
    """Errors and worth of the means over an ensemble, after MP-PCA, its noise drawn as in the app."""
    phantom, series, options = measured(name, snr, seed, volumes)
    found = prepared_of(series, phantom.mask, "mppca", **options)
    given = found.averaged
    settings = EstimationSettings(random_seed=seed, ensemble=MEMBERS, refinement="none")
    resampling = Resampling.of(found.series, given, found.denoising)
    maps = estimated(
        given, settings, volumes=given.repeats, evidence=found.evidence, resample=resampling
    ).maps
    return {"errors": errors_of(phantom, given.mask, maps), **sureness(phantom, given.mask, maps)}


COLUMNS = ("network", "refined", "within 1 SD, %", "within 2 SD, %", "1 SD, unmixed, %", "CRPS")
OF_ENSEMBLE = ("ensemble", "within 1 SD, %", "within 2 SD, %", "its CRPS", "CRPS to its")


def numbers(found: dict[str, Any], ensemble: dict[str, Any] | None) -> np.ndarray:
    """Triples of a row, shape (columns, 3); errors relative to the better least squares."""
    errors = {name: np.array(one) for name, one in found["errors"].items()}
    best = np.minimum(errors["lsq"], errors["MP-PCA + lsq"])
    rows = [errors[name] / best for name in ("MP-PCA + network", "MP-PCA + network, refined")]
    rows += [np.array(found[name]) for name in ("one", "two", "pure", "crps")]
    if ensemble is not None:
        rows += [np.array(ensemble["errors"]) / best]
        rows += [np.array(ensemble[name]) for name in ("one", "two", "crps")]
        rows += [rows[5] / rows[-1]]
    return np.array(rows)


def written(triples: np.ndarray) -> list[str]:
    """Cells of F / D / D*: shares without decimals, ratios with two, scores with three digits."""
    names = [*COLUMNS, *OF_ENSEMBLE][: len(triples)]
    forms = [".0f" if "%" in name else "#.3g" if name.endswith("CRPS") else ".2f" for name in names]
    return [
        " / ".join(format(one, form) for one in triple) for form, triple in zip(forms, triples, strict=True)
    ]


def own_noise(phantom: Phantom, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per voxel: neighbours, product of error and noise of the signal's shape, and square of the noise."""
    refined, plain = found.maps["MP-PCA + network, refined"], found.plain
    known = found.mask & (phantom.f > 0.03) & (phantom.f < 0.6) & (phantom.dstar > 0.006)
    truth = np.stack([getattr(phantom, label)[known] for label in LABELS], axis=1)
    level = phantom.s0[known, None]
    scales = np.stack([np.ones(len(truth)), *truth[:, 1:].T, np.ones(len(truth))], axis=1)
    slopes = (
        signal_derivatives(plain.bvals, *truth.T) * scales[:, None] * (level / plain.noise[known])[..., None]
    )
    noise = (plain.signals[known] - phantom.signals(plain.bvals)[known]) / plain.noise[known]
    covariance = np.linalg.inv(np.swapaxes(slopes, 1, 2) @ slopes + 1e-9 * np.eye(4))
    own = (covariance @ (np.swapaxes(slopes, 1, 2) @ noise[..., None]))[:, :3, 0]
    assert refined.prior is not None
    maps = np.stack([refined.prior[label][known] for label in LABELS], axis=1)
    apart = np.hstack([maps[:, :1] - truth[:, :1], np.log(np.maximum(maps[:, 1:], 1e-5) / truth[:, 1:])])
    information = np.linalg.inv(covariance[:, :3, :3])
    assert refined.neighbour_count is not None

    def matched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.einsum("vi,vij,vj->v", first, information, second)

    return refined.neighbour_count[known], matched(apart, own), matched(own, own)


def simulations(
    cells: Cells,
    names: Sequence[str],
    snrs: Sequence[float],
    seeds: Sequence[int],
    volumes: int,
    *,
    share: bool,
    ensemble: bool,
) -> None:
    """Print a row per truth, SNR and seed, the means over seeds, and with ``share`` the regression."""
    columns = ["truth", "SNR", "seed", *COLUMNS, *(OF_ENSEMBLE if ensemble else ())]
    print(markdown(columns, []))
    means, sums = [], np.zeros((2, len(SHARE_BINS)))
    for name, snr in product(names, snrs):
        rows = []
        for seed in seeds:
            which = {"name": name, "snr": snr, "seed": seed, "volumes": volumes}
            found = cells.get(which, partial(simulation, **which))
            several = (
                cells.get({**which, "ensemble": MEMBERS}, partial(of_ensemble, **which)) if ensemble else None
            )
            rows.append(numbers(found, several))
            sums += found["share"]
            print("| " + " | ".join([name, f"{snr:g}", str(seed), *written(rows[-1])]) + " |", flush=True)
        means.append([name, f"{snr:g}", f"mean of {len(rows)}", *written(np.mean(rows, axis=0))])
    if len(seeds) > 1:
        print("\n" + markdown(columns, means))
    if share:
        shares = [
            [f"{low} to {high - 1}", f"{product / square:.2f}"]
            for (low, high), product, square in zip(pairwise(SHARE_BINS), *sums[:, :-1], strict=True)
            if square
        ]
        print("\n" + markdown(["similar neighbours", "share of a voxel's own noise"], shares))


def organ_medians(maps: Sequence[dict[str, np.ndarray]], labels: np.ndarray) -> np.ndarray:
    """Medians of F, D and D* in every organ, the mean over both halves, shape (3, organs)."""
    organs = organs_in(labels)
    return np.mean(
        [[[np.median(one[label][organ]) for organ in organs] for label in LABELS] for one in maps], axis=0
    )


def mean_signal_fits(halves: Sequence[AveragedSignals], labels: np.ndarray) -> np.ndarray:
    """The same of the fit of every organ's mean signal, which has hardly any noise."""
    organs = organs_in(labels)
    return np.mean(
        [[mean_signal_fit(one.signals, one.bvals, organ) for organ in organs] for one in halves], axis=0
    ).T


def organs_in(labels: np.ndarray) -> list[np.ndarray]:
    """Voxels of each organ that has enough of them."""
    return [labels == code for code in ORGANS if (labels == code).sum() >= MIN_VOXELS]


def spread_of_organs(medians: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> str:
    """How far organ medians, shape (3, organs) per run, are apart, relative to the reference: F / D / D*."""
    pairs = zip(zip(*medians, strict=True), zip(*reference, strict=True), strict=True)
    return " / ".join(f"{contrast_ratio(found, wanted):.2f}" for found, wanted in pairs)


def halves_table(data: Path, runs: Sequence[str], seed: int) -> None:
    """Print wCV, difference to single volumes, spread of organs, and shares within the deviations."""
    agreements: dict[str, Agreement] = {}
    medians: dict[str, list[np.ndarray]] = {}
    spreads: list[list[np.ndarray]] = [[], []]
    for run, (halves, organs) in zip(runs, measured_halves(data, runs=runs), strict=True):
        both = []
        for half in halves:
            voxels = foreground(half) | organs
            both.append(estimates(half, voxels, anatomy="body", seed=seed, average="auto"))
        inside = organs & both[0].mask & both[1].mask
        level = np.mean([one.plain.signals[inside, 0] for one in both], axis=0)
        labels = np.where(inside, labels_of(data, run, organs.shape), 0)
        for name in both[0].maps:
            maps = [one.maps[name].maps for one in both]
            agreements.setdefault(name, Agreement()).add(maps, halves, inside, level)
            medians.setdefault(name, []).append(organ_medians(maps, labels))
            for found, spread in zip(maps, spreads, strict=True):
                if "f_std" in found:
                    spread.append(np.stack([found[f"{label}_std"][inside] for label in LABELS]))
        medians.setdefault(MEAN_SIGNAL, []).append(mean_signal_fits([one.plain for one in both], labels))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    spread_of = {name: spread_of_organs(of, medians["MP-PCA + lsq"]) for name, of in medians.items()}
    rows = [[name, *agreement.numbers, spread_of[name]] for name, agreement in agreements.items()]
    rows.append([MEAN_SIGNAL, *[""] * 4, spread_of[MEAN_SIGNAL]])
    columns = ["wCV F", "wCV D", "wCV D*", "difference to single volumes", "spread of organ medians"]
    print(markdown(["method", *columns], rows))
    deviations = np.hypot(*(np.concatenate(half, axis=1) for half in spreads))
    first, second = agreements["MP-PCA + network, refined"].halves
    quotients = np.abs(first - second) / deviations
    shares = [" / ".join(f"{100 * np.mean(one < times):.0f}" for one in quotients) for times in (1, 2)]
    print(f"\nDifferences of the refined halves within 1 SD: {shares[0]} %, within 2 SD: {shares[1]} %")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("phantom", "share", "ensemble", "denoising", "halves"),
        default=("phantom",),
    )
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=tuple(TRUTHS))
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--volumes", type=int, default=1, help="per b-value")
    parser.add_argument("--out", type=Path, default=Path("out/refinement"), help="for cells.jsonl")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="of the halves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "halves" in options.parts:
        require_files(options.data, options.runs)
        halves_table(options.data, options.runs, options.seeds[0])
    if "denoising" in options.parts:
        denoising_table(options.truths, options.snr, options.seeds, options.volumes)
    if {"phantom", "share", "ensemble"} & set(options.parts):
        simulations(
            Cells(options.out / "cells.jsonl"),
            options.truths,
            options.snr,
            options.seeds,
            options.volumes,
            share="share" in options.parts,
            ensemble="ensemble" in options.parts,
        )


if __name__ == "__main__":
    main()
