"""Splitting a run into halves, and what agreement of the halves says."""

from __future__ import annotations

import numpy as np
import pytest
from bids_datasets import real_dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.accuracy.averages import measured_halves
from benchmarks.common import halves

BVALS = np.repeat([0.0, 10.0, 50.0, 200.0, 500.0], [12, 6, 6, 6, 6])
NOMINAL = np.unique(BVALS)
ABDOMEN = real_dataset("ivim-abdomen")

positive_pairs = arrays(np.float64, (2, 7), elements=st.floats(0.01, 100.0))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@given(order=st.permutations(range(BVALS.size)), first=st.sampled_from(halves.direction_splits(6)))
def test_halves_are_disjoint_and_balanced_in_any_order_of_acquisition(order, first):
    bvals = BVALS[list(order)]
    one, other = halves.volumes_of_halves(bvals, first)
    assert not (one & other).any()
    assert (one | other).all()
    for bval in NOMINAL:
        assert one[bvals == bval].sum() == other[bvals == bval].sum()
    assert np.array_equal(np.flatnonzero(one[bvals == 10]), first)


def test_volumes_without_weighting_go_to_the_halves_in_turn():
    one, _ = halves.volumes_of_halves(BVALS, (0, 1, 2))
    assert np.array_equal(np.flatnonzero(one[BVALS == 0]), [0, 2, 4, 6, 8, 10])


def test_every_split_of_six_directions_comes_once():
    splits = halves.direction_splits(6)
    both = {frozenset((frozenset(first), frozenset(range(6)) - frozenset(first))) for first in splits}
    assert len(splits) == len(both) == 10
    assert all(len(half) == 3 for pair in both for half in pair)


@pytest.mark.parametrize("bvals", [[0, 10, 10, 50], [0, 10, 10, 10, 50, 50, 50], [0, 0]])
def test_directions_that_cannot_be_halved_are_refused(bvals):
    with pytest.raises(ValueError, match="an even number"):
        halves.direction_count(np.array(bvals, dtype=float))


def test_the_split_that_balances_a_dependence_on_direction_is_found():
    decay = np.exp(-0.001 * BVALS)
    by_direction = np.tile([3.0, -1.0, -1.5, -2.0, 0.5, 1.0], 4)
    means = np.stack([decay, 2 * decay])
    means[:, BVALS > 0] *= 1 + 0.05 * by_direction
    split = halves.best_split(means, BVALS)
    assert split == (0, 1, 3)
    assert halves.disagreement(means, BVALS, split) == pytest.approx(0, abs=1e-12)


@given(values=positive_pairs)
def test_equal_halves_do_not_vary(values):
    assert halves.within_subject_cv(values[0], values[0]) == 0


@given(values=positive_pairs, scale=st.floats(1e-4, 1e4))
def test_the_coefficient_of_variation_has_no_unit_and_no_order(values, scale):
    expected = halves.within_subject_cv(*values)
    assert halves.within_subject_cv(*(scale * values)) == pytest.approx(expected, rel=1e-9)
    assert halves.within_subject_cv(*values[::-1]) == pytest.approx(expected, rel=1e-9)


def test_the_coefficient_of_variation_of_known_noise(rng):
    truth = rng.uniform(1.0, 3.0, 200_000)
    first, second = truth + rng.normal(0, 0.2, (2, truth.size))
    assert halves.within_subject_cv(first, second) == pytest.approx(0.2 / 2.0, rel=0.01)


def test_the_contrast_of_medians_that_shrink_towards_their_mean(rng):
    reference = [rng.random(4), rng.random(3)]
    shrunk = [
        values.mean() + 0.7 * (values - values.mean()) + 0.1 * run for run, values in enumerate(reference)
    ]
    assert halves.contrast_ratio(shrunk, reference) == pytest.approx(0.7)
    assert halves.contrast_ratio(reference, reference) == pytest.approx(1.0)


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"sub-02_acq-T70_dwi.nii.gz"):
        halves.require_files(tmp_path, ["sub-02_acq-T70"])
    with pytest.raises(SystemExit, match="--data"):
        halves.require_files(tmp_path / "elsewhere", ["sub-02_acq-T70"])


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason="the real abdomen data are not beside the repository")
def test_halves_of_a_measured_run_hold_half_of_its_volumes_each():
    ((parts, organs),) = measured_halves(ABDOMEN, runs=["sub-02_acq-T70"])
    for part in parts:
        assert np.unique(part.bvals, return_counts=True)[1].tolist() == [12, *[3] * 8]
    assert organs.any() and organs.shape == parts[0].signals.shape[:3]
