"""The part of the report that holds a run's maps against those of the conventional fit."""

from __future__ import annotations

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, Facts, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.comparison import comparable
from sicnn_app.report import charts
from sicnn_app.report.display import Display
from sicnn_app.report.picture import Picture, captioned_map, volume_of
from sicnn_app.report.quantities import Quantity, difference_quantities, shown_quantities, tissue_quantities
from sicnn_app.report.tables import method_name

CONVENTIONAL = "least squares"
"""The conventional fit, as titles name it."""


def method_of(run: RunDerivatives) -> str:
    """Method of the run's own maps, as texts name it."""
    return method_name(Facts(run.parameters, run.qc_row).text("method"))


def floor_words(run: RunDerivatives) -> str:
    """Effect of the correction for Rician noise on the differences; empty without one."""
    facts = Facts(run.parameters)
    if not any(facts.get(name) is True for name in ("rician_model", "noise_floor_taken_off")):
        return ""
    return (
        f"{method_of(run)} was corrected for the noise floor of magnitude images, of which least squares "
        "knows nothing: the differences hold this correction, too."
    )


def comparison_rows(run: RunDerivatives) -> list[dict[str, str]]:
    """The agreement that the QC table records, a row per map, by column; empty without a conventional fit."""
    facts, rows = Facts(run.qc_row), []
    for quantity in shown_quantities(run.anatomy) if run.conventional else ():
        if quantity.spec.bounds is None:
            continue
        recorded = f"lsq_{quantity.spec.label}_"
        difference, absolute = (
            quantity.scaled(facts.number(f"{recorded}{name}"))
            for name in ("median_difference", "median_absolute_difference")
        )
        voxels = facts.number(f"{recorded}voxels")
        rows.append(
            {
                "Map": quantity.heading,
                "Median difference": format_number(difference),
                "Median absolute difference": format_number(absolute),
                "Correlation": format_number(facts.get(f"{recorded}pearson")),
                "Of ranks": format_number(facts.get(f"{recorded}spearman")),
                "Voxels": MISSING if voxels is None else f"{voxels:,.0f}",
            }
        )
    return rows


def difference_pictures(run: RunDerivatives, display: Display) -> list[Picture]:
    """Maps of the difference from the conventional fit, as far as both are there."""
    shown = difference_quantities(run.anatomy, f"{method_of(run)} minus {CONVENTIONAL}")
    return [_difference(run, display, quantity) for quantity in shown if has_both(run, quantity)]


def scatter_pictures(run: RunDerivatives) -> list[Picture]:
    """Charts of F, D and D* against the conventional fit, as far as both are there."""
    shown = tissue_quantities(run.anatomy)
    return [_scatter(run, quantity) for quantity in shown if has_both(run, quantity)]


def has_both(run: RunDerivatives, quantity: Quantity) -> bool:
    """True where a map and that of the conventional fit are there, and what they need to be compared."""
    needed = {quantity.spec.label} | ({"f"} if quantity.spec.needs_perfusion else set())
    return needed <= run.maps.keys() & run.conventional.keys()


def compared_voxels(run: RunDerivatives, label: str, voxels: np.ndarray) -> np.ndarray:
    """Voxels, shape (X, Y, Z), bool, of those given whose map can be held against the conventional fit."""
    # The masks of maps that were changed by hand may differ.
    both = np.isfinite(run.maps[label]) & np.isfinite(run.conventional[label])
    return both & comparable(label, run.maps, run.conventional, voxels)


def _difference(run: RunDerivatives, display: Display, quantity: Quantity) -> Picture:
    label = quantity.spec.label
    shown = compared_voxels(run, label, run.mask)
    median = quantity.scaled(Facts(run.qc_row).number(f"lsq_{label}_median_difference"))
    told = "" if median is None else f"; the median difference is {format_number(median)} {quantity.unit}"
    remark = "Without colour where F of either is too small for D* to mean anything."
    return captioned_map(
        run,
        display,
        quantity,
        run.maps[label] - run.conventional[label],
        shown,
        desc=f"{label}difference",
        numbers=told,
        remark="" if np.array_equal(shown, run.mask) else remark,
    )


def _scatter(run: RunDerivatives, quantity: Quantity) -> Picture:
    label, symbol, own = quantity.spec.label, quantity.spec.symbol, method_of(run)
    voxels = compared_voxels(run, label, volume_of(run, ~run.flagged))
    facts = Facts(run.qc_row)
    correlation, of_ranks = (
        format_number(facts.get(f"lsq_{label}_{name}")) for name in ("pearson", "spearman")
    )
    counted = count_of(int(voxels.sum()), "voxel")
    agreement = f"Correlation {correlation}, of ranks {of_ranks}, over {counted} without a flag"
    across, up = (maps[label][voxels].astype(np.float64) for maps in (run.conventional, run.maps))
    return Picture(
        file_name=picture_name(run.name, f"{label}scatter", "svg"),
        content=charts.scatter_chart(across, up, quantity, (CONVENTIONAL, own)),
        title=f"{symbol} against {CONVENTIONAL}",
        caption=f"{agreement}. Darker: more voxels; dashed: equal values; the rim holds what lies beyond.",
        alt=f"{symbol} by {own} over {symbol} by {CONVENTIONAL}, voxel by voxel. {agreement}.",
    )
