"""``ImageType`` of sidecars: what is told of a run, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from app_runs import BVALS, App, add_run, body, leave_out_figures
from bids_datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.preprocess.image_types import COMPUTED, OTHER_PARTS, contradictions_of_types


def told(*types: object, bvals=(0.0, 10.0, 50.0, 200.0, 800.0)) -> list[str]:
    """What is said of images of equal tables with these types."""
    images = [(f"image-{position}", stated) for position, stated in enumerate(types)]
    of_volume = np.repeat(np.arange(len(types)), len(bvals))
    found = contradictions_of_types(images, of_volume, np.tile(bvals, len(types)), np.arange(of_volume.size))
    return list(map(str, found))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM"], "an ADC map"),
        (["DERIVED", "PRIMARY", "ADC_SE", "ADC", "SE"], "an ADC map"),
        (["ORIGINAL", "PRIMARY", "DIFFUSION", "FA"], "fractional anisotropy"),
        (["DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVALUE"], "not measured"),
        (["DERIVED", "PRIMARY", "DIFFUSION", "TENSOR"], "tensor"),
        ("derived\\primary\\diffusion\\adc", "an ADC map"),
        (["ORIGINAL", "PRIMARY", "P", "ND"], "says phase"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "SE"], "says phase"),
        (["ORIGINAL", "PRIMARY", "M", "P"], "says phase"),
        (["ORIGINAL", "PRIMARY", "OTHER", "REAL"], "says real part"),
        (["ORIGINAL", "PRIMARY", "R", "I"], "says real part and imaginary part"),
    ],
)
def test_maps_and_parts_are_told(stated, words):
    (line,) = told(stated)
    assert words in line and "image-0" in line and "correct ImageType" in line


@pytest.mark.parametrize(
    "stated",
    [
        ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "NORM", "MOSAIC"],
        ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "MAGNITUDE"],
        ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
        ["DERIVED", "SECONDARY", "DIFFUSION", "MOCO", "DIS2D"],
        ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND", "NORM"],
        ["DERIVED", "PRIMARY", "DIFFUSION", "TENSOR_B0"],
        ["ORIGINAL", "PRIMARY", "T1", "MIXED"],
        ["DERIVED", "PRIMARY", "ADCX", "FATSAT", "PHASED", "EXPERT"],
        None,
        "",
        [],
        [3, None, ["ADC"], {"ADC": 1}],
        {"ADC": 1},
        7,
    ],
)
def test_signals_are_left_alone(stated):
    assert not told(stated)


@given(
    st.lists(
        st.text(alphabet="BCDEGHJKLNOQSUVWXYZ0123456789_ ", max_size=12)
        | st.sampled_from(["DERIVED", "M", "NONE"]),
        max_size=6,
    ),
    st.sampled_from([*COMPUTED, *OTHER_PARTS]),
    st.data(),
)
def test_a_word_is_found_wherever_it_stands(others, word, data):
    others = [text for text in others if "CALC" not in text and "B0" not in text]
    place = data.draw(st.integers(0, len(others)))
    stated = [
        *others[:place],
        data.draw(st.sampled_from([word, word.lower(), f"{word}_SE"])),
        *others[place:],
    ]
    assert len(told(stated)) == 1


def test_averages_are_told_among_single_directions_of_their_b_value_alone():
    trace, single = (
        ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"],
        ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
    )
    (line,) = told(single, trace)
    assert "volumes 6-9 (image-1) are averages over directions" in line
    assert not told(trace, trace) and not told(single, single) and not told(None, trace)
    # b = 0 belongs to no direction, and directions at low b-values do not share those of the averages.
    images, of_volume = [("a", single), ("b", trace)], np.array([0, 0, 0, 1, 1])
    assert not contradictions_of_types(images, of_volume, np.array([0, 10, 50.0, 0, 800]), np.arange(5))


def run(root: Path, image_type: object) -> Dataset:
    made = Dataset(root)
    add_run(made, "sub-01", data=body(), bvals=BVALS)
    made.write("sub-01/dwi/sub-01_dwi.json", json.dumps({"ImageType": image_type}))
    return made


def test_the_app_warns_or_stops(capsys, monkeypatch, tmp_path):
    leave_out_figures(monkeypatch)
    app, made = App(capsys), run(tmp_path / "bids", ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    call = app.quick(made, tmp_path / "out")
    assert call.code == 0 and "sub-01_dwi.nii.gz (DERIVED, PRIMARY, DIFFUSION, ADC)" in call.err
    record, *_ = json.loads((tmp_path / "out/sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())[
        "PreprocessingSteps"
    ]
    assert "an ADC map" in record["Contradictions"][0]
    stopped = app.quick(made, tmp_path / "other", "--on-contradiction", "stop")
    assert stopped.code == 65 and "an ADC map" in stopped.err
    fine = run(tmp_path / "fine", ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"])
    assert app.quick(fine, tmp_path / "third", "--on-contradiction", "stop").code == 0
