"""DSQ: every identity and inequality of the page, grouping, and the phenomena in simulations."""

from __future__ import annotations

import doctest
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.supplement.signal_quality import (
    SignalQuality,
    better_by_cases,
    delta_by_cases,
    group_by_fitting_error,
    signal_quality,
)
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.estimate import estimate

BVALS = np.array([0, 10, 20, 30, 40, 50, 75, 100, 150, 250, 400, 600.0])
EPSILON = np.finfo(np.float64).eps

# Multiples of 1/1024 below 1024: differences, squares and sums of the examples are exact in float64, so the
# mathematics can be tested with ==. The narrow range makes ties, which are the edges of the cases.
DYADIC = st.one_of(st.integers(-6, 6), st.integers(-(2**20), 2**20)).map(lambda whole: whole / 1024)
FLOATS = st.floats(-1e6, 1e6)


def qualities(number: st.SearchStrategy, sizes: st.SearchStrategy) -> st.SearchStrategy:
    """(p, n, s), each of shape (N,), and their quality."""
    triples = sizes.flatmap(
        lambda size: st.lists(st.tuples(number, number, number), min_size=size, max_size=size)
    )
    arrays = triples.map(lambda rows: tuple(np.array(rows, dtype=np.float64).T))
    return arrays.map(lambda signals: (signals, signal_quality(*signals)))


ANY_SIZE = st.integers(1, 30)
EXACT = qualities(DYADIC, ANY_SIZE)


def one(eps: float, f: float) -> SignalQuality:
    """A single signal of clean value 0."""
    return signal_quality(predicted=[eps + f], noisy=[eps], clean=[0.0])


@given(EXACT)
def test_metrics_are_absolute_differences(example):
    (p, n, s), quality = example
    assert (quality.noise == np.sqrt((n - s) ** 2)).all()
    assert (quality.fitting_error == np.sqrt((p - n) ** 2)).all()
    assert (quality.recon_error == np.sqrt((p - s) ** 2)).all()


@given(EXACT)
def test_the_recon_error_is_noise_plus_fitting_error(example):
    _, quality = example
    assert (quality.signed_recon_error == quality.signed_noise + quality.signed_fitting_error).all()


@given(EXACT)
def test_each_metric_is_at_most_the_sum_of_the_other_two(example):
    _, quality = example
    noise, fitting, recon = quality.noise, quality.fitting_error, quality.recon_error
    assert (noise <= fitting + recon).all()
    assert (fitting <= noise + recon).all()
    assert (recon <= noise + fitting).all()


@given(EXACT)
def test_delta_lies_within_the_fitting_error(example):
    (p, n, s), quality = example
    assert (quality.delta == np.abs(p - s) - np.abs(n - s)).all()
    assert (np.abs(quality.delta) <= quality.fitting_error).all()


@given(EXACT)
def test_delta_by_cases_is_delta(example):
    _, quality = example
    eps, f, delta = quality.signed_noise, quality.signed_fitting_error, quality.delta
    same_side = eps * f >= 0
    within = ~same_side & (np.abs(f) <= np.abs(eps))
    beyond = ~same_side & (np.abs(f) > np.abs(eps))
    assert (delta[same_side] == np.abs(f)[same_side]).all()
    assert (delta[within] == -np.abs(f)[within]).all()
    assert (delta[beyond] == (np.abs(f) - 2 * np.abs(eps))[beyond]).all()
    assert (delta_by_cases(eps, f) == delta).all()


@pytest.mark.parametrize(
    ("eps", "f", "delta"),
    [
        (0.0, 0.0, 0.0),
        (0.0, -0.5, 0.5),
        (1.0, 0.0, 0.0),
        (1.0, 0.5, 0.5),
        (1.0, -0.5, -0.5),
        (1.0, -1.0, -1.0),
        (-1.0, 1.5, -0.5),
        (1.0, -2.0, 0.0),
        (-1.0, 3.0, 1.0),
    ],
)
def test_delta_at_and_between_the_edges_of_the_cases(eps, f, delta):
    assert one(eps, f).delta.tolist() == delta_by_cases([eps], [f]).tolist() == [delta]


def test_delta_falls_to_the_noise_and_rises_again_as_the_fitting_error_grows():
    f = -np.arange(13) / 4
    delta = delta_by_cases(np.ones(13), f)
    assert (np.diff(delta)[:4] < 0).all() and (np.diff(delta)[4:] > 0).all()


