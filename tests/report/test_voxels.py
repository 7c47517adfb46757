"""The page that shows single voxels: complete, exact to its steps, self-contained, and never too large."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import make_result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sicnn_app import __version__
from sicnn_app.cli.main import main
from sicnn_app.derivatives.collect import RunDerivatives, collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.report.display import Display, plan_display
from sicnn_app.report.html import build_report
from sicnn_app.report.packing import pack_slices, plan_packing, quantise
from sicnn_app.report.voxels import voxel_page

PAGE = Path("sub-01") / "figures" / "sub-01_desc-voxels_dwi.html"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voxels")
    result = make_result(folder, ensemble=True, comparison=True)
    write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={})
    build_report(folder / "out", "01", None, interactive=True)
    return folder / "out"


@pytest.fixture(scope="module")
def run(out) -> RunDerivatives:
    return collect_run(out, "01", None, "sub-01")


def content(page: bytes) -> dict:
    """What the program of a page reads."""
    (text,) = re.findall(rb'<script type="application/json" id="run">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)


def unpack(run: dict, place: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Membership, shape (rows, columns), flags and numbers at the voxels of a slice."""
    data = base64.b64decode(run["packed"][place])
    pixels = run["rows"] * run["columns"]
    bits = -(-pixels // 8)
    inside = np.unpackbits(np.frombuffer(data[:bits], np.uint8))[:pixels].astype(bool)
    voxels = int(inside.sum())
    flags = np.frombuffer(data, np.uint8, voxels, bits + pixels)
    codes = np.frombuffer(data[bits + pixels + voxels :], f"<u{run['code_bytes']}")
    numbers = {}
    for field, row in zip(run["fields"], codes.reshape(len(run["fields"]), voxels), strict=True):
        numbers[field["name"]] = np.where(
            row == 0, np.nan, field["low"] + (row.astype(float) - 1) * field["step"]
        )
    return inside.reshape(run["rows"], run["columns"]), flags, numbers


def array_index(run: dict, row: int, column: int) -> tuple[int, int]:
    """Place in the first two axes of the file that a pixel shows."""
    row = run["rows"] - 1 - row if run["flip_down"] else row
    column = run["columns"] - 1 - column if run["flip_across"] else column
    first, second = (row, column) if run["transpose"] else (column, row)
    return first + run["origin"][0], second + run["origin"][1]


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6) | st.just(np.nan) | st.just(np.inf)),
    st.sampled_from([1, 2]),
)
def test_numbers_come_back_within_half_a_step(values, code_bytes):
    packed = quantise(values, code_bytes)
    finite = np.isfinite(values)
    assert np.array_equal(packed.codes > 0, finite)
    back = packed.low + (packed.codes[finite] - 1.0) * packed.step
    np.testing.assert_allclose(back, values[finite], rtol=1e-9, atol=packed.step * 0.5000001)


@given(
    arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 6), st.just(2))).filter(lambda m: m.any()),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_every_voxel_is_found_where_the_picture_shows_it(mask, transpose, across, down, code_bytes):
    display = Display(
        transpose, across, down, (slice(0, mask.shape[0]), slice(0, mask.shape[1])), (0,), 1.0, None, None
    )
    # Each voxel holds a number of its own, which is its place.
    numbers = np.arange(mask.size, dtype=float).reshape(mask.shape)
    quantised = quantise(numbers[mask], code_bytes)
    rows, columns = display.picture(mask[..., 0]).shape
    run = {
        "rows": rows,
        "columns": columns,
        "transpose": transpose,
        "flip_across": across,
        "flip_down": down,
        "origin": [0, 0],
        "code_bytes": code_bytes,
        "fields": [{"name": "place", "low": quantised.low, "step": quantised.step}],
        "packed": pack_slices(
            mask, np.zeros(mask.shape, np.uint8), np.zeros(int(mask.sum())), [quantised], display, (0, 1)
        ),
    }
    for place in (0, 1):
        inside, _, found = unpack(run, place)
        for (row, column), number in zip(np.argwhere(inside), found["place"], strict=True):
            assert numbers[(*array_index(run, row, column), place)] == round(number)
        assert inside.sum() == mask[..., place].sum()


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40), st.integers(100, 40_000))
def test_what_is_planned_stays_below_the_limit_or_is_one_slice(width, depth, fields, max_bytes):
    mask = np.ones((width, 5, depth), dtype=bool)
    display = plan_display(mask, np.eye(4), (1.0, 1.0, 1.0))
    slices, code_bytes = plan_packing(mask, display, fields, max_bytes)
    packed = [quantise(np.zeros(mask.sum()), code_bytes)] * fields
    texts = pack_slices(mask, np.zeros(mask.shape, np.uint8), np.zeros(mask.sum()), packed, display, slices)
    assert sum(map(len, texts)) <= max_bytes or len(slices) == 1
    if len(slices) < depth:
        assert code_bytes == 1


