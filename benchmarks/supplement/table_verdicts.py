"""What the tables show, in sentences computed from the results, beside the same from the logged numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common.methods import METHODS
from benchmarks.common.metrics import LABELS
from benchmarks.supplement.figure_verdicts import SYMBOLS
from benchmarks.supplement.logged import SIMULATION, STOPPING, TRUE_EXPERIMENT
from benchmarks.supplement.plan import Plan
from benchmarks.supplement.tables import by_method

Found = dict[Any, dict[str, Any]]

LEAST_LAMBDA_EFFECT = 0.1
"""The lambda below which the logs show no better accuracy."""


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent a of the least-squares fit of log y = a log x + c.

    Examples
    --------
    >>> round(exponent([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def logged_time_exponent() -> float:
    """Exponent of the logged minutes over lambda, both trainings of every lambda."""
    pairs = [(row.lambda_, minutes) for row in STOPPING for minutes in row.minutes]
    return exponent(*zip(*pairs, strict=True))


def largest_change(values: Sequence[float]) -> float:
    """Largest minus smallest, relative to the smallest."""
    return max(values) / min(values) - 1


def averages(found: Found, value: Callable[[dict], float]) -> dict[tuple, float]:
    """Mean over seeds by the rest of the key."""
    groups: dict[tuple, list[float]] = {}
    for (*key, _), result in found.items():
        groups.setdefault(tuple(key), []).append(value(result))
    return {key: float(np.mean(values)) for key, values in groups.items()}


def table_lambda(plan: Plan, found: Found) -> list[str]:
    return [
        line
        for which in dict.fromkeys(key[0] for key in found)
        for line in stopping(which, {key[1:]: result for key, result in found.items() if key[0] == which})
    ]


def stopping(settings: str, found: Found) -> list[str]:
    """What lambda decides, under one set of settings; ``found`` by (lambda, seed)."""
    seconds = averages(found, lambda result: result["seconds"])
    lambdas = sorted((value for (value,) in seconds), reverse=True)
    stopped = sum(result["stop_reason"] == "lambda" for result in found.values())
    law = exponent(lambdas, [seconds[value,] for value in lambdas])
    small = [value for value in lambdas if value <= LEAST_LAMBDA_EFFECT]
    changes, ratios = [], []
    for label in LABELS:
        ours = {key[0]: value for key, value in averages(found, _rmse(label)).items()}
        theirs = {row.lambda_: getattr(row, label) for row in STOPPING}
        changes.append(
            f"{SYMBOLS[label]} {100 * largest_change([ours[value] for value in small]):.0f} % "
            f"({100 * largest_change([theirs[value] for value in small if value in theirs]):.0f} %)"
        )
        ratios.append(
            f"{SYMBOLS[label]} {ours[lambdas[0]] / ours[lambdas[1]]:.2f} "
            f"({theirs[lambdas[0]] / theirs[lambdas[1]]:.2f})"
        )
    return [
        f"Settings {settings}: time follows lambda^{law:.2f} (theirs: the logged minutes give "
        f"lambda^{logged_time_exponent():.2f}); lambda ended {stopped} of {len(found)} trainings, the limit "
        "of data iterations the others.",
        f"Settings {settings}: accuracy from lambda {LEAST_LAMBDA_EFFECT:g} down changes by at most (theirs "
        f"in brackets): {', '.join(changes)}.",
        f"Settings {settings}: RMSE at lambda {lambdas[0]:g} over that at {lambdas[1]:g} (theirs in "
        f"brackets): {', '.join(ratios)}.",
    ]


def _rmse(label: str) -> Callable[[dict], float]:
    return lambda result: result[f"rmse_{label}"]


def table_thresholds(plan: Plan, found: Found) -> list[str]:
    lines = []
    for snr in plan.threshold_snrs:
        here = {key[1:]: result for key, result in found.items() if key[0] == snr}
        for label in LABELS:
            errors = averages(here, _rmse(label))
            (default, at_default), *others = errors.items()
            grid = dict(others)
            best, worst = min(grid, key=grid.get), max(grid, key=grid.get)
            lines.append(
                f"SNR {snr:g}, RMSE of {SYMBOLS[label]}: over the absolute pairs (fitting, neighbour) it "
                f"differs by a factor of {grid[worst] / grid[best]:.2f}, best ({', '.join(best)}), worst "
                f"({', '.join(worst)}); the default ({', '.join(default)}) is at "
                f"{at_default / grid[best]:.2f} times the best."
            )
    return lines


def table_batch(plan: Plan, found: Found) -> list[str]:
    lines = []
    for label in LABELS:
        errors = averages(found, _rmse(label))
        best = min(errors, key=errors.get)[0]
        lines.append(
            f"RMSE of {SYMBOLS[label]} is lowest with a batch of {best} and changes by at most "
            f"{100 * largest_change(list(errors.values())):.0f} %."
        )
    return lines


def table_limit(plan: Plan, found: Found) -> list[str]:
    lines = []
    for label in LABELS:
        errors = averages(found, _rmse(label))
        limits = [limit for (limit,) in errors]
        (best,) = min(errors, key=errors.get)
        least, most = (errors[limit,] / errors[best,] for limit in (limits[0], limits[-1]))
        lines.append(
            f"RMSE of {SYMBOLS[label]} is lowest with at most {best} data iterations; with {limits[-1]} it "
            f"is {most:.2f} times that, with {limits[0]} it is {least:.2f} times that."
        )
    return lines


def table_snr(plan: Plan, found: Found) -> list[str]:
    if len(plan.table_snrs) < 2:
        return []
    found = {key: result.get("si-cnn", result) for key, result in found.items()}
    lines = []
    for label in LABELS:
        falls = []
        for which in ("default", "logged"):
            chosen = {key: result for key, result in found.items() if key[1] == which}
            errors = averages(chosen, _rmse(label))
            falls.append(exponent([snr for snr, _ in errors], list(errors.values())))
        theirs = exponent([row.snr for row in SIMULATION], [getattr(row, label) for row in SIMULATION])
        lines.append(
            f"RMSE of {SYMBOLS[label]} follows SNR^{falls[0]:.2f} with the default thresholds and "
            f"SNR^{falls[1]:.2f} with the logged ones (theirs: SNR^{theirs:.2f})."
        )
    return lines


def table_true(plan: Plan, found: Found) -> list[str]:
    errors = {label: averages(by_method(found), _rmse(label)) for label in LABELS}
    lines = []
    for truth in plan.truths:
        for snr in plan.true_snrs:
            orders = [
                " < ".join(sorted(METHODS, key=lambda method, at=errors[label]: at[truth, snr, method]))
                for label in LABELS
            ]
            ranks = [f"{SYMBOLS[label]} {order}" for label, order in zip(LABELS, orders, strict=True)]
            lines.append(f"Truth by {truth}, SNR {snr:g}, RMSE in order: {'; '.join(ranks)}.")
    low, high = min(plan.true_snrs), max(plan.true_snrs)
    if low == high:
        return lines
    logged = {row.snr: row for row in TRUE_EXPERIMENT}
    for truth in plan.truths:
        ratios = []
        for label in LABELS:
            ours = errors[label][truth, low, "si-cnn"] / errors[label][truth, high, "si-cnn"]
            theirs = getattr(logged[low], label) / getattr(logged[high], label)
            ratios.append(f"{SYMBOLS[label]} {ours:.2f} ({theirs:.2f})")
        lines.append(
            f"Truth by {truth}, RMSE of si-cnn at SNR {low:g} over that at {high:g} (theirs in brackets): "
            f"{', '.join(ratios)}."
        )
    return lines


TABLE_VERDICTS: dict[str, Callable[[Plan, Found], list[str]]] = {
    "table-lambda": table_lambda,
    "table-thresholds": table_thresholds,
    "table-batch": table_batch,
    "table-limit": table_limit,
    "table-snr": table_snr,
    "table-true": table_true,
}
