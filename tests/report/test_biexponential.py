"""The fit in the page of single voxels is that of the app."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import sicnn_app.report
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.signal import ivim_signal
from sicnn_app.lsq.fit import DEFAULT_BOUNDS, fit_biexponential
from sicnn_app.settings import Bounds

PROGRAM = Path(sicnn_app.report.__file__).parent / "templates" / "biexponential.js"
NARROW = Bounds(f=(0.05, 0.3), d=(5e-4, 2e-3), dstar=(0.01, 0.1), s0=(0.9, 1.1))
SCHEMES = (
    [0, 10, 20, 30, 50, 80, 100, 200, 400, 600, 800],
    [10, 50, 150, 400, 800],
    [0, 25, 50, 100, 250, 500],
)

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node, which runs the page's program")


def fits_of_the_page(cases: list[tuple], bounds: Bounds) -> list[dict | None]:
    plain = [[np.asarray(part, dtype=float).tolist() for part in case] for case in cases]
    script = f"""{PROGRAM.read_text(encoding="utf-8")}
    const bounds = {json.dumps(asdict(bounds))};
    const fit = ([bvals, signals, weights]) => fitBiexponential(bvals, signals, weights, bounds);
    console.log(JSON.stringify({json.dumps(plain)}.map(fit)));
    """
    said = subprocess.run(["node"], input=script, check=True, capture_output=True, text=True).stdout
    return json.loads(said)


def cases(count: int, seed: int = 0) -> list[tuple]:
    """Decays of any tissue with noise from hardly any to a lot, and the volumes of every b-value."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        bvals = np.array(SCHEMES[rng.integers(len(SCHEMES))], dtype=float)
        s0, f = rng.uniform(50, 500), rng.uniform(0, 0.6)
        decay = ivim_signal(bvals, f, 10 ** rng.uniform(-4, -2.4), 10 ** rng.uniform(-2, -0.8), s0)
        noise = rng.normal(0, s0 / rng.choice([10, 30, 100, 1000]), bvals.size)
        made.append((bvals, decay + noise, rng.integers(1, 7, bvals.size)))
    return made


@pytest.mark.parametrize("bounds", [DEFAULT_BOUNDS, NARROW], ids=["bounds of the app", "narrow bounds"])
def test_both_find_the_same_within_a_thousandth(bounds):
    drawn = cases(150)
    for (bvals, signals, volumes), found in zip(drawn, fits_of_the_page(drawn, bounds), strict=True):
        level, weights = signals[bvals.argmin()], volumes / volumes.mean()
        fit = fit_biexponential(
            torch.from_numpy(signals / level)[None],
            torch.from_numpy(bvals),
            bounds,
            weights=torch.from_numpy(weights)[None],
        )
        own = {"f": fit.f.item(), "d": fit.d.item(), "dstar": fit.dstar.item(), "s0": fit.s0.item() * level}
        assert found["s0"] == pytest.approx(own["s0"], rel=1e-3)
        assert found["f"] == pytest.approx(own["f"], abs=1e-3)
        if own["f"] <= 1 - NEGLIGIBLE_F:
            assert found["d"] == pytest.approx(own["d"], abs=2e-6)
        if own["f"] >= NEGLIGIBLE_F:
            assert found["dstar"] == pytest.approx(own["dstar"], rel=1e-3)


def test_what_cannot_be_fitted_has_no_fit():
    bvals, signals, weights = cases(1)[0]
    signals[bvals.argmin()] = 0
    assert fits_of_the_page([(bvals, signals, weights)], DEFAULT_BOUNDS) == [None]
    script = (
        f"{PROGRAM.read_text(encoding='utf-8')} console.log(fitBiexponential([0, 9], [1, NaN], [1, 1], {{}}))"
    )
    assert subprocess.run(["node"], input=script, capture_output=True, text=True).stdout == "null\n"
