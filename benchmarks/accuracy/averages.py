"""Averages over the volumes of a b-value: measured halves, and phantoms with and without lost signal.

    python -m benchmarks.accuracy.averages
    python -m benchmarks.accuracy.averages --parts phantom --snr 5 50 --volumes 2 6 --denoising none

Halves: the volumes of every measured run, split as in :mod:`benchmarks.common.halves`, averaged in each of
the ways and fitted by least squares; wCV over the voxels of all organs and runs, and the mean absolute
difference between the prediction and the single volumes of the other half, relative to the signal at b = 0,
which does not reward following a volume that lost its signal.

Phantom: root mean square errors of F, D and D* of least squares (D* where the true F is above 0.02), relative
to those of the arithmetic mean of the same volumes; noise is Rician. With losses every sixth volume, on
average, loses 30 to 80 % of its signal in a disc of 5 to 9 voxels' radius with soft edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.cells import parser_of
from benchmarks.common.halves import (
    DATA,
    MIN_VOXELS,
    ORGANS,
    RUNS,
    best_split,
    files_of,
    labels_of,
    require_files,
    volumes_of_halves,
    within_subject_cv,
)
from benchmarks.common.metrics import LABELS, errors_of
from sicnn_app.bids.load import load_run
from sicnn_app.bids.masks import load_mask
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.methods import estimator
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, noise_sigma
from sicnn_app.phantoms.disturbances import kept_signal
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import EstimationSettings, PreprocessingSettings

WAYS = ("arithmetic", "geometric", "robust")
DENOISING = ("none", "mppca")
SHARE_OF_LOSSES = 1 / 6


def averaged(
    series: DwiSeries, mask: np.ndarray, *, average: str, denoise: str, anatomy: str = "body"
) -> AveragedSignals:
    """Signals and noise as the app prepares them."""
    settings = PreprocessingSettings(average=average, denoise=denoise, motion_correction="none")
    return prepare(series, anatomy=anatomy, external_mask=mask, settings=settings).averaged


def fitted(signals: AveragedSignals) -> Estimate:
    """Maps of least squares as the app makes them."""
    return estimator("lsq").estimate(
        signals.signals,
        signals.mask,
        signals.bvals,
        noise=signals.noise,
        volumes=signals.repeats,
        sigma=signals.sigma,
        settings=EstimationSettings(method="lsq"),
    )


def with_directions(series: DwiSeries) -> DwiSeries:
    """The same with a direction of its own for every volume, so that geometric means are what they say."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(series.bvals.size, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return DwiSeries(series.signals, series.bvals, vectors, series.affine)


def measured_halves(
    data: Path, first: Sequence[int] | None = None, *, runs: Sequence[str] = RUNS
) -> Iterator[tuple[list[DwiSeries], np.ndarray]]:
    """Both halves of every run, and the voxels of its organs.

    ``first`` are the directions of the first half, by default those whose halves agree best.
    """
    for name in runs:
        files = files_of(data, name)
        entities = dict(part.split("-", 1) for part in name.split("_"))
        source = SourceImage(files["image"], files["bvals"], None)
        series = load_run(DwiRun(entities, (source,)), bvals_file=None).series
        body, _ = load_mask(files["mask"], series.affine, shape=series.signals.shape[:3])
        labels = labels_of(data, name, body.shape)
        organs = [labels == code for code in ORGANS if (labels == code).sum() >= MIN_VOXELS]
        means = np.array([series.signals[organ].mean(axis=0) for organ in organs], dtype=np.float64)
        split = best_split(means, series.bvals) if first is None else first
        halves = [series.select(keep) for keep in volumes_of_halves(series.bvals, split)]
        yield halves, labels > 0


def foreground(series: DwiSeries) -> np.ndarray:
    """What is not dark at b = 0, shape (X, Y, Z), bool."""
    low = series.signals[..., series.bvals == 0].mean(axis=-1)
    return low > 0.06 * np.percentile(low, 99)


