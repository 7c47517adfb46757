"""The verdict and the conventional fit in the report, made from the derivatives alone."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import make_result

from sicnn_app.derivatives.facts import format_number
from sicnn_app.derivatives.write import write_run
from sicnn_app.report.html import build_report
from sicnn_app.report.quantities import difference_quantities
from sicnn_app.report.style import DIFFERENCES

DWI = Path("sub-01") / "dwi"


def write(tmp_path: Path, **options) -> Path:
    out = tmp_path / "out"
    write_run(make_result(tmp_path, **options), out, bids_dir=tmp_path / "bids", dataset_links={})
    return out


def only(out: Path, *labels: str) -> Path:
    """Leave only these maps: drawing takes most of the time of a test."""
    for path in (out / DWI).glob("*_dwimap.nii.gz"):
        if not any(f"param-{label}_" in path.name for label in labels):
            path.unlink()
    return out


def report(out: Path) -> str:
    return build_report(out, "01", None).read_text(encoding="utf-8")


def plain_text(html: str) -> str:
    text = re.sub(r"<style>.*?</style>|data:[^\"]+", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return write(tmp_path_factory.mktemp("compared"), comparison=True)


@pytest.fixture(scope="module")
def html(out):
    return report(out)


def test_the_page_says_every_check_with_word_sign_and_advice(out, html):
    recorded = json.loads((out / DWI / "sub-01_desc-ivim_qc.json").read_text())["Adequacy"]
    text = plain_text(html)
    assert recorded["Sentence"] in text
    signs = {"good": "✔", "doubtful": "≈", "poor": "✘", "unknown": "?"}
    for check in recorded["Checks"]:
        for word in ("Name", "Value", "Meaning"):
            assert plain_text(check[word]) in text
        assert f"{signs[check['Verdict']]} {check['Verdict']}" in text
    places = [
        html.index(text) for text in ('class="verdict', 'id="run-sub-01-maps', 'id="run-sub-01-adequacy')
    ]
    assert places == sorted(places)


def test_differences_and_charts_have_words_for_those_who_cannot_see_them(out, html):
    alts = [unescape(alt) for alt in re.findall(r'alt="([^"]*)"', html)]
    header, row = ((out / DWI / "sub-01_desc-ivim_qc.tsv").read_text().splitlines())[:2]
    numbers = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    for symbol, label in (("F", "f"), ("D", "d"), ("D*", "dstar")):
        (chart,) = (alt for alt in alts if alt.startswith(f"{symbol} by SI-CNN over {symbol} by least"))
        assert f"over {int(numbers[f'lsq_{label}_voxels'])} voxels" in chart
        pearson, spearman = (
            format_number(numbers[f"lsq_{label}_{name}"]) for name in ("pearson", "spearman")
        )
        assert f"Correlation {pearson}, of ranks {spearman}" in chart
        (difference,) = (alt for alt in alts if alt.startswith(f"Map of {symbol}, SI-CNN minus least"))
        assert "the median difference is" in difference
    names = {path.name for path in (out / "sub-01" / "figures").iterdir()}
    assert {f"sub-01_desc-{label}difference_dwi.png" for label in ("f", "d", "dstar")} <= names
    assert {f"sub-01_desc-{label}scatter_dwi.svg" for label in ("f", "d", "dstar")} <= names


def test_the_same_derivatives_give_the_same_page(tmp_path):
    out = only(write(tmp_path, comparison=True), "f")
    assert report(out) == report(out)


@pytest.mark.parametrize("parameter", ["rician_model", "noise_floor_taken_off", None])
def test_a_correction_of_the_noise_floor_is_told_where_maps_are_compared(tmp_path, parameter):
    out = only(write(tmp_path, comparison=True), "f")
    sidecar = out / DWI / "sub-01_model-ivim_param-f_dwimap.json"
    content = json.loads(sidecar.read_text())
    content["Model"]["Parameters"] |= {parameter: True} if parameter else {"rician_model": False}
    sidecar.write_text(json.dumps(content))
    told = "SI-CNN was corrected for the noise floor" in plain_text(report(out))
    assert told == (parameter is not None)


def test_least_squares_is_not_compared_with_itself(tmp_path):
    text = report(only(write(tmp_path, method="lsq", iterations=1), "f"))
    assert "Against the conventional fit" not in text and "Adequacy" in text


def test_outputs_of_earlier_versions_are_reported_without_verdict_and_comparison(tmp_path):
    out = only(write(tmp_path), "f")
    sidecar = out / DWI / "sub-01_desc-ivim_qc.json"
    content = json.loads(sidecar.read_text())
    del content["Adequacy"]
    sidecar.write_text(json.dumps(content))
    text = report(out)
    assert "Adequacy" not in text and "conventional fit" not in text and "Distribution of F" in text


@pytest.mark.parametrize(
    "adequacy", ["good", [], {"Checks": {}}, {"Checks": []}, {"Checks": [1, None]}, {"Checks": [{}]}]
)
def test_a_verdict_that_makes_no_sense_harms_nothing(tmp_path, adequacy):
    out = only(write(tmp_path))
    sidecar = out / DWI / "sub-01_desc-ivim_qc.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "Adequacy": adequacy}))
    assert "What was done" in report(out)


def test_a_missing_or_strange_map_of_the_fit_leaves_out_its_pictures_only(tmp_path):
    out = only(write(tmp_path, comparison=True), "f", "d")
    (out / DWI / "sub-01_model-ivim_param-d_desc-lsq_dwimap.nii.gz").unlink()
    path = out / DWI / "sub-01_model-ivim_param-f_desc-lsq_dwimap.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[4, 4] = np.nan
    nib.Nifti1Image(values, image.affine).to_filename(path)
    text = report(out)
    assert "Map of F, SI-CNN minus" in text and "Map of D, SI-CNN minus" not in text
    nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_filename(path)
    assert "the image f of least squares has another shape" in report(out)


def test_the_colours_of_differences_keep_the_sign_in_grey_and_say_nothing_at_zero():
    shades = DIFFERENCES(np.linspace(0, 1, 255))[:, :3]
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()
    red, green, blue = shades[127]
    assert red == green == blue
    for side in (shades[:100], shades[155:]):
        # Blue against red and green together is what all usual kinds of colour blindness leave.
        assert np.ptp(np.sign(side[:, 2] - side[:, :2].mean(axis=1))) == 0
    assert np.sign(shades[0, 2] - shades[0, 0]) != np.sign(shades[-1, 2] - shades[-1, 0])


@pytest.mark.parametrize("anatomy", ["body", "brain", None])
def test_ranges_of_differences_are_symmetrical_and_fixed(anatomy):
    found = difference_quantities(anatomy, "one minus other")
    assert [quantity.spec.label for quantity in found] == ["f", "d", "dstar"]
    for quantity in found:
        low, high = quantity.limits(np.array([1e9]))
        assert low == -high < 0 and quantity.unit
