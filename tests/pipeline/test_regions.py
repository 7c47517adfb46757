"""The table of regions: its numbers are those of the maps in the regions, and the report shows them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import BVALS, App, add_run, leave_out_figures
from bids_datasets import AFFINE, Dataset
from factories import make_result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.regions import COLUMNS, region_rows
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.ivim.regions import MeasuredRegions, Regions
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.report.regions import MOST_CHARTS, MOST_ROWS, region_pictures
from sicnn_app.report.regions import region_rows as shown_rows
from sicnn_app.report.voxels import voxel_page

SHAPE = (14, 12, 2)
TRUTH = {"left": (0.3, 0.0009, 0.03), "right": (0.1, 0.0015, 0.06)}
NAMES = {3: "left", 4: "left", 8: "right", 9: "outside"}


def labels() -> np.ndarray:
    """Left of two indices, right of one, and a region without signal."""
    found = np.zeros(SHAPE, dtype=np.int16)
    found[2:7, 2:-2, 0], found[2:7, 2:-2, 1], found[7:-2, 2:-2], found[-1] = 3, 4, 8, 9
    return found


def images() -> np.ndarray:
    f, d, dstar = (np.zeros(SHAPE) for _ in range(3))
    for name, values in TRUTH.items():
        where = np.isin(labels(), [index for index, called in NAMES.items() if called == name])
        for volume, value in zip((f, d, dstar), values, strict=True):
            volume[where] = value
    signals = ivim_signal_maps(np.array(BVALS), f, d, dstar, 1000.0 * np.isin(labels(), [3, 4, 8]))
    noise = np.random.default_rng(0).normal(0, 10.0, (2, *signals.shape))
    return np.hypot(signals + noise[0], noise[1]).astype(np.float32)


def add_segmentation(
    root: Path, found: np.ndarray, names: dict[int, str] | None, desc: str = "organs"
) -> Path:
    made = Dataset(root, kind="derivative")
    stem = f"sub-01/dwi/sub-01_desc-{desc}_dseg"
    (root / "sub-01/dwi").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(found, AFFINE), root / f"{stem}.nii.gz")
    if names is not None:
        lines = [f"{index}\t{name}" for index, name in names.items()]
        made.write(f"{stem}.tsv", "\n".join(["index\tname", *lines, ""]))
    return root


def table(out: Path) -> list[dict[str, str]]:
    with (out / "sub-01/dwi/sub-01_desc-regions_qc.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Output of a run with a segmentation that has a lookup table and one that has none."""
    root = tmp_path_factory.mktemp("regions")
    made = Dataset(root / "bids")
    add_run(made, "sub-01", data=images())
    add_segmentation(root / "rois", labels(), NAMES)
    add_segmentation(root / "rois", (labels() == 8).astype(np.int16), None, "side")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        from sicnn_app.cli.main import main

        options = ["--method", "lsq", "--device", "cpu", "--omp-nthreads", "1", "-d", f"rois={root / 'rois'}"]
        assert main([str(made.root), str(root / "out"), "participant", *options]) == 0
    return root / "out"


def read(out: Path, ending: str) -> np.ndarray:
    return np.asarray(nib.load(out / f"sub-01/dwi/sub-01_{ending}.nii.gz").dataobj)


def test_numbers_are_those_of_the_maps(out):
    rows = table(out)
    assert [(row["segmentation"], row["index"], row["name"]) for row in rows] == [
        ("rois:organs", "3, 4", "left"),
        ("rois:organs", "8", "right"),
        ("rois:organs", "9", "outside"),
        ("rois:side", "1", "1"),
    ]
    maps = {label: read(out, f"model-ivim_param-{label}_dwimap") for label in ("f", "d", "dstar")}
    flags = read(out, "desc-ivimflags_dseg")
    for row, where in zip(rows, (np.isin(labels(), [3, 4]), labels() == 8, labels() == 9), strict=False):
        inside = where & np.isfinite(maps["f"])
        assert int(row["voxels"]) == inside.sum()
        assert float(row["share_inside"]) == pytest.approx(inside.sum() / where.sum())
        if not inside.any():
            assert {row[column.name] for column in COLUMNS[6:]} == {"n/a"}
            continue
        for label, values in maps.items():
            chosen = values[inside & (maps["f"] >= 0.02)] if label == "dstar" else values[inside]
            low, middle, high = np.percentile(chosen.astype(float), (25, 50, 75))
            numbers = [float(row[f"{label}_{name}"]) for name in ("median", "iqr", "std")]
            assert numbers == pytest.approx([middle, high - low, chosen.astype(float).std(ddof=1)], rel=1e-4)
            assert row[f"lsq_{label}_median"] == "n/a"
        assert float(row["flagged_share"]) == pytest.approx((flags[inside] > 0).mean())
        for spec in FLAGS:
            assert float(row[f"{spec.name}_share"]) == pytest.approx((flags[inside] == spec.code).mean())
    assert [row for column, row in rows[3].items() if column not in ("segmentation", "index", "name")] == [
        row for column, row in rows[1].items() if column not in ("segmentation", "index", "name")
    ]


