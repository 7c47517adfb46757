"""Images joined to one run: their gains, and what is no gain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.correction import Corrected
from sicnn_app.preprocess.gains import join_images
from sicnn_app.steps import NOT_DONE
from sicnn_app.system.memory import empty_series

LOW, HIGH = (0, 10, 20, 50, 80), (0, 100, 200, 400, 800)


def image(
    bvals, seed: int = 0, *, shape=(24, 24, 2), snr: float = 30, gain=1.0, d: float = 1.2e-3, f: float = 0.2
) -> np.ndarray:
    """A disc of two tissues, one darker, in air; Rician magnitudes, shape (X, Y, Z, N)."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[:2]), indexing="ij")
    level = np.where(x**2 + y**2 < 0.65, np.where(x > 0.1, 600.0, 1000.0), 0.0)
    b = np.array(bvals, dtype=float)
    decay = f * np.exp(-0.05 * b) + (1 - f) * np.exp(-d * b)
    clean = np.broadcast_to(level[..., None, None] * decay, (*shape, b.size))
    noise = np.random.default_rng(seed).normal(0, 1000 / snr, (2, *clean.shape))
    return gain * np.hypot(clean + noise[0], noise[1])


def join(*parts: tuple[np.ndarray, tuple[float, ...]]) -> tuple[Corrected, np.ndarray]:
    """What joining comes to, and the signals before it."""
    signals = np.concatenate([data for data, _ in parts], axis=-1).astype(np.float32)
    bvals = np.concatenate([np.array(b, dtype=float) for _, b in parts])
    owner = np.repeat(np.arange(len(parts)), [len(b) for _, b in parts])
    series = DwiSeries(signals.copy(), bvals, None, np.eye(4))
    return join_images(series, owner, [f"run-{i + 1}" for i in range(len(parts))]), signals


@settings(max_examples=25, deadline=None)
@given(
    gain=st.one_of(st.floats(0.02, 0.85), st.floats(1.2, 1000)),
    snr=st.floats(8, 100),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(24, 24, 2), (32, 20, 1), (20, 20, 5)]),
    shared=st.sampled_from([0, 5, 50, 100]),
)
def test_a_gain_is_taken_off_wherever_the_shared_b_value_lies(gain, snr, seed, shape, shared):
    one, two = (shared, 10, 30, 70), (shared, 150, 400)
    first, second = (image(b, seed + i, shape=shape, snr=snr) for i, b in enumerate((one, two)))
    joined, before = join((first, one), (gain * second, two))
    found = joined.record["Gains"]
    assert list(found) == ["run-2"] and found["run-2"] == pytest.approx(gain, rel=0.08)
    np.testing.assert_array_equal(joined.series.signals[..., :4], before[..., :4])
    np.testing.assert_allclose(joined.series.signals[..., 4:], before[..., 4:] / found["run-2"], rtol=1e-5)
    assert f"b = {shared} s/mm^2 differ by a gain" in joined.warnings[0]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_odd_one_of_three(odd):
    gains = np.where(np.arange(3) == odd, 1.3, 1.0)
    parts = [(image(b, seed, gain=gains[seed]), b) for seed, b in enumerate((LOW, HIGH, (0, 300, 500)))]
    joined, before = join(*parts)
    assert len(joined.record["Gains"]) == (2 if odd == 0 else 1)
    volumes = np.repeat(gains, [5, 5, 3])
    expected = before / volumes * gains[0]
    np.testing.assert_allclose(joined.series.signals, expected, rtol=0.02)


def test_scales_are_handed_on_from_one_image_to_the_next():
    parts = [
        (image(b, seed, gain=2.0**seed), b) for seed, b in enumerate(((0, 10, 50), (50, 100), (100, 400)))
    ]
    joined, _ = join(*parts)
    assert joined.record["Gains"] == pytest.approx({"run-2": 2, "run-3": 4}, rel=0.03)


