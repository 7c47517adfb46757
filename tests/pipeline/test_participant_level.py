"""What a call does to the disk and says about it: through ``main``, on datasets made in a moment."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import signal
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import (
    BVALS,
    QUICK,
    TINY_TRAINING,
    TRUTH,
    App,
    add_mask,
    add_run,
    body,
    dataset,
    files,
    leave_out_figures,
    stamps,
    values,
)
from bids_datasets import Dataset

from sicnn_app.derivatives import dataset as dataset_module
from sicnn_app.lsq import estimate as lsq_estimate
from sicnn_app.pipeline import workplace
from sicnn_app.report import html
from sicnn_app.sicnn import iterate
from sicnn_app.system.locks.folders import MADE_FILE
from sicnn_app.system.locks.shared import locked_folder, shared_folder

STEM = "sub-01/dwi/sub-01"


@pytest.fixture
def app(capsys):
    return App(capsys)


@pytest.fixture(autouse=True)
def reports_without_figures(monkeypatch):
    """Drawing takes most of the time and has tests of its own."""
    leave_out_figures(monkeypatch)


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """A handful of optimiser steps where the app takes hundreds."""
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 4)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 3)


@pytest.fixture
def broken_estimator(monkeypatch):
    """An estimator that meets a bug for the runs whose largest signal is above a limit."""
    original = lsq_estimate.estimate

    def estimate(signals, *args, **options):
        if signals.max() > 5000:
            raise IndexError("axis 7 is out of bounds\nand more")
        return original(signals, *args, **options)

    monkeypatch.setattr(lsq_estimate, "estimate", estimate)


def metadata(out: Path, stem: str = STEM) -> dict:
    return json.loads((out / f"{stem}_model-ivim_param-f_dwimap.json").read_text())


def parameters(out: Path, stem: str = STEM) -> dict:
    return metadata(out, stem)["Model"]["Parameters"]


def inside(out: Path, stem: str = STEM) -> np.ndarray:
    return np.asarray(nib.load(out / f"{stem}_desc-body_mask.nii.gz").dataobj) > 0


def check_maps(out: Path, stem: str = STEM, shape: tuple[int, ...] = (12, 10, 2)) -> None:
    """Every map has the shape, is finite in the mask and NaN outside of it."""
    mask = inside(out, stem)
    assert mask.shape == shape
    assert mask.any()
    for label in ("f", "d", "dstar", "s0", "rmse"):
        found = values(out, stem, label)
        assert found.shape == shape
        assert found.dtype == np.float32
        assert np.array_equal(np.isfinite(found), mask)


# success


def test_a_run_becomes_maps_near_the_truth_and_nothing_unfinished_stays(app, tmp_path):
    out = tmp_path / "out"
    call = app.quick(dataset(tmp_path / "bids"), out)
    assert call.code == 0, call.text
    check_maps(out)
    medians = {label: np.nanmedian(values(out, STEM, label)) for label in ("f", "d", "dstar", "s0")}
    # SNR 100: the medians of 96 voxels scatter by a few per cent, D* by some more.
    assert medians["f"] == pytest.approx(TRUTH["f"], rel=0.1)
    assert medians["d"] == pytest.approx(TRUTH["d"], rel=0.05)
    assert medians["dstar"] == pytest.approx(TRUTH["dstar"], rel=0.25)
    assert medians["s0"] == pytest.approx(TRUTH["s0"], rel=0.02)
    assert not (out / ".work").exists()
    assert (out / "sub-01.html").exists()
    assert "runs: 1 written, 0 skipped, 0 failed" in call.out
    log = next((out / "logs").iterdir())
    assert str(log) in call.out
    assert "sub-01: written" in log.read_text()


def test_a_warning_is_said_once_and_stands_in_the_log(app, tmp_path):
    made = dataset(tmp_path / "bids")
    made.write("sub-01/dwi/sub-01_dwi.json", "{broken")
    call = app.quick(made, tmp_path / "out")
    assert call.code == 0
    said = [line for line in call.err.splitlines() if "sub-01_dwi.json" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: ")
    assert "sub-01_dwi.json" in next((tmp_path / "out" / "logs").iterdir()).read_text()


def test_the_main_method_runs_through_all_its_steps(app, tmp_path):
    out = tmp_path / "out"
    call = app(dataset(tmp_path / "bids"), out, *TINY_TRAINING, "-v")
    assert call.code == 0, call.text
    check_maps(out)
    assert "of at most" in call.out
    used = parameters(out)
    assert used["method"] == "si-cnn"
    assert used["random_seed"] == 0
    with (out / f"{STEM}_desc-training_qc.tsv").open() as stream:
        assert len(list(csv.DictReader(stream, delimiter="\t"))) >= 1


@pytest.mark.parametrize("method", ["di-cnn", "cnn"])
def test_the_other_methods_run(app, tmp_path, method):
    out = tmp_path / "out"
    call = app(dataset(tmp_path / "bids"), out, *TINY_TRAINING, "--method", method)
    assert call.code == 0, call.text
    check_maps(out)
    assert parameters(out)["method"] == method


def test_an_ensemble_writes_its_spread(app, tmp_path):
    made, out = dataset(tmp_path / "ds", "sub-01"), tmp_path / "out"
    options = (*TINY_TRAINING, "--ensemble", "3", "--refinement", "none")
    assert app(made, out, *options).code == 0
    plan = app(made, out, *options, "--dry-run", "-v", "--overwrite")
    used = parameters(out)
    assert used["ensemble"] == 3
    # Two volumes at b = 0 and one at each other b-value are too few to draw from.
    assert used["ensemble_resampling_per_b_value"] == ["denoised noise"] * len(set(BVALS))
    for label, factor in used["ensemble_spread_factor"].items():
        path = out / f"{STEM}_model-ivim_param-{label}_desc-std_dwimap.nii.gz"
        assert path.name in plan.out
        spread, mask = nib.load(path).get_fdata(), np.isfinite(values(out, STEM, "f"))
        assert np.isfinite(spread[mask]).all() and (spread[mask] >= 0).all() and spread[mask].max() > 0
        assert np.isnan(spread[~mask]).all()
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert f"times {factor:g}" in sidecar["Description"]
    assert app(made, out, *TINY_TRAINING).code == 64


def test_maps_are_refined_with_what_was_measured_and_say_how_sure_they_are(app, tmp_path):
    made, out = dataset(tmp_path / "ds", "sub-01"), tmp_path / "out"
    assert app(made, out, *TINY_TRAINING, "--denoise", "mppca").code == 0
    plan = app(made, out, *TINY_TRAINING, "--denoise", "mppca", "--dry-run", "-v", "--overwrite")
    assert parameters(out)["refinement_evidence"] == "averaged signals before denoising"
    for label in ("f", "d", "dstar"):
        path = out / f"{STEM}_model-ivim_param-{label}_desc-std_dwimap.nii.gz"
        assert path.name in plan.out
        spread, mask = nib.load(path).get_fdata(), np.isfinite(values(out, STEM, label))
        assert (spread[mask] > 0).all() and np.isnan(spread[~mask]).all()
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert "posterior" in sidecar["Description"]
    report = (out / "sub-01.html").read_text()
    assert "averaged signals before denoising" in report and "Dempster" in report
    assert app(made, out, *TINY_TRAINING, "--denoise", "mppca", "--refinement", "none").code == 64


def test_the_seed_decides_the_maps(app, tmp_path):
    made = dataset(tmp_path / "bids")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert app(made, tmp_path / name, *TINY_TRAINING, "--random-seed", seed).code == 0
    maps = {name: values(tmp_path / name, STEM, "f") for name in "abc"}
    assert np.array_equal(maps["a"], maps["b"], equal_nan=True)
    assert not np.array_equal(maps["a"], maps["c"], equal_nan=True)


def test_the_maps_of_a_subject_do_not_depend_on_who_else_is_processed(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    assert app(made, tmp_path / "both", *TINY_TRAINING).code == 0
    assert app(made, tmp_path / "one", *TINY_TRAINING, "--participant-label", "02").code == 0
    for label in ("f", "d", "dstar"):
        name = f"sub-02/dwi/sub-02_model-ivim_param-{label}_dwimap.nii.gz"
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


# what to process


def test_labels_choose_runs_and_a_label_without_any_is_a_warning(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_acq-a_run-1", "sub-01_acq-b_run-1", "sub-02_acq-a_run-2")
    call = app.quick(
        made, tmp_path / "out", "--participant-label", "sub-01", "03", "--acquisition_label", "a"
    )
    assert call.code == 0
    assert "warning: --participant-label 03 matches no DWI run" in call.err
    images = [path.name for path in (tmp_path / "out").rglob("*param-f_dwimap.nii.gz")]
    assert images == ["sub-01_acq-a_run-1_model-ivim_param-f_dwimap.nii.gz"]


def test_a_filter_file_chooses_runs(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_acq-a", "sub-01_acq-b")
    path = made.write("../filter.json", json.dumps({"dwi": {"acquisition": "b"}, "bold": {"task": "x"}}))
    assert app.quick(made, tmp_path / "out", "--bids-filter-file", path).code == 0
    assert [path.name for path in (tmp_path / "out").rglob("*_qc.json") if "ivim_qc" in path.name] == [
        "sub-01_acq-b_desc-ivim_qc.json"
    ]


@pytest.mark.parametrize(
    "options", [("--participant-label", "99"), ("--session-id", "1"), ("--run-label", "5")]
)
def test_a_selection_without_any_run_is_18(app, tmp_path, options):
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", *options)
    assert call.code == 18
    assert call.err.count("\n") == 1
    assert options[1] in call.err
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_dwi_is_18(app, tmp_path):
    made = dataset(tmp_path / "bids")
    shutil.rmtree(made.root / "sub-01" / "dwi")
    assert app.quick(made, tmp_path / "out").code == 18


def test_sessions_get_a_report_each(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1")
    assert app.quick(made, tmp_path / "out").code == 0
    reports = sorted(path.name for path in (tmp_path / "out").glob("*.html"))
    assert reports == ["sub-01_ses-1.html", "sub-01_ses-2.html", "sub-02_ses-1.html"]
    assert "sub-01_ses-2_model-ivim" not in (tmp_path / "out" / reports[0]).read_text()
    for session in "12":
        check_maps(tmp_path / "out", f"sub-01/ses-{session}/dwi/sub-01_ses-{session}")


def test_runs_that_differ_in_entities_stay_apart(app, tmp_path):
    names = ("sub-01_acq-a_dir-AP_run-1", "sub-01_acq-a_dir-AP_run-01", "sub-01_acq-b_dir-PA_run-1")
    assert app.quick(dataset(tmp_path / "bids", *names), tmp_path / "out").code == 0
    maps = [values(tmp_path / "out", f"sub-01/dwi/{name}", "s0") for name in names]
    assert not np.array_equal(maps[0], maps[1], equal_nan=True)
    assert [path.name for path in (tmp_path / "out").glob("*.html")] == ["sub-01.html"]


def test_combined_runs_become_one(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_acq-a_run-1", "sub-01_acq-b_run-1")
    call = app.quick(made, tmp_path / "out", "--combine", "acquisition")
    assert call.code == 0
    stem = "sub-01/dwi/sub-01_run-1"
    check_maps(tmp_path / "out", stem)
    assert parameters(tmp_path / "out", stem)["BValueRepeats"] == [4, 2, 2, 2, 2, 2, 2]
    assert len(metadata(tmp_path / "out", stem)["Sources"]) >= 2
    assert not list((tmp_path / "out").rglob("*acq-*"))


def test_runs_on_different_grids_cannot_be_combined(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_acq-a")
    add_run(made, "sub-01_acq-b", data=body((12, 11, 2)))
    call = app.quick(made, tmp_path / "out", "--combine", "acquisition")
    assert call.code == 65
    assert "different grids" in call.err


def test_runs_of_another_gain_are_brought_to_one_scale(app, tmp_path):
    made = Dataset(tmp_path / "bids")
    low, high = (0.0, 20.0, 50.0, 100.0), (0.0, 200.0, 400.0, 800.0)
    for number, (bvals, gain) in enumerate(((low, 1.0), (high, 1.3)), start=1):
        add_run(made, f"sub-01_run-{number}", data=gain * body(bvals=bvals, seed=number), bvals=bvals)
    call = app.quick(made, tmp_path / "out", "--combine", "run")
    assert call.code == 0
    assert (
        "differ by a gain, the same everywhere: the signals of sub-01_run-2_dwi.nii.gz are divided by 1."
        in call.err
    )
    for name in ("f", "d", "dstar", "s0"):
        assert np.nanmedian(values(tmp_path / "out", STEM, name)) == pytest.approx(TRUTH[name], rel=0.05)
    step = parameters(tmp_path / "out", STEM)["PreprocessingSteps"][0]
    assert step["Name"] == "Scale of the joined images"
    assert step["Gains"] == pytest.approx({"sub-01_run-2_dwi.nii.gz": 1.3}, rel=0.01)
    assert (
        "(1) Scale of the joined images: Gains found at shared b-values"
        in (tmp_path / "out/sub-01.html").read_text()
    )


def test_different_acquisitions_are_refused_and_the_others_go_on(app, tmp_path):
    names = [f"sub-{subject}_run-{run}" for subject in ("01", "02") for run in (1, 2)]
    made = dataset(tmp_path / "bids", *names)
    for run, echo_time in ((1, 0.055), (2, 0.085)):
        made.write(f"sub-01/dwi/sub-01_run-{run}_dwi.json", json.dumps({"EchoTime": echo_time}))
    call = app.quick(made, tmp_path / "out", "--combine", "run")
    assert call.code == 1
    assert "EchoTime 0.055 in sub-01_run-1_dwi.nii.gz, 0.085 in sub-01_run-2_dwi.nii.gz" in call.err
    assert not (tmp_path / "out/sub-01").exists()
    check_maps(tmp_path / "out", "sub-02/dwi/sub-02")


# shapes and values


@pytest.mark.parametrize("shape", [(12, 10, 1), (13, 7, 3), (9, 31, 1)])
def test_single_slices_and_odd_sizes(app, tmp_path, shape):
    made = dataset(tmp_path / "bids", shape=shape)
    for name, options in (("lsq", QUICK), ("cnn", TINY_TRAINING)):
        call = app(made, tmp_path / name, *options)
        assert call.code == 0, call.text
        check_maps(tmp_path / name, shape=shape)


def test_a_slice_outside_the_mask_has_no_values(app, tmp_path):
    made = dataset(tmp_path / "bids", shape=(12, 10, 3))
    mask = np.zeros((12, 10, 3))
    mask[3:-3, 3:-3, [0, 2]] = 1
    given = add_mask(tmp_path / "masks", "sub-01", mask)
    for name, options in (("lsq", QUICK), ("cnn", TINY_TRAINING)):
        assert app(made, tmp_path / name, "-d", given, *options).code == 0
        assert np.array_equal(inside(tmp_path / name), mask > 0)
        assert np.isnan(values(tmp_path / name, STEM, "f")[:, :, 1]).all()


def test_without_b_0_the_lowest_b_value_is_used_and_said(app, tmp_path):
    bvals = (10.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0)
    made = dataset(tmp_path / "bids")
    add_run(made, "sub-01", data=body(bvals=bvals), bvals=bvals)
    call = app.quick(made, tmp_path / "out")
    assert call.code == 0
    assert "no volume at b = 0" in call.err
    assert parameters(tmp_path / "out")["BValuesUsed"] == list(bvals)


def test_high_b_values_are_left_out_and_named(app, tmp_path):
    bvals = (*BVALS, 2000.0)
    made = dataset(tmp_path / "bids")
    add_run(made, "sub-01", data=body(bvals=bvals), bvals=bvals)
    call = app.quick(made, tmp_path / "out", "--ignore-bvals", "20")
    assert call.code == 0
    assert "b = 2000 s/mm^2" in call.err
    assert parameters(tmp_path / "out")["BValuesUsed"] == [0, 50, 100, 200, 400, 800]


def test_an_all_nan_volume_and_trailing_bytes_are_warnings(app, tmp_path):
    data = body()
    data[..., 3] = np.nan
    path = add_run(dataset(tmp_path / "bids"), "sub-01", data=data[:, :, :, None, :].swapaxes(3, 4))
    with path.open("ab") as stream:
        stream.write(b"rest")
    call = app.quick(tmp_path / "bids", tmp_path / "out")
    assert call.code == 0, call.text
    assert "only NaN" in call.err
    assert "gzip" in call.err
    check_maps(tmp_path / "out")


# inputs of other places


def test_b_values_of_a_trace_image_from_the_command_line(app, tmp_path):
    made = dataset(tmp_path / "bids")
    table = made.root / "sub-01" / "dwi" / "sub-01_dwi.bval"
    other = tmp_path / "scanner b values.txt"
    table.rename(other)
    call = app.quick(made, tmp_path / "without")
    assert call.code == 66
    assert "--bvals" in call.err
    assert app.quick(made, tmp_path / "out", "--bvals", other).code == 0
    check_maps(tmp_path / "out")
    assert parameters(tmp_path / "out")["BValueRepeats"] == [2, 1, 1, 1, 1, 1, 1]


def test_a_mask_of_another_dataset_is_used_and_named(app, tmp_path):
    made = dataset(tmp_path / "bids")
    mask = np.zeros((12, 10, 2))
    mask[4:8, 3:6] = 1
    given = add_mask(tmp_path / "ROI s", "sub-01", mask)
    assert app.quick(made, tmp_path / "out", "-d", given).code == 0
    assert np.array_equal(inside(tmp_path / "out"), mask > 0)
    links = json.loads((tmp_path / "out" / "dataset_description.json").read_text())["DatasetLinks"]
    assert links["ROI-s"] == given.resolve().as_uri()
    sources = json.loads((tmp_path / "out" / f"{STEM}_desc-body_mask.json").read_text())["Sources"]
    assert "bids:ROI-s:sub-01/dwi/sub-01_desc-body_mask.nii.gz" in sources


@pytest.mark.parametrize(
    ("mask", "part"),
    [(np.ones((12, 10, 3)), "shape"), (np.zeros((12, 10, 2)), "empty"), (np.ones((12, 10)), "shape")],
)
def test_a_mask_that_does_not_fit_is_65(app, tmp_path, mask, part):
    given = add_mask(tmp_path / "masks", "sub-01", mask)
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "-d", given)
    assert call.code == 65
    assert part in call.err
    assert not (tmp_path / "out" / "sub-01" / "dwi").exists()


@pytest.mark.parametrize("options", [("-d", "none"), ("-d", "x=none"), ("--bvals", "none")])
def test_inputs_that_do_not_exist_are_66(app, tmp_path, options):
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", options[0], options[1])
    assert call.code == 66
    assert not (tmp_path / "out").exists()


# bad data


def test_no_dataset_is_66(app, tmp_path):
    call = app.quick(tmp_path / "none", tmp_path / "out")
    assert (call.code, call.err.count("\n")) == (66, 1)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_is_no_bids_dataset_is_16_and_can_be_overridden(app, tmp_path, content):
    made = dataset(tmp_path / "bids")
    (made.root / "dataset_description.json").unlink()
    if content is not None:
        made.write("dataset_description.json", content)
    call = app.quick(made, tmp_path / "out")
    assert call.code == 16
    assert "--skip-bids-validation" in call.err
    if content is None:
        assert app.quick(made, tmp_path / "out", "--skip-bids-validation").code == 0


def spoil(kind: str, made, name: str) -> None:
    """Add a run that is broken in one way."""
    bvals, data = BVALS, body()
    if kind == "count":
        bvals = BVALS[:-1]
    elif kind == "few":
        bvals = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 800.0)
    elif kind == "high":
        bvals = tuple(b + 300 for b in BVALS)
    elif kind == "complex":
        data = data.astype(np.complex64)
    elif kind == "zero":
        data = np.zeros_like(data)
    elif kind == "nan":
        data = np.full_like(data, np.nan)
    elif kind == "five":
        data = np.stack([data, data], axis=-1)
    path = add_run(made, name, data=data, bvals=bvals)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "text":
        path.write_bytes(gzip.compress(b"no image"))
    elif kind == "words":
        path.with_name(f"{name}_dwi.bval").write_text("0 ten 20")
    elif kind == "annex":
        path.unlink()
        path.symlink_to("../../.git/annex/objects/none")


@pytest.mark.parametrize(
    "kind", ["count", "few", "high", "complex", "zero", "nan", "five", "truncated", "text", "words"]
)
def test_bad_data_is_65_in_a_line_that_names_the_file(app, tmp_path, kind):
    made = dataset(tmp_path / "bids")
    shutil.rmtree(made.root / "sub-01")
    spoil(kind, made, "sub-01")
    call = app.quick(made, tmp_path / "out")
    assert call.code == 65, call.text
    errors = [line for line in call.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "sub-01" in errors[0]
    assert "Traceback" not in call.text
    assert not (tmp_path / "out" / "sub-01" / "dwi").exists()
    assert not (tmp_path / "out" / ".work").exists()


def test_content_that_was_not_fetched_is_66_and_names_the_command(app, tmp_path):
    made = dataset(tmp_path / "bids")
    shutil.rmtree(made.root / "sub-01")
    spoil("annex", made, "sub-01")
    call = app.quick(made, tmp_path / "out")
    assert call.code == 66
    assert "datalad get" in call.err


def test_a_bad_run_leaves_the_others_alone(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-03")
    spoil("count", made, "sub-02")
    out = tmp_path / "out"
    call = app.quick(made, out)
    assert call.code == 1
    check_maps(out)
    check_maps(out, "sub-03/dwi/sub-03")
    assert not (out / "sub-02" / "dwi").exists()
    assert "runs: 2 written, 0 skipped, 1 failed" in call.out
    assert "failed: sub-02: " in call.out
    report = (out / "sub-02.html").read_text()
    assert "8 volumes" in report
    assert "7 b-values" in report
    # Terminal and log give the path to look at; a page that is handed on gives none of this machine.
    assert f"check {made.root}/sub-02/dwi/" in call.text
    assert "check bids:raw:sub-02/dwi/" in report
    assert str(tmp_path) not in report


@pytest.mark.parametrize(
    ("kinds", "code"), [(("count", "words"), 65), (("annex", "annex"), 66), (("count", "annex"), 1)]
)
def test_when_all_runs_fail_one_reason_is_the_code(app, tmp_path, kinds, code):
    made = dataset(tmp_path / "bids")
    shutil.rmtree(made.root / "sub-01")
    for number, kind in enumerate(kinds, start=1):
        spoil(kind, made, f"sub-0{number}")
    assert app.quick(made, tmp_path / "out").code == code


def test_stopping_at_the_first_failure(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-04")
    spoil("count", made, "sub-02")
    spoil("annex", made, "sub-03")
    call = app.quick(made, tmp_path / "out", "--stop-on-first-crash")
    assert call.code == 65
    assert "runs: 1 written, 0 skipped, 1 failed" in call.out
    assert (tmp_path / "out" / "sub-01" / "dwi").exists()
    assert not (tmp_path / "out" / "sub-04").exists()


# bugs


def test_a_bug_in_one_run_is_70_with_the_place_of_the_log(app, tmp_path, broken_estimator):
    made = dataset(tmp_path / "bids")
    add_run(made, "sub-01", data=10 * body())
    call = app.quick(made, tmp_path / "out")
    assert call.code == 70
    log = next((tmp_path / "out" / "logs").iterdir())
    error = next(line for line in call.err.splitlines() if line.startswith("error: "))
    assert "IndexError: axis 7 is out of bounds" in error
    assert str(log) in error
    assert "Traceback" not in call.text
    assert "Traceback" in log.read_text()
    assert ", in estimate\n" in log.read_text()


def test_a_bug_shows_its_traceback_with_vv(app, tmp_path, broken_estimator):
    made = dataset(tmp_path / "bids", "sub-01")
    add_run(made, "sub-02", data=10 * body())
    call = app.quick(made, tmp_path / "out", "-vv")
    assert call.code == 1
    assert "Traceback" in call.err
    check_maps(tmp_path / "out")


def test_bad_data_show_a_traceback_with_vv_only(app, tmp_path):
    made = dataset(tmp_path / "bids")
    spoil("count", made, "sub-01")
    assert "Traceback" in app.quick(made, tmp_path / "out", "-vv").err
    assert "Traceback" not in app.quick(made, tmp_path / "out", "-v").err


def test_too_little_memory_is_75(app, tmp_path, monkeypatch):
    def estimate(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(lsq_estimate, "estimate", estimate)
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out")
    assert call.code == 75
    assert "out of memory" in call.err


def test_a_report_that_fails_is_no_success_and_stops_no_other_run(app, tmp_path, monkeypatch):
    original = html.draw_run

    def draw(run):
        if run.name == "sub-01":
            raise ValueError("cannot draw")
        return original(run)

    monkeypatch.setattr(html, "draw_run", draw)
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    call = app.quick(made, tmp_path / "out")
    assert call.code == 1
    assert "the report of sub-01" in call.err
    check_maps(tmp_path / "out")
    assert (tmp_path / "out" / "sub-02.html").exists()
    monkeypatch.setattr(html, "draw_run", original)
    again = app.quick(made, tmp_path / "out")
    assert again.code == 0
    assert "2 skipped" in again.out
    assert (tmp_path / "out" / "sub-01.html").exists()


# again


def test_a_second_run_skips_what_is_finished_and_changes_nothing(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    assert app.quick(made, tmp_path / "out").code == 0
    before = stamps(tmp_path / "out")
    call = app.quick(made, tmp_path / "out", "--omp-nthreads", "2", "-w", tmp_path / "work", "-v")
    assert call.code == 0
    assert call.out.count("skipped, finished before") == 2
    assert stamps(tmp_path / "out") == before


def test_an_incomplete_run_is_done_again(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    assert app.quick(made, tmp_path / "out").code == 0
    lost = tmp_path / "out" / f"{STEM}_model-ivim_param-d_dwimap.nii.gz"
    content = lost.read_bytes()
    lost.unlink()
    call = app.quick(made, tmp_path / "out")
    assert "runs: 1 written, 1 skipped" in call.out
    assert lost.read_bytes() == content


@pytest.mark.parametrize("change", ["setting", "image", "bval"])
def test_outputs_of_other_settings_or_sources_are_refused_before_anything_starts(app, tmp_path, change):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    out = tmp_path / "out"
    assert app.quick(made, out, "--participant-label", "02").code == 0
    before = files(out)
    options = ["--max-bval", "500"] if change == "setting" else []
    if change == "image":
        add_run(made, "sub-02", data=body(seed=99))
    elif change == "bval":
        made.write("sub-02/dwi/sub-02_dwi.bval", "0 0 20 50 100 200 400 790")
    call = app.quick(made, out, *options)
    assert call.code == 64
    assert "sub-02" in call.err
    assert "--overwrite" in call.err
    assert files(out) == before
    replaced = app.quick(made, out, "--overwrite", *options)
    assert replaced.code == 0
    changed = files(out)
    marker = "sub-02/dwi/sub-02_model-ivim_param-d_dwimap.nii.gz"
    assert changed[marker] != before[marker]
    assert app.quick(made, out, *options).out.count("skipped") == 3


def test_overwriting_leaves_no_file_of_the_old_settings(app, tmp_path):
    made = dataset(tmp_path / "bids")
    assert app.quick(made, tmp_path / "out").code == 0
    assert (tmp_path / "out" / f"{STEM}_desc-body_mask.nii.gz").exists()
    assert app.quick(made, tmp_path / "out", "--anatomy", "brain", "--overwrite").code == 0
    assert not (tmp_path / "out" / f"{STEM}_desc-body_mask.nii.gz").exists()
    assert (tmp_path / "out" / f"{STEM}_desc-brain_mask.nii.gz").exists()


# where to write


@pytest.mark.parametrize("place", ["", "sub-01", "out", "derivatives", "code/out"])
def test_an_output_inside_the_dataset_is_refused(app, tmp_path, place):
    made = dataset(tmp_path / "bids")
    before = files(made.root)
    call = app.quick(made, made.root / place)
    assert call.code == 64
    assert "derivatives" in call.err
    assert files(made.root) == before


def test_an_output_below_derivatives_is_accepted_and_links_back(app, tmp_path):
    made = dataset(tmp_path / "bids")
    out = made.root / "derivatives" / "sicnn"
    assert app.quick(made, out).code == 0
    check_maps(out)
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]["raw"] == "../.."
    assert "1 skipped" in app.quick(made, out).out


def test_an_output_that_is_a_file_is_73(app, tmp_path):
    (tmp_path / "out").write_text("")
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out")
    assert call.code == 73
    assert call.err.count("\n") == 1


def test_an_output_that_is_another_raw_dataset_is_refused(app, tmp_path):
    made, other = dataset(tmp_path / "bids"), dataset(tmp_path / "other")
    before = files(other.root)
    assert app.quick(made, other.root).code == 64
    assert files(other.root) == before


def test_a_work_directory_of_ones_own(app, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine").write_text("")
    assert app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "-w", work).code == 0
    assert [path.name for path in work.iterdir()] == ["mine"]
    assert not (tmp_path / "out" / ".work").exists()


def interrupted(checkpoint: Path) -> None:
    """Leave a checkpoint as a stopped process does."""
    with pytest.raises(KeyboardInterrupt), locked_folder(checkpoint.parent, keep=[checkpoint.name]):
        checkpoint.write_text("")
        raise KeyboardInterrupt


def test_remains_of_killed_jobs_go_and_checkpoints_only_on_request(app, tmp_path):
    made, work = dataset(tmp_path / "bids"), tmp_path / "out" / ".work"
    remains = work / "write-elsewhere-1-abcdefgh"
    remains.mkdir(parents=True)
    mark = {"host": "elsewhere", "pid": 1, "since": "2026-01-01", "device": 1, "token": "x"}
    (remains / ".owner").write_text(json.dumps(mark))
    (remains / "half.nii.gz").write_text("")
    checkpoint = work / "run-sub-09-0123abcd" / "training.pt"
    interrupted(checkpoint)
    assert app.quick(made, tmp_path / "out").code == 0
    # Its computer may be any, so that it may be alive.
    assert remains.exists()
    os.utime(remains / ".owner", (0, 0))
    assert app.quick(made, tmp_path / "out").code == 0
    assert [path.name for path in work.iterdir()] == [checkpoint.parent.name]
    assert app.quick(made, tmp_path / "out", "--clean-workdir").code == 0
    assert not work.exists()


def test_remains_of_a_finished_run_go_when_it_is_skipped(app, tmp_path):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(made, out).code == 0
    interrupted(shared_folder(out / ".work", "run-sub-01", out) / "training.pt")
    assert "skipped" in app.quick(made, out).out
    assert not (out / ".work").exists()


def test_a_clock_that_stands_still_keeps_no_call_from_its_log(app, tmp_path, monkeypatch):
    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr("sicnn_app.system.console.datetime", Still)
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert [app.quick(made, out).code for _ in range(2)] == [0, 0]
    assert len(list((out / "logs").iterdir())) == 2


def test_a_lock_of_the_output_that_another_job_holds_is_75(app, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "LOCK_TIMEOUT", 0.2)
    out, work = tmp_path / "out", tmp_path / "work"
    with locked_folder(shared_folder(work, "dataset", out)):
        call = app.quick(dataset(tmp_path / "bids"), out, "-w", work)
    assert call.code == 75
    assert f"pid {os.getpid()}" in call.err
    assert call.err.count("\n") == 1


@pytest.mark.parametrize(("held", "code"), [(["sub-01"], 1), (["sub-01", "sub-02"], 75)])
def test_runs_that_another_job_has_in_work_are_left_to_it(app, tmp_path, held, code):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    with ExitStack() as stack:
        for name in held:
            stack.enter_context(locked_folder(shared_folder(out / ".work", f"run-{name}", out)))
        call = app.quick(made, out)
    assert call.code == code
    for name in ("sub-01", "sub-02"):
        refused = re.search(rf"failed: {name}: .* held by another process", call.out) is not None
        assert refused == (name in held)
        assert (out / name).exists() == (name not in held)
        assert (out / f"{name}.html").exists() == (name not in held)
    assert app.quick(made, out).code == 0
    assert not (out / ".work").exists()


def interleave(monkeypatch, action) -> None:
    """Let something happen between the checks at the start of the next call and its work."""
    original = workplace.prepare_output

    def prepare_output(*arguments, **options):
        monkeypatch.setattr(workplace, "prepare_output", original)
        action()
        return original(*arguments, **options)

    monkeypatch.setattr(workplace, "prepare_output", prepare_output)


def test_a_run_that_another_job_finishes_meanwhile_is_not_done_again(app, tmp_path, monkeypatch):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    written = {}

    def other_job():
        assert app.quick(made, out).code == 0
        written.update(stamps(out / "sub-01"))

    interleave(monkeypatch, other_job)
    call = app.quick(made, out)
    assert call.code == 0
    assert "sub-01: skipped, another process finished it meanwhile" in call.out
    assert stamps(out / "sub-01") == written


def test_a_run_that_another_job_finishes_meanwhile_with_other_settings_is_refused(app, tmp_path, monkeypatch):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    interleave(monkeypatch, lambda: app.quick(made, out, "--max-bval", "500"))
    call = app.quick(made, out)
    assert call.code == 64
    assert "other settings" in call.err
    assert parameters(out)["BValuesUsed"][-1] == 400


def test_who_lost_its_run_to_another_job_publishes_nothing(app, tmp_path, monkeypatch):
    out = tmp_path / "out"
    original = lsq_estimate.estimate

    def estimate(*arguments, **options):
        (lock,) = out.glob(".work/run-sub-01-*/lock")
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 4711, "token": "theirs"}))
        return original(*arguments, **options)

    monkeypatch.setattr(lsq_estimate, "estimate", estimate)
    call = app.quick(dataset(tmp_path / "bids"), out)
    assert call.code == 75
    assert "taken over by another process (host elsewhere, pid 4711" in call.err
    assert not (out / "sub-01").exists()
    assert {path.name for path in out.glob(".work/*/*")} == {MADE_FILE, "lock"}


def test_a_report_that_lacks_a_finished_run_is_written_anew(app, tmp_path, monkeypatch):
    made, out = dataset(tmp_path / "bids", "sub-01_run-1", "sub-01_run-2"), tmp_path / "out"
    assert app.quick(made, out, "--run-label", "1").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(html, "build_report", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        assert app.quick(made, out).code == 75
    assert "run-sub-01_run-2" not in (out / "sub-01.html").read_text()
    call = app.quick(made, out)
    assert "2 skipped" in call.out
    assert "run-sub-01_run-2" in (out / "sub-01.html").read_text()
    assert not (out / ".work").exists()


def test_a_gpu_that_is_not_there_is_69_and_writes_nothing(app, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    call = app(dataset(tmp_path / "bids"), tmp_path / "out", "--method", "lsq", "--device", "cuda")
    assert call.code == 69
    assert not (tmp_path / "out").exists()
    auto = app(dataset(tmp_path / "bids"), tmp_path / "out", "--method", "lsq", "--device", "auto")
    assert auto.code == 0
    assert "on cpu (no CUDA device was found)" in auto.out


# other modes


def test_a_dry_run_writes_nothing_and_lists_what_a_run_writes(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_acq-a")
    made.write("sub-01/dwi/sub-01_acq-a_dwi.bvec", "\n".join(" ".join("1" * len(BVALS)) for _ in "xyz"))
    spoil("count", made, "sub-02")
    out = tmp_path / "out"
    call = app.quick(made, out, "--dry-run", "-v")
    assert call.code == 0
    assert not out.exists()
    assert "12 x 10 x 2" in call.out
    assert "0x2 20x1" in call.out
    assert app.quick(made, out, "--participant-label", "01").code == 0
    listed = {line.strip() for line in call.out.splitlines() if "/sub-01/" in line}
    # What belongs to the report is not listed.
    assert listed == {str(path) for path in (out / "sub-01" / "dwi").iterdir()}


def test_a_dry_run_of_nothing_is_18(app, tmp_path):
    assert app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "--dry-run", "--run-label", "9").code == 18


def test_the_methods_text_alone(app, tmp_path):
    out = tmp_path / "out"
    call = app(dataset(tmp_path / "bids"), out, "--boilerplate-only", "--preset", "supplement")
    assert call.code == 0
    assert "intravoxel incoherent motion" in call.out
    assert (out / "CITATION.md").read_text().startswith("# How to cite")
    assert not (out / "sub-01").exists()
    assert not (out / ".work").exists()


def test_reports_alone_need_no_dataset(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1")
    out = tmp_path / "out"
    assert app.quick(made, out).code == 0
    shutil.rmtree(made.root)
    first = (out / "sub-01_ses-1.html").read_bytes()
    for path in out.glob("*.html"):
        path.unlink()
    derivatives = {name: content for name, content in files(out).items() if not name.endswith(".html")}
    call = app(made.root, out, "--reports-only", "--participant-label", "01", "--session-id", "1")
    assert call.code == 0, call.text
    assert [path.name for path in out.glob("*.html")] == ["sub-01_ses-1.html"]
    assert (out / "sub-01_ses-1.html").read_bytes() == first
    assert app(made.root, out, "--reports-only").code == 0
    assert len(list(out.glob("*.html"))) == 3
    left = {name: content for name, content in files(out).items() if not name.endswith(".html")}
    logs = sorted(left.keys() - derivatives.keys())
    assert {name: left[name] for name in derivatives} == derivatives
    assert [Path(name).parent.as_posix() for name in logs] == ["logs", "logs"]


@pytest.mark.parametrize("options", [(), ("--participant-label", "09")])
def test_reports_of_nothing_are_18(app, tmp_path, options):
    if options:
        assert app.quick(dataset(tmp_path / "bids"), tmp_path / "out").code == 0
    call = app(tmp_path / "none", tmp_path / "out", "--reports-only", *options)
    assert call.code == 18
    assert call.err.count("\n") == 1


# names


@pytest.mark.parametrize("folder", ["Bäuche & Ödeme", "a [b] :bug: 'c'"])
def test_paths_with_spaces_and_letters_of_all_kinds(app, tmp_path, folder):
    made = dataset(tmp_path / folder / "my data")
    given = add_mask(tmp_path / folder / "masken größe", "sub-01", np.ones((12, 10, 2)))
    call = app.quick(made, tmp_path / folder / "out put", "-d", given)
    assert call.code == 0, call.text
    check_maps(tmp_path / folder / "out put")
    assert str(tmp_path / folder / "out put" / "sub-01.html") in call.out


def test_a_relative_output_lies_where_the_call_was_made(app, tmp_path, monkeypatch):
    dataset(tmp_path / "bids")
    monkeypatch.chdir(tmp_path)
    assert app.quick(Path("bids"), Path("out"), "-w", Path("work")).code == 0
    check_maps(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["bids", "out"]
