from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import BVALS, SIGMA, make_result, oblique_affine, source_header
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app import __version__
from sicnn_app.derivatives import atomic, names, qc
from sicnn_app.derivatives.atomic import WORK_FOLDER
from sicnn_app.derivatives.marker import recorded_fingerprint
from sicnn_app.derivatives.names import expected_outputs
from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.sidecar import DatasetRoots
from sicnn_app.derivatives.write import write_run
from sicnn_app.derivatives.written import RECORDS
from sicnn_app.errors import InternalError, OutputError
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.ivim.parameters import MAPS, SPECS
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.report.quantities import shown_quantities, spread_quantities


def finished(out: Path, run: DwiRun) -> str | None:
    """Fingerprint of complete outputs."""
    fingerprint, complete = recorded_fingerprint(out, run)
    return fingerprint if complete else None


def write(result: RunResult, tmp_path: Path, out: str = "out", **links: Path) -> dict[str, Path]:
    """Write a result; the files by what follows the name of the run."""
    paths = write_run(result, tmp_path / out, bids_dir=tmp_path / "bids", dataset_links=links)
    return {path.name.removeprefix(f"{result.run.name}_"): path for path in paths}


def sidecar(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def outputs_in(out: Path) -> list[Path]:
    """Every file but the record of them."""
    return sorted(path for path in out.rglob("*") if path.is_file() and RECORDS not in path.parts)


def map_ending(label: str, extension: str = ".nii.gz") -> str:
    return f"model-ivim_param-{label}_dwimap{extension}"


# Files


@pytest.mark.parametrize("anatomy", ["body", "brain"])
@pytest.mark.parametrize("with_bvecs", [True, False])
@pytest.mark.parametrize("ensemble", [True, False])
def test_what_is_written_is_what_was_announced(
    tmp_path: Path, anatomy: str, with_bvecs: bool, ensemble: bool
):
    result = make_result(tmp_path, anatomy=anatomy, with_bvecs=with_bvecs, ensemble=ensemble)
    announced = expected_outputs(result.run, tmp_path / "out", anatomy=anatomy, spread=ensemble)
    written = write(result, tmp_path)
    assert sorted(announced) == sorted(written.values())
    assert outputs_in(tmp_path / "out") == sorted(announced)
    assert announced[-1] == list(written.values())[-1] == written["desc-ivim_qc.json"]
    assert f"desc-{anatomy}_mask.nii.gz" in written
    assert ("desc-preproc_dwi.bvec" in written) == with_bvecs
    assert ("model-ivim_param-f_desc-std_dwimap.json" in written) == ensemble


def test_names_keep_every_entity_and_the_session_folder(tmp_path: Path):
    entities = {"sub": "03", "ses": "a", "acq": "T100", "dir": "AP", "run": "01", "part": "mag"}
    written = write(make_result(tmp_path, entities=entities), tmp_path)
    expected = (
        "sub-03/ses-a/dwi/sub-03_ses-a_acq-T100_dir-AP_run-01_part-mag_model-ivim_param-f_dwimap.nii.gz"
    )
    assert written[map_ending("f")] == tmp_path / "out" / expected


def test_equal_results_are_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(make_result(tmp_path, ensemble=True), tmp_path, "one")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write(make_result(tmp_path, ensemble=True), tmp_path, "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    write(make_result(tmp_path, ensemble=True), tmp_path, "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# Geometry


@pytest.mark.parametrize(("sform_code", "qform_code"), [(1, 1), (2, 1), (0, 1), (1, 0), (4, 0), (0, 0)])
def test_every_image_has_the_geometry_of_the_source(tmp_path: Path, sform_code: int, qform_code: int):
    shape = (9, 8, 3)
    header = source_header((*shape, 12), sform_code=sform_code, qform_code=qform_code, repetition_time=3.5)
    result = make_result(tmp_path, shape=shape, header=header)
    source = nib.load(result.run.parts[0].image)
    images = [path for name, path in write(result, tmp_path).items() if name.endswith(".nii.gz")]
    assert len(images) == 9
    for path in images:
        image = nib.load(path)
        np.testing.assert_array_equal(image.affine, source.affine)
        for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c",
                      "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units"):  # fmt: skip
            np.testing.assert_array_equal(image.header[field], source.header[field], err_msg=field)
        assert int(image.header["sform_code"]) == sform_code
        assert int(image.header["qform_code"]) == qform_code
        volumes = {"preproc": (12,), "averaged": (6,)}
        assert image.shape == (*shape, *next((volumes[desc] for desc in volumes if desc in path.name), ()))
        assert image.header.get_zooms() == source.header.get_zooms()[: image.ndim]
        assert image.dataobj.slope == 1 and image.dataobj.inter == 0


def test_axes_of_any_orientation_stay(tmp_path: Path):
    turned = oblique_affine() @ np.array([[0, 0, -1, 5], [1, 0, 0, 0], [0, -1, 0, 9], [0, 0, 0, 1.0]])
    header = source_header((9, 8, 3, 12), affine=turned, qform_code=0)
    result = make_result(tmp_path, header=header)
    image = nib.load(write(result, tmp_path)[map_ending("d")])
    np.testing.assert_allclose(image.affine, turned, atol=1e-5)
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(turned)


def test_source_scaling_display_range_and_extensions_are_not_inherited(tmp_path: Path):
    header = source_header((9, 8, 3, 12))
    header["cal_max"] = 1000
    header.set_slope_inter(2.0, 5.0)
    header.set_intent("estimate")
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanner notes"))
    result = make_result(tmp_path, header=header)
    image = nib.load(write(result, tmp_path)[map_ending("s0")])
    assert image.header["cal_max"] == 0
    assert image.header.get_intent()[0] == "none"
    assert len(image.header.extensions) == 0
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), result.estimate.maps["s0"])
    assert header["cal_max"] == 1000, "the caller's header is not touched"
    assert header.get_data_shape() == (9, 8, 3, 12)


