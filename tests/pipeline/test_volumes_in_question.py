"""What the app does with volumes that do not fit: table, report, flags and exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from app_runs import BVALS, App, add_run, body, leave_out_figures
from bids_datasets import Dataset


@pytest.fixture
def app(capsys, monkeypatch) -> App:
    leave_out_figures(monkeypatch)
    return App(capsys)


def made(root: Path, data: np.ndarray, bvals=BVALS) -> Dataset:
    found = Dataset(root)
    add_run(found, "sub-01", data=data, bvals=tuple(bvals))
    return found


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "sub-01/dwi/sub-01_desc-volumes_qc.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def marker(out: Path) -> dict:
    return json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())


def brighter_first() -> np.ndarray:
    data = body()
    data[..., 0] *= 1.5
    return data


def test_a_first_volume_out_of_steady_state_is_left_out_and_shown(app, tmp_path):
    call = app.quick(made(tmp_path / "bids", brighter_first()), tmp_path / "out")
    assert call.code == 0, call.text
    assert "not in steady state" in call.err
    first, *others = rows(tmp_path / "out")
    assert (first["volume"], first["found"], first["used"]) == ("0", "not in steady state", "no")
    assert {row["found"] for row in others} == {"nothing"} and {row["used"] for row in others} == {"yes"}
    columns = json.loads((tmp_path / "out/sub-01/dwi/sub-01_desc-volumes_qc.json").read_text())
    assert set(first) < set(columns)
    record, selection, *_ = marker(tmp_path / "out")["PreprocessingSteps"]
    assert record["VolumesInQuestion"] == selection["VolumesLeftOut"] == [0]
    page = (tmp_path / "out/sub-01.html").read_text()
    assert "Of 8 volumes 1 in question; 1 volume did not go into the maps." in page


def test_good_volumes_are_told_in_a_sentence(app, tmp_path):
    assert app.quick(made(tmp_path / "bids", body()), tmp_path / "out").code == 0
    assert {row["found"] for row in rows(tmp_path / "out")} == {"nothing"}
    assert "Of 8 volumes none in question; 0 volumes did not" in (tmp_path / "out/sub-01.html").read_text()


def test_volumes_are_left_out_by_number_also_of_one_run(app, tmp_path):
    dataset = made(tmp_path / "bids", brighter_first())
    add_run(dataset, "sub-01_run-2")
    options = ("--ignore-volumes", "0", "run-2:3", "run-3:4", "99")
    call = app.quick(dataset, tmp_path / "out", *options)
    assert call.code == 0, call.text
    assert "steady state" not in call.text
    assert "--ignore-volumes 99: the series has 8 volumes" in call.err
    assert [row["volume"] for row in rows(tmp_path / "out") if row["used"] == "no"] == ["0"]
    other = json.loads((tmp_path / "out/sub-01/dwi/sub-01_run-2_desc-ivim_qc.json").read_text())
    assert other["PreprocessingSteps"][1]["VolumesLeftOut"] == [0, 3]
    again = app.quick(dataset, tmp_path / "out", "--ignore-volumes", "1")
    assert again.code == 64 and "other settings" in again.err


def test_words_that_are_no_volumes_are_refused(app, tmp_path):
    for word in ("first", "run-2:", "1.5", ":3"):
        call = app.quick(made(tmp_path / word / "bids", body()), tmp_path / "out", "--ignore-volumes", word)
        assert call.code == 64
        assert "--ignore-volumes" in call.err


def test_a_table_that_cannot_be_right_ends_the_run(app, tmp_path):
    call = app.quick(made(tmp_path / "bids", body(bvals=BVALS[::-1])), tmp_path / "out")
    assert call.code == 65
    assert "in reverse" in call.err and "sub-01_dwi.nii.gz" in call.err
    assert not list((tmp_path / "out").glob("sub-01/dwi/*"))


def test_a_contradiction_warns_or_stops(app, tmp_path):
    real = (0.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 400.0, 800.0)
    dataset = made(tmp_path / "bids", body(bvals=real), [0 if b <= 50 else b for b in real])
    call = app.quick(dataset, tmp_path / "out")
    assert call.code == 0
    assert "volumes 0-4 all have b = 0" in call.err
    stopped = app.quick(dataset, tmp_path / "other", "--on-contradiction", "stop")
    assert stopped.code == 65
    assert "volumes 0-4 all have b = 0" in stopped.err
