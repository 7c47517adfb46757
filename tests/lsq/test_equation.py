"""The equation stands in ``ivim/signal.py``; the fit and the page of single voxels write it once more."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sicnn_app
from sicnn_app.ivim.precision import signal_derivatives
from sicnn_app.ivim.signal import ivim_signal
from sicnn_app.lsq.levenberg_marquardt import SCALE, expand

BVALS = np.array([0, 5, 10, 20, 50, 100, 200, 400, 800], dtype=float)
SIGNALS = 0.7 * np.exp(-0.0015 * BVALS) + 0.1

unknowns = st.tuples(
    st.floats(0.5, 1.5), st.floats(0.05, 0.95), st.floats(3e-4, 4e-3), st.floats(6e-3, 0.2)
).map(np.array)
"""In the order of the fit: S0, F, D, D*."""


def residual(s0: float, f: float, d: float, dstar: float) -> np.ndarray:
    return ivim_signal(BVALS, f, d, dstar, s0) - SIGNALS


def rss(values: np.ndarray) -> float:
    return float(np.square(residual(*values)).sum())


def expanded(values: np.ndarray):
    signals, bvals, point = map(torch.from_numpy, (SIGNALS, BVALS, values))
    rss, gradient, *matrices = (
        part[..., 0].numpy() for part in expand(signals[:, None], bvals, point[:, None])
    )
    return rss, gradient, *map(whole, matrices)


def whole(entries: np.ndarray) -> np.ndarray:
    """The symmetric matrix, shape (4, 4), of its diagonal and what is above by rows, shape (10,)."""
    upper = np.diag(entries[:4])
    upper[np.triu_indices(4, 1)] = entries[4:]
    return upper + np.triu(upper, 1).T


@given(unknowns)
def test_the_fit_has_the_residuals_and_the_jacobian_of_the_equation(values):
    s0, f, d, dstar = values
    found, gradient, normal, _ = expanded(values)
    assert found == pytest.approx(rss(values), rel=1e-9, abs=1e-15)
    jacobian = signal_derivatives(BVALS, f, d, dstar, s0)[:, [3, 0, 1, 2]] * SCALE
    np.testing.assert_allclose(gradient, jacobian.T @ residual(*values), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(normal, jacobian.T @ jacobian, rtol=1e-7, atol=1e-12)


@given(unknowns)
def test_the_derivatives_of_the_fit_are_finite_differences_of_the_equation(values):
    _, gradient, _, hessian = expanded(values)
    for index, unit in enumerate(np.diag(SCALE)):
        step = 1e-4 * unit
        ahead, behind = values + step, values - step
        # Both are half of what the name says, see Expansion.
        slope = (rss(ahead) - rss(behind)) / 2e-4 / 2
        assert slope == pytest.approx(gradient[index], rel=1e-4, abs=1e-6)
        change = (expanded(ahead)[1] - expanded(behind)[1]) / 2e-4
        np.testing.assert_allclose(change, hessian[index], rtol=1e-4, atol=1e-5)


def predictor_of_the_page() -> str:
    """The function of the page that draws the curve of a voxel."""
    path = Path(sicnn_app.__file__).parent / "report" / "templates" / "voxels.js"
    program = path.read_text(encoding="utf-8")
    (function,) = re.findall(r"^function predictor\(.*?^}$", program, flags=re.DOTALL | re.MULTILINE)
    return function


@given(unknowns)
def test_the_page_of_single_voxels_writes_the_equation(values):
    """Its formula is one of Python as well."""
    s0, f, d, dstar = values
    (formula,) = re.findall(r"return \(b\) => (.*);", predictor_of_the_page())
    names = {"b": BVALS, "f": f, "d": d, "dstar": dstar, "s0": s0, "exp": np.exp}
    found = eval(formula.replace("Math.exp", "exp"), {"__builtins__": {}}, names)
    np.testing.assert_array_equal(found, ivim_signal(BVALS, f, d, dstar, s0))


@pytest.mark.skipif(shutil.which("node") is None, reason="no node, which runs the program of the page")
def test_the_page_of_single_voxels_draws_the_equation_with_the_maps_of_the_voxel():
    tissue = {"f": 0.23, "d": 1.1e-3, "dstar": 0.07, "s0": 512.0}
    script = f"""
    {predictor_of_the_page()}
    const tissue = {json.dumps({f"{label}_fit": value for label, value in tissue.items()})};
    const slice = {{ value: (name, voxel) => voxel === 3 && name in tissue ? tissue[name] : NaN }};
    const without = [predictor(slice, 3, ""), predictor(slice, 2, "_fit")];
    console.log(JSON.stringify([{BVALS.tolist()}.map(predictor(slice, 3, "_fit")), ...without]));
    """
    said = subprocess.run(["node", "-e", script], check=True, capture_output=True, text=True).stdout
    found, *without = json.loads(said)
    np.testing.assert_allclose(found, ivim_signal(BVALS, *tissue.values()), rtol=1e-14)
    assert without == [None, None]