@pytest.mark.parametrize("anatomy", ["brain", "body"])
def test_headers_of_maps_tell_viewers_what_they_are_and_their_range(tmp_path: Path, anatomy: str):
    written = write(replace(make_result(tmp_path, ensemble=True), anatomy=anatomy), tmp_path)
    shown = {
        None: {item.spec.label: item.fixed_range for item in shown_quantities(anatomy)},
        "std": {item.spec.label: item.fixed_range for item in spread_quantities(anatomy)},
    }
    for desc, ranges in shown.items():
        for label, limits in ranges.items():
            header = nib.load(written[f"{names.map_ending(label, desc)}.nii.gz"]).header
            assert (header["cal_min"], header["cal_max"]) == pytest.approx(limits or (0.0, 0.0))
            words = header["descrip"].item().decode()
            assert words.startswith(f"{SPECS[label].symbol}, ") and f"sicnn-app {__version__}" in words
            assert ("standard deviation" in words) == (desc == "std")


def test_nifti2_stays_nifti2(tmp_path: Path):
    header = nib.Nifti2Header()
    header.set_data_shape((9, 8, 3, 12))
    header.set_zooms((2.0, 2.5, 4.0, 1.0))
    header.set_sform(oblique_affine(), code=1)
    image = nib.load(write(make_result(tmp_path, header=header), tmp_path)[map_ending("f")])
    assert isinstance(image.header, nib.Nifti2Header)
    np.testing.assert_array_equal(image.affine, oblique_affine())


# Values