def test_the_image_of_the_regions_counts_the_rows_of_the_table(out):
    codes, maps = read(out, "desc-regions_dseg"), read(out, "model-ivim_param-f_dwimap")
    # Of the second segmentation every voxel belongs to the first as well.
    expected = np.select([np.isin(labels(), [3, 4]), labels() == 8], [1, 2]) * np.isfinite(maps)
    assert np.array_equal(codes, expected)
    lookup = (out / "sub-01/dwi/sub-01_desc-regions_dseg.tsv").read_text().splitlines()
    assert lookup[0] == "index\tname\tsegmentation" and lookup[2] == "2\tright\trois:organs"
    assert [line.split("\t")[1] for line in lookup[1:]] == [row["name"] for row in table(out)]
    words = json.loads((out / "sub-01/dwi/sub-01_desc-regions_dseg.json").read_text())
    assert words["segmentation"]["Description"] and any("desc-side" in source for source in words["Sources"])
    marker = json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())
    assert "sub-01_desc-regions_dseg.nii.gz" in marker["Outputs"]


def test_the_page_of_voxels_has_their_borders(out):
    page = next((out / "sub-01/figures").glob("*_desc-voxels_dwi.html")).read_text()
    (text,) = re.findall('<script type="application/json" id="run">(.*?)</script>', page)
    shown = json.loads(text)
    assert shown["regions_kind"] == "Regions"
    assert [(region["code"], region["words"]) for region in shown["regions"]] == [(1, "left"), (2, "right")]


def test_odd_names_and_codes_of_regions_are_harmless_on_the_page(out):
    run = collect_run(out, "01", None, "sub-01")
    codes = run.region_codes.copy()
    codes[codes == 2] = -7
    codes[codes == 1] = np.where(np.arange((codes == 1).sum()) % 2, 1, 9999)
    odd = replace(run, region_codes=codes, regions=[{"name": "</script>\u202e" + "x" * 90}, *run.regions[1:]])
    page = voxel_page(odd, report="r.html", version="1")[1].decode()
    (text,) = re.findall('<script type="application/json" id="run">(.*?)</script>', page)
    (region,) = json.loads(text)["regions"]
    assert region["code"] == 1 and "\u202e" not in region["words"] and len(region["words"]) < 60


def test_the_fit_of_the_mean_signal_finds_the_truth(out):
    for row in table(out)[:2]:
        found = [float(row[f"mean_signal_{label}"]) for label in ("f", "d", "dstar")]
        assert found == pytest.approx(TRUTH[row["name"]], rel=0.1)
        assert float(row["mean_signal_s0"]) == pytest.approx(1000, rel=0.02)


def test_columns_are_described_and_signals_are_there(out):
    words = json.loads((out / "sub-01/dwi/sub-01_desc-regions_qc.json").read_text())
    rows = table(out)
    assert all(words[column]["Description"] for column in rows[0])
    assert words["dstar_median"]["Units"] == words["d_bound"]["Units"] == "mm^2/s"
    assert len(words["Signals"]) == len(rows) and words["BValues"] == sorted(set(BVALS))
    level = np.array(words["Signals"][0]["Mean"]) / 1000
    f, d, dstar = TRUTH["left"]
    assert level == pytest.approx(ivim_signal_maps(np.array(words["BValues"]), f, d, dstar), abs=0.02)
    assert set(words["Signals"][2]["Mean"]) == {None}
    assert any("desc-organs_dseg" in source for source in words["Sources"])
    marker = json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())
    assert "sub-01_desc-regions_qc.tsv" in marker["Outputs"]


