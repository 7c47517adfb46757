"""Splitting a run into halves, and what agreement of the halves says, on simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.accuracy import retest_statistics as statistics
from sicnn_app.ivim.signal import ivim_signal

BVALS = np.repeat([0.0, 10.0, 50.0, 200.0, 500.0], [12, 6, 6, 6, 6])
NOMINAL = np.unique(BVALS)

positive_pairs = arrays(np.float64, (2, 7), elements=st.floats(0.01, 100.0))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@given(order=st.permutations(range(BVALS.size)), first=st.sampled_from(statistics.direction_splits(6)))
def test_halves_are_disjoint_and_balanced_in_any_order_of_acquisition(order, first):
    bvals = BVALS[list(order)]
    one, other = statistics.halves(bvals, first)
    assert not (one & other).any()
    assert (one | other).all()
    for bval in NOMINAL:
        assert one[bvals == bval].sum() == other[bvals == bval].sum()
    assert np.array_equal(np.flatnonzero(one[bvals == 10]), first)


def test_volumes_without_weighting_go_to_the_halves_in_turn():
    one, _ = statistics.halves(BVALS, (0, 1, 2))
    assert np.array_equal(np.flatnonzero(one[BVALS == 0]), [0, 2, 4, 6, 8, 10])


def test_every_split_of_six_directions_comes_once():
    splits = statistics.direction_splits(6)
    both = {frozenset((frozenset(first), frozenset(range(6)) - frozenset(first))) for first in splits}
    assert len(splits) == len(both) == 10
    assert all(len(half) == 3 for pair in both for half in pair)


@pytest.mark.parametrize("bvals", [[0, 10, 10, 50], [0, 10, 10, 10, 50, 50, 50], [0, 0]])
def test_directions_that_cannot_be_halved_are_refused(bvals):
    with pytest.raises(ValueError, match="an even number"):
        statistics.direction_count(np.array(bvals, dtype=float))


def test_the_split_that_balances_a_dependence_on_direction_is_found():
    decay = np.exp(-0.001 * BVALS)
    by_direction = np.tile([3.0, -1.0, -1.5, -2.0, 0.5, 1.0], 4)
    means = np.stack([decay, 2 * decay])
    means[:, BVALS > 0] *= 1 + 0.05 * by_direction
    split = statistics.best_split(means, BVALS)
    assert split == (0, 1, 3)
    assert statistics.disagreement(means, BVALS, split) == pytest.approx(0, abs=1e-12)


@given(values=positive_pairs)
def test_equal_halves_do_not_vary(values):
    assert statistics.within_subject_cv(values[0], values[0]) == 0


@given(values=positive_pairs, scale=st.floats(1e-4, 1e4))
def test_the_coefficient_of_variation_has_no_unit_and_no_order(values, scale):
    expected = statistics.within_subject_cv(*values)
    assert statistics.within_subject_cv(*(scale * values)) == pytest.approx(expected, rel=1e-9)
    assert statistics.within_subject_cv(*values[::-1]) == pytest.approx(expected, rel=1e-9)


def test_the_coefficient_of_variation_of_known_noise(rng):
    truth = rng.uniform(1.0, 3.0, 200_000)
    first, second = truth + rng.normal(0, 0.2, (2, truth.size))
    assert statistics.within_subject_cv(first, second) == pytest.approx(0.2 / 2.0, rel=0.01)


def prediction_error(predicted: np.ndarray, observed: np.ndarray) -> statistics.PredictionError:
    return statistics.PredictionError.of(
        statistics.cross_residuals(predicted, observed),
        statistics.scatter_residuals(observed, observed),
        statistics.scatter_residuals(predicted, observed),
    )


def test_the_error_of_a_prediction_is_told_from_the_noise_it_is_held_against(rng):
    truth = ivim_signal(NOMINAL, 0.2, 0.001, 0.03, 100.0) * np.ones((2, 20_000, 1))
    observed = truth + rng.normal(0, 3.0, truth.shape)
    right = prediction_error(truth, observed)
    assert right.cross == pytest.approx(0.03, rel=0.02)
    assert right.noise == pytest.approx(0.03, rel=0.02)
    assert right.error < 0.006
    wrong = prediction_error(truth + 4.0 + rng.normal(0, 2.0, truth.shape), observed)
    assert wrong.cross == pytest.approx(np.sqrt(0.03**2 + 0.04**2 + 0.02**2), rel=0.02)
    assert wrong.error == pytest.approx(np.hypot(0.04, 0.02), rel=0.02)
    assert wrong.scatter == pytest.approx(0.02, rel=0.02)
    assert wrong.bias == pytest.approx(0.04, rel=0.02)


def test_a_prediction_is_held_against_the_other_half():
    observed = np.stack([np.full((1, 2), 1.0), np.full((1, 2), 3.0)])
    residuals = statistics.cross_residuals(observed, observed)
    assert np.array_equal(residuals[:, 0, 0], [-1.0, 1.0])


@given(
    observed=arrays(np.float64, (2, 3, 4), elements=st.floats(0.1, 100.0)),
    predicted=arrays(np.float64, (2, 3, 4), elements=st.floats(0.0, 100.0)),
    scale=st.floats(1e-3, 1e3),
)
def test_cross_residuals_do_not_depend_on_the_unit(observed, predicted, scale):
    expected = statistics.cross_residuals(predicted, observed)
    assert statistics.cross_residuals(scale * predicted, scale * observed) == pytest.approx(expected)


def test_blurring_keeps_a_constant_up_to_the_edge_of_the_mask_and_ignores_what_is_outside(rng):
    mask = rng.random((12, 10, 2)) < 0.6
    signals = np.where(mask[..., None], [5.0, 3.0], 1000.0)
    found = statistics.blurred(signals, mask, 1.0)
    assert found[mask] == pytest.approx(np.broadcast_to([5.0, 3.0], (mask.sum(), 2)))
    assert not found[~mask].any()


def test_blurring_lowers_the_noise_and_smears_edges_within_the_slice_only(rng):
    mask = np.ones((40, 40, 2), dtype=bool)
    signals = np.zeros((40, 40, 2, 1))
    signals[20:, :, 0] = 1.0
    found = statistics.blurred(signals, mask, 1.0)
    assert found[19, 20, 0, 0] == pytest.approx(1 - found[20, 20, 0, 0], abs=1e-6)
    assert 0.2 < found[19, 20, 0, 0] < 0.5
    assert not found[:, :, 1].any()
    noise = rng.normal(size=(40, 40, 2, 1))
    # A Gaussian of sigma 1 leaves 1 / (2 sqrt(pi)) of white noise.
    assert statistics.blurred(noise, mask, 1.0).std() == pytest.approx(0.282, rel=0.1)


def test_the_boundary_is_one_voxel_wide_and_of_organs():
    labels = np.zeros((9, 9, 2), dtype=int)
    labels[2:7, 2:7, 0] = 1
    labels[4:7, 2:7, 0] = 2
    found = statistics.at_boundary(labels)
    interior = np.zeros_like(found)
    interior[5, 3:6, 0] = True
    assert np.array_equal(found, (labels > 0) & ~interior)


def test_contrast_and_slope_of_medians_that_shrink_towards_their_mean(rng):
    reference = [rng.random(4), rng.random(3)]
    shrunk = [
        values.mean() + 0.7 * (values - values.mean()) + 0.1 * run for run, values in enumerate(reference)
    ]
    assert statistics.contrast_ratio(shrunk, reference) == pytest.approx(0.7)
    assert statistics.contrast_slope(shrunk, reference) == pytest.approx(0.7)
    assert statistics.contrast_ratio(reference, reference) == pytest.approx(1.0)


def test_scatter_of_medians_raises_the_contrast_but_not_the_slope(rng):
    reference = [rng.normal(0, 0.1, 5) for _ in range(2000)]
    scattered = [values + rng.normal(0, 0.1, 5) for values in reference]
    assert statistics.contrast_ratio(scattered, reference) == pytest.approx(np.sqrt(2), rel=0.05)
    assert statistics.contrast_slope(scattered, reference) == pytest.approx(1.0, abs=0.05)
