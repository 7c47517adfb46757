"""The noise estimate against the noise that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.noise import estimate_noise, noise_from_decay, noise_from_repeats

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
    estimates = [estimate(SCHEMES[count], snr, seed=seed) for seed in range(4)]
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
