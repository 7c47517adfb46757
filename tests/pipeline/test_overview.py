"""What is told of the runs of a call: before it, while it works, and at its end."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

import pytest
from app_runs import App, add_run, body, dataset, leave_out_figures
from bids_datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.bids.discover import discover
from sicnn_app.formats import rough_time
from sicnn_app.pipeline.forecast import Forecast, Schedule, forecast
from sicnn_app.settings import EstimationSettings, PreprocessingSettings, Settings


def planned(made: Dataset, tmp_path: Path, **settings) -> Forecast:
    """The forecast of the only run of a dataset."""
    asked = Settings(bids_dir=made.root, output_dir=tmp_path / "out", **settings)
    (item,) = discover(made.root, asked.selection, asked.inputs, asked.preprocessing).runs
    return forecast(item, asked)


@pytest.fixture
def app(monkeypatch, capsys):
    leave_out_figures(monkeypatch)
    return App(capsys)


# before


def test_a_dry_run_is_a_line_per_run_and_names_files_on_request_alone(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02", "sub-10")
    add_run(made, "sub-03", bvals=(0.0, 50.0))
    call = app.quick(made, tmp_path / "out", "--dry-run")
    lines = call.out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["sub-01", "sub-02", "sub-03", "sub-10"]
    for line in (lines[0], lines[1], lines[3]):
        assert re.search(
            r"Least squares, body, .*12 x 10 x 2 voxels, 8 volumes, 7 b-values; about \d+ s, up to", line
        )
    assert "would fail: " in lines[2] and "2 b-values" in lines[2]
    assert lines[-1].startswith("3 runs would be written") and "-v names the files" in lines[-1]
    assert "dwimap" not in call.out


def test_a_dry_run_says_what_is_finished_and_what_would_be_refused(app, tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert app.quick(made, out, "--participant-label", "01").code == 0
    call = app.quick(made, out, "--dry-run")
    assert "sub-01: would be skipped, finished before" in call.out
    assert "1 run would be written" in call.out and call.err == ""
    other = app.quick(made, out, "--max-bval", "500", "--dry-run")
    assert other.code == 0 and "the call would be refused" in other.err and "other settings" in other.err
    again = app.quick(made, out, "--max-bval", "500", "--dry-run", "--overwrite")
    assert "2 runs would be written" in again.out and again.err == ""


def test_too_little_memory_is_told_before_anything_is_done(app, tmp_path):
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "--dry-run", "--mem", "0.3")
    assert "sub-01: would fail: about" in call.out and "--mem allows 0.3" in call.out


def test_more_work_takes_more_time_and_memory(tmp_path):
    small = dataset(tmp_path / "small", shape=(24, 20, 4))
    large = dataset(tmp_path / "large", shape=(48, 40, 4))
    lsq = EstimationSettings(method="lsq")
    least = planned(small, tmp_path, estimation=lsq)
    assert least.seconds < planned(large, tmp_path, estimation=lsq).seconds
    assert least.memory < planned(large, tmp_path, estimation=lsq).memory
    network = planned(small, tmp_path)
    assert least.seconds < network.seconds and least.memory < network.memory
    assert network.seconds < planned(small, tmp_path, estimation=EstimationSettings(ensemble=3)).seconds
    moved = planned(small, tmp_path, preprocessing=PreprocessingSettings(motion_correction="rigid"))
    assert network.seconds < moved.seconds and "Motion correction" in moved.steps


# meanwhile


@given(st.floats(0, 1e7))
def test_a_rough_time_is_near_what_it_tells_of(seconds):
    number, unit = rough_time(seconds).split()
    told = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
    assert abs(told - seconds) <= max(10, 0.5 * 60 if unit == "min" else 0, 0.06 * seconds)


def test_the_time_left_falls_and_is_corrected_by_what_runs_took(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    schedule = Schedule({"a": 600.0, "b": 600.0, "c": 1200.0})
    assert schedule.title("b") == "b (run 2 of 3)" and schedule.title("other") == "other"
    schedule.begin("a")
    assert schedule.left() == "about 40 min left"
    now[0] = 300.0
    assert schedule.left() == "about 35 min left"
    # Twice as long as expected, so what is left will take twice as long too.
    now[0] = 1200.0
    schedule.end("a")
    schedule.begin("b")
    assert schedule.left() == "about 60 min left"
    now[0] += 1200.0
    schedule.end("b")
    schedule.begin("c")
    assert schedule.left() == "about 40 min left"
    now[0] += 10_000.0
    assert schedule.left() == ""


def test_nothing_is_said_of_a_schedule_that_is_not_known():
    assert Schedule().title("sub-01") == "sub-01" and Schedule().left() == ""
    assert Schedule({"sub-01": 60.0}).title("sub-01") == "sub-01"


def test_every_stage_is_a_line_with_the_place_of_its_run(app, tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02", "sub-03"), tmp_path / "out"
    assert app.quick(made, out, "--participant-label", "02").code == 0
    call = app.quick(made, out)
    for place, name in ((1, "sub-01"), (2, "sub-03")):
        for stage in ("reading", "denoising", "estimation by Least squares"):
            assert f"{name} (run {place} of 2): {stage}" in call.out
    assert "sub-02 (run" not in call.out


# at the end


def test_the_end_is_a_table_of_the_numbers_in_the_files(app, tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    made.image(
        "sub-03/dwi/sub-03_dwi", data=0 * body(), bvals=(0.0, 0.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0)
    )
    call = app.quick(made, out)
    assert call.code == 1
    with (out / "sub-01/dwi/sub-01_desc-ivim_qc.tsv").open() as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    cells = {
        words[0]: words[1:]
        for line in call.out.splitlines()
        if line.startswith("│") and (words := [cell.strip() for cell in line.strip("│").split("│")])
    }
    expected = [100 * float(row["f_median"]), 1e3 * float(row["d_median"]), 1e3 * float(row["dstar_median"])]
    assert cells["sub-01"][0] == row["adequacy"]
    assert [float(cell) for cell in cells["sub-01"][1:4]] == pytest.approx(expected, rel=6e-3)
    assert float(cells["sub-01"][4]) == pytest.approx(100 * float(row["flagged_share"]), abs=0.06)
    assert cells["sub-03"] == ["failed", "", "", "", ""]
    assert list(cells) == ["sub-01", "sub-02", "sub-03"]
    log = next((out / "logs").iterdir()).read_text()
    assert f"sub-01, {row['adequacy']}, {cells['sub-01'][1]}" in log


def test_runs_that_were_skipped_are_in_the_table_too(app, tmp_path):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    tables = [
        [line for line in app.quick(made, out).out.splitlines() if line.startswith("│")] for _ in range(2)
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 1
