"""The tables of the group: what stands in them, what is reused, what is left out."""

from __future__ import annotations

import json
import tracemalloc
from html import unescape

import nibabel as nib
import numpy as np
import pytest
from app_runs import App
from bids_datasets import Dataset
from group_runs import (
    SHAPE,
    add_run,
    add_segmentation,
    change_qc,
    gather,
    group_files,
    map_path,
    sidecar,
    table,
)
from hypothesis import given
from hypothesis import strategies as st
from validator import validator_errors

from sicnn_app.bids.label_names import read_lookup
from sicnn_app.bids.segmentations import Segmentation, load_regions
from sicnn_app.derivatives.dataset import prepare_output
from sicnn_app.errors import DataError, MissingInputError
from sicnn_app.formats import tsv_bytes
from sicnn_app.group.repeats import find_repeats
from sicnn_app.group.table import parse_table
from sicnn_app.group.write import read_earlier


@pytest.fixture
def app(capsys) -> App:
    return App(capsys)


def inside(out, name: str, label: str) -> np.ndarray:
    values = nib.load(map_path(out, name, label)).get_fdata()
    return values[np.isfinite(values)]


def test_one_run_is_a_group(app, tmp_path):
    out = add_run(tmp_path, sub="01", acq="a", factor=0.2)
    call = gather(app, out)
    assert call.code == 0, call.text
    assert not call.err
    (row,) = table(out)
    assert (row["participant_id"], row["session_id"], row["source"]) == ("sub-01", "n/a", "sub-01_acq-a")
    assert (row["region"], row["segmentation"], row["acquisition"]) == ("mask", "n/a", "acq-a")
    f = inside(out, "sub-01_acq-a", "f")
    for label in ("f", "d", "dstar", "s0", "rmse"):
        values = inside(out, "sub-01_acq-a", label)
        if label == "dstar":
            values = values[f >= 0.02]
            assert int(row["dstar_voxel_count"]) == values.size < f.size
        low, median, high = np.percentile(values, (25, 50, 75))
        assert float(row[f"{label}_median"]) == pytest.approx(median, rel=1e-6)
        assert float(row[f"{label}_iqr"]) == pytest.approx(high - low, rel=1e-5)
        assert float(row[f"{label}_std"]) == pytest.approx(values.std(ddof=1), rel=1e-5)
    deviations = nib.load(map_path(out, "sub-01_acq-a", "d", "desc-std_dwimap.nii.gz")).get_fdata()
    assert float(row["d_ensemble_std_median"]) == pytest.approx(np.nanmedian(deviations), rel=1e-6)
    assert int(row["voxel_count"]) == f.size
    assert row["outliers"] == "n/a"
    quality = parse_table((out / "sub-01/dwi/sub-01_acq-a_desc-ivim_qc.tsv").read_bytes())[0]
    taken = ("snr_b0", "snr_highest_b", "flagged_share", "b_values", "stop_reason", "method", "adequacy")
    for column in (*taken, "parameter_at_bound_share"):
        assert row[column] == quality[column] != "n/a"
    described = sidecar(out)
    assert all({"LongName", "Description"} <= set(described[column]) for column in row)
    assert described["d_median"]["Units"] == "mm^2/s"
    assert table(out, "group_repeatability") == []


def test_runs_stand_in_natural_order_and_none_is_made_up(app, tmp_path):
    for subject in ("10", "2", "1"):
        out = add_run(tmp_path, sub=subject, seed=1)
    assert gather(app, out).code == 0
    rows = table(out)
    assert [row["source"] for row in rows] == ["sub-1", "sub-2", "sub-10"]
    assert {row["f_ensemble_std_median"] for row in rows} == {"n/a"}
    assert {row["framewise_displacement_mean"] for row in rows} == {"n/a"}


def test_motion_is_summarised_where_it_was_corrected(app, tmp_path):
    out = add_run(tmp_path, sub="01")
    (out / "sub-01/dwi/sub-01_desc-motion_qc.tsv").write_text(
        "volume\tframewise_displacement\n0\tn/a\n1\t0.5\n2\t1.5\n"
    )
    assert gather(app, out).code == 0
    (row,) = table(out)
    assert (row["framewise_displacement_mean"], row["framewise_displacement_max"]) == ("1", "1.5")
    change_qc(out, "sub-01", framewise_displacement_mean="0.7", framewise_displacement_max="1.25")
    assert gather(app, out).code == 0
    (row,) = table(out)
    assert (row["framewise_displacement_mean"], row["framewise_displacement_max"]) == ("0.7", "1.25")