def test_the_page_holds_the_numbers_of_the_files(out, run):
    shown = content((out / PAGE).read_bytes())
    dwi = out / "sub-01" / "dwi"
    stem = "sub-01_model-ivim_param-"
    names = {label: f"{stem}{label}_dwimap" for label in ("f", "d", "dstar", "s0", "rmse")}
    names |= {f"{label}_std": f"{stem}{label}_desc-std_dwimap" for label in ("f", "d", "dstar")}
    names |= {f"{label}_lsq": f"{stem}{label}_desc-lsq_dwimap" for label in ("f", "d", "dstar", "s0")}
    files = {key: nib.load(dwi / f"{name}.nii.gz").get_fdata() for key, name in names.items()}
    flags = nib.load(dwi / "sub-01_desc-ivimflags_dseg.nii.gz").get_fdata()
    assert {field["name"] for field in shown["fields"]} == files.keys() | {f"signal_{b}" for b in range(6)}
    steps = {field["name"]: field["step"] for field in shown["fields"]}
    voxels = 0
    for place, k in enumerate(shown["slices"]):
        inside, found_flags, numbers = unpack(shown, place)
        pixels = np.argwhere(inside)
        index = tuple(np.array([(*array_index(shown, *pixel), k) for pixel in pixels]).T)
        for name, volume in files.items():
            np.testing.assert_allclose(numbers[name], volume[index], atol=0.51 * steps[name])
        assert np.array_equal(found_flags, flags[index])
        voxels += len(pixels)
    assert voxels == int(run.mask.sum())


def test_too_many_numbers_are_rounded_and_slices_left_out_and_the_page_says_so(run):
    pages = [voxel_page(run, report="r.html", version="1", max_bytes=size)[1] for size in (10**6, 4500, 2500)]
    shown = [content(page) for page in pages]
    assert [(item["code_bytes"], len(item["slices"])) for item in shown] == [(2, 3), (1, 3), (1, 2)]
    texts = [unescape(re.sub(r"<[^>]+>", " ", page.decode().split("<script")[0])) for page in pages]
    assert "rounded" not in texts[0]
    step = next(field["step"] for field in shown[1]["fields"] if field["name"] == "f")
    assert f"F in steps of {100 * step:.2g} %" in texts[1] and "left out" not in texts[1]
    assert "2 slices are shown, evenly spread, and 1 left out" in texts[2]


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
    assert voxel_page(again, report=address, version=__version__) == (PAGE.name, page)


def test_a_report_without_it_takes_the_page_away(tmp_path):
    out = tmp_path / "out"
    write_run(make_result(tmp_path, shape=(6, 7, 1)), out, bids_dir=tmp_path / "bids", dataset_links={})
    # Drawing takes most of the time: one map is enough.
    for path in [*out.rglob("*_dwimap.nii.gz"), *out.rglob("*_preproc_dwi.nii.gz")]:
        if "param-f_" not in path.name:
            path.unlink()
    for interactive in (True, False):
        level = "full" if interactive else "default"
        assert main([str(out), str(out), "participant", "--reports-only", "--report-level", level]) == 0
        text = (out / "sub-01.html").read_text()
        assert (out / PAGE).exists() == ("Voxel by voxel" in text) == interactive


def test_without_maps_there_is_no_page(run):
    assert voxel_page(RunDerivatives("sub-01"), report="r.html", version="1") is None
    only_mask = RunDerivatives("sub-01", mask=run.mask, mask_label="body")
    assert voxel_page(only_mask, report="r.html", version="1") is None


def test_what_is_missing_is_left_out(run):
    bare = RunDerivatives("sub-01", maps={"f": run.maps["f"]}, mask=run.mask)
    shown = content(voxel_page(bare, report="r.html", version="1")[1])
    assert [field["name"] for field in shown["fields"]] == ["f"]
    assert shown["signals"] is None and shown["flags"] == [] and len(shown["views"]) == 1
