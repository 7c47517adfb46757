"""What the refinement adds to the network's maps, and whether its standard deviations hold.

    python -m benchmarks.accuracy.refinement --parts phantom share
    python -m benchmarks.accuracy.refinement --parts denoising
    python -m benchmarks.accuracy.refinement --parts halves

Phantom: root mean square errors of F, D and D* on the truths of ``benchmarks.common.truths``, of the network
after MP-PCA as the app trains it, and of the same refined with the signals before denoising. Both relative to
the better of least squares with and without MP-PCA, and the share of the voxels whose error is within one and
two standard deviations. Share: the regression of the errors of the network's F, log D and log D* on
the noise of each voxel's own fit around the truth, by the number of similar neighbours: what
``sicnn_app.sicnn.posterior.OWN_SHARE`` was taken from. Denoising: errors of the refined maps, and of least
squares, after MP-PCA relative to those of the same method without.

Halves: as in ``benchmarks.accuracy.averages``, all in the ways the app averages; the differences between the
maps of both halves over their standard deviations as well. A minute per truth, two per half of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.averages import Agreement, fitted, foreground, measured_halves
from benchmarks.accuracy.retest import DATA, RUNS, require_files
from benchmarks.common.arms import RMSE, estimated
from benchmarks.common.cells import markdown, parser_of
from benchmarks.common.metrics import LABELS, map_errors, voxels_of
from benchmarks.common.truths import TRUTHS
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.precision import signal_derivatives
from sicnn_app.ivim.series import AveragedSignals, DwiSeries, Evidence
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire_series
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.steps import Prepared, prepare
from sicnn_app.settings import EstimationSettings, PreprocessingSettings
from sicnn_app.sicnn.posterior import refined

SHAPE = (48, 44, 2)
LESIONS = 20
"""As many as have room in so small an image."""

SHARE_BINS = (1, 2, 4, 8, 16, 32, 64, 1000)
"""Similar neighbours."""


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
            "MP-PCA + network, refined": refined(
                network,
                given.signals,
                given.mask,
                given.bvals,
                evidence,
                bounds=EstimationSettings().bounds,
            ),
        },
    )


def simulated(name: str, snr: float, seed: int, volumes: int) -> tuple[Phantom, Found]:
    """A truth by its name, and the estimates of a measurement of it."""
    phantom, acquired, options = measured(name, snr, seed, volumes)
    return phantom, estimates(acquired, phantom.mask, seed=seed, **options)


def measured(name: str, snr: float, seed: int, volumes: int) -> tuple[Phantom, DwiSeries, dict[str, str]]:
    """A truth by its name, a measurement of it, and how it is prepared."""
    preset, truth, disturbances = TRUTHS[name]
    truth = replace(truth, lesions=min(truth.lesions, LESIONS))
    phantom = make_phantom(preset, SHAPE, seed=seed, tissue_variation=0.05, truth=truth)
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
                of_maps = map_errors(phantom, given.mask, maps)
                errors[method].append(np.array([of_maps[label] for label in RMSE]))
        ratios = [" / ".join(f"{one:.2f}" for one in after / before) for before, after in errors.values()]
        print("| " + " | ".join(map(str, [name, volumes, f"{snr:g}", seed, *ratios])) + " |", flush=True)


def within(phantom: Phantom, found: Found, times: float) -> list[float]:
    """Share of the voxels whose error is at most so many standard deviations; F, D, D*."""
    maps, where = found.maps["MP-PCA + network, refined"].maps, voxels_of(phantom, found.mask)
    return [
        float(
            np.mean(
                np.abs(maps[label] - getattr(phantom, label))[where[label]]
                <= times * maps[f"{label}_std"][where[label]]
            )
        )
        for label in LABELS
    ]


def phantom_row(phantom: Phantom, found: Found) -> list[str]:
    """Errors relative to the better least squares, and shares within the standard deviations."""
    errors = {
        name: np.array([map_errors(phantom, found.mask, one.maps)[label] for label in RMSE])
        for name, one in found.maps.items()
    }
    best = np.minimum(errors["lsq"], errors["MP-PCA + lsq"])
    ratios = [
        " / ".join(f"{ratio:.2f}" for ratio in errors[name] / best)
        for name in ("MP-PCA + network", "MP-PCA + network, refined")
    ]
    shares = [" / ".join(f"{100 * share:.0f}" for share in within(phantom, found, times)) for times in (1, 2)]
    return [*ratios, *shares]


def own_noise(phantom: Phantom, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per voxel: neighbours, product of error and noise of the signal's shape, and square of the noise."""
    network, plain = found.maps["MP-PCA + network"], found.plain
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
    maps = np.stack([network.maps[label][known] for label in LABELS], axis=1)
    apart = np.hstack([maps[:, :1] - truth[:, :1], np.log(np.maximum(maps[:, 1:], 1e-5) / truth[:, 1:])])
    information = np.linalg.inv(covariance[:, :3, :3])
    assert network.neighbour_count is not None

    def matched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.einsum("vi,vij,vj->v", first, information, second)

    return network.neighbour_count[known], matched(apart, own), matched(own, own)