@pytest.mark.parametrize("options", [(), ("--participant-label", "09"), ("--dry-run", "--session-id", "9")])
def test_without_derivatives_it_is_18_and_nothing_is_made(app, tmp_path, options):
    out = add_run(tmp_path, sub="01") if options else tmp_path / "out"
    call = gather(app, out, *options)
    assert call.code == 18
    assert call.err.count("\n") == 1
    assert not list(out.glob("group*"))


def test_labels_choose_and_the_dry_run_writes_nothing(app, tmp_path):
    for subject, session in (("01", "1"), ("01", "2"), ("02", "1")):
        out = add_run(tmp_path, sub=subject, ses=session)
    call = gather(app, out, "--dry-run", "--participant-label", "01")
    assert call.code == 0
    assert "sub-01_ses-2" in call.out and "sub-02" not in call.out
    named = [line.strip() for line in call.out.splitlines() if "/group" in line]
    assert not group_files(out) and not (out / "logs").exists()
    call = gather(app, out, "--participant-label", "01", "--session-id", "2", "7")
    assert call.code == 0
    assert "--session-id 7 matches no DWI run" in call.err
    assert [row["source"] for row in table(out)] == ["sub-01_ses-2"]
    assert sorted(named) == sorted(str(path) for path in out.glob("group*"))


def test_the_official_validator_finds_no_error(app, tmp_path):
    out = add_run(tmp_path, sub="01", ses="1")
    prepare_output(out, tmp_path / "bids", {}, citation="# How to cite\n")
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert gather(app, out).code == 0
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == links
    assert validator_errors(out) == set()


# what did not change


def test_a_second_call_measures_what_is_new_only_and_writes_the_same_bytes(app, tmp_path):
    for subject in ("01", "02"):
        out = add_run(tmp_path, sub=subject, seed=int(subject))
    assert "2 gathered, 0 of them unchanged" in gather(app, out).out
    first = group_files(out)
    assert not (out / ".work").exists()
    assert "2 gathered, 2 of them unchanged" in gather(app, out).out
    assert group_files(out) == first
    assert "2 gathered, 0 of them unchanged" in gather(app, out, "--overwrite").out
    assert group_files(out) == first
    add_run(tmp_path, sub="02", seed=5)
    add_run(tmp_path, sub="03", seed=3)
    assert "3 gathered, 1 of them unchanged" in gather(app, out).out
    assert table(out)[0] == parse_table(first["group_ivim.tsv"])[0]
    assert table(out)[1] != parse_table(first["group_ivim.tsv"])[1]
    anew = group_files(out)
    for path in out.glob("group*"):
        path.unlink()
    assert gather(app, out).code == 0
    assert group_files(out) == anew


def test_images_of_unchanged_runs_are_not_opened(app, tmp_path):
    out = add_run(tmp_path, sub="01")
    assert gather(app, out).code == 0
    path = map_path(out, "sub-01", "d")
    path.write_bytes(b"x" * path.stat().st_size)
    assert gather(app, out).code == 0
    assert gather(app, out, "--overwrite").code == 65


@pytest.mark.parametrize("change", ["table", "sidecar", "garbage"])
def test_a_table_that_somebody_changed_is_not_taken_from(app, tmp_path, change):
    out = add_run(tmp_path, sub="01")
    assert gather(app, out).code == 0
    first = group_files(out)
    if change == "table":
        (out / "group_ivim.tsv").write_bytes(first["group_ivim.tsv"].replace(b"mask", b"liver"))
    elif change == "sidecar":
        content = sidecar(out)
        content["Runs"]["sub-01"] = ["no object"]
        (out / "group_ivim.json").write_text(json.dumps(content))
    else:
        (out / "group_ivim.json").write_bytes(b"\xff\x00[")
    assert read_earlier(out) == {}
    changed = group_files(out)
    refused = gather(app, out)
    assert refused.code == 73 and "not as this app wrote it" in refused.err
    assert group_files(out) == changed
    for name in (name for name in first if changed[name] != first[name]):
        (out / name).unlink()
    assert "0 of them unchanged" in gather(app, out).out
    assert group_files(out) == first


# runs that cannot be used


DAMAGES = {
    "no marker": "its completion marker is missing",
    "marker no json": "desc-ivim_qc.json is not valid JSON",
    "map missing": "a file that its completion marker names is missing",
    "map truncated": "param-f_dwimap.nii.gz cannot be read",
    "std of another shape": "has another shape",
    "map of nothing": "its maps hold no number",
    "conventional map no image": "desc-lsq_dwimap.nii.gz cannot be read",
}


