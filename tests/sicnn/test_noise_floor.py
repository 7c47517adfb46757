"""The mean of Rician magnitudes and its inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings, SimilaritySettings
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.noise_floor import rician_mean, without_floor
from sicnn_app.sicnn.rewrite import FLOOR_LIMIT, neighbour_mean
from sicnn_app.sicnn.train import TrainingData

NOISE_ALONE = math.sqrt(math.pi / 2)


@given(st.floats(0.05, 1000.0))
def test_the_inverse_undoes_the_mean(signal):
    mean = rician_mean(torch.tensor([signal], dtype=torch.float64))
    # The table is linear between its nodes; far above it sqrt(mean^2 - 1) takes over.
    assert without_floor(mean).item() == pytest.approx(signal, abs=2e-4)


@given(st.floats(0.0, 50.0), st.floats(0.0, 50.0))
def test_mean_and_inverse_keep_the_order(one, other):
    low, high = sorted((one, other))
    both = torch.tensor([low, high], dtype=torch.float64)
    for function in (rician_mean, without_floor):
        first, second = function(both).tolist()
        assert first <= second


def test_means_of_noise_alone_hold_no_signal():
    assert rician_mean(torch.zeros(1)).item() == pytest.approx(NOISE_ALONE, abs=1e-6)
    assert without_floor(torch.tensor([0.0, 1.0, NOISE_ALONE])).tolist() == pytest.approx([0, 0, 0], abs=1e-3)


@pytest.mark.parametrize("signal", [0.5, 2.0, 10.0])
def test_the_mean_is_that_of_drawn_magnitudes(signal):
    rng = np.random.default_rng(0)
    drawn = np.hypot(signal + rng.standard_normal(200_000), rng.standard_normal(200_000))
    error = 4 * drawn.std() / math.sqrt(drawn.size)
    assert rician_mean(torch.tensor(signal)).item() == pytest.approx(drawn.mean(), abs=error)


def neighbours_of_one_tissue(
    s0: float, noise_floor: bool, *, radius: int = 4, threshold: float = 10.0
) -> float:
    """Mean difference of the replacement from the clean signal at the highest b-value, in units of sigma."""
    bvals = torch.tensor([0.0, 20.0, 80.0, 200.0, 400.0, 800.0])
    shape = (1, 40, 40)
    curve = ivim_signal_torch(bvals, 0.1, 0.0015, 0.03)[None, :, None, None].expand(1, 6, 40, 40)
    generator = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn((2, 1, 6, 40, 40), generator=generator)
    observed = torch.sqrt((s0 * curve + real).square() + imaginary.square())
    normaliser = observed[:, 0]
    data = TrainingData(
        signals=observed / normaliser[:, None],
        mask=torch.ones(shape, dtype=torch.bool),
        normaliser=normaliser,
        sigma=1.0 / normaliser,
        noise=(1.0 / normaliser)[:, None].expand_as(observed),
        weight=torch.ones(shape),
    )
    truth = Parameters(*(torch.full(shape, value) for value in (0.1, 0.0015, 0.03)), s0=s0 / normaliser)
    means, *_ = neighbour_mean(
        truth,
        data,
        bvals,
        torch.full(shape, threshold),
        torch.ones(len(bvals)),
        EstimationSettings(
            neighbour_radius=radius,
            similarity=SimilaritySettings(weighting="equal", s0_ratio=None),
            rician=noise_floor,
        ),
    )
    found = means[:, -1] * normaliser
    return float((found - s0 * curve[:, -1]).mean())


def test_the_floor_comes_off_the_means_of_neighbours():
    with_floor, without = (neighbours_of_one_tissue(6.0, floor) for floor in (False, True))
    assert with_floor > 0.15
    # Four standard errors of the mean of 40 x 40 voxels.
    assert abs(without) < 4 / 40


def test_voxels_as_dark_as_the_noise_keep_their_floor():
    dark = FLOOR_LIMIT - 0.5
    assert neighbours_of_one_tissue(dark, True) == neighbours_of_one_tissue(dark, False)


def test_the_floor_stays_where_a_voxel_is_nearly_alone():
    assert neighbours_of_one_tissue(6.0, True, radius=1) != neighbours_of_one_tissue(6.0, False, radius=1)
    alone = [neighbours_of_one_tissue(6.0, floor, radius=4, threshold=0.0) for floor in (True, False)]
    assert alone[0] == alone[1]
