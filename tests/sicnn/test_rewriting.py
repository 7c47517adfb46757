"""Fitting error, update rules, tiles, training in periods and the reasons to stop."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings, NetworkSettings, SimilaritySettings, Threshold
from sicnn_app.sicnn import iterate as module
from sicnn_app.sicnn.iterate import MIN_EPOCHS, epochs_per_period, iterate
from sicnn_app.sicnn.loss import held_out_patches, noise_free_model
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig, Parameters
from sicnn_app.sicnn.rewrite import (
    fitting_error,
    neighbour_mean,
    rewrite,
    signals_to_rewrite,
    threshold_map,
)
from sicnn_app.sicnn.tiles import cut_tiles, tile_count, tile_gap, tile_length
from sicnn_app.sicnn.train import Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening

BVALS = torch.tensor([0.0, 20.0, 80.0, 200.0, 600.0])


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    """These tests ask when signals are rewritten, not how well they are learnt."""
    monkeypatch.setattr(module, "FIRST_PERIOD_STEPS", 20)
    monkeypatch.setattr(module, "PERIOD_STEPS", 10)
    monkeypatch.setattr(module, "MAX_FIRST_PERIODS", 2)


def noisy_data(size_x: int = 9, size_y: int = 7, slices: int = 1, sigma: float = 0.1) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    clean = ivim_signal_torch(BVALS, 0.2, 0.0012, 0.03)[None, :, None, None]
    noise = sigma * torch.randn((slices, 5, size_x, size_y), generator=generator)
    mask = torch.ones(slices, size_x, size_y, dtype=torch.bool)
    mask[:, 0, 0] = False
    return TrainingData(
        signals=(clean + noise) * mask[:, None],
        mask=mask,
        normaliser=mask.float(),
        sigma=sigma * mask,
        noise=(sigma * mask[:, None]).expand_as(noise),
        weight=mask.float(),
    )


def make_trainer(data: TrainingData, *, batch_size: int = 1, learning_rate: float = 1e-3) -> Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = IvimNetwork(NetworkConfig(5, NetworkSettings(width=8, depth=2)))
    return Trainer(
        network=network,
        whitening=Whitening.of(data.signals, data.weight),
        forward_model=noise_free_model(BVALS),
        learning_rate=learning_rate,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
        bval_weight=torch.ones(5),
    )


def run(data: TrainingData, **options):
    chosen = replace(EstimationSettings(max_iterations=2), **options)
    return iterate(make_trainer(data), data, BVALS, chosen)


def test_thresholds_are_absolute_or_follow_the_noise():
    sigma = torch.tensor([0.1, 0.4])
    assert threshold_map(Threshold(0.03, "absolute"), sigma).tolist() == pytest.approx([0.03, 0.03])
    assert threshold_map(Threshold(2.5, "sigma"), sigma).tolist() == pytest.approx([0.25, 1.0])


def test_signals_beyond_the_threshold_inside_the_mask_are_rewritten():
    noisy = torch.tensor([1.0, 1.0, 1.0, 1.0]).reshape(1, 1, 4, 1)
    predicted = torch.tensor([1.2, 0.7, 1.05, 9.0]).reshape(1, 1, 4, 1)
    mask = torch.tensor([True, True, True, False]).reshape(1, 4, 1)
    assert fitting_error(predicted, noisy).flatten().tolist() == pytest.approx([0.2, 0.3, 0.05, 8.0])
    rewritten = signals_to_rewrite(predicted, noisy, torch.full_like(noisy, 0.1), mask)
    assert rewritten.flatten().tolist() == [True, True, False, False]


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shift=st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
    slices=st.integers(1, 2),
    tile_size=st.sampled_from([64, 32, 16]),
    gap=st.just(tile_gap(NetworkSettings())),
)
def test_tiles_hold_every_voxel_once(size, shift, slices, tile_size, gap):
    numbers = torch.arange(1, slices * size[0] * size[1] + 1).reshape(slices, 1, *size)
    tiles = cut_tiles(numbers, list(shift), tile_size, gap)
    held = tiles[tiles > 0]
    assert torch.equal(held.sort().values, numbers.flatten())
    assert max(tiles.shape[2:]) <= 1.5 * tile_size
    # The network never sees the two ends of a shifted slice side by side.
    for length in size:
        count = tile_count(length, tile_size)
        assert count == 1 or count * tile_length(length, tile_size, gap) >= length + gap


def test_an_epoch_trains_on_every_voxel_once():
    data = noisy_data(70, 130, slices=2)
    trainer = make_trainer(data, batch_size=3)
    seen = torch.cat([weight.flatten() for *_, weight in trainer._batches(data, data.signals, data.signals)])
    assert seen.sum() == data.mask.sum()
    trainer.train_epoch(data, data.signals, data.signals)
    assert trainer.steps_done == trainer.steps_per_epoch(data) == math.ceil(2 * 1 * 2 / 3)


def test_a_period_has_its_steps_and_at_least_the_least_epochs():
    data = noisy_data(70, 130, slices=2)
    trainer = make_trainer(data)
    assert epochs_per_period(trainer, data, 100) == 25
    assert epochs_per_period(trainer, data, 8) == MIN_EPOCHS


def test_training_lowers_the_loss_and_ends_when_it_has_converged():
    data = noisy_data()
    trainer = make_trainer(data, learning_rate=3e-3)
    options = {"delta": 0.02, "period": 20, "max_periods": 30}
    final = trainer.train_until_converged(data, data.signals, data.signals, **options)
    assert final < 0.5 * trainer.losses[0]
    assert 20 <= trainer.epochs_done < 600 and trainer.epochs_done % 20 == 0
    assert len(trainer.losses) == trainer.epochs_done


def test_a_late_rise_of_the_loss_never_reaches_the_predictions(monkeypatch):
    data = noisy_data()
    trainer = make_trainer(data)
    train_epoch, states = trainer.train_epoch, []

    def rising(*arguments):
        train_epoch(*arguments)
        states.append(copy.deepcopy(trainer.averaged.state_dict()))
        return float(len(states))

    monkeypatch.setattr(trainer, "train_epoch", rising)
    trainer.train_until_converged(data, data.signals, data.signals, delta=0.0, period=20, max_periods=1)
    kept = trainer.averaged.state_dict()
    # The first half of the period, epochs 1 to 10, had the lower mean loss.
    assert all(torch.equal(kept[name], states[9][name]) for name in kept)
    assert any(not torch.equal(kept[name], states[19][name]) for name in kept)


def test_the_rules_replace_by_what_they_say():
    data = noisy_data()
    trainer = make_trainer(data)
    trainer.train_until_converged(data, data.signals, data.signals, delta=0.02, period=20, max_periods=10)
    parameters, predicted = trainer.predict(data, data.signals)
    wide = torch.full_like(data.sigma, 10.0)
    weight = torch.ones(len(BVALS))
    chosen = EstimationSettings(
        neighbour_radius=20, similarity=SimilaritySettings("root-mean-square", "equal", None)
    )
    observed, counts, _ = neighbour_mean(parameters, data, BVALS, wide, weight, chosen)
    # Everything is similar: the shape of every replacement is that of the mean observed signal.
    mean = data.signals.movedim(1, -1)[data.mask].mean(0)
    shapes = observed.movedim(1, -1)[data.mask]
    torch.testing.assert_close(shapes / shapes[:, :1], (mean / mean[0]).expand_as(shapes), atol=1e-5, rtol=0)
    assert (counts[data.mask] == data.mask.sum()).all()
    alone = torch.zeros_like(data.sigma)
    own, counts, _ = neighbour_mean(parameters, data, BVALS, alone, weight, chosen)
    torch.testing.assert_close(own, data.signals, atol=1e-5, rtol=0)
    assert (counts[data.mask] == 1).all()
    predicting = replace(chosen, update_rule="predicted-neighbours")
    own_curve, *_ = neighbour_mean(parameters, data, BVALS, alone, weight, predicting)
    inside = own_curve.movedim(1, -1)[data.mask]
    curve = predicted.movedim(1, -1)[data.mask]
    torch.testing.assert_close(inside / inside[:, :1], curve / curve[:, :1], atol=1e-4, rtol=0)


def test_lambda_ends_the_data_iterations():
    result = run(noisy_data(), lambda_=Threshold(10.0, "absolute"))
    assert result.stop_reason == "lambda" and len(result.history) == 1


def test_in_sigma_it_is_the_noise_that_ends_the_data_iterations():
    every = run(noisy_data(), lambda_=Threshold(0.0, "sigma")).history
    shares = [row["change_over_noise"] for row in every]
    assert shares[0] > shares[1] > 0
    ended = run(noisy_data(), lambda_=Threshold((shares[0] + shares[1]) / 2, "sigma"))
    assert ended.stop_reason == "lambda" and ended.history == every[:2]


@pytest.mark.parametrize(("unit", "reason"), [("sigma", "continuum"), ("absolute", "max_iterations")])
def test_where_most_neighbours_are_only_nearly_similar_it_ends_after_the_second_training(
    monkeypatch, unit, reason
):
    limit = Threshold(0.0, unit)
    counts = run(noisy_data(), lambda_=limit, max_iterations=1).history[1]
    ratio = counts["mean_nearly_similar"] / counts["mean_closely_similar"]
    assert ratio >= 1
    monkeypatch.setattr(module, "CONTINUUM", 0.99 * ratio)
    ended = run(noisy_data(), lambda_=limit)
    assert (ended.stop_reason, len(ended.history)) == (reason, 2 if unit == "sigma" else 3)
    monkeypatch.setattr(module, "CONTINUUM", 1.01 * ratio)
    assert run(noisy_data(), lambda_=limit, max_iterations=1).stop_reason == "max_iterations"


def test_noise_of_nothing_never_ends_them():
    data = noisy_data()
    quiet = run(data._replace(noise=torch.zeros_like(data.noise)), lambda_=Threshold(1.0, "sigma"))
    assert quiet.stop_reason == "max_iterations"


def test_the_limit_ends_the_data_iterations():
    result = run(noisy_data(), lambda_=Threshold(0.0, "absolute"))
    assert result.stop_reason == "max_iterations"
    assert [row["data_iteration"] for row in result.history] == [0, 1, 2]
    assert sum(row["epochs"] for row in result.history) == len(result.losses)
    assert [epoch for _, epoch, _ in result.losses] == list(range(1, len(result.losses) + 1))


def test_a_threshold_of_no_signal_rewrites_none_and_of_zero_all():
    none = run(noisy_data(), fitting_threshold=Threshold(100.0, "absolute"))
    assert none.history[0]["replaced_fraction"] == 0 and none.stop_reason == "lambda"
    every = run(
        noisy_data(), fitting_threshold=Threshold(0.0, "absolute"), lambda_=Threshold(0.0, "absolute")
    )
    assert every.history[-1]["replaced_fraction"] == pytest.approx(1.0)


@pytest.mark.parametrize("rule", ["observed-neighbours", "predicted-neighbours"])
def test_rewriting_makes_the_network_see_less_noise(rule):
    data = noisy_data(20, 20, sigma=0.2)
    result = run(data, update_rule=rule, lambda_=Threshold(0.0, "absolute"))
    assert result.history[-1]["training_loss"] < 0.5 * result.history[0]["training_loss"]
    assert result.history[-1]["mean_neighbours"] > 30


def test_the_noisy_input_and_the_training_input_differ_after_a_rewrite():
    one, other = (
        run(noisy_data(), network_input=name, lambda_=Threshold(0.0, "absolute"))
        for name in ("noisy", "training")
    )
    assert one.history[0] == other.history[0]
    assert one.history[2]["training_loss"] != other.history[2]["training_loss"]


def test_random_rewriting_draws_as_many_signals_of_every_b_value():
    data = noisy_data(30, 30, sigma=0.2)
    options = {
        "lambda_": Threshold(0.0, "absolute"),
        "max_iterations": 1,
        "fitting_threshold": Threshold(1.0, "sigma"),
    }
    chosen, drawn = (run(data, rewrite_at_random=random, **options) for random in (False, True))
    assert drawn.history[0]["replaced_fraction"] == pytest.approx(
        chosen.history[0]["replaced_fraction"], abs=0.03
    )
    assert drawn.history[1]["training_loss"] != chosen.history[1]["training_loss"]


def test_whole_curves_are_rewritten_or_none_of_their_signals():
    noisy = torch.zeros(1, 3, 2, 1)
    predicted = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 0.9]]).T.reshape(1, 3, 2, 1)
    rewritten = signals_to_rewrite(
        predicted, noisy, torch.ones_like(noisy), torch.ones(1, 2, 1, dtype=torch.bool), whole=True
    )
    assert rewritten[0, :, 0, 0].all() and not rewritten[0, :, 1, 0].any()


def test_a_new_network_begins_every_data_iteration_when_asked_for():
    # The weights of the new one are drawn from torch's generator, which other tests leave anywhere.
    torch.manual_seed(0)
    carried = run(noisy_data(), lambda_=Threshold(0.0, "absolute"))
    anew = run(noisy_data(), lambda_=Threshold(0.0, "absolute"), restart_network=True)
    starts = [next(loss for number, _, loss in result.losses if number == 1) for result in (carried, anew)]
    assert anew.history[0] == carried.history[0]
    assert starts[1] > 1.5 * starts[0]


def test_held_out_voxels_are_never_rewritten_and_nobodys_neighbours():
    data = noisy_data(20, 20, sigma=0.2)
    held_out = held_out_patches(data.mask, 0.3, seed=0)
    part = data._replace(weight=data.weight * ~held_out)
    parameters = Parameters(*(torch.full_like(data.sigma, value) for value in (0.2, 0.0012, 0.03, 1.0)))
    arguments = (parameters, torch.full_like(data.signals, 5.0), data.signals)
    rest = (BVALS, torch.ones(5), EstimationSettings())
    target, rewritten, counts, _ = rewrite(*arguments, part, *rest)
    assert torch.equal(target.movedim(1, -1)[held_out], data.signals.movedim(1, -1)[held_out])
    assert not rewritten.movedim(1, -1)[held_out].any() and (counts[held_out] == 0).all()
    spoilt = part._replace(signals=torch.where(held_out[:, None], 99.0, part.signals))
    other, *_ = rewrite(*arguments, spoilt, *rest)
    inside = part.weight > 0
    assert torch.equal(other.movedim(1, -1)[inside], target.movedim(1, -1)[inside])


def test_held_out_patches_are_drawn_by_the_seed_and_leave_something():
    mask = torch.ones(3, 40, 30, dtype=torch.bool)
    share = held_out_patches(mask, 0.25, seed=1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.1)
    assert torch.equal(held_out_patches(mask, 0.25, seed=1), held_out_patches(mask, 0.25, seed=1))
    assert not torch.equal(held_out_patches(mask, 0.25, seed=1), held_out_patches(mask, 0.25, seed=2))
    for small, share in ((mask[:1, :3, :3], 0.999), (mask[:1, :3, :3], 0.001)):
        with pytest.raises(ValueError, match="leaves nothing to train"):
            held_out_patches(small, share, seed=0)


def test_signals_that_agree_with_the_prediction_stay_rewritten_against_the_training_signals():
    data = noisy_data(12, 12, sigma=0.2)
    parameters = Parameters(*(torch.full_like(data.sigma, value) for value in (0.2, 0.0012, 0.03, 1.0)))
    earlier = data.signals + 0.5
    rest = (parameters, earlier.clone(), earlier, data, BVALS, torch.ones(5))
    against = EstimationSettings(fitting_error_against="training")
    target, rewritten, *_ = rewrite(*rest, against)
    assert not rewritten.any() and torch.equal(target, earlier)
    afresh, rewritten, *_ = rewrite(*rest, EstimationSettings())
    assert rewritten.movedim(1, -1)[data.mask].all() and not torch.equal(afresh, earlier)
