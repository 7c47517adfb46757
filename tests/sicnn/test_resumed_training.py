"""An interrupted and resumed training gives, bit for bit, the result of one that was not interrupted."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.estimate import estimate
from sicnn_app.sicnn.train import Trainer
from sicnn_app.system.checkpoints import TrainingCheckpoint

BVALS = np.array([0, 20, 80, 300, 700.0])
SIGMA = 40.0

METHODS = {
    "si-cnn": EstimationSettings(
        max_iterations=2, lambda_=Threshold(0.0, "absolute"), dropout=0.05, delta=0.3
    ),
    "si-cnn noisy input": EstimationSettings(
        max_iterations=1, lambda_=Threshold(0.0, "absolute"), network_input="noisy", rician=True
    ),
    "di-cnn": EstimationSettings(
        method="di-cnn", max_iterations=1, lambda_=Threshold(0.0, "absolute"), batch_size=2
    ),
    "cnn": EstimationSettings(method="cnn", epochs=25, dropout=0.1),
    "ensemble": EstimationSettings(
        max_iterations=1, lambda_=Threshold(0.0, "absolute"), dropout=0.05, ensemble=2
    ),
}


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    """Few epochs, but several periods and data iterations to be interrupted in."""
    shorten(monkeypatch.setattr)


def shorten(setattr_) -> None:
    setattr_(iterate, "MIN_EPOCHS", 4)
    setattr_(iterate, "FIRST_PERIOD_STEPS", 10)
    setattr_(iterate, "PERIOD_STEPS", 6)
    setattr_(iterate, "MAX_FIRST_PERIODS", 2)


class Stop(BaseException):
    """The end of a process."""


class Stopping(TrainingCheckpoint):
    """Notes what is saved and after how many epochs; ends the process in an epoch of the training."""

    def __init__(self, path: Path, *, stop: int | None = None, key: str = "key") -> None:
        super().__init__(path, key)
        self.saved: list[int] = []
        self.epochs, self.stop = 0, stop

    def save(self, state) -> None:
        super().save(state)
        self.saved.append(state["training"]["trainer"]["epochs_done"])

    def watched(self, train_epoch):
        """A way to train one epoch, stopped before the one after ``stop``."""

        def epoch(*arguments):
            if self.epochs == self.stop:
                raise Stop
            self.epochs += 1
            return train_epoch(*arguments)

        return epoch


@functools.cache
def signals() -> np.ndarray:
    """One slice that is cut into two tiles."""
    shape = (100, 4, 1)
    rng = np.random.default_rng(0)
    clean = 500 * ivim_signal_maps(
        BVALS, rng.uniform(0.1, 0.3, shape), np.full(shape, 0.0012), np.full(shape, 0.03)
    )
    return np.abs(clean + rng.normal(0, SIGMA, clean.shape)).astype(np.float32)


def run(chosen: EstimationSettings, checkpoint=None, said: list | None = None, data=None) -> Estimate:
    data = signals() if data is None else data
    with pytest.MonkeyPatch.context() as patch:
        if checkpoint is not None:
            patch.setattr(Trainer, "train_epoch", checkpoint.watched(Trainer.train_epoch))
        return estimate(
            data,
            np.ones(data.shape[:3], dtype=bool),
            BVALS,
            noise=np.full(BVALS.size, SIGMA),
            settings=chosen,
            checkpoint=checkpoint,
            progress=None if said is None else lambda text, *_: said.append(text),
        )


@functools.cache
def uninterrupted(name: str) -> tuple[bytes, int]:
    """What a training gives that nothing interrupts, and after how many epochs."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        result = run(METHODS[name])
    return as_bytes(result), len(result.losses)


def as_bytes(result: Estimate) -> bytes:
    """Everything in an estimate that ends in a file."""
    arrays = [*result.maps.values(), result.predicted]
    if result.neighbour_count is not None:
        arrays.append(result.neighbour_count)
    rest = [result.history, result.losses, result.parameters, result.algorithm, result.device]
    return b"".join(array.tobytes() for array in arrays) + json.dumps(rest).encode()


def interrupt(chosen: EstimationSettings, checkpoint: Stopping) -> None:
    torch.manual_seed(np.random.SeedSequence().entropy % 2**31)
    with pytest.raises(Stop):
        run(chosen, checkpoint)


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_changes_nothing(tmp_path, name):
    expected, epochs = uninterrupted(name)
    checkpoint, said = Stopping(tmp_path / "c"), []
    assert as_bytes(run(METHODS[name], checkpoint, said)) == expected
    assert checkpoint.epochs == epochs
    assert not any("resumed" in text for text in said)


