"""Preprocessing as a whole: a phantom in, averaged signals, noise and a record out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import DataError
from sicnn_app.ivim.normalise import normalise
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings

BVALS = np.array([0, 0, 0, 10, 20, 50, 100, 200, 400, 400, 800, 2000], dtype=float)
SIGMA = 5.0
_U, _V, _ = np.abs(np.indices((24, 20, 2)) - np.array([11.5, 9.5, 0.5])[:, None, None, None])
BODY = (_U < 8) & (_V < 6) & (_U + _V < 11)
"""An octagon: the median filter of the mask rounds sharp corners."""


def phantom(bvals=BVALS, seed=0, sigma=SIGMA) -> DwiSeries:
    rng = np.random.default_rng(seed)
    s0 = np.where(BODY, 200.0, 0.0)
    truth = ivim_signal_maps(
        bvals, np.full(s0.shape, 0.15), np.full(s0.shape, 0.0015), np.full(s0.shape, 0.03), s0
    )
    noise = sigma * rng.standard_normal((2, *truth.shape))
    return DwiSeries(np.hypot(truth + noise[0], noise[1]).astype(np.float32), bvals, None, np.eye(4))


def prepared(series, anatomy="body", external_mask=None, **options):
    return prepare(
        series, anatomy=anatomy, external_mask=external_mask, settings=PreprocessingSettings(**options)
    )


def test_a_phantom_end_to_end():
    result = prepared(phantom())
    averaged = result.averaged
    assert averaged.bvals.tolist() == [0, 10, 20, 50, 100, 200, 400, 800]
    assert averaged.repeats.tolist() == [3, 1, 1, 1, 1, 1, 2, 1]
    np.testing.assert_array_equal(averaged.mask, BODY)
    assert averaged.sigma == pytest.approx(SIGMA, rel=0.1)
    np.testing.assert_allclose(averaged.sigma_per_bval, averaged.sigma / np.sqrt(averaged.repeats))
    truth = ivim_signal_maps(averaged.bvals, 0.15, 0.0015, 0.03, 200.0)
    np.testing.assert_allclose(averaged.signals[BODY].mean(axis=0), truth, rtol=0.02)
    assert result.series.signals.shape[3] == 11
    assert result.normaliser_bval == 0


def test_the_steps_are_recorded_in_order_and_serialisable():
    result = prepared(phantom())
    names = [step["Name"] for step in result.steps]
    assert names == [
        "Volume selection",
        "Mask",
        "Averaging of repeats and directions",
        "Noise estimate",
        "Normalisation",
    ]
    assert all(step["Description"] for step in result.steps)
    json.dumps(result.steps, allow_nan=False)
    assert result.steps[1]["Voxels"] == BODY.sum()
    assert result.steps[3]["MedianSignalToNoiseRatio"] == pytest.approx(200 / SIGMA, rel=0.1)


def test_only_the_left_out_volumes_are_warned_about():
    (warning,) = prepared(phantom()).warnings
    assert "--max-bval 1000" in warning and "2000" in warning


def test_without_b_0_the_lowest_b_normalises_and_is_told():
    keep = BVALS > 0
    result = prepared(phantom().select(keep), max_bval=2500)
    assert result.normaliser_bval == 10
    assert result.steps[-1]["NormalisationBValue"] == 10
    assert any("lowest b-value, 10" in warning for warning in result.warnings)


def test_a_given_mask_is_used_as_it_is():
    mask = np.zeros(BODY.shape, dtype=np.float32)
    mask[6:9, 6:9, 0] = 0.5
    result = prepared(phantom(), external_mask=mask)
    np.testing.assert_array_equal(result.averaged.mask, mask > 0)
    assert result.mask_method == "given"


def test_a_given_mask_of_another_shape_is_refused():
    with pytest.raises(DataError, match="shape"):
        prepared(phantom(), external_mask=np.ones((3, 3, 3)))


def test_brain_masks_come_from_median_otsu():
    result = prepared(phantom(), anatomy="brain")
    assert "median_otsu" in result.mask_method
    # On 24 x 20 voxels its four median passes move the edge by up to a voxel.
    assert result.averaged.mask[BODY].all()
    assert np.count_nonzero(result.averaged.mask & ~BODY) < 0.2 * BODY.sum()


@pytest.mark.parametrize("anatomy", ["brain", "body"])
def test_an_image_without_positive_signal_is_refused(anatomy):
    signals = np.full((5, 5, 1, 5), -1.0, dtype=np.float32)
    series = DwiSeries(signals, np.array([0.0, 10, 50, 100, 400]), None, np.eye(4))
    with pytest.raises(DataError, match="mask is empty"):
        prepared(series, anatomy)


def test_noise_free_data_pass():
    result = prepared(phantom(sigma=0.0))
    np.testing.assert_array_equal(result.averaged.mask, BODY)
    assert np.isfinite(result.averaged.sigma) and result.averaged.sigma < 0.2
    json.dumps(result.steps, allow_nan=False)


@pytest.mark.parametrize("shape", [(24, 1, 1), (1, 1, 1), (24, 20, 1)])
@pytest.mark.parametrize("anatomy", ["brain", "body"])
def test_thin_and_tiny_images_pass(shape, anatomy):
    crop = phantom().signals[4:20, 4:16]
    signals = np.tile(crop, (2, 2, 1, 1))[: shape[0], : shape[1], : shape[2]]
    result = prepared(DwiSeries(signals, BVALS, None, np.eye(4)), anatomy)
    assert result.averaged.mask.any()
    assert np.isfinite(result.averaged.signals).all() and result.averaged.sigma > 0


def test_nan_islands_leave_the_mask_and_nothing_not_finite_comes_out():
    series = phantom()
    signals = series.signals.copy()
    signals[8:10, 8:10] = np.nan
    signals[12, 12, 0, 7] = np.nan
    result = prepared(DwiSeries(signals, series.bvals, None, series.affine))
    assert not result.averaged.mask[8:10, 8:10].any()
    assert not result.averaged.mask[12, 12, 0], "its only volume at b = 200 is missing"
    assert result.averaged.mask[12, 12, 1]
    assert np.isfinite(result.averaged.signals).all()
    assert np.count_nonzero(BODY & ~result.averaged.mask) == 9
    assert any("9 voxels" in warning for warning in result.warnings)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(BVALS.size)))
def test_the_order_of_volumes_does_not_matter(order):
    series = phantom()
    shuffled = DwiSeries(series.signals[..., order], BVALS[list(order)], None, series.affine)
    first, other = prepared(series).averaged, prepared(shuffled).averaged
    np.testing.assert_array_equal(other.mask, first.mask)
    np.testing.assert_allclose(other.signals, first.signals, rtol=1e-6)
    assert other.sigma == pytest.approx(first.sigma, rel=1e-6)


def test_normalised_signals_are_relative_to_the_lowest_b():
    averaged = prepared(phantom()).averaged
    normalised, normaliser = normalise(averaged.signals, averaged.mask)
    assert normalised.dtype == np.float32 and normaliser.dtype == np.float32
    np.testing.assert_array_equal(normalised[BODY][:, 0], 1.0)
    np.testing.assert_allclose(normalised * normaliser[..., None], averaged.signals, rtol=1e-6)
    assert not normalised[~BODY].any() and not normaliser[~BODY].any()


def test_a_normaliser_that_is_not_positive_gives_zeros():
    signals = np.array([[-1.0, 5, 4, 3], [0.0, 5, 4, 3], [2.0, 1, 1, 0.5]], dtype=np.float32)[:, None, None]
    averaged = AveragedSignals(
        signals=signals,
        bvals=np.array([0.0, 10, 100, 400]),
        mask=np.ones((3, 1, 1), dtype=bool),
        repeats=np.ones(4, dtype=int),
        directions=np.ones(4, dtype=int),
        sigma=1.0,
        sigma_per_bval=np.ones(4),
        sigma_method="known",
    )
    normalised, normaliser = normalise(averaged.signals, averaged.mask)
    np.testing.assert_array_equal(normaliser.ravel(), [0, 0, 2])
    np.testing.assert_array_equal(normalised[:, 0, 0], [[0] * 4, [0] * 4, [1, 0.5, 0.5, 0.25]])