def damage(out, name: str, how: str) -> None:
    """Damage a run in one of these ways."""
    marker = out / name / "dwi" / f"{name}_desc-ivim_qc.json"
    path = map_path(out, name, "f")
    if how == "no marker":
        marker.unlink()
    elif how == "marker no json":
        marker.write_text("{")
    elif how == "map missing":
        path.unlink()
    elif how == "map truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "std of another shape":
        std = map_path(out, name, "f", "desc-std_dwimap.nii.gz")
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), std)
    elif how == "conventional map no image":
        map_path(out, name, "d", "desc-lsq_dwimap.nii.gz").write_bytes(b"no image")
    else:
        nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), nib.load(path).affine), path)


def test_runs_that_cannot_be_used_are_named_and_stop_nothing(app, tmp_path):
    names = {f"sub-{number}": how for number, how in enumerate(DAMAGES, start=1)}
    for subject in (*names, "sub-9"):
        out = add_run(tmp_path, sub=subject.removeprefix("sub-"), comparison=True)
    for name, how in names.items():
        damage(out, name, how)
    call = gather(app, out)
    assert call.code == 1
    assert "1 gathered" in call.out and f"{len(DAMAGES)} left out" in call.out
    assert [row["source"] for row in table(out)] == ["sub-9"]
    reasons = {entry["Run"]: entry["Reason"] for entry in sidecar(out)["LeftOut"]}
    page = unescape((out / "group.html").read_text())
    for name, how in names.items():
        assert name in reasons[name] and DAMAGES[how] in reasons[name]
        assert reasons[name] in page
        assert any(name in line and DAMAGES[how] in line for line in call.err.splitlines())
    assert str(tmp_path) not in "".join(map(str, group_files(out).values()))
    files = group_files(out)
    for labels, code in ((("1", "3"), 66), (("4", "5"), 65), (("1", "4"), 1)):
        call = gather(app, out, "--participant-label", *labels)
        assert call.code == code and "nothing is written" in call.out
        assert all(f"sub-{label} " in call.err for label in labels)
        assert group_files(out) == files
    assert gather(app, out, "--participant-label", "1", "4", "--stop-on-first-crash").code == 66


def test_the_conventional_fit_stands_beside_where_there_is_one(app, tmp_path):
    out = add_run(tmp_path, sub="01", comparison=True)
    add_run(tmp_path, sub="02")
    gather(app, out)
    with_fit, without = table(out)
    mask = np.isfinite(nib.load(map_path(out, "sub-01", "f")).get_fdata())
    fit = {
        label: nib.load(map_path(out, "sub-01", label, "desc-lsq_dwimap.nii.gz")).get_fdata()[mask]
        for label in ("f", "d", "dstar")
    }
    fit["dstar"] = fit["dstar"][fit["f"] >= 0.02]
    for label, values in fit.items():
        assert float(with_fit[f"lsq_{label}_median"]) == pytest.approx(np.median(values), rel=1e-6)
        assert without[f"lsq_{label}_median"] == "n/a"


# regions


@pytest.fixture
def regions(tmp_path):
    """Two runs, and a derivative dataset with their segmentation and its lookup table at the top."""
    for name in ("a", "b"):
        out = add_run(tmp_path, sub="01", acq=name)
    rois = Dataset(tmp_path / "rois", kind="derivative")
    rois.write("desc-organs_dseg.tsv", "index\tname\n1\tliver\n2\tspleen\n9\tkidney\n")
    labels = np.zeros(SHAPE, dtype=int)
    labels[:3], labels[3:], labels[2, 3] = 1, 2, 4
    like = map_path(out, "sub-01_acq-a", "f")
    add_segmentation(rois, "sub-01/dwi/sub-01_desc-organs", labels, like)
    return out, rois, labels, like


def test_regions_come_from_segmentations_with_inherited_names(app, regions):
    out, rois, labels, _ = regions
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0 and not call.err, call.text
    rows = table(out)
    assert [row["region"] for row in rows[:4]] == ["mask", "liver", "spleen", "4"]
    assert len(rows) == 8 and {row["segmentation"] for row in rows} == {"n/a", "rois:organs"}
    for row in rows:
        values = nib.load(map_path(out, row["source"], "d")).get_fdata()
        index = {"mask": labels >= 0, "liver": labels == 1, "spleen": labels == 2, "4": labels == 4}
        chosen = values[index[row["region"]] & np.isfinite(values)]
        assert int(row["voxel_count"]) == chosen.size
        assert float(row["d_median"]) == pytest.approx(np.median(chosen), rel=1e-6)


