"""The network of a study: reproducible, whoever comes first, resumable, and a start nearer to the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn import study as study_module
from sicnn_app.sicnn.estimate import estimate
from sicnn_app.sicnn.study import study_case, train_study
from sicnn_app.sicnn.study_network import StudyNetwork
from sicnn_app.sicnn.train import Trainer
from sicnn_app.sicnn.whitening import Whitening
from sicnn_app.system.checkpoints import TrainingCheckpoint, read_state, write_state

BVALS = np.array([0, 20, 80, 300, 700.0])
SNR = 20.0
SETTINGS = EstimationSettings(max_iterations=1, training_scope="study", dropout=0.05)


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 20)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 10)
    monkeypatch.setattr(iterate, "MAX_FIRST_PERIODS", 2)


@pytest.fixture(scope="module")
def subjects() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Signals, mask and noise of small abdomens; the second has another shape."""
    found = {}
    for seed, shape in enumerate([(24, 20, 2), (20, 26, 1), (24, 20, 2)]):
        phantom = make_phantom("abdomen", shape, seed=seed, tissue_variation=0.15)
        signals = acquire(phantom, BVALS, snr=SNR, seed=seed).astype(np.float32)
        mask = phantom.mask & (signals[..., 0] > 0)
        found[f"sub-{seed}"] = (signals, mask, noise_sigma(phantom, SNR))
    return found


@pytest.fixture(scope="module")
def cases(subjects):
    return {name: study_case(*subject) for name, subject in subjects.items()}


def run(subject, start=None, settings=SETTINGS):
    signals, mask, sigma = subject
    return estimate(
        signals,
        mask,
        BVALS,
        noise=np.full(BVALS.size, sigma),
        sigma=sigma,
        settings=settings,
        start=start,
    )


def same(one: StudyNetwork, other: StudyNetwork) -> bool:
    return one.digest() == other.digest() and one.losses == other.losses and one.runs == other.runs


def test_the_network_is_reproducible_and_does_not_depend_on_the_order_of_the_cases(cases):
    first = train_study(cases, BVALS, settings=SETTINGS)
    torch.manual_seed(5)
    again = train_study(dict(reversed(cases.items())), BVALS, settings=SETTINGS)
    assert same(first, again)
    assert first.runs == ("sub-0", "sub-1", "sub-2")
    assert first.fits([0, 20, 81, 300, 700]) and not first.fits([0, 20, 80, 300])


def test_the_seed_and_every_case_count(cases):
    first = train_study(cases, BVALS, settings=SETTINGS)
    fewer = {name: case for name, case in cases.items() if name != "sub-2"}
    assert not same(first, train_study(fewer, BVALS, settings=SETTINGS))
    other = EstimationSettings(**{**vars(SETTINGS), "random_seed": 1})
    assert not same(first, train_study(cases, BVALS, settings=other))


