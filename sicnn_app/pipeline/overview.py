"""The runs of a call for people: what would be done with them, and how they came out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sicnn_app.bids.describe import RunRow, describe
from sicnn_app.bids.discover import Discovery
from sicnn_app.bids.text_files import read_table
from sicnn_app.derivatives.facts import as_number, count_of
from sicnn_app.derivatives.marker import marker_path
from sicnn_app.derivatives.names import QUALITY, output_path
from sicnn_app.derivatives.outputs import Files
from sicnn_app.errors import SicnnAppError
from sicnn_app.formats import NOT_AVAILABLE, natural_key, rough_time
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.forecast import Forecast, forecast
from sicnn_app.pipeline.planned import finished_runs, planned_outputs, require_free_runs, warn_if_refused
from sicnn_app.pipeline.study.groups import Study
from sicnn_app.pipeline.tasks.part import Outcome
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings
from sicnn_app.system.cgroups import below_memory_limit, memory_limit
from sicnn_app.system.console import Console
from sicnn_app.system.memory import GB

MAX_RESULTS = 50
"""Runs in the table at the end of a call; of more there is the page of the group."""


def show_plan(settings: Settings, discovery: Discovery, study: Study, console: Console) -> int:
    """Print a line per run on what would be done, with ``-v`` its files; gives the exit code."""
    finished: frozenset[str] = frozenset()

    def check() -> None:
        nonlocal finished
        # Files are read of those runs alone that have outputs.
        there = [item for item in discovery.runs if os.path.lexists(marker_path(settings.output_dir, item))]
        finished = finished_runs(settings, there, study.fingerprints(settings, there))
        require_free_runs(settings, [item for item in discovery.runs if item.name not in finished])

    warn_if_refused(check, console)
    resources = below_memory_limit(settings.resources, memory_limit()).of_one_task()
    one = replace(settings, resources=resources)
    problems = {item.name: error for item, error in discovery.problems}
    expected = []
    everything = [*discovery.runs, *(item for item, _ in discovery.problems)]
    rows = {row.name: row for row in describe(discovery, bvals_file=settings.inputs.bvals)}
    for item in sorted(everything, key=lambda item: natural_key(item.name)):
        if item.name in finished:
            console.line(f"{item.name}: would be skipped, finished before with the same settings")
            continue
        try:
            if item.name in problems:
                raise problems[item.name]
            found = forecast(item, one)
        except SicnnAppError as error:
            console.line(f"{item.name}: would fail: {error}")
            continue
        _show_planned(item, rows[item.name], found, settings, console)
        expected.append(found)
    if expected:
        seconds, needed = sum(found.seconds for found in expected), max(found.memory for found in expected)
        console.line(
            f"{count_of(len(expected), 'run')} would be written to {settings.output_dir}: about "
            f"{rough_time(seconds)} of a core, up to {needed / GB:.1f} GB for one run"
            + ("" if console.verbosity else "; -v names the files")
        )
    return 0


def _show_planned(item: DwiRun, row: RunRow, found: Forecast, settings: Settings, console: Console) -> None:
    anatomy, reason = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    steps = " and ".join(step.lower() for step in found.steps)
    console.line(
        f"{item.name}: {settings.estimation.described.title}, {anatomy}, "
        f"{f'after {steps}, ' if steps else ''}{row.shape} voxels, {row.volumes} volumes, "
        f"{len(row.bvals.split())} b-values; {found.words}"
    )
    console.detail(f"  anatomy: {anatomy} ({reason})")
    console.detail(f"  b-values (s/mm^2) x volumes: {row.bvals}")
    console.detail(f"  mask: {row.mask}")
    if row.note:
        console.detail(f"  note: {row.note}")
    for path in planned_outputs(item, settings):
        console.detail(f"  {path}")


def tell_results(outcomes: Sequence[Outcome], output_dir: Path, console: Console) -> None:
    """Show a table of runs with their verdicts and medians, as their tables of quality have them."""
    tissue = [spec for spec in MAPS if spec.of_tissue]
    medians = [*((f"{spec.label}_median", spec.factor) for spec in tissue), ("flagged_share", 100.0)]
    columns = [f"{spec.symbol} ({(spec.shown_unit or spec.unit).replace(chr(0xA0), ' ')})" for spec in tissue]

    def cells(outcome: Outcome) -> Iterator[str]:
        yield outcome.run.name
        if outcome.error is not None:
            yield from ("failed", *[""] * len(medians))
            return
        table = output_path(outcome.run, output_dir, f"{QUALITY}.tsv")
        rows: list[dict[str, str]] = Files(output_dir).get(read_table, table, [])
        row = rows[0] if rows else {}
        yield row.get("adequacy", NOT_AVAILABLE)
        for name, factor in medians:
            value = as_number(row.get(name))
            yield NOT_AVAILABLE if value is None else f"{value * factor:.3g}"

    console.table(
        "Results: verdict on the data, and medians inside the mask",
        ("run", "verdict", *columns, "flagged (%)"),
        [tuple(cells(outcome)) for outcome in outcomes[:MAX_RESULTS]],
    )
    if (more := len(outcomes) - MAX_RESULTS) > 0:
        console.line(f"{more} more runs: the level group makes a table and a page of all")
