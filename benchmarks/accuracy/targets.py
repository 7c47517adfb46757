"""The accuracy that SI-CNN is held to, on phantoms and noise that no choice was made on.

    python -m benchmarks.accuracy.targets --out docs/targets

Both anatomies, both b-value schemes, two to five SNRs and the five held-out seeds of
benchmarks/common/scenarios.py; root mean square errors, mean over seeds. ``cnn`` is the plain network with
the epochs that SI-CNN took on the same measurement, ``cnn, best epoch`` the lowest error it had at the first
and every tenth epoch, for each parameter on its own: nobody without the truth can know that epoch.
``continued`` goes on with data iterations until twice the epochs are done. About 20 minutes on two cores; a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.arms import RMSE, Comparison, mean_of
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
from benchmarks.common.scenarios import HELD_OUT_SEEDS, SCHEMES, SHAPE, Scenario
from sicnn_app.settings import EstimationSettings

SNRS = (8.0, 15.0, 20.0, 50.0, 100.0)
"""Of the abdomen with 12 b-values."""

OTHER_SNRS = (15.0, 50.0)
"""Of the brain and of the other scheme; also where the training is continued."""

MAIN = ("abdomen", "12x1")

LOW_SNR = 15.0
"""Up to here the targets are ratios to the plain network; above, SI-CNN must only not be worse."""

LIMITS = {
    ("cnn", "rmse_f"): 0.5,
    ("cnn", "rmse_d"): 0.5,
    ("cnn", "rmse_dstar"): 0.7,
    ("cnn, best epoch", "rmse_f"): 0.7,
    ("cnn, best epoch", "rmse_d"): 0.7,
    ("cnn, best epoch", "rmse_dstar"): 0.85,
    ("lsq", "rmse_f"): 0.3,
    ("lsq", "rmse_d"): 0.3,
    ("lsq", "rmse_dstar"): 0.3,
}
"""Largest ratio of SI-CNN's mean error at low SNR."""

WORST = 1.0
"""Largest ratio to the better of cnn and lsq at higher SNR."""

GROWTH = 0.05
"""Largest relative change of an error when training goes on."""

Verdict = tuple[str, float, float, bool]
"""What, ratio, limit, whether it is met."""


def verdicts(snr: float, results: list[dict[str, dict[str, float]]]) -> Iterator[Verdict]:
    """Every target that applies to one scenario.

    Parameters
    ----------
    snr : float
    results : list of dict
        Of :class:`benchmarks.common.arms.Comparison`, one per seed.
    """
    ours = {name: mean_of([result["si-cnn"] for result in results], name) for name in (*RMSE, "edge_f")}

    def ratio(method: str, name: str) -> float:
        return ours[name] / mean_of([result[method] for result in results], name)

    if snr <= LOW_SNR:
        for (method, name), limit in LIMITS.items():
            found = ratio(method, name)
            yield f"{name} of {method}'s", found, limit, found <= limit
    else:
        for name in RMSE:
            found = max(ratio("cnn", name), ratio("lsq", name))
            yield f"{name} of the better of cnn and lsq", found, WORST, found <= WORST
    found = ratio("cnn", "edge_f")
    yield "edge_f of cnn's", found, 1.0, found <= 1.0
    if all("si-cnn, continued" in result for result in results):
        for name in RMSE:
            found = mean_of([result["si-cnn, continued"] for result in results], name) / ours[name]
            yield f"{name} with twice the epochs", found, 1.0 + GROWTH, abs(found - 1.0) <= GROWTH


def snrs_of(preset: str, scheme: str, asked: list[float] | None) -> tuple[float, ...]:
    """SNRs at which one anatomy and scheme are measured."""
    if asked:
        return tuple(asked)
    return SNRS if (preset, scheme) == MAIN else OTHER_SNRS


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=("abdomen", "brain"))
    parser.add_argument("--schemes", nargs="+", choices=tuple(SCHEMES), default=tuple(SCHEMES))
    parser.add_argument("--snr", type=float, nargs="+", help="the same for all (default: see the code)")
    parser.add_argument("--seeds", type=int, nargs="+", default=HELD_OUT_SEEDS)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    jobs = {
        (preset, scheme, snr, seed): Comparison(
            Scenario(snr, seed, preset=preset, scheme=scheme, shape=tuple(options.shape)),
            EstimationSettings(),
            continued=snr in OTHER_SNRS and (preset, scheme) == MAIN,
        )
        for preset in options.presets
        for scheme in options.schemes
        for snr in snrs_of(preset, scheme, options.snr)
        for seed in options.seeds
    }
    results = computed(jobs.values(), Cells(options.out / "cells.jsonl"), options.workers)
    found = {key: results[job] for key, job in jobs.items()}
    write(options, found)


def write(options: argparse.Namespace, found: dict) -> None:
    """Errors and verdicts as Markdown, single results as CSV."""
    columns = ["anatomy", "b-values", "SNR", "method", *NAMES.values(), "edge F"]
    rows, judged, plain = [], [], []
    for preset in options.presets:
        for scheme in options.schemes:
            for snr in snrs_of(preset, scheme, options.snr):
                results = [found[preset, scheme, snr, seed] for seed in options.seeds]
                for method in results[0]:
                    of_method = [result[method] for result in results]
                    rows.append(
                        [
                            *(preset, scheme, f"{snr:g}", method),
                            *(
                                spread(
                                    (scale * one[f"rmse_{label}"] for one in of_method),
                                    FORMS[label],
                                )
                                for label, scale in SCALES.items()
                            ),
                            spread((one["edge_f"] for one in of_method), ".4f"),
                        ]
                    )
                    plain += [
                        [preset, scheme, snr, seed, method, *(one[name] for name in (*RMSE, "edge_f"))]
                        for seed, one in zip(options.seeds, of_method, strict=True)
                    ]
                judged += [
                    [
                        preset,
                        scheme,
                        f"{snr:g}",
                        what,
                        f"{ratio:.2f}",
                        f"{limit:.2f}",
                        "met" if met else "MISSED",
                    ]
                    for what, ratio, limit, met in verdicts(snr, results)
                ]
    verdict_columns = ["anatomy", "b-values", "SNR", "target", "ratio", "limit", "verdict"]
    met = sum(row[-1] == "met" for row in judged)
    text = "\n\n".join(
        (
            f"Made by {provenance(command_line())}.",
            markdown(columns, rows),
            f"{met} of {len(judged)} targets met.",
            markdown(verdict_columns, judged),
        )
    )
    plain_columns = ["anatomy", "scheme", "snr", "seed", "method", *RMSE, "edge_f"]
    write_tables(options.out, "targets", text + "\n", comma_separated(plain_columns, plain))
    print(text)


if __name__ == "__main__":
    main()
