"""The tensor-level fit: truth, dipy and scipy as references, bounds, derivatives, reproducibility."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.ivim import IvimModel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from sicnn_app.ivim.signal import ivim_signal_maps, ivim_signal_torch
from sicnn_app.lsq.fit import CHUNK_ELEMENTS, fit_biexponential
from sicnn_app.lsq.levenberg_marquardt import SCALE, expand, minimise
from sicnn_app.lsq.starts import limits
from sicnn_app.settings import Bounds

BOUNDS = Bounds()
MANY = np.array([0, 10, 20, 40, 80, 110, 140, 170, 200, 300, 400, 500, 600, 700, 800, 900.0])
PROTOCOLS = {
    4: np.array([0, 50, 200, 800.0]),
    8: np.array([0, 10, 30, 60, 100, 200, 400, 800.0]),
    9: np.array([5, 15, 30, 60, 100, 150, 180, 190, 195.0]),
    16: MANY,
}
"""By number of b-values; the one of 9 has neither b = 0 nor two b-values in the mono-exponential part."""


def simulate(count: int, snr: float | None, seed: int, bvals: np.ndarray = MANY) -> tuple[np.ndarray, dict]:
    """Signals relative to the first one, shape (count, B), and the true parameters."""
    rng = np.random.default_rng(seed)
    truth = {
        "f": rng.uniform(0.03, 0.5, count),
        "d": rng.uniform(0.0004, 0.0025, count),
        "dstar": rng.uniform(0.008, 0.12, count),
    }
    signals = ivim_signal_maps(bvals, **truth)
    if snr is not None:
        signals = signals + rng.normal(0, 1 / snr, signals.shape)
    return signals / signals[:, :1], truth


def fit(signals: np.ndarray, bvals: np.ndarray, **options) -> dict[str, np.ndarray]:
    result = fit_biexponential(torch.from_numpy(signals), torch.from_numpy(bvals), **options)
    return {name: value.numpy() for name, value in result._asdict().items()}


def fit_dipy(signals: np.ndarray, bvals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dipy's fit inside the same bounds: parameters (S0, F, D*, D), residual sums, and whether it kept them.

    Where its straight-line start lies outside the bounds, dipy returns that start, unfitted.
    """
    directions = np.tile([1.0, 0.0, 0.0], (bvals.size, 1))
    directions[bvals == 0] = 0
    intervals = np.array([BOUNDS.s0, BOUNDS.f, BOUNDS.dstar, BOUNDS.d])
    model = IvimModel(
        gradient_table(bvals, bvecs=directions, b0_threshold=0),
        fit_method="trr",
        bounds=(intervals[:, 0].tolist(), intervals[:, 1].tolist()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parameters = model.fit(signals).model_params
    s0, f, dstar, d = parameters.T
    residual = ivim_signal_maps(bvals, f, d, dstar, s0) - signals
    inside = ((parameters >= intervals[:, 0]) & (parameters <= intervals[:, 1])).all(axis=1)
    return parameters, np.square(residual).sum(axis=1), inside


def scipy_lowest_rss(signals: np.ndarray, bvals: np.ndarray) -> float:
    """Lowest residual sum of squares of one voxel over nine starts of scipy's bounded least squares."""
    intervals = np.array([BOUNDS.s0, BOUNDS.f, BOUNDS.d, BOUNDS.dstar])

    def residual(x: np.ndarray) -> np.ndarray:
        return ivim_signal_maps(bvals, x[1], x[2], x[3], x[0]) - signals

    starts = [
        (1.0, f, d, dstar)
        for f, d in ((0.1, 0.001), (0.4, 0.002), (0.8, 0.0005))
        for dstar in (0.007, 0.03, 0.15)
    ]
    fits = [
        least_squares(residual, x, bounds=intervals.T, x_scale=SCALE, xtol=1e-14, ftol=1e-14, gtol=1e-14)
        for x in starts
    ]
    return min(2 * result.cost for result in fits)


@pytest.mark.parametrize("bvals", PROTOCOLS.values(), ids=PROTOCOLS)
@settings(max_examples=30, deadline=None)
@given(
    f=st.floats(0.02, 0.98), d=st.floats(1e-4, 0.0045), dstar=st.floats(0.006, 0.15), s0=st.floats(0.95, 1.05)
)
def test_noise_free_signals_give_their_parameters_back(bvals, f, d, dstar, s0):
    # Exponentials of similar rates, or one of a tiny share, look alike over b-values that decay little:
    # what tells them apart is then below any noise, and within rounding of nothing.
    short = bvals.max() < 200
    assume(dstar >= (4 if short else 2) * d and (f <= 0.8 or not short))
    result = fit(ivim_signal_maps(bvals, f, d, dstar, s0)[None], bvals)
    assert result["converged"].all()
    for name, true in {"f": f, "d": d, "dstar": dstar, "s0": s0}.items():
        assert result[name][0] == pytest.approx(true, rel=0.01), name


def test_parameters_equal_dipy_without_noise():
    signals, _ = simulate(120, None, seed=1)
    parameters, _, inside = fit_dipy(signals, MANY)
    assert inside.all()
    result = fit(signals, MANY)
    mine = np.stack([result[name] for name in ("s0", "f", "dstar", "d")], axis=1)
    np.testing.assert_allclose(mine, parameters, rtol=0.01)


@pytest.mark.parametrize("snr", [10, 20, 50])
def test_residuals_equal_or_beat_dipy_with_noise(snr):
    signals, _ = simulate(240, snr, seed=snr)
    signals = signals[(signals > 0).all(axis=1)][:160]
    _, reference, inside = fit_dipy(signals, MANY)
    assert inside.sum() >= 40, "too few voxels in which dipy fitted inside the bounds"
    ratio = fit(signals, MANY)["rss"][inside] / reference[inside]
    assert ratio.max() <= 1.001
    assert (ratio >= 0.999).mean() >= 0.9, "a lower minimum than dipy's should be the exception"


@pytest.mark.parametrize(("snr", "count"), [(8, 8), (10, 16), (40, 16)])
def test_no_start_of_scipy_finds_a_lower_residual(snr, count):
    bvals = PROTOCOLS[count]
    signals, _ = simulate(25, snr, seed=100 + snr, bvals=bvals)
    reference = np.array([scipy_lowest_rss(voxel, bvals) for voxel in signals])
    result = fit(signals, bvals)
    assert (result["rss"] <= 1.001 * reference + 1e-12).all()


def test_reported_residual_is_that_of_the_parameters():
    signals, _ = simulate(50, 15, seed=3)
    result = fit(signals, MANY)
    predicted = ivim_signal_maps(MANY, result["f"], result["d"], result["dstar"], result["s0"])
    np.testing.assert_allclose(np.square(predicted - signals).sum(axis=1), result["rss"], rtol=1e-9)


@pytest.mark.parametrize(
    ("truth", "at_bound"),
    [
        ({"f": 0.2, "d": 0.001, "dstar": 0.5}, {"dstar": 0.2}),
        ({"f": 0.3, "d": 0.008, "dstar": 0.05}, {"d": 0.005}),
        ({"f": -0.1, "d": 0.001, "dstar": 0.05}, {"f": 0.0}),
        ({"f": 0.1, "d": 0.001, "dstar": 0.05, "s0": 2.0}, {"s0": 1.5}),
        ({"f": 0.1, "d": -0.0005, "dstar": 0.05}, {"d": 0.0}),
    ],
)
def test_solutions_outside_the_bounds_end_exactly_on_them(truth, at_bound):
    signals = ivim_signal_maps(MANY, **truth)
    result = fit(signals[None], MANY)
    assert result["converged"].all()
    for name, value in at_bound.items():
        assert result[name][0] == value
    assert result["rss"][0] <= 1.001 * scipy_lowest_rss(signals, MANY)


@pytest.mark.parametrize("d", [0.0005, 0.002])
def test_a_mono_exponential_has_no_perfusion_and_keeps_a_finite_dstar(d):
    result = fit(np.exp(-MANY * d)[None], MANY)
    assert result["rss"][0] < 1e-15
    assert result["f"][0] < 1e-3
    assert result["d"][0] == pytest.approx(d, rel=1e-3)
    assert BOUNDS.dstar[0] <= result["dstar"][0] <= BOUNDS.dstar[1]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bvals=st.sampled_from(list(PROTOCOLS.values())))
def test_any_finite_signals_give_parameters_inside_the_bounds(data, bvals):
    garbage = st.one_of(
        st.floats(-2, 2), st.floats(-1e80, 1e80), st.sampled_from([0.0, 1.0, -1e80, 1e80, 1e-300])
    )
    voxel = st.lists(garbage, min_size=bvals.size, max_size=bvals.size)
    signals = np.array(data.draw(st.lists(voxel, min_size=1, max_size=4)))
    result = fit(signals, bvals)
    for name in ("f", "d", "dstar", "s0"):
        low, high = getattr(BOUNDS, name)
        assert ((result[name] >= low) & (result[name] <= high)).all(), name
    assert np.isfinite(result["rss"]).all()


def test_narrower_bounds_are_kept():
    bounds = Bounds(f=(0.05, 0.3), d=(0.0005, 0.002), dstar=(0.01, 0.05), s0=(0.9, 1.1))
    signals, _ = simulate(200, 8, seed=5)
    result = fit(signals, MANY, bounds=bounds)
    for name in ("f", "d", "dstar", "s0"):
        low, high = getattr(bounds, name)
        assert ((result[name] >= low) & (result[name] <= high)).all(), name
        assert (result[name] == low).any() or (result[name] == high).any(), f"{name} never met its bounds"


def test_the_order_and_company_of_voxels_do_not_matter():
    signals, _ = simulate(300, 30, seed=6)
    order = np.random.default_rng(0).permutation(len(signals))
    together, shuffled = fit(signals, MANY), fit(signals[order], MANY)
    alone = [fit(signals[voxel : voxel + 1], MANY) for voxel in range(5)]
    np.testing.assert_allclose(shuffled["rss"], together["rss"][order], rtol=1e-8)
    for name in ("f", "d", "dstar", "s0"):
        np.testing.assert_allclose(shuffled[name], together[name][order], rtol=1e-3, atol=1e-6)
        for voxel, single in enumerate(alone):
            np.testing.assert_allclose(single[name][0], together[name][voxel], rtol=1e-3, atol=1e-6)


def test_two_fits_are_bit_identical():
    signals, _ = simulate(500, 12, seed=7)
    first, second = fit(signals, MANY), fit(signals, MANY)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_float32_signals_are_fitted_in_float64():
    signals, truth = simulate(50, None, seed=8)
    result = fit(signals.astype(np.float32), MANY)
    assert result["f"].dtype == np.float64
    np.testing.assert_allclose(result["d"], truth["d"], rtol=1e-3)


def test_no_voxels_give_no_parameters():
    assert fit(np.empty((0, MANY.size)), MANY)["f"].shape == (0,)


def test_progress_counts_every_voxel():
    signals, _ = simulate(30, 20, seed=9)
    calls = []
    fit(signals, MANY, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (30, 30)


def test_the_iteration_limit_is_reported_as_not_converged():
    signals, _ = simulate(50, 10, seed=10)
    y, b = torch.from_numpy(signals), torch.from_numpy(MANY)
    lower, upper = (limit[:, None] for limit in limits(BOUNDS, y))
    y, start = y.T, y.new_tensor([[1.0, 0.5, 0.003, 0.1]]).T.repeat(1, len(y))
    stopped = minimise(y, b, start, lower, upper, max_iterations=2)
    assert not stopped.converged.any()
    assert (stopped.iterations == 2).all()
    assert (stopped.rss <= expand(y, b, start).rss).all()
    ended = minimise(y, b, start, lower, upper, max_iterations=200)
    assert ended.converged.all()


def whole(entries: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix, shape (4, 4), of a voxel from its diagonal and what is above, shape (10, 1)."""
    upper = torch.diag(entries[:4, 0])
    upper[tuple(torch.triu_indices(4, 4, 1))] = entries[4:, 0]
    return upper + upper.triu(1).T


@settings(max_examples=30, deadline=None)
@given(
    f=st.floats(0, 1),
    d=st.floats(0, 0.005),
    dstar=st.floats(0.005, 0.2),
    s0=st.floats(0.5, 1.5),
    seed=st.integers(0, 99),
)
def test_derivatives_equal_automatic_and_finite_differences(f, d, dstar, s0, seed):
    b = torch.from_numpy(MANY)
    y = torch.from_numpy(simulate(1, 20, seed=seed)[0])
    scale = y.new_tensor(SCALE)
    point = y.new_tensor([s0, f, d, dstar])

    def signal(scaled: torch.Tensor) -> torch.Tensor:
        s0, f, d, dstar = scaled * scale
        return ivim_signal_torch(b, f, d, dstar, s0)

    def half_rss(scaled: torch.Tensor) -> torch.Tensor:
        return (signal(scaled) - y[0]).square().sum() / 2

    here = expand(y.T, b, point[:, None])
    jacobian = torch.autograd.functional.jacobian(signal, point / scale)
    gradient, normal, hessian = here.gradient[:, 0], whole(here.normal), whole(here.hessian)
    torch.testing.assert_close(here.rss[0], 2 * half_rss(point / scale))
    torch.testing.assert_close(gradient, jacobian.T @ (signal(point / scale) - y[0]), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(normal, jacobian.T @ jacobian, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(half_rss, point / scale), rtol=1e-9, atol=1e-10
    )
    step, four = 1e-5 * torch.eye(4, dtype=torch.float64) * scale, y.T.repeat(1, 4)
    ahead, behind = (expand(four, b, point[:, None] + way * step) for way in (1, -1))
    torch.testing.assert_close(gradient, (ahead.rss - behind.rss) / 4e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu():
    signals, _ = simulate(2000, 25, seed=11)
    y, b = torch.from_numpy(signals), torch.from_numpy(MANY)
    on_cpu, on_cuda = fit_biexponential(y, b), fit_biexponential(y.cuda(), b)
    assert on_cuda.f.is_cuda
    ratio = on_cuda.rss.cpu() / on_cpu.rss
    assert ((ratio - 1).abs() < 1e-6).double().mean() >= 0.999


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits_and_comes_back(monkeypatch, threads):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 16 * 40)
    signals, _ = simulate(333, 20, seed=5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fit(signals, MANY)
        torch.set_num_threads(threads)
        seen: list[int] = []
        several = fit(signals, MANY, progress=lambda done, total: seen.append(done))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name, values in one.items():
        np.testing.assert_array_equal(values, several[name])
    assert seen == [40, 80, 120, 160, 200, 240, 280, 320, 333]


def test_an_error_while_chunks_are_fitted_side_by_side_ends_the_fit(monkeypatch):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 16 * 10)
    signals, _ = simulate(500, 20, seed=6)
    before, seen = torch.get_num_threads(), []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            fit(signals, MANY, progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [10]


def test_signals_beyond_single_precision_are_fitted_inside_the_bounds():
    signals = simulate(8, 20, seed=3)[0] * np.array([1.0, 1e10, 1e25, 1e60, 1e-30, -1e25, 0.0, 1.0])[:, None]
    found = fit_biexponential(torch.from_numpy(signals), torch.from_numpy(MANY))
    for label in ("f", "d", "dstar", "s0"):
        low, high = getattr(BOUNDS, label)
        assert ((getattr(found, label) >= low) & (getattr(found, label) <= high)).all()
