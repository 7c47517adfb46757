"""The standard deviations of an ensemble in the report and the quality table."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import make_result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.report.display import plan_display
from sicnn_app.report.figures import FADES, fading, map_picture
from sicnn_app.report.html import build_report
from sicnn_app.report.quantities import tissue_quantities
from sicnn_app.report.spread import faded_words

DWI = Path("sub-01") / "dwi"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    result = make_result(folder, ensemble=True)
    result.estimate.parameters["ensemble"] = 5
    result.estimate.parameters["ensemble_spread_factor"] = {"f": 3.1, "d": 3.4, "dstar": 2.25}
    write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={})
    # Drawing takes most of the time: the other maps are left out.
    for label in ("s0", "rmse", "dstar"):
        for path in (folder / "out" / DWI).glob(f"*_param-{label}_*dwimap.nii.gz"):
            path.unlink()
    return folder / "out"


@pytest.fixture(scope="module")
def html(out):
    return build_report(out, "01", None).read_text(encoding="utf-8")


def test_the_page_shows_them_with_their_factors(html):
    assert "How sure the maps are" in html
    text = unescape(re.sub(r"<[^>]+>", " ", html))
    assert "Standard deviations over 5 networks" in text
    assert "(3.10 for F, 3.40 for D, 2.25 for D*)" in text
    alts = [unescape(alt) for alt in re.findall(r'alt="([^"]*)"', html)]
    assert [alt for alt in alts if alt.startswith("Map of the standard deviation of F ")]
    assert [alt for alt in alts if alt.startswith("Map of the standard deviation of D ")]
    # Without its map nothing is said of the spread of D*.
    assert not [alt for alt in alts if alt.startswith("Map of the standard deviation of D*")]


def test_the_numbers_are_those_of_the_files(out, html):
    with (out / DWI / "sub-01_desc-ivim_qc.tsv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    spread = nib.load(out / DWI / "sub-01_model-ivim_param-d_desc-std_dwimap.nii.gz").get_fdata()
    median = np.median(spread[np.isfinite(spread)])
    assert float(row["d_std_median"]) == pytest.approx(median, rel=1e-4)
    assert float(row["dstar_std_median"]) > 0
    alt = next(
        a for a in re.findall(r'alt="([^"]*)"', html) if a.startswith("Map of the standard deviation of D ")
    )
    assert float(re.search(r"median ([\d.]+)", alt)[1]) == pytest.approx(1e3 * median, rel=0.01)


def test_without_an_ensemble_there_is_no_such_section(tmp_path):
    result = make_result(tmp_path)
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    for path in (tmp_path / "out" / DWI).glob("*_dwimap.nii.gz"):
        if "param-f_" not in path.name:
            path.unlink()
    html = build_report(tmp_path / "out", "01", None).read_text(encoding="utf-8")
    assert "How sure" not in html
    with (tmp_path / "out" / DWI / "sub-01_desc-ivim_qc.tsv").open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    assert row["f_std_median"] == "n/a"


F, DSTAR = (quantity for quantity in tissue_quantities("body") if quantity.spec.label in ("f", "dstar"))


def test_colours_fade_with_the_relative_standard_deviation():
    values, spread = np.full(5, 0.2), np.array([0.04, 0.06, 0.12, 0.3, np.nan])
    assert list(fading(values, spread, F)) == [0, *(share for _, share in FADES), 0]


def test_a_value_near_0_that_is_known_does_not_fade_but_a_small_dstar_does():
    assert fading(np.array([0.0]), np.array([0.01]), F) == 0
    assert fading(np.array([0.01]), np.array([0.009]), DSTAR) > 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 10))
def test_more_uncertainty_never_fades_less(value, first, more):
    shares = fading(np.full(2, value), np.array([first, first + more]), F)
    assert 0 <= shares[0] <= shares[1] < 1


def test_a_map_of_what_is_not_known_is_grey_and_the_page_says_why(out, html):
    run = collect_run(out, "01", None, "sub-01")
    display = plan_display(run.mask, run.affine, run.zooms)
    pictures = []
    for relative in (0.0, 9.0):
        content = map_picture(run, display, F, run.maps["f"], run.mask, relative * run.maps["f"])
        pictures.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int))
    known, unknown = (float(np.ptp(picture, axis=-1).mean()) for picture in pictures)
    assert unknown < 0.5 * known
    assert all(f"{100 * limit:.0f}" in faded_words(run) for limit, _ in FADES)
    assert faded_words(run) in html
