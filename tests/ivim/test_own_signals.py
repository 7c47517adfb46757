"""What a voxel's own signals say against maps: rates of false alarms, and what is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.own_signals import FALSE_ALARMS, objections
from sicnn_app.ivim.signal import ivim_signal, ivim_signal_maps

BVALS = np.array([0, 10, 20, 40, 60, 80, 100, 150, 200, 300, 450, 600], dtype=float)
SHAPE = (100, 100, 2)
MASK = np.ones(SHAPE, dtype=bool)
TISSUE = {"f": 0.2, "d": 0.0012, "dstar": 0.03, "s0": 500.0}


def maps_of(**changed: float) -> dict[str, np.ndarray]:
    return {label: np.full(SHAPE, value) for label, value in {**TISSUE, **changed}.items()}


def signals_of(sigma: float, seed: int = 0, **changed: float) -> np.ndarray:
    clean = ivim_signal_maps(BVALS, *maps_of(**changed).values())
    return clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)


@pytest.mark.parametrize("f", [0.2, 0.0])
def test_true_maps_are_objected_to_as_often_as_it_says(f):
    sigma = np.linspace(10, 40, BVALS.size)
    signals = ivim_signal_maps(BVALS, *maps_of(f=f).values())
    signals = signals + sigma * np.random.default_rng(1).standard_normal(signals.shape)
    found = objections(signals, sigma, BVALS, maps_of(f=f), MASK)
    for one in found:
        # Residuals of true values have four degrees of freedom more than those of fitted ones.
        assert one.mean() < 25 * FALSE_ALARMS
    # Where F is 0 there are three unknowns.
    assert FALSE_ALARMS / 5 < found.other_values.mean() < 1.6 * FALSE_ALARMS


def test_tissue_that_the_maps_miss_is_found_and_ordinary_tissue_is_not():
    found = objections(signals_of(12.0, f=0.35, d=0.0018), np.full(BVALS.size, 12.0), BVALS, maps_of(), MASK)
    assert found.other_values.mean() > 0.8


def test_a_decay_that_is_not_bi_exponential_is_found():
    signals = signals_of(5.0)
    signals[..., 6] += 50.0
    found = objections(signals, np.full(BVALS.size, 5.0), BVALS, maps_of(), MASK)
    assert found.not_described.mean() > 0.95


def test_without_b_values_to_spare_or_noise_nobody_objects():
    few = BVALS[[0, 3, 8, 11]]
    signals = 2 * ivim_signal(few, 0.2, 0.001, 0.05, 500.0) * np.ones((*SHAPE, 1))
    assert not objections(signals, np.ones(4), few, maps_of(), MASK).not_described.any()
    for one in objections(signals_of(5.0), np.zeros(BVALS.size), BVALS, maps_of(f=0.5), MASK):
        assert not one.any()


@settings(max_examples=60, deadline=None)
@given(
    f=st.floats(0, 1),
    d=st.floats(0, 0.005),
    dstar=st.floats(0.005, 0.2),
    s0=st.floats(0, 1e6),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
)
def test_any_maps_in_any_unit_get_an_answer(f, d, dstar, s0, scale):
    mask = np.zeros((2, 2, 1), dtype=bool)
    mask[0] = True
    maps = {
        label: np.where(mask, value, np.nan)
        for label, value in {"f": f, "d": d, "dstar": dstar, "s0": s0 * scale}.items()
    }
    signals = 500 * scale * np.exp(-0.001 * BVALS) * np.ones((2, 2, 1, 1))
    for one in objections(signals, np.full(BVALS.size, 5.0 * scale), BVALS, maps, mask):
        assert one.dtype == bool and not one[1].any()
