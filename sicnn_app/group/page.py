"""Rows of all runs -> one self-contained HTML page of the group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np

from sicnn_app import __version__
from sicnn_app.derivatives.facts import MISSING, count_of, in_words, stop_in_words
from sicnn_app.derivatives.quality import TIME_COLUMNS
from sicnn_app.derivatives.ratings import RATINGS
from sicnn_app.formats import natural_key, shorten
from sicnn_app.group.charts import CONVENTIONAL_WORDS, MIN_BOX, chart_data
from sicnn_app.group.gather import Chosen, GatheredRun
from sicnn_app.group.labels import Group, ShownMeasure, method_in_words
from sicnn_app.group.outliers import OUTLIER_RULE, conventional_of, outlier_words, region_key
from sicnn_app.group.ratings import is_usable
from sicnn_app.group.repeat_sections import as_table, repeat_sections
from sicnn_app.group.table import MAX_LETTERS, Row, cell, number
from sicnn_app.ivim.adequacy_inputs import UNKNOWN, VERDICTS
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report.adequacy import SYMBOLS
from sicnn_app.report.html import run_anchor
from sicnn_app.report.page import render_page

MAX_LISTED = 60
"""Lines of one list on the page; the sidecar of the table has all of them."""

MAX_VALUES = 4
"""Values of one setting that are listed, the most frequent ones."""

MAX_SETTINGS = 500
"""Of one run; the app has a fifth of that."""

ABSENT = "not recorded"

FIT = "LSQ "
"""Start of the heads of the conventional fit."""

RATED = dict(zip(RATINGS, (SYMBOLS[word] for word in VERDICTS), strict=False))
"""Signs of the ratings: those of the verdicts good, doubtful and poor."""

MAYBE_ALIKE = ("Voxels", "b-values", "Method", "Ended because")
"""Columns of the runs that are one sentence where all runs have the same."""

WORDY = ("Rating", "Verdict", "Method", "Ended because", "Outliers")


def group_page(group: Group) -> bytes:
    """The page, HTML; the same rows give the same bytes."""
    outliers = _outlier_rows(group)
    return render_page(
        "group.html.j2",
        package="sicnn_app.group",
        styles=("report.css", "group.css"),
        libraries=("uPlot.iife.min.js", "uPlot.min.css"),
        scripts=("group.js",),
        version=__version__,
        subset=_subset(group.chosen),
        tiles=_tiles(group),
        left_out=_first([str(error) for _, error in group.gathered.left_out]),
        differences=_differences(group.gathered.runs),
        warnings=_first([text for run in group.gathered.runs for text in run.warnings]),
        mixed=_mixed_times(group.masks),
        unreported=_first([row["source"] for row in group.masks if row["source"] not in group.reports]),
        made=as_table(_made_rows(group.masks)),
        outlier_rule=OUTLIER_RULE,
        negligible_f=NEGLIGIBLE_F,
        min_box=MIN_BOX,
        outliers=as_table(outliers[:MAX_LISTED]),
        outlier_count=len(outliers),
        hidden=group.regions[1],
        distributions=as_table(_distribution_rows(group, of_run=False)),
        quality=as_table(_distribution_rows(group, of_run=True)),
        repeated=repeat_sections(group),
        unusable=_first([row["source"] for row in group.masks if not is_usable(row)]),
        disagreements=_first(_disagreements(group)),
        rating_problems=_first(group.ratings.told()),
        runs=_runs_table(group),
        data=chart_data(group),
    )


def _disagreements(group: Group) -> list[str]:
    """One line per run that reviewers rated differently."""
    return [
        f"{row['source']}: {cell(row, 'rating_reviewers')}"
        for row in group.masks
        if (found := group.ratings.by_run.get(row["source"])) and len({one.rating for one in found.given}) > 1
    ]


def _mixed_times(rows: list[Row]) -> list[str]:
    """What is said of times of the acquisition in which the runs differ."""
    values = {key: dict.fromkeys(cell(row, name) for row in rows) for key, name in TIME_COLUMNS.items()}
    return [
        f"{key} differs between the runs: {', '.join(f'{value} s' for value in stated[:MAX_VALUES])}"
        f"{' and others' if len(stated) > MAX_VALUES else ''}. F, D and D* depend on it: compare, and "
        "take means over, runs of one value only"
        for key, found in values.items()
        if len(stated := sorted(value for value in found if value is not None)) > 1
    ]


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"and {more} more: group_ivim.json names all"] if more > 0 else lines


def _subset(chosen: Chosen) -> str | None:
    if not chosen.others:
        return None
    count = len(chosen.runs)
    return f"{count:,} of the {count + chosen.others:,} runs in this dataset, chosen by {chosen.by}."


def _tiles(group: Group) -> list[dict[str, str]]:
    sessions = {(row["participant_id"], row["session_id"]) for row in group.masks if cell(row, "session_id")}
    counts = {
        "Participants": len({row["participant_id"] for row in group.masks}),
        **({"Sessions": len(sessions)} if sessions else {}),
        "Runs": len(group.masks),
        "Runs left out": len(group.gathered.left_out),
        "Runs with outliers": len({row["source"] for row in group.rows if cell(row, "outliers")}),
    }
    tiles = {name: f"{count:,}" for name, count in counts.items()}
    rated = Counter(cell(row, "rating") for row in group.masks)
    if any(rated[word] for word in RATINGS):
        tiles[f"Rated {' / '.join(RATINGS)}"] = " / ".join(f"{rated[word]:,}" for word in RATINGS)
    verdicts = Counter(cell(row, "adequacy") for row in group.masks)
    words = [word for word in VERDICTS if word != UNKNOWN or verdicts[word]]
    if any(verdicts[word] for word in words):
        tiles[f"Verdict {' / '.join(words)}"] = " / ".join(f"{verdicts[word]:,}" for word in words)
    return [{"name": name, "value": value} for name, value in tiles.items()]


def _made_rows(masks: Sequence[Row]) -> list[dict[str, str]]:
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in masks:
        key = tuple(row[column] for column in ("anatomy", "acquisition", "method", "app_version"))
        kinds[key].append(row["participant_id"])
    return [
        {
            "Anatomy": anatomy,
            "Acquisition": acquisition,
            "Method": method_in_words(method),
            "Version": version,
            "Participants": f"{len(set(participants)):,}",
            "Runs": f"{len(participants):,}",
        }
        for (anatomy, acquisition, method, version), participants in sorted(
            kinds.items(), key=lambda item: natural_key(" ".join(item[0]))
        )
    ]


def _runs_table(group: Group) -> dict[str, Any]:
    """Table of the masks: ``head``, ``rows``, and in words what is ``same`` in all runs.

    A head says which measure stands below it, if the script can show that of another region there.
    """
    rows = _without_missing([_run_row(group, row) for row in group.masks])
    alike = [name for name in MAYBE_ALIKE if len(rows) > 1 and len({row.get(name) for row in rows}) == 1]
    places = {
        _head(measure, of_fit): (place, of_fit)
        for place, measure in enumerate(group.measures.values())
        for of_fit in (False, True)
        if not measure.of_run
    }
    names = [name for name in rows[0] if name not in alike]
    return {
        "same": ", ".join(f"{name} {rows[0][name]}" for name in alike if name in rows[0]),
        "head": [{"text": name, "words": name in WORDY, "place": places.get(name)} for name in names],
        "rows": [
            {
                "anchor": run_anchor(row["source"]),
                "name": row["source"],
                "report": group.reports.get(row["source"]),
                "usable": is_usable(row),
                "cells": [cells[name] for name in names],
            }
            for row, cells in zip(group.masks, rows, strict=True)
        ],
    }


def _run_row(group: Group, row: Row) -> dict[str, str]:
    def text(column: str, *, of: str | None = None) -> str:
        return group.measures[column].text(number(row, of or column), unit=False)

    voxels, verdict, rating = number(row, "voxel_count"), cell(row, "adequacy"), cell(row, "rating")
    reasons = cell(row, "rating_reasons") or ""
    shown = [column for column, measure in group.measures.items() if not measure.of_run]
    outliers = (entry.split(" ", 1) for entry in (cell(row, "outliers") or "").split(", ") if entry)
    return {
        "Rating": MISSING if rating is None else f"{RATED[rating]}\u00a0{rating}{reasons and f': {reasons}'}",
        "Verdict": MISSING if verdict is None else f"{SYMBOLS.get(verdict, SYMBOLS[UNKNOWN])}\u00a0{verdict}",
        **{_head(group.measures[column], False): text(column) for column in shown},
        **{_head(group.measures[column], True): text(column, of=conventional_of(column)) for column in shown},
        "SNR, lowest b": text("snr_b0"),
        "SNR, highest b": text("snr_highest_b"),
        "Voxels": MISSING if voxels is None else f"{int(voxels):,}",
        "b-values": row["b_values"],
        "Method": method_in_words(cell(row, "method")),
        "Ended because": stop_in_words(row["stop_reason"]),
        "Outliers": "; ".join(f"{group.measures[column].name} {where}" for column, where in outliers),
    }


def _outlier_rows(group: Group) -> list[dict[str, Any]]:
    """One line per run with its value farthest outside, the farthest of all first."""
    found: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for item in group.measured:
        measure = group.measures[item.column]
        low, _, high = item.distribution.quartiles
        for row, value, level in item.points:
            if not level:
                continue
            # Without a spread every distance is infinitely far.
            beyond = max(low - value, value - high) / (high - low) if high > low else np.inf
            line = {
                "Run": group.link(row),
                "Values": "",
                "Farthest: region": group.names.of(item.kind),
                "Measure": measure.name,
                "Value": measure.text(value),
                "Quartiles of its kind": f"{measure.text(low, unit=False)} – {measure.text(high)}",
                "Lies": outlier_words(level),
            }
            found[row["source"]].append((beyond, line))
    farthest = [(*max(values, key=itemgetter(0)), f"{len(values):,}") for values in found.values()]
    farthest.sort(key=itemgetter(0), reverse=True)
    return [line | {"Values": count} for _, line, count in farthest]


def _distribution_rows(group: Group, *, of_run: bool) -> list[dict[str, str]]:
    """One line per kind: the median of every measure over its runs, with the quartiles."""
    columns = {column: measure for column, measure in group.measures.items() if measure.of_run == of_run}
    rows: dict[str, dict[str, str]] = {}
    for items, words, of in (
        (group.measured, "", str),
        (group.conventional(), CONVENTIONAL_WORDS, conventional_of),
    ):
        named = {of(column): measure for column, measure in columns.items()}
        shown = [item for item in items if item.column in named and region_key(item.kind) in group.regions[0]]
        for item in sorted(shown, key=lambda item: group.names.rank(item.kind)):
            name, measure = f"{group.names.of(item.kind)}{words}", named[item.column]
            row = rows.setdefault(name, {"Region": name, "Runs": f"{item.values.size:,}"})
            row[measure.short] = measure.quartiles(item)
    empty = {"Region": "", "Runs": "", **{measure.short: MISSING for measure in columns.values()}}
    return _without_missing([{**empty, **row} for row in rows.values()])


def _head(measure: ShownMeasure, of_fit: bool) -> str:
    return f"{FIT if of_fit else ''}{measure.short}"


def _without_missing(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows without the columns that have nothing in any of them."""
    kept = {name for row in rows for name, value in row.items() if value != MISSING}
    return [{name: value for name, value in row.items() if name in kept} for row in rows]


def _differences(runs: Sequence[GatheredRun]) -> list[str]:
    """One line per setting and program that differs, as ``denoise: mppca (3 runs), none (1 run)``."""
    settings = _lines("", [_flat(run.state.settings) for run in runs])
    return settings + _lines("version of ", [run.state.versions for run in runs])


def _lines(prefix: str, records: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for name in dict.fromkeys(name for record in records for name in record):
        counts = Counter(record.get(name, ABSENT) for record in records)
        if len(counts) > 1:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            values = [f"{value} ({count_of(count, 'run')})" for value, count in ranked[:MAX_VALUES]]
            rest = [f"{len(ranked) - MAX_VALUES} others"] if len(ranked) > MAX_VALUES else []
            lines.append(f"{prefix}{name}: {', '.join([*values, *rest])}")
    return lines


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by name, those of an object apart: two long texts would hide what differs."""
    leaves = islice(_leaves("", settings), MAX_SETTINGS)
    return {shorten(name, MAX_LETTERS): shorten(in_words(value), MAX_LETTERS) for name, value in leaves}


def _leaves(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{name} ", value)
        else:
            yield f"{prefix}{name}", value
