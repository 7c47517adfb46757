"""The carpet of volumes: what fell out is in its row and column, and volumes in question are shown."""

from __future__ import annotations

import io
import json
import re
from html import unescape

import numpy as np
import pytest
from app_runs import App, add_run
from bids_datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sicnn_app.ivim.carpet import MOST_PICTURES, NOWHERE, Carpet
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.phantoms.acquire import acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.judgement import Judgement, judge
from sicnn_app.report.carpet import carpet_picture

BVALS = np.array([0.0, 10.0, 20.0, 40.0, 75.0, 150.0, 250.0, 400.0, 600.0]).repeat(3)
PHANTOM = make_phantom("abdomen", shape=(40, 40, 3), seed=3)
IMAGES = acquire(PHANTOM, BVALS, snr=40.0, seed=0).astype(np.float32)


def judged(data: np.ndarray, bvals: np.ndarray = BVALS, **options) -> tuple[Judgement, Carpet]:
    judgement = judge(DwiSeries(data, bvals, None, np.eye(4)), **options)
    assert judgement.carpet is not None
    return judgement, judgement.carpet


def rows_of(carpet: Carpet, name: str) -> np.ndarray:
    ends = np.cumsum(list(carpet.groups.values()))
    place = list(carpet.groups).index(name)
    return carpet.ratios[ends[place] - carpet.groups[name] : ends[place]]


@settings(deadline=None, max_examples=10)
@given(volume=st.integers(0, 23), k=st.integers(0, 2), left=st.floats(0.0, 0.5))
def test_a_lost_slice_is_dark_in_its_row_and_column_alone(volume, k, left):
    data = IMAGES.copy()
    data[:, :, k, volume] *= left
    judgement, carpet = judged(data)
    assert carpet.grouped_by == "slice" and list(carpet.groups) == ["0", "1", "2"]
    level = np.stack([np.median(rows_of(carpet, name), axis=0) for name in carpet.groups])
    assert level[k, volume] < 0.7
    level[k, volume] = 1.0
    assert np.all(np.abs(level - 1) < 0.2)
    (suspect,) = carpet.suspects
    assert (suspect.volume, suspect.slice_index, suspect.bval) == (volume, k, BVALS[volume])
    same = [i for i in np.flatnonzero(BVALS[volume] == BVALS) if i != volume]
    assert list(suspect.others) == same
    assert np.array_equal(suspect.image, data[:, :, k, volume])
    assert np.allclose(suspect.reference, np.median(data[:, :, k][..., same], axis=-1))
    # Most blocks of the slice, and no air.
    assert judgement.volumes[volume].fell_out_by_slice[k] > 0.8 and suspect.fallen.any()
    assert (PHANTOM.labels[:, :, k][suspect.fallen] > 0).all()


def test_regions_are_groups_and_what_lies_in_none_is_last():
    data, regions = IMAGES.copy(), np.zeros(IMAGES.shape[:3], dtype=int)
    regions[22:32, 15:25, 1], regions[8:20] = 7, 2
    data[..., 14][regions == 7] *= 0.2
    _, carpet = judged(data, regions=(regions, {2: "large", 7: "small"}))
    assert carpet.grouped_by == "region" and list(carpet.groups) == ["large", "small", NOWHERE]
    assert sum(carpet.groups.values()) == len(carpet.ratios)
    assert np.median(rows_of(carpet, "small")[:, 14]) < 0.5
    assert np.all(np.abs(np.median(rows_of(carpet, "large"), axis=0) - 1) < 0.2)


def test_of_many_regions_those_that_lost_signal_are_kept():
    x, y, z = np.indices(IMAGES.shape[:3])
    regions = 1 + x // 8 + 5 * (y // 8) + 25 * z
    data = IMAGES.copy()
    chosen = regions == regions[24, 20, 2]
    data[..., 14][chosen] *= 0.2
    _, carpet = judged(data, regions=(regions, {}))
    assert str(regions[24, 20, 2]) in carpet.groups and "other regions" in carpet.groups
    assert len(carpet.groups) <= 12


