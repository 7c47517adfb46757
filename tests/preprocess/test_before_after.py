"""The slice kept of each correction: the right one, of the right volumes, and what was really done to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.preprocess.steps import compare_step, prepare
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS
from sicnn_app.system.memory import DiskArray

BVALS = np.array([0, 0, 10, 50, 50, 100, 200, 400, 800, 800], dtype=float)
SHAPE = (24, 20, 3)
SIGMA = 10.0


def series(signals: np.ndarray) -> DwiSeries:
    return DwiSeries(signals.astype(np.float32), BVALS, None, np.eye(4), np.arange(100, 100 + BVALS.size))


def phantom() -> tuple[DwiSeries, np.ndarray]:
    """Two tissues in air with Gaussian noise, most of them in the middle slice, and the clean signals."""
    s0 = np.zeros(SHAPE)
    s0[4:-4, 4:-4, 1] = 500.0
    s0[6:-6, 6:-6, [0, 2]] = 500.0
    s0[10:14] *= 1.5
    f = np.where(np.arange(SHAPE[0])[:, None, None] < 12, 0.1, 0.3) * np.ones(SHAPE)
    clean = ivim_signal_maps(BVALS, f, np.full(SHAPE, 1.2e-3), np.full(SHAPE, 0.03), s0)
    noise = np.random.default_rng(0).normal(0, SIGMA, (*SHAPE, BVALS.size))
    return series(np.abs(clean + noise)), clean


def prepared(made: DwiSeries, **options):
    settings = {"denoise": "none", "motion_correction": "none", **options}
    return prepare(made, anatomy="body", settings=PreprocessingSettings(**settings))


MASK = np.zeros(SHAPE, dtype=bool)
MASK[4:-4, 4:-4, 1] = True
MASK[8:-8, 8:-8, 2] = True


@given(st.sampled_from([5, 8, 9]), st.floats(1, 1e3), st.booleans())
def test_the_volume_that_changed_most_is_shown_in_the_slice_of_the_largest_mask(moved, amount, other):
    signals = np.random.default_rng(0).uniform(0, 100, (*SHAPE, BVALS.size))
    after = signals.copy()
    after[10, 10, 1, moved] += amount
    if other:
        # Outside the mask, and in another slice: neither counts.
        after[0, 0, 1, 8] += 1e6
        after[10, 10, 2, 8] += 1e6
    step = compare_step("denoising", series(signals), series(after), MASK)
    assert (step.slice_index, step.bvals) == (1, (100.0, 800.0))
    assert step.volumes == (105, 109 if moved == 9 else 108)
    positions = [volume - 100 for volume in step.volumes]
    np.testing.assert_array_equal(step.before, np.moveaxis(series(signals).signals[:, :, 1, positions], 2, 0))
    np.testing.assert_array_equal(step.after, np.moveaxis(series(after).signals[:, :, 1, positions], 2, 0))
    expected = amount / np.sqrt(MASK[..., 1].sum())
    assert max(step.root_mean_squares) == pytest.approx(expected, rel=1e-3)
    assert 0 < step.limit <= amount * (1 + 1e-3)


def test_what_is_missing_on_one_side_is_no_change():
    signals = np.ones((*SHAPE, BVALS.size))
    after = signals.copy()
    after[4:10, 8, 1] = np.nan
    assert compare_step("motioncorrection", series(signals), series(after), MASK) is None
    after[12, 8, 1, 9] = 3.0
    step = compare_step("motioncorrection", series(signals), series(after), MASK)
    assert np.isfinite(step.difference).all() and step.limit == 2.0


def test_every_correction_that_was_done_is_kept_and_leads_to_the_next():
    made, _ = phantom()
    result = prepared(made, denoise="mppca", unring=True)
    assert [step.label for step in result.before_after] == list(STEPS)[:2]
    denoising, unringing = result.before_after
    raw = made.signals[:, :, denoising.slice_index]
    np.testing.assert_array_equal(denoising.before[1], raw[..., denoising.volumes[1] - 100])
    final = result.series.signals[:, :, unringing.slice_index]
    np.testing.assert_array_equal(unringing.after[1], final[..., unringing.volumes[1] - 100])
    assert not prepared(made).before_after


def test_what_denoising_removed_of_a_phantom_looks_like_the_noise_that_was_added():
    made, clean = phantom()
    (step,) = prepared(made, denoise="mppca").before_after
    for volume, removed, rms in zip(step.volumes, step.difference, step.root_mean_squares, strict=True):
        inside = step.inside
        added = (made.signals[..., volume - 100] - clean[..., volume - 100])[:, :, step.slice_index][inside]
        assert np.corrcoef(-removed[inside], added)[0, 1] > 0.7
        assert 0.4 * SIGMA < rms < 1.3 * SIGMA


def test_a_series_on_disk_gives_the_same_slices(tmp_path):
    made, _ = phantom()
    stored = DiskArray.create(made.signals.shape, tmp_path)
    stored[...] = made.signals
    on_disk = DwiSeries(stored, made.bvals, None, made.affine, made.source_volumes)
    for one, other in zip(
        prepared(made, unring=True).before_after, prepared(on_disk, unring=True).before_after, strict=True
    ):
        assert one.volumes == other.volumes and type(other.after) is np.ndarray
        np.testing.assert_array_equal(one.before, other.before)
        np.testing.assert_array_equal(one.after, other.after)
