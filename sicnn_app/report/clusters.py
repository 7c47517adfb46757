"""The part of the report that tells tissues apart by their maps, with the signals of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.checks import RELATIVE_BOUND
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report import figures
from sicnn_app.report.cluster_numbers import TissueClusters, cluster_columns, decay_columns, decay_rows
from sicnn_app.report.decay import Decay, decay_chart
from sicnn_app.report.display import Display
from sicnn_app.report.numbers import table_files
from sicnn_app.report.picture import Picture, percent
from sicnn_app.report.quantities import Quantity, shown_quantities

_ROOM = 1.08
"""Upper end of the axis of the signal over the highest quartile."""


def cluster_pictures(run: RunDerivatives, found: TissueClusters, display: Display) -> list[Picture]:
    """The clusters over the image at the lowest b-value, and a chart of the signals of each."""
    tops = [decay.quartiles()[2].max() for decay in found.decays]
    top = _ROOM * max(tops) if tops and np.isfinite(tops).all() else None
    pairs = zip(found.rows, found.decays, strict=True) if found.decays else ()
    return [_map(run, found, display), *(_chart(run, row, decay, top) for row, decay in pairs)]


def cluster_head(run: RunDerivatives) -> list[str]:
    """Columns of the table on the page."""
    shown = _quantities(run)
    fit = ", ".join(quantity.spec.symbol for quantity in shown)
    conventional = [f"{fit} of least squares"] if run.conventional else []
    return ["Cluster", "Voxels", *(quantity.heading for quantity in shown), *conventional, "D* of one voxel"]


def cluster_rows(run: RunDerivatives, found: TissueClusters | None) -> list[dict[str, Any]]:
    """Colour, number and cells of every row of the table on the page; empty without clusters."""
    rows = []
    for row in found.rows if found else []:
        cells = [f"{row['voxels']:,} ({100 * row['share']:.0f}\u00a0%)"]
        fit = []
        for quantity in _quantities(run):
            label = quantity.spec.label
            names = (f"{label}_lower_quartile", f"{label}_median", f"{label}_upper_quartile")
            low, median, high, conventional = (
                format_number(quantity.scaled(row[name])) for name in (*names, f"lsq_{label}_median")
            )
            cells.append(f"{median} ({low}\u00a0–\u00a0{high})")
            fit.append(conventional)
        if run.conventional:
            cells.append(", ".join(fit))
        rows.append({"number": row["cluster"], "colour": row["color"], "cells": [*cells, _precision(row)]})
    return rows


def cluster_words() -> str:
    """What the table on the page says besides medians and quartiles."""
    poor, good = (100 * limit for limit in RELATIVE_BOUND)
    return (
        "Medians with quartiles. The last column is the smallest standard deviation of D* that one voxel "
        f"alone can give, without neighbours, as a share of its median: good up to {good:.0f} %, poor above "
        f"{poor:.0f} %, where D* is to be believed as a mean over many voxels only."
    )


def cluster_files(run: RunDerivatives, found: TissueClusters | None) -> list[tuple[str, bytes]]:
    """The numbers behind pictures and table, as tables with a description: file name and content."""
    if found is None:
        return []
    words = "Voxels without a flag, grouped by their maps"
    signals = "Signals of the clusters, relative to S0"
    return [
        *table_files(run, "clusters", words, cluster_columns(), found.rows),
        *table_files(run, "clusterdecay", signals, decay_columns(), decay_rows(found)),
    ]


def _quantities(run: RunDerivatives) -> list[Quantity]:
    return [quantity for quantity in shown_quantities(run.anatomy) if quantity.spec.of_tissue]


def _precision(row: dict[str, Any]) -> str:
    bound, median = row["dstar_bound"], row["dstar_median"]
    if bound is None or not median:
        return MISSING
    if not math.isfinite(bound):
        return "not determined"
    return f"± {format_number(100 * bound / median)} %, {row['dstar_precision']}"


def _medians(run: RunDerivatives, row: dict[str, Any]) -> str:
    """Medians of a cluster in words."""
    words = []
    for quantity in _quantities(run):
        median = quantity.scaled(row[f"{quantity.spec.label}_median"])
        shown = MISSING if median is None else quantity.with_unit(float(f"{median:.3g}"))
        words.append(f"{quantity.spec.symbol} {shown}")
    return ", ".join(words)


def _map(run: RunDerivatives, found: TissueClusters, display: Display) -> Picture:
    volume = np.zeros(run.mask.shape, dtype=int)
    volume[run.mask] = found.numbers
    count = len(found.rows)
    medians = "; ".join(f"{row['cluster']}: {_medians(run, row)}" for row in found.rows)
    return Picture(
        file_name=picture_name(run.name, "clusters", "png"),
        content=figures.cluster_picture(run, display, volume, [row["color"] for row in found.rows]),
        title="Clusters",
        caption=f"Numbered from the highest F (1) to the lowest ({count}). "
        f"{percent(float((found.numbers == 0).mean()))} of the voxels carry a flag and belong to none.",
        alt=f"Voxels in {count_of(count, 'cluster')}; medians: {medians}.",
    )


def _chart(run: RunDerivatives, row: dict[str, Any], decay: Decay, top: float | None) -> Picture:
    number = row["cluster"]
    curves = "the maps and least squares predict" if decay.conventional else "the maps predict"
    fades = "" if row["f_median"] >= NEGLIGIBLE_F else " F is too small for D* to mean anything."
    _, medians, _ = decay.quartiles()
    return Picture(
        file_name=picture_name(run.name, f"cluster{number}decay", "svg"),
        content=decay_chart(decay, badge=(str(number), row["color"]), top=top),
        title=f"Cluster {number}",
        caption=f"{count_of(row['voxels'], 'voxel')}, median {_medians(run, row)}.{fades}",
        alt=f"Signal of cluster {number} over the b-value, with what {curves}: from "
        f"{format_number(medians[0])} to {format_number(medians[-1])} of S0.",
    )
