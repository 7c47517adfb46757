"""Signals grouped by Fitting Error, at the epochs that Figure 2 shows."""

from __future__ import annotations

from typing import Any

from benchmarks.supplement.plan import Plan

LEAST_IN_GROUP = 30
"""Signals, mean over seeds: means of smaller groups are scatter and are left out."""


def epoch_groups(plan: Plan, runs: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, list]]]]:
    """(words for the epoch, groups of every seed); the converged epoch, which differs by seed, is last."""
    fixed = [(f"epoch {epoch}", [run["groups"][str(epoch)] for run in runs]) for epoch in plan.grouped]
    converged = [run["converged"] for run in runs]
    low, high = min(converged), max(converged)
    span = str(low) if low == high else f"{low}-{high}"
    return [*fixed, (f"converged (epoch {span})", [run["groups"][str(run["converged"])] for run in runs])]
