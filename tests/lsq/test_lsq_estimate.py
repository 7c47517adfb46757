"""The volume-level estimator: masks, units, records."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sicnn_app.ivim.maps import MAPS, Estimate
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.settings import Bounds

BVALS = np.array([0, 10, 30, 60, 100, 200, 400, 600, 800.0])
TRUTH = {"f": 0.2, "d": 0.0012, "dstar": 0.03}


def volume(shape: tuple[int, int, int], *, snr: float | None = None, scale: float = 500.0) -> np.ndarray:
    """Signals of one tissue, shape (X, Y, Z, B), float32, source units."""
    signals = np.broadcast_to(ivim_signal_maps(BVALS, **TRUTH), (*shape, BVALS.size)).copy()
    if snr is not None:
        signals += np.random.default_rng(0).normal(0, 1 / snr, signals.shape)
    return (scale * signals).astype(np.float32)


def test_maps_hold_the_truth_inside_and_nan_outside_the_mask():
    mask = np.zeros((7, 5, 3), dtype=bool)
    mask[1:6, 2:, 1:] = True
    estimate = estimate_lsq(volume(mask.shape), mask, BVALS)
    assert list(estimate.maps) == [spec.label for spec in MAPS]
    for label, values in estimate.maps.items():
        assert values.shape == mask.shape and values.dtype == np.float32
        assert np.isfinite(values[mask]).all() and np.isnan(values[~mask]).all(), label
    for label, true in {**TRUTH, "s0": 500.0}.items():
        np.testing.assert_allclose(estimate.maps[label][mask], true, rtol=0.01)
    np.testing.assert_allclose(estimate.predicted[mask], volume(mask.shape)[mask], rtol=1e-4)
    assert (estimate.predicted[~mask] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (4, 3, 1)])
def test_one_voxel_is_enough(shape):
    mask = np.zeros(shape, dtype=bool)
    mask[-1, -1, -1] = True
    estimate = estimate_lsq(volume(shape), mask, BVALS)
    assert estimate.maps["d"][mask] == pytest.approx(TRUTH["d"], rel=0.01)


def test_the_unit_of_the_image_changes_only_s0():
    mask = np.ones((4, 4, 2), dtype=bool)
    # A power of two, so that scaling rounds nothing.
    small, large = (
        estimate_lsq(volume(mask.shape, snr=20, scale=scale), mask, BVALS) for scale in (1.0, 1024.0)
    )
    for label in ("f", "d", "dstar", "rmse"):
        np.testing.assert_array_equal(small.maps[label], large.maps[label])
    np.testing.assert_allclose(1024 * small.maps["s0"], large.maps["s0"], rtol=1e-6)
    np.testing.assert_allclose(1024 * small.predicted, large.predicted, rtol=1e-6)


def test_rmse_is_relative_to_s0_and_matches_the_prediction():
    mask = np.ones((5, 5, 2), dtype=bool)
    signals = volume(mask.shape, snr=15)
    estimate = estimate_lsq(signals, mask, BVALS)
    expected = np.sqrt(np.mean(np.square(estimate.predicted - signals), axis=-1)) / estimate.maps["s0"]
    np.testing.assert_allclose(estimate.maps["rmse"], expected, rtol=1e-3)
    maps = {label: estimate.maps[label] for label in ("f", "d", "dstar", "s0")}
    np.testing.assert_allclose(estimate.predicted, ivim_signal_maps(BVALS, **maps), rtol=1e-4)


def test_the_lowest_b_value_need_not_come_first():
    mask = np.ones((3, 3, 1), dtype=bool)
    signals = volume(mask.shape, snr=30)
    order = np.array([8, 4, 0, 2, 6, 1, 7, 3, 5])
    sorted_first, shuffled = (
        estimate_lsq(signals, mask, BVALS),
        estimate_lsq(signals[..., order], mask, BVALS[order]),
    )
    for label in ("f", "d", "dstar", "s0"):
        np.testing.assert_allclose(shuffled.maps[label], sorted_first.maps[label], rtol=1e-3)


def test_signals_near_the_end_of_float32_keep_the_maps_finite():
    mask = np.ones((2, 1, 1), dtype=bool)
    signals = volume(mask.shape)
    signals[0, 0, 0] = [1e-38, *[3e38, -3e38] * 4]
    estimate = estimate_lsq(signals, mask, BVALS)
    assert all(np.isfinite(values).all() for values in estimate.maps.values())
    assert np.isfinite(estimate.predicted).all()


def test_records_say_what_was_done():
    mask = np.ones((4, 4, 1), dtype=bool)
    calls = []
    estimate = estimate_lsq(
        volume(mask.shape, snr=20),
        mask,
        BVALS,
        bounds=Bounds(d=(0.0, 0.004)),
        progress=lambda *call: calls.append(call),
    )
    assert isinstance(estimate, Estimate)
    (row,) = estimate.history
    assert row["data_iteration"] == 0 and row["epochs"] > 0
    assert 0 < row["training_loss"] < 0.01
    recorded = json.loads(json.dumps(estimate.parameters))
    assert recorded["bounds"]["d"] == [0.0, 0.004]
    assert recorded["split_b_value"] == 200.0
    assert recorded["not_converged_share"] == 0 and recorded["stop_reason"] == "converged"
    assert calls[-1] == ("least-squares fit", 16, 16)
    assert estimate.losses == [] and estimate.neighbour_count is None and estimate.device == "cpu"


def test_the_signals_given_are_not_changed():
    mask = np.ones((2, 2, 1), dtype=bool)
    signals = volume(mask.shape, snr=20)
    before = signals.copy()
    estimate_lsq(signals, mask, BVALS)
    np.testing.assert_array_equal(signals, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_estimate_lies_on_the_host():
    mask = np.ones((3, 3, 1), dtype=bool)
    estimate = estimate_lsq(volume(mask.shape), mask, BVALS, device="cuda:0")
    assert estimate.device == "cuda:0"
    np.testing.assert_allclose(estimate.maps["f"], TRUTH["f"], rtol=0.01)
