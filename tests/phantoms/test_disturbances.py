"""Acquisitions with pulsation, lost signal and noise that varies in space, by what is measured on them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import UsageError
from sicnn_app.phantoms.acquire import acquire, acquire_series, noise_sigma
from sicnn_app.phantoms.disturbances import Disturbances, kept_signal, noise_gain, pulsation
from sicnn_app.phantoms.fields import gaussian_field
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.phantoms.truths import Truth

SHAPE = (40, 36, 2)
BVALS = np.repeat([0.0, 20.0, 100.0, 600.0], 6)
ALL = Disturbances(pulsation=0.1, losses=0.5, g_factor=2.5)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("abdomen", SHAPE, seed=5)


@given(length=st.floats(1.5, 5.0), seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_field_has_mean_0_variance_1_and_its_correlation_at_its_length(length, seed):
    fields = gaussian_field((60, 60, 60), (length, length, 0), np.random.default_rng(seed))
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.var() == pytest.approx(1, abs=0.1)
    for axis in (0, 1):
        lines = np.moveaxis(fields, axis, 0)
        correlation = [(lines[k:] * lines[: 60 - k]).mean() / fields.var() for k in range(14)]
        assert np.interp(length, range(14), correlation) == pytest.approx(np.exp(-1), abs=0.1)
        assert abs(correlation[13]) < 0.1
    assert abs((fields[..., 1:] * fields[..., :-1]).mean()) < 0.06


@pytest.mark.parametrize("length", [15.0, 17.0, 60.0, 900.0])
def test_long_fields_are_as_short_ones(length):
    rng = np.random.default_rng(3)
    lag = min(int(length), 60)
    drawn = np.stack([gaussian_field((lag + 4, 3), length, rng) for _ in range(400)])
    assert drawn.var(axis=0).mean() == pytest.approx(1, abs=0.25)
    assert drawn.mean() == pytest.approx(0, abs=0.2)
    correlation = np.corrcoef(drawn[:, 2, 1], drawn[:, 2 + lag, 1])[0, 1]
    assert correlation == pytest.approx(np.exp(-((lag / length) ** 2)), abs=0.15)
    # Smooth: from voxel to voxel next to nothing changes.
    assert np.abs(np.diff(drawn, axis=1)).max() < 8 / length


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 50, 1), (2, 2, 2)])
def test_small_fields_have_variance_1_over_many_draws(shape):
    rng = np.random.default_rng(1)
    drawn = np.stack([gaussian_field(shape, 6.0, rng) for _ in range(300)])
    assert drawn.var(axis=0).mean() == pytest.approx(1, abs=0.25)


def test_without_disturbances_it_is_the_plain_acquisition(phantom):
    plain = acquire_series(phantom, BVALS, snr=15, seed=[2, 3])
    np.testing.assert_array_equal(plain.signals, acquire(phantom, BVALS, snr=15, seed=[2, 3]))
    assert plain.pulsation is None
    assert plain.lost is None
    assert (plain.sigma == noise_sigma(phantom, 15)).all()


@pytest.mark.parametrize("from_array", [False, True])
def test_what_was_put_in_is_what_is_in_the_signals(phantom, from_array):
    clean = acquire(phantom, BVALS)
    made = acquire_series(clean if from_array else phantom, BVALS, disturbances=ALL, seed=4)
    np.testing.assert_array_equal(made.clean, clean)
    np.testing.assert_allclose(made.signals, clean * made.pulsation * (1 - made.lost), rtol=1e-12)
    assert made.series.signals.dtype == np.float32
    assert made.series.bvals.shape == made.series.signals.shape[3:]


def test_one_disturbance_more_leaves_noise_and_the_others_as_they_are(phantom):
    both = acquire_series(phantom, BVALS, snr=10, seed=1, disturbances=ALL)
    losses = acquire_series(phantom, BVALS, snr=10, seed=1, disturbances=Disturbances(losses=0.5))
    np.testing.assert_array_equal(both.lost, losses.lost)
    untouched = (losses.lost == 0).all(axis=-1)
    plain = acquire_series(phantom, BVALS, snr=10, seed=1)
    np.testing.assert_array_equal(losses.signals[untouched], plain.signals[untouched])


@pytest.mark.parametrize("g_factor", [1.0, 1.7, 3.0])
def test_noise_has_the_standard_deviation_of_the_map(g_factor):
    # So bright that Rician noise is Gaussian.
    truth = np.full((25, 21, 2, 400), 1000.0)
    made = acquire_series(truth, np.zeros(400), snr=50, seed=3, disturbances=Disturbances(g_factor=g_factor))
    np.testing.assert_allclose(made.signals.std(axis=-1) / made.sigma, 1, atol=0.2)
    assert (made.signals.std(axis=-1) / made.sigma).mean() == pytest.approx(1, abs=0.01)
    assert made.sigma.max() == made.sigma[12, 10, 0] == pytest.approx(20 * g_factor)
    assert made.sigma[0, 0, 0] == pytest.approx(20)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 1), (32, 20, 3)])
def test_gain_lies_between_1_and_the_factor(shape):
    gain = noise_gain(shape, 2.0)
    assert gain.shape == shape
    assert ((gain >= 1) & (gain <= 2)).all()


@given(deviation=st.floats(0.01, 0.4), seed=st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_pulsation_has_mean_1_and_the_stated_deviation(deviation, seed):
    factor = pulsation((5, 4, 3, 1000), deviation, np.random.default_rng(seed))
    assert factor.mean() == pytest.approx(1, abs=6 * deviation / np.sqrt(3000))
    assert factor.std(axis=-1).mean() == pytest.approx(deviation, rel=0.1)
    assert (factor > 0).all()
    near, slices, volumes = (
        np.corrcoef(factor[0, 0, 0, :-1], other)[0, 1]
        for other in (factor[2, 0, 0, :-1], factor[0, 0, 1, :-1], factor[0, 0, 0, 1:])
    )
    assert near > 0.9
    assert max(abs(slices), abs(volumes)) < 0.15


def test_regions_pulsate_as_one():
    regions = np.zeros((9, 8, 2), dtype=int)
    regions[4:] = 7
    factor = pulsation((9, 8, 2, 500), 0.1, np.random.default_rng(0), regions=regions)
    for code in (0, 7):
        for k in range(2):
            inside = factor[:, :, k][regions[:, :, k] == code]
            np.testing.assert_allclose(inside, inside[:1].repeat(len(inside), axis=0))
            assert inside.std(axis=-1).mean() == pytest.approx(0.1, rel=0.15)
    assert abs(np.corrcoef(factor[0, 0, 0], factor[8, 0, 0])[0, 1]) < 0.2


def test_blood_pulsates_more_and_most_at_low_b_values(phantom):
    bvals = np.repeat([0.0, 100.0], 200)
    made = acquire_series(phantom, bvals, disturbances=Disturbances(pulsation=0.05))
    codes = {tissue.name: tissue.code for tissue in phantom.tissues}
    spread = {
        (name, b): made.pulsation[phantom.labels == codes[name]][:, bvals == b].std(axis=-1).mean()
        for name in ("vessel", "liver", "spinal_canal")
        for b in (0.0, 100.0)
    }
    assert spread["spinal_canal", 0.0] == pytest.approx(0.05, rel=0.1)
    assert spread["vessel", 0.0] == pytest.approx(0.15, rel=0.1)
    assert spread["spinal_canal", 0.0] < 0.8 * spread["liver", 0.0] < 0.8 * spread["vessel", 0.0]
    assert spread["liver", 100.0] < 0.85 * spread["liver", 0.0]


@pytest.mark.parametrize("losses", [0.2, 1.0, 2.5])
def test_losses_are_as_many_as_said_small_and_not_at_b_0(losses):
    bvals = np.array([0.0] * 20 + [50.0] * 400)
    made = acquire_series(np.ones((40, 36, 3, 420)), bvals, disturbances=Disturbances(losses=losses), seed=1)
    assert not made.lost[..., bvals == 0].any()
    assert ((made.lost >= 0) & (made.lost < 1)).all()
    slices = (made.lost[..., bvals > 0] > 0.15).any(axis=(0, 1))
    # Two may meet in one slice.
    assert 0.6 * losses < slices.sum() / 400 < 1.3 * losses
    assert made.lost[..., bvals > 0].mean() < 0.06 * losses


def test_losses_can_be_given_for_every_volume():
    kept = kept_signal((30, 30, 2, 4), [0.0, 1.0, 0.0, 3.0], np.random.default_rng(0))
    assert (kept < 0.99).any(axis=(0, 1, 2)).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    "options", [{"pulsation": -0.1}, {"losses": -1}, {"g_factor": 0.5}, {"pulsation": np.nan}]
)
def test_refuses_disturbances_that_are_none(options):
    with pytest.raises(UsageError, match="must be between"):
        Disturbances(**options)


def test_losses_lie_in_the_body(phantom):
    made = acquire_series(phantom, np.full(60, 50.0), disturbances=Disturbances(losses=1.0))
    volumes, slices = np.nonzero((made.lost > 0.15).any(axis=(0, 1)).T)
    assert len(volumes) > 40
    for volume, k in zip(volumes, slices, strict=True):
        assert (made.lost[:, :, k, volume] > 0.15)[phantom.mask[:, :, k]].any()


def test_a_truth_of_parts_pulsates_where_its_blood_is():
    phantom = make_phantom("abdomen", (24, 20, 2), truth=Truth(partial_volume=2))
    made = acquire_series(phantom, np.zeros(400), disturbances=Disturbances(pulsation=0.05))
    spread = made.pulsation.std(axis=-1)[phantom.mask]
    np.testing.assert_allclose(spread, 0.05 * (1 + 2 * phantom.f[phantom.mask]), rtol=0.25)