def test_names_that_are_written_alike_are_one_region_and_no_name_is_a_number(app, regions):
    out, rois, labels, _ = regions
    rois.write("desc-organs_dseg.tsv", "index\tname\n1\tleft  lobe\n2\tleft lobe\n4\tn/a\n")
    assert gather(app, out, "-d", rois.root).code == 0
    rows = table(out)[:3]
    assert [row["region"] for row in rows] == ["mask", "left lobe", "4"]
    inside = np.isfinite(nib.load(map_path(out, rows[0]["source"], "d")).get_fdata())
    assert int(rows[1]["voxel_count"]) == np.count_nonzero(inside & np.isin(labels, (1, 2)))
    assert "None" not in (out / "group.html").read_text()


def test_many_regions_take_no_more_memory_than_a_few_volumes(tmp_path):
    labels = np.arange(40 * 40 * 20).reshape(40, 40, 20) % 251
    path = tmp_path / "sub-01_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), path)
    mask = np.ones(labels.shape, dtype=bool)
    tracemalloc.start()
    try:
        found, _ = load_regions(Segmentation("rois", path, None), path, mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.names == tuple(map(str, range(1, 251)))
    np.testing.assert_array_equal(found.positions, labels.ravel() - 1)
    assert peak < 100 * labels.size


def test_the_name_nearest_to_the_run_counts(app, regions):
    out, rois, labels, like = regions
    add_segmentation(rois, "sub-01/dwi/sub-01_acq-b_desc-organs", np.where(labels == 1, 2, 0), like)
    rois.write("sub-01/dwi/sub-01_acq-b_desc-organs_dseg.tsv", "index\tname\n2\tliver and more\n")
    assert gather(app, out, "-d", f"ours={rois.root}").code == 0
    found = {row["source"]: row["region"] for row in table(out) if row["segmentation"] == "ours:organs"}
    assert found == {"sub-01_acq-a": "4", "sub-01_acq-b": "liver and more"}


def test_a_changed_segmentation_or_name_is_measured_anew(app, regions):
    out, rois, labels, like = regions
    gather(app, out, "-d", rois.root)
    assert "2 of them unchanged" in gather(app, out, "-d", rois.root).out
    rois.write("desc-organs_dseg.tsv", "index\tname\n1\tLiver\n2\tspleen\n")
    assert "0 of them unchanged" in gather(app, out, "-d", rois.root).out
    assert table(out)[1]["region"] == "Liver"
    add_segmentation(rois, "sub-01/dwi/sub-01_desc-organs", np.where(labels == 1, 1, 0), like)
    assert "0 of them unchanged" in gather(app, out, "-d", rois.root).out
    assert [row["region"] for row in table(out)] == ["mask", "Liver"] * 2


def test_segmentations_that_do_not_fit_are_warnings(app, regions):
    out, rois, labels, like = regions
    place = "sub-01/dwi/sub-01_desc-{}"
    soft = rois.root / f"{place.format('soft')}_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels + 0.5, nib.load(like).affine), soft)
    rois.write(f"{place.format('damaged')}_dseg.nii.gz", b"\x1f\x8bno image")
    add_segmentation(rois, place.format("lookup"), labels, like)
    rois.write("desc-lookup_dseg.tsv", "number\ttext\n1\tliver\n")
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0
    assert {row["segmentation"] for row in table(out)} == {"n/a", "rois:organs"}
    said = sidecar(out)["Runs"]["sub-01_acq-b"]["Warnings"]
    words = ("desc-damaged", "no column index", "desc-soft")
    assert all("bids:rois:" in text for text in said)
    assert [sum(part in text for text in said) for part in words] == [1] * 3
    assert call.err.count("warning: sub-01_acq-b: ") == 3
    files = group_files(out)
    assert str(rois.root) not in "".join(map(str, files.values()))
    assert all(f"desc-{name}_dseg" in files["group.html"].decode() for name in ("soft", "damaged"))
    again = gather(app, out, "-d", rois.root)
    assert "2 of them unchanged" in again.out and again.err == call.err
    assert group_files(out) == files


def test_a_segmentation_of_a_finer_grid_is_brought_to_that_of_the_maps(app, regions):
    """Every voxel in eight parts, as a segmentation of an anatomical image might be."""
    out, rois, labels, like = regions
    fine = nib.load(like).affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] -= fine[:3, :3] @ np.full(3, 0.5)
    parts = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    add_segmentation(rois, "sub-01/dwi/sub-01_desc-fine", parts, like, affine=fine)
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0
    assert (
        "sub-01_desc-fine_dseg.nii.gz lies on another grid and was brought to that of the image" in call.err
    )
    counts = {
        name: [row["voxel_count"] for row in table(out) if row["segmentation"] == f"rois:{name}"]
        for name in ("organs", "fine")
    }
    assert counts["fine"] == counts["organs"] and "0" not in counts["fine"]


