"""Preprocessing as a whole: a phantom in, averaged signals, noise and a record out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.correction import Corrected
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.sicnn.cropping import normalise
from sicnn_app.steps import STEPS

BVALS = np.array([0, 0, 0, 10, 20, 50, 100, 200, 400, 400, 800, 2000], dtype=float)
SIGMA = 5.0
_U, _V, _ = np.abs(np.indices((24, 20, 2)) - np.array([11.5, 9.5, 0.5])[:, None, None, None])
BODY = (_U < 8) & (_V < 6) & (_U + _V < 11)
"""An octagon: the median filter of the mask rounds sharp corners."""


CORRECTIONS = ["Denoising", "Gibbs unringing", "Motion correction"]


def as_series(signals, bvals) -> DwiSeries:
    return DwiSeries(signals.astype(np.float32), bvals, None, np.eye(4))


def phantom(bvals=BVALS, seed=0, sigma=SIGMA) -> DwiSeries:
    rng = np.random.default_rng(seed)
    s0 = np.where(BODY, 200.0, 0.0)
    truth = ivim_signal_maps(
        bvals, np.full(s0.shape, 0.15), np.full(s0.shape, 0.0015), np.full(s0.shape, 0.03), s0
    )
    noise = sigma * rng.standard_normal((2, *truth.shape))
    return DwiSeries(np.hypot(truth + noise[0], noise[1]).astype(np.float32), bvals, None, np.eye(4))


def prepared(series, anatomy="body", external_mask=None, preprocessed=False, progress=None, **options):
    """Without the corrections, which have tests of their own, unless they are asked for."""
    settings = PreprocessingSettings(**{"denoise": "none", "motion_correction": "none", **options})
    return prepare(
        series,
        anatomy=anatomy,
        external_mask=external_mask,
        settings=settings,
        preprocessed=preprocessed,
        progress=progress,
    )


def step(result, name):
    (found,) = [step for step in result.steps if step["Name"] == name]
    return found


def test_a_phantom_end_to_end():
    result = prepared(phantom())
    averaged = result.averaged
    assert averaged.bvals.tolist() == [0, 10, 20, 50, 100, 200, 400, 800]
    assert averaged.repeats.tolist() == [3, 1, 1, 1, 1, 1, 2, 1]
    np.testing.assert_array_equal(averaged.mask, BODY)
    assert averaged.sigma == pytest.approx(SIGMA, rel=0.1)
    expected = averaged.sigma / np.sqrt(averaged.repeats)
    np.testing.assert_allclose(averaged.sigma_per_bval, expected, rtol=0.15)
    truth = ivim_signal_maps(averaged.bvals, 0.15, 0.0015, 0.03, 200.0)
    np.testing.assert_allclose(averaged.signals[BODY].mean(axis=0), truth, rtol=0.02)
    assert result.series.signals.shape[3] == 11
    assert result.normaliser_bval == 0


def test_the_steps_are_recorded_in_order_and_serialisable():
    result = prepared(phantom())
    names = [step["Name"] for step in result.steps]
    assert names == [
        "Judgement of volumes",
        "Volume selection",
        *(step.name for step in STEPS.values()),
        "Mask",
        "Averaging of repeats and directions",
        "Noise estimate",
        "Normalisation",
    ]
    assert all(step["Description"] for step in result.steps)
    json.dumps(result.steps, allow_nan=False)
    assert step(result, "Mask")["Voxels"] == BODY.sum()
    assert step(result, "Noise estimate")["MedianSignalToNoiseRatio"] == pytest.approx(200 / SIGMA, rel=0.1)


def test_the_signal_to_noise_ratio_is_told_for_every_bval():
    result = prepared(phantom())
    record = step(result, "Noise estimate")
    truth = ivim_signal_maps(result.averaged.bvals, 0.15, 0.0015, 0.03, 200.0) / SIGMA
    np.testing.assert_allclose(record["SignalToNoiseRatioPerBValue"], truth, rtol=0.1)
    averaged = truth * np.sqrt(result.averaged.repeats)
    np.testing.assert_allclose(record["AveragedSignalToNoiseRatioPerBValue"], averaged, rtol=0.1)


def test_corrections_that_are_not_done_say_why():
    result = prepared(phantom())
    described = {name: step(result, name)["Description"] for name in CORRECTIONS}
    assert described == {
        "Denoising": "Not done: --denoise none",
        "Gibbs unringing": "Not done: --unring was not given",
        "Motion correction": "Not done: --motion-correction none",
    }
    assert result.motion is None


def test_preprocessed_images_are_not_corrected_again_unless_asked_to():
    result = prepared(phantom(), "brain", preprocessed=True, denoise="auto", motion_correction="auto")
    for name in ("Denoising", "Motion correction"):
        assert step(result, name)["Description"].startswith("Not done: ")
        assert "preprocessed" in step(result, name)["Choice"]
    assert "may hide noise" in step(result, "Noise estimate")["Description"]
    np.testing.assert_array_equal(result.series.signals, phantom().signals[..., :11])
    asked = prepared(phantom(), preprocessed=True, denoise="mppca")
    assert step(asked, "Denoising")["Choice"] == "--denoise mppca"
    assert not np.array_equal(asked.series.signals, result.series.signals)


def test_by_default_a_body_is_denoised_and_not_moved():
    result = prepared(phantom(), denoise="auto", motion_correction="auto")
    assert not step(result, "Denoising")["Description"].startswith("Not done")
    assert step(result, "Motion correction")["Description"].startswith("Not done: automatic")
    json.dumps(result.steps, allow_nan=False)


@pytest.mark.parametrize("snr", [10, 30])
def test_denoising_brings_the_averages_nearer_to_the_truth_and_the_noise_estimate_follows(snr):
    bvals = np.array([0, 0, 0, 10, 20, 30, 50, 80, 100, 150, 200, 300, 400, 600, 800], dtype=float)
    subject = make_phantom("abdomen", (40, 36, 3), seed=1)
    truth = average_repeats(as_series(acquire(subject, bvals), bvals), subject.mask).signals
    noisy = as_series(acquire(subject, bvals, snr=snr, seed=2), bvals)
    sigma = subject.s0[subject.mask].mean() / snr

    def error(result):
        inside = result.averaged.mask & subject.mask
        return (result.averaged.signals - truth)[inside] / result.averaged.sigma_per_bval

    def spread(errors):
        return np.median(np.abs(errors)) / 0.6745

    before, after = (prepared(noisy, denoise=method) for method in ("none", "mppca"))
    assert spread(error(before)) == pytest.approx(1, abs=0.07)
    assert 0.75 < spread(error(after)) < 1.15
    ratio = after.averaged.sigma_per_bval / before.averaged.sigma_per_bval
    assert spread(error(after)) * ratio[0] < 0.7
    assert after.averaged.sigma == pytest.approx(sigma, rel=0.07), "the noise floor stays that of a volume"
    record = step(after, "Noise estimate")
    assert 0 < max(record["ThermalNoisePerBValue"]) < 0.8 * sigma
    assert "before denoising" in record["Description"]


def test_volumes_that_moved_are_brought_back_and_their_motion_is_told():
    bvals = np.array([0, 0, 0, 20, 50, 100, 200, 400, 800], dtype=float)
    subject = make_phantom("brain", (40, 40, 2), seed=0)
    still = acquire(subject, bvals, snr=60, seed=1)
    moved = still.copy()
    moved[..., [2, 5]] = np.roll(still[..., [2, 5]], 3, axis=0)
    calls = []
    results = [
        prepared(
            as_series(signals, bvals),
            "brain",
            motion_correction=kind,
            progress=lambda *now: calls.append(now),
        )
        for signals, kind in ((still, "none"), (moved, "none"), (moved, "auto"))
    ]
    inside = subject.mask & results[2].averaged.mask
    reference, uncorrected, corrected = (result.averaged.signals[inside] for result in results)
    assert np.abs(corrected - reference).mean() < 0.3 * np.abs(uncorrected - reference).mean()
    assert [row["volume"] for row in results[2].motion] == list(range(9))
    assert abs(results[2].motion[5]["trans_x"]) == pytest.approx(3.0, abs=0.3)
    assert results[1].motion is None
    assert calls[-1][1] == calls[-1][2]
    assert "rigid" in step(results[2], "Motion correction")["Description"].lower()
    assert results[2].averaged.sigma < 1.3 * results[0].averaged.sigma < 0.5 * results[1].averaged.sigma


def test_a_given_mask_belongs_to_the_position_of_the_reference():
    mask = np.zeros(BODY.shape)
    mask[6:15, 6:12] = 1
    result = prepared(phantom(), external_mask=mask, motion_correction="rigid")
    np.testing.assert_array_equal(result.averaged.mask, mask > 0)
    assert "reference of the motion correction" in result.mask_method


def test_corrections_run_in_order_on_the_selected_volumes_and_pass_their_warnings_on(monkeypatch):
    from sicnn_app.preprocess import denoise, motion, unring

    seen = []

    def correction(name):
        def run(series, **_):
            seen.append((name, float(series.signals.flat[0]), series.bvals.size))
            changed = replace(series, signals=series.signals + np.float32(1.0))
            return Corrected(changed, {"Description": "Done"}, [f"{name} warns"])

        return run

    for module, name in zip((denoise, unring, motion), CORRECTIONS, strict=True):
        monkeypatch.setattr(module, "correct", correction(name))
    series = phantom()
    result = prepared(series, denoise="mppca", unring=True, motion_correction="affine")
    first = float(series.signals.flat[0])
    assert [name for name, _, _ in seen] == [*CORRECTIONS, "Denoising", "Denoising"], (
        "tried out for its noise"
    )
    np.testing.assert_allclose([value for _, value, _ in seen[:3]], first + np.arange(3), rtol=1e-6)
    assert {count for _, _, count in seen} == {11}
    np.testing.assert_allclose(result.series.signals, series.signals[..., :11] + 3, rtol=1e-5)
    assert [text for text in result.warnings if text.endswith("warns")] == [f"{n} warns" for n in CORRECTIONS]
    assert [step(result, name)["Choice"] for name in CORRECTIONS] == [
        "--denoise mppca",
        "--unring",
        "--motion-correction affine",
    ]


def test_motion_that_cannot_be_estimated_is_a_warning():
    series = phantom()
    small = replace(series, signals=series.signals[4:16])
    result = prepared(small, motion_correction="rigid", external_mask=np.ones(small.signals.shape[:3]))
    assert result.motion is None and result.mask_method == "given"
    assert any("motion was not corrected" in warning for warning in result.warnings)
    record = step(result, "Motion correction")
    assert record["Description"].startswith("Not done: a slice") and record["Kind"] == "none"
    assert record["Choice"] == "--motion-correction rigid"


def test_slices_too_small_to_be_unrung_are_a_warning_and_stay():
    series = phantom()
    small = replace(series, signals=series.signals[4:11])
    result = prepared(small, unring=True, external_mask=np.ones(small.signals.shape[:3]))
    np.testing.assert_array_equal(result.series.signals, small.signals[..., :11])
    assert any("Gibbs ringing was not removed: slices of 7" in warning for warning in result.warnings)
    record = step(result, "Gibbs unringing")
    assert record["Description"].startswith("Not done: slices") and record["Choice"] == "--unring"


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


@pytest.mark.parametrize("denoise", ["none", "mppca"])
def test_noise_free_data_pass(denoise):
    result = prepared(phantom(sigma=0.0), denoise=denoise)
    np.testing.assert_array_equal(result.averaged.mask, BODY)
    assert np.isfinite(result.averaged.sigma) and result.averaged.sigma < 0.2
    json.dumps(result.steps, allow_nan=False)


@pytest.mark.parametrize("shape", [(24, 1, 1), (1, 1, 1), (24, 20, 1)])
@pytest.mark.parametrize("anatomy", ["brain", "body"])
def test_thin_and_tiny_images_pass(shape, anatomy):
    crop = phantom().signals[4:20, 4:16]
    signals = np.tile(crop, (2, 2, 1, 1))[: shape[0], : shape[1], : shape[2]]
    automatic = {"denoise": "auto", "motion_correction": "auto", "unring": True}
    result = prepared(DwiSeries(signals, BVALS, None, np.eye(4)), anatomy, **automatic)
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
        noise=np.ones(4),
        sigma_method="known",
    )
    normalised, normaliser = normalise(averaged.signals, averaged.mask)
    np.testing.assert_array_equal(normaliser.ravel(), [0, 0, 2])
    np.testing.assert_array_equal(normalised[:, 0, 0], [[0] * 4, [0] * 4, [1, 0.5, 0.5, 0.25]])