@given(qualities(FLOATS, ANY_SIZE))
def test_rounding_moves_delta_by_cases_by_no_more_than_rounding(example):
    (p, n, s), quality = example
    by_cases = delta_by_cases(quality.signed_noise, quality.signed_fitting_error)
    # Seven roundings of at most EPSILON / 2, each of a number that is at most |p| + |n| + |s|.
    assert (np.abs(by_cases - quality.delta) <= 4 * EPSILON * (np.abs(p) + np.abs(n) + np.abs(s))).all()


def test_cases_hold_where_the_product_of_noise_and_fitting_error_underflows():
    assert delta_by_cases([1e-200], [-1e-200]).tolist() == [-1e-200]
    assert better_by_cases([1e-200], [-1e-200]).tolist() == [True]


@given(EXACT)
def test_the_prediction_is_better_exactly_where_f_opposes_eps_and_is_below_twice_it(example):
    _, quality = example
    eps, f = quality.signed_noise, quality.signed_fitting_error
    expected = (eps * f < 0) & (np.abs(f) < 2 * np.abs(eps))
    assert ((quality.delta < 0) == expected).all()
    assert (quality.prediction_is_better == expected).all()
    assert (better_by_cases(eps, f) == expected).all()


@pytest.mark.parametrize(("eps", "f", "delta"), [(1.0, -1.5, -0.5), (1.0, -3.0, 1.0)])
def test_equation_14_of_the_supplement_is_wrong(eps, f, delta):
    printed = -abs(f) if abs(eps + f) < abs(eps) else abs(f)
    assert one(eps, f).delta.item() == delta != printed


def test_a_larger_fitting_error_can_mean_a_smaller_advantage():
    assert one(1.0, -1.0).delta.item() == -1.0
    assert one(1.0, -1.5).delta.item() == -0.5


def test_a_fitting_error_above_the_noise_can_still_be_better():
    assert one(1.0, -1.5).prediction_is_better.item()


def test_better_for_most_signals_is_not_better_on_average():
    quality = signal_quality([0.75, 0.75, 0.75, 2.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    assert quality.prediction_is_better.mean() == 0.75
    assert quality.q_p > quality.q_n


@given(EXACT)
def test_the_squared_advantage_is_f_squared_minus_twice_e_f(example):
    _, quality = example
    e, f = quality.signed_recon_error, quality.signed_fitting_error
    assert (quality.squared_advantage == f**2 - 2 * e * f).all()
    assert ((quality.squared_advantage > 0) == quality.prediction_is_better).all()


# Dividing by a power of two is exact, so these means are, too.
@given(qualities(DYADIC, st.sampled_from([1, 2, 4, 8, 16])))
def test_the_difference_of_the_mean_qualities_is_the_mean_delta(example):
    (p, n, s), quality = example
    assert quality.q_p == np.mean(np.abs(p - s))
    assert quality.q_n == np.mean(np.abs(n - s))
    assert quality.q_p - quality.q_n == quality.delta.mean()


def test_images_keep_their_shape():
    images = np.zeros((3, 4, 2, 5), dtype=np.float32)
    quality = signal_quality(images, images + 1, images)
    assert quality.delta.shape == quality.squared_advantage.shape == images.shape
    assert group_by_fitting_error(quality, [0, math.inf]).count.tolist() == [120]


def test_unsigned_integers_do_not_wrap_around():
    quality = signal_quality(*(np.array([value], dtype=np.uint16) for value in (1, 3, 2)))
    assert (quality.noise.item(), quality.fitting_error.item(), quality.recon_error.item()) == (1, 2, 1)


def test_the_signals_are_left_as_they_are():
    signals = [np.array([value, -value]) for value in (1.0, 2.0, 4.0)]
    group_by_fitting_error(signal_quality(*signals), [0, 1])
    assert [values.tolist() for values in signals] == [[1.0, -1.0], [2.0, -2.0], [4.0, -4.0]]


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (([1.0, 2.0], [1.0], [1.0, 2.0]), r"one shape, not \(2,\), \(1,\), \(2,\)"),
        (([[1.0]], [1.0], [1.0]), "one shape"),
        (([], [], []), "no signals"),
        (([1.0, math.nan], [1.0, 2.0], [1.0, 2.0]), "1 of 2 values of predicted are not finite"),
        (([1.0], [math.inf], [1.0]), "noisy are not finite"),
        (([1.0], [1.0], [math.nan]), "clean are not finite"),
    ],
)
def test_signals_that_cannot_be_compared_are_refused(signals, message):
    with pytest.raises(ValueError, match=message):
        signal_quality(*signals)


