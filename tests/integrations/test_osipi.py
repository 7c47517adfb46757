"""The wrapper for OSIPI's TF2.4 collection, its test of a volume, and the script that runs their suite.

Against a stand-in of our own with the interface that is documented there: nothing of theirs is here.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from app_runs import ROOT, environment, files
from hypothesis import given, settings
from hypothesis import strategies as st

OSIPI = ROOT / "integrations" / "osipi"
B = np.array([0, 0, 10, 20, 50, 100, 200, 400, 600, 800], dtype=float)
TRUTH = {"f": 0.2, "Dp": 0.04, "D": 0.0011}

BASE = '''
"""Stand-in: names and order of calls as documented for the collection."""
import importlib
import numpy as np

class OsipiBase:
    def __init__(
        self, bvalues=None, thresholds=None, bounds=None, initial_guess=None, algorithm=None, **other
    ):
        self.bvalues = None if bvalues is None else np.asarray(bvalues)
        self.thresholds, self.bounds, self.initial_guess = thresholds, bounds, initial_guess
        if algorithm:
            module = importlib.import_module(f"src.standardized.{algorithm}")
            self.__class__ = getattr(module, algorithm)
            self.__init__(bvalues=bvalues, bounds=bounds, initial_guess=initial_guess, **other)

    def osipi_fit(self, data, bvalues=None, **kwargs):
        b = np.asarray(self.bvalues if bvalues is None else bvalues)
        found = {name: np.empty(data.shape[:-1]) for name in ("f", "Dp", "D")}
        for index in np.ndindex(data.shape[:-1]):
            for name, value in self.ivim_fit(data[index] / data[index][b == b.min()].mean(), b).items():
                found[name][index] = value
        return found

    def osipi_fit_full_volume(self, data, bvalues=None, **kwargs):
        b = np.asarray(self.bvalues if bvalues is None else bvalues)
        return self.ivim_fit_full_volume(data / data[..., b == b.min()].mean(-1, keepdims=True), b, **kwargs)
'''

REFERENCE = """
from src.wrappers.OsipiBase import OsipiBase

class Always(OsipiBase):
    def ivim_fit(self, signals, bvalues=None):
        return {"f": 0.1, "Dp": 0.02, "D": 0.001}
"""

CONFTEST = """
import json, pathlib

def pytest_addoption(parser):
    parser.addoption("--selectAlgorithm", nargs="+", default=[""])

def pytest_generate_tests(metafunc):
    listed = json.loads(pathlib.Path("tests/IVIMmodels/unit_tests/algorithms.json").read_text())
    if "algorithmlist" in metafunc.fixturenames:
        chosen = [(name, False, False) for name in listed["algorithms"]]
        metafunc.parametrize("algorithmlist", chosen)
"""

SUITE = """
import numpy as np
import pytest
from src.wrappers.OsipiBase import OsipiBase

B = np.array([0, 10, 20, 50, 100, 200, 400, 800.0])

def signal(f, dp, d):
    return f * np.exp(-B * dp) + (1 - f) * np.exp(-B * d)

@pytest.mark.parametrize("truth", [(0.1, 0.02, 0.001), (0.3, 0.06, 0.0015)])
def test_ivim_fit_saved(algorithmlist, truth):
    found = OsipiBase(algorithm=algorithmlist[0]).osipi_fit(signal(*truth), B)
    np.testing.assert_allclose([float(found[name]) for name in ("f", "Dp", "D")], truth, rtol=1e-3)

def test_of_matlab(algorithmlist):
    pytest.skip("no Matlab")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    tests = root / "tests" / "IVIMmodels" / "unit_tests"
    for name, text in {
        root / "src" / "__init__.py": "",
        root / "src" / "wrappers" / "__init__.py": "",
        root / "src" / "standardized" / "__init__.py": "",
        root / "src" / "wrappers" / "OsipiBase.py": BASE,
        root / "src" / "standardized" / "Always.py": REFERENCE,
        root / "conftest.py": CONFTEST,
        tests / "test_ivim_fit.py": SUITE,
        tests / "algorithms.json": json.dumps({"algorithms": ["Always"], "Always": {"options": {}}}),
    }.items():
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(text)
    return root


