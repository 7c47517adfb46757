"""What averaging can reach on today's truths, after MP-PCA, where it is known which voxels are similar.

    python -m benchmarks.accuracy.floor --out docs/floor

Root mean square errors of F / D / D*, simulated and denoised as by :mod:`benchmarks.accuracy.controls` and
relative, as there, to the better of least squares with and without MP-PCA. References, not bounds:

- tissue means known: every voxel has the true mean of its tissue. What is left is how values differ within
  tissues, half of it from voxel to voxel.
- true similar voxels: least squares of the mean signals of the voxels of the same tissue whose *true* curves
  are within the threshold, which is that of SI-CNN on the same signals, in windows of several radii and in
  the whole slice. "refined": these maps as the prior of SI-CNN's refinement.
- the same voxels, without noise and as acquired: the means of their true signals, which show what averaging
  itself takes away, and of their signals before MP-PCA, whose noise is white.

Root mean squares over the seeds. One minute per truth, seed and number of volumes; a stopped one goes on
where it was.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.averages import fitted
from benchmarks.accuracy.controls import BASES, OURS, over_seeds, triple
from benchmarks.accuracy.refinement import SHAPE, refined_of, simulated
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.metrics import LABELS, SCALES, errors_of
from benchmarks.common.truths import TRUTHS
from sicnn_app.ivim.series import AveragedSignals
from sicnn_app.phantoms.phantom import Phantom
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn.similar_means import similar_means

CHOSEN = ("organs", "random organs", "brain", "continuous, 3 voxels")
VOLUMES = (1, 3)

USUAL = EstimationSettings().neighbour_radius
WINDOWS = {
    **{f"radius {radius}": radius for radius in sorted({3, USUAL, 10})},
    "whole slice": max(SHAPE[:2]),
}


def tissue_means(phantom: Phantom) -> dict[str, np.ndarray]:
    """Maps in which every voxel has the mean of its tissue."""
    counts = np.maximum(np.bincount(phantom.labels.ravel()), 1)
    return {
        label: (np.bincount(phantom.labels.ravel(), getattr(phantom, label).ravel()) / counts)[phantom.labels]
        for label in LABELS
    }


def true_similar_means(
    phantom: Phantom, given: AveragedSignals, signals: np.ndarray, threshold: Threshold, radius: int
) -> tuple[AveragedSignals, np.ndarray]:
    """Mean signals of the voxels of the same tissue with similar true curves, and their number.

    Parameters
    ----------
    phantom : Phantom
    given : AveragedSignals
        Their mask and noise, which thresholds in sigma are a multiple of.
    signals : ndarray, shape (X, Y, Z, B)
        What is averaged.
    threshold : Threshold
    radius : int, voxels
    """
    settings = EstimationSettings(neighbour_threshold=threshold, neighbour_radius=radius)
    truth = {label: getattr(phantom, label) for label in (*LABELS, "s0")}
    means, count = np.zeros_like(given.signals), np.zeros(given.mask.shape, dtype=int)
    for code in np.unique(phantom.labels[given.mask]):
        tissue = given.mask & (phantom.labels == code)
        of_tissue, _, number = similar_means(
            truth,
            signals,
            tissue,
            given.bvals,
            sigma=given.sigma,
            noise=given.noise,
            settings=settings,
            sampled=0,
        )
        means[tissue], count[tissue] = of_tissue[tissue], number[tissue]
    return replace(given, signals=means), count


def references(name: str, snr: float, seed: int, volumes: int) -> dict[str, list[float]]:
    """Errors of F, D and D* by reference, of least squares and of SI-CNN."""
    phantom, found = simulated(name, snr, seed, volumes)
    given = found.denoised
    threshold = found.maps["MP-PCA + network"].parameters["neighbour_threshold"]
    averaged = partial(true_similar_means, phantom, given, threshold=Threshold.parse(threshold))
    maps = {
        **{base: found.maps[base].maps for base in BASES},
        OURS: found.maps["MP-PCA + network, refined"].maps,
        "tissue means known": tissue_means(phantom),
    }
    for window, radius in WINDOWS.items():
        means, count = averaged(given.signals, radius=radius)
        estimate = replace(fitted(means), neighbour_count=count)
        maps[f"true similar voxels, {window}"] = estimate.maps
        maps[f"true similar voxels, {window}, refined"] = refined_of(
            estimate, given, found.evidence, threshold
        ).maps
    for window in (f"radius {USUAL}", "whole slice"):
        for what, signals in (
            ("without noise", phantom.signals(given.bvals).astype(np.float32)),
            ("as acquired", found.plain.signals),
        ):
            means, _ = averaged(signals, radius=WINDOWS[window])
            maps[f"the same voxels, {what}, {window}"] = fitted(means).maps
    return {method: errors_of(phantom, found.mask, one) for method, one in maps.items()}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=CHOSEN)
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(31, 32, 33))
    parser.add_argument("--volumes", type=int, nargs="+", default=VOLUMES, help="per b-value")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(options.out / "cells.jsonl")
    found: dict[tuple[int, str], list[dict[str, list[float]]]] = {}
    records = []
    for volumes, name, seed in product(options.volumes, options.truths, options.seeds):
        which = {"name": name, "snr": options.snr, "seed": seed, "volumes": volumes}
        one = cells.get(which, partial(references, **which))
        found.setdefault((volumes, name), []).append(one)
        records += [[volumes, name, seed, method, *errors] for method, errors in one.items()]
        print(f"{volumes} per b-value, {name}, seed {seed}", flush=True)
    tables = []
    for volumes in options.volumes:
        of_truths = [found[volumes, name] for name in options.truths]
        tables.append(f"Volumes per b-value: {volumes}\n\n{table(of_truths, options.truths)}")
    page = "\n\n".join([f"Made by {provenance(command_line())}.", *tables])
    columns = ["volumes", "truth", "seed", "reference", *LABELS]
    write_tables(options.out, "floor", page + "\n", comma_separated(columns, records))
    print("\n" + page)


def table(found: list[list[dict[str, list[float]]]], names: list[str]) -> str:
    """One column per truth from its seeds; the first row is what the others are relative to."""
    scales = [SCALES[label] for label in LABELS]
    means = [over_seeds(of_truth) for of_truth in found]
    bases = [np.min([one[base] for base in BASES], axis=0) for one in means]
    rows = [["the better least squares", *(triple(base * scales, ".3g") for base in bases)]]
    for method in (name for name in means[0] if name not in BASES):
        ratios = (np.array(one[method]) / base for one, base in zip(means, bases, strict=True))
        rows.append([method, *(triple(ratio, ".2f") for ratio in ratios)])
    return markdown(["F / D / D*", *names], rows)


if __name__ == "__main__":
    main()