@pytest.mark.parametrize("function", [delta_by_cases, better_by_cases])
def test_cases_refuse_what_cannot_be_compared(function):
    with pytest.raises(ValueError, match="one shape"):
        function([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="signed_fitting_error are not finite"):
        function([1.0], [math.nan])


EDGES = st.lists(st.integers(0, 2**21), min_size=1, max_size=6, unique=True).map(
    lambda whole: [*(edge / 1024 for edge in sorted(whole)), math.inf]
)


@given(EXACT, EDGES)
def test_a_group_holds_the_signals_from_its_lower_edge_to_below_its_upper_edge(example, edges):
    _, quality = example
    groups = group_by_fitting_error(quality, edges)
    assert groups.lower.tolist() == edges[:-1] and groups.upper.tolist() == edges[1:]
    for g, (lower, upper) in enumerate(itertools.pairwise(edges)):
        inside = (quality.fitting_error >= lower) & (quality.fitting_error < upper)
        assert groups.count[g] == inside.sum()
        if inside.any():
            # Sums are exact and both sides divide once.
            assert groups.mean_noise[g] == quality.noise[inside].mean()
            assert groups.mean_recon_error[g] == quality.recon_error[inside].mean()
            assert groups.mean_delta[g] == quality.delta[inside].mean()
            assert groups.share_better[g] == quality.prediction_is_better[inside].mean()
        else:
            means = (groups.mean_noise, groups.mean_recon_error, groups.mean_delta, groups.share_better)
            assert np.isnan([values[g] for values in means]).all()


@given(EXACT, EDGES)
def test_groups_from_zero_to_infinity_share_out_all_signals(example, edges):
    _, quality = example
    groups = group_by_fitting_error(quality, sorted({0.0, *edges}))
    assert groups.count.sum() == quality.delta.size
    for means, values in (
        (groups.mean_noise, quality.noise),
        (groups.mean_recon_error, quality.recon_error),
        (groups.mean_delta, quality.delta),
        (groups.share_better, quality.prediction_is_better),
    ):
        # A division and a product per group, of at most 7, and the additions: one rounding each.
        allowed = 8 * EPSILON * np.abs(values).sum()
        assert abs(np.nansum(groups.count * means) - values.sum()) <= allowed


def test_the_last_interval_of_finite_edges_is_open_on_the_right_too():
    quality = signal_quality(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), np.zeros(5), np.zeros(5))
    assert group_by_fitting_error(quality, [0.25, 0.5, 1.0]).count.tolist() == [1, 2]
    assert group_by_fitting_error(quality, [0.25, 0.5, math.inf]).count.tolist() == [1, 3]


def test_an_interval_without_signals_has_no_mean():
    groups = group_by_fitting_error(one(1.0, -0.5), [0.0, 0.25, 1.0])
    assert groups.count.tolist() == [0, 1]
    assert math.isnan(groups.mean_delta[0]) and groups.mean_delta[1] == -0.5
    assert math.isnan(groups.share_better[0]) and groups.share_better[1] == 1.0


@pytest.mark.parametrize("edges", [[], [0.0], [0.0, 0.0], [0.0, 2.0, 1.0], [0.0, math.nan], [[0.0, 1.0]]])
def test_edges_that_make_no_intervals_are_refused(edges):
    with pytest.raises(ValueError, match="edges must be two or more ascending numbers"):
        group_by_fitting_error(one(1.0, -0.5), edges)


