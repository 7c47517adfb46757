import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import UsageError
from sicnn_app.phantoms.acquire import Protocol, acquire, directions, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom

SHAPE = (48, 44, 2)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("abdomen", SHAPE, seed=5)


@given(st.lists(st.floats(0, 2000), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_without_noise_the_signals_are_the_equation(bvals):
    phantom = make_phantom("brain", (12, 14, 1), seed=2)
    signals = acquire(phantom, bvals, snr=math.inf)
    for index, b in enumerate(bvals):
        blood = phantom.f * np.exp(-b * phantom.dstar)
        tissue = (1 - phantom.f) * np.exp(-b * phantom.d)
        np.testing.assert_allclose(signals[..., index], phantom.s0 * (blood + tissue), rtol=1e-12)


@pytest.mark.parametrize("snr", [8.0, 33.0])
def test_background_is_rayleigh_noise_of_the_stated_sigma(phantom, snr):
    sigma = phantom.s0[phantom.mask].mean() / snr
    background = acquire(phantom, [0.0] * 40, snr=snr, seed=1)[~phantom.mask]
    assert noise_sigma(phantom, snr) == pytest.approx(sigma)
    assert background.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert background.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)


def test_snr_is_mean_b0_signal_over_the_spread_of_one_volume(phantom):
    snr = 50.0
    signals = acquire(phantom, [0.0] * 60, snr=snr, seed=1)[phantom.mask]
    bright = signals.mean(axis=1) > 300  # where Rician noise is Gaussian to within a per mille
    assert phantom.s0[phantom.mask].mean() / signals[bright].std(axis=1).mean() == pytest.approx(
        snr, rel=0.02
    )


def test_noise_raises_a_low_signal_as_the_rician_mean_says(phantom):
    sigma = noise_sigma(phantom, 10.0)
    signals = acquire(phantom, [0.0] * 200, snr=10.0, seed=4)[phantom.mask]
    np.testing.assert_allclose(
        (signals**2).mean(), (phantom.s0[phantom.mask] ** 2).mean() + 2 * sigma**2, rtol=0.005
    )


def test_seed_decides_the_noise(phantom):
    first = acquire(phantom, [0, 100], snr=20, seed=[1, 2])
    np.testing.assert_array_equal(first, acquire(phantom, [0, 100], snr=20, seed=[1, 2]))
    assert not np.array_equal(first, acquire(phantom, [0, 100], snr=20, seed=[1, 3]))


def test_volumes_have_noise_of_their_own(phantom):
    first, second = np.moveaxis(acquire(phantom, [0, 0], snr=20)[~phantom.mask], -1, 0)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_gradient_table_has_repeats_and_directions():
    bvals, bvecs = Protocol((0, 50.5, 400), repeats=2, b0_repeats=4, directions=3).gradient_table()
    values, counts = np.unique(bvals, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0.0: 4, 50.5: 6, 400.0: 6}
    assert (bvecs[bvals == 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(bvecs[bvals > 0], axis=1), 1)
    for b in (50.5, 400):
        assert len(np.unique(bvecs[bvals == b], axis=0)) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 30])
def test_directions_are_distinct_axes(count):
    vectors = directions(count)
    cosines = np.abs(vectors @ vectors.T) - np.eye(count)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert cosines.max() < 0.99


@pytest.mark.parametrize("snr", [0.0, -1.0, math.nan])
def test_refuses_an_snr_that_is_none(phantom, snr):
    with pytest.raises(UsageError, match="SNR"):
        acquire(phantom, [0], snr=snr)


@pytest.mark.parametrize(
    "options",
    [
        {"bvals": ()},
        {"bvals": (0, -5)},
        {"bvals": (0, math.nan)},
        {"bvals": (0, math.inf)},
        {"bvals": (0,), "repeats": 0},
        {"bvals": (0,), "b0_repeats": 0},
        {"bvals": (0,), "directions": -1},
    ],
)
def test_refuses_protocols_that_cannot_be_acquired(options):
    with pytest.raises(UsageError):
        Protocol(**options)
