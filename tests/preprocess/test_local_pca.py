"""MP-PCA in parts gives the bits of MP-PCA of the whole image, whoever does the parts."""

import subprocess
import sys

import numpy as np
import pytest
from dipy.denoise.localpca import mppca
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.preprocess import local_pca
from sicnn_app.preprocess.local_pca import denoise_patches
from sicnn_app.system.helpers import helpers, helpers_allowed, shared_out


def noisy(shape: tuple[int, int, int], volumes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Decays of tissue that varies, with noise, and a mask with holes."""
    rng = np.random.default_rng(seed)
    f, bvals = 0.3 * rng.random((*shape, 1)), np.linspace(0, 800, volumes)
    signals = 500 * (f * np.exp(-0.03 * bvals) + (1 - f) * np.exp(-0.001 * bvals))
    signals += 12 * rng.standard_normal(signals.shape)
    return signals.astype(np.float32), rng.random(shape) < 0.9


def assert_same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> None:
    for first, second in zip(one, other, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.permutations([(3), 9, 14]).map(tuple),
    processes=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_parts_of_any_image_give_the_same_bits(shape, processes, seed):
    signals, mask = noisy(shape, 6, seed)
    radius = np.ones(3, dtype=int)
    whole = denoise_patches(signals, mask, radius)
    with pytest.MonkeyPatch.context() as patch, helpers(processes - 1):
        patch.setattr(local_pca, "LEAST_VALUES", 60)
        # Here, without other processes: what is tried is where an image is cut.
        patch.setattr(local_pca, "shared_out", lambda _, work, parts: [work(*part) for part in parts])
        assert_same(denoise_patches(signals, mask, radius), whole)


def test_another_process_gives_the_same_bits(monkeypatch):
    signals, mask = noisy((30, 12, 6), 12)
    radius = np.ones(3, dtype=int)
    whole = denoise_patches(signals, mask, radius)
    monkeypatch.setattr(local_pca, "LEAST_VALUES", 1200)
    started = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    with helpers(1):
        assert_same(denoise_patches(signals, mask, radius), whole)
    assert [process.returncode for process in started] == [0]


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_without_another_process_the_work_is_done_here(python, monkeypatch):
    monkeypatch.setattr(sys, "executable", python)
    parts = [(np.full(3, number),) for number in range(3)]
    found = shared_out("sicnn_app.nothing", lambda part: [part + 1], parts)
    assert [one[0].tolist() for one in found] == [[1] * 3, [2] * 3, [3] * 3]


def test_helpers_end_when_the_work_here_fails(monkeypatch):
    started = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    signals, mask = noisy((30, 30, 30), 12)

    def fails(*_part):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        shared_out("sicnn_app.preprocess.local_pca", fails, [(signals, mask, np.ones(3, int))] * 2)
    assert [process.poll() for process in started] == [-9]


def test_nobody_helps_unless_it_is_allowed():
    assert helpers_allowed() == 0
    with helpers(3):
        assert helpers_allowed() == 3
    assert helpers_allowed() == 0


@settings(max_examples=25, deadline=None)
@given(
    radius=st.lists(st.integers(0, 2), min_size=3, max_size=3).filter(any),
    room=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    volumes=st.integers(2, 30),
    kind=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_the_bits_are_those_of_dipy(radius, room, volumes, kind, seed):
    half = np.array(radius)
    signals, mask = noisy(tuple(2 * half + 1 + room), volumes, seed)
    signals = np.maximum(signals, 0).astype(kind)
    # Without any noise, and without signals.
    signals[: half[0] + seed % 3] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = mppca(signals, mask=mask, patch_radius=half, return_sigma=True, suppress_warning=True)
    assert_same(denoise_patches(signals, mask, half), expected)