def test_maps_are_float32_with_nan_exactly_outside_the_mask(tmp_path: Path):
    result = make_result(tmp_path, ensemble=True)
    written = write(result, tmp_path)
    mask = result.averaged.mask
    for key, values in result.estimate.maps.items():
        label, _, spread = key.partition("_")
        ending = f"model-ivim_param-{label}_{'desc-std_' if spread else ''}dwimap.nii.gz"
        image = nib.load(written[ending])
        assert image.get_data_dtype() == np.float32
        read = image.get_fdata(dtype=np.float32)
        np.testing.assert_array_equal(np.isfinite(read), mask)
        np.testing.assert_array_equal(read[mask], values[mask])


def test_estimates_outside_the_mask_are_not_written(tmp_path: Path):
    result = make_result(tmp_path)
    result.estimate.maps["f"][0, 0, 0] = 0.3
    read = nib.load(write(result, tmp_path)[map_ending("f")]).get_fdata()
    assert np.isnan(read[0, 0, 0])
    assert result.estimate.maps["f"][0, 0, 0] == np.float32(0.3), "the caller's array is not touched"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_map_that_is_not_finite_inside_is_a_bug_and_writes_nothing(tmp_path: Path, value: float):
    result = make_result(tmp_path)
    result.estimate.maps["dstar"][4, 4, 1] = value
    with pytest.raises(InternalError, match=r"sub-01: map dstar is not finite in 1 voxel"):
        write(result, tmp_path)
    assert contents(tmp_path / "out") == {}
    assert not (tmp_path / "out" / WORK_FOLDER).exists()


def test_result_on_another_grid_than_its_header_is_a_bug(tmp_path: Path):
    result = make_result(tmp_path)
    moved = result.series.affine.copy()
    moved[0, 3] += 1.0
    with pytest.raises(InternalError, match="not on the grid"):
        write(replace(result, series=replace(result.series, affine=moved)), tmp_path)
    result.estimate.maps["f"] = result.estimate.maps["f"][:-1]
    with pytest.raises(InternalError, match="map f has shape"):
        write(result, tmp_path)


def test_series_mask_and_flags_come_back(tmp_path: Path):
    result = make_result(tmp_path, anatomy="brain")
    written = write(result, tmp_path)
    series = nib.load(written["desc-preproc_dwi.nii.gz"])
    assert series.get_data_dtype() == np.float32
    np.testing.assert_array_equal(series.get_fdata(dtype=np.float32), result.series.signals)
    bvals = np.loadtxt(written["desc-preproc_dwi.bval"], ndmin=2)
    np.testing.assert_array_equal(bvals, result.series.bvals[None])
    bvecs = np.loadtxt(written["desc-preproc_dwi.bvec"])
    np.testing.assert_allclose(bvecs, result.series.bvecs.T, rtol=1e-7)
    averaged = nib.load(written["desc-averaged_dwi.nii.gz"])
    assert averaged.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(averaged.dataobj), result.averaged.signals)
    bvals = np.loadtxt(written["desc-averaged_dwi.bval"], ndmin=2)
    np.testing.assert_array_equal(bvals, result.averaged.bvals[None])
    mask = nib.load(written["desc-brain_mask.nii.gz"])
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj) == 1, result.averaged.mask)
    flags = nib.load(written["desc-ivimflags_dseg.nii.gz"])
    assert flags.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(flags.dataobj), result.flags)
    table = rows(written["desc-ivimflags_dseg.tsv"])
    assert [(int(row["index"]), row["name"]) for row in table] == [(spec.code, spec.name) for spec in FLAGS]


def test_fractional_bvals_keep_their_value(tmp_path: Path):
    written = write(make_result(tmp_path, bvals=(0.0, 12.345, 66.6667, 800.0)), tmp_path)
    assert written["desc-preproc_dwi.bval"].read_text() == "0 0 12.345 12.345 66.6667 66.6667 800 800\n"


# Sidecars


