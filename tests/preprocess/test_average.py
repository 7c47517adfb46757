"""Averages over repeats and directions: the rules, the gaps and the order of the volumes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.average import average_repeats, group_volumes
from sicnn_app.preprocess.noise import VOXELS_AT_ONCE, estimate_noise
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings

X, Y, Z = np.eye(3)
BVALS = np.array([0.0, 0.0, 50.0, 100.0, 400.0, 400.0, 400.0, 400.0])
BVECS = np.array([0 * X, 0 * X, X, X, X, X, Y, Z])


def series_of(values, bvals=BVALS, bvecs=BVECS) -> DwiSeries:
    """One voxel per row of ``values`` (M, N), along the first axis."""
    signals = np.asarray(values, dtype=np.float32)[:, None, None, :]
    return DwiSeries(signals, np.asarray(bvals, dtype=float), bvecs, np.eye(4))


def averaged(values, bvals=BVALS, bvecs=BVECS):
    series = series_of(values, bvals, bvecs)
    return average_repeats(series, np.ones(series.signals.shape[:3], dtype=bool))


def test_repeats_arithmetically_then_directions_geometrically():
    result = averaged([[100, 110, 80, 70, 40, 60, 20, 80]])
    expected = [105, 80, 70, (50 * 20 * 80) ** (1 / 3)]
    np.testing.assert_allclose(result.signals[0, 0, 0], expected, rtol=1e-6)
    assert result.groups.repeats.tolist() == [2, 1, 1, 4]
    assert result.groups.directions.tolist() == [1, 1, 1, 3]
    assert result.record["VoxelsAveragedArithmetically"] == 0


def test_geometric_mean_of_a_tensor_decay_is_that_of_its_mean_diffusivity():
    diffusivities = np.array([0.0005, 0.001, 0.003])
    signals = [100, 100, 90, 80, *(100 * np.exp(-400 * diffusivities[[0, 0, 1, 2]]))]
    result = averaged([signals])
    np.testing.assert_allclose(
        result.signals[0, 0, 0, -1], 100 * np.exp(-400 * diffusivities.mean()), rtol=1e-6
    )


@pytest.mark.parametrize("low", [0.0, -5.0])
def test_directions_arithmetically_where_one_is_not_positive_and_counted(low):
    result = averaged([[100, 100, 80, 70, 40, 60, low, 80], [100, 110, 80, 70, 40, 60, 20, 80]])
    np.testing.assert_allclose(result.signals[0, 0, 0, -1], (50 + low + 80) / 3, rtol=1e-6)
    np.testing.assert_allclose(result.signals[1, 0, 0, -1], (50 * 20 * 80) ** (1 / 3), rtol=1e-6)
    assert result.record["VoxelsAveragedArithmetically"] == 1


def test_a_negative_repeat_of_a_positive_direction_stays_geometric():
    result = averaged([[100, 100, 80, 70, -10, 60, 20, 80]])
    np.testing.assert_allclose(result.signals[0, 0, 0, -1], (25 * 20 * 80) ** (1 / 3), rtol=1e-6)
    assert result.record["VoxelsAveragedArithmetically"] == 0


def test_without_bvecs_all_volumes_of_a_bval_are_repeats():
    result = averaged([[100, 110, 80, 70, 40, 60, 20, 80]], bvecs=None)
    np.testing.assert_allclose(result.signals[0, 0, 0], [105, 80, 70, 50], rtol=1e-6)
    assert result.groups.directions.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("vectors", "directions"),
    [
        ([X, -X, 2 * X, [1, 0.01, 0]], 1),
        ([X, Y, Z, -Z], 3),
        ([X, [1, 0.03, 0], Y, Y], 3),
        ([0 * X, [np.nan, 0, 0], 0 * X, X], 2),
        ([0 * X, 0 * X, 0 * X, 0 * X], 1),
        ([[np.inf, 0, 0], 1e-5 * X, X, Y], 3),
    ],
    ids=[
        "sign, length and 0.6 degrees",
        "three",
        "1.7 degrees",
        "unknown together",
        "all unknown",
        "not finite",
    ],
)
def test_which_vectors_are_one_direction(vectors, directions):
    bvecs = np.concatenate([BVECS[:4], np.array(vectors, dtype=float)])
    assert group_volumes(series_of(np.ones((1, 8)), bvecs=bvecs)).directions[-1] == directions


def test_directions_at_b_0_mean_nothing():
    bvecs = BVECS.copy()
    bvecs[0], bvecs[1] = X, Y
    assert group_volumes(series_of(np.ones((1, 8)), bvecs=bvecs)).directions[0] == 1


def test_noise_factors_of_balanced_and_unbalanced_averages():
    factors = group_volumes(series_of(np.ones((1, 8)))).noise_factors
    np.testing.assert_allclose(factors, [np.sqrt(0.5), 1, 1, np.sqrt(0.5 + 1 + 1) / 3])


def test_noise_factors_hold_for_the_noise_of_the_averages():
    rng = np.random.default_rng(1)
    values = 100 + rng.standard_normal((20000, 8))
    result = averaged(values)
    found = result.signals[:, 0, 0].std(axis=0)
    np.testing.assert_allclose(found, result.groups.noise_factors, rtol=0.03)


def test_gaps_are_averaged_over_what_is_finite():
    nan = np.nan
    result = averaged([[100, nan, 80, 70, nan, 60, 20, nan], [nan, 90, 80, 70, 40, np.inf, nan, nan]])
    np.testing.assert_allclose(result.signals[0, 0, 0], [100, 80, 70, np.sqrt(60 * 20)], rtol=1e-6)
    np.testing.assert_allclose(result.signals[1, 0, 0], [90, 80, 70, 40], rtol=1e-6)
    assert result.mask.all() and not result.warnings


def test_voxels_without_data_leave_the_mask_and_are_counted():
    good = [100, 110, 80, 70, 40, 60, 20, 80]
    nan = np.nan
    result = averaged(
        [
            good,
            [100, 110, nan, 70, 40, 60, 20, 80],
            [0] * 8,
            [7] * 8,
            [-3, 1, 80, 70, 40, 60, 20, 80],
            [nan] * 8,
        ]
    )
    assert result.mask[:, 0, 0].tolist() == [True, False, False, False, False, False]
    assert np.isfinite(result.signals).all() and not result.signals[1:].any()
    assert result.record["VoxelsWithoutData"] == 5
    (warning,) = result.warnings
    assert "5 voxels" in warning
    assert "2 without a finite value" in warning and "2 with the same signal" in warning
    assert "1 without positive signal at b = 0" in warning


def test_a_mask_without_usable_data_is_an_error():
    with pytest.raises(DataError, match=r"no voxel of the mask has usable data .*2 with the same signal"):
        averaged([[0] * 8, [5] * 8])


def test_mask_and_series_are_not_changed():
    series = series_of([[100, 110, 80, 70, 40, 60, 20, 80], [0] * 8])
    mask = np.ones((2, 1, 1), dtype=bool)
    before = series.signals.copy()
    result = average_repeats(series, mask)
    assert mask.all() and not result.mask.all()
    np.testing.assert_array_equal(series.signals, before)


def test_voxels_outside_the_mask_are_zero():
    series = series_of([[100, 110, 80, 70, 40, 60, 20, 80]] * 2)
    mask = np.array([True, False])[:, None, None]
    assert not average_repeats(series, mask).signals[1].any()


def test_a_voxel_that_moved_out_of_some_volumes_stays_until_a_bval_has_lost_all():
    values = np.tile([100.0, 110, 80, 70, 40, 60, 20, 80], (3, 1))
    values[0, [0, 4, 6]] = np.nan
    values[1, 4:] = np.nan
    result = averaged(values)
    assert result.mask[:, 0, 0].tolist() == [True, False, True]
    np.testing.assert_allclose(result.signals[0, 0, 0], [110, 80, 70, np.sqrt(60 * 80)], rtol=1e-6)
    assert not result.signals[1].any()


@pytest.fixture
def long_series(tmp_path):
    """300 volumes of 64 x 64 x 16 voxels on disk in the order of a NIfTI file, 79 MB."""
    shape = (64, 64, 16, 300)
    signals = np.memmap(tmp_path / "series", dtype=np.float32, mode="w+", shape=shape, order="F")
    bvals = np.repeat([0.0, 10, 20, 50, 100, 200, 300, 400, 600, 800], 30)
    rng = np.random.default_rng(0)
    body = np.zeros(shape[:3], dtype=np.float32)
    body[12:52, 8:56] = 300.0
    for volume, bval in enumerate(bvals):
        noise = rng.standard_normal(shape[:3], dtype=np.float32)
        signals[..., volume] = np.abs(body * np.exp(-0.0015 * bval, dtype=np.float32) + 10 * noise)
    return DwiSeries(signals, bvals, np.tile(np.repeat(np.eye(3), 10, axis=0), (10, 1)), np.eye(4))


def peak_megabytes(function):
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1] / 1e6, result
    finally:
        tracemalloc.stop()


def test_memory_of_averages_and_noise_is_that_of_a_few_volumes(long_series):
    volume = 64 * 64 * 16 * 8 / 1e6
    mask = np.ones((64, 64, 16), dtype=bool)
    peak, average = peak_megabytes(lambda: average_repeats(long_series, mask))
    assert peak < average.signals.nbytes / 1e6 + 12 * volume
    peak, noise = peak_megabytes(lambda: estimate_noise(long_series, average))
    arrays_of_a_slab = 12 * VOXELS_AT_ONCE * average.groups.bvals.size * 8 / 1e6
    assert peak < noise.averaged.nbytes / 1e6 + arrays_of_a_slab
    assert noise.sigma > 0


def test_memory_of_the_whole_preparation_is_far_below_that_of_the_series(long_series):
    """The corrections need copies of the series; without them it stays on disk."""
    chosen = PreprocessingSettings(denoise="none", motion_correction="none", max_bval=700)
    peak, result = peak_megabytes(lambda: prepare(long_series, anatomy="body", settings=chosen))
    assert result.series.bvals.size == 270
    assert np.shares_memory(result.series.signals, long_series.signals)
    assert peak < 0.25 * long_series.signals.nbytes / 1e6


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(8)), seed=st.integers(0, 2**16), with_bvecs=st.booleans())
def test_the_order_of_volumes_does_not_matter(order, seed, with_bvecs):
    rng = np.random.default_rng(seed)
    values = rng.normal(30, 25, (12, 8))
    values[:, :2] = np.abs(values[:, :2]) + 1
    values[rng.random((12, 8)) < 0.1] = np.nan
    values[0] = np.arange(8, 0, -1)
    bvecs = BVECS if with_bvecs else None
    first = averaged(values, bvecs=bvecs)
    other = averaged(values[:, order], BVALS[list(order)], None if bvecs is None else bvecs[list(order)])
    np.testing.assert_allclose(other.signals, first.signals, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(other.mask, first.mask)
    np.testing.assert_allclose(other.groups.noise_factors, first.groups.noise_factors)
    assert other.record == first.record
