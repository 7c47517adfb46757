"""Whatever a dataset says reaches the report as text, and nothing of it as markup."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import App, leave_out_figures
from factories import make_result
from hostile_files import (
    IN_PLACE,
    SECRET,
    change_json,
    json_values,
    places,
    png_bomb,
    replaced,
    save,
    save_bomb,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.derivatives.write import write_run
from sicnn_app.report import html
from sicnn_app.report.html import build_report

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\u202e\x1b\u2066'
MARKS = ("<script>alert", "<img src=x", ">49<", "\u202e", "\x1b", "\u2066")


def poisoned(content):
    """The same JSON with every text replaced, except the few that are no text but a choice."""
    if isinstance(content, dict):
        return {
            key: value if key in ("Outputs", "Fingerprint") else poisoned(value)
            for key, value in content.items()
        } | {f"Key {HOSTILE}": HOSTILE}
    if isinstance(content, list):
        return [poisoned(item) for item in content]
    return HOSTILE if isinstance(content, str) else content


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    tmp_path = tmp_path_factory.mktemp("hostile")
    out = tmp_path / "out"
    result = replace(
        make_result(tmp_path, shape=(6, 7, 1), comparison=True), warnings=[HOSTILE], mask_source=HOSTILE
    )
    write_run(result, out, bids_dir=tmp_path / "bids", dataset_links={})
    for path in out.rglob("*.json"):
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    for path in out.rglob("*_qc.tsv"):
        head, *rows = path.read_text().splitlines()
        cells = [
            "\t".join(HOSTILE if not _number(cell) else cell for cell in row.split("\t")) for row in rows
        ]
        path.write_text("\n".join([head, *cells]) + "\n")
    build_report(out, "01", None, errors=[f"sub-01: {HOSTILE}"], large_pages=True)
    pages = [out / "sub-01.html", *out.glob("sub-01/figures/*.html")]
    assert len(pages) == 2
    return "".join(path.read_text(encoding="utf-8") for path in pages)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_nothing_of_it_is_markup(page):
    assert not [mark for mark in MARKS if mark in page]


def test_but_it_can_be_read(page):
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20


def test_a_damaged_table_or_sidecar_is_named_by_its_file_only(tmp_path: Path):
    out = tmp_path / "out"
    write_run(make_result(tmp_path, shape=(6, 7, 1)), out, bids_dir=tmp_path / "bids", dataset_links={})
    for path in out.rglob("*_param-f_dwimap.json"):
        path.write_text('{"Model": <script>alert(1)</script>')
    page = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "param-f_dwimap.json is not valid JSON" in page
    assert "<script>alert" not in page and str(tmp_path) not in page


# files that are not what they were


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Output folder with one run."""
    tmp_path = tmp_path_factory.mktemp("run")
    write_run(
        make_result(tmp_path, shape=(6, 7, 1), comparison=True, ensemble=True),
        tmp_path / "out",
        bids_dir=tmp_path / "bids",
        dataset_links={},
        pictures={"denoising": png_bomb(4)},
    )
    return tmp_path / "out"


@pytest.fixture
def out(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "data" / "out", symlinks=True))


def output(out: Path, ending: str) -> Path:
    (path,) = (out / "sub-01").rglob(f"*{ending}")
    return path


FILES = (
    "ivim_qc.json",
    "training_qc.json",
    "f_dwimap.json",
    "ivim_qc.tsv",
    "training_qc.tsv",
    "param-d_dwimap.nii.gz",
    "preproc_dwi.nii.gz",
    "preproc_dwi.bval",
    "stepdenoising_dwi.png",
)


@pytest.mark.parametrize("how", IN_PLACE)
@pytest.mark.parametrize("ending", FILES)
def test_what_is_no_file_of_the_folder_is_named_and_not_read(out, monkeypatch, ending, how):
    leave_out_figures(monkeypatch)
    path = output(out, ending)
    IN_PLACE[how](path)
    page = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "Files that could not be read" in page
    assert len(re.findall(f"<li>[^<]*{re.escape(path.name)} ", page)) == 1
    assert SECRET not in page and str(out) not in page


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_in_a_sidecar_ends_the_report(run, monkeypatch, data):
    leave_out_figures(monkeypatch)
    path = output(run, data.draw(st.sampled_from(FILES[:3])))
    good = path.read_bytes()
    content = json.loads(good)
    place = data.draw(st.sampled_from(list(places(content))))
    path.write_text(json.dumps(replaced(content, place, data.draw(json_values()))))
    try:
        build_report(run, "01", None, large_pages=True)
    finally:
        path.write_bytes(good)


