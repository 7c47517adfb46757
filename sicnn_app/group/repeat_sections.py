"""Repeated measurements to the tables and plots of their part of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sicnn_app.derivatives.facts import MISSING, format_number
from sicnn_app.group.charts import ScatterChart, scatter_chart
from sicnn_app.group.labels import RegionKey, RegionNames, measures, method_in_words
from sicnn_app.group.outliers import KIND_COLUMNS
from sicnn_app.group.repeats import Repeats
from sicnn_app.group.table import Row, number

if TYPE_CHECKING:
    from sicnn_app.group.page import Group

_REPEATED = {"ses": "Sessions", "run": "Runs of one session"}


def as_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """``head`` and ``rows`` of a table from rows that name their cells."""
    return {"head": list(rows[0]) if rows else [], "rows": [list(row.values()) for row in rows]}


def repeat_sections(group: Group, names: RegionNames, shown: set[RegionKey]) -> list[dict[str, Any]]:
    """One part per repeated entity and acquisition: its table, and the plots of every region shown.

    Parameters
    ----------
    group : Group
    names : RegionNames
    shown : set of (segmentation, region)
        Regions that are drawn.

    Returns
    -------
    list of dict
        ``title``, ``table``, and ``regions``: charts by the region's name.
    """
    sections: dict[tuple, dict[str, Any]] = {}
    for repeats, row in group.repeats:
        shared = repeats.shared
        key = (repeats.repeated, repeats.acquisition, shared["anatomy"], shared["method"])
        title = ", ".join(
            [_REPEATED[repeats.repeated], *filter(None, key[1:3]), method_in_words(shared["method"])]
        )
        section = sections.setdefault(key, {"title": title, "rows": [], "regions": {}})
        region = names.of({**dict.fromkeys(KIND_COLUMNS), **shared}, alone=True)
        section["rows"].append(_repeatability_row(region, repeats, row))
        if (shared["segmentation"], shared["region"]) in shown:
            section["regions"].setdefault(region, []).append(_agreement_chart(group, repeats, row))
    return [{**section, "table": as_table(section["rows"])} for section in sections.values()]


def _repeatability_row(region: str, repeats: Repeats, row: Row) -> dict[str, str]:
    measure = measures()[f"{repeats.parameter}_median"]

    def shown(column: str) -> str:
        return measure.text(number(row, column), unit=False)

    def interval(name: str) -> str:
        return f"{shown(f'{name}_lower')} to {shown(f'{name}_upper')}"

    variation = number(row, "within_subject_cv")
    icc = [format_number(number(row, name), 2) for name in ("icc", "icc_lower", "icc_upper")]
    return {
        "Region": region,
        "Parameter": measure.short,
        "Participants": row["participants"],
        "Mean": shown("mean"),
        "Within-subject CV": MISSING if variation is None else f"{100 * variation:.1f} %",
        "Repeatability coefficient": f"{shown('repeatability_coefficient')} "
        f"({interval('repeatability_coefficient')})",
        "ICC(1,1)": f"{icc[0]} ({icc[1]} to {icc[2]})",
        "Bias": f"{shown('bias')} ({interval('bias')})",
        "Limits of agreement": interval("limits"),
    }


def _agreement_chart(group: Group, repeats: Repeats, row: Row) -> ScatterChart:
    measure = measures()[f"{repeats.parameter}_median"]
    pairs = np.array([pair[1:] for pair in repeats.pairs]) * measure.factor
    sources = [
        group.source(first, f"{measure.text(one)} and then {measure.text(two)}")
        for first, one, two in repeats.pairs
    ]
    lines = []
    for column, text, kind in (
        ("bias", "bias", "bias"),
        ("limits_lower", "lower 95 % limit", "limit"),
        ("limits_upper", "upper 95 % limit", "limit"),
    ):
        value = number(row, column)
        if value is not None:
            lines.append((value * measure.factor, f"{text} {measure.text(value)}", kind))
    return scatter_chart(
        measure.title, f"Mean of both ({measure.unit})", f"Second less first ({measure.unit})",
        pairs, lines, sources,
    )  # fmt: skip
