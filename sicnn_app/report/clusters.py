"""The part of the report that tells tissues apart by their maps, with the signals of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, Facts, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.checks import RELATIVE_BOUND, precision_verdict
from sicnn_app.ivim.clusters import cluster_voxels
from sicnn_app.ivim.comparison import comparable
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.report import figures
from sicnn_app.report.decay import Decay, decay_chart, decay_of
from sicnn_app.report.display import Display
from sicnn_app.report.numbers import table_files
from sicnn_app.report.picture import Picture, percent, volume_of
from sicnn_app.report.quantities import tissue_quantities

DARKEST = 0.2
"""Where the colours end on their way from bright to dark: darker ones are lost in the image below."""

_QUARTILES = {"lower_quartile": 25, "median": 50, "upper_quartile": 75}

_ROOM = 1.08
"""Upper end of the axis of the signal over the highest quartile."""


@dataclass(frozen=True)
class TissueClusters:
    """Groups of voxels without a flag.

    Attributes
    ----------
    numbers : ndarray, shape (M,), int
        Cluster of every voxel of the mask, from 1; 0 for voxels in none.
    rows : list of dict
        One per cluster, by the names of :func:`cluster_columns`.
    decays : list of Decay
        One per cluster; empty when the series or the S0 map is missing.
    """

    numbers: np.ndarray
    rows: list[dict[str, Any]]
    decays: list[Decay]


def find_clusters(run: RunDerivatives) -> TissueClusters | None:
    """Group the voxels of a run without a flag; None when a map is missing, or there are too few voxels."""
    if not run.has_voxels or not set(TISSUE_LABELS) <= run.maps.keys():
        return None
    numbers = np.zeros(int(run.mask.sum()), dtype=int)
    chosen = ~run.flagged
    numbers[chosen] = cluster_voxels(*(run.inside(label)[chosen] for label in TISSUE_LABELS))
    count = int(numbers.max())
    if count == 0:
        return None
    colours = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(1, DARKEST, count))]
    decays = [decay_of(run, numbers == number) for number in range(1, count + 1)]
    return TissueClusters(
        numbers,
        [_row(run, numbers, number, colour) for number, colour in enumerate(colours, start=1)],
        [decay for decay in decays if decay is not None],
    )


def cluster_pictures(run: RunDerivatives, found: TissueClusters, display: Display) -> list[Picture]:
    """The clusters over the image at the lowest b-value, and a chart of the signals of each."""
    tops = [decay.quartiles()[2].max() for decay in found.decays]
    top = _ROOM * max(tops) if tops and np.isfinite(tops).all() else None
    pairs = zip(found.rows, found.decays, strict=True) if found.decays else ()
    return [_map(run, found, display), *(_chart(run, row, decay, top) for row, decay in pairs)]


def cluster_rows(run: RunDerivatives, found: TissueClusters | None) -> list[dict[str, Any]]:
    """Colour, number and cells, by column, of every row of the table on the page; empty without clusters."""
    shown = tissue_quantities(run.anatomy)
    rows = []
    for row in found.rows if found else []:
        cells = {"Voxels": f"{row['voxels']:,} ({100 * row['share']:.0f}\u00a0%)"}
        for quantity in shown:
            low, median, high = (
                format_number(quantity.scaled(row[f"{quantity.spec.label}_{name}"])) for name in _QUARTILES
            )
            cells[quantity.heading] = f"{median} ({low}\u00a0–\u00a0{high})"
        if run.conventional:
            fit = (quantity.scaled(row[f"lsq_{quantity.spec.label}_median"]) for quantity in shown)
            symbols = ", ".join(quantity.spec.symbol for quantity in shown)
            cells[f"{symbols} of least squares"] = ", ".join(map(format_number, fit))
        cells["D* of one voxel"] = _precision(row)
        rows.append({"number": row["cluster"], "colour": row["color"], "cells": cells})
    return rows


def cluster_words() -> str:
    """Words of the table on the page besides medians and quartiles."""
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
    columns = decay_columns(run.measured.words) if run.measured else decay_columns()
    return [
        *table_files(run, "clusters", words, cluster_columns(), found.rows),
        *table_files(run, "clusterdecay", signals, columns, decay_rows(found)),
    ]


def cluster_columns() -> dict[str, dict[str, str]]:
    """``Description`` and ``Units`` of the table of clusters."""
    columns = {
        "cluster": {"Description": "Number of the cluster, in falling order of its median F"},
        "color": {"Description": "Its colour in the pictures"},
        "voxels": {"Description": "Its voxels, none of which carries a flag"},
        "share": {"Description": "Their share of the voxels inside the mask"},
    }
    conventional = {}
    for label in TISSUE_LABELS:
        spec = SPECS[label]
        where = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
        both = " where both F are at least that" if spec.needs_perfusion else ""
        for name in _QUARTILES:
            words = f"{name.replace('_', ' ').capitalize()} of {spec.symbol} over its voxels{where}"
            columns[f"{label}_{name}"] = {"Description": words, "Units": spec.unit}
        words = f"Median of {spec.symbol} of the conventional fit over its voxels{both}"
        conventional[f"lsq_{label}_median"] = {"Description": words, "Units": spec.unit}
    bound = (
        "Cramer-Rao bound: smallest standard deviation of D* from one voxel alone with the medians of the "
        "cluster and the noise of this run; n/a where they do not determine it"
    )
    return {
        **columns,
        **conventional,
        "dstar_bound": {"Description": bound, "Units": "mm^2/s"},
        "dstar_precision": {"Description": "Verdict on that bound, as in Adequacy of the QC sidecar"},
    }


def decay_columns(measured: str = "signals") -> dict[str, dict[str, str]]:
    """``Description`` and ``Units`` of the table of signals, with words on what was measured."""
    over = f"over its voxels, relative to S0, of the {measured}"
    return {
        "cluster": {"Description": "Number of the cluster"},
        "b_value": {"Description": "Nominal b-value", "Units": "s/mm^2"},
        **{
            f"measured_{name}": {"Description": f"{name.replace('_', ' ').capitalize()} {over}"}
            for name in _QUARTILES
        },
        "predicted_median": {"Description": "Median over its voxels of what the maps predict, over S0"},
        "lsq_predicted_median": {"Description": "The same of the conventional fit, over the same S0"},
    }


def decay_rows(found: TissueClusters) -> list[dict[str, Any]]:
    """The points of the charts: one row per cluster and b-value."""
    rows = []
    for number, decay in enumerate(found.decays, start=1):
        predicted = (decay.predicted(decay.bvals, conventional=fit) for fit in (False, True))
        columns = zip(decay.bvals, *decay.quartiles(), *predicted, strict=True)
        rows += [dict(zip(decay_columns(), (number, *values), strict=True)) for values in columns]
    return rows


def _row(run: RunDerivatives, numbers: np.ndarray, number: int, colour: str) -> dict[str, Any]:
    inside = numbers == number
    row: dict[str, Any] = {
        "cluster": number,
        "color": colour,
        "voxels": int(inside.sum()),
        "share": float(inside.mean()),
    }
    volume = volume_of(run, inside)
    for label in TISSUE_LABELS:
        values = run.inside(label)[inside & run.meaningful(label)]
        for name, position in _QUARTILES.items():
            row[f"{label}_{name}"] = float(np.percentile(values, position)) if values.size else None
        row[f"lsq_{label}_median"] = _conventional_median(run, label, volume)
    row["dstar_bound"] = bound = _bound(run, row, inside)
    known = bound is not None and row["dstar_median"]
    row["dstar_precision"] = precision_verdict(bound / row["dstar_median"]) if known else None
    return row


def _conventional_median(run: RunDerivatives, label: str, voxels: np.ndarray) -> float | None:
    if not {label, "f"} <= run.conventional.keys():
        return None
    values = run.conventional[label][comparable(label, run.maps, run.conventional, voxels)]
    values = values[np.isfinite(values)].astype(np.float64)
    return float(np.median(values)) if values.size else None


def _bound(run: RunDerivatives, row: dict[str, Any], inside: np.ndarray) -> float | None:
    """Cramer-Rao bound of D*, mm^2/s, infinite where the b-values do not determine it; None without noise."""
    facts = Facts(run.parameters)
    bvals, noise = facts.numbers("b_values_used"), facts.numbers("noise_sigma_per_b_value")
    medians = [row[f"{label}_median"] for label in TISSUE_LABELS]
    if not bvals or len(bvals) != len(noise) or None in medians or "s0" not in run.maps:
        return None
    s0 = float(np.median(run.inside("s0")[inside]))
    if min(noise) <= 0 or s0 <= 0:
        return None
    return float(cramer_rao_bounds(np.array(bvals), np.array(noise), *medians, s0)["dstar"])


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
    for quantity in tissue_quantities(run.anatomy):
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
