"""Weights of the signals in the fit, and where they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.lsq.fit import fit_biexponential
from sicnn_app.lsq.misfit import signal_weights
from sicnn_app.settings import Bounds

BVALS = np.array([0.0, 10, 25, 50, 100, 200, 300, 400, 500])
TRUTH = {"f": 0.2, "d": 1.2e-3, "dstar": 0.05}
SHAPE = (16, 10, 2)
NOISE = 10.0


def measured(*, noise=NOISE, seed=0, shape=SHAPE) -> np.ndarray:
    """One tissue of signal 500 with Gaussian noise, shape (X, Y, Z, B)."""
    clean = 500 * ivim_signal(BVALS, TRUTH["f"], TRUTH["d"], TRUTH["dstar"])
    noise = np.broadcast_to(noise, BVALS.shape)
    return (clean + noise * np.random.default_rng(seed).normal(size=(*shape, BVALS.size))).astype(np.float32)


def fitted(signals: np.ndarray, noise=None) -> dict[str, np.ndarray]:
    mask = np.ones(signals.shape[:3], dtype=bool)
    return estimate_lsq(signals, mask, BVALS, noise=noise).maps


def error(maps: dict[str, np.ndarray], label: str) -> float:
    return float(np.sqrt(np.mean((maps[label] / TRUTH[label] - 1) ** 2)))


@settings(max_examples=8, deadline=None)
@given(weights=st.lists(st.integers(1, 3), min_size=BVALS.size, max_size=BVALS.size), seed=st.integers(0, 99))
def test_a_weight_of_two_is_a_signal_measured_twice(weights, seed):
    signals = torch.from_numpy(measured(seed=seed, shape=(6, 1, 1)).reshape(6, -1) / 500).double()
    bvals, count = torch.from_numpy(BVALS), torch.tensor(weights)
    weighed = fit_biexponential(signals, bvals, weights=count.double().expand_as(signals))
    repeated = fit_biexponential(signals.repeat_interleave(count, dim=1), bvals.repeat_interleave(count))
    # Either may end in another minimum of the same depth: the starts are found without weights.
    np.testing.assert_allclose(weighed.rss, repeated.rss, rtol=1e-3)


def test_noisy_bvalues_count_less():
    noise = np.where(BVALS == 300, 120.0, 5.0)
    signals = measured(noise=noise)
    known, ignored = fitted(signals, noise), fitted(signals)
    for label in TRUTH:
        assert error(known, label) < 0.75 * error(ignored, label)


def test_a_bvalue_that_a_region_lost_moves_its_maps_less_and_no_others():
    clean, signals = measured(noise=3.0), measured(noise=3.0)
    signals[6:, :, 0, 5] *= 0.8
    sigma = np.full(BVALS.size, 3.0)
    known, ignored, whole = fitted(signals, sigma), fitted(signals), fitted(clean, sigma)
    for label, truth in TRUTH.items():
        off = [abs(np.median(maps[label][10:, :, 0]) / truth - 1) for maps in (known, ignored)]
        assert off[0] < 0.3 * off[1]
        np.testing.assert_allclose(known[label][:, :, 1], whole[label][:, :, 1], rtol=1e-5)


@pytest.mark.parametrize("noise", [2.0, 50.0])
def test_where_all_fits_weights_cost_no_precision(noise):
    signals = measured(noise=noise)
    known, ignored = fitted(signals, np.full(BVALS.size, noise)), fitted(signals)
    for label in TRUTH:
        assert error(known, label) < 1.03 * error(ignored, label)


def test_without_noise_nothing_is_weighed():
    signals = measured()
    sigma = np.full(BVALS.size, NOISE)
    sigma[3] = 0.0
    known, ignored = fitted(signals, sigma), fitted(signals)
    for label, values in ignored.items():
        np.testing.assert_array_equal(known[label], values)


def test_the_unit_of_the_image_changes_no_map_but_s0():
    signals, sigma = measured(), np.full(BVALS.size, NOISE)
    one, other = fitted(signals, sigma), fitted(signals * 1024, sigma * 1024)
    for label in TRUTH:
        np.testing.assert_allclose(other[label], one[label], rtol=1e-6)


def test_the_residual_is_reported_without_weights():
    signals = measured(noise=np.where(BVALS == 300, 120.0, 5.0))
    mask = np.ones(SHAPE, dtype=bool)
    found = estimate_lsq(signals, mask, BVALS, noise=np.where(BVALS == 300, 120.0, 5.0))
    expected = np.sqrt(np.mean((signals - found.predicted) ** 2, axis=-1)) / found.maps["s0"]
    np.testing.assert_allclose(found.maps["rmse"], expected, rtol=1e-3)
    assert found.parameters["b_value_weights"].startswith("inverse variance")


@pytest.mark.parametrize("voxels", [1, 2, 40])
def test_any_mask_gives_finite_weights_that_average_to_one(voxels):
    signals = measured(seed=voxels)
    mask = np.zeros(SHAPE, dtype=bool)
    mask.reshape(-1)[np.random.default_rng(voxels).permutation(mask.size)[:voxels]] = True
    signals[..., 4] -= 400
    weights = signal_weights(
        signals, mask, torch.from_numpy(BVALS), np.full(BVALS.size, NOISE), None, Bounds()
    )
    assert weights.shape == (voxels, BVALS.size) and (weights > 0).all()
    np.testing.assert_allclose(weights.mean(dim=1), 1.0, rtol=1e-9)
