"""Maps and signals of a run -> groups of similar voxels in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts
from sicnn_app.ivim.checks import precision_verdict
from sicnn_app.ivim.clusters import cluster_voxels
from sicnn_app.ivim.comparison import comparable
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.report.decay import Decay, decay_of
from sicnn_app.report.picture import volume_of

DARKEST = 0.2
"""Where the colours end on their way from bright to dark: darker ones are lost in the image below."""

_QUARTILES = {"lower_quartile": 25, "median": 50, "upper_quartile": 75}


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


def decay_columns() -> dict[str, dict[str, str]]:
    """``Description`` and ``Units`` of the table of signals."""
    over = "over its voxels of the arithmetic mean of the volumes relative to S0"
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
