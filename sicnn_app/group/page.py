"""Rows of all runs -> one self-contained HTML page of the group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sicnn_app import __version__
from sicnn_app.derivatives.facts import MISSING, count_of, stop_in_words
from sicnn_app.formats import natural_key
from sicnn_app.group.charts import MIN_BOX, Source, StripChart, Values, strip_chart
from sicnn_app.group.gather import Chosen, Gathered
from sicnn_app.group.labels import (
    RegionKey,
    RegionNames,
    ShownMeasure,
    choose_regions,
    measures,
    method_in_words,
)
from sicnn_app.group.outliers import OUTLIER_RULE, Measured, outlier_words, run_measures
from sicnn_app.group.repeat_sections import as_table, repeat_sections
from sicnn_app.group.repeats import Repeats
from sicnn_app.group.statistics import distribution
from sicnn_app.group.table import Row, cell, number
from sicnn_app.group.uniform import differences
from sicnn_app.ivim.adequacy_inputs import UNKNOWN, VERDICTS
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.report.adequacy import SYMBOLS
from sicnn_app.report.page import render_page

MAX_LISTED = 60
"""Lines of one list on the page; the sidecar of the table has all of them."""


@dataclass(frozen=True)
class Group:
    """All runs, their distributions and what repeats, and where their reports are.

    Attributes
    ----------
    gathered : Gathered
    rows : list of dict of str to str
        Of ``group_ivim.tsv``, outliers marked.
    measured : list of Measured
        Their distributions.
    repeats : list of (Repeats, dict)
        With the row of ``group_repeatability.tsv``.
    reports : mapping of str to str
        Address of the report of a run, by its name; runs without a report are not in it.
    chosen : Chosen
        What was asked for.
    """

    gathered: Gathered
    rows: Sequence[Row]
    measured: Sequence[Measured]
    repeats: Sequence[tuple[Repeats, Row]]
    reports: Mapping[str, str]
    chosen: Chosen

    def source(self, row: Row, text: str) -> Source:
        """What a point of a row stands for."""
        return Source(f"{row['source']}: {text}", self.reports.get(row["source"]))

    def link(self, row: Row) -> dict[str, str] | str:
        """Cell of a table that leads to the report of a row's run."""
        name = row["source"]
        return {"text": name, "href": self.reports[name]} if name in self.reports else name


def group_page(group: Group) -> bytes:
    """The page, HTML; the same rows give the same bytes.

    Parameters
    ----------
    group : Group

    Returns
    -------
    bytes
    """
    shown, hidden = choose_regions(group.measured)
    names = RegionNames(item.kind for item in group.measured)
    masks = [row for row in group.rows if cell(row, "segmentation") is None]
    outliers = _outlier_rows(group, names)
    repeated = repeat_sections(group, names, shown)
    left_out = [f"{error}" for _, error in group.gathered.left_out]
    warnings = [text for run in group.gathered.runs for text in run.warnings]
    unreported = [row["source"] for row in masks if row["source"] not in group.reports]
    return render_page(
        "group.html.j2",
        package="sicnn_app.group",
        styles=("report.css", "group.css"),
        version=__version__,
        subset=_subset(group),
        tiles=_tiles(group, masks),
        left_out=_first(left_out),
        differences=differences(group.gathered.runs),
        warnings=_first(warnings),
        unreported=_first(unreported),
        made=as_table(_made_rows(masks)),
        outlier_rule=OUTLIER_RULE,
        negligible_f=NEGLIGIBLE_F,
        min_box=MIN_BOX,
        outliers=as_table(outliers[:MAX_LISTED]),
        outlier_count=len(outliers),
        hidden=hidden,
        charts=_strip_charts(group, names, shown, of_run=False),
        quality=_strip_charts(group, names, shown, of_run=True),
        repeated=repeated,
        runs=as_table([_run_row(group, row) for row in masks]),
    )


def _first(lines: Sequence[str]) -> list[str]:
    if len(lines) <= MAX_LISTED:
        return list(lines)
    return [*lines[:MAX_LISTED], f"and {len(lines) - MAX_LISTED} more: group_ivim.json names all"]


def _subset(group: Group) -> str | None:
    chosen = group.chosen
    if not chosen.others:
        return None
    count = len(chosen.runs)
    return f"{count:,} of the {count + chosen.others:,} runs in this dataset, chosen by {chosen.by}."


def _tiles(group: Group, masks: Sequence[Row]) -> list[dict[str, str]]:
    sessions = {(row["participant_id"], session) for row in masks if (session := cell(row, "session_id"))}
    counts = {
        "Participants": len({row["participant_id"] for row in masks}),
        **({"Sessions": len(sessions)} if sessions else {}),
        "Runs": len(masks),
        "Runs left out": len(group.gathered.left_out),
        "Runs with outliers": len({row["source"] for row in group.rows if cell(row, "outliers")}),
    }
    tiles = [{"name": name, "value": f"{count:,}"} for name, count in counts.items()]
    return [*tiles, *_verdict_tile(masks)]


