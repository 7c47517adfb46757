"""Volumes judged: good ones are left alone, and every kind of bad one is found in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.phantoms.acquire import Protocol, acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.judgement import FOUND, judge

BVALS = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 250.0, 400.0, 600.0)
PHANTOM = make_phantom("abdomen", shape=(40, 40, 2), seed=3)


def images(bvals=BVALS, *, snr: float = 30.0, seed: int = 0, phantom=PHANTOM) -> np.ndarray:
    return acquire(phantom, np.asarray(bvals, dtype=float), snr=snr, seed=seed).astype(np.float32)


def judged(data: np.ndarray, bvals=BVALS, bvecs=None, **options):
    return judge(DwiSeries(data, np.asarray(bvals, dtype=float), bvecs, np.eye(4)), **options)


def in_question(judgement) -> list[int]:
    return [volume.volume for volume in judgement.volumes if volume.in_question]


def left_out(judgement) -> list[int]:
    return [volume.volume for volume in judgement.volumes if not volume.used]


@settings(deadline=None, max_examples=12)
@given(
    snr=st.floats(5, 100),
    seed=st.integers(0, 10**6),
    repeats=st.integers(1, 4),
    axis=st.integers(0, 2),
    gain=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_good_volumes_are_left_alone(snr, seed, repeats, axis, gain):
    bvals = np.repeat(BVALS, repeats)
    data = gain * np.moveaxis(images(bvals, snr=snr, seed=seed), 2, axis)
    judgement = judged(data, bvals)
    assert not in_question(judgement) and not judgement.contradictions and not judgement.warnings
    levels = [volume.level_to_decay for volume in judgement.volumes]
    assert np.allclose(levels, 1, atol=0.15)


@pytest.mark.parametrize("stated", [True, False], ids=["directions stated", "not stated"])
@pytest.mark.parametrize("directions", [3, 6, 16, 64])
def test_fibres_are_no_contradiction(directions, stated):
    protocol = Protocol((0.0, 50.0, 200.0, 1000.0), directions=directions, b0_repeats=3)
    bvals, bvecs = protocol.gradient_table()
    phantom = make_phantom("brain", shape=(40, 40, 2), seed=1)
    x, y, _ = np.indices(phantom.labels.shape)
    axes = np.stack([np.cos(0.15 * x), np.sin(0.15 * x), 0.2 * np.sin(0.3 * y)], axis=-1)
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    slow = np.exp(-bvals * (3e-4 + 1.4e-3 * (axes @ bvecs.T) ** 2))
    noise = np.random.default_rng(0).normal(0, 15.0, (2, *slow.shape))
    data = np.hypot(phantom.s0[..., None] * slow + noise[0], noise[1])
    judgement = judged(data, bvals, bvecs if stated else None, anatomy="brain")
    assert not in_question(judgement) and not judgement.contradictions


@pytest.mark.parametrize("snr", [10, 50])
def test_lost_signal_is_found_in_its_place(snr):
    bvals = np.repeat(BVALS, 3)
    data = images(bvals, snr=snr)
    regions = np.ones(data.shape[:3], dtype=int)
    regions[20:, :20] = 2
    lost = (regions == 2) & (np.arange(2) == 1)
    data[lost, 22] *= 0.3
    judgement = judged(data, bvals, regions=(regions, {1: "rest", 2: "lost"}))
    assert in_question(judgement) == [22] and not left_out(judgement)
    volume = judgement.volumes[22]
    assert volume.found == ("dropout",)
    assert volume.fell_out == pytest.approx(0.125, abs=0.04)
    assert list(volume.fell_out_by_slice) == [1]
    assert volume.fell_out_by_region["lost"] > 0.35
    assert volume.fell_out_by_region.get("rest", 0) < 0.05
    (warning,) = judgement.warnings
    assert "volume 22 " in warning and "in lost" in warning


@pytest.mark.parametrize("scale", [1e-6, 1.0, 2000.0], ids=["mm2/s", "um2/s", "arbitrary"])
@pytest.mark.parametrize("bval", [0, 600])
@pytest.mark.parametrize("place", [0, 6, 14])
def test_a_derived_map_is_left_out(scale, bval, place):
    bvals = np.array([0, 0, *BVALS], dtype=float)
    adc = (scale * 1e6 * PHANTOM.d * PHANTOM.mask).astype(np.float32)
    data = np.insert(images(bvals), place, adc, axis=3)
    judgement = judged(data, np.insert(bvals, place, bval))
    assert left_out(judgement) == [place] and not judgement.contradictions
    assert judgement.volumes[place].found == ("derived map",)


def test_a_trace_image_under_another_b_value_is_left_out():
    bvals = np.array([0, 0, *BVALS], dtype=float)
    trace = images([800.0] * 3, seed=5).mean(axis=3, keepdims=True)
    judgement = judged(np.concatenate([images(bvals), trace], axis=3), [*bvals, 0])
    assert left_out(judgement) == [14] and not judgement.contradictions


@pytest.mark.parametrize(("factors", "bvals"), [
    ([1.4], BVALS),
    ([1.4], (0, *BVALS)),
    ([1.4, 1.15], (0, 0, 0, *BVALS)),
    ([1.3, 1.3], (0, 0, 0, *BVALS)),
])  # fmt: skip
def test_first_volumes_out_of_steady_state_are_left_out(factors, bvals):
    data = images(bvals)
    data[..., : len(factors)] *= factors
    judgement = judged(data, bvals)
    assert left_out(judgement) and set(left_out(judgement)) <= set(range(len(factors)))
    assert 0 in left_out(judgement)
    assert judgement.volumes[0].found == ("not in steady state",)
    assert not judgement.contradictions


def test_a_spike_is_left_out():
    bvals = np.repeat(BVALS, 2)
    data = images(bvals)
    stripes = 400 * np.sin(2 * np.arange(40))[:, None, None]
    data[..., 13] = np.abs(data[..., 13] + stripes)
    judgement = judged(data, bvals)
    assert left_out(judgement) == [13]
    assert "spike" in judgement.volumes[13].found


@pytest.mark.parametrize("snr", [10, 50])
@pytest.mark.parametrize(("written", "volumes"), [
    ([0 if b <= 50 else b for b in BVALS], range(6)),
    ([50 if 0 < b <= 50 else b for b in BVALS], range(1, 6)),
])  # fmt: skip
def test_low_b_values_written_as_one_are_said(written, volumes, snr):
    judgement = judged(images(snr=snr), written)
    (contradiction,) = judgement.contradictions
    assert contradiction.volumes == tuple(volumes)
    assert not contradiction.cannot_be_right and not left_out(judgement)
    assert "low b-values were written as one" in str(contradiction)


@pytest.mark.parametrize("snr", [10, 50])
@pytest.mark.parametrize(("order", "words"), [
    (np.arange(12)[::-1], "in reverse"),
    (np.roll(np.arange(12), 1), "shifted by 1 volume "),
    (np.roll(np.arange(12), -2), "shifted by 2 volumes "),
    (np.random.default_rng(4).permutation(12), "sorted"),
])  # fmt: skip
def test_a_table_in_another_order_cannot_be_right(order, words, snr):
    judgement = judged(images(np.array(BVALS)[order], snr=snr))
    (contradiction,) = judgement.contradictions
    assert contradiction.cannot_be_right
    assert words in str(contradiction)


@pytest.mark.parametrize("gain", [0.6, 1.3, 3.0])
def test_a_part_of_another_gain_is_said(gain):
    bvals = [*BVALS, *BVALS]
    data = images(bvals)
    data[..., 12:] *= gain
    judgement = judged(data, bvals)
    (contradiction,) = judgement.contradictions
    assert f"{gain:.2f} times" in str(contradiction) and "from volume 12 on" in str(contradiction)
    assert not left_out(judgement)


def test_two_encodings_under_one_b_value_are_said():
    bvals = np.concatenate([np.zeros(4), np.repeat([50.0, 200.0, 800.0], 6)])
    data = images(bvals)
    data[..., [2, 3, 7, 8, 9, 13, 14, 15, 19, 20, 21]] *= 0.7
    judgement = judged(data, bvals)
    assert any("two encodings" in str(one) for one in judgement.contradictions)
    assert not any(one.cannot_be_right for one in judgement.contradictions)


def test_strength_in_the_lengths_of_vectors_is_used_where_it_fits():
    bvals = np.array([0, 0, *np.repeat([100.0, 400.0, 800.0], 4)])
    share = np.array([1, 1, *np.tile([0.1, 0.4, 0.7, 1.0], 3)])
    vectors = np.random.default_rng(0).normal(size=(14, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:2] = 0
    lengths = vectors * np.sqrt(share)[:, None]
    told = judged(images(bvals * share), bvals, lengths)
    np.testing.assert_allclose(told.bvals, bvals * share)
    (said,) = told.warnings
    assert "is used" in said
    ignored = judged(images(bvals), bvals, lengths)
    np.testing.assert_array_equal(ignored.bvals, bvals)
    assert "as written" in ignored.warnings[0]
    assert not judged(images(bvals), bvals, vectors).warnings


def test_values_cut_off_and_below_0_are_found():
    judgement = judged(np.minimum(images(), 700.0))
    found = [volume.found for volume in judgement.volumes]
    assert found[0] == found[1] == ("saturated",)
    interpolated = judged(images() - 40.0)
    assert "negative values" in interpolated.volumes[-1].found
    assert not in_question(interpolated) and not interpolated.warnings


@pytest.mark.parametrize("data", [
    images()[20:23, 20:23, :1], np.zeros((8, 8, 2, 12), np.float32), np.full((8, 8, 2, 12), 7, np.float32),
    np.full((8, 8, 2, 12), np.nan, np.float32), images()[..., :1],
], ids=["few voxels", "zeros", "constant", "NaN", "one volume"])  # fmt: skip
def test_what_cannot_be_judged_passes(data):
    judgement = judged(data, BVALS[: data.shape[3]])
    assert not judgement.contradictions and not left_out(judgement)
    assert len(judgement.volumes) == data.shape[3]


def test_volumes_without_data_or_ignored_say_nothing_about_others():
    bvals = (0, *BVALS)
    data = images(bvals)
    data[..., 5] = np.nan
    data[..., 8] = 0
    data[..., 0] *= 5
    ignored = np.arange(13) == 0
    judgement = judged(data, bvals, ignored=ignored)
    assert not in_question(judgement) and not judgement.contradictions
    assert judgement.volumes[5].row(used=False)["level_to_decay"] is None


def test_rows_hold_what_was_found():
    data = images()
    data[..., 0] *= 1.5
    rows = judged(data).rows(np.arange(1, 12))
    assert [row["volume"] for row in rows] == list(range(12))
    assert (rows[0]["found"], rows[0]["used"], rows[0]["weight"]) == ("not in steady state", "no", 0)
    assert (rows[1]["found"], rows[1]["used"], rows[1]["weight"]) == ("nothing", "yes", 1)
    assert rows[0]["level_to_decay"] == pytest.approx(1.5, abs=0.1)
    assert all(name in FOUND for volume in judged(data).volumes for name in volume.found)