def test_map_sidecars_hold_every_key_of_the_contract(tmp_path: Path):
    result = make_result(tmp_path)
    written = write(result, tmp_path)
    for spec in MAPS:
        content = sidecar(written[map_ending(spec.label, ".json")])
        assert content["Description"].startswith(spec.description)
        assert content["Units"] == spec.unit
        assert content["SkullStripped"] is True
        assert content["Sources"] == [
            f"bids:raw:sub-01/dwi/sub-01_dwi.{extension}" for extension in ("nii.gz", "bval", "bvec")
        ]
        assert content["EstimationAlgorithm"] == result.estimate.algorithm
        assert content["EstimationReference"]
        assert f"sicnn-app {__version__}" in content["SoftwareVersions"].split(", ")
        assert content["EstimatedOn"].startswith("cpu")
        model = content["Model"]
        assert (
            model["Description"] and model["URL"].startswith("https") and model["TermURL"].startswith("https")
        )
        parameters = model["Parameters"]
        assert parameters["BValuesUsed"] == list(BVALS)
        assert parameters["BValueRepeats"] == [2] * len(BVALS)
        assert parameters["NoiseSigma"] == SIGMA
        assert len(parameters["NoiseSigmaPerBValue"]) == len(parameters["SignalToNoiseRatioPerBValue"]) == 6
        assert parameters["PreprocessingSteps"] == result.steps
        assert parameters["MaskSource"] == result.mask_source
        assert result.estimate.parameters.items() <= parameters.items()
    assert "full second exponent" in sidecar(written[map_ending("dstar", ".json")])["Description"]


def test_sidecar_of_the_spread_says_so(tmp_path: Path):
    written = write(make_result(tmp_path, ensemble=True), tmp_path)
    content = sidecar(written["model-ivim_param-d_desc-std_dwimap.json"])
    assert content["Description"].startswith("Standard deviation")
    assert content["Units"] == "mm^2/s"


def test_mask_of_a_derivative_is_a_uri_and_no_path_of_this_machine_is_written(tmp_path: Path):
    derivative = tmp_path / "bids" / "derivatives" / "seg"
    mask = derivative / "sub-01" / "dwi" / "sub-01_desc-body_mask.nii.gz"
    result = make_result(tmp_path, mask=mask)
    result = replace(
        result,
        settings=result.settings | {"bvals": tmp_path / "bids" / "b.bval", "log": Path("/elsewhere/x.log")},
        warnings=[f"{result.run.parts[0].image}: one volume is left out"],
    )
    written = write(result, tmp_path, seg=derivative)
    uri = "bids:seg:sub-01/dwi/sub-01_desc-body_mask.nii.gz"
    content = sidecar(written[map_ending("f", ".json")])
    assert uri in content["Sources"]
    assert content["Model"]["Parameters"]["MaskSource"] == uri
    marker = sidecar(written["desc-ivim_qc.json"])
    assert marker["Warnings"] == ["bids:raw:sub-01/dwi/sub-01_dwi.nii.gz: one volume is left out"]
    assert marker["Settings"]["bvals"] == "bids:raw:b.bval"
    assert marker["Settings"]["log"] == "x.log"
    for name, path in written.items():
        if not name.endswith(".nii.gz"):
            assert str(tmp_path) not in path.read_text(), name


def test_uris_name_the_nearest_dataset_and_never_follow_the_file(tmp_path: Path):
    raw, store = tmp_path / "raw", tmp_path / "store"
    nested = raw / "derivatives" / "seg"
    nested.mkdir(parents=True)
    store.mkdir()
    (store / "key").touch()
    (raw / "image.nii.gz").symlink_to(store / "key")
    (tmp_path / "alias").symlink_to(raw)
    roots = DatasetRoots.of(raw, {"seg": nested})
    assert roots.uri(raw / "image.nii.gz") == "bids:raw:image.nii.gz"
    assert roots.uri(nested / "mask.nii.gz") == "bids:seg:mask.nii.gz"
    assert roots.uri(tmp_path / "alias" / "image.nii.gz") == "bids:raw:image.nii.gz"
    assert roots.uri(tmp_path / "elsewhere" / "image.nii.gz") == "image.nii.gz"
    assert DatasetRoots.of(tmp_path / "alias", {}).uri(raw / "image.nii.gz") == "bids:raw:image.nii.gz"


