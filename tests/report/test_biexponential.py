"""The fit in the page of single voxels is that of the app."""

from __future__ import annotations

import subprocess
from dataclasses import asdict

import numpy as np
import pytest
from voxel_pages import PROGRAM, fits_of_the_page, needs_node

from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.lsq.fit import DEFAULT_BOUNDS
from sicnn_app.settings import Bounds

NARROW = Bounds(f=(0.05, 0.3), d=(5e-4, 2e-3), dstar=(0.01, 0.1), s0=(0.9, 1.1))
SCHEMES = (
    [0, 10, 20, 30, 50, 80, 100, 200, 400, 600, 800],
    [10, 50, 150, 400, 800],
    [0, 25, 50, 100, 250, 500],
)

pytestmark = needs_node


def decays(scheme: list[int], count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Of any tissue, with noise from hardly any to a lot: b-values, signals, stated noise, volumes."""
    rng = np.random.default_rng(seed)
    bvals, volumes = np.array(scheme, dtype=float), rng.integers(1, 7, len(scheme))
    f, s0 = rng.uniform(0, 0.6, count), rng.uniform(50, 500, count)
    d, dstar = 10 ** rng.uniform(-4, -2.4, count), 10 ** rng.uniform(-2, -0.8, count)
    size = (count, bvals.size)
    noise = rng.normal(0, 1, size) * (s0 / rng.choice([10, 30, 100, 1000], count))[:, None]
    sigma = (s0 / rng.choice([10, 30, 100], count))[:, None] * rng.uniform(0.7, 1.3, size) / np.sqrt(volumes)
    return bvals, ivim_signal_maps(bvals, f, d, dstar, s0) + noise, sigma, volumes


@pytest.mark.parametrize("known", [True, False], ids=["noise known", "no noise"])
@pytest.mark.parametrize("bounds", [DEFAULT_BOUNDS, NARROW], ids=["bounds of the app", "narrow bounds"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=len)
def test_both_find_the_same_within_a_thousandth(scheme, bounds, known):
    bvals, signals, sigma, volumes = decays(scheme, 25)
    sigma = sigma * known
    # Each in a slice of its own: the app draws on the surroundings in the slice for its weights.
    maps = estimate_lsq(
        signals[None, None].astype(np.float32),
        np.ones((1, 1, len(signals)), dtype=bool),
        bvals,
        noise=sigma[None, None],
        volumes=volumes,
        bounds=bounds,
    ).maps
    own = zip(*(maps[label][0, 0].tolist() for label in ("f", "d", "dstar", "s0")), strict=True)
    drawn = [(bvals, one, noise, volumes) for one, noise in zip(signals, sigma, strict=True)]
    for (f, d, dstar, s0), found in zip(own, fits_of_the_page(drawn, asdict(bounds)), strict=True):
        assert found["s0"] == pytest.approx(s0, rel=1e-3)
        assert found["f"] == pytest.approx(f, abs=1e-3)
        if f <= 1 - NEGLIGIBLE_F:
            assert found["d"] == pytest.approx(d, abs=2e-6)
        if f >= NEGLIGIBLE_F:
            assert found["dstar"] == pytest.approx(dstar, rel=1e-3)


def test_what_cannot_be_fitted_has_no_fit():
    bvals, (signals,), (sigma,), volumes = decays(SCHEMES[0], 1)
    dark, broken = signals.copy(), signals.copy()
    dark[bvals.argmin()], broken[-1] = 0, -1
    cases = [(bvals, dark, sigma, volumes), (bvals, broken, sigma, volumes)]
    fits = fits_of_the_page(cases, asdict(DEFAULT_BOUNDS))
    assert fits[0] is None and 0 <= fits[1]["f"] <= 1
    script = f"{PROGRAM.read_text(encoding='utf-8')} console.log(fitBiexponential([0, 9], [1, NaN], [1, 1]))"
    assert subprocess.run(["node"], input=script, capture_output=True, text=True).stdout == "null\n"
