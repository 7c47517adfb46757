"""The noise estimates against the noise that was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess import denoise
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.noise import Denoising, Noise, estimate_noise, noise_after_denoising

BVALS = np.array([0, 10, 20, 40, 60, 80, 100, 150, 200, 300, 450, 600], dtype=float)
SHAPE = (40, 36, 2)


def acquired(volumes=1, snr=20.0, *, bvals=BVALS, seed=0, variation=0.0, centre=1.0, shape=SHAPE):
    """A series of so many volumes per b-value, its truth per volume, mask and noise map.

    ``variation`` is the standard deviation of what whole regions of a volume gain or lose, ``centre`` the
    noise in the middle relative to that at the border.
    """
    phantom = make_phantom("abdomen", shape, seed=seed)
    table = np.repeat(bvals, volumes)
    truth = ivim_signal_maps(table, phantom.f, phantom.d, phantom.dstar, phantom.s0)
    rng = np.random.default_rng([seed, volumes])
    moved = gaussian_filter(rng.standard_normal(truth.shape), (5, 5, 0, 0))
    moved *= variation / moved.std()
    x, y = (np.linspace(-1, 1, size) for size in shape[:2])
    sigma = noise_sigma(phantom, snr) * (1 + (centre - 1) * np.exp(-4 * np.add.outer(x**2, y**2)))
    sigma = np.repeat(sigma[:, :, None], shape[2], axis=2)
    noise = rng.standard_normal((2, *truth.shape)) * sigma[..., None]
    signals = np.hypot(truth * (1 + moved) + noise[0], noise[1]).astype(np.float32)
    return DwiSeries(signals, table, None, phantom.affine), truth, phantom.mask, sigma


def stated_over_actual(noise: Noise, average, truth, table) -> np.ndarray:
    """Per b-value, root mean squares over the mask."""
    error = average.signals - truth[..., np.searchsorted(table, average.groups.bvals)]
    stated, actual = (np.square(values[average.mask]).mean(axis=0) for values in (noise.averaged, error))
    return np.sqrt(stated / actual)


@pytest.mark.parametrize("way", ["robust", "geometric"])
@pytest.mark.parametrize(("volumes", "snr"), [(1, 10), (1, 40), (2, 20), (6, 20)])
def test_the_noise_of_averages_is_their_error(volumes, snr, way):
    series, truth, mask, sigma = acquired(volumes, snr)
    average = average_repeats(series, mask, way)
    noise = estimate_noise(series, average)
    ratios = stated_over_actual(noise, average, truth, series.bvals)
    assert ratios.mean() == pytest.approx(1.0, abs=0.1) and (np.abs(ratios - 1) < 0.2).all()
    assert noise.sigma == pytest.approx(sigma.mean(), rel=0.1)


@pytest.mark.parametrize("snr", [6, 10])
def test_what_the_noise_floor_lifts_is_part_of_the_noise(snr):
    series, truth, mask, _ = acquired(8, snr, bvals=np.array([0, 50, 200, 600, 1200], float))
    average = average_repeats(series, mask, "robust")
    ratios = stated_over_actual(estimate_noise(series, average), average, truth, series.bvals)
    assert (np.abs(ratios - 1) < 0.1).all()


@pytest.mark.parametrize("volumes", [1, 3])
def test_variation_of_regions_is_told_from_thermal_noise(volumes):
    ratios, details = [], []
    for seed in range(3):
        series, truth, mask, sigma = acquired(volumes, 20, variation=0.06, seed=seed)
        average = average_repeats(series, mask, "robust")
        noise = estimate_noise(series, average)
        assert noise.sigma == pytest.approx(sigma.mean(), rel=0.12)
        ratios.append(stated_over_actual(noise, average, truth, series.bvals))
        details.append([noise.details[key][0] for key in sorted(noise.details)])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)
    variation = np.mean(details, axis=0)[1]
    still, _, mask, _ = acquired(volumes, 20)
    quiet = estimate_noise(still, average_repeats(still, mask, "robust"))
    assert quiet.details["PhysiologicalVariationPerBValue"][0] < 0.5 * variation


@pytest.mark.parametrize("volumes", [1, 3])
def test_noise_that_varies_in_space_is_found_where_it_is(volumes):
    series, _, mask, sigma = acquired(volumes, 30, centre=3.0, shape=(64, 56, 1))
    average = average_repeats(series, mask, "robust")
    noise = estimate_noise(series, average).averaged[..., -1] * np.sqrt(volumes)
    bright = sigma > np.quantile(sigma[average.mask], 0.8)
    dark = sigma < np.quantile(sigma[average.mask], 0.2)
    for part in (bright & average.mask, dark & average.mask):
        assert noise[part].mean() == pytest.approx(sigma[part].mean(), rel=0.25)


@pytest.mark.parametrize("volumes", [1, 3])
def test_what_mp_pca_leaves_is_told_where_the_scatter_hides_it(volumes):
    series, truth, mask, sigma = acquired(volumes, 20, shape=(48, 44, 2))

    def redo(other: DwiSeries) -> DwiSeries:
        return denoise.correct(other, kind="mppca").series

    clean = redo(series)
    average = average_repeats(clean, mask, "robust")
    noise = noise_after_denoising(Denoising(series, clean, redo), clean, average)
    ratios = stated_over_actual(noise, average, truth, series.bvals)
    assert ratios.mean() == pytest.approx(1.0, abs=0.1) and (np.abs(ratios - 1) < 0.2).all()
    assert noise.sigma == pytest.approx(sigma.mean(), rel=0.08)
    assert "before denoising" in noise.method
    hidden = estimate_noise(clean, average)
    assert (
        np.abs(ratios - 1).mean()
        < np.abs(stated_over_actual(hidden, average, truth, series.bvals) - 1).mean()
    )


def test_denoising_that_does_nothing_leaves_all_noise():
    series, truth, mask, _ = acquired(2, 20)
    average = average_repeats(series, mask, "robust")
    noise = noise_after_denoising(Denoising(series, series, lambda other: other), series, average)
    assert stated_over_actual(noise, average, truth, series.bvals) == pytest.approx(1.0, abs=0.1)
    assert (noise.left, noise.left_in_shape) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("volumes", [1, 3])
def test_noise_that_looks_like_a_change_of_the_decay_is_told_from_what_is_left_in_the_mean(volumes):
    """A projection on what decays span: 4 of 12 dimensions are left, and all that changes a shape."""
    series, _, mask, _ = acquired(volumes, 20)
    values = [(d, dstar, f) for d in (5e-4, 1e-3, 3e-3) for dstar in (0.01, 0.03, 0.15) for f in (0.05, 0.3)]
    decays = [
        (1 - f) * np.exp(-series.bvals * d) + f * np.exp(-series.bvals * dstar) for d, dstar, f in values
    ]
    span = np.linalg.svd(np.array(decays), full_matrices=False)[2][:4]

    def redo(other: DwiSeries) -> DwiSeries:
        return replace(other, signals=(other.signals @ span.T @ span).astype(np.float32))

    clean = redo(series)
    average = average_repeats(clean, mask, "arithmetic")
    noise = noise_after_denoising(Denoising(series, clean, redo), clean, average)
    assert noise.left == pytest.approx(np.sqrt(4 / 12), rel=0.05)
    assert noise.left_in_shape == pytest.approx(1.0, abs=0.05)


def test_denoising_is_tried_out_on_a_part_of_a_large_image_and_says_the_same():
    """A mean over four neighbouring rows leaves a quarter of the variance, wherever it is tried."""

    def redo(other: DwiSeries) -> DwiSeries:
        seen.append(other.signals[..., 0].size)
        shape = other.signals.shape
        rows = other.signals.reshape(shape[0] // 4, 4, *shape[1:]).mean(axis=1)
        return replace(other, signals=np.repeat(rows, 4, axis=0))

    seen: list[int] = []
    rng = np.random.default_rng(0)
    signals = 500 * np.exp(-BVALS * 1e-3) + 10 * rng.standard_normal((64, 60, 12, BVALS.size))
    series = DwiSeries(signals.astype(np.float32), BVALS, None, np.eye(4))
    clean = redo(series)
    average = average_repeats(clean, np.ones((64, 60, 12), bool), "robust")
    noise = noise_after_denoising(Denoising(series, clean, redo), clean, average)
    assert max(seen[1:]) < 0.5 * seen[0]
    left = noise.details["ThermalNoisePerBValue"]
    assert left == pytest.approx(np.full(12, 5.0), rel=0.1)
    assert (noise.left, noise.left_in_shape) == pytest.approx((0.5, 0.5), rel=0.1)


def test_undeclared_directions_are_not_taken_for_repeats():
    """In a geometric average what differs between directions is anisotropy, and no noise."""
    rng = np.random.default_rng(5)
    bvals = np.array([0, *np.repeat([50, 100, 200, 400, 600, 800], 3)], dtype=float)
    d = rng.uniform(0.001, 0.002, (30, 30, 1))[..., None]
    anisotropy = np.concatenate([[1.0], np.tile([0.7, 1.0, 1.3], 6)])
    signals = 200 * np.exp(-bvals * d * anisotropy) + 4 * rng.standard_normal((30, 30, 1, bvals.size))
    series = DwiSeries(signals.astype(np.float32), bvals, None, np.eye(4))
    noise = estimate_noise(series, average_repeats(series, np.ones((30, 30, 1), bool)))
    assert "smooth decay" in noise.method and "volumes" not in noise.method
    assert noise.sigma < 8


@settings(max_examples=8, deadline=None)
@given(factor=st.floats(1e-12, 1e12))
def test_the_unit_is_that_of_the_image(factor):
    series, _, mask, _ = acquired(2, 20, shape=(16, 14, 1))
    found = []
    for one in (series, replace(series, signals=(series.signals * factor).astype(np.float32))):
        average = average_repeats(one, mask, "robust")
        found.append(estimate_noise(one, average))
    assert found[1].sigma == pytest.approx(factor * found[0].sigma, rel=1e-3)
    np.testing.assert_allclose(found[1].averaged, factor * found[0].averaged, rtol=1e-3)


@pytest.mark.parametrize("volumes", [1, 2])
def test_data_without_noise_have_almost_none(volumes):
    series, truth, mask, _ = acquired(volumes, np.inf)
    noise = estimate_noise(series, average_repeats(series, mask, "robust"))
    assert noise.sigma < 2e-3 * truth.max()
    flat = replace(series, signals=np.full_like(series.signals, 100) * np.exp(-series.bvals * 1e-3))
    flat = replace(flat, signals=flat.signals.astype(np.float32))
    assert estimate_noise(flat, average_repeats(flat, mask, "robust")).sigma < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (2, 2, 2)], ids=str)
def test_few_voxels_have_a_noise_too(shape):
    rng = np.random.default_rng(1)
    table = np.repeat(BVALS, 3)
    signals = 200 * np.exp(-table * 1e-3) + 5 * rng.standard_normal((*shape, table.size))
    series = DwiSeries(signals.astype(np.float32), table, None, np.eye(4))
    noise = estimate_noise(series, average_repeats(series, np.ones(shape, bool), "robust"))
    assert 1 < noise.sigma < 12
    assert np.isfinite(noise.averaged).all()


def test_gaps_are_left_out():
    series, _, mask, sigma = acquired(3, 20)
    signals = series.signals.copy()
    signals[::3, :, :, 1] = np.nan
    holed = replace(series, signals=signals)
    noise = estimate_noise(holed, average_repeats(holed, mask, "robust"))
    assert noise.sigma == pytest.approx(sigma.mean(), rel=0.1)
    assert np.isfinite(noise.averaged).all()


def test_the_same_data_give_the_same_numbers():
    series, _, mask, _ = acquired(2, 20)
    average = average_repeats(series, mask, "robust")
    one, other = (
        noise_after_denoising(Denoising(series, series, lambda s: s), series, average) for _ in range(2)
    )
    assert one.sigma == other.sigma and np.array_equal(one.averaged, other.averaged)
