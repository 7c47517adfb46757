"""The bootstrap of a series: what is drawn, how widely, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sicnn_app.ivim.resampling import add_noise
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.noise import Denoising
from sicnn_app.preprocess.resample import Resampling

SHAPE = (6, 5, 3)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:, :4] = True
AXES = np.eye(3)


def resampling(bvals, bvecs, noise: float, *, seed: int = 0, anisotropy: float = 0.0) -> Resampling:
    """Of a series with as many volumes as b-values; directions differ by ``anisotropy``."""
    rng = np.random.default_rng(seed)
    bvals = np.asarray(bvals, dtype=float)
    directions = None if bvecs is None else np.asarray(bvecs, dtype=float)
    decay = 1e-3 if directions is None else 1e-3 * (1 + anisotropy * directions @ np.array([1.0, 0.0, -1.0]))
    clean = 300 * np.exp(-bvals * decay)
    signals = (clean + rng.normal(0, noise, (*SHAPE, bvals.size))).astype(np.float32)
    series = DwiSeries(signals, bvals, directions, np.eye(4))
    average = average_repeats(series, MASK)
    averaged = AveragedSignals(
        signals=average.signals,
        bvals=average.groups.bvals,
        mask=average.mask,
        repeats=average.groups.repeats,
        directions=average.groups.directions,
        sigma=noise,
        noise=noise * average.groups.noise_factors,
        sigma_method="given",
    )
    return Resampling.of(series, averaged)


def test_noise_is_added_inside_the_mask_only():
    signals = np.full((*SHAPE, 4), 100.0, dtype=np.float32)
    sigma = np.array([0.0, 1.0, 5.0, 20.0])
    drawn = add_noise(signals, MASK, sigma, np.random.default_rng(0))
    assert drawn.dtype == np.float32 and (drawn[~MASK] == 100).all() and (drawn[..., 0] == 100).all()
    many = np.stack([add_noise(signals, MASK, sigma, np.random.default_rng(k))[MASK] for k in range(200)])
    np.testing.assert_allclose(many.std(axis=(0, 1)), sigma, rtol=0.03)


def test_few_repeats_get_noise_and_many_are_drawn_anew():
    bvals = [0] * 3 + [100] * 2 + [400] + [800] * 6
    bvecs = [[0, 0, 0]] * 3 + [[1, 0, 0]] * 2 + [[1, 0, 0]] + [[1, 0, 0]] * 3 + [[0, 1, 0]] * 3
    assert resampling(bvals, bvecs, 5.0).ways == ("bootstrap", "noise", "noise", "bootstrap")
    # Without directions all volumes of a b-value are repeats.
    assert resampling(bvals, None, 5.0).ways == ("bootstrap", "noise", "noise", "bootstrap")


def test_draws_scatter_as_much_as_measurements():
    """The variance of bootstrapped means, averaged over measurements, is that of the means."""
    bvals = [0] * 5 + [200] * 3 + [600] * 4 + [800]
    drawn_variance, noise = [], 10.0
    for seed in range(60):
        one = resampling(bvals, None, noise, seed=seed)
        rng = np.random.default_rng(seed)
        draws = np.stack([one(rng)[MASK] for _ in range(20)])
        drawn_variance.append(((draws - one.averaged.signals[MASK]) ** 2).mean(axis=(0, 1)))
    expected = noise**2 / np.array([5, 3, 4, 1])
    np.testing.assert_allclose(np.mean(drawn_variance, axis=0), expected, rtol=0.15)


def test_directions_are_kept():
    """Without noise nothing changes, however much directions differ."""
    bvecs = [[0, 0, 0]] * 3 + [axis for axis in AXES.tolist() for _ in range(3)]
    one = resampling([0] * 3 + [600] * 9, bvecs, 0.0, anisotropy=0.4)
    assert one.ways == ("bootstrap", "bootstrap")
    np.testing.assert_allclose(one(np.random.default_rng(0)), one.averaged.signals, rtol=1e-5)


def test_a_voxel_that_was_moved_out_of_all_volumes_drawn_stays_as_measured():
    one = resampling([0] * 3 + [600] * 3, None, 5.0)
    one.series.signals[2, 2, 1, 1:3] = np.nan
    average = average_repeats(one.series, MASK)
    kept = Resampling.of(
        one.series,
        AveragedSignals(
            **{**vars(one.averaged), "signals": average.signals, "mask": average.mask},
        ),
    )
    for seed in range(20):
        assert np.isfinite(kept(np.random.default_rng(seed))[MASK]).all()


@pytest.mark.parametrize("bvals", [[0] * 3 + [600] * 3, [0, 600]])
def test_the_generator_decides(bvals):
    one = resampling(bvals, None, 5.0)
    first, again, other = (one(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first[~MASK], one.averaged.signals[~MASK])


@pytest.mark.parametrize("repeats", [1, 4])
def test_draws_of_a_denoised_series_hold_the_noise_that_is_left(repeats):
    """As wide as the error of the averages, and as alike in the rows that the denoising averages."""

    def redo(other: DwiSeries) -> DwiSeries:
        rows = other.signals.reshape(8, 4, *other.signals.shape[1:]).mean(axis=1)
        return replace(other, signals=np.repeat(rows, 4, axis=0))

    rng, noise = np.random.default_rng(0), 10.0
    bvals = np.repeat([0.0, 100.0], repeats)
    signals = 300 * np.exp(-bvals * 1e-3) + noise * rng.standard_normal((32, 20, 2, bvals.size))
    acquired = DwiSeries(signals.astype(np.float32), bvals, None, np.eye(4))
    clean = redo(acquired)
    averaged = average_repeats(clean, np.ones((32, 20, 2), bool)).with_noise(noise, "given")
    one = Resampling.of(clean, averaged, Denoising(acquired, clean, redo))
    assert all(way.startswith("denoised noise") for way in one.ways)
    draws = np.stack([one(np.random.default_rng(seed)) - averaged.signals for seed in range(20)])
    assert draws.std() == pytest.approx(noise / np.sqrt(4 * repeats), rel=0.1)
    neighbours = np.corrcoef(draws[:, 0::4].ravel(), draws[:, 1::4].ravel())[0, 1]
    assert neighbours > 0.9
