"""The conventional fit and the verdict in the written outputs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import make_result

from sicnn_app.derivatives.names import expected_outputs
from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.checks import CHECKS
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.ivim.run import RunResult


def written(result: RunResult, tmp_path: Path) -> dict[str, Path]:
    """The files of a run by what follows its name."""
    paths = write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    return {path.name.removeprefix(f"{result.run.name}_"): path for path in paths}


def row(files: dict[str, Path]) -> dict[str, str]:
    with files["desc-ivim_qc.tsv"].open(newline="") as file:
        (only,) = csv.DictReader(file, delimiter="\t")
    return only


def content(files: dict[str, Path], name: str) -> dict:
    return json.loads(files[name].read_text(encoding="utf-8"))


def test_maps_of_the_conventional_fit_are_written_as_announced(tmp_path):
    result = make_result(tmp_path, comparison=True)
    announced = expected_outputs(result.run, tmp_path / "out", anatomy="body", conventional=True)
    files = written(result, tmp_path)
    assert sorted(announced) == sorted(files.values())
    mask = result.averaged.mask
    for label in PARAMETERS:
        values = np.asarray(nib.load(files[f"model-ivim_param-{label}_desc-lsq_dwimap.nii.gz"]).dataobj)
        np.testing.assert_array_equal(values[mask], result.conventional.maps[label][mask])
        assert np.isnan(values[~mask]).all() and values.dtype == np.float32
        told = content(files, f"model-ivim_param-{label}_desc-lsq_dwimap.json")
        assert told["Description"].startswith("Conventional least-squares fit of the same signals")
        assert told["EstimationAlgorithm"] == "Least squares of a test"
        assert told["Model"]["Parameters"]["method"] == "lsq"
        assert not any("SI-CNN" in reference for reference in told["EstimationReference"])
        own = content(files, f"model-ivim_param-{label}_dwimap.json")
        assert own["Units"] == told["Units"] and own["Model"]["Parameters"]["method"] == "si-cnn"


def test_another_run_without_a_comparison_leaves_none_of_an_earlier_one(tmp_path):
    assert any("desc-lsq" in name for name in written(make_result(tmp_path, comparison=True), tmp_path))
    written(make_result(tmp_path, comparison=False), tmp_path)
    assert not list((tmp_path / "out").rglob("*desc-lsq*"))


def test_the_table_holds_the_agreement_over_unflagged_voxels(tmp_path):
    result = make_result(tmp_path, comparison=True)
    found = row(written(result, tmp_path))
    unflagged = result.averaged.mask & (result.flags == 0)
    assert int(found["lsq_f_voxels"]) == unflagged.sum() < result.averaged.mask.sum()
    difference = (result.estimate.maps["d"] - result.conventional.maps["d"])[unflagged].astype(float)
    assert float(found["lsq_d_median_difference"]) == pytest.approx(np.median(difference), rel=1e-4)
    assert float(found["lsq_s0_pearson"]) > 0.5
    assert 0 <= float(found["lsq_parameter_at_bound_share"]) <= 1


@pytest.mark.parametrize("comparison", [True, False])
@pytest.mark.parametrize("noise", [True, False])
def test_every_column_is_described_and_there_whatever_is_known(tmp_path, comparison, noise):
    result = make_result(tmp_path, comparison=comparison)
    if not noise:
        silent = replace(result.averaged, sigma=0.0, noise=np.zeros_like(result.averaged.noise))
        result = replace(result, averaged=silent)
    assert set(Quality(result).row()) == {column.name for column in columns()}
    found = row(written(result, tmp_path))
    assert (found["lsq_f_spearman"] == "n/a") != comparison
    assert (found["bound_dstar"] == "n/a") != noise


@pytest.mark.parametrize(("preprocessed", "value"), [(True, "not measured here"), (False, "not measured")])
def test_a_series_of_another_program_is_told_from_one_that_nobody_looked_at(tmp_path, preprocessed, value):
    told = content(written(make_result(tmp_path, preprocessed=preprocessed), tmp_path), "desc-ivim_qc.json")
    checks = {check["Name"]: check["Value"] for check in told["Adequacy"]["Checks"]}
    assert checks["Motion"] == value


def test_the_verdict_in_words_has_the_numbers_of_the_table(tmp_path):
    motion = [{"framewise_displacement": None}] + [{"framewise_displacement": 0.4}] * 11
    files = written(replace(make_result(tmp_path, comparison=True), motion=motion), tmp_path)
    found, told = row(files), content(files, "desc-ivim_qc.json")["Adequacy"]
    assert told["Verdict"] == found["adequacy"] and told["Sentence"]
    assert len(told["Checks"]) == len(CHECKS)
    for key, check in zip(CHECKS, told["Checks"], strict=True):
        assert check["Verdict"] == found[f"adequacy_{key}"]
        for name, value in check["Numbers"].items():
            assert float(found[name]) == pytest.approx(value, rel=1e-6)
    assert float(found["framewise_displacement_mean"]) == pytest.approx(0.4)
