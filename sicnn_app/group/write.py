"""The group level from the derivatives on disk to its tables and its page."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any

from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.names import GROUP_UNIT, TABLE, group_outputs, report_path
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import SicnnAppError
from sicnn_app.files import parse_json, read_regular
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.group.columns import measured_columns, table_columns
from sicnn_app.group.gather import Chosen, Earlier, Gathered, gather
from sicnn_app.group.labels import Group
from sicnn_app.group.outliers import (
    OUTLIER_RULE,
    Measured,
    distribution_record,
    mark_outliers,
    measure_kinds,
    outlier_measures,
)
from sicnn_app.group.page import group_page
from sicnn_app.group.ratings import Ratings, is_usable
from sicnn_app.group.repeats import COLUMNS, find_repeats
from sicnn_app.group.table import Row, parse_table
from sicnn_app.report.html import run_anchor

MAX_TABLE_BYTES = 256 << 20
"""10,000 runs with 40 regions have as many; a larger table is measured anew and not reused."""

_REPEATABILITY_SIDECAR = {
    "Description": "Test-retest statistics: one row per acquisition, region and parameter that participants "
    "were measured for repeatedly; no row where none was",
    **{column.name: column.words() for column in COLUMNS},
}


def write_group(
    output_dir: Path,
    chosen: Chosen,
    datasets: Mapping[str, Path],
    ratings: Ratings,
    *,
    reuse: bool,
    stop: bool = False,
    prepare: Callable[[], None],
    caught: Callable[[Callable[[], object]], SicnnAppError | None],
    progress: Callable[[str, int, int], None],
) -> Gathered:
    """Write the tables of the group and its page.

    The same derivatives give the same bytes, whether their rows are measured or taken from the last table.

    Parameters
    ----------
    chosen : Chosen
        From :func:`sicnn_app.group.gather.find_runs`.
    datasets : mapping of str to Path
        Derivative datasets with segmentations, by name.
    ratings : Ratings
        Of reviewers.
    reuse : bool
        Take the rows of runs that did not change from the last table.
    stop : bool
        End at the first run that cannot be used, with its error; nothing is written then.
    prepare : callable
        Called when there is something to write, before it is written.
    caught : callable
        See :func:`sicnn_app.group.gather.gather`.

    Returns
    -------
    Gathered
        What is in the files, and the runs that are not. Without a run that can be used nothing is written, so
        that files of an earlier call stay.

    Raises
    ------
    OutputError
        When the file system refuses.
    SicnnAppError
        With ``stop``: a run is incomplete, or cannot be read.
    """
    output_dir = Path(os.path.abspath(output_dir))
    earlier = read_earlier(output_dir) if reuse else {}
    gathered = gather(
        output_dir, chosen.runs, datasets, earlier=earlier, stop=stop, caught=caught, progress=progress
    )
    if not gathered.runs:
        return gathered
    rows = ratings.rated([row for run in gathered.runs for row in run.rows])
    usable = list(filter(is_usable, rows))
    unusable = list(filterfalse(is_usable, rows))
    measured, apart = (measure_kinds(part, outlier_measures()) for part in (usable, unusable))
    table = tsv_bytes(list(table_columns()), mark_outliers(rows, measured))
    repeats = find_repeats(usable)
    repeated = tsv_bytes(
        [column.name for column in COLUMNS],
        ({column.name: column.value(found) for column in COLUMNS} for found in repeats),
    )
    reports = {
        item.run.name: f"{path.name}#{run_anchor(item.run.name)}"
        for item in gathered.runs
        if (path := report_path(output_dir, item.run.subject, item.run.session)).is_file()
    }
    parsed = list(zip(repeats, parse_table(repeated), strict=True))
    contents = (
        table,
        json_bytes(_table_sidecar(chosen, gathered, ratings, measured)),
        repeated,
        json_bytes(_REPEATABILITY_SIDECAR),
        group_page(Group(gathered, parse_table(table), measured, apart, parsed, reports, chosen, ratings)),
    )
    prepare()
    with scratch_folder(output_dir) as folder:
        staged = StagedFiles(folder)
        for target, content in zip(group_outputs(output_dir), contents, strict=True):
            staged.add_bytes(target, content)
        staged.publish(WrittenRecord(output_dir, GROUP_UNIT))
    return gathered


def read_earlier(output_dir: Path) -> dict[str, Earlier]:
    """Rows of the last table by run; empty when there is none, or it is not as it was written."""
    paths = [output_dir / f"{TABLE}.{ending}" for ending in ("tsv", "json")]
    if not all(map(WrittenRecord(output_dir, GROUP_UNIT).is_ours, paths)):
        return {}
    try:
        table, sidecar = (read_regular(path, MAX_TABLE_BYTES) for path in paths)
        sidecar = parse_json(sidecar)
        if not table.startswith("\t".join(table_columns()).encode() + b"\n"):
            return {}
        rows: dict[str, list[Row]] = {}
        decided = table_columns().keys() - measured_columns().keys()
        for row in parse_table(table):
            for name in decided:
                del row[name]
            if not all(isinstance(cell, str) for cell in row.values()):
                raise ValueError("a row that is not as long as the header")
            rows.setdefault(row["source"], []).append(row)
        return {
            name: Earlier(str(record["Key"]), rows[name], [str(text) for text in record["Warnings"]])
            for name, record in sidecar["Runs"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return {}


def _table_sidecar(
    chosen: Chosen, gathered: Gathered, ratings: Ratings, measured: Sequence[Measured]
) -> dict[str, Any]:
    return {
        "Description": "Statistics of the maps and quality measures: one row per run and region",
        **table_columns(),
        "Selection": {"ChosenBy": chosen.by or None, "RunsNotChosen": chosen.others},
        "Ratings": {"Files": ratings.files, "LeftOut": ratings.told()},
        "Segmentations": {
            name: {"RecognisedAs": ", ".join(programs)} for name, programs in gathered.recognised.items()
        },
        "OutlierRule": OUTLIER_RULE,
        "Distributions": [distribution_record(item) for item in measured],
        "LeftOut": [{"Run": run.name, "Reason": str(error)} for run, error in gathered.left_out],
        # What tells whether a run has changed since.
        "Runs": {item.run.name: {"Key": item.state.key, "Warnings": item.warnings} for item in gathered.runs},
    }
