"""Cramer-Rao bounds: what has to hold of them whatever the tissue, and what an actual fit makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sicnn_app.assess.expectation import perfused_tissues
from sicnn_app.ivim.precision import (
    PARAMETERS,
    STEPS,
    cramer_rao_bounds,
    improve_bvals,
    signal_derivatives,
    typical_bound,
)
from sicnn_app.ivim.signal import ivim_signal, ivim_signal_maps
from sicnn_app.lsq.fit import fit_biexponential

BVALS = np.array([0, 10, 20, 40, 80, 120, 200, 400, 600, 800], dtype=float)
LIVER = {"f": 0.23, "d": 1.1e-3, "dstar": 0.07}

tissues = st.fixed_dictionaries(
    {"f": st.floats(0.02, 0.9), "d": st.floats(3e-4, 3e-3), "dstar": st.floats(0.01, 0.15)}
)
schemes = st.lists(st.sampled_from(STEPS[1:]), min_size=4, max_size=14, unique=True).map(
    lambda bvals: np.array([0.0, *bvals])
)


def stacked(bounds: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([bounds[label] for label in PARAMETERS])


@given(tissues, st.floats(0.5, 2000.0))
def test_derivatives_are_those_of_the_signal(tissue, s0):
    values = np.array([tissue["f"], tissue["d"], tissue["dstar"], s0])
    found = signal_derivatives(BVALS, *values)
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-5 * values[index]
        ahead, behind = (ivim_signal(BVALS, *(values + sign * step)) for sign in (1, -1))
        expected = (ahead - behind) / (2 * step[index])
        np.testing.assert_allclose(found[:, index], expected, atol=1e-6 * np.abs(expected).max() + 1e-9)


@given(tissues, schemes, st.floats(1e-4, 0.5), st.floats(0.01, 100.0))
def test_a_bound_grows_as_the_noise(tissue, bvals, sigma, factor):
    one = stacked(cramer_rao_bounds(bvals, sigma, **tissue))
    other = stacked(cramer_rao_bounds(bvals, factor * sigma, **tissue))
    np.testing.assert_allclose(other, factor * one, rtol=1e-6)


@given(tissues, schemes, st.sampled_from(STEPS))
def test_another_b_value_never_raises_a_bound(tissue, bvals, more):
    before = stacked(cramer_rao_bounds(bvals, 0.05, **tissue))
    after = stacked(cramer_rao_bounds([*bvals, more], 0.05, **tissue))
    assert (after <= before * (1 + 1e-6)).all()


@given(tissues, schemes, st.integers(2, 9))
def test_an_average_is_worth_as_much_as_its_volumes(tissue, bvals, repeats):
    volumes = cramer_rao_bounds(np.repeat(bvals, repeats), 0.05, **tissue)
    averages = cramer_rao_bounds(bvals, 0.05 / np.sqrt(repeats), **tissue)
    np.testing.assert_allclose(stacked(volumes), stacked(averages), rtol=1e-6)


@given(tissues, schemes, st.floats(0.1, 10.0), st.randoms(use_true_random=False))
def test_bounds_know_neither_units_nor_order(tissue, bvals, factor, random):
    one = cramer_rao_bounds(bvals, 0.05, **tissue)
    scaled = {"f": tissue["f"], "d": tissue["d"] / factor, "dstar": tissue["dstar"] / factor}
    shuffled = list(factor * bvals)
    random.shuffle(shuffled)
    other = cramer_rao_bounds(shuffled, 0.05 * 700.0, **scaled, s0=700.0)
    for label, unit in (("f", 1.0), ("d", 1 / factor), ("dstar", 1 / factor), ("s0", 700.0)):
        np.testing.assert_allclose(other[label], unit * one[label], rtol=1e-5)


def test_whole_maps_and_noise_of_their_own_give_what_single_voxels_do():
    f, sigma = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), np.linspace(0.01, 0.06, 6).reshape(2, 3)
    together = cramer_rao_bounds(BVALS, sigma[..., None], f, 1e-3, 0.05)
    for place in np.ndindex(f.shape):
        alone = cramer_rao_bounds(BVALS, sigma[place], f[place], 1e-3, 0.05)
        for label in PARAMETERS:
            assert together[label].shape == f.shape
            np.testing.assert_allclose(together[label][place], alone[label])


@pytest.mark.parametrize(
    ("bvals", "tissue", "endless"),
    [
        (BVALS, {**LIVER, "f": 0.0}, {"dstar"}),
        (BVALS, {**LIVER, "f": 1.0}, {"d"}),
        (BVALS, {**LIVER, "dstar": LIVER["d"]}, {"f", "d", "dstar"}),
        ([0.0, 100.0, 800.0], LIVER, {"f", "d", "dstar"}),
        ([0.0, 0.0, 0.0, 0.0], LIVER, {"f", "d", "dstar"}),
        ([100.0, 100.0, 400.0, 800.0], {**LIVER, "dstar": 0.02}, {"f", "d", "dstar", "s0"}),
    ],
)
def test_what_the_signals_do_not_determine_has_no_bound(bvals, tissue, endless):
    bounds = cramer_rao_bounds(bvals, 0.02, **tissue)
    assert {label for label in PARAMETERS if np.isinf(bounds[label])} == endless
    assert all(bounds[label] > 0 for label in PARAMETERS)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan])
def test_noise_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="above 0"):
        cramer_rao_bounds(BVALS, sigma, **LIVER)


@pytest.mark.parametrize("tissue", [LIVER, {"f": 0.1, "d": 2.1e-3, "dstar": 0.02}])
def test_the_least_squares_fit_reaches_the_bound_where_noise_is_small(tissue):
    """4000 fits: the standard deviation is known to 1.1 %, and the second order of the noise is far below."""
    sigma, voxels = 0.001, 4000
    clean = ivim_signal_maps(BVALS, *(np.full(voxels, tissue[label]) for label in ("f", "d", "dstar")))
    noisy = clean + sigma * np.random.default_rng(0).standard_normal(clean.shape)
    fit = fit_biexponential(torch.from_numpy(noisy), torch.from_numpy(BVALS))
    bounds = cramer_rao_bounds(BVALS, sigma, **tissue)
    for label in PARAMETERS:
        assert getattr(fit, label).std().item() == pytest.approx(float(bounds[label]), rel=0.04)


# Better b-values

POOLED = [LIVER, {"f": 0.1, "d": 2.1e-3, "dstar": 0.02}]
POOL = {name: np.array([tissue[name] for tissue in POOLED]) for name in LIVER}
ABDOMEN = [{name: getattr(tissue, name) for name in LIVER} for tissue in perfused_tissues("abdomen")]


@settings(max_examples=25)
@given(schemes, st.integers(0, 4))
def test_better_b_values_take_no_more_volumes_and_are_never_worse(bvals, more_b0):
    bvals = np.concatenate([bvals, np.zeros(more_b0)])
    better = improve_bvals(bvals, np.array([0.05, 0.08]), **POOL)
    assert better.size == bvals.size and better.max() <= bvals.max() and (better == 0).any()
    assert (np.diff(better) >= 0).all()
    before, after = (typical_bound(b, np.array([0.05, 0.08]), **POOL) for b in (bvals, better))
    assert after <= before * (1 + 1e-9)


@settings(max_examples=25)
@given(schemes, st.integers(1, 7), st.integers(2, 4))
def test_every_b_value_above_0_is_suggested_in_all_directions(bvals, b0, directions):
    bvals = np.concatenate([np.zeros(b0), np.repeat(bvals[1:], directions)])
    better = improve_bvals(bvals, 0.05, **POOL, directions=directions)
    values, counts = np.unique(better, return_counts=True)
    assert better.size == bvals.size and values[0] == 0
    assert not (counts[1:] % directions).any()
    before, after = (typical_bound(b, 0.05, **POOL) for b in (bvals, better))
    assert after <= before * (1 + 1e-9)


@st.composite
def hardly_determined(draw) -> tuple[np.ndarray, int]:
    """Volumes at few low b-values, equal ones among them, and their directions: rounding is large here."""
    directions = draw(st.integers(1, 6))
    highest = draw(st.sampled_from([1.0, 5.0, 30.0, 60.0]))
    values = draw(st.lists(st.floats(0.1, highest).map(lambda b: round(b, 2)), min_size=1, max_size=7))
    b0 = draw(st.integers(1, 3))
    return np.array([0.0] * b0 + values * directions), directions


@given(hardly_determined(), st.lists(tissues, min_size=1, max_size=3))
@example((np.array([0, 0, *[17, 19, 24, 29] * 2], dtype=float), 2), [LIVER])
@example((np.array([0.0, 5.3, 8.2, 16.1, 21.3, 24.9]), 1), ABDOMEN)
@example((np.array([0, 0, 0, *[6, 9, 11, 13, 24, 27] * 10], dtype=float), 5), POOLED)
@example((np.array([0, 0, 0, *[1.11, 1.26, 2.44, 3.35] * 10]), 5), POOLED)
def test_b_values_that_rounding_rules_are_exchanged_to_an_end_that_is_no_worse(scheme, some):
    bvals, directions = np.sort(scheme[0]), scheme[1]
    values = {name: np.array([tissue[name] for tissue in some]) for name in LIVER}
    better = improve_bvals(bvals, 0.05, **values, directions=directions)
    assert better.size == bvals.size and (better == 0).any() and better.max() <= bvals.max()
    assert typical_bound(better, 0.05, **values) <= typical_bound(bvals, 0.05, **values)


def test_no_exchange_of_a_whole_group_makes_the_suggestion_better():
    better = improve_bvals(np.append(np.repeat(BVALS, 3), 0.0), 0.05, **POOL, directions=3)
    least = typical_bound(better, 0.05, **POOL)
    for own in np.unique(better):
        for b in (b for b in STEPS if b <= BVALS.max()):
            other = better.copy()
            other[np.flatnonzero(better == own)[:3]] = b
            if (other == 0).any():
                assert typical_bound(other, 0.05, **POOL) >= least * (1 - 1e-7)


def test_volumes_that_miss_a_direction_are_refused():
    with pytest.raises(ValueError, match="multiple of 3 directions"):
        improve_bvals(BVALS, 0.05, **POOL, directions=3)


def test_no_single_exchange_makes_the_suggestion_better():
    better = improve_bvals(BVALS, 0.05, **POOL)
    least = typical_bound(better, 0.05, **POOL)
    assert least < 0.95 * typical_bound(BVALS, 0.05, **POOL)
    for position in range(better.size):
        for b in (b for b in STEPS if b <= BVALS.max()):
            other = better.copy()
            other[position] = b
            if (other == 0).any():
                assert typical_bound(other, 0.05, **POOL) >= least * (1 - 1e-7)


def test_suggestions_do_not_depend_on_order_or_on_the_level_of_the_noise():
    once = improve_bvals(BVALS, 0.05, **POOL)
    assert np.array_equal(once, improve_bvals(BVALS[::-1], 0.05, **POOL))
    assert np.array_equal(once, improve_bvals(BVALS, 0.005, **POOL))


def test_b_values_that_determine_nothing_are_left_behind():
    better = improve_bvals(np.array([0.0, 0.0, 0.0, 800.0, 800.0, 800.0]), 0.05, **POOL)
    assert np.isfinite(typical_bound(better, 0.05, **POOL))


def test_new_b_values_are_those_that_a_scanner_is_asked_for():
    given = np.array([0, 11, 33, 77, 222, 777], dtype=float)
    better = improve_bvals(given, 0.05, **POOL)
    assert set(better) - set(given) <= set(STEPS) and set(better) != set(given)
