"""Averages that lost signal does not spoil, and the choice between ways of averaging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.choose_average import choose_average
from sicnn_app.preprocess.resample import Resampling

SHAPE = (24, 20, 2)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[2:-2, 2:-2] = True
LOST = np.zeros(SHAPE, dtype=bool)
LOST[12:, 8:, 0] = True
INSIDE = np.zeros(SHAPE, dtype=bool)
INSIDE[15:-2, 11:-2, 0] = True
BVALS = np.array([0.0, 50, 200, 400, 800])
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / np.sqrt(
    [[1], [1], [1], [2], [2], [2]]
)


def measured(repeats: int, *, noise=10.0, anisotropy=0.0, directions=False, seed=0) -> DwiSeries:
    """Uniform tissue of signal 300, every b-value so often, diffusion along x stronger by ``anisotropy``."""
    rng = np.random.default_rng(seed)
    bvals, vectors = np.repeat(BVALS, repeats), np.tile(VECTORS[:repeats], (BVALS.size, 1))
    decay = np.exp(-bvals * 1e-3 * (1 + anisotropy * (vectors[:, 0] ** 2 - 1 / 3)))
    clean = 300 * np.where(MASK[..., None], decay, 0.0)
    signals = np.hypot(clean + rng.normal(0, noise, clean.shape), rng.normal(0, noise, clean.shape))
    return DwiSeries(signals.astype(np.float32), bvals, vectors if directions else None, np.eye(4))


def lose(series: DwiSeries, volume: int, share: float) -> DwiSeries:
    series.signals[LOST, volume] *= 1 - share
    return series


def deviation(series: DwiSeries, way: str, bval: int, where=INSIDE) -> float:
    found = average_repeats(series, MASK, way).signals[where, bval]
    return float(found.mean() / (300 * np.exp(-BVALS[bval] * 1e-3)) - 1)


@pytest.mark.parametrize("repeats", [2, 3, 6])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
def test_a_region_that_one_volume_lost_hardly_moves_the_average(repeats, share):
    series = lose(measured(repeats), 3 * repeats, share)
    assert deviation(series, "arithmetic", 3) < -0.8 * share / repeats
    assert abs(deviation(series, "robust", 3)) < 0.3 * share / repeats
    assert abs(deviation(series, "robust", 3, where=MASK & ~LOST)) < 0.02


@pytest.mark.parametrize("noise", [3.0, 30.0, 60.0])
def test_noise_alone_changes_no_level_and_loses_no_precision(noise):
    arithmetic, robust = (
        average_repeats(measured(6, noise=noise), MASK, way).signals[MASK] for way in ("arithmetic", "robust")
    )
    np.testing.assert_allclose(robust.mean(axis=0), arithmetic.mean(axis=0), rtol=0.01)
    assert (robust.std(axis=0) < 1.03 * arithmetic.std(axis=0)).all()


@settings(max_examples=25, deadline=None)
@given(
    volumes=st.lists(st.integers(0, 9), max_size=9, unique=True),
    value=st.sampled_from([np.nan, np.inf, -50.0, 0.0]),
    seed=st.integers(0, 99),
)
def test_whatever_is_lost_the_average_stays_between_the_volumes(volumes, value, seed):
    series = measured(2, seed=seed)
    series.signals[LOST[..., None] & np.isin(np.arange(10), volumes)] = value
    average = average_repeats(series, MASK, "robust")
    finite = np.where(np.isfinite(series.signals), series.signals, np.nan)[average.mask]
    pairs = finite.reshape(-1, BVALS.size, 2)
    signals = average.signals[average.mask]
    assert (signals >= np.nanmin(pairs, axis=2) - 1e-3).all()
    assert (signals <= np.nanmax(pairs, axis=2) + 1e-3).all()


def test_what_one_volume_has_alone_is_taken_from_it():
    series = measured(2)
    series.signals[LOST, 6] = np.nan
    np.testing.assert_array_equal(
        average_repeats(series, MASK, "robust").signals[LOST & MASK, 3], series.signals[LOST & MASK, 7]
    )


def test_the_order_of_volumes_does_not_matter():
    series = lose(measured(3), 7, 0.5)
    order = np.random.default_rng(1).permutation(series.bvals.size)
    other = DwiSeries(series.signals[..., order], series.bvals[order], None, np.eye(4))
    np.testing.assert_allclose(
        average_repeats(other, MASK, "robust").signals,
        average_repeats(series, MASK, "robust").signals,
        rtol=1e-5,
    )


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("noise", [3.0, 20.0])
def test_anisotropic_tissue_is_no_loss(directions, noise):
    series = measured(6, noise=noise, anisotropy=0.9, directions=directions)
    way, why = choose_average("auto", series, MASK, "body")
    assert way == "geometric" and "same directions differ" in why
    alike = measured(6, noise=noise, directions=directions)
    assert choose_average("auto", alike, MASK, "body")[0] == "robust"


def test_losses_are_not_taken_for_anisotropy():
    series = measured(6, directions=True)
    for volume in (15, 22, 25, 29):
        lose(series, volume, 0.5)
    assert choose_average("auto", series, MASK, "body")[0] == "robust"


def test_what_is_asked_for_is_done_and_brains_keep_their_average():
    series = measured(2)
    for way in ("arithmetic", "geometric", "robust"):
        assert choose_average(way, series, MASK, "brain") == (way, f"--average {way}")
    assert choose_average("auto", series, MASK, "brain")[0] == "geometric"
    assert choose_average("auto", measured(1), MASK, "body")[0] == "robust"


def test_draws_of_a_robust_average_scatter_around_it_as_it_would():
    """Where one of six volumes lost a region, the draws keep the average and the noise of the others."""
    series = lose(measured(6), 19, 0.6)
    average = average_repeats(series, MASK, "robust")
    one = Resampling.of(series, average.with_noise(10.0, "given"))
    rng = np.random.default_rng(0)
    draws = np.stack([one(rng)[INSIDE, 3] for _ in range(40)])
    assert draws.mean() == pytest.approx(average.signals[INSIDE, 3].mean(), rel=0.01)
    assert 0.8 < draws.std(axis=0).mean() / (10 / np.sqrt(6)) < 1.25