def test_a_volume_alone_at_its_b_value_is_shown_beside_the_nearest():
    alone = np.arange(0, BVALS.size, 3)
    data = IMAGES[..., alone].copy()
    data[:, :, 1, 4] *= 0.3
    _, carpet = judged(data, BVALS[alone])
    (suspect,) = carpet.suspects
    assert (suspect.volume, suspect.others, suspect.other_bval) == (4, (3,), 40.0)


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1e4])
def test_a_map_among_the_volumes_has_a_grey_scale_of_its_own(scale):
    data = IMAGES.copy()
    data[..., 20] = scale * np.random.default_rng(0).gamma(2, 1, data.shape[:3]) * (PHANTOM.labels > 0)
    judgement, carpet = judged(data)
    assert judgement.volumes[20].found == ("derived map",)
    (suspect,) = carpet.suspects
    assert not suspect.one_scale
    dark = IMAGES.copy()
    dark[:, :, 1, 20] = 0
    (lost,) = judged(dark)[1].suspects
    assert lost.one_scale


def test_volumes_that_are_not_judged_have_no_colour_and_few_blocks_no_carpet():
    _, carpet = judged(IMAGES, ignored=np.arange(BVALS.size) == 5)
    assert np.isnan(carpet.ratios[:, 5]).all() and np.isfinite(np.delete(carpet.ratios, 5, axis=1)).all()
    few = judge(DwiSeries(IMAGES[18:21, 18:21, :1], BVALS, None, np.eye(4)))
    assert few.carpet is None


@settings(deadline=None, max_examples=5)
@given(
    groups=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
        st.integers(1, 4),
        min_size=1,
        max_size=30,
    ),
    volumes=st.integers(4, 300),
)
def test_a_carpet_of_any_size_and_names_can_be_drawn(groups, volumes):
    blocks = sum(groups.values())
    ratios = np.random.default_rng(0).normal(1, 0.3, (blocks, volumes))
    ratios[:, 0] = np.nan
    rows = [
        {
            "volume": i,
            "b_value": 10.0 * (i % 7),
            "found": "dropout" if i % 5 == 0 else "nothing",
            "used": "yes",
        }
        for i in range(volumes)
    ]
    with Image.open(io.BytesIO(carpet_picture(Carpet(ratios, "region", groups, ()), rows))) as picture:
        assert picture.width == 1200


@pytest.fixture(scope="module")
def spoilt() -> np.ndarray:
    data = IMAGES.copy()
    for volume in (4, 7, 10, 13, 16, 19, 22):
        data[:, :, volume % 3, volume] *= 0.2
    return data


def test_the_report_shows_six_and_names_the_others(capsys, tmp_path, spoilt):
    made = Dataset(tmp_path / "bids")
    add_run(made, "sub-01", data=spoilt, bvals=tuple(BVALS))
    app, out = App(capsys), tmp_path / "out"
    assert app.quick(made, out).code == 0
    recorded = json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())["VolumePictures"]
    shown = [entry["Volume"] for entry in recorded["Volumes"]]
    assert len(shown) == MOST_PICTURES and recorded["CarpetGroupedBy"] == "slice"
    (other,) = {4, 7, 10, 13, 16, 19, 22} - set(shown)
    page = unescape((out / "sub-01.html").read_text(encoding="utf-8"))
    pictures = re.findall(r'alt="A slice of volume (\d+) in question\. Dropout\. Fell out: (\d+)', page)
    assert [int(volume) for volume, _ in pictures] == shown
    assert all(int(share) > 50 for _, share in pictures)
    assert f"Without a picture: volumes {other}." in page
    carpet = re.search(r'alt="(Carpet of 27 volumes[^"]*)"', page)
    assert carpet is not None and all(f"{volume} (dropout)" in carpet[1] for volume in shown)
    assert app.quick(made, out, "--reports-only").code == 0
    assert unescape((out / "sub-01.html").read_text(encoding="utf-8")) == page