def test_noise_is_no_gain():
    told = 0
    for seed in range(60):
        shape = [(24, 24, 2), (16, 16, 1), (8, 8, 1), (30, 30, 4)][seed % 4]
        snr = (5, 8, 20)[seed % 3]
        parts = [(image(b, 2 * seed + i, shape=shape, snr=snr), b) for i, b in enumerate((LOW, HIGH))]
        joined, before = join(*parts)
        told += bool(joined.warnings)
        if not joined.warnings:
            np.testing.assert_array_equal(joined.series.signals, before)
            assert joined.record["Description"].startswith(NOT_DONE)
    assert told <= 1


@pytest.mark.parametrize("bvals", [(0, 10, 100, 600), (5, 100, 600), (50, 100, 600)])
@pytest.mark.parametrize("gain", [1.0, 1.3])
def test_other_directions_are_no_gain(bvals, gain):
    along = image(bvals, 1, d=1.4e-3, f=0.05, gain=gain)
    joined, _ = join((image(bvals, 0, d=1.0e-3, f=0.05), bvals), (along, bvals))
    assert joined.record["Gains"] == pytest.approx({} if gain == 1 else {"run-2": gain}, rel=0.05)


@pytest.mark.parametrize("what", ["coil", "position", "contrast"])
def test_a_difference_that_is_no_single_gain_is_said_and_left(what):
    second = image(HIGH, 1, shape=(36, 36, 1))
    if what == "coil":
        second *= np.exp(np.linspace(-0.8, 0.8, 36))[:, None, None, None]
    elif what == "position":
        second = np.roll(second, 10, axis=0)
    else:
        second[second.mean(axis=-1) < 450] *= 0.5
    joined, before = join((image(LOW, 0, shape=(36, 36, 1)), LOW), (second, HIGH))
    assert joined.record["Gains"] == {}
    np.testing.assert_array_equal(joined.series.signals, before)
    assert "differ by no single gain" in joined.warnings[0]


@pytest.mark.parametrize("bvals", [(90, 200, 400), (800,)])
def test_without_a_shared_b_value_the_scales_stay_unknown(bvals):
    joined, _ = join((image(LOW, 0), LOW), (image(bvals, 1, gain=1.3), bvals))
    assert joined.record["SharedBValues"] == []
    assert "run-1, run-2 could not be compared, they share no b-value" in joined.warnings[0]


def test_what_holds_no_signal_does_not_count():
    first, second = image(LOW, 0), image(HIGH, 1, gain=1.3)
    first[:7], second[7:10], second[:, :3] = np.nan, -second[7:10], 0
    assert join((first, LOW), (second, HIGH))[0].record["Gains"] == pytest.approx({"run-2": 1.3}, rel=0.03)
    nothing, _ = join((first, LOW), (np.zeros_like(second), HIGH))
    assert nothing.warnings[0].startswith("no voxel has signal in both run-2 and run-1")


@pytest.mark.parametrize("snr", [8, 50])
@pytest.mark.parametrize("bvals", [(0, 100, 200, 400, 800), (0, 10, 30, 80), (0, 1000), (800,)])
def test_a_table_in_another_unit_is_refused(bvals, snr):
    other = tuple(b / 1000 for b in bvals)
    with pytest.raises(DataError, match=r"run-2 has lost .* as if that were in ms/um"):
        join((image((0, 10, 30, 60), 0, snr=snr), (0, 10, 30, 60)), (image(bvals, 1, snr=snr), other))


@pytest.mark.parametrize("bvals", [(0, 1, 2, 5), (0, 0.02, 0.3), (5,), (0.4,)])
def test_b_values_that_really_are_low_are_taken(bvals):
    assert join((image(HIGH, 0), HIGH), (image(bvals, 1), bvals))[0].record["Gains"] == {}


def test_a_series_on_disk_is_scaled_as_one_in_memory(tmp_path):
    signals = np.concatenate([image(LOW, 0), image(HIGH, 1, gain=1.3)], axis=-1)
    on_disk = empty_series(signals.shape, folder=tmp_path)
    on_disk[...] = signals
    bvals, owner = np.array(LOW + HIGH, dtype=float), np.repeat([0, 1], 5)
    for values in (on_disk, memory := signals.astype(np.float32)):
        join_images(DwiSeries(values, bvals, None, np.eye(4)), owner, ["a", "b"])
    np.testing.assert_array_equal(on_disk, memory)
    assert not np.allclose(memory, signals)
