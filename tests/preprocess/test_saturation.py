"""Signals that were cut off, and images that look a little like it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.phantoms.acquire import acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.saturation import saturated_voxels, saturation_levels
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings

BVALS = np.array([0.0, 0, 10, 20, 50, 100, 200, 400, 600, 800])
PLAIN = PreprocessingSettings(denoise="none", motion_correction="none")


def images(
    preset: str, snr: float, *, shape=(32, 28, 2), bvals=BVALS, seed: int = 0, texture: float = 0.1
) -> np.ndarray:
    phantom = make_phantom(preset, shape, seed=seed, texture=texture)
    return acquire(phantom, np.asarray(bvals), snr=snr, seed=seed)


def as_type(signals: np.ndarray, dtype: type, largest: float) -> np.ndarray:
    """Scaled to a largest value, rounded where the type has whole numbers."""
    scaled = signals * largest / signals.max()
    return (np.rint(scaled) if np.issubdtype(dtype, np.integer) else scaled).astype(dtype).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["abdomen", "brain"]),
    st.sampled_from([5.0, 20.0, 100.0]),
    st.sampled_from(
        [(np.int16, 4095), (np.int16, 32767), (np.uint16, 65535), (np.uint8, 255), (np.float32, 1)]
    ),
    st.sampled_from([1, 2]),
    st.floats(80, 96),
)
def test_what_is_cut_off_is_found_voxel_by_voxel(preset, snr, end, slices, percentile):
    dtype, largest = end
    true = images(preset, snr, shape=(32, 28, slices))
    cut_at = np.percentile(true[..., 0], percentile)
    signals = as_type(np.minimum(true, cut_at), dtype, largest)
    levels = saturation_levels(signals)
    assert levels[0] == largest
    found = saturated_voxels(signals, levels)
    assert found[(true[..., 0] > cut_at)].all()
    assert not found[(true < 0.95 * cut_at).all(axis=-1)].any()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["abdomen", "brain"]),
    st.sampled_from([5.0, 20.0, 100.0, np.inf]),
    st.sampled_from([(np.int16, 1000), (np.int16, 4095), (np.uint8, 200), (np.uint8, 40), (np.float32, 1)]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([[0, 200, 400, 800], BVALS, np.tile(BVALS, 5)]),
)
def test_no_image_that_ends_below_is_taken_for_it(preset, snr, end, texture, bvals):
    signals = as_type(images(preset, snr, bvals=bvals, texture=texture), *end)
    assert np.isnan(saturation_levels(signals)).all()


@pytest.mark.parametrize(
    "signals",
    [
        np.repeat(np.indices((20, 20, 2)).sum(axis=0)[..., None] > 15, 6, axis=3),
        np.random.default_rng(0).integers(0, 6, (20, 20, 2, 6)),
        np.random.default_rng(0).integers(0, 100, (64, 64, 2, 6)),
        np.zeros((4, 4, 2, 6)),
        np.full((4, 4, 2, 6), np.nan),
        -np.random.default_rng(0).uniform(size=(20, 20, 2, 6)),
    ],
    ids=["mask", "labels", "many labels", "zeros", "nan", "negative"],
)
def test_what_is_no_image_is_not_cut_off(signals):
    assert np.isnan(saturation_levels(signals.astype(np.float32))).all()


def test_runs_of_another_gain_have_levels_of_their_own():
    true = images("abdomen", 40.0)
    one = np.minimum(true, np.percentile(true[..., 0], 95))
    both = np.concatenate([one, np.float32(1.3) * one], axis=3).astype(np.float32)
    levels = saturation_levels(both)
    assert levels[0] == pytest.approx(one.max())
    assert levels[BVALS.size] == pytest.approx(1.3 * one.max())


def test_missing_values_hide_nothing():
    signals = np.minimum(images("abdomen", 40.0), 900).astype(np.float32)
    signals[3:5, 3:5] = np.nan
    assert saturation_levels(signals)[0] == 900


def test_share_and_volumes_are_told():
    true = images("abdomen", 40.0)
    series = DwiSeries(np.minimum(true, 900).astype(np.float32), BVALS, None, np.eye(4))
    done = prepare(series.select(np.arange(10) != 1), anatomy="body", settings=PLAIN)
    (said,) = [text for text in done.warnings if "cut off" in text]
    share = 100 * done.saturated[done.averaged.mask].mean()
    assert f"cut off at 900 in {share:.3g} %" in said
    assert "volumes 0, 2" in said
    assert share > 1


def test_nothing_is_told_of_good_images():
    series = DwiSeries(images("abdomen", 40.0).astype(np.float32), BVALS, None, np.eye(4))
    done = prepare(series, anatomy="body", settings=PLAIN)
    assert not done.saturated.any()
    assert not any("cut off" in text for text in done.warnings)
