"""The page that shows single voxels: complete, exact to three digits, self-contained, of a good size."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import make_result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from voxel_pages import array_index, content, unpack

from sicnn_app import __version__
from sicnn_app.cli.main import main
from sicnn_app.derivatives.collect import RunDerivatives, collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.report import html
from sicnn_app.report.clusters import find_clusters
from sicnn_app.report.display import plan_display, turn_to_subject
from sicnn_app.report.html import build_report
from sicnn_app.report.packing import halve, pack_voxels
from sicnn_app.report.voxels import MAX_BYTES, voxel_page

PAGE = Path("sub-01") / "figures" / "sub-01_desc-voxels_dwi.html"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voxels")
    result = make_result(folder, ensemble=True, comparison=True)
    write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={})
    build_report(folder / "out", "01", None)
    return folder / "out"


@pytest.fixture(scope="module")
def run(out) -> RunDerivatives:
    return collect_run(out, "01", None, "sub-01")


@given(
    arrays(
        np.float64, st.integers(1, 40), elements=st.floats(-1e30, 1e30) | st.sampled_from([np.nan, np.inf])
    )
)
def test_numbers_come_back_to_three_digits(values):
    packed = halve(values)
    finite = np.isfinite(values)
    back = packed.numbers.astype(float) * packed.unit
    assert np.array_equal(np.isfinite(back), finite)
    largest = np.abs(values[finite]).max(initial=0)
    np.testing.assert_allclose(back[finite], values[finite], rtol=4.9e-4, atol=1e-9 * largest)


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-2.0, 1.0])] * 3), st.data())
def test_every_voxel_is_found_where_the_subject_has_it(axes, sizes, data):
    mask = data.draw(arrays(bool, (5, 4, 3)).filter(lambda mask: mask.any()))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(sizes)[:, axes]
    affine[:3, 3] = 7, -3, 11
    display = plan_display(mask, affine, (1.0, 1.0, 1.0))
    turned = turn_to_subject(mask, affine, (1.0, 1.0, 1.0), display)
    numbers = np.arange(mask.size).reshape(mask.shape)
    text = pack_voxels(
        mask, np.zeros(mask.shape, np.uint8), [np.zeros(mask.sum())] * 3, [halve(numbers[mask])], turned
    )
    run = {
        "shape": turned.shape,
        "axes": [int(axis) for axis in turned.orientation[:, 0]],
        "flipped": [bool(way < 0) for way in turned.orientation[:, 1]],
        "origin": [part.start for part in turned.crop],
        "fields": [{"name": "place", "unit": halve(numbers[mask]).unit}],
        "packed": text,
    }
    places, _, found = unpack(run)
    assert len(places) == mask.sum()
    # Axes of the box run to the right, to the front and up.
    assert (np.diag(turned.affine)[:3] > 0).all()
    for place, number in zip(places, found["place"], strict=True):
        index = array_index(run, place)
        assert numbers[index] == round(number)
        np.testing.assert_allclose(turned.affine @ [*place, 1], affine @ [*index, 1])


def test_the_page_holds_the_numbers_of_the_files(out, run):
    shown = content((out / PAGE).read_bytes())
    dwi = out / "sub-01" / "dwi"
    stem = "sub-01_model-ivim_param-"
    names = {label: f"{stem}{label}_dwimap" for label in ("f", "d", "dstar", "s0", "rmse")}
    names |= {f"{label}_std": f"{stem}{label}_desc-std_dwimap" for label in ("f", "d", "dstar")}
    names |= {f"{label}_lsq": f"{stem}{label}_desc-lsq_dwimap" for label in ("f", "d", "dstar", "s0")}
    files = {key: nib.load(dwi / f"{name}.nii.gz").get_fdata() for key, name in names.items()}
    flags = nib.load(dwi / "sub-01_desc-ivimflags_dseg.nii.gz").get_fdata()
    places, (found_flags, clusters, _), numbers = unpack(shown)
    index = tuple(np.array([array_index(shown, place) for place in places]).T)
    assert numbers.keys() == files.keys() | {f"signal_{b}" for b in range(6)}
    for name, volume in files.items():
        np.testing.assert_allclose(numbers[name], volume[index], rtol=5e-4)
    for position, signals in enumerate(run.measured.in_mask):
        volume = np.zeros(run.mask.shape)
        volume[run.mask] = signals
        np.testing.assert_allclose(numbers[f"signal_{position}"], volume[index], rtol=5e-4)
    assert np.array_equal(found_flags, flags[index])
    assert set(clusters) == {0, *(region["code"] for region in shown["regions"])}
    assert len(places) == int(run.mask.sum())


def test_the_page_is_linked_self_contained_and_the_same_every_time(out):
    report = (out / "sub-01.html").read_text()
    assert f'href="{PAGE.as_posix()}"' in report
    page = (out / PAGE).read_bytes()
    html = page.decode().split('<script type="application/json"')[0]
    back = re.search(r'href="(\S+?)#(\S+?)"[^>]*>back to the report', html)
    assert (out / PAGE).parent.joinpath(back[1]).resolve() == (out / "sub-01.html").resolve()
    assert f'id="{back[2]}"' in report
    assert not re.findall(r'(?:src|href)="(?!data:|#|\.\./\.\./sub-01\.html)[^"]*"', html)
    assert "default-src 'none'" in html
    again = collect_run(out, "01", None, "sub-01")
    address = "../../sub-01.html#run-sub-01"
    again_page = voxel_page(again, report=address, version=__version__, tissue=find_clusters(again))
    assert again_page == (PAGE.name, page)


def test_a_page_above_the_limit_is_there_when_asked_for_only(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_run(make_result(tmp_path, shape=(6, 7, 1)), out, bids_dir=tmp_path / "bids", dataset_links={})
    # Drawing takes most of the time: one map is enough.
    for path in [*out.rglob("*_dwimap.nii.gz"), *out.rglob("*_preproc_dwi.nii.gz")]:
        if "param-f_" not in path.name:
            path.unlink()
    for limit, level, there in ((MAX_BYTES, "default", 1), (10**6, "default", 0), (10**6, "full", 1)):
        monkeypatch.setattr(html, "MAX_BYTES", limit)
        assert main([str(out), str(out), "participant", "--reports-only", "--report-level", level]) == 0
        text = (out / "sub-01.html").read_text()
        assert (out / PAGE).exists() == ("Voxel by voxel" in text) == there
        assert ("would take 1 MB and is left out" in text) == (not there)


def test_without_maps_there_is_no_page(run):
    assert voxel_page(RunDerivatives("sub-01"), report="r.html", version="1") is None
    only_mask = RunDerivatives("sub-01", mask=run.mask, mask_label="body")
    assert voxel_page(only_mask, report="r.html", version="1") is None


def test_what_is_missing_is_left_out(run):
    bare = RunDerivatives("sub-01", maps={"f": run.maps["f"]}, mask=run.mask)
    shown = content(voxel_page(bare, report="r.html", version="1")[1])
    assert [field["name"] for field in shown["fields"]] == ["f"]
    assert shown["signals"] is None and shown["flags"] == [] and len(shown["views"]) == 1