def saved_after(name: str, epochs: int) -> int:
    """Epochs after which the last state was saved that a process leaves which ends after so many."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        return max((end for end in ends_of_iterations(name) if end <= epochs), default=0)


@functools.cache
def ends_of_iterations(name: str) -> tuple[int, ...]:
    """Epochs after which another data iteration begins, or of cnn another period."""
    if name == "cnn":
        # A period: the least number of epochs, or those of the fewest steps.
        return (4, 8, 12, 16, 20, 24, 25)
    history = run(METHODS[name]).history[:-1]
    return tuple(np.cumsum([row["epochs"] for row in history]).tolist())


@settings(max_examples=4, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", METHODS)
def test_resuming_after_any_epoch_gives_the_same_bits(tmp_path_factory, name, data):
    expected, epochs = uninterrupted(name)
    path = tmp_path_factory.mktemp("resume") / "c"
    stop = data.draw(st.integers(1, epochs - 1), label="stopped after epoch")
    interrupt(METHODS[name], Stopping(path, stop=stop))
    done = saved_after(name, stop)
    again = data.draw(st.none() | st.integers(1, epochs), label="stopped a second time")
    if again is not None and again < epochs - done:
        interrupt(METHODS[name], Stopping(path, stop=again))
        done = saved_after(name, done + again)
    checkpoint, said = Stopping(path), []
    assert as_bytes(run(METHODS[name], checkpoint, said)) == expected
    assert (said[0] == f"resumed after {done} epochs") == (done > 0)
    assert checkpoint.epochs == epochs - done


@pytest.mark.parametrize("name", METHODS)
def test_resuming_after_every_data_iteration_gives_the_same_bits(tmp_path, name):
    expected, epochs = uninterrupted(name)
    for end in ends_of_iterations(name):
        path = tmp_path / f"c{end}"
        if end < epochs:
            interrupt(METHODS[name], Stopping(path, stop=end))
            checkpoint = Stopping(path)
            assert as_bytes(run(METHODS[name], checkpoint)) == expected, end
            assert checkpoint.epochs == epochs - end


@pytest.mark.parametrize("name", METHODS)
def test_a_state_is_saved_once_per_data_iteration(tmp_path, name):
    checkpoint = Stopping(tmp_path / "c")
    run(METHODS[name], checkpoint)
    assert tuple(checkpoint.saved) == ends_of_iterations(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_resuming_after_every_single_epoch_gives_the_same_bits(tmp_path, name):
    expected, epochs = uninterrupted(name)
    for stop in range(1, epochs):
        path = tmp_path / f"c{stop}"
        interrupt(METHODS[name], Stopping(path, stop=stop))
        assert as_bytes(run(METHODS[name], Stopping(path))) == expected, stop


def test_the_trainings_of_these_tests_have_periods_and_iterations_to_stop_in():
    result = run(METHODS["si-cnn"])
    assert len(result.history) == 3 and all(row["epochs"] >= 4 for row in result.history)
    assert any(row["epochs"] > 5 for row in result.history), "no training with more than one period"


@pytest.mark.parametrize("other", ["seed", "data", "batch", "method", "threads"])
def test_the_state_of_another_training_is_not_used(tmp_path, other):
    expected, epochs = uninterrupted("si-cnn")
    chosen = METHODS["si-cnn"]
    options = {"seed": {"random_seed": 7}, "batch": {"batch_size": 2}, "method": {"network_input": "noisy"}}
    foreign = EstimationSettings(**{**vars(chosen), **options.get(other, {})})
    path, before = tmp_path / "c", torch.get_num_threads()
    with pytest.raises(Stop):
        torch.set_num_threads(before + (other == "threads"))
        try:
            run(
                foreign,
                Stopping(path, stop=21 if other == "batch" else 14),
                data=signals() * 2 if other == "data" else None,
            )
        finally:
            torch.set_num_threads(before)
    checkpoint = Stopping(path)
    assert checkpoint.load() is not None
    assert as_bytes(run(chosen, checkpoint)) == expected
    assert checkpoint.epochs == epochs


def test_a_damaged_file_starts_anew(tmp_path):
    expected, epochs = uninterrupted("cnn")
    path = tmp_path / "c"
    interrupt(METHODS["cnn"], Stopping(path, stop=9))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    checkpoint = Stopping(path)
    assert as_bytes(run(METHODS["cnn"], checkpoint)) == expected
    assert checkpoint.epochs == epochs