DRAWN = {
    "a formula": lambda out: change_json(
        output(out, "f_dwimap.json"),
        lambda content: content["Model"]["Parameters"].update(method="$\\frac{$\0\x1b"),
    ),
    "losses": lambda out: change_json(
        output(out, "training_qc.json"),
        lambda content: content.update(TrainingLoss=[[1, 1, 1e308], [1e308, 2, -3], [10**400, 1, 2]]),
    ),
    "flags": lambda out: save(output(out, "dseg.nii.gz"), np.full((6, 7, 1), np.nan, np.float32)),
    "S0 of nothing": lambda out: save(output(out, "s0_dwimap.nii.gz"), np.zeros((6, 7, 1), np.float32)),
    "spread": lambda out: save(
        output(out, "f_desc-std_dwimap.nii.gz"), np.full((6, 7, 1), np.inf, np.float32)
    ),
    "comparison": lambda out: save(
        output(out, "f_desc-lsq_dwimap.nii.gz"), np.full((6, 7, 1), -3e38, np.float32)
    ),
    "signals": lambda out: save(output(out, "preproc_dwi.nii.gz"), np.full((6, 7, 1, 12), 3e38, np.float32)),
    "b-values": lambda out: output(out, "preproc_dwi.bval").write_text("0 " * 6 + "1e300 " * 6),
    "one b-value": lambda out: output(out, "preproc_dwi.bval").write_text("0 " * 12),
}


@pytest.mark.parametrize("what", DRAWN)
def test_what_no_chart_can_show_ends_no_report(out, what):
    DRAWN[what](out)
    page = build_report(out, "01", None, large_pages=True).read_text(encoding="utf-8")
    assert "cannot be shown" not in page


@pytest.mark.parametrize(("zooms", "position"), [((1e-30, 1e30, 1.0), 0), ((np.nan, np.inf, -1.0), 1)])
def test_voxels_of_no_size_are_shown_as_cubes(out, zooms, position):
    for path in out.rglob("*_dwimap.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        header = image.header.copy()
        header["pixdim"][1:4] = zooms
        header["sform_code"], header["qform_code"] = position, 0
        path.unlink()
        nib.Nifti1Image(values, None, header).to_filename(path)
    build_report(out, "01", None, large_pages=True)


def test_pictures_and_images_that_unfold_are_refused_before_they_take_memory(out, monkeypatch):
    leave_out_figures(monkeypatch)
    output(out, "stepdenoising_dwi.png").write_bytes(png_bomb(12_000))
    save_bomb(output(out, "param-d_dwimap.nii.gz"), (1400, 1400, 1400))
    save_bomb(output(out, "preproc_dwi.nii.gz"), (1400, 1400, 1400))
    tracemalloc.start()
    try:
        page = build_report(out, "01", None).read_text(encoding="utf-8")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "12000 x 12000 pixels" in page and "promises (1400, 1400, 1400) voxels" in page
    assert "preproc_dwi.nii.gz does not fit" in page
    assert peak < 100 << 20


def test_an_error_nobody_thought_of_is_that_of_one_run(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    for entities in ({"sub": "01", "run": "1"}, {"sub": "01", "run": "2"}, {"sub": "02"}):
        result = make_result(tmp_path, shape=(6, 7, 1), entities=entities)
        write_run(result, out, bids_dir=tmp_path / "bids", dataset_links={})
    leave_out_figures(monkeypatch)
    tabulate = html.tabulate_run
    monkeypatch.setattr(
        html, "tabulate_run", lambda run: 1 / 0 if run.name == "sub-01_run-1" else tabulate(run)
    )
    call = App(capsys)(tmp_path / "none", out, "--reports-only")
    assert call.code == 1, call.text
    page = (out / "sub-01.html").read_text(encoding="utf-8")
    assert "sub-01_run-1: cannot be shown (ZeroDivisionError)" in page
    assert 'id="run-sub-01_run-2"' in page and (out / "sub-02.html").is_file()
    (log,) = (out / "logs").glob("*.log")
    assert "sub-01.html: internal error (ZeroDivisionError" in call.err and log.name in call.err
    assert "Traceback" in log.read_text()
    assert App(capsys)(tmp_path / "none", out, "--reports-only", "--participant-label", "01").code == 70
