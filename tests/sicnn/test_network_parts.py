"""Network, normalisation, whitening, forward models and weights, each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.settings import NORMALISATIONS, Bounds, NetworkSettings
from sicnn_app.sicnn.loss import mean_squared_difference, noise_free_model, rician_model, voxel_weights
from sicnn_app.sicnn.network import TYPICAL, ChannelNorm, IvimNetwork, NetworkConfig, Parameters
from sicnn_app.sicnn.whitening import VARIANCE_FLOOR, Whitening

BVALS = torch.tensor([0.0, 20.0, 80.0, 200.0, 600.0])


def parameters(*values: float, dtype: torch.dtype = torch.float64) -> Parameters:
    return Parameters(*(torch.full((1, 1, 1), value, dtype=dtype) for value in values))


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-3, 1e6),
    seed=st.integers(0, 100),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    low=st.floats(0.0, 0.4),
    high=st.floats(0.5, 1.0),
)
def test_outputs_stay_within_the_bounds_for_any_input(scale, seed, size, low, high):
    generator = torch.Generator().manual_seed(seed)
    bounds = Bounds(f=(low, high), d=(0.0002, 0.004))
    network = IvimNetwork(NetworkConfig(5, NetworkSettings(width=8, depth=2), bounds=bounds))
    signals = scale * torch.randn((2, 5, *size), generator=generator)
    for name, values in network(signals)._asdict().items():
        lower, upper = getattr(bounds, name)
        assert values.shape == (2, *size)
        assert torch.isfinite(values).all(), name
        # Single precision rounds the ends of the interval.
        slack = 1e-6 * (upper - lower)
        assert values.min() >= lower - slack and values.max() <= upper + slack, name


def test_untrained_networks_start_around_typical_tissue():
    starts: dict[str, list[float]] = {name: [] for name in TYPICAL}
    for seed in range(20):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = IvimNetwork(NetworkConfig(n_bvals=5))
        for name, values in network(torch.zeros(1, 5, 9, 9))._asdict().items():
            starts[name].append(values[0, 4, 4].item())
    for name, typical in TYPICAL.items():
        assert np.median(starts[name]) == pytest.approx(typical, rel=0.3), name


def test_the_receptive_field_is_that_of_the_depth():
    network = IvimNetwork(NetworkConfig(3, NetworkSettings(width=8, depth=2)))
    signals = torch.zeros(1, 3, 11, 11, requires_grad=True)
    network(signals).f[0, 5, 5].backward()
    reached = torch.nonzero(signals.grad[0].abs().sum(0))
    assert (reached.amin(0).tolist(), reached.amax(0).tolist()) == ([3, 3], [7, 7])


def test_channel_norm_treats_every_voxel_by_itself():
    x = 5.0 + 3.0 * torch.randn((2, 16, 4, 3), generator=torch.Generator().manual_seed(0))
    norm = ChannelNorm(16)
    normalised = norm(x)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(2, 4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(1, unbiased=False), torch.ones(2, 4, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm(x[1:, :, 2:3, 1:2]), normalised[1:, :, 2:3, 1:2])


def test_whitening_makes_channels_uncorrelated_and_keeps_weak_ones_weak():
    generator = torch.Generator().manual_seed(1)
    common = torch.randn((1, 1, 40, 40), generator=generator)
    weak = 0.01 * math.sqrt(VARIANCE_FLOOR) * torch.randn((1, 1, 40, 40), generator=generator)
    signals = torch.cat([common, 0.5 * common + weak, torch.randn((1, 1, 40, 40), generator=generator)], 1)
    mask = torch.rand((1, 40, 40), generator=generator) < 0.8
    white = Whitening.of(signals, mask.float())(signals, mask)
    assert (white.movedim(1, -1)[~mask] == 0).all()
    covariance = torch.cov(white.movedim(1, -1)[mask].T, correction=0)
    variances = torch.diagonal(covariance)
    torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-3, rtol=0)
    assert sorted(variances.round(decimals=2).tolist()) == [0.0, 1.0, 1.0]


def test_whitening_of_a_single_voxel_is_finite():
    signals = torch.full((1, 4, 1, 1), 0.7)
    white = Whitening.of(signals, torch.ones(1, 1, 1))(signals, torch.ones(1, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(white, torch.zeros_like(white))


def test_the_noise_free_model_is_the_ivim_equation():
    truth = (0.2, 0.0011, 0.03, 1.1)
    predicted = noise_free_model(BVALS)(parameters(*truth), torch.zeros(1, 1, 1))
    expected = ivim_signal_maps(BVALS.numpy(), *(np.array(value) for value in truth))
    np.testing.assert_allclose(predicted[0, :, 0, 0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.5])
def test_the_rician_model_is_the_mean_of_noisy_magnitudes(sigma):
    truth = parameters(0.2, 0.0015, 0.03, 1.0)
    clean = noise_free_model(BVALS)(truth, torch.zeros(1, 1, 1))[0, :, 0, 0].numpy()
    noise = sigma * np.random.default_rng(0).standard_normal((2, 400_000, 1))
    magnitudes = np.hypot(clean + noise[0], noise[1])
    predicted = rician_model(BVALS)(truth, torch.full((1, 1, 1), sigma, dtype=torch.float64))
    standard_error = magnitudes.std(axis=0) / math.sqrt(noise.shape[1])
    assert (np.abs(predicted[0, :, 0, 0].numpy() - magnitudes.mean(axis=0)) < 5 * standard_error).all()


def test_the_rician_model_meets_its_limits():
    truth = parameters(0.1, 0.001, 0.02, 1.0)
    clean = noise_free_model(BVALS)(truth, torch.zeros(1, 1, 1))
    precise = rician_model(BVALS)(truth, torch.full((1, 1, 1), 1e-3, dtype=torch.float64))
    torch.testing.assert_close(precise, clean + 1e-6 / (2 * clean), rtol=1e-8, atol=0)
    assert torch.isfinite(rician_model(BVALS)(truth, torch.zeros(1, 1, 1, dtype=torch.float64))).all()
    noise_only = rician_model(torch.tensor([1e6]))(truth, torch.ones(1, 1, 1, dtype=torch.float64))
    assert noise_only.item() == pytest.approx(math.sqrt(math.pi / 2))


@pytest.mark.parametrize("model", [noise_free_model, rician_model])
def test_gradients_of_the_forward_models(model):
    forward = model(BVALS.double() / 1000)
    # In units of ms / um^2, so that one finite-difference step suits all parameters.
    inputs = [
        torch.full((1, 2, 1), value, dtype=torch.float64, requires_grad=True)
        for value in (0.3, 1.2, 30.0, 0.9)
    ]
    sigma = torch.tensor([[[0.05], [0.5]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *values: forward(Parameters(*values), sigma), inputs, eps=1e-5)


def test_the_loss_is_a_weighted_mean_over_voxels():
    predicted = torch.tensor([1.0, 2.0, 5.0]).reshape(1, 1, 3, 1).expand(1, 2, 3, 1)
    weight = torch.tensor([1.0, 3.0, 0.0]).reshape(1, 3, 1)
    loss = mean_squared_difference(predicted, torch.zeros(1, 2, 3, 1), weight, torch.ones(2))
    assert loss.item() == pytest.approx((1 * 1 + 3 * 4) / 4)


def test_precise_bvalues_weigh_more_in_the_loss():
    predicted = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)
    loss = mean_squared_difference(
        predicted, torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1), torch.tensor([1.6, 0.4])
    )
    assert loss.item() == pytest.approx((1.6 * 1 + 0.4 * 9) / 2)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_every_shape_of_network_maps_slices_to_slices(normalisation, kernel_size):
    shape = NetworkSettings(width=12, depth=2, kernel_size=kernel_size, normalisation=normalisation)
    network = IvimNetwork(NetworkConfig(4, shape))
    signals = torch.rand(2, 4, 6, 5)
    found = network(signals)
    assert all(values.shape == (2, 6, 5) for values in found)
    network.eval()
    changed = signals.clone()
    changed[0, :, 0, 0] += 1.0
    moved = network(signals).f != network(changed).f
    assert not moved[1].any()
    # Group normalisation reaches over the whole slice.
    if kernel_size == 1 and normalisation != "group":
        assert moved[0].sum() == 1


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"depth": 0}, {"kernel_size": 2}, {"normalisation": "layer"}],
)
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(ValueError):
        NetworkSettings(**wrong)


def test_weights_follow_the_normaliser_within_limits():
    normaliser = torch.full((1, 10, 10), 100.0)
    normaliser[0, 0, :3] = torch.tensor([0.0, 50.0, 0.001])
    normaliser[0, 1, 0] = 1e6
    weight = voxel_weights(normaliser)
    relative = weight / weight[0, 5, 5]
    torch.testing.assert_close(relative[0, 0, :3], torch.tensor([0.0, 0.5, 0.05]))
    assert relative[0, 1, 0].item() == pytest.approx(2.0)
    assert weight[normaliser > 0].mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(voxel_weights(1024 * normaliser), weight)
