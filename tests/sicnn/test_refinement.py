"""The refinement as a whole: two priors, similar voxels, every voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.series import Evidence
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import DEFAULT_BVALS
from sicnn_app.settings import Bounds, EstimationSettings
from sicnn_app.sicnn.refinement import refined, refined_maps
from sicnn_app.sicnn.surroundings import Surroundings

BVALS = np.array(DEFAULT_BVALS["abdomen"], dtype=np.float64)
SHAPE = (30, 28, 1)
MASK = np.ones(SHAPE, dtype=bool)
MASK[:4, :6] = False
SIGMA = 20.0
INSIDE = np.zeros(SHAPE, dtype=bool)
INSIDE[12:17, 10:15] = True


def truth() -> dict[str, np.ndarray]:
    """Fluid of 25 voxels in tissue."""
    return {
        "f": np.where(INSIDE, 0.02, 0.15),
        "d": np.where(INSIDE, 0.0027, 0.0010),
        "dstar": np.full(SHAPE, 0.02),
        "s0": np.full(SHAPE, 400.0),
    }


def measured(sigma: float = SIGMA) -> np.ndarray:
    maps = truth()
    signals = ivim_signal_maps(BVALS, *(maps[label][MASK] for label in maps))
    volume = np.zeros((*SHAPE, BVALS.size), dtype=np.float32)
    volume[MASK] = signals + sigma * np.random.default_rng(1).standard_normal(signals.shape)
    return volume


def smooth_network(signals: np.ndarray) -> Estimate:
    """A network that takes the fluid for perfused."""
    of = {**truth(), "f": np.where(INSIDE, 0.12, 0.15), "d": np.where(INSIDE, 0.0024, 0.0010)}
    maps = {label: np.where(MASK, value, np.nan).astype(np.float32) for label, value in of.items()}
    maps["rmse"] = np.where(MASK, 0.1, np.nan).astype(np.float32)
    count = np.where(MASK, 30, 0).astype(np.int32)
    return Estimate(maps, np.zeros_like(signals), [], {}, "a network", neighbour_count=count)


def refinement(signals: np.ndarray, sigma: float = SIGMA, **options) -> Estimate:
    noise = np.full(BVALS.size, sigma)
    return refined_maps(
        smooth_network(signals),
        signals,
        MASK,
        BVALS,
        noise,
        sigma,
        settings=EstimationSettings(),
        evidence=Evidence(signals, noise, "the same signals"),
        **options,
    )


def error(found: Estimate, label: str) -> float:
    return float(np.sqrt(np.mean((found.maps[label] - truth()[label])[MASK] ** 2)))


def test_fluid_that_the_network_took_for_perfused_is_found_by_the_second_prior():
    signals = measured()
    both = refinement(signals)
    noise = np.full(BVALS.size, SIGMA)
    evidence = Evidence(signals, noise, "the same signals")
    alone = refined(smooth_network(signals), signals, MASK, BVALS, evidence, bounds=Bounds())
    assert error(both, "f") < 0.8 * error(alone, "f")
    assert np.median(alone.maps["f"][INSIDE]) > 0.08
    assert np.median(both.maps["f"][INSIDE]) < 0.05
    assert (both.prior["f"][INSIDE] < 0.06).mean() > 0.9
    assert "one tissue everywhere" in both.parameters["refinement_prior"]


@pytest.mark.parametrize("sigma", [1e-6, 1.0])
def test_signals_with_hardly_any_noise_are_refined_to_the_truth(sigma):
    found = refinement(measured(sigma), sigma)
    for label, limit in (("f", 0.01), ("d", 3e-5), ("dstar", 0.003)):
        assert np.isfinite(found.maps[label][MASK]).all()
        assert error(found, label) < limit, label


def test_progress_goes_from_the_first_round_to_the_last_once():
    told = []
    refinement(measured(), progress=lambda label, done, total: told.append((label, done, total)))
    assert {label for label, _, _ in told} == {"refinement"}
    assert [done for _, done, _ in told] == list(range(1, told[-1][2] + 1))


@given(st.integers(0, 2**32 - 1), st.floats(0.7, 4.0), st.booleans())
@settings(max_examples=25, deadline=None)
def test_means_around_voxels_lie_between_the_values_they_are_of(seed, width, everywhere):
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 11, 2)) < 0.7
    mask[0, 0, 0] = True
    around = Surroundings(mask)
    values = rng.standard_normal((len(around.sample), 2))
    mean = around.mean(values, width, everywhere=everywhere)
    assert (mean <= values.max(axis=0) + 1e-5).all() and (mean >= values.min(axis=0) - 1e-5).all()
    alike = around.mean(np.full_like(values, 3.0), width, everywhere=everywhere)
    np.testing.assert_allclose(alike, 3.0, rtol=1e-4)


def test_a_sample_shows_what_lies_between_its_voxels(monkeypatch):
    mask = np.ones((24, 20, 2), dtype=bool)
    mask[:5, :3] = False
    whole = Surroundings(mask)
    monkeypatch.setattr("sicnn_app.sicnn.surroundings.SAMPLED_FROM", 1)
    part = Surroundings(mask)
    assert (whole.every, part.every) == (1, 2)
    x = np.argwhere(mask)[:, :1].astype(float)
    found = part.mean(x[part.sample], 2.5, everywhere=True)
    np.testing.assert_allclose(found, whole.mean(x, 2.5), atol=0.6)