def test_two_lookup_tables_of_one_folder_are_a_warning(app, regions):
    out, rois, _, _ = regions
    rois.write("dseg.tsv", "index\tname\n1\tliver\n")
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0 and "both apply" in call.err
    assert [row["region"] for row in table(out)] == ["mask", "mask"]
    assert str(rois.root) not in "".join(map(str, group_files(out).values()))


def test_a_derivative_that_is_not_there_is_66(app, tmp_path):
    out = add_run(tmp_path, sub="01")
    assert gather(app, out, "-d", tmp_path / "nothing").code == 66
    assert not group_files(out)


# repeated measurements


def test_repeats_are_compared_within_one_acquisition(app, tmp_path):
    factors = {("01", "1"): 1.0, ("01", "2"): 1.1, ("02", "1"): 0.8, ("02", "2"): 0.9, ("03", "1"): 1.2}
    for (subject, session), factor in factors.items():
        out = add_run(tmp_path, sub=subject, ses=session, acq="a", factor=factor)
    add_run(tmp_path, sub="03", ses="2", acq="b")
    assert gather(app, out).code == 0
    rows = table(out, "group_repeatability")
    assert [row["parameter"] for row in rows] == ["f", "d", "dstar"]
    medians = {row["source"]: float(row["f_median"]) for row in table(out)}
    differences = [
        medians[f"sub-{subject}_ses-2_acq-a"] - medians[f"sub-{subject}_ses-1_acq-a"]
        for subject in ("01", "02")
    ]
    row = rows[0]
    assert (row["repeated"], row["acquisition"], row["participants"]) == ("ses", "acq-a", "2")
    sd = np.sqrt(np.mean(np.square(differences)) / 2)
    assert float(row["within_subject_sd"]) == pytest.approx(sd, rel=1e-6)
    assert float(row["bias"]) == pytest.approx(np.mean(differences), rel=1e-6)
    described = sidecar(out, "group_repeatability")
    assert all({"LongName", "Description"} <= set(described[column]) for column in row)


def test_sessions_and_runs_are_two_kinds_of_repeats(app, tmp_path):
    for session in ("1", "2"):
        for run in ("1", "2", "10"):
            out = add_run(tmp_path, sub="01", ses=session, run=run, factor=float(run), seed=1)
    assert gather(app, out).code == 0
    rows = [row for row in table(out, "group_repeatability") if row["parameter"] == "d"]
    assert [(row["repeated"], row["acquisition"], row["measurements"]) for row in rows] == [
        ("ses", "run-1", "2"),
        ("ses", "run-2", "2"),
        ("ses", "run-10", "2"),
        ("run", "ses-1", "3"),
        ("run", "ses-2", "3"),
    ]
    medians = {row["source"]: float(row["d_median"]) for row in table(out)}
    bias = medians["sub-01_ses-1_run-2"] - medians["sub-01_ses-1_run-1"]
    assert float(rows[3]["bias"]) == pytest.approx(bias, rel=1e-6)
    assert rows[3]["icc"] == "n/a"


def test_a_run_does_not_repeat_itself():
    row = {"participant_id": "sub-01", "source": "sub-01_ses-1", "segmentation": "rois", "region": "liver"}
    values = {"f_median": "0.1", "d_median": "0.001", "dstar_median": "0.05"}
    assert find_repeats([row | values, row | values | {"f_median": "0.2"}]) == []


# readers


cell = (
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=8) | st.floats() | st.integers() | st.none()
)


@given(st.lists(st.fixed_dictionaries({"a": cell, "b": cell}), max_size=4))
def test_a_table_that_was_read_is_written_as_it_was(rows):
    written = tsv_bytes(("a", "b"), rows)
    assert len(parse_table(written)) == len(rows)
    assert tsv_bytes(("a", "b"), parse_table(written)) == written


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f"index\tname\n{text}".encode()))
def test_a_lookup_table_is_names_by_index_or_bad_data(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lookup") / "dseg.tsv"
    path.write_bytes(content)
    try:
        names = read_lookup(path)
    except (DataError, MissingInputError) as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(index, int) for index in names)
        written = parse_table(tsv_bytes(("name",), [{"name": name} for name in names.values()]))
        assert [row["name"] for row in written] == list(names.values())
        assert not {"", "n/a"} & set(names.values())