def test_series_sidecar_keeps_the_acquisition(tmp_path: Path):
    result = make_result(tmp_path)
    metadata = {"EchoTime": 0.07, "SoftwareVersions": "scanner 1", "SkullStripped": True, "Sources": ["x"]}
    part = replace(result.run.parts[0], metadata=metadata)
    result = replace(result, run=replace(result.run, parts=(part,)))
    content = sidecar(write(result, tmp_path)["desc-preproc_dwi.json"])
    assert content["EchoTime"] == 0.07
    assert content["SoftwareVersions"] == "scanner 1"
    assert content["SkullStripped"] is False
    assert content["Sources"][0] == "bids:raw:sub-01/dwi/sub-01_dwi.nii.gz"
    assert content["SourceVolumes"] == list(range(12))
    assert content["PreprocessingSteps"] == result.steps


def test_sidecar_of_the_averages_says_of_what_and_how_they_are_made(tmp_path: Path):
    result = make_result(tmp_path, entities={"sub": "03", "ses": "a", "acq": "T100"})
    content = sidecar(write(result, tmp_path)["desc-averaged_dwi.json"])
    assert content["Average"] == result.averaged.average
    assert content["VolumesPerBValue"] == [2] * 6 and content["SkullStripped"] is True
    assert content["PreprocessingSteps"] == result.steps
    assert content["Sources"] == [
        f"bids::sub-03/ses-a/dwi/sub-03_ses-a_acq-T100_desc-{made_of}.nii.gz"
        for made_of in ("preproc_dwi", "body_mask")
    ]
    assert all((tmp_path / "out" / source.removeprefix("bids::")).exists() for source in content["Sources"])


# Quality tables


def test_qc_row_matches_the_arrays(tmp_path: Path):
    result = make_result(tmp_path)
    written = write(result, tmp_path)
    (row,) = rows(written["desc-ivim_qc.tsv"])
    mask, maps = result.averaged.mask, result.estimate.maps
    assert int(row["voxels"]) == mask.sum()
    assert float(row["mask_volume"]) == pytest.approx(mask.sum() * 2.0 * 2.5 * 4.0 / 1000, rel=1e-6)
    assert (row["volumes"], row["b_values"], row["highest_b"]) == ("12", "6", "800")
    assert float(row["snr_b0"]) == pytest.approx(np.median(result.averaged.signals[mask][:, 0]) / SIGMA)
    assert float(row["f_median"]) == pytest.approx(np.median(maps["f"][mask]), rel=1e-6)
    perfused = mask & (maps["f"] >= NEGLIGIBLE_F)
    assert perfused.sum() < mask.sum()
    low, high = np.percentile(maps["dstar"][perfused], (25, 75))
    assert float(row["dstar_iqr"]) == pytest.approx(high - low, rel=1e-5)
    assert int(row["dstar_undefined_count"]) == mask.sum() - perfused.sum() > 0
    assert float(row["flagged_share"]) == pytest.approx((result.flags > 0).sum() / mask.sum(), rel=1e-6)
    assert (row["data_iterations"], row["epochs"]) == ("2", "33")
    assert row["stop_reason"] == result.estimate.parameters["stop_reason"]


def test_every_qc_column_is_described_and_filled_from_the_row(tmp_path: Path):
    complete = Quality(replace(make_result(tmp_path, ensemble=True, comparison=True), motion=MOTION))
    assert complete.values.keys() >= {name for name, value in complete.row().items() if value is None}
    result = make_result(tmp_path)
    assert set(Quality(result).row()) == {column.name for column in columns()}
    written = write(result, tmp_path)
    for name in ("desc-ivim_qc", "desc-training_qc"):
        described = sidecar(written[f"{name}.json"])
        for column in rows(written[f"{name}.tsv"])[0]:
            assert {"LongName", "Description"} <= set(described[column]), column