def _verdict_tile(masks: Sequence[Row]) -> list[dict[str, str]]:
    counts = Counter(cell(row, "adequacy") for row in masks)
    words = [word for word in VERDICTS if word != UNKNOWN or counts[word]]
    if not any(counts[word] for word in words):
        return []
    numbers = (f"{counts[word]:,}" for word in words)
    return [{"name": f"Verdict {' / '.join(words)}", "value": " / ".join(numbers)}]


def _made_rows(masks: Sequence[Row]) -> list[dict[str, str]]:
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in masks:
        key = tuple(row[column] for column in ("anatomy", "acquisition", "method", "app_version"))
        kinds.setdefault(key, []).append(row)
    return [
        {
            "Anatomy": anatomy,
            "Acquisition": acquisition,
            "Method": method_in_words(method),
            "Version": version,
            "Participants": f"{len({row['participant_id'] for row in rows}):,}",
            "Runs": f"{len(rows):,}",
        }
        for (anatomy, acquisition, method, version), rows in sorted(
            kinds.items(), key=lambda item: natural_key(" ".join(item[0]))
        )
    ]


def _run_row(group: Group, row: Row) -> dict[str, Any]:
    shown = measures()

    def text(column: str, *, unit: bool = False) -> str:
        return shown[column].text(number(row, column), unit=unit)

    voxels = number(row, "voxel_count")
    medians = [f"{spec.label}_median" for spec in MAPS if spec.outlier]
    return {
        "Run": group.link(row),
        "Method": method_in_words(cell(row, "method")),
        "Verdict": _verdict(cell(row, "adequacy")),
        "Voxels": MISSING if voxels is None else f"{int(voxels):,}",
        "b-values": row["b_values"],
        "SNR, lowest b": text("snr_b0"),
        "SNR, highest b": text("snr_highest_b"),
        **{shown[column].short: text(column) for column in medians},
        "Flagged": text("flagged_share", unit=True),
        "Ended because": stop_in_words(row["stop_reason"]),
        "Outliers": _outlier_cell(cell(row, "outliers")),
    }


def _verdict(word: str | None) -> str:
    return MISSING if word is None else f"{SYMBOLS.get(word, SYMBOLS[UNKNOWN])} {word}"


def _outlier_cell(text: str | None) -> str:
    if text is None:
        return ""
    words = (entry.split(" ", 1) for entry in text.split(", "))
    return "; ".join(f"{measures()[column].name} {where}" for column, where in words)


def _outlier_rows(group: Group, names: RegionNames) -> list[dict[str, Any]]:
    """One line per run with its value farthest outside, the farthest of all first."""
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for item in group.measured:
        measure = measures()[item.column]
        low, _, high = item.distribution.quartiles
        for row, value, level in zip(item.rows, item.values, item.distribution.levels, strict=True):
            if not level:
                continue
            # Without a spread every distance is infinitely far.
            beyond = max(low - value, value - high) / (high - low) if high > low else np.inf
            line = {
                "Run": group.link(row),
                "Values": "",
                "Farthest: region": names.of(item.kind),
                "Measure": measure.name,
                "Value": measure.text(value),
                "Quartiles of its kind": f"{measure.text(low, unit=False)} – {measure.text(high)}",
                "Lies": outlier_words(int(level)),
            }
            found.setdefault(row["source"], []).append((beyond, line))
    lines = []
    for values in found.values():
        beyond, line = max(values, key=lambda pair: pair[0])
        lines.append((beyond, line | {"Values": f"{len(values):,}"}))
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])]


def _strip_charts(
    group: Group, names: RegionNames, shown: set[RegionKey], *, of_run: bool
) -> list[StripChart]:
    charts = []
    for column, measure in measures().items():
        if (column in run_measures()) != of_run:
            continue
        items = [item for item in group.measured if item.column == column]
        items = [item for item in items if (item.kind["segmentation"], item.kind["region"]) in shown]
        strips = [
            _strip(group, names, measure, item) for item in sorted(items, key=lambda i: names.rank(i.kind))
        ]
        if strips:
            charts.append(strip_chart(measure.title, measure.axis, strips))
    return charts


def _strip(group: Group, names: RegionNames, measure: ShownMeasure, item: Measured) -> Values:
    sources = []
    for row, value, level in zip(item.rows, item.values, item.distribution.levels, strict=True):
        outside = f", {outlier_words(int(level))}" if level else ""
        sources.append(group.source(row, f"{measure.text(value)}{outside}"))
    label = f"{names.of(item.kind)}: {count_of(item.values.size, 'run')}"
    if item.values.size >= MIN_BOX:
        low, middle, high = (measure.text(value, unit=False) for value in item.distribution.quartiles)
        label += f", median {middle} ({low} – {high})"
    values = item.values * measure.factor
    return Values(label, values, distribution(values), sources)