@pytest.fixture(scope="module")
def wrapper():
    """The class, on the base of the stand-in."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        base = types.ModuleType("src.wrappers.OsipiBase")
        exec(BASE, base.__dict__)
        for name in ("src", "src.wrappers"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, base.__name__, base)
        spec = importlib.util.spec_from_file_location("SICNN_app", OSIPI / "SICNN_app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.SICNN_app


def signals(f, dp, d, s0=1.0, b=B):
    f, dp, d, s0 = (np.asarray(value)[..., None] for value in (f, dp, d, s0))
    return s0 * (f * np.exp(-b * dp) + (1 - f) * np.exp(-b * d))


def lower(truth):
    return {name.lower(): value for name, value in truth.items()}


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.05, 0.5), st.floats(0.015, 0.1), st.floats(3e-4, 2.5e-3), st.sampled_from([1.0, 1e-3, 4000.0])
)
def test_one_voxel_in_their_units_and_any_scale(wrapper, f, dp, d, s0):
    found = wrapper().ivim_fit(signals(f, dp, d, s0), B)
    assert set(found) == {"f", "Dp", "D"}
    np.testing.assert_allclose([found["f"], found["Dp"], found["D"]], [f, dp, d], rtol=1e-3)


def test_b_values_of_the_construction_count_when_none_are_given(wrapper):
    found = wrapper(bvalues=B).ivim_fit(signals(**lower(TRUTH)))
    np.testing.assert_allclose(list(found.values()), list(TRUTH.values()), rtol=1e-3)


def test_voxels_of_an_array_do_not_know_of_one_another(wrapper):
    rng = np.random.default_rng(0)
    voxels = signals(rng.uniform(0.05, 0.4, 6), rng.uniform(0.02, 0.08, 6), rng.uniform(5e-4, 2e-3, 6))
    voxels += rng.normal(scale=0.02, size=voxels.shape)
    together, volume = wrapper().ivim_fit(voxels, B), wrapper(method="si-cnn").ivim_fit_full_volume(voxels, B)
    for index, voxel in enumerate(voxels):
        for name, value in wrapper().ivim_fit(voxel, B).items():
            # Starts are in single precision, whose rounding goes by how many voxels are fitted together.
            assert value == pytest.approx(together[name][index], rel=1e-6)
            assert volume[name][index] == together[name][index]


@pytest.mark.parametrize(("method", "shape"), [("lsq", (6, 5, 2)), ("lsq", (6, 5)), ("si-cnn", (6, 5))])
def test_a_volume_and_a_slice(wrapper, shape, method):
    truth = {name: np.full(shape, value) for name, value in lower(TRUTH).items()}
    truth["f"][:3] = 0.35
    measured = signals(**truth, s0=100.0)
    measured += np.random.default_rng(0).normal(scale=0.2, size=measured.shape)
    measured[0, 0] = 0
    measured[1, 1, ..., 3] = np.nan
    fit = wrapper(bvalues=B, method=method)
    found = fit.ivim_fit_full_volume(
        measured, mask=np.arange(shape[1])[:, None] > 0 if len(shape) == 3 else None
    )
    known = np.isfinite(found["f"])
    expected = np.isfinite(measured).all(-1) & (measured[..., 0] > 0)
    if len(shape) == 3:
        expected &= (np.arange(shape[1]) > 0)[:, None]
    np.testing.assert_array_equal(known, expected)
    for name in ("f", "D", "Dp"):
        assert found[name].shape == shape
        if method == "lsq":
            relative = found[name][known] / truth[name.lower()][known] - 1
            assert np.sqrt(np.mean(relative**2)) < 0.15


def test_bounds_hold_also_where_they_are_silly_and_those_left_out_are_the_apps(wrapper):
    bounds = {"S0": [1.1, 1.3], "f": [0.3, 0.4], "Dp": [0.01, 0.02], "D": [0.0014, 0.0016]}
    volume = np.tile(signals(**lower(TRUTH)), (5, 5, 1, 1))
    volume += np.random.default_rng(0).normal(scale=0.01, size=volume.shape)
    for method in ("lsq", "si-cnn"):
        fit = wrapper(bvalues=B, bounds=bounds, method=method)
        for found in (
            fit.ivim_fit(signals(**lower(TRUTH))),
            fit.ivim_fit_full_volume(volume),
        ):
            for name, values in found.items():
                # Maps are of single precision.
                low, high = bounds[name] if np.ndim(values) == 0 else np.float32(bounds[name])
                assert (low <= np.asarray(values)).all() and (values <= np.asarray(high)).all()
    narrow = wrapper(bounds={"D": [0.002, 0.003]}).ivim_fit(signals(**lower(TRUTH)), B)
    assert 0.002 <= narrow["D"] <= 0.003 and 0 <= narrow["f"] <= 1


def test_a_guess_never_makes_a_fit_worse(wrapper):
    measured = signals(**lower(TRUTH)) + np.random.default_rng(1).normal(scale=0.05, size=(20, B.size))

    def residual(found):
        fitted = signals(found["f"], found["Dp"], found["D"])
        return float(((measured - fitted) ** 2).sum())

    plain = residual(wrapper().ivim_fit(measured, B))
    for guess in ({"f": 0.9, "Dp": 0.19, "D": 0.0001, "S0": 1.0}, {"f": 5.0, "D": -1.0}):
        assert residual(wrapper(initial_guess=guess).ivim_fit(measured, B)) == pytest.approx(plain, rel=0.02)


def test_a_voxel_without_data_is_no_number(wrapper):
    broken = np.array([np.zeros(B.size), np.full(B.size, np.nan), signals(**lower(TRUTH))])
    found = wrapper().ivim_fit(broken, B)
    assert all(np.isnan(values[:2]).all() and np.isfinite(values[2]) for values in found.values())
    assert np.isnan(wrapper().ivim_fit(broken[0], B)["f"])


def run_suite(checkout: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, OSIPI / "run_suite.py", checkout, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_the_suite_is_run_on_both_and_the_checkout_is_as_it_was(checkout):
    before = {name: content for name, content in files(checkout).items() if "cache" not in name}
    done = run_suite(checkout, "--spatial", "--reference", "Always")
    assert done.returncode == 0, done.stdout + done.stderr
    head, _, ours, theirs = (row.strip("| ").split(" | ") for row in done.stdout.strip().splitlines())
    assert head == ["algorithm", "test_ivim_fit_saved", "test_of_matlab", "test_structure_of_a_volume"]
    assert ours == ["SICNN_app", "2/2", "0/0 (1 skipped)", "1/1"]
    assert theirs == ["Always", "1/2", "0/0 (1 skipped)", "0/0 (1 skipped)"]
    after = {name: content for name, content in files(checkout).items() if "cache" not in name}
    assert after == before


def test_a_file_of_theirs_with_our_name_stays(checkout, tmp_path):
    other = Path(shutil.copytree(checkout, tmp_path / "other"))
    theirs = other / "src" / "standardized" / "SICNN_app.py"
    theirs.write_text("theirs")
    done = run_suite(other)
    assert done.returncode == 1 and "is another file: move it away" in done.stderr
    assert theirs.read_text() == "theirs"


def test_what_is_no_checkout_is_told(tmp_path):
    done = run_suite(tmp_path)
    assert done.returncode == 1 and "name a checkout of OSIPI" in done.stderr
