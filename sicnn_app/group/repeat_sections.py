"""Repeated measurements to the tables and plots of their part of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sicnn_app.derivatives.facts import MISSING, format_number
from sicnn_app.group.charts import ScatterChart, scatter_chart
from sicnn_app.group.labels import Group, ShownMeasure, method_in_words
from sicnn_app.group.outliers import region_key
from sicnn_app.group.repeats import Repeats
from sicnn_app.group.table import Row, number

_REPEATED = {"ses": "Sessions", "run": "Runs of one session"}

_LINES = (
    ("bias", "bias", "bias"),
    ("limits_lower", "lower 95 % limit", "limit"),
    ("limits_upper", "upper 95 % limit", "limit"),
)
"""Lines across a plot: column, text and kind."""


def as_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """``head`` and ``rows`` of a table from rows that name their cells."""
    return {"head": list(rows[0]) if rows else [], "rows": [list(row.values()) for row in rows]}


def repeat_sections(group: Group) -> list[dict[str, Any]]:
    """One part per repeated entity and acquisition: ``title``, ``table``, and charts of every region drawn.

    The charts are in ``regions``, by the region's name.
    """
    sections: dict[tuple, dict[str, Any]] = {}
    drawn, _ = group.regions
    for repeats, row in group.repeats:
        kind = repeats.kind
        key = (repeats.repeated, kind["acquisition"], kind["anatomy"], kind["method"])
        words = [_REPEATED[repeats.repeated], *filter(None, key[1:3]), method_in_words(kind["method"])]
        section = sections.setdefault(key, {"title": ", ".join(words), "rows": [], "regions": {}})
        region = group.names.of(kind, alone=True)
        measure = group.measures[f"{repeats.parameter}_median"]
        section["rows"].append({"Region": region, **_repeatability_row(measure, row)})
        if region_key(kind) in drawn:
            section["regions"].setdefault(region, []).append(_agreement_chart(group, measure, repeats, row))
    return [{**section, "table": as_table(section["rows"])} for section in sections.values()]


def _repeatability_row(measure: ShownMeasure, row: Row) -> dict[str, str]:
    def shown(column: str) -> str:
        return measure.text(number(row, column), unit=False)

    def interval(name: str) -> str:
        return f"{shown(f'{name}_lower')} to {shown(f'{name}_upper')}"

    variation, log_variation = (
        MISSING if value is None else f"{100 * value:.1f} %"
        for value in (number(row, f"within_subject_{name}") for name in ("cv", "log_cv"))
    )
    icc = [format_number(number(row, name), 2) for name in ("icc", "icc_lower", "icc_upper")]
    return {
        "Parameter": measure.short,
        "Participants": row["participants"],
        "Mean": shown("mean"),
        "Within-subject CV": variation,
        "on the log scale": log_variation,
        "Repeatability coefficient": f"{shown('repeatability_coefficient')} "
        f"({interval('repeatability_coefficient')})",
        "ICC(1,1)": f"{icc[0]} ({icc[1]} to {icc[2]})",
        "Bias": f"{shown('bias')} ({interval('bias')})",
        "Limits of agreement": interval("limits"),
    }


def _agreement_chart(group: Group, measure: ShownMeasure, repeats: Repeats, row: Row) -> ScatterChart:
    return scatter_chart(
        measure.title,
        f"Mean of both ({measure.unit})",
        f"Second less first ({measure.unit})",
        np.array([pair[1:] for pair in repeats.pairs]) * measure.factor,
        [
            (value * measure.factor, f"{text} {measure.text(value)}", kind)
            for column, text, kind in _LINES
            if (value := number(row, column)) is not None
        ],
        [
            group.source(first, f"{measure.text(one)} and then {measure.text(two)}")
            for first, one, two in repeats.pairs
        ],
    )
