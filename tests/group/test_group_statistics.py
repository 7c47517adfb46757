"""Statistics of the group against published examples, closed forms and simulated truth."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sicnn_app.group.statistics import MIN_RUNS, agreement, distribution, repeatability
from sicnn_app.ivim.summary import spread

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
"""Six targets, four judges: Table 2 of Shrout and Fleiss (1979)."""

number = st.floats(-100, 100).map(lambda value: round(value, 3))
pairs = st.lists(st.tuples(number, number), min_size=3, max_size=12).map(np.array)
several = st.lists(st.lists(number, min_size=2, max_size=4).map(np.array), min_size=2, max_size=8)
runs = st.lists(number, min_size=1, max_size=30).map(np.array)
scale = st.floats(0.1, 50)


def flat(result) -> np.ndarray:
    """Every number of a result in a row."""
    return np.array(
        [item for value in astuple(result) for item in np.atleast_1d(np.asarray(value, dtype=float))]
    )


def test_icc_is_that_of_shrout_and_fleiss():
    found = repeatability(list(SHROUT_FLEISS))
    assert round(found.icc, 2) == 0.17
    assert [round(end, 2) for end in found.icc_interval] == [-0.13, 0.72]
    assert (found.participants, found.measurements) == (6, 24)
    # Their table states the mean square within targets as 6.26.
    assert found.within_subject_sd**2 == pytest.approx(6.26, abs=0.005)


@given(pairs)
def test_pairs_have_a_closed_form(values):
    found = repeatability(list(values))
    sd = math.sqrt(np.mean((values[:, 0] - values[:, 1]) ** 2) / 2)
    assert found.within_subject_sd == pytest.approx(sd, abs=1e-9)
    assert found.coefficient == pytest.approx(1.959964 * math.sqrt(2) * sd, abs=1e-4)
    if sd > 0 and values.mean() > 0:
        assert found.within_subject_cv == pytest.approx(sd / values.mean())


@given(several)
def test_icc_follows_from_the_f_statistic(groups):
    found = repeatability(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    if within < 1e-6:
        return
    ratio = stats.f_oneway(*groups).statistic
    counts = np.array([group.size for group in groups])
    k = (counts.sum() - (counts**2).sum() / counts.sum()) / (counts.size - 1)
    assert found.icc == pytest.approx((ratio - 1) / (ratio + k - 1), abs=1e-6)
    assert found.icc_interval[0] - 1e-9 <= found.icc <= found.icc_interval[1] + 1e-9


@given(several, scale, number)
def test_the_unit_and_the_order_of_participants_do_not_matter(groups, factor, offset):
    found = repeatability(groups)
    if found.within_subject_sd < 1e-3:
        return
    turned = repeatability(groups[::-1])
    np.testing.assert_allclose(flat(turned), flat(found), rtol=1e-6, atol=1e-9)
    other = repeatability([factor * group + offset for group in groups])
    assert other.within_subject_sd == pytest.approx(factor * found.within_subject_sd, rel=1e-6)
    assert other.coefficient_interval == pytest.approx(
        factor * np.array(found.coefficient_interval), rel=1e-6
    )
    assert other.icc == pytest.approx(found.icc, abs=1e-6)


def test_nothing_is_made_up_where_there_are_too_few_measurements():
    none = repeatability([np.array([1.0]), np.array([2.0])])
    assert none.participants == 0 and math.isnan(none.within_subject_sd) and math.isnan(none.icc)
    one = repeatability([np.array([1.0, 3.0])])
    assert one.within_subject_sd == pytest.approx(math.sqrt(2)) and math.isnan(one.icc)
    equal = repeatability([np.array([1.0, 1.0])] * 3)
    assert equal.within_subject_sd == 0 and math.isnan(equal.icc)
    assert repeatability([np.array([1.0, 1.0]), np.array([2.0, 2.0])]).icc == 1


def test_intervals_hold_the_simulated_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    between, within, studies = 2.0, 1.0, 600
    icc, coefficient = 4 / 5, 1.959964 * math.sqrt(2) * within
    held = np.zeros((studies, 2), dtype=bool)
    sds = np.zeros(studies)
    for study in range(studies):
        subjects = 10.0 + between * rng.normal(size=(12, 1))
        found = repeatability(list(subjects + within * rng.normal(size=(12, 2))))
        held[study, 0] = found.icc_interval[0] <= icc <= found.icc_interval[1]
        low, high = found.coefficient_interval
        held[study, 1] = low <= coefficient <= high
        sds[study] = found.within_subject_sd**2
    # Four standard errors of a share of 0.95 in 600 are 0.036.
    assert np.all(np.abs(held.mean(axis=0) - 0.95) < 0.036)
    assert sds.mean() == pytest.approx(within**2, abs=4 * math.sqrt(2 / 12 / studies))


@given(pairs, scale, number)
def test_agreement_is_bland_and_altmans(values, factor, offset):
    first, second = values.T
    found = agreement(first, second)
    differences = second - first
    half = 1.959964 * differences.std(ddof=1)
    assert found.bias == pytest.approx(differences.mean(), abs=1e-9)
    assert found.limits == pytest.approx((found.bias - half, found.bias + half), abs=1e-4)
    if half > 1e-6:
        interval = stats.ttest_1samp(differences, 0).confidence_interval()
        assert found.bias_interval == pytest.approx(tuple(interval), abs=1e-6)
    moved = agreement(factor * first + offset, factor * second + offset)
    assert moved.limits == pytest.approx(factor * np.array(found.limits), rel=1e-6, abs=1e-6)


def test_variation_on_the_log_scale_is_that_of_log_normal_errors_whatever_the_value():
    rng = np.random.default_rng(0)
    truth = np.exp(rng.normal(-4, 1.0, size=(4000, 1)))
    spread = 0.4
    measured = truth * np.exp(spread * rng.normal(size=(4000, 2)))
    found = repeatability(list(measured))
    assert found.within_subject_log_cv == pytest.approx(math.sqrt(math.expm1(spread**2)), rel=0.05)
    assert repeatability(list(1000 * measured)).within_subject_log_cv == pytest.approx(
        found.within_subject_log_cv
    )
    assert math.isnan(repeatability([*measured, np.array([0.0, 1.0])]).within_subject_log_cv)


@pytest.mark.parametrize("count", [0, 1])
def test_one_pair_has_no_limits(count):
    found = agreement(np.full(count, 1.0), np.full(count, 3.0))
    assert found.pairs == count and all(map(math.isnan, found.limits))
    assert math.isnan(found.bias) if count == 0 else found.bias == 2


@given(runs, scale, number)
def test_outliers_lie_outside_of_tukeys_fences_whatever_the_unit(values, factor, offset):
    found = distribution(values)
    low, middle, high = np.percentile(values, (25, 50, 75))
    assert found.quartiles == pytest.approx((low, middle, high))
    distance = np.maximum(np.maximum(low - values, values - high), 0)
    expected = np.select([distance > 3 * (high - low), distance > 1.5 * (high - low)], [2, 1], 0)
    if values.size < MIN_RUNS:
        expected[:] = 0
    np.testing.assert_array_equal(np.abs(found.levels), expected)
    assert np.all(found.levels[values > high] >= 0) and np.all(found.levels[values < low] <= 0)
    if high - low > 1e-2 and not np.any(np.abs(distance / (high - low) - np.array([[1.5], [3]])) < 1e-6):
        np.testing.assert_array_equal(distribution(factor * values + offset).levels, found.levels)


def test_a_distribution_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs a value"):
        distribution(np.array([]))


@given(runs)
def test_spread_is_that_of_numpy(values):
    found = spread(values)
    low, high = np.percentile(values, (25, 75))
    assert (found.median, found.iqr) == pytest.approx((np.median(values), high - low), abs=1e-9)
    if values.size > 1:
        assert found.std == pytest.approx(values.std(ddof=1), abs=1e-9)
    else:
        assert math.isnan(found.std)


def test_spread_of_nothing_is_not_a_number():
    assert all(map(math.isnan, astuple(spread(np.array([])))))