def test_unknown_noise_is_not_available(tmp_path: Path):
    result = make_result(tmp_path)
    result = replace(result, averaged=replace(result.averaged, sigma=0.0))
    written = write(result, tmp_path)
    assert rows(written["desc-ivim_qc.tsv"])[0]["snr_b0"] == "n/a"
    parameters = sidecar(written[map_ending("f", ".json")])["Model"]["Parameters"]
    assert parameters["SignalToNoiseRatioPerBValue"] == [None] * 6


def test_training_table_has_one_row_per_data_iteration(tmp_path: Path):
    result = make_result(tmp_path, iterations=4)
    for row in result.estimate.history:
        row["held_out_loss"] = None
    written = write(result, tmp_path)
    table = rows(written["desc-training_qc.tsv"])
    assert [int(row["data_iteration"]) for row in table] == [0, 1, 2, 3]
    assert [float(row["training_loss"]) for row in table] == pytest.approx([0.01, 0.005, 0.01 / 3, 0.0025])
    assert table[0]["held_out_loss"] == "n/a"
    content = sidecar(written["desc-training_qc.json"])
    assert content["held_out_loss"]["LongName"] == "Held out loss"
    assert content["TrainingLoss"] == [list(point) for point in result.estimate.losses]


def test_long_training_curve_is_thinned_to_its_ends(tmp_path: Path):
    losses = [(k // 100, k % 100, 1.0 / (k + 1)) for k in range(20_000)]
    curve = qc.training_curve(losses)
    assert len(curve) == 500
    assert curve[0] == list(losses[0]) and curve[-1] == list(losses[-1])
    positions = [100 * point[0] + point[1] for point in curve]
    assert max(np.diff(positions)) - min(np.diff(positions)) <= 1


def test_method_without_training_writes_the_same_files(tmp_path: Path):
    result = make_result(tmp_path, method="lsq", iterations=0)
    written = write(result, tmp_path)
    assert rows(written["desc-training_qc.tsv"]) == []
    assert sidecar(written["desc-training_qc.json"])["TrainingLoss"] == []
    assert rows(written["desc-ivim_qc.tsv"])[0]["epochs"] == "n/a"
    assert len(sidecar(written[map_ending("f", ".json")])["EstimationReference"]) == 1


# Completion


def test_fingerprint_only_of_complete_outputs(tmp_path: Path):
    result = make_result(tmp_path)
    out = tmp_path / "out"
    assert finished(out, result.run) is None
    written = write(result, tmp_path)
    assert finished(out, result.run) == result.fingerprint
    assert sidecar(written["desc-ivim_qc.json"])["Settings"] == result.settings
    for path in written.values():
        content = path.read_bytes()
        path.unlink()
        assert finished(out, result.run) is None, path.name
        kept = None if path.name.endswith("desc-ivim_qc.json") else result.fingerprint
        assert recorded_fingerprint(out, result.run) == (kept, False)
        path.write_bytes(content)
    assert finished(out, result.run) == result.fingerprint
    for broken in (
        "",
        "{",
        "[]",
        "{}",
        '{"Fingerprint": "a", "Outputs": []}',
        '{"Fingerprint": 1, "Outputs": 2}',
    ):
        written["desc-ivim_qc.json"].write_text(broken)
        assert finished(out, result.run) is None, broken


def test_outputs_of_other_settings_do_not_remain(tmp_path: Path):
    write(make_result(tmp_path, anatomy="brain", ensemble=True), tmp_path)
    result = make_result(tmp_path, anatomy="body", with_bvecs=False)
    result = replace(result, fingerprint="b" * 64)
    written = write(result, tmp_path)
    assert outputs_in(tmp_path / "out") == sorted(written.values())
    assert finished(tmp_path / "out", result.run) == "b" * 64


def test_replacing_one_run_leaves_the_others(tmp_path: Path):
    entities = {"sub": "01", "run": "1"}
    other = make_result(tmp_path, entities={**entities, "part": "mag"}, ensemble=True)
    write(make_result(tmp_path, entities=entities, ensemble=True), tmp_path)
    kept = write(other, tmp_path)
    result = make_result(tmp_path, entities=entities)
    written = write(result, tmp_path)
    assert outputs_in(tmp_path / "out") == sorted([*kept.values(), *written.values()])
    assert finished(tmp_path / "out", other.run) == other.fingerprint


def test_marker_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = make_result(tmp_path)
    written = write(result, tmp_path)
    removed = []
    remove = atomic.remove

    def spy(path: Path, output_dir: Path) -> None:
        removed.append(path)
        if len(removed) == 2:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        remove(path, output_dir)

    monkeypatch.setattr(atomic, "remove", spy)
    with pytest.raises(OutputError, match="read-only"):
        write(result, tmp_path)
    assert removed[0] == written["desc-ivim_qc.json"]
    assert finished(tmp_path / "out", result.run) is None
    monkeypatch.undo()
    assert write(result, tmp_path) == written


def test_full_disk_while_writing_leaves_the_earlier_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(make_result(tmp_path), tmp_path)
    before = contents(tmp_path / "out")
    result = replace(make_result(tmp_path, seed=1), fingerprint="b" * 64)
    save, calls = atomic.save_bytes, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 6:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, content)

    monkeypatch.setattr(atomic, "save_bytes", full)
    with pytest.raises(OutputError, match=r"sub-01_.*: cannot be written: no space left"):
        write(result, tmp_path)
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / WORK_FOLDER).exists()
    assert finished(tmp_path / "out", result.run) == "a" * 64