def simulations(
    names: Sequence[str], snrs: Sequence[float], seeds: Sequence[int], volumes: int, *, share: bool
) -> None:
    """Print the table of every truth and, with ``share``, that of their own noise in the network's maps."""
    columns = ["truth", "SNR", "seed", "network", "refined", "within 1 SD, %", "within 2 SD, %"]
    print(markdown(columns, []))
    regressions = []
    for name in names:
        for snr in snrs:
            for seed in seeds:
                phantom, found = simulated(name, snr, seed, volumes)
                row = [name, f"{snr:g}", seed, *phantom_row(phantom, found)]
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
                regressions.append(own_noise(phantom, found))
    if share:
        count, products, squares = (np.concatenate(one) for one in zip(*regressions, strict=True))
        place = np.digitize(count, SHARE_BINS[1:])
        rows = [
            [f"{low} to {high - 1}", f"{products[place == index].sum() / squares[place == index].sum():.2f}"]
            for index, (low, high) in enumerate(pairwise(SHARE_BINS))
            if (place == index).any()
        ]
        print("\n" + markdown(["similar neighbours", "share of a voxel's own noise"], rows))


def halves_table(data: Path, runs: Sequence[str], seed: int) -> None:
    """Print wCV, difference to single volumes of the other half, and shares within the deviations."""
    agreements: dict[str, Agreement] = {}
    spreads: list[list[np.ndarray]] = [[], []]
    for halves, organs in measured_halves(data, runs=runs):
        both = []
        for half in halves:
            voxels = foreground(half) | organs
            both.append(estimates(half, voxels, anatomy="body", seed=seed, average="auto"))
        inside = organs & both[0].mask & both[1].mask
        level = np.mean([one.plain.signals[inside, 0] for one in both], axis=0)
        for name in both[0].maps:
            maps = [one.maps[name].maps for one in both]
            agreements.setdefault(name, Agreement()).add(maps, halves, inside, level)
            for found, spread in zip(maps, spreads, strict=True):
                if "f_std" in found:
                    spread.append(np.stack([found[f"{label}_std"][inside] for label in LABELS]))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [[name, *agreement.numbers] for name, agreement in agreements.items()]
    print(markdown(["method", "wCV F", "wCV D", "wCV D*", "difference to single volumes"], rows))
    deviations = np.hypot(*(np.concatenate(half, axis=1) for half in spreads))
    first, second = agreements["MP-PCA + network, refined"].halves
    quotients = np.abs(first - second) / deviations
    shares = [" / ".join(f"{100 * np.mean(one < times):.0f}" for one in quotients) for times in (1, 2)]
    print(f"\nDifferences of the refined halves within 1 SD: {shares[0]} %, within 2 SD: {shares[1]} %")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=("phantom", "share", "denoising", "halves"), default=("phantom",)
    )
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=tuple(TRUTHS))
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--volumes", type=int, default=1, help="per b-value")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="of the halves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "halves" in options.parts:
        require_files(options.data, options.runs)
        halves_table(options.data, options.runs, options.seeds[0])
    if "denoising" in options.parts:
        denoising_table(options.truths, options.snr, options.seeds, options.volumes)
    if {"phantom", "share"} & set(options.parts):
        share = "share" in options.parts
        simulations(options.truths, options.snr, options.seeds, options.volumes, share=share)


if __name__ == "__main__":
    main()
