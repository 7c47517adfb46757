"""Out of memory: smaller batches, smaller tiles, the CPU, a clear stop; limits that are kept beforehand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from app_processes import peak_of_training
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn import estimate as module
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.estimate import estimate, needed_bytes
from sicnn_app.sicnn.memory_fallback import Attempt, ever_smaller, tiles_of, within_limit
from sicnn_app.sicnn.network import IvimNetwork
from sicnn_app.system.checkpoints import TrainingCheckpoint

BVALS = np.array([0, 20, 80, 300, 700.0])
SHAPE = (100, 12, 2)
"""Two tiles of 52 x 12 voxels per slice, or three of 35 x 12."""

SETTINGS = EstimationSettings(max_iterations=1, lambda_=Threshold(0.0, "absolute"), batch_size=4)


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    monkeypatch.setattr(iterate, "MIN_EPOCHS", 2)
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 2)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 2)
    monkeypatch.setattr(iterate, "MAX_FIRST_PERIODS", 2)


def run(chosen: EstimationSettings = SETTINGS, **options) -> Estimate:
    rng = np.random.default_rng(0)
    signals = 500 * np.exp(-BVALS * 0.001) + rng.normal(0, 30, (*SHAPE, BVALS.size))
    return estimate(
        np.abs(signals).astype(np.float32),
        np.ones(SHAPE, dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, 30.0),
        settings=chosen,
        **options,
    )


def small_device(monkeypatch, voxels: int, *, error=torch.OutOfMemoryError, after: int = 0) -> list[int]:
    """Let a training step on more voxels fail, from a number of steps on; returns the sizes of all steps."""
    forward, sizes = IvimNetwork.forward, []

    def limited(self, signals):
        size = signals[:, 0].numel()
        if self.training:
            sizes.append(size)
            if size > voxels and len(sizes) > after:
                raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, signals)

    monkeypatch.setattr(IvimNetwork, "forward", limited)
    return sizes


def assert_equal(one: Estimate, other: Estimate) -> None:
    for label in one.maps:
        np.testing.assert_array_equal(one.maps[label], other.maps[label])
    assert one.losses == other.losses
    assert json.dumps(one.history) == json.dumps(other.history)


def test_enough_memory_gives_nothing_up():
    result = run()
    assert result.parameters["out_of_memory"] == []
    assert (result.parameters["batch_size"], result.parameters["tile_size"]) == (4, 64)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_batches_are_halved(monkeypatch, error):
    expected = run(replace(SETTINGS, batch_size=1))
    said = []
    with monkeypatch.context() as patch:
        sizes = small_device(patch, 700, error=error)
        result = run(progress=lambda text, *_: said.append(text))
    assert_equal(result, expected)
    assert sizes[:3] == [4 * 52 * 12, 2 * 52 * 12, 52 * 12]
    assert result.parameters["batch_size"] == 1 and result.parameters["tile_size"] == 64
    assert result.parameters["out_of_memory"] == [
        "cpu ran out of memory with 4 tiles of 64 x 64 voxels at once",
        "cpu ran out of memory with 2 tiles of 64 x 64 voxels at once",
    ]
    assert any("out of memory" in text and "2 tiles" in text for text in said)


def test_then_tiles_become_smaller(monkeypatch):
    small_device(monkeypatch, 500)
    result = run()
    assert (result.parameters["batch_size"], result.parameters["tile_size"]) == (1, 32)
    assert len(result.parameters["out_of_memory"]) == 3
    assert all(np.isfinite(values).all() for values in result.maps.values())


def test_memory_that_runs_out_late_starts_the_training_anew(monkeypatch, tmp_path):
    expected = run(replace(SETTINGS, batch_size=2))
    small_device(monkeypatch, 2 * 52 * 12, after=3)
    checkpoint = TrainingCheckpoint(tmp_path / "c", "key")
    assert_equal(run(checkpoint=checkpoint), expected)


def test_nothing_left_is_a_clear_stop(monkeypatch):
    small_device(monkeypatch, 0)
    with pytest.raises(TryAgainError, match=r"cpu ran out of memory even with 1 tile of 16 x 16") as caught:
        run()
    assert caught.value.exit_code == 75


def test_other_errors_are_not_mistaken_for_it(monkeypatch):
    def wrong(self, signals):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(IvimNetwork, "forward", wrong)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run()


@pytest.fixture
def full_cuda(monkeypatch):
    """Every training on a CUDA device runs out of memory."""
    train = module._train

    def fails(problem, attempt, *rest):
        if attempt.device.startswith("cuda"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(problem, attempt, *rest)

    monkeypatch.setattr(module, "_train", fails)


def test_the_cpu_takes_over_where_that_was_allowed(full_cuda):
    result = run(device="cuda:0", fall_back=True)
    assert result.device == "cpu"
    assert_equal(result, run())
    assert (result.parameters["batch_size"], result.parameters["tile_size"]) == (4, 64)
    assert len(result.parameters["out_of_memory"]) == 5
    assert all("cuda:0 ran out" in text for text in result.parameters["out_of_memory"])


def test_a_device_that_was_asked_for_is_never_left(full_cuda):
    with pytest.raises(TryAgainError, match=r"cuda:0 ran out of memory.*--device cpu") as caught:
        run(device="cuda:0")
    assert caught.value.exit_code == 75


class Stop(BaseException):
    """The end of a process."""


def test_a_resumed_training_goes_on_with_the_batches_it_had(monkeypatch, tmp_path):
    small_device(monkeypatch, 700)
    expected = run()
    checkpoint = TrainingCheckpoint(tmp_path / "c", "key")

    def stop(text, done, total):
        if text == "data iteration 1":
            raise Stop

    with pytest.raises(Stop):
        run(checkpoint=checkpoint, progress=stop)
    sizes = small_device(monkeypatch, 700)
    result = run(checkpoint=TrainingCheckpoint(tmp_path / "c", "key"))
    assert_equal(result, expected)
    assert result.parameters == expected.parameters
    assert set(sizes) == {52 * 12}


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(1, 30)), batch=st.integers(1, 100)
)
def test_every_attempt_takes_less_than_the_one_before(shape, batch):
    first = Attempt("cpu", batch)
    chosen = EstimationSettings(batch_size=batch)
    attempts = list(ever_smaller(first, shape))
    needs = [needed_bytes(shape, 12, chosen, attempt=attempt) for attempt in attempts]
    assert needs == sorted(needs, reverse=True)
    assert attempts[-1].batch_size == 1 or tiles_of(shape, 64) == 1
    assert needed_bytes(shape, 12, chosen) == needs[0]
    for attempt, need in zip(attempts, needs, strict=True):
        found = within_limit(first, shape, 12, chosen, need)
        assert needed_bytes(shape, 12, chosen, attempt=found) <= need
        assert attempts.index(found) <= attempts.index(attempt)


def test_a_limit_makes_batches_smaller_beforehand_and_is_told(monkeypatch):
    expected = run(replace(SETTINGS, batch_size=2))
    limit = needed_bytes(SHAPE, BVALS.size, replace(SETTINGS, batch_size=2))
    sizes = small_device(monkeypatch, 10**9)
    result = run(memory_limit=limit)
    assert_equal(result, expected)
    assert max(sizes) == 2 * 52 * 12
    assert result.parameters["batch_size"] == 2
    (text,) = result.parameters["out_of_memory"]
    assert "2 tiles" in text and "instead of 4 tiles" in text


def test_a_limit_that_is_too_low_is_told_with_numbers():
    with pytest.raises(TryAgainError, match=r"at least about 0\.\d+ GB.*0\.03 are left.*--mem") as caught:
        run(memory_limit=30_000_000)
    assert caught.value.exit_code == 75


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not re.search("VmHWM", Path("/proc/self/status").read_text()),
    reason="the system does not tell the peak of a process",
)
@pytest.mark.parametrize(
    ("shape", "count", "options"),
    [
        ((64, 64, 8), 16, {"batch_size": 8}),
        ((64, 64, 8), 12, {"ensemble": 5}),
        pytest.param((128, 128, 24), 12, {}, marks=pytest.mark.slow),
        pytest.param((128, 128, 10), 48, {}, marks=pytest.mark.slow),
        pytest.param((400, 400, 1), 12, {}, marks=pytest.mark.slow),
        pytest.param((64, 64, 25), 12, {"batch_size": 25}, marks=pytest.mark.slow),
        pytest.param((64, 64, 25), 24, {"batch_size": 8, "rician": True}, marks=pytest.mark.slow),
        pytest.param((8, 8, 1), 4, {}, marks=pytest.mark.slow),
    ],
)
def test_the_need_is_that_of_a_measured_process(shape, count, options):
    peak = peak_of_training(shape, count, **options)
    need = needed_bytes(shape, count, EstimationSettings(**options))
    assert 0.7 * need <= peak <= 1.15 * need, (peak, need)
