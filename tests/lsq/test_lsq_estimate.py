"""The volume-level estimator: masks, units, records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq import estimate as lsq_module
from sicnn_app.lsq import fit
from sicnn_app.lsq.estimate import estimate, estimate_lsq, needed_bytes
from sicnn_app.settings import Bounds, EstimationSettings
from sicnn_app.system.checkpoints import TrainingCheckpoint

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
    assert row["data_iteration"] == 0 and row["iterations"] > 0
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


def run_estimate(signals: np.ndarray, **options) -> Estimate:
    return estimate(
        signals,
        np.ones(signals.shape[:3], dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, 20.0),
        settings=EstimationSettings(method="lsq"),
        **options,
    )


def test_the_shared_interface_takes_a_checkpoint_and_leaves_it_alone(tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path / "c", "key")
    signals = volume((5, 4, 2), snr=20)
    result = run_estimate(signals, checkpoint=checkpoint, fall_back=True, memory_limit=10**9)
    mask = np.ones((5, 4, 2), dtype=bool)
    expected = estimate_lsq(signals, mask, BVALS, noise=np.full(BVALS.size, 20.0))
    for label, values in expected.maps.items():
        np.testing.assert_array_equal(result.maps[label], values)
    assert result.parameters == {**expected.parameters, "out_of_memory": []}
    assert list(tmp_path.iterdir()) == []


def short_of_memory(monkeypatch, voxels: int) -> list[int]:
    """Let fits of more voxels at once fail; returns the sizes of all."""
    minimise, sizes = fit.minimise, []

    def limited(signals, *arguments, **options):
        sizes.append(signals.shape[1])
        if signals.shape[1] > voxels:
            raise torch.OutOfMemoryError("out of memory")
        return minimise(signals, *arguments, **options)

    monkeypatch.setattr(fit, "minimise", limited)
    return sizes


def test_with_little_memory_fewer_voxels_are_fitted_at_once(monkeypatch):
    signals = volume((30, 20, 16), snr=20)
    expected = run_estimate(signals)
    sizes = short_of_memory(monkeypatch, 8_000)
    result = run_estimate(signals)
    assert sum(size > 8_000 for size in sizes) == 1
    for label in ("f", "d", "dstar", "s0"):
        np.testing.assert_allclose(result.maps[label], expected.maps[label], rtol=1e-3)
    (text,) = result.parameters["out_of_memory"]
    assert text.startswith("cpu ran out of memory")


def test_no_memory_at_all_is_a_clear_stop(monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(TryAgainError, match="cpu ran out of memory") as caught:
        run_estimate(volume((3, 3, 1)))
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("fall_back", [True, False])
def test_the_cpu_takes_over_only_where_that_was_allowed(monkeypatch, fall_back):
    whole = lsq_module.estimate_lsq

    def full_device(*arguments, device, **options):
        if device.startswith("cuda"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments, device=device, **options)

    monkeypatch.setattr(lsq_module, "estimate_lsq", full_device)
    if fall_back:
        result = run_estimate(volume((3, 3, 1)), device="cuda:0", fall_back=True)
        assert result.device == "cpu" and len(result.parameters["out_of_memory"]) == 3
    else:
        with pytest.raises(TryAgainError, match=r"cuda:0 ran out of memory.*--device cpu"):
            run_estimate(volume((3, 3, 1)), device="cuda:0")


def test_a_limit_that_is_too_low_is_told_with_numbers():
    with pytest.raises(TryAgainError, match=r"about 0\.\d+ GB.*0\.001 are left.*--mem"):
        run_estimate(volume((3, 3, 1)), memory_limit=1_000_000)


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from sicnn_app.lsq.estimate import estimate
from sicnn_app.settings import EstimationSettings

def kilobytes(key):
    return int(re.search(rf"^{key}:\\s+(\\d+)", Path("/proc/self/status").read_text(), re.M)[1])

x, y, z, count, threads = (int(text) for text in sys.argv[1:])
torch.set_num_threads(threads)
bvals = np.linspace(0, 800, count)
rng = np.random.default_rng(0)
signals = np.empty((x, y, z, count), np.float32)
for index, b in enumerate(bvals):
    signals[..., index] = 500 * np.exp(-b * 0.001) + 5 * rng.standard_normal((x, y, z), dtype=np.float32)
before = kilobytes("VmRSS")
settings = EstimationSettings(method="lsq")
estimate(signals, np.ones((x, y, z), bool), bvals, noise=np.full(count, 5.0), settings=settings)
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("shape", "threads"),
    [
        ((25, 25, 10, 12), 1),
        ((64, 64, 25, 48), 1),
        ((64, 64, 25, 8), 1),
        ((64, 64, 25, 12), 2),
    ],
)
def test_the_need_is_that_of_a_measured_process(monkeypatch, shape, threads):
    command = [sys.executable, "-c", PEAK, *map(str, (*shape, threads))]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    need = needed_bytes(shape[:3], shape[3], EstimationSettings(method="lsq"))
    assert 0.65 * need <= peak <= 1.15 * need, (peak, need)
