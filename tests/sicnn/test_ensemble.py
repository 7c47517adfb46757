"""Ensembles: members trained in one batch, each as if alone; what they see and what they say together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import UsageError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.resampling import add_noise
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings, NetworkSettings, Threshold
from sicnn_app.sicnn import ensemble as module
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.ensemble import ensemble_data
from sicnn_app.sicnn.estimate import estimate
from sicnn_app.sicnn.loss import mean_squared_difference, noise_free_model
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig
from sicnn_app.sicnn.stacked_networks import Members, build_network, clip_gradients
from sicnn_app.sicnn.train import Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening

BVALS = np.array([0, 20, 80, 200, 600.0])
SHAPE = (14, 12, 2)
SIGMA = 25.0
CONFIG = NetworkConfig(len(BVALS), NetworkSettings(width=8, depth=2))


@pytest.fixture
def short_trainings(monkeypatch):
    """These tests ask what is recorded and kept apart, not how well it is learnt."""
    monkeypatch.setattr(iterate, "MIN_EPOCHS", 4)
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 20)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 10)
    monkeypatch.setattr(iterate, "MAX_FIRST_PERIODS", 2)


def measured(seed: int = 0) -> np.ndarray:
    """Noisy signals of one tissue, shape (X, Y, Z, B), source units."""
    clean = 500 * ivim_signal_maps(BVALS, *(np.full(SHAPE, value) for value in (0.2, 0.0012, 0.03)))
    return np.abs(clean + np.random.default_rng(seed).normal(0, SIGMA, clean.shape)).astype(np.float32)


def run(signals: np.ndarray | None = None, *, resample=None, checkpoint=None, **options) -> Estimate:
    return estimate(
        measured() if signals is None else signals,
        np.ones(SHAPE, dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, SIGMA),
        settings=EstimationSettings(
            **{"max_iterations": 1, "lambda_": Threshold(0.0, "absolute"), **options}
        ),
        resample=resample,
        checkpoint=checkpoint,
    )


def random_networks(count: int, seed: int = 0) -> list[IvimNetwork]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [IvimNetwork(CONFIG) for _ in range(count)]


def box_data(seed: int) -> TrainingData:
    return training_data(
        measured(seed), Box.around(np.ones(SHAPE, dtype=bool)), SIGMA, np.full(BVALS.size, SIGMA)
    )[0]


def joined(*parts: TrainingData) -> TrainingData:
    return TrainingData(*map(torch.cat, zip(*parts, strict=True)))


def trainer_of(network: IvimNetwork | Members, members: int) -> Trainer:
    return Trainer(
        network=network,
        whitening=Whitening.of(box_data(0).signals, box_data(0).weight),
        forward_model=noise_free_model(torch.tensor(BVALS, dtype=torch.float32)),
        learning_rate=1e-3,
        batch_size=1,
        generator=torch.Generator().manual_seed(0),
        bval_weight=torch.ones(len(BVALS)),
        members=members,
    )


@settings(max_examples=5, deadline=None)
@given(count=st.integers(2, 4), slices=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_member_answers_as_it_would_alone(count, slices, seed):
    networks = random_networks(count, seed)
    signals = torch.randn(count * slices, len(BVALS), 6, 5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = Members(networks)(signals)
        for index, network in enumerate(networks):
            some = slice(index * slices, (index + 1) * slices)
            for values, alone in zip(found, network(signals[some]), strict=True):
                torch.testing.assert_close(values[some], alone, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(members=st.integers(1, 4), largest=st.floats(0.1, 10.0), seed=st.integers(0, 99))
def test_gradients_are_shortened_member_by_member(members, largest, seed):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn((members, *shape), generator=generator) * 3 for shape in ((4, 2), (5,))]
    stacked = [torch.zeros_like(value).requires_grad_() for value in values]
    for parameter, value in zip(stacked, values, strict=True):
        parameter.grad = value.clone()
    clip_gradients(stacked, members, largest)
    for member in range(members):
        alone = [torch.zeros_like(value[member]).requires_grad_() for value in values]
        for parameter, value in zip(alone, values, strict=True):
            parameter.grad = value[member].clone()
        torch.nn.utils.clip_grad_norm_(alone, largest)
        for parameter, single in zip(stacked, alone, strict=True):
            torch.testing.assert_close(parameter.grad[member], single.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_of_every_member_is_its_own():
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn((2, 6, 3, 5, 4), generator=generator)
    weight = torch.rand((6, 5, 4), generator=generator)
    bval_weight = torch.tensor([0.5, 1.0, 1.5])
    losses = mean_squared_difference(predicted, target, weight, bval_weight, 3)
    for member in range(3):
        some = slice(2 * member, 2 * member + 2)
        alone = mean_squared_difference(predicted[some], target[some], weight[some], bval_weight)
        torch.testing.assert_close(losses[member : member + 1], alone)


def test_members_are_trained_as_if_alone():
    networks, parts = random_networks(3), [box_data(seed) for seed in range(3)]
    together = trainer_of(Members(networks), 3)
    data = joined(*parts)
    for _ in range(3):
        together.train_epoch(data, data.signals, data.signals)
    _, predicted = together.predict(data, data.signals)
    for member, (network, part) in enumerate(zip(networks, parts, strict=True)):
        alone = trainer_of(network, 1)
        for _ in range(3):
            alone.train_epoch(part, part.signals, part.signals)
        _, expected = alone.predict(part, part.signals)
        found = predicted[member * SHAPE[2] : (member + 1) * SHAPE[2]]
        # Adam divides by gradients that may be tiny, which magnifies roundings.
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
        assert together.steps_done == alone.steps_done


def test_the_first_member_starts_where_a_single_network_would():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        single = build_network(CONFIG, 1).state_dict()
        torch.manual_seed(5)
        several = build_network(CONFIG, 3)
    stacked = {name: several.weights[name.replace(".", "/")] for name in single}
    assert all(torch.equal(stacked[name][0], values) for name, values in single.items())
    kernels = stacked["head.weight"]
    assert not torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[1], kernels[2])


def test_what_members_see_is_on_average_what_was_measured():
    signals, mask = measured(), np.ones(SHAPE, dtype=bool)
    box = Box.around(mask)
    chosen = EstimationSettings(ensemble=4)
    noise = np.full(BVALS.size, SIGMA)
    data, scale = ensemble_data(
        signals, box, SIGMA, noise, chosen, lambda rng: add_noise(signals, mask, noise, rng)
    )
    seen = (data.signals * scale[:, None]).unflatten(0, (4, -1))
    expected = torch.from_numpy(signals).permute(2, 3, 0, 1)
    torch.testing.assert_close(seen.mean(dim=0), expected, rtol=1e-4, atol=1e-2)
    # Every entry has a standard deviation of its own; their mean square is that of the noise drawn.
    drawn = float(seen.var(dim=0).mean().sqrt())
    assert drawn == pytest.approx(module.STRENGTH * SIGMA, rel=0.05)


def test_what_nothing_can_be_divided_by_stays_as_measured():
    signals, mask = measured(), np.ones(SHAPE, dtype=bool)
    signals[0, 0, 0] = 1e-3
    box = Box.around(mask)

    def resample(rng):
        return add_noise(signals, mask, np.full(BVALS.size, SIGMA), rng)

    noise = np.full(BVALS.size, SIGMA)
    data, scale = ensemble_data(signals, box, SIGMA, noise, EstimationSettings(ensemble=3), resample)
    assert (scale > 0).all() and torch.isfinite(data.signals).all()


@pytest.mark.parametrize("method", ["si-cnn", "di-cnn", "cnn"])
def test_an_ensemble_writes_means_and_standard_deviations(short_trainings, method):
    options = {"epochs": 20} if method == "cnn" else {}
    found = run(method=method, ensemble=3, refinement="none", **options)
    assert set(found.maps) == {spec.label for spec in MAPS} | {"f_std", "d_std", "dstar_std"}
    for label, values in found.maps.items():
        assert values.shape == SHAPE and values.dtype == np.float32 and np.isfinite(values).all(), label
        assert not label.endswith("_std") or ((values >= 0).all() and (values > 0).any()), label
    parameters = json.loads(json.dumps(found.parameters))
    assert parameters["ensemble"] == 3
    assert parameters["ensemble_resampling_strength"] == module.STRENGTH
    assert parameters["ensemble_spread_factor"] == module.SPREAD_FACTOR
    assert parameters["epochs"] == len(found.losses)


def test_predictions_and_residuals_are_those_of_the_mean_maps(short_trainings):
    signals = measured()
    found = run(signals, ensemble=2)
    maps = {label: found.maps[label].astype(np.float64) for label in ("f", "d", "dstar", "s0")}
    predicted = ivim_signal_maps(BVALS, **maps)
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-4)
    residual = np.sqrt(np.mean((predicted - signals) ** 2, axis=3)) / maps["s0"]
    np.testing.assert_allclose(found.maps["rmse"], residual, rtol=1e-3, atol=1e-5)


def test_without_new_noise_only_the_seeds_differ(short_trainings):
    signals = measured()
    same = run(signals, ensemble=2, refinement="none", resample=lambda rng: signals)
    drawn = run(signals, ensemble=2, refinement="none")
    assert 0 < same.maps["d_std"].mean() < drawn.maps["d_std"].mean()


def test_a_single_network_sees_no_new_noise(short_trainings):
    def never(rng):
        raise AssertionError("nothing is drawn for one network")

    found = run(ensemble=1, refinement="none", resample=never)
    assert set(found.maps) == {spec.label for spec in MAPS} and found.parameters["ensemble"] == 1


def test_the_residual_of_a_single_network_is_that_of_its_own_prediction(short_trainings):
    signals = measured()
    found = run(signals)
    residual = np.sqrt(np.mean((found.predicted.astype(np.float64) - signals) ** 2, axis=3))
    np.testing.assert_allclose(found.maps["rmse"], residual / found.maps["s0"], rtol=1e-4)


def test_under_a_noise_floor_the_mean_maps_predict_it_too(short_trainings):
    """Dark voxels: what the mean maps predict lies above their noise-free signal."""
    signals = np.abs(measured() * 0.1)
    found = run(signals, method="cnn", epochs=10, ensemble=2, rician=True)
    clean = ivim_signal_maps(BVALS, *(found.maps[label].astype(float) for label in ("f", "d", "dstar", "s0")))
    assert (found.predicted[..., -1] > clean[..., -1]).all()


def test_voxels_at_a_bound_in_most_members_are_told(short_trainings):
    """In a voxel that grows with b, D ends at 0 in every member."""
    signals = measured()
    signals[3:9, 3:9] = 300 * (1 + BVALS / 600)
    found = run(signals, method="cnn", epochs=150, ensemble=2, learning_rate=1e-2)
    assert found.members_at_bound.dtype == bool and found.members_at_bound.shape == SHAPE
    assert found.members_at_bound[4:8, 4:8].mean() > 0.9
    assert run(signals, method="cnn", epochs=5).members_at_bound is None


def test_the_seed_decides_the_draws(short_trainings):
    one, again, other = run(ensemble=2), run(ensemble=2), run(ensemble=2, random_seed=1)
    for label in one.maps:
        np.testing.assert_array_equal(one.maps[label], again.maps[label])
    assert (one.maps["f"] != other.maps["f"]).any()


def test_observers_see_volumes(short_trainings):
    seen = []
    signals = measured()
    estimate(
        signals,
        np.ones(SHAPE, dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, SIGMA),
        settings=EstimationSettings(max_iterations=1, ensemble=2),
        observe=seen.append,
    )
    for moment in seen:
        assert moment.maps["f"].shape == SHAPE and moment.predicted.shape == signals.shape
    # Trained first on what was measured, the noise drawn cancels in the mean.
    np.testing.assert_allclose(seen[0].training_signals, signals, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ensemble": 0}, "--ensemble must be at least 1"),
        ({"ensemble": 3, "method": "lsq"}, "contradicts --method lsq"),
        ({"ensemble": 3, "training_scope": "study"}, "contradicts --training-scope study"),
    ],
)
def test_ensembles_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        EstimationSettings(**options)


def test_batch_normalisation_is_no_choice_of_users():
    with pytest.raises(ValueError, match="batch normalisation"):
        replace(EstimationSettings(ensemble=2), network=NetworkSettings(normalisation="batch"))


@pytest.mark.slow
def test_standard_deviations_say_how_far_the_truth_is():
    """On a phantom that no factor was found on; the calibration is benchmarks/accuracy/calibration.py."""
    shape, bvals = (40, 36, 1), np.array([0, 10, 20, 30, 50, 80, 120, 200, 300, 400, 500, 600.0])
    phantom = make_phantom("abdomen", shape, seed=77)
    signals = acquire(phantom, bvals, snr=20.0, seed=5).astype(np.float32)
    mask = phantom.mask & (signals[..., 0] > 0)
    sigma = noise_sigma(phantom, 20.0)
    found = estimate(
        signals,
        mask,
        bvals,
        noise=np.full(bvals.size, sigma),
        settings=EstimationSettings(ensemble=5, refinement="none"),
    )
    for label, where in (("f", mask), ("dstar", mask & (phantom.f > 0.02))):
        errors = np.abs(found.maps[label] - getattr(phantom, label))[where]
        spread = found.maps[f"{label}_std"][where]
        assert 0.5 < np.mean(errors <= spread) < 0.85, label
        assert np.mean(errors <= 2 * spread) > 0.75, label