@pytest.mark.parametrize("failing", [1, 5, 21])
def test_failure_while_renaming_never_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
):
    write(make_result(tmp_path), tmp_path)
    result = replace(make_result(tmp_path, seed=1), fingerprint="b" * 64)
    rename, calls = os.replace, []

    def broken(source: Path, name: str, *, dst_dir_fd: int) -> None:
        if name != "run-sub-01.json":
            calls.append(name)
        if len(calls) == failing:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, name, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(atomic.os, "replace", broken)
    with pytest.raises(OutputError):
        write(result, tmp_path)
    assert len(calls) == failing
    assert finished(tmp_path / "out", result.run) is None
    assert {path.name for path in outputs_in(tmp_path / "out")} == set(calls[:-1])
    assert not (tmp_path / "out" / WORK_FOLDER).exists()


# Motion and memory

MOTION = [
    {
        "volume": volume,
        "b_value": 10.0 * volume,
        **{f"{kind}_{axis}": 0.1 * volume for kind in ("trans", "rot") for axis in "xyz"},
        "framewise_displacement": None if volume == 0 else 0.3,
    }
    for volume in range(12)
]


def test_motion_is_a_table_with_every_column_described(tmp_path: Path):
    result = replace(make_result(tmp_path), motion=MOTION)
    written = write(result, tmp_path)
    announced = expected_outputs(result.run, tmp_path / "out", anatomy="body", motion=True)
    assert sorted(announced) == sorted(written.values())
    table = rows(written["desc-motion_qc.tsv"])
    assert [int(row["volume"]) for row in table] == list(range(12))
    assert table[0]["framewise_displacement"] == "n/a" and table[3]["rot_y"] == "0.3"
    described = sidecar(written["desc-motion_qc.json"])
    assert list(table[0]) == list(MOTION[0])
    assert {column: described[column].get("Units") for column in table[0]} == {
        "volume": None,
        "b_value": "s/mm^2",
        **dict.fromkeys(("trans_x", "trans_y", "trans_z"), "mm"),
        **dict.fromkeys(("rot_x", "rot_y", "rot_z"), "degrees"),
        "framewise_displacement": "mm",
    }
    assert all(described[column]["Description"] for column in table[0])


