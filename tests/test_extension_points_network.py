"""A deeper, wider or wider-seeing network is set in one place: tiles and the memory plan follow its shape."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from app_processes import peak_of_training

from sicnn_app.settings import EstimationSettings, NetworkSettings
from sicnn_app.sicnn import iterate, memory_fallback
from sicnn_app.sicnn.estimate import build_trainer, estimate, needed_bytes
from sicnn_app.sicnn.memory_fallback import Attempt
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig
from sicnn_app.sicnn.tiles import cut_tiles, tile_gap
from sicnn_app.sicnn.train import TrainingData
from sicnn_app.sicnn.whitening import Whitening

SHAPES = [
    NetworkSettings(),
    NetworkSettings(depth=5, kernel_size=5),
    NetworkSettings(depth=8, width=16),
    NetworkSettings(depth=4, kernel_size=1),
]
BVALS = np.array([0, 20, 80, 300, 700.0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gap_is_wider_than_the_kernels_reach(shape):
    network = IvimNetwork(NetworkConfig(BVALS.size, shape)).eval()
    signals = torch.zeros(1, BVALS.size, 81, 1, requires_grad=True)
    network(signals).f[0, 40, 0].backward()
    seen = torch.nonzero(signals.grad.abs().sum(dim=(0, 1, 3))).flatten()
    assert len(seen) > 0 and int((seen - 40).abs().max()) < tile_gap(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_ends_of_a_shifted_slice_do_not_see_each_other(shape):
    network = IvimNetwork(NetworkConfig(BVALS.size, shape)).eval()
    length = 130
    noisy = torch.rand(1, BVALS.size, length, 3, generator=torch.Generator().manual_seed(1))
    changed = noisy.clone()
    changed[:, :, length // 2 :] += 1.0
    # The first half is told from the rest by its place in the tiles.
    first = torch.zeros(1, 1, length, 3)
    first[:, :, : length // 4] = 1.0
    for shift in range(0, length, 7):
        before, after, quarter = (
            cut_tiles(values, [shift, 0], 64, tile_gap(shape)) for values in (noisy, changed, first)
        )
        with torch.no_grad():
            difference = (network(before).d - network(after).d).abs()
        assert float((difference * quarter[:, 0]).max()) == 0.0, shift


def data_of(shape: tuple[int, int, int]) -> TrainingData:
    """Slices of uniform tissue with noise, (slices, X, Y)."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.exp(-torch.tensor(BVALS, dtype=torch.float32) * 1e-3)[None, :, None, None]
    signals = decay + 0.05 * torch.randn(shape[0], BVALS.size, *shape[1:], generator=generator)
    ones = torch.ones(shape)
    return TrainingData(signals, ones.bool(), ones, 0.05 * ones, 0.05 * torch.ones_like(signals), ones)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prediction_is_that_of_the_whole_slice_whatever_the_tiles(shape):
    data = data_of((2, 90, 40))
    found = []
    for tile_size in (64, 16):
        torch.manual_seed(3)
        trainer = build_trainer(
            torch.tensor(BVALS, dtype=torch.float32),
            torch.ones(BVALS.size),
            Whitening.of(data.signals, data.weight),
            EstimationSettings(network=shape),
            Attempt("cpu", 1, tile_size),
        )
        found.append(trainer.predict(data, data.signals)[1])
    assert torch.equal(*found)


def test_a_run_trains_a_network_of_another_shape(monkeypatch):
    for name, value in {"FIRST_PERIOD_STEPS": 20, "PERIOD_STEPS": 10, "MIN_EPOCHS": 4}.items():
        monkeypatch.setattr(iterate, name, value)
    signals = np.ascontiguousarray(500 * data_of((1, 100, 20)).signals.permute(2, 3, 0, 1).numpy())
    chosen = EstimationSettings(max_iterations=1, network=NetworkSettings(depth=5, kernel_size=5))
    result = estimate(
        signals,
        np.ones(signals.shape[:3], dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, 25.0),
        settings=chosen,
    )
    assert result.parameters["network_depth"] == result.parameters["kernel_size"] == 5
    assert all(np.isfinite(values).all() for values in result.maps.values())


@pytest.mark.parametrize("more", [{"width": 64}, {"depth": 6}, {"kernel_size": 7}])
def test_the_memory_plan_grows_with_the_network(more):
    usual = EstimationSettings(batch_size=4)
    larger = replace(usual, network=NetworkSettings(**more))
    assert needed_bytes((128, 128, 4), 8, larger) > needed_bytes((128, 128, 4), 8, usual)


def test_another_default_shape_does_not_change_what_a_shape_takes(monkeypatch):
    shape, deeper = (128, 128, 4), EstimationSettings(network=NetworkSettings(depth=5, kernel_size=5))
    monkeypatch.setattr(NetworkSettings.__init__, "__defaults__", (32, 5, 5, "none"))
    assert NetworkSettings() == deeper.network
    plan = ModuleType("plan_of_another_default")
    monkeypatch.setitem(sys.modules, plan.__name__, plan)
    exec(Path(memory_fallback.__file__).read_text(encoding="utf-8"), vars(plan))
    assert plan.needed_bytes(shape, 8, deeper) == needed_bytes(shape, 8, deeper)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not re.search("VmHWM", Path("/proc/self/status").read_text()),
    reason="the system does not tell the peak of a process",
)
@pytest.mark.parametrize(
    "shape", [NetworkSettings(depth=5, kernel_size=5), NetworkSettings(width=96, depth=4)]
)
def test_a_larger_network_stays_within_the_plan(shape):
    peak = peak_of_training((128, 128, 4), 8, batch_size=8, network=asdict(shape))
    need = needed_bytes((128, 128, 4), 8, EstimationSettings(batch_size=8, network=shape))
    assert 0.6 * need <= peak <= need, (peak, need)
