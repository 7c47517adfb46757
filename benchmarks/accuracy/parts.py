"""Parts of the estimator at today's defaults, each taken away for itself: what it earns, and what it costs.

    python -m benchmarks.accuracy.parts --out docs/ablation

Root mean square errors of F, D and D* of the maps, relative to those of the defaults, and processor time of
the estimation, as well; on truths of ``benchmarks.common.truths``, 48 x 44 x 2 voxels, one volume per
b-value, after MP-PCA. Means over seeds of these ratios. What is taken away, or put on top:

- refinement: the network's maps as they are; similar voxels in it: refined by each voxel's own signals alone.
  MP-PCA: signals as acquired. All other rows are refined.
- rewriting: a network trained on the noisy signals for as many epochs (cnn). Similar voxels: signals are
  replaced by the network's own predictions (di-cnn), and none are averaged in the refinement.
- network: least squares of the means of similar voxels (:mod:`benchmarks.accuracy.controls`) is what is
  refined; network and similar voxels: least squares is.
- choices of the network, of its loss and of when it stops.

About ten seconds per part, truth and seed; a table that was stopped goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.accuracy.averages import fitted
from benchmarks.accuracy.controls import averaged_without_network, triple
from benchmarks.accuracy.refinement import Found, measured, prepared_of, refined_of
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
from benchmarks.common.methods import epochs_of
from benchmarks.common.metrics import LABELS, SCALES, errors_of
from benchmarks.common.truths import TRUTHS
from sicnn_app.ivim.maps import Estimate
from sicnn_app.preprocess.steps import Prepared
from sicnn_app.settings import EstimationSettings, NetworkSettings, Threshold
from sicnn_app.sicnn.refinement import refined
from sicnn_app.sicnn.whitening import Whitening

CHOSEN = ("organs", "continuous, 3 voxels", "low perfusion", "brain")
DEFAULTS = "the defaults"


class Measurement:
    """One measurement of a truth, prepared when asked for, and what the defaults came to."""

    def __init__(self, name: str, snr: float, seed: int) -> None:
        self.seed = seed
        self.phantom, self.series, self.options = measured(name, snr, seed, 1)
        self.usual: dict[str, Any] = {}

    @cached_property
    def denoised(self) -> Prepared:
        return prepared_of(self.series, self.phantom.mask, "mppca", **self.options)

    @cached_property
    def plain(self) -> Prepared:
        return prepared_of(self.series, self.phantom.mask, "none", **self.options)

    def refined(self, estimate: Estimate, *, by_similar: bool = True) -> Estimate:
        """Maps of another prior, refined as those of the network, or by the voxels' own signals alone."""
        given, evidence = self.denoised.averaged, self.denoised.evidence
        assert evidence is not None
        if by_similar:
            return refined_of(estimate, given, evidence, self.usual["neighbour_threshold"])
        bounds = EstimationSettings().bounds
        return refined(estimate, given.signals, given.mask, given.bvals, evidence, bounds=bounds)

    def found(self) -> Found:
        """Least squares, as the averaging without a network begins with."""
        given, evidence = self.denoised.averaged, self.denoised.evidence
        assert evidence is not None
        return Found(given, given, evidence, {"MP-PCA + lsq": fitted(given)})


Part = Callable[[Measurement], Estimate]


def trained(patches: Mapping[str, Any] | None = None, denoise: str = "denoised", **changes: Any) -> Part:
    """The app's estimate with other settings, and with others in the place of what no setting reaches."""

    def part(given: Measurement) -> Estimate:
        prepared: Prepared = getattr(given, denoise)
        settings = EstimationSettings(random_seed=given.seed, **changes)
        averaged = prepared.averaged
        with ExitStack() as stack:
            for name, value in (patches or {}).items():
                stack.enter_context(patch(f"sicnn_app.sicnn.{name}", value))
            return estimated(averaged, settings, volumes=averaged.repeats, evidence=prepared.evidence)

    return part


def _without_rewriting(given: Measurement) -> Estimate:
    return given.refined(trained(method="cnn", epochs=given.usual["epochs"])(given))


def _without_similar_voxels(given: Measurement) -> Estimate:
    return given.refined(trained(method="di-cnn")(given), by_similar=False)


def _without_first_estimates(given: Measurement) -> Estimate:
    return given.refined(trained(refinement="none")(given), by_similar=False)


def _without_network(given: Measurement) -> Estimate:
    threshold = Threshold.parse(given.usual["neighbour_threshold"])
    return given.refined(averaged_without_network(given.found(), threshold))


def _without_both(given: Measurement) -> Estimate:
    return given.refined(given.found().maps["MP-PCA + lsq"])


def _centred(signals: torch.Tensor, weight: torch.Tensor) -> Whitening:
    whitening = Whitening.of_several([(signals, weight)])
    return replace(whitening, matrix=torch.eye(signals.shape[1]))


