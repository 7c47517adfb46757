"""Repeated measurements to the tables of their part of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sicnn_app.derivatives.facts import MISSING, format_number
from sicnn_app.group.labels import Group, ShownMeasure
from sicnn_app.group.table import Row, number


def as_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """``head`` and ``rows`` of a table from rows that name their cells."""
    return {"head": list(rows[0]) if rows else [], "rows": [list(row.values()) for row in rows]}


def repeat_sections(group: Group) -> list[dict[str, Any]]:
    """``title`` and ``table`` of every part, as :attr:`sicnn_app.group.labels.Group.sections`."""
    return [
        {
            "title": title,
            "table": as_table(
                [
                    {
                        "Region": group.names.of(repeats.kind, alone=True),
                        **_repeatability_row(group.measures[f"{repeats.parameter}_median"], row),
                    }
                    for repeats, row in found
                ]
            ),
        }
        for title, found in group.sections.items()
    ]


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
        "Within-subject CV, log scale": log_variation,
        "Repeatability coefficient": f"{shown('repeatability_coefficient')} "
        f"({interval('repeatability_coefficient')})",
        "ICC(1,1)": f"{icc[0]} ({icc[1]} to {icc[2]})",
        "Bias": f"{shown('bias')} ({interval('bias')})",
        "Limits of agreement": interval("limits"),
    }
