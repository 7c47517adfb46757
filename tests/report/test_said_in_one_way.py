"""What the tables, the sidecars and the report say of one run is the same, and no more than is known."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from factories import make_result

from sicnn_app.bids.discover import discover
from sicnn_app.bids.select import Selection
from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.names import reported_sessions, run_names
from sicnn_app.derivatives.write import write_run
from sicnn_app.group.gather import find_runs
from sicnn_app.ivim.run import RunResult
from sicnn_app.report.methods import methods_text
from sicnn_app.report.tables import tabulate_run
from sicnn_app.settings import InputSettings, SelectionSettings


def written(tmp_path: Path, **options) -> RunResult:
    result = make_result(tmp_path, **options)
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    return result


def tables_of(tmp_path: Path) -> dict[str, Any]:
    return tabulate_run(collect_run(tmp_path / "out", "01", None, "sub-01", conventional=False))


def test_data_iterations_are_counted_in_one_way(tmp_path):
    written(tmp_path, iterations=9)
    stem = tmp_path / "out" / "sub-01" / "dwi" / "sub-01"
    with Path(f"{stem}_desc-ivim_qc.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    sidecar = json.loads(Path(f"{stem}_model-ivim_param-f_dwimap.json").read_text())
    parameters = sidecar["Model"]["Parameters"]
    tables = tables_of(tmp_path)
    counts = [
        int(row["data_iterations"]),
        parameters["data_iterations"],
        int(tables["history_rows"][-1][0]),
        *map(int, re.findall(r"after (\d+) data iterations", " ".join(tables["done"]))),
        *map(int, re.findall(r"(\d+) data iterations were done", methods_text(parameters, {}))),
    ]
    assert counts == [8] * 5


def test_whole_numbers_of_the_history_are_shown_as_such(tmp_path):
    written(tmp_path, iterations=3)
    tables = tables_of(tmp_path)
    shown = dict(zip(tables["history_head"], zip(*tables["history_rows"], strict=True), strict=True))
    assert shown["data iteration"] == ("0", "1", "2")
    assert shown["epochs"] == ("10", "11", "12")
    assert shown["training loss"] == ("0.01000", "0.005000", "0.003333")


def test_a_fit_without_a_network_has_no_table_of_its_training(tmp_path):
    written(tmp_path, method="lsq")
    assert tables_of(tmp_path)["history_rows"] == []


@pytest.mark.parametrize(("with_bvecs", "shown"), [(False, "not known"), (True, "2")])
def test_directions_are_told_only_where_they_are_known(tmp_path, with_bvecs, shown):
    written(tmp_path, with_bvecs=with_bvecs)
    tables = tables_of(tmp_path)
    assert {row["Directions"] for row in tables["bvalue_rows"]} == {shown}


def test_why_a_training_ended_is_said_in_words(tmp_path):
    result = make_result(tmp_path)
    result.estimate.parameters["stop_reason"] = "max_iterations"
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    tables = tables_of(tmp_path)
    assert tables["summary"]["Ended because"] == "the limit of data iterations was reached"
    assert not any("max_iterations" in line for line in (*tables["done"], *tables["methods"]))


def test_runs_come_in_one_order_everywhere(tmp_path):
    names = [
        "sub-2_acq-T70", "sub-2_acq-T100", "sub-2_acq-T100_run-2", "sub-2_acq-T100_run-10", "sub-2B", "sub-10"
    ]  # fmt: skip
    for name in reversed(names):
        written(tmp_path, entities=dict(pair.split("-") for pair in name.split("_")), shape=(4, 4, 1))
    out = tmp_path / "out"
    reported = [name for pair in reported_sessions(out) for name in run_names(out, *pair)]
    gathered = [run.name for run in find_runs(out, Selection.build(SelectionSettings())).runs]
    processed = [run.name for run in discover(tmp_path / "bids", SelectionSettings(), InputSettings()).runs]
    assert reported == gathered == processed == names
