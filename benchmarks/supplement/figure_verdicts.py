"""What the figures show, in sentences computed from the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common.methods import METHODS
from benchmarks.common.metrics import LABELS
from benchmarks.supplement.groups import LEAST_IN_GROUP, epoch_groups
from benchmarks.supplement.jobs import EDGES
from benchmarks.supplement.plan import Plan

Found = dict[Any, dict[str, Any]]

SYMBOLS = {"f": "F", "d": "D", "dstar": "D*"}


def phenomenon_1(epochs: Sequence[int], q_p: Sequence[float], q_n: float) -> list[str]:
    """Whether, and from which epoch on, mean Recon Error lies below mean Noise.

    Parameters
    ----------
    epochs : sequence of int, length E
    q_p : sequence of float, length E
        Mean Recon Error.
    q_n : float
        Mean Noise.
    """
    above = [index for index, value in enumerate(q_p) if value >= q_n]
    lowest = int(np.argmin(q_p))
    course = (
        f"Mean Noise is {q_n:.4f}; mean Recon Error is {q_p[0]:.4f} at epoch {epochs[0]}, lowest "
        f"({q_p[lowest]:.4f}) at epoch {epochs[lowest]} and {q_p[-1]:.4f} at epoch {epochs[-1]}."
    )
    if not above:
        first = (
            f"Phenomenon 1 appears at once: mean Recon Error is below mean Noise from epoch {epochs[0]} on."
        )
    elif above[-1] == len(epochs) - 1:
        first = f"Phenomenon 1 does not hold at the end: mean Recon Error is {q_p[-1] / q_n:.2f} mean Noises."
    else:
        first = (
            f"Phenomenon 1 appears: mean Recon Error falls below mean Noise by epoch {epochs[above[-1] + 1]} "
            f"and stays there up to epoch {epochs[-1]}."
        )
    return [first, course]


def phenomenon_2(name: str, groups: Sequence[dict[str, list]], least: int) -> str:
    """How mean Delta, Noise and Recon Error change from the lowest to the highest Fitting Error.

    Parameters
    ----------
    name : str
        Words for the epoch.
    groups : sequence of dict
        As :func:`benchmarks.supplement.jobs.grouped`, one per seed.
    least : int
        Signals, mean over seeds, that an interval needs to be counted.
    """
    enough = np.flatnonzero(np.mean([group["count"] for group in groups], axis=0) >= least)

    def means(quantity: str) -> np.ndarray:
        return np.array([group[quantity] for group in groups], dtype=float)[:, enough].mean(axis=0)

    delta, noise, recon = means("delta"), means("noise"), means("recon_error")
    falls = int((np.diff(delta) < 0).sum())
    holds = delta[-1] < delta[0]
    return (
        f"Phenomenon 2 {'appears' if holds else 'does not appear'}, {name}: mean Delta goes from "
        f"{delta[0]:+.4f} in {_interval(enough[0])} to {delta[-1]:+.4f} in {_interval(enough[-1])}, falling "
        f"in {falls} of {len(delta) - 1} steps; mean Noise goes from {noise[0]:.4f} to {noise[-1]:.4f}, mean "
        f"Recon Error from {recon[0]:.4f} to {recon[-1]:.4f}."
    )


def _interval(group: int) -> str:
    return f"[{EDGES[group]:g}, {EDGES[group + 1]:g})"


def figure_1(plan: Plan, found: Found) -> list[str]:
    runs = list(found.values())
    epochs = [row["epoch"] for row in runs[0]["epochs"]]
    q_p = np.mean([[row["q_p"] for row in run["epochs"]] for run in runs], axis=0)
    rmse = {
        label: np.mean([[row[f"rmse_{label}"] for row in run["epochs"]] for run in runs], axis=0)
        for label in LABELS
    }
    best = ", ".join(
        f"{SYMBOLS[label]} at epoch {epochs[int(np.argmin(rmse[label]))]} "
        f"(at the end it is {rmse[label][-1] / rmse[label].min():.2f} times as large)"
        for label in LABELS
    )
    return [
        *phenomenon_1(epochs, q_p.tolist(), float(np.mean([run["q_n"] for run in runs]))),
        f"The RMSE of the plain network is lowest, for {best}.",
    ]


def figure_2(plan: Plan, found: Found) -> list[str]:
    return [
        phenomenon_2(name, groups, LEAST_IN_GROUP)
        for name, groups in epoch_groups(plan, list(found.values()))
    ]


def figure_3(plan: Plan, found: Found) -> list[str]:
    runs = [run["iterations"] for run in found.values()]
    last = len(runs[0]) - 1

    def course(name: str) -> np.ndarray:
        return np.mean([[row[name] for row in run] for run in runs], axis=0)

    signals = course("rmse_signals")
    first = (signals[0] - signals[1]) / (signals[0] - signals.min()) if signals.min() < signals[0] else 0.0
    lines = [
        f"The RMSE of the training signals goes from {signals[0]:.4f} to {signals[-1]:.4f} over {last} data "
        f"iterations, lowest ({signals.min():.4f}) at data iteration {int(signals.argmin())}; the first "
        f"rewriting brings {100 * first:.0f} % of the fall."
    ]
    changes = []
    for label in LABELS:
        values = course(f"rmse_{label}")
        changes.append(
            f"{SYMBOLS[label]} by {100 * (values[-1] / values[0] - 1):+.0f} % "
            f"(lowest at data iteration {int(values.argmin())})"
        )
    return [*lines, f"Over the same data iterations the RMSE changes: {', '.join(changes)}."]


def figure_4(plan: Plan, found: Found) -> list[str]:
    lines = []
    for method in ("cnn", "si-cnn"):
        rises, ends, ratios = [], [], []
        for (one, _), run in found.items():
            if one != method:
                continue
            losses = np.array([row[2] for row in run["validation_losses"]])
            epochs = [row[1] for row in run["validation_losses"]]
            rises.append(losses[-1] / losses.min() - 1)
            ends.append(epochs[int(losses.argmin())])
            ratios.append(losses[-1] / run["losses"][-1][2])
        lines.append(
            f"{method}: the validation loss is lowest at epoch {np.median(ends):.0f} (median over seeds); at "
            f"the end it is {100 * np.mean(rises):.1f} % higher, {np.mean(ratios):.3g} times the training "
            "loss."
        )
    return lines


def mean_error(found: Found, snr: float, method: str, label: str) -> float:
    """Mean RMSE over seeds from the results of Figure 5."""
    return float(
        np.mean([result[method][f"rmse_{label}"] for (one, _), result in found.items() if one == snr])
    )


def figure_5(plan: Plan, found: Found) -> list[str]:
    lines = []
    for label in LABELS:
        winners = {
            snr: min(METHODS, key=lambda method, snr=snr: mean_error(found, snr, method, label))
            for snr in plan.snrs
        }
        won = [f"{snr:g}" for snr in plan.snrs if winners[snr] == "si-cnn"]
        others = [f"{snr:g}: {winners[snr]}" for snr in plan.snrs if winners[snr] != "si-cnn"]
        text = f"si-cnn has the lowest RMSE of {SYMBOLS[label]} at {len(won)} of {len(plan.snrs)} SNRs"
        lines.append(text + (f" (elsewhere, {'; '.join(others)})." if others else "."))
    for other in ("lsq", "cnn", "di-cnn"):
        ends = [
            f"SNR {snr:g}: "
            + " / ".join(
                f"{mean_error(found, snr, 'si-cnn', label) / mean_error(found, snr, other, label):.2f}"
                for label in LABELS
            )
            for snr in dict.fromkeys((plan.snrs[0], plan.snrs[len(plan.snrs) // 2], plan.snrs[-1]))
        ]
        lines.append(f"RMSE of si-cnn over that of {other}, F / D / D*: {', '.join(ends)}.")
    return lines


def figure_6(plan: Plan, found: Found) -> list[str]:
    (result,) = found.values()
    texts = [f"{method} {result[method]['rmse_f']:.3f}" for method in METHODS]
    return [f"RMSE of F over the phantom whose slice is shown: {', '.join(texts)}."]


FIGURE_VERDICTS: dict[str, Callable[[Plan, Found], list[str]]] = {
    "figure-1": figure_1,
    "figure-2": figure_2,
    "figure-3": figure_3,
    "figure-4": figure_4,
    "figure-5": figure_5,
    "figure-6": figure_6,
}
