"""Stated noise against the error of the averaged signals: phantoms, and the scatter of measured halves.

    python -m benchmarks.accuracy.noise
    python -m benchmarks.accuracy.noise --parts phantom --truths organs --snr 10 40 --volumes 1 3 6

Phantoms: the ratio of the noise that the app states to the true error, both root mean squares over the
mask and the seeds, at the b-value where it is lowest, on average, and where it is highest; the share of the
errors within one and two of the stated standard deviations; and the thermal noise of one volume against the
true one. Pulsation has a standard deviation of 5 % of the signal, and the g-factor is 2 in the middle.

Halves: the volumes of every measured run, split as in :mod:`benchmarks.common.halves` and in all ways
there are; the ratio of the difference between the averaged signals to what the noise of both lets expect,
root mean squares over the voxels of all organs and runs, b-value by b-value. Shared: the same of two
simulated measurements, of which the true error is known beside it: halves do not see what is wrong in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.averages import DENOISING, averaged, foreground, measured_halves
from benchmarks.common.cells import parser_of
from benchmarks.common.halves import DATA, RUNS, require_files, root_mean_square
from benchmarks.common.truths import TRUTHS
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire_series
from sicnn_app.phantoms.disturbances import Disturbances
from sicnn_app.phantoms.phantom import make_phantom

DISTURBED = {
    "nothing": Disturbances(),
    "pulsation": Disturbances(pulsation=0.05),
    "g-factor": Disturbances(g_factor=2.0),
    "both": Disturbances(pulsation=0.05, g_factor=2.0),
}
DIRECTIONS = 6
"""Of every b-value of the measured runs."""

HALF_BVALS = (0, 10, 25, 50, 100, 200, 300, 400, 500)
"""s/mm^2; those of the measured runs, whose halves have three volumes of each."""

SPLITS = {
    "that agrees best": None,
    **{
        ", ".join(map(str, (0, *others))): (0, *others)
        for others in combinations(range(1, DIRECTIONS), DIRECTIONS // 2 - 1)
    },
}
"""Directions of the first half: every way to split them, and of these the one whose halves agree best."""


def phantom_table(
    truths: Sequence[str],
    snrs: Sequence[float],
    volumes: Sequence[int],
    seeds: Sequence[int],
    denoising: Sequence[str],
    shape: tuple[int, int, int],
    scheme: Sequence[float] | None = None,
) -> None:
    """Print how the stated noise of averaged signals compares with their error."""
    print(
        "| truth | SNR | disturbed by | volumes per b | denoising | lowest | mean | highest | within 1 SD "
        "| within 2 SD | one volume |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in truths:
        preset, truth, _ = TRUTHS[name]
        for snr in snrs:
            for kind, disturbances in DISTURBED.items():
                for count in volumes:
                    for denoise in denoising:
                        squares, z, sigmas = [], [], []
                        for seed in seeds:
                            phantom = make_phantom(preset, shape, seed=seed, truth=truth)
                            bvals = np.repeat(scheme or DEFAULT_BVALS[preset], count).astype(np.float64)
                            made = acquire_series(
                                phantom, bvals, snr=snr, seed=seed, disturbances=disturbances
                            )
                            found = averaged(made.series, phantom.mask, average="robust", denoise=denoise)
                            inside = found.mask
                            error = (found.signals - phantom.signals(found.bvals))[inside]
                            stated = found.noise[inside].astype(np.float64)
                            squares.append([np.square(one).mean(axis=0) for one in (stated, error)])
                            z.append((np.abs(error) / np.maximum(stated, 1e-9)).ravel())
                            sigmas.append(found.sigma / np.median(made.sigma[inside]))
                        ratio = np.sqrt(np.divide(*np.sum(squares, axis=0)))
                        off = np.concatenate(z)
                        print(
                            f"| {name} | {snr:g} | {kind} | {count} | {denoise} | {ratio.min():.2f} "
                            f"| {ratio.mean():.2f} | {ratio.max():.2f} | {100 * np.mean(off < 1):.0f} % "
                            f"| {100 * np.mean(off < 2):.0f} % | {np.mean(sigmas):.2f} |",
                            flush=True,
                        )


def shared_table(snrs: Sequence[float], seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
    """Print the scatter of simulated halves, whose true error is known, over the stated noise."""
    preset, truth, _ = TRUTHS["organs"]
    columns = " | ".join(f"b = {bval:g}" for bval in HALF_BVALS)
    print(f"| SNR | denoising | | {columns} | all b > 0 |\n{'|---' * (len(HALF_BVALS) + 4)}|")
    for snr in snrs:
        for denoise in DENOISING:
            squares = np.zeros((3, len(HALF_BVALS)))
            for seed in seeds:
                phantom = make_phantom(preset, shape, seed=seed, truth=truth)
                bvals = np.repeat(HALF_BVALS, 3).astype(np.float64)
                pair = [
                    averaged(
                        acquire_series(
                            phantom, bvals, snr=snr, seed=10 * seed + half, disturbances=DISTURBED["both"]
                        ).series,
                        phantom.mask,
                        average="robust",
                        denoise=denoise,
                    )
                    for half in (0, 1)
                ]
                inside, clean = pair[0].mask & pair[1].mask, phantom.signals(pair[0].bvals)
                errors = [(one.signals - clean)[inside] for one in pair]
                squares += [
                    np.square(errors[0] - errors[1]).mean(axis=0),
                    np.square(errors).sum(axis=0).mean(axis=0),
                    sum(np.square(one.noise[inside], dtype=np.float64) for one in pair).mean(axis=0),
                ]
            for name, found in (("scatter", squares[0]), ("error", squares[1])):
                ratios = " | ".join(f"{value:.2f}" for value in np.sqrt(found / squares[2]))
                above = np.sqrt(found[1:].sum() / squares[2, 1:].sum())
                print(f"| {snr:g} | {denoise} | {name} over stated | {ratios} | {above:.2f} |", flush=True)


def halves_table(data: Path, denoising: Sequence[str]) -> None:
    """Print how the scatter between halves compares with the stated noise."""
    bvals, rows = None, []
    of_splits: dict[str, list[np.ndarray]] = {denoise: [] for denoise in denoising}
    for split, first in SPLITS.items():
        found: dict[str, list[np.ndarray]] = {denoise: [] for denoise in denoising}
        for halves, organs in measured_halves(data, first):
            for denoise in denoising:
                pair = []
                for half in halves:
                    pair.append(averaged(half, foreground(half) | organs, average="robust", denoise=denoise))
                inside = organs & pair[0].mask & pair[1].mask
                level = pair[0].signals[inside, 0].mean()
                difference = (pair[0].signals - pair[1].signals)[inside] / level
                expected = np.hypot(*(one.noise[inside] for one in pair)) / level
                found[denoise].append(np.stack([difference, expected]))
                bvals = pair[0].bvals
        for denoise, parts in found.items():
            rms = np.sqrt(np.square(np.concatenate(parts, axis=1), dtype=np.float64).mean(axis=1))
            rows.append(halves_row(split, denoise, rms))
            if SPLITS[split] is not None:
                of_splits[denoise].append(rms)
    rows += [
        halves_row(f"all {len(of)} together", denoise, np.sqrt(np.square(of).mean(axis=0)))
        for denoise, of in of_splits.items()
    ]
    assert bvals is not None
    columns = " | ".join(f"b = {bval:g}" for bval in bvals)
    print(f"| split | denoising | {columns} | all b > 0 |\n{'|---' * (bvals.size + 3)}|")
    print("\n".join(rows))


def halves_row(split: str, denoise: str, rms: np.ndarray) -> str:
    """Of root mean squares of scatter and stated noise, shape (2, B)."""
    ratios = " | ".join(f"{value:.2f}" for value in rms[0] / rms[1])
    above = root_mean_square(rms[0, 1:]) / root_mean_square(rms[1, 1:])
    return f"| {split} | {denoise} | {ratios} | {above:.2f} |"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=("halves", "shared", "phantom"), default=("halves", "shared", "phantom")
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--denoising", nargs="+", choices=DENOISING, default=DENOISING)
    parser.add_argument(
        "--truths", nargs="+", choices=tuple(TRUTHS), default=("organs", "random organs", "brain")
    )
    parser.add_argument("--snr", type=float, nargs="+", default=(20.0,))
    parser.add_argument("--volumes", type=int, nargs="+", default=(1, 2, 6))
    parser.add_argument("--bvals", type=float, nargs="+", help="s/mm^2; by default those of the anatomy")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 56, 4))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "halves" in options.parts:
        require_files(options.data, RUNS)
        halves_table(options.data, options.denoising)
        print()
    if "shared" in options.parts:
        shared_table((12.0, 20.0), options.seeds, tuple(options.shape))
        print()
    if "phantom" in options.parts:
        phantom_table(
            options.truths,
            options.snr,
            options.volumes,
            options.seeds,
            options.denoising,
            tuple(options.shape),
            options.bvals,
        )


if __name__ == "__main__":
    main()