class Agreement:
    """Maps of both halves of some runs, (3, V) each, and how well they predict the other half."""

    def __init__(self) -> None:
        self._maps: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._differences: list[np.ndarray] = []

    def add(
        self,
        maps: Sequence[Mapping[str, np.ndarray]],
        halves: Sequence[DwiSeries],
        inside: np.ndarray,
        level: np.ndarray,
    ) -> None:
        """Take in a run: maps of its halves, its voxels, and their signal at b = 0."""
        for found, other, kept in zip(maps, reversed(halves), self._maps, strict=True):
            kept.append(np.stack([found[label][inside] for label in LABELS]))
            predicted = ivim_signal_maps(other.bvals, *(found[label][inside] for label in (*LABELS, "s0")))
            self._differences.append(np.abs(predicted - other.signals[inside]).mean(axis=1) / level)

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """F, D and D* of all voxels, shape (3, V), of both halves."""
        first, second = (np.concatenate(half, axis=1) for half in self._maps)
        return first, second

    @property
    def numbers(self) -> list[str]:
        """WCV of F, D and D*, and the mean difference to single volumes."""
        wcv = [within_subject_cv(*pair) for pair in zip(*self.halves, strict=True)]
        return [*(f"{value:.3f}" for value in wcv), f"{np.concatenate(self._differences).mean():.4f}"]


def halves_table(data: Path, denoising: Sequence[str]) -> None:
    """Print wCV and the difference to single volumes of every way of averaging."""
    runs = list(measured_halves(data))
    print(
        "| denoising | average | wCV F | wCV D | wCV D* | difference to single volumes |\n"
        "|---|---|---|---|---|---|"
    )
    for denoise in denoising:
        for average in WAYS:
            found = Agreement()
            for halves, organs in runs:
                prepared = []
                for half in halves:
                    one = with_directions(half) if average == "geometric" else half
                    voxels = foreground(half) | organs
                    prepared.append(averaged(one, voxels, average=average, denoise=denoise))
                inside = organs & prepared[0].mask & prepared[1].mask
                level = np.mean([one.signals[inside, 0] for one in prepared], axis=0)
                found.add([fitted(one).maps for one in prepared], halves, inside, level)
            print(f"| {denoise} | {average} | {' | '.join(found.numbers)} |", flush=True)


def phantom_series(volumes: int, snr: float, seed: int, *, losses: bool) -> tuple[DwiSeries, Phantom]:
    """An abdomen with so many volumes at every b-value, and its truth."""
    phantom = make_phantom("abdomen", (64, 56, 2), seed=seed)
    bvals = np.repeat(DEFAULT_BVALS["abdomen"], volumes).astype(np.float64)
    clean = ivim_signal_maps(bvals, phantom.f, phantom.d, phantom.dstar, phantom.s0)
    rng = np.random.default_rng([seed, volumes])
    if losses:
        clean *= kept_signal(clean.shape, SHARE_OF_LOSSES, rng)
    noise = rng.normal(scale=noise_sigma(phantom, snr), size=(2, *clean.shape))
    signals = np.hypot(clean + noise[0], noise[1]).astype(np.float32)
    return DwiSeries(signals, bvals, None, phantom.affine), phantom


def phantom_table(
    snrs: Sequence[float], volumes: Sequence[int], seeds: Sequence[int], denoising: Sequence[str]
) -> None:
    """Print errors relative to the arithmetic mean."""
    print(
        "| lost signal | SNR | volumes per b | denoising | average | F | D | D* |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for losses in (False, True):
        for snr in snrs:
            for count in volumes:
                made = [phantom_series(count, snr, seed, losses=losses) for seed in seeds]
                for denoise in denoising:
                    found = {}
                    for average in WAYS:
                        each = []
                        for series, phantom in made:
                            one = with_directions(series) if average == "geometric" else series
                            signals = averaged(one, phantom.mask, average=average, denoise=denoise)
                            each.append(errors_of(phantom, signals.mask, fitted(signals).maps))
                        found[average] = np.sqrt(np.mean(np.square(each), axis=0))
                    for average in WAYS[1:]:
                        ratios = " | ".join(f"{r:.2f}" for r in found[average] / found[WAYS[0]])
                        lost = "yes" if losses else "no"
                        print(
                            f"| {lost} | {snr:g} | {count} | {denoise} | {average} | {ratios} |", flush=True
                        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=("halves", "phantom"), default=("halves", "phantom"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--denoising", nargs="+", choices=DENOISING, default=DENOISING)
    parser.add_argument("--snr", type=float, nargs="+", default=(5.0, 20.0, 50.0))
    parser.add_argument("--volumes", type=int, nargs="+", default=(2, 3, 6))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "halves" in options.parts:
        require_files(options.data, RUNS)
        halves_table(options.data, options.denoising)
        print()
    if "phantom" in options.parts:
        phantom_table(options.snr, options.volumes, options.seeds, options.denoising)


if __name__ == "__main__":
    main()