def test_an_epoch_visits_every_slice_of_every_case_once(cases, monkeypatch):
    visited = []
    original = Trainer.train_epoch

    def train_epoch(self, data, *signals):
        visited.append(data.signals.sum().item())
        return original(self, data, *signals)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    network = train_study(cases, BVALS, settings=SETTINGS)
    slices = sorted(values.sum().item() for case in cases.values() for values in case.signals)
    epochs = np.array(visited).reshape(len(network.losses), len(slices))
    assert all(sorted(epoch) == pytest.approx(slices) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_small_batches_are_filled_from_several_slices(cases):
    wide = EstimationSettings(**{**vars(SETTINGS), "batch_size": 2})
    network = train_study(cases, BVALS, settings=wide)
    assert network.batch_size == 2
    pieces = study_module._pieces(cases, study_module.Attempt("cpu", 2))
    assert [len(piece.mask) for piece in pieces] == [2, 1, 2]


@pytest.mark.parametrize("method", ["si-cnn", "di-cnn", "cnn"])
def test_a_run_starts_from_the_network(subjects, cases, method):
    network = train_study(cases, BVALS, settings=SETTINGS)
    chosen = EstimationSettings(method=method, max_iterations=1)
    alone, refined = run(subjects["sub-0"], settings=chosen), run(subjects["sub-0"], network, chosen)
    assert refined.losses[0][2] < 0.7 * alone.losses[0][2]
    assert alone.parameters["training_scope"] == "subject" and "study_runs" not in alone.parameters
    assert refined.parameters["training_scope"] == "study"
    assert refined.parameters["study_run_names"] == ["sub-0", "sub-1", "sub-2"]
    assert refined.parameters["study_runs"] == 3
    assert refined.parameters["study_epochs"] == len(network.losses)
    assert refined.parameters["study_loss"] == pytest.approx(min(network.losses), rel=0.2)


def test_a_network_is_the_same_after_a_file(tmp_path, subjects, cases):
    network = train_study(cases, BVALS, settings=SETTINGS)
    write_state(tmp_path / "n", "key", network.state())
    again = StudyNetwork.from_state(read_state(tmp_path / "n", "key"))
    assert same(network, again) and vars(network).keys() == vars(again).keys()
    one, two = run(subjects["sub-1"], network), run(subjects["sub-1"], again)
    assert one.parameters == two.parameters
    for label in one.maps:
        np.testing.assert_array_equal(one.maps[label], two.maps[label])


class Stop(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("stop", [1, 7, 15])
def test_an_interrupted_training_goes_on_to_the_same_network(tmp_path, cases, monkeypatch, stop):
    expected = train_study(cases, BVALS, settings=SETTINGS)
    train_epoch, count = study_module._train_epoch, []

    def stopped(*arguments):
        count.append(1)
        if len(count) > stop:
            raise Stop
        return train_epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "_train_epoch", stopped)
        with pytest.raises(Stop):
            train_study(cases, BVALS, settings=SETTINGS, checkpoint=TrainingCheckpoint(tmp_path / "c", "key"))
    said = []
    resumed = train_study(
        cases,
        BVALS,
        settings=SETTINGS,
        checkpoint=TrainingCheckpoint(tmp_path / "c", "key"),
        progress=lambda text, *_: said.append(text),
    )
    half = iterate.MIN_EPOCHS // 2
    assert (said[0] == f"resumed after {stop // half * half} epochs") == (stop >= half)
    assert same(resumed, expected)


def test_a_checkpoint_of_other_runs_is_not_used(tmp_path, cases):
    checkpoint = TrainingCheckpoint(tmp_path / "c", "key")
    train_study(cases, BVALS, settings=SETTINGS, checkpoint=checkpoint)
    fewer = {name: case for name, case in cases.items() if name != "sub-2"}
    said = []
    train_study(
        fewer, BVALS, settings=SETTINGS, checkpoint=checkpoint, progress=lambda text, *_: said.append(text)
    )
    assert not any("resumed" in text for text in said)


def test_smaller_tiles_follow_when_memory_runs_out(cases, monkeypatch):
    original = Trainer.train_epoch

    def train_epoch(self, data, *signals):
        if self.batch_size > 1:
            raise MemoryError
        return original(self, data, *signals)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    wide = EstimationSettings(**{**vars(SETTINGS), "batch_size": 2})
    network = train_study(cases, BVALS, settings=wide)
    assert network.batch_size == 1
    assert len(network.out_of_memory) == 1 and "ran out of memory" in network.out_of_memory[0]


def test_the_whitening_of_several_cases_is_that_of_all_their_voxels(cases):
    pairs = [(case.signals, case.weight) for case in cases.values()]
    found = Whitening.of_several(pairs)
    voxels = [signals.movedim(1, -1)[weight > 0] for signals, weight in pairs]
    weights = [weight[weight > 0] for _, weight in pairs]
    expected = Whitening.of(torch.cat(voxels).T[None, :, :, None], torch.cat(weights)[None, :, None])
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.matrix.abs(), expected.matrix.abs(), rtol=1e-3, atol=1e-3)
