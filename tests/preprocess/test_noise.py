"""The noise estimate against the noise that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.noise import (
    estimate_noise,
    noise_after_denoising,
    noise_from_decay,
    noise_from_repeats,
)

SCHEMES = {
    4: [0, 50, 200, 800],
    8: [0, 20, 50, 100, 200, 400, 600, 800],
    12: [0, 10, 20, 40, 60, 80, 100, 150, 200, 300, 450, 600],
    16: [0, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800],
}
SCALE = 200.0


def decays(bvals, voxels, rng):
    """Bi-exponential signals of very different tissues, shape (M, B), about SCALE at b = 0."""
    f, d = rng.uniform(0, 0.4, voxels), rng.uniform(0.0005, 0.003, voxels)
    dstar, s0 = rng.uniform(0.008, 0.15, voxels), SCALE * rng.uniform(0.6, 1.4, voxels)
    return ivim_signal_maps(np.asarray(bvals, dtype=float), f, d, dstar, s0)


def rician(signals, sigma, rng):
    noise = sigma * rng.standard_normal((2, *signals.shape))
    return np.hypot(signals + noise[0], noise[1])


def estimate(bvals, snr, *, bvecs=None, voxels=1500, signals=None, seed=0):
    rng = np.random.default_rng([len(bvals), int(snr), seed])
    signals = decays(bvals, voxels, rng) if signals is None else signals
    noisy = rician(signals, SCALE / snr, rng).astype(np.float32)[:, None, None, :]
    series = DwiSeries(noisy, np.asarray(bvals, dtype=float), bvecs, np.eye(4))
    return estimate_noise(series, average_repeats(series, np.ones(noisy.shape[:3], dtype=bool)))


@pytest.mark.parametrize("snr", [8, 20, 50, 100])
@pytest.mark.parametrize(("count", "tolerance"), [(4, 0.25), (8, 0.1), (12, 0.06), (16, 0.05)])
def test_bias_of_the_decay_estimate(count, tolerance, snr):
    estimates = [estimate(SCHEMES[count], snr, seed=seed, voxels=1000) for seed in range(3)]
    ratios = [noise.sigma * snr / SCALE for noise in estimates]
    assert np.mean(ratios) == pytest.approx(1.0, abs=tolerance)
    assert np.ptp(ratios) < 0.2
    assert all("residuals" in noise.method for noise in estimates)


@pytest.mark.parametrize("snr", [8, 20, 100])
@pytest.mark.parametrize("repeats", [3, 12])
def test_repeats_of_b_0_come_first(snr, repeats):
    noise = estimate([0] * repeats + [10, 50, 100, 400, 400, 400], snr)
    assert noise.sigma * snr / SCALE == pytest.approx(1.0, abs=0.05)
    assert f"{repeats} repeated volumes (b = 0)" in noise.method


def test_repeats_of_directions_are_used_without_repeats_of_b_0():
    bvals = [0, *np.repeat([10, 50, 150, 400, 800], 4)]
    bvecs = np.concatenate([np.zeros((1, 3)), np.tile(np.repeat(np.eye(3)[:2], 2, axis=0), (5, 1))])
    noise = estimate(bvals, 30, bvecs=bvecs)
    assert "20 repeated volumes (same b-value and direction)" in noise.method
    assert noise.sigma * 30 / SCALE == pytest.approx(1.0, abs=0.05)


def test_undeclared_directions_are_not_taken_for_repeats():
    rng = np.random.default_rng(5)
    bvals = np.array([0, *np.repeat([50, 100, 200, 400, 600, 800], 3)], dtype=float)
    anisotropy = np.tile([0.7, 1.0, 1.3], 6)
    d = rng.uniform(0.001, 0.002, 1500)[:, None]
    signals = SCALE * np.exp(-bvals * d * np.concatenate([[1.0], anisotropy]))
    noise = estimate(bvals, 50, signals=signals)
    assert "residuals" in noise.method
    assert noise.sigma * 50 / SCALE < 1.2


def test_the_unit_is_that_of_the_image():
    rng = np.random.default_rng(2)
    bvals = np.array(SCHEMES[8], dtype=float)
    signals = rician(decays(bvals, 500, rng), 5.0, rng)
    one, thousand = (noise_from_decay(k * signals, bvals, np.ones(8)) for k in (1.0, 1000.0))
    assert thousand == pytest.approx(1000 * one, rel=1e-3)


def test_the_decay_estimate_accounts_for_averaging():
    rng = np.random.default_rng(8)
    bvals = np.array(SCHEMES[12], dtype=float)
    factors = np.linspace(1.0, 0.2, 12)
    signals = decays(bvals, 1500, rng) + 4.0 * factors * rng.standard_normal((1500, 12))
    assert noise_from_decay(signals, bvals, factors) == pytest.approx(4.0, rel=0.08)


def test_few_moving_voxels_do_not_change_the_repeat_estimate():
    rng = np.random.default_rng(4)
    signals = 100 + 3 * rng.standard_normal((1000, 1, 1, 8))
    signals[:100] += 80 * rng.standard_normal((100, 1, 1, 8))
    found = noise_from_repeats(signals, [np.arange(8)], np.ones((1000, 1, 1), dtype=bool))
    assert found == pytest.approx(3.0, rel=0.12)


def test_repeat_sets_are_pooled_around_their_own_means():
    rng = np.random.default_rng(4)
    signals = np.repeat([1e6, 50.0], 3) + 2 * rng.standard_normal((3000, 1, 1, 6))
    found = noise_from_repeats(signals, [np.arange(3), np.arange(3, 6)], np.ones((3000, 1, 1), dtype=bool))
    assert found == pytest.approx(2.0, rel=0.05)


def test_one_voxel_pools_its_repeats():
    signals = np.array([1.0, 2.0, 3.0, 4.0])[None, None, None]
    found = noise_from_repeats(signals, [np.arange(4)], np.ones((1, 1, 1), dtype=bool))
    assert found == pytest.approx(np.std([1, 2, 3, 4], ddof=1))


def test_voxels_with_gaps_are_left_out_of_the_repeats():
    rng = np.random.default_rng(6)
    signals = 100 + 2 * rng.standard_normal((2000, 1, 1, 4))
    signals[::2, 0, 0, 1] = np.nan
    signals[0, 0, 0, 0] = np.inf
    found = noise_from_repeats(signals, [np.arange(4)], np.ones((2000, 1, 1), dtype=bool))
    assert found == pytest.approx(2.0, rel=0.06)


def test_the_same_data_give_the_same_number():
    assert estimate(SCHEMES[8], 20) == estimate(SCHEMES[8], 20)


def test_data_without_noise_have_almost_none():
    bvals = np.array(SCHEMES[12], dtype=float)
    signals = decays(bvals, 300, np.random.default_rng(0))
    assert noise_from_decay(signals, bvals, np.ones(12)) < 1e-3 * SCALE


def low_rank(rank):
    """Denoising by projection: the first principal components over all voxels."""

    def run(signals):
        mean = signals.mean(axis=0)
        left, values, right = np.linalg.svd(signals - mean, full_matrices=False)
        return (left[:, :rank] * values[:rank]) @ right[:rank] + mean

    return run


def from_the_others(signals):
    """Denoising by prediction: every volume regressed on all others."""
    centred = signals - signals.mean(axis=0)
    result = signals.copy()
    for volume in range(signals.shape[1]):
        others = np.delete(centred, volume, axis=1)
        weights = np.linalg.lstsq(others, centred[:, volume], rcond=None)[0]
        result[:, volume] = others @ weights + signals[:, volume].mean()
    return result


def noise_left(bvals, denoise, snr=25, seed=0):
    """What is estimated to remain, the scatter and the true error of the averages, as noise of one volume."""
    rng = np.random.default_rng([len(bvals), seed])
    bvals = np.asarray(bvals, dtype=float)
    truth = decays(bvals, 1500, rng)
    noisy = truth + SCALE / snr * rng.standard_normal(truth.shape)
    true, before, after = (
        DwiSeries(signals.astype(np.float32)[:, None, None, :], bvals, None, np.eye(4))
        for signals in (truth, noisy, denoise(noisy))
    )
    mask = np.ones((1500, 1, 1), dtype=bool)
    average, averaged_truth = average_repeats(after, mask), average_repeats(true, mask)
    error = (average.signals - averaged_truth.signals)[average.mask] / average.groups.noise_factors
    scatter = estimate_noise(after, average)
    noise = noise_after_denoising(before, after, average.mask, scatter)
    assert noise.sigma == pytest.approx(SCALE / snr, rel=0.06)
    return noise.remaining, scatter.sigma, float(np.median(np.abs(error)) / 0.6745)


@pytest.mark.parametrize("repeats", [1, 2, 4])
@pytest.mark.parametrize(
    ("denoise", "tolerance"), [(low_rank(4), 0.15), (from_the_others, 0.35)], ids=["projection", "prediction"]
)
def test_what_denoising_leaves_is_told_where_the_scatter_hides_it(denoise, tolerance, repeats):
    remaining, scatter, true = noise_left(np.repeat(SCHEMES[12], repeats), denoise)
    assert remaining == pytest.approx(true, rel=tolerance)
    assert scatter < 0.85 * true
    assert abs(remaining - true) <= abs(scatter - true)


def test_denoising_that_does_nothing_leaves_all_noise():
    remaining, scatter, true = noise_left(SCHEMES[12], np.copy)
    assert remaining == pytest.approx(scatter) == pytest.approx(true, rel=0.06)


def test_the_estimate_after_denoising_names_both_levels():
    bvals = np.array([0, 0, 0, 10, 50, 100, 400, 800], dtype=float)
    rng = np.random.default_rng(3)
    noisy = decays(bvals, 800, rng) + 5 * rng.standard_normal((800, 8))
    before, after = (
        DwiSeries(signals.astype(np.float32)[:, None, None, :], bvals, None, np.eye(4))
        for signals in (noisy, low_rank(4)(noisy))
    )
    average = average_repeats(after, np.ones((800, 1, 1), dtype=bool))
    noise = noise_after_denoising(before, after, average.mask, estimate_noise(after, average))
    assert noise.remaining == noise.details["NoiseStandardDeviationRemaining"] < noise.sigma
    assert noise.remaining >= noise.details["ScatterAfterPreprocessing"]
    assert "3 repeated volumes (b = 0)" in noise.method and "before denoising" in noise.method


def test_a_second_step_that_lowers_the_noise_goes_on_from_what_the_first_one_left():
    bvals = np.repeat(SCHEMES[12], 2)
    truth = decays(bvals, 1500, np.random.default_rng(4))
    noisy = truth + 5 * np.random.default_rng(5).standard_normal(truth.shape)
    once = low_rank(8)(noisy)
    true, before, between, after = (
        DwiSeries(signals.astype(np.float32)[:, None, None, :], bvals, None, np.eye(4))
        for signals in (truth, noisy, once, low_rank(4)(once))
    )
    mask = np.ones((1500, 1, 1), dtype=bool)
    average, averaged_truth = average_repeats(after, mask), average_repeats(true, mask)
    error = (average.signals - averaged_truth.signals)[average.mask] / average.groups.noise_factors
    scatter = estimate_noise(after, average)
    first = noise_after_denoising(before, between, mask, scatter)
    both = noise_after_denoising(between, after, mask, scatter, first)
    assert both.sigma == first.sigma == pytest.approx(5, rel=0.06) and both.method == first.method
    assert both.remaining < first.remaining
    assert both.remaining == pytest.approx(float(np.median(np.abs(error)) / 0.6745), rel=0.15)
    in_one = noise_after_denoising(before, after, mask, scatter)
    for name, value in in_one.details.items():
        assert both.details[name] == pytest.approx(value, rel=0.15), name
