"""Every choice of the method against its alternatives, in one table.

    python -m benchmarks.accuracy.ablation --out docs/ablation

Simulated abdomen, 12 b-values, one volume each, three SNRs, five seeds that choices were made on
(benchmarks/common/scenarios.py). Mean and standard deviation over the seeds of the root mean square errors of
F, D and D*, and of F in the boundary band; in brackets the mean relative to that of the defaults. The plain
network has the epochs that the defaults took on the same measurement. About 30 minutes on two cores; a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.common.arms import RMSE, Arm, mean_of
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
from benchmarks.common.metrics import FORMS, NAMES, SCALES
from benchmarks.common.pool import computed
from benchmarks.common.scenarios import TUNING_SEEDS, Scenario
from sicnn_app.settings import EstimationSettings, SimilaritySettings, Threshold

SNRS = (8.0, 15.0, 50.0)
SHAPE = (48, 45, 2)

Change = Callable[[EstimationSettings], EstimationSettings]


@dataclass(frozen=True)
class Variant:
    """One departure from the defaults.

    Attributes
    ----------
    group, name : str
    change : callable
        Defaults to settings.
    given : str
        As :class:`benchmarks.common.arms.Arm`.
    sigma_factor : float
    equal_epochs : bool
        Train for as many epochs as the defaults did.
    """

    group: str
    name: str
    change: Change
    given: str = "noisy"
    sigma_factor: float = 1.0
    equal_epochs: bool = False


def with_fields(**fields) -> Change:
    return lambda settings: replace(settings, **fields)


def similarity(**fields) -> Change:
    return lambda settings: replace(settings, similarity=replace(settings.similarity, **fields))


def network(**fields) -> Change:
    return lambda settings: replace(settings, network=replace(settings.network, **fields))


def sigmas(value: float) -> Threshold:
    return Threshold(value, "sigma")


def absolute(fitting: float, neighbour: float) -> Change:
    return with_fields(
        fitting_threshold=Threshold(fitting, "absolute"), neighbour_threshold=Threshold(neighbour, "absolute")
    )


DEFAULTS = "si-cnn, the defaults"
PLAIN = with_fields(method="cnn")
LSQ = with_fields(method="lsq")

VARIANTS = (
    Variant("method", DEFAULTS, with_fields()),
    Variant("method", "cnn, equal epochs", PLAIN, equal_epochs=True),
    Variant("method", "di-cnn, noisy input", with_fields(method="di-cnn", network_input="noisy")),
    Variant("method", "di-cnn, training input", with_fields(method="di-cnn", network_input="training")),
    Variant("method", "lsq", LSQ),
    Variant("control", "cnn on blurred images", PLAIN, given="blurred", equal_epochs=True),
    Variant("control", "lsq on blurred images", LSQ, given="blurred"),
    Variant("control", "cnn after non-local means", PLAIN, given="nlmeans", equal_epochs=True),
    Variant("control", "lsq after non-local means", LSQ, given="nlmeans"),
    Variant(
        "control",
        "1 sigma, as many signals at random",
        with_fields(fitting_threshold=Threshold(1.0, "sigma"), rewrite_at_random=True),
    ),
    Variant("control", "voxelwise kernels", network(kernel_size=1)),
    Variant("rewriting", "predicted-neighbours", with_fields(update_rule="predicted-neighbours")),
    Variant("rewriting", "noisy input", with_fields(network_input="noisy")),
    Variant("rewriting", "whole curves", with_fields(rewrite_curves=True)),
    Variant("rewriting", "fitting error against T", with_fields(fitting_error_against="training")),
    Variant("rewriting", "new network every iteration", with_fields(restart_network=True)),
    Variant("fitting threshold", "0", with_fields(fitting_threshold=sigmas(0.0))),
    Variant("fitting threshold", "1 sigma", with_fields(fitting_threshold=sigmas(1.0))),
    Variant("thresholds", "0.03 and 0.02, absolute", absolute(0.03, 0.02)),
    Variant("thresholds", "0.02 and 0.03, absolute", absolute(0.02, 0.03)),
    Variant("neighbours", "threshold 0.8 sigma", with_fields(neighbour_threshold=sigmas(0.8))),
    Variant("neighbours", "threshold 2.5 sigma", with_fields(neighbour_threshold=sigmas(2.5))),
    Variant("neighbours", "radius 3", with_fields(neighbour_radius=3)),
    Variant("neighbours", "radius 10", with_fields(neighbour_radius=10)),
    Variant("neighbours", "root mean square distance", similarity(distance="root-mean-square")),
    Variant("neighbours", "equal weights", similarity(weighting="equal")),
    Variant("neighbours", "any S0", similarity(s0_ratio=None)),
    Variant(
        "neighbours",
        "as worded in the supplement: 0.8 sigma, root mean square, equal weights, any S0",
        with_fields(
            neighbour_threshold=sigmas(0.8), similarity=SimilaritySettings("root-mean-square", "equal", None)
        ),
    ),
    Variant("noise", "floor taken off means (--rician)", with_fields(rician=True)),
    Variant("noise", "Rician forward model", with_fields(rician=True, rician_way="model")),
    Variant("noise", "told 0.7 of the noise", with_fields(), sigma_factor=0.7),
    Variant("noise", "told 1.4 times the noise", with_fields(), sigma_factor=1.4),
    Variant("network", "normalisation over channels", network(normalisation="channels")),
    Variant("network", "batch normalisation", network(normalisation="batch")),
    Variant("network", "group normalisation", network(normalisation="group")),
    Variant("network", "10 % held out for validation", with_fields(validation_share=0.1)),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snr", type=float, nargs="+", default=SNRS)
    parser.add_argument("--seeds", type=int, nargs="+", default=TUNING_SEEDS)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--groups", nargs="+", help="only these groups of variants, and the methods")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    chosen = [
        variant
        for variant in VARIANTS
        if options.groups is None or variant.group in (*options.groups, "method")
    ]
    cells = Cells(options.out / "cells.jsonl")
    base = EstimationSettings()
    scenarios = {
        (snr, seed): Scenario(snr, seed, shape=tuple(options.shape))
        for snr in options.snr
        for seed in options.seeds
    }
    free = {
        (variant.name, *key): Arm(
            scenario, variant.change(base), given=variant.given, sigma_factor=variant.sigma_factor
        )
        for variant in chosen
        if not variant.equal_epochs
        for key, scenario in scenarios.items()
    }
    found = {key: result for key, result in _results(free, cells, options.workers)}
    epochs = {key: found[DEFAULTS, *key]["epochs"] for key in scenarios}
    equal = {
        (variant.name, *key): Arm(
            scenario, replace(variant.change(base), epochs=epochs[key]), given=variant.given
        )
        for variant in chosen
        if variant.equal_epochs
        for key, scenario in scenarios.items()
    }
    found |= dict(_results(equal, cells, options.workers))
    write(options, chosen, found)


def _results(jobs: dict, cells: Cells, workers: int):
    results = computed(jobs.values(), cells, workers)
    return [(key, results[job]) for key, job in jobs.items()]


def write(options: argparse.Namespace, variants: list[Variant], found: dict) -> None:
    """The table as Markdown and as CSV."""
    columns = ["group", "variant", "SNR", *NAMES.values(), "edge F", "epochs"]
    plain_columns = ["group", "variant", "snr", "seed", *RMSE, "edge_f", "epochs"]
    rows, plain = [], []
    for snr in options.snr:
        reference = [found[DEFAULTS, snr, seed] for seed in options.seeds]
        for variant in variants:
            results = [found[variant.name, snr, seed] for seed in options.seeds]
            cells = []
            for name, scale, form in (
                *((f"rmse_{label}", scale, FORMS[label]) for label, scale in SCALES.items()),
                ("edge_f", 1.0, ".4f"),
            ):
                ratio = mean_of(results, name) / mean_of(reference, name)
                cells.append(f"{spread((scale * result[name] for result in results), form)} ({ratio:.2f})")
            rows.append(
                [
                    variant.group,
                    variant.name,
                    f"{snr:g}",
                    *cells,
                    f"{mean_of(results, 'epochs'):.0f}",
                ]
            )
            plain += [
                [variant.group, variant.name, snr, seed, *(result[name] for name in plain_columns[4:])]
                for seed, result in zip(options.seeds, results, strict=True)
            ]
    options.out.mkdir(parents=True, exist_ok=True)
    text = f"Made by {provenance(command_line())}.\n\n"
    write_tables(
        options.out, "ablation", text + markdown(columns, rows) + "\n", comma_separated(plain_columns, plain)
    )
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