def _first_of_two(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return first


def _alike(normaliser: torch.Tensor) -> torch.Tensor:
    return (normaliser > 0).float()


PARTS: dict[str, Part] = {
    DEFAULTS: trained(),
    "refinement": trained(refinement="none"),
    "network and similar voxels": _without_both,
    "network": _without_network,
    "rewriting": _without_rewriting,
    "similar voxels": _without_similar_voxels,
    "both first estimates of the refinement": _without_first_estimates,
    "second prior": trained({"refinement._meeting": _first_of_two}),
    "MP-PCA": trained(denoise="plain"),
    "convolution over space": trained(network=NetworkSettings(kernel_size=1)),
    "half of the epochs": trained(period_share=EstimationSettings().period_share / 2),
    "with twice the epochs": trained(period_share=EstimationSettings().period_share * 2),
    "whitening of the input": trained({"whitening.Whitening.of": _centred}),
    "averaged weights": trained({"train.EMA_DECAY": 0.0}),
    "stop where tissue is a continuum": trained({"iterate.CONTINUUM": math.inf}),
    "with normalisation over channels": trained(network=NetworkSettings(normalisation="channels")),
    "two of three layers": trained(network=NetworkSettings(depth=1)),
    "half of the channels": trained(network=NetworkSettings(width=16)),
    "weights of voxels": trained({"cropping.voxel_weights": _alike}),
    "weights of b-values": trained(weigh_bvals=False),
    "stop by the noise": trained(lambda_=Threshold(0.0, "sigma")),
    "with dropout, .1": trained(dropout=0.1),
}


@lru_cache(maxsize=1)
def measurement(name: str, snr: float, seed: int) -> Measurement:
    return Measurement(name, snr, seed)


def cell(part: str, usual: dict[str, Any], name: str, snr: float, seed: int) -> dict[str, Any]:
    """Errors of F, D and D*, processor seconds and epochs; ``usual`` are those of the defaults."""
    given = measurement(name, snr, seed)
    given.usual = usual
    # Prepared before the clock starts, whichever is used.
    prepared = given.plain if part == "MP-PCA" else given.denoised
    begin = time.process_time()
    estimate = PARTS[part](given)
    seconds = time.process_time() - begin
    return {
        "errors": errors_of(given.phantom, prepared.averaged.mask, estimate.maps),
        "seconds": seconds,
        "epochs": epochs_of(estimate),
        "neighbour_threshold": estimate.parameters.get("neighbour_threshold"),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=[name for name in PARTS if name != DEFAULTS])
    parser.add_argument("--truths", nargs="+", choices=TRUTHS, default=CHOSEN)
    parser.add_argument("--snr", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(options.out / "cells.jsonl")
    chosen = [DEFAULTS, *(options.parts or [name for name in PARTS if name != DEFAULTS])]
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    # Seeds first, so that a table that was stopped has all rows of the first ones.
    for seed, name in product(options.seeds, options.truths):
        usual: dict[str, Any] = {}
        for part in chosen:
            where = {"name": name, "snr": options.snr, "seed": seed}
            one = cells.get({"part": part, **where}, partial(cell, part, usual, **where))
            usual = usual or one
            found[part, name, seed] = one
    write(options.out, found, options.truths, options.seeds)


def write(
    out: Path, found: dict[tuple[str, str, int], dict[str, Any]], truths: list[str], seeds: list[int]
) -> None:
    """The table as Markdown, and every cell as CSV."""

    def mean(part: str, name: str, what: str, *, relative: bool = True) -> np.ndarray:
        values = np.array([found[part, name, seed][what] for seed in seeds])
        usual = np.array([found[DEFAULTS, name, seed][what] for seed in seeds])
        return (values / usual if relative else values).mean(axis=0)

    scales = [SCALES[label] for label in LABELS]
    rows = [
        [DEFAULTS]
        + [triple(mean(DEFAULTS, name, "errors", relative=False) * scales, ".3g") for name in truths]
        + [f"{np.mean([mean(DEFAULTS, name, 'seconds', relative=False) for name in truths]):.1f} s"]
    ]
    for part in dict.fromkeys(key[0] for key in found):
        if part != DEFAULTS:
            times = np.mean([mean(part, name, "seconds") for name in truths])
            errors = [triple(mean(part, name, "errors"), ".2f") for name in truths]
            rows.append([part, *errors, f"{times:.2f}"])
    columns = ["without", *truths, "processor time"]
    records = [[*key, *one["errors"], one["seconds"], one["epochs"]] for key, one in found.items()]
    table = markdown(columns, rows)
    write_tables(
        out,
        "parts",
        f"Made by {provenance(command_line())}.\n\n{table}\n",
        comma_separated(["without", "truth", "seed", *LABELS, "seconds", "epochs"], records),
    )
    print(table)


if __name__ == "__main__":
    main()
