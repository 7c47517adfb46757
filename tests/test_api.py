"""The door for Python programs: arrays in, maps out, and nothing else changed."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from app_runs import App, dataset

import sicnn_app
from sicnn_app import EstimationSettings, estimate, simulate
from sicnn_app.errors import DataError, SicnnAppError, UsageError

BVALS = (0, 10, 30, 60, 100, 200, 400, 800)
QUICK = EstimationSettings(max_iterations=1, delta=0.9)


@pytest.fixture(scope="module")
def phantom():
    return simulate("abdomen", BVALS, shape=(20, 18, 2), snr=50, seed=3)


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import sys, sicnn_app; print({'torch', 'numpy', 'argparse'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_public_name_is_there():
    assert all(getattr(sicnn_app, name) is not None for name in sicnn_app.__all__)
    assert set(sicnn_app.__all__) <= set(dir(sicnn_app))
    with pytest.raises(AttributeError, match="no attribute 'estimates'"):
        sicnn_app.estimates  # noqa: B018


def test_the_function_is_not_hidden_by_a_package_of_its_name():
    code = "import sicnn_app, sicnn_app.cli.simulate, sicnn_app.phantoms.dataset; sicnn_app.simulate.__name__"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("method", ["si-cnn", "di-cnn", "cnn", "lsq"])
def test_every_method_finds_the_truth_roughly(phantom, method):
    settings = {"cnn": EstimationSettings(method="cnn", epochs=150)}.get(method)
    maps = estimate(
        phantom.signals, phantom.bvals, phantom.mask, method=method, device="cpu", settings=settings
    )
    inside = phantom.mask
    for name in ("f", "d", "dstar", "s0", "rmse"):
        found = getattr(maps, name)
        assert found.shape == inside.shape and found.dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(found), inside)
    assert np.median(np.abs(maps.d - phantom.d)[inside] / phantom.d[inside]) < 0.25
    for spread in (maps.f_std, maps.d_std, maps.dstar_std):
        known = inside if method == "si-cnn" else np.zeros_like(inside)
        np.testing.assert_array_equal(np.isfinite(spread), known)
    assert maps.predicted.shape == phantom.signals.shape and np.isnan(maps.predicted[~inside]).all()
    residual = (maps.predicted - phantom.signals)[inside]
    assert np.sqrt(np.mean(residual**2)) < 4 * phantom.sigma
    assert maps.history and maps.parameters["method"] == method
    assert maps.sigma == pytest.approx(phantom.sigma, rel=0.5)


def test_signals_without_noise_have_maps():
    clean = sicnn_app.simulate("abdomen", shape=(16, 14, 1), seed=1)
    settings = EstimationSettings(max_iterations=1)
    maps = sicnn_app.estimate(clean.signals, clean.bvals, clean.mask, settings=settings, device="cpu")
    assert np.isfinite(maps.f[clean.mask]).all() and maps.f[clean.mask].max() > 0.05


def test_an_ensemble_has_standard_deviations(phantom):
    settings = EstimationSettings(ensemble=2, max_iterations=0, delta=0.9)
    maps = estimate(phantom.signals, phantom.bvals, phantom.mask, device="cpu", settings=settings)
    assert (maps.f_std[phantom.mask] > 0).any() and np.isnan(maps.f_std[~phantom.mask]).all()


def test_one_slice_is_the_volume_of_one_slice(phantom):
    flat = estimate(phantom.signals[:, :, 0], phantom.bvals, phantom.mask[:, :, 0], method="lsq")
    deep = estimate(phantom.signals[:, :, :1], phantom.bvals, phantom.mask[:, :, :1], method="lsq")
    np.testing.assert_array_equal(flat.f, deep.f[:, :, 0])
    np.testing.assert_array_equal(flat.predicted, deep.predicted[:, :, 0])


def test_repeats_may_come_in_any_order():
    bvals = np.array([*BVALS, *BVALS, 0.0])
    noisy = simulate("abdomen", bvals, shape=(12, 10, 1), snr=30)
    order = np.random.default_rng(0).permutation(bvals.size)
    first = estimate(noisy.signals, bvals, noisy.mask, method="lsq")
    second = estimate(noisy.signals[..., order], bvals[order], noisy.mask, method="lsq")
    np.testing.assert_allclose(first.d[noisy.mask], second.d[noisy.mask], rtol=1e-3)
    np.testing.assert_allclose(first.predicted[..., order], second.predicted, rtol=1e-3)
    np.testing.assert_array_equal(first.predicted[..., 0], first.predicted[..., len(BVALS)])


def test_without_a_mask_every_voxel_with_signal_is_estimated(phantom):
    clean = simulate("abdomen", BVALS, shape=(12, 10, 1))
    maps = estimate(clean.signals, clean.bvals, method="lsq", sigma=1.0)
    np.testing.assert_array_equal(np.isfinite(maps.f), clean.s0 > 0)
    assert maps.sigma == 1.0


def test_the_same_seed_gives_the_same_maps_and_another_one_others(phantom):
    def found(seed):
        return estimate(
            phantom.signals,
            phantom.bvals,
            phantom.mask,
            seed=seed,
            device="cpu",
            settings=EstimationSettings(max_iterations=0, delta=0.9, random_seed=seed),
        ).f

    np.testing.assert_array_equal(found(0), found(0))
    assert (found(0) != found(1))[phantom.mask].any()


def test_the_numbers_are_those_of_the_command_line(tmp_path, capsys):
    made = dataset(tmp_path / "bids")
    out = tmp_path / "out"
    options = ("--denoise", "none", "--motion-correction", "none", "--anatomy", "body", "--device", "cpu")
    training = ("--max-iterations", "1", "--delta", "0.9")
    assert App(capsys)(made.root, out, *options, *training).code == 0
    image = nib.load(next(made.root.rglob("*_dwi.nii.gz")))
    bvals = np.loadtxt(next(made.root.rglob("*_dwi.bval")))
    mask = nib.load(next(out.rglob("*_mask.nii.gz"))).get_fdata() > 0
    maps = estimate(image.get_fdata(dtype=np.float32), bvals, mask, device="cpu", settings=QUICK)
    for name in ("f", "d", "dstar", "s0"):
        written = nib.load(next(out.rglob(f"*_param-{name}_dwimap.nii.gz"))).get_fdata(dtype=np.float32)
        np.testing.assert_array_equal(getattr(maps, name), written)


def test_nothing_of_the_caller_changes(phantom):
    signals, mask = phantom.signals.copy(), phantom.mask.copy()
    torch.manual_seed(7)
    np.random.seed(7)
    threads, state, legacy = torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1].copy()
    flags = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    estimate(signals, phantom.bvals, mask, device="cpu", settings=QUICK)
    assert threads == torch.get_num_threads() and torch.equal(state, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()
    assert flags == (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    np.testing.assert_array_equal(signals, phantom.signals)
    np.testing.assert_array_equal(mask, phantom.mask)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"method": "sicnn"}, UsageError, "must be one of si-cnn, di-cnn, cnn, lsq, not 'sicnn'"),
        ({"method": "lsq", "settings": QUICK}, UsageError, "contradicts settings, which say 'si-cnn'"),
        ({"seed": 3, "settings": QUICK}, UsageError, "seed 3 contradicts settings"),
        ({"sigma": -1.0}, UsageError, "sigma must be a number of 0 or more"),
        ({"device": "tpu"}, SicnnAppError, "tpu"),
        ({"signals": np.ones((4, 4, 8), complex)}, DataError, "real numbers"),
        ({"signals": np.ones((4, 8))}, DataError, r"shape \(X, Y, Z, N\) or \(X, Y, N\)"),
        ({"signals": np.full((4, 4, 1, 8), np.nan)}, DataError, "no|without"),
        ({"bvals": (0, 10)}, DataError, "8 volumes but there are 2 b-values"),
        ({"bvals": (0, 1, 0, 1, 0, 1, 0, 1)}, DataError, "b-value"),
        ({"bvals": (0, 10, np.nan, 30, 50, 100, 400, 800)}, DataError, "finite numbers"),
        ({"bvals": (0, 10, -20, 30, 50, 100, 400, 800)}, DataError, "0 or more, not -20"),
        ({"mask": np.ones((3, 3, 1), bool)}, DataError, "mask"),
        ({"mask": np.zeros((20, 18, 2), bool)}, DataError, "mask"),
        ({"mask": np.full((20, 18, 2), "yes")}, DataError, "true and false"),
    ],
)
def test_a_mistake_is_named(phantom, change, error, match):
    given = {"signals": phantom.signals, "bvals": phantom.bvals, "mask": phantom.mask} | change
    if "signals" in change:
        given["mask"] = None
    with pytest.raises(error, match=match):
        estimate(**given)


def test_a_phantom_is_made_again_from_its_seed():
    first, second, third = (simulate("brain", shape=(10, 10, 1), snr=20, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.signals, second.signals)
    assert (first.signals != third.signals).any() and (first.f != third.f).any()
    with pytest.raises(UsageError, match="preset must be one of"):
        simulate("knee")