def projected(sigma: float, bias: float) -> tuple[SignalQuality, np.ndarray, np.ndarray]:
    """Least squares on a subspace under white Gaussian noise, many times.

    ``bias`` is the length of the part of the clean signal that the subspace does not hold. Returns the
    quality of the signals, shape (draws, 12), the mean recon error of each of the 12, and the standard
    deviation of its recon errors.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    projection = basis[:, :3] @ basis[:, :3].T
    clean = basis[:, :3] @ np.ones(3) + bias * basis[:, 3]
    noisy = clean + sigma * rng.standard_normal((40_000, 12))
    quality = signal_quality(noisy @ projection, noisy, np.broadcast_to(clean, noisy.shape))
    return quality, (projection - np.eye(12)) @ clean, sigma * np.sqrt(np.diag(projection))


@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_the_mean_squared_advantage_given_f_is_f_squared_less_the_bias_part(bias):
    sigma = 0.1
    quality, mean_recon_error, _ = projected(sigma, bias)
    f, fitting_error = quality.signed_fitting_error, quality.fitting_error
    edges = [*sigma * np.array([0.0, 0.5, 1.0, 1.5, 2.0]), math.inf]
    for lower, upper in itertools.pairwise(edges):
        inside = (fitting_error >= lower) & (fitting_error < upper)
        surplus = inside * (quality.squared_advantage - f**2)
        # The signals of one draw depend on one another, the draws do not: their sums give the error.
        rest = (surplus + inside * 2 * f * mean_recon_error).sum(axis=1)
        error = np.sqrt(np.sum(rest**2))
        assert abs(rest.sum()) < 4 * error
        if bias == 0 and lower > 0:
            # So small an error that f² is told from 0.97 f².
            assert 4 * error < 0.03 * (inside * f**2).sum()
        if bias > 0:
            assert surplus.sum() < -10 * error


def test_for_a_projection_the_noise_grows_with_the_fitting_error_and_the_recon_error_does_not():
    sigma, index = 0.1, 0
    many, _, spread = projected(sigma, 0.0)
    signed = (many.signed_noise, many.signed_fitting_error, many.signed_recon_error)
    quality, tau = SignalQuality(*(values[:, index] for values in signed)), spread[index]
    groups = group_by_fitting_error(quality, [*sigma * np.array([0.0, 0.5, 1.0, 1.5]), math.inf])
    half_normal = math.sqrt(2 / math.pi)
    error = tau * math.sqrt(1 - 2 / math.pi) / np.sqrt(groups.count)
    assert (np.abs(groups.mean_recon_error - tau * half_normal) < 4 * error).all()
    assert (np.diff(groups.mean_noise) > 0).all() and (np.diff(groups.mean_delta) < 0).all()
    # E|e| - E|e - f| for a Gaussian e.
    ratio = quality.fitting_error / tau
    folded = half_normal * np.exp(-(ratio**2) / 2) + ratio * np.vectorize(math.erf)(ratio / math.sqrt(2))
    expected = tau * (half_normal - folded)
    for g in range(groups.count.size):
        inside = (quality.fitting_error >= groups.lower[g]) & (quality.fitting_error < groups.upper[g])
        error = (quality.delta - expected)[inside].std() / math.sqrt(groups.count[g])
        assert abs(groups.mean_delta[g] - expected[inside].mean()) < 4 * error


@pytest.fixture(scope="module")
def trained() -> dict[int, SignalQuality]:
    """Quality of the signals of a simulated abdomen by epochs of training, signals relative to the noise."""
    phantom, snr = make_phantom("abdomen", (24, 20, 1), seed=0), 15.0
    clean = acquire(phantom, BVALS)
    noisy = acquire(phantom, BVALS, snr=snr, seed=100).astype(np.float32)
    sigma = noise_sigma(phantom, snr)
    mask = phantom.mask & (noisy[..., 0] > 0)

    def after(epochs: int) -> SignalQuality:
        settings = EstimationSettings(method="cnn", epochs=epochs)
        result = estimate(noisy, mask, BVALS, noise=np.full(BVALS.size, sigma), settings=settings)
        return signal_quality(*(signals[mask] / sigma for signals in (result.predicted, noisy, clean)))

    return {epochs: after(epochs) for epochs in (1, 100)}


def test_training_makes_predictions_better_than_noisy_signals(trained):
    assert trained[1].q_p > trained[1].q_n
    assert trained[100].q_p < 0.7 * trained[100].q_n
    assert trained[1].q_n == trained[100].q_n


def test_after_training_the_advantage_grows_with_the_fitting_error(trained):
    edges = [0.0, 0.5, 1.0, 1.5, math.inf]
    early, late = (group_by_fitting_error(trained[epochs], edges) for epochs in (1, 100))
    assert (late.count > 100).all()
    assert (np.diff(late.mean_delta) < 0).all() and (late.mean_delta < 0).all()
    assert (np.diff(late.share_better) > 0).all()
    assert early.mean_delta[-1] > early.mean_delta[0]


def test_the_example_on_the_page_is_true():
    page = Path(__file__).parents[2] / "docs" / "signal-quality.md"
    outcome = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_analysis_needs_no_torch():
    code = "import sys, benchmarks.supplement.signal_quality; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