def test_the_report_shows_them(out):
    page = unescape((out / "sub-01.html").read_text(encoding="utf-8"))
    assert "left (rois:organs)" in page and "1 (rois:side)" in page and "outside (rois:organs)" in page
    run = collect_run(out, "01", None, "sub-01")
    pictures = region_pictures(run)
    assert [picture.title for picture in pictures] == ["left", "right", "1"]
    assert all(picture.content.startswith(b"<?xml") and "Fit: F " in picture.caption for picture in pictures)


def test_damaged_tables_are_shown_as_far_as_they_go(out):
    run = collect_run(out, "01", None, "sub-01")
    signals = run.region_signals
    for broken in (
        {},
        {**signals, "Signals": "many"},
        {**signals, "Signals": [3, None, [], {}]},
        {**signals, "BValues": None},
        {**signals, "Signals": signals["Signals"][:1]},
    ):
        assert not region_pictures(replace(run, region_signals=broken))
    odd = [{"name": "<b>", "voxels": "x", "f_median": "inf"}, {}]
    assert shown_rows(replace(run, regions=odd))[0]["Region"] == "<b>"
    assert shown_rows(replace(run, regions=[])) == []
    many = [{**run.regions[0], "name": str(i), "voxels": str(i)} for i in range(100)]
    named = [row["Region"] for row in shown_rows(replace(run, regions=many))]
    assert named == [str(i) for i in range(100 - MOST_ROWS, 100)]
    repeated = {**signals, "Signals": [signals["Signals"][0]] * 100}
    drawn = region_pictures(replace(run, regions=many, region_signals=repeated))
    assert [picture.title for picture in drawn] == [str(i) for i in range(100 - MOST_CHARTS, 100)]


def test_without_a_segmentation_there_is_no_table(capsys, monkeypatch, tmp_path):
    leave_out_figures(monkeypatch)
    app, made = App(capsys), Dataset(tmp_path / "bids")
    add_run(made, "sub-01", data=images())
    assert app.quick(made, tmp_path / "out").code == 0
    assert not list((tmp_path / "out").glob("**/*regions*"))
    rois = add_segmentation(tmp_path / "rois", labels(), NAMES)
    planned = app.quick(made, tmp_path / "other", "--dry-run", "-v", "-d", f"rois={rois}")
    assert planned.code == 0 and "sub-01_desc-regions_qc.tsv" in planned.text


@given(arrays(np.int64, st.integers(0, 60), elements=st.integers(-1, 4)))
def test_members_are_the_voxels_of_each_region(positions):
    found = Regions(tuple("abcde"), positions, np.full(5, 100), tuple((k,) for k in range(5)))
    for position, members in enumerate(found.members):
        assert np.array_equal(members, np.flatnonzero(positions == position))


def test_the_conventional_fit_and_bounds_stand_beside(tmp_path):
    result = make_result(tmp_path, comparison=True)
    mask = result.averaged.mask
    regions = Regions(("all",), np.zeros(int(mask.sum()), dtype=int), np.array([mask.sum()]), ((1,),))
    measured = MeasuredRegions.of(
        "rois", tmp_path / "x.nii.gz", "BIDS", regions, result.averaged.signals[mask]
    )
    result = replace(result, regions=[measured])
    (row,) = region_rows(result)
    for label in ("f", "d", "dstar"):
        maps = result.conventional.maps
        where = mask & (maps["f"] >= 0.02) if label == "dstar" else mask
        assert row[f"lsq_{label}_median"] == pytest.approx(np.median(maps[label][where]), rel=1e-6)
    medians = [row[f"{label}_median"] for label in ("f", "d", "dstar")]
    s0 = np.median(result.estimate.maps["s0"][mask])
    bounds = cramer_rao_bounds(result.averaged.bvals, result.averaged.sigma_per_bval, *medians, s0)
    assert [row[f"{label}_bound"] for label in ("f", "d", "dstar")] == pytest.approx(
        [float(bounds[label]) for label in ("f", "d", "dstar")]
    )
    # Without a fit of the mean there is no number, and the run is written all the same.
    assert row["mean_signal_f"] is None
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    assert not region_pictures(collect_run(tmp_path / "out", "01", None, "sub-01"))
    unknown = np.zeros_like(result.averaged.noise)
    silent = replace(result, averaged=replace(result.averaged, noise=unknown))
    assert region_rows(silent)[0]["f_bound"] is None