def test_motion_belongs_to_the_finished_run(tmp_path: Path):
    result = replace(make_result(tmp_path), motion=MOTION)
    out = tmp_path / "out"
    written = write(result, tmp_path)
    assert finished(out, result.run) == result.fingerprint
    written["desc-motion_qc.tsv"].unlink()
    assert finished(out, result.run) is None
    without = write(make_result(tmp_path), tmp_path)
    assert outputs_in(out) == sorted(without.values())


def test_peak_memory_stands_in_the_quality_table(tmp_path: Path):
    written = write(replace(make_result(tmp_path), peak_memory=1.25), tmp_path)
    assert rows(written["desc-ivim_qc.tsv"])[0]["peak_memory"] == "1.25"
    assert sidecar(written["desc-ivim_qc.json"])["peak_memory"]["Units"] == "GB"


# Names

LABELS = st.one_of(
    st.sampled_from(
        ["..", ".", "", "../x", "/etc", "a/b", "a\\b", "a\0b", "01..", "a_b", "a-b", "a b", "\n", "ü"]
    ),
    st.text(max_size=6),
    st.text("abcXYZ019+", max_size=6),
)


@given(st.dictionaries(st.sampled_from(["ses", "acq", "dir", "run", "part"]), LABELS, max_size=3), LABELS)
def test_no_label_leads_out_of_the_output(entities: dict[str, str], subject: str):
    out = Path("/data/out")
    run = DwiRun({"sub": subject, **entities}, ())
    safe = all(re.fullmatch("[0-9A-Za-z+]+", label) for label in run.entities.values())
    try:
        announced = expected_outputs(run, out, anatomy="body")
    except InternalError as error:
        assert not safe and "\n" not in str(error)
        return
    assert safe
    for path in announced:
        assert Path(os.path.normpath(path)) == path and path.is_relative_to(out / f"sub-{subject}")


@pytest.mark.parametrize("label", ["..", "a/b", "a\0b"])
def test_nothing_is_written_or_removed_for_a_hostile_label(tmp_path: Path, label: str):
    result = make_result(tmp_path)
    hostile = replace(result, run=replace(result.run, entities={"sub": "01", "acq": label}))
    kept = contents(tmp_path)
    with pytest.raises(InternalError, match="only letters and digits"):
        write(hostile, tmp_path)
    assert contents(tmp_path) == kept


def test_the_longest_name_a_file_system_allows_is_written(tmp_path: Path):
    longest = len("_model-ivim_param-dstar_desc-std_dwimap.nii.gz")
    entities = {"sub": "01", "acq": "a" * (255 - longest - len("sub-01_acq-"))}
    written = write(make_result(tmp_path, entities=entities, ensemble=True), tmp_path)
    assert max(len(path.name) for path in written.values()) == 255


# A disk that fills up

FULL_DISK = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from factories import make_result
from sicnn_app.derivatives.write import write_run
from sicnn_app.errors import OutputError
out, scratch = Path(sys.argv[1]), Path(sys.argv[2])
finished = write_run(make_result(scratch), out, bids_dir=scratch / "bids", dataset_links={})
before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
assert before.keys() > set(finished)
big = make_result(scratch, entities={"sub": "02"}, shape=(64, 64, 8))
try:
    write_run(big, out, bids_dir=scratch / "bids", dataset_links={})
except OutputError as error:
    print(error.exit_code, error)
assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
"""


def test_a_disk_that_fills_up_leaves_finished_outputs_and_nothing_else(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    words = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    mount = 'mount -t tmpfs -o size=1m none "$0"'
    if shutil.which("unshare") is None or subprocess.run([*words, mount, out], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    script = [sys.executable, "-c", FULL_DISK, out, tmp_path, *sys.path]
    done = subprocess.run(
        [*words, f'{mount} && "$@"', out, *script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("73 ")
    assert "sub-02" in done.stdout and "no space left on the device: free space" in done.stdout
