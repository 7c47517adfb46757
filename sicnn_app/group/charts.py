"""Numbers of many runs as the script of the page draws them: strips with boxes, and Bland-Altman plots.

Values are in the unit shown, rounded to what a picture can tell apart; runs, measures and regions are named
once and then counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sicnn_app.derivatives.facts import count_of
from sicnn_app.group.labels import Group, ShownMeasure
from sicnn_app.group.outliers import Measured, conventional_of, region_key
from sicnn_app.group.ratings import UNUSABLE
from sicnn_app.group.table import cell, number

MIN_BOX = 5
"""Values below which the points say all that a box would."""

CONVENTIONAL_WORDS, APART_WORDS = ", least squares", f", rated {UNUSABLE}"

WORDS = {
    "own": "",
    "fit": CONVENTIONAL_WORDS,
    "apart": APART_WORDS,
    "apart fit": CONVENTIONAL_WORDS + APART_WORDS,
}
"""Kinds of strips: the method's own maps, the conventional fit, and what reviewers left out."""

LINES = (
    ("bias", "bias", "bias"),
    ("limits_lower", "lower 95 % limit", "limit"),
    ("limits_upper", "upper 95 % limit", "limit"),
)
"""Lines across a Bland-Altman plot: column of ``group_repeatability.tsv``, text and kind."""


def chart_data(group: Group) -> dict[str, Any]:
    """Content of all charts, JSON-serialisable.

    ``runs`` are name, report or None, and rating or None; ``regions`` names to choose from, the mask first.
    A strip has the values of one kind over its runs, and a box: lower whisker, quartiles with the median
    between, upper whisker. Its ``kind`` is one of :data:`WORDS`; ``levels`` says how far points lie outside.
    """
    regions, _ = group.regions
    places = {
        "run": {row["source"]: place for place, row in enumerate(group.masks)},
        "measure": {
            name: place
            for place, column in enumerate(group.measures)
            for name in (column, conventional_of(column))
        },
        "region": {key: place for place, key in enumerate(regions)},
    }
    strips = [
        _strip(group, item, places, kind)
        for kind, items in zip(
            WORDS,
            (group.measured, group.conventional(), group.apart, group.conventional(usable=False)),
            strict=True,
        )
        for item in sorted(items, key=lambda item: group.names.rank(item.kind))
        if region_key(item.kind) in regions
    ]
    return {
        "runs": [
            [row["source"], group.reports.get(row["source"]), cell(row, "rating")] for row in group.masks
        ],
        "measures": [_measure(measure) for measure in group.measures.values()],
        "regions": list(regions.values()),
        "strips": strips,
        "pairs": list(_pairs(group, places)),
    }


def _measure(measure: ShownMeasure) -> dict[str, Any]:
    return {
        "title": measure.title,
        "axis": measure.axis,
        "ending": measure.ending,
        "logarithmic": measure.logarithmic,
        "of_run": measure.of_run,
    }


def _strip(group: Group, item: Measured, places: dict[str, dict], kind: str) -> dict[str, Any]:
    position = places["measure"][item.column]
    measure = list(group.measures.values())[position]
    label = f"{group.names.of(item.kind)}{WORDS[kind]}: {count_of(item.values.size, 'run')}"
    box = None
    if item.values.size >= MIN_BOX and "apart" not in kind:
        found = item.distribution
        low, middle, high = found.quartiles
        inside = item.values[(item.values >= found.fences[0]) & (item.values <= found.fences[1])]
        box = _rounded(measure, [min(inside.min(), low), low, middle, high, max(inside.max(), high)])
        label += f", median {measure.quartiles(item)}"
    levels = item.distribution.levels.tolist()
    return {
        "region": places["region"][region_key(item.kind)],
        "measure": position,
        "kind": kind,
        "label": label,
        "runs": [places["run"][row["source"]] for row in item.rows],
        "values": _rounded(measure, item.values),
        "levels": {place: abs(level) for place, level in enumerate(levels) if level and kind == "own"},
        "box": box,
    }


def _rounded(measure: ShownMeasure, values: Iterable[float]) -> list[float]:
    return [float(f"{value * measure.factor:.4g}") for value in values]


def _pairs(group: Group, places: dict[str, dict]) -> Iterator[dict[str, Any]]:
    for section, found in enumerate(group.sections.values()):
        for repeats, row in found:
            if region_key(repeats.kind) not in places["region"]:
                continue
            column = f"{repeats.parameter}_median"
            measure = group.measures[column]
            yield {
                "section": section,
                "region": places["region"][region_key(repeats.kind)],
                "measure": places["measure"][column],
                "runs": [places["run"][first["source"]] for first, _, _ in repeats.pairs],
                "first": _rounded(measure, [value for _, value, _ in repeats.pairs]),
                "second": _rounded(measure, [value for _, _, value in repeats.pairs]),
                "lines": [
                    [*_rounded(measure, [value]), f"{text} {measure.text(value)}", kind]
                    for column, text, kind in LINES
                    if (value := number(row, column)) is not None
                ],
            }
