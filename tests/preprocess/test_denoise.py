"""Denoising against the noise-free truth, and on images of every odd kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.errors import DataError
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import Protocol
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.denoise import correct
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS, Situation

BVALS = (0, 10, 20, 30, 40, 50, 75, 100, 150, 250, 400, 600)
FEW = Protocol(BVALS).gradient_table()[0]
MANY = Protocol(BVALS, directions=3, b0_repeats=4).gradient_table()[0]
SNR = 15.0
PHANTOM = make_phantom("abdomen", (30, 26, 4), seed=3)
SIGMA = float(PHANTOM.s0[PHANTOM.mask].mean() / SNR)


def truth(bvals):
    return ivim_signal_maps(np.asarray(bvals, float), PHANTOM.f, PHANTOM.d, PHANTOM.dstar, PHANTOM.s0)


def noisy(signals, *, sigma=SIGMA, seed=0, rician=True):
    rng = np.random.default_rng(seed)
    noise = sigma * rng.standard_normal((2, *signals.shape))
    return np.hypot(signals + noise[0], noise[1]) if rician else signals + noise[0]


def series(signals, bvals):
    return DwiSeries(np.asarray(signals, np.float32), np.asarray(bvals, float), None, np.eye(4))


def odd_series(shape, volumes, *, seed=0, scale=100.0):
    """Background and two tissues along the diagonal of any shape, with Rician noise."""
    bvals = np.linspace(0.0, 800.0, volumes)
    part = np.indices(shape).sum(axis=0) * 3 // (sum(shape) - 2)
    s0, d = np.array([0.0, 1.0, 1.5])[part] * scale, np.array([0.001, 0.001, 0.002])[part]
    clean = s0[..., None] * np.exp(-bvals * d[..., None])
    return series(noisy(clean, sigma=scale / 20, seed=seed), bvals)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def gain(before, after, clean, where):
    """Gain of the peak signal-to-noise ratio, dB."""
    return 20 * np.log10(rms((before - clean)[where]) / rms((after - clean)[where]))


@pytest.mark.parametrize(
    ("method", "bvals", "decibel"), [("mppca", FEW, 5.0), ("mppca", MANY, 8.0), ("patch2self", MANY, 6.5)]
)
def test_the_peak_signal_to_noise_ratio_rises(method, bvals, decibel):
    clean = truth(bvals)
    before = noisy(clean)
    after = correct(series(before, bvals), kind=method).series
    assert gain(before, after.signals, clean, PHANTOM.mask) > decibel
    assert after.signals.dtype == np.float32
    assert (after.signals >= 0).all()


def test_mppca_keeps_the_mean_decay_of_every_tissue():
    # Averaged over a tissue, the root mean square error over b may exceed that of the noisy images, which are
    # unbiased, by a tenth of the noise: 0.7 % of S0 here, or 1e-5 mm^2/s of D when all of it is at b = 600.
    for bvals in (FEW, MANY):
        clean = truth(bvals)
        before = noisy(clean, rician=False)
        after = correct(series(before, bvals), kind="mppca").series.signals
        tissues = [label for label in np.unique(PHANTOM.labels[PHANTOM.mask])]
        regions = [PHANTOM.labels == label for label in tissues]
        regions = [region for region in regions if region.sum() >= 20]
        assert len(regions) > 8
        for region in regions:
            errors = [rms((signals - clean)[region].mean(axis=0)) for signals in (before, after)]
            assert errors[1] < errors[0] + 0.1 * SIGMA


def test_mppca_keeps_edges():
    # Liver beside kidney: the signals of the two voxel layers at the edge, averaged along it.
    bvals = np.array(MANY)
    maps = [
        np.where(np.arange(24)[:, None, None] < 12, left, right) * np.ones((24, 24, 3))
        for left, right in ((0.25, 0.1), (0.0011, 0.0019), (0.07, 0.03), (800.0, 1000.0))
    ]
    clean = ivim_signal_maps(bvals, *maps)
    before = noisy(clean, sigma=50.0, rician=False)
    after = correct(series(before, bvals), kind="mppca").series.signals
    step = (clean[12] - clean[11]).mean(axis=(0, 1))
    found = (after[12] - after[11]).mean(axis=(0, 1))
    # Two means of 72 voxels differ with a standard error of 50 sqrt(2 / 72) = 8.3.
    assert np.abs(step).max() > 180
    assert rms(found - step) < 8.3
    assert (found @ step) / (step @ step) == pytest.approx(1.0, abs=0.05)
    assert gain(before, after, clean, np.s_[10:14]) > 8.0


@pytest.mark.parametrize("volumes", [25, 37, 150])
def test_the_noise_that_is_removed_is_the_noise_that_was_added(volumes):
    bvals = np.resize(MANY, volumes)
    signals = noisy(truth(bvals)[:20, :18], rician=False)
    result = correct(series(signals, bvals), kind="mppca")
    assert result.record["NoiseStandardDeviationRemoved"] == pytest.approx(SIGMA, rel=0.1)
    assert result.record["ResidualStandardDeviation"] < SIGMA
    assert abs(result.record["ResidualMean"]) < 0.01 * SIGMA


@pytest.mark.parametrize(("method", "share"), [("mppca", 0.65), ("patch2self", 0.7)])
def test_long_series_are_denoised_in_groups_that_span_the_decay(method, share):
    repeats = 11
    bvals = np.tile(FEW, repeats)
    where = np.s_[8:24, 6:22]
    clean, inside = truth(bvals)[where], PHANTOM.mask[where]
    before = noisy(clean, rician=False)
    result = correct(series(before, bvals), kind=method)
    after = result.series.signals
    assert result.record["VolumeGroups"] == 3
    assert "3 groups of up to 44 volumes" in result.record["Description"]
    for volume in range(bvals.size):
        assert gain(before[..., [volume]], after[..., [volume]], clean[..., [volume]], inside) > 2.5
    # Groups of one b-value each would only average its repeats, which comes later anyway (0.72 and 0.75).
    errors = [
        rms((signals - clean).reshape(*inside.shape, repeats, -1).mean(axis=3)[inside])
        for signals in (before, after)
    ]
    assert errors[1] < share * errors[0]


@pytest.mark.parametrize("volumes", range(10, 20))
def test_patch2self_returns_every_volume_in_its_place(volumes):
    # Strong repeats of 3 levels: a volume in the wrong place, or without its mean, is far off.
    levels = np.resize([1000.0, 400.0, 100.0], volumes)
    clean = levels * np.random.default_rng(1).uniform(0.5, 1.5, (20, 11, 1, 1))
    before = noisy(clean, sigma=30.0, rician=False)
    after = correct(series(before, np.resize([0.0, 300.0, 800.0], volumes)), kind="patch2self").series
    errors = np.sqrt(np.mean((after.signals - clean) ** 2, axis=(0, 1, 2)))
    assert (errors < 30.0).all()


def test_patch2self_denoises_a_single_b_0():
    bvals = np.array([0.0] + [50.0] * 6 + [400.0] * 6)
    clean = np.exp(-0.001 * bvals) * np.random.default_rng(1).uniform(500, 1500, (14, 12, 2, 1))
    before = noisy(clean, sigma=40.0)
    after = correct(series(before, bvals), kind="patch2self").series.signals
    assert rms(after[..., 0] - clean[..., 0]) < 0.8 * rms(before[..., 0] - clean[..., 0])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    volumes=st.integers(4, 14),
    method=st.sampled_from(["mppca", "patch2self"]),
    power=st.integers(-12, 20),
    seed=st.integers(0, 5),
)
def test_any_shape_is_denoised_or_refused_in_one_line(shape, volumes, method, power, seed):
    given_series = (
        odd_series(shape, volumes, seed=seed, scale=2.0**power)
        if sum(shape) > 3
        else series(noisy(np.full((*shape, volumes), 5.0), sigma=1.0), np.linspace(0, 800, volumes))
    )
    copy = given_series.signals.copy()
    try:
        result = correct(given_series, kind=method)
    except DataError as error:
        assert "--denoise" in str(error) and "\n" not in str(error)
        return
    after = result.series.signals
    assert after.shape == copy.shape and after.dtype == np.float32
    assert np.isfinite(after).all() and (after >= 0).all()
    np.testing.assert_array_equal(given_series.signals, copy)
    json.dumps(result.record, allow_nan=False)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((12, 12, 1), [5, 5, 1]),
        ((1, 12, 12), [1, 5, 5]),
        ((12, 12, 2), [5, 5, 1]),
        ((12, 1, 40), [5, 1, 5]),
        ((1, 60, 1), [1, 25, 1]),
        ((9, 9, 3), [3, 3, 3]),
        ((4, 4, 4), [3, 3, 3]),
    ],
)
def test_patches_fit_thin_images(shape, patch):
    result = correct(odd_series(shape, 9), kind="mppca")
    assert result.record["PatchSize"] == patch
    assert result.record["ResidualStandardDeviation"] > 1.0


def test_patches_grow_with_the_volumes():
    for volumes, side in ((12, 3), (27, 3), (28, 5), (60, 5)):
        assert correct(odd_series((8, 7, 6), volumes), kind="mppca").record["PatchSize"] == [side] * 3


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 5, 4), (24, 1, 1)])
def test_mppca_refuses_images_without_room_for_a_patch(shape):
    given_series = series(noisy(np.full((*shape, 12), 100.0)), FEW)
    with pytest.raises(DataError, match="too small for MP-PCA, which needs a patch of 25 voxels"):
        correct(given_series, kind="mppca")
    situation = Situation("body", False, 12, shape)
    method, reason = STEPS["denoising"].wanted(PreprocessingSettings(), situation)
    assert method == "none" and "no patch of 25" in reason


def test_patch2self_refuses_few_volumes_and_few_voxels():
    with pytest.raises(DataError, match="needs at least 10 volumes, there are 9"):
        correct(odd_series((9, 9, 3), 9), kind="patch2self")
    with pytest.raises(DataError, match="10 voxels with data per volume, there are 75 for 12"):
        correct(odd_series((5, 5, 3), 12), kind="patch2self")


def test_patch2self_on_few_volumes_is_warned_about():
    assert "on 12 volumes" in correct(odd_series((9, 9, 3), 12), kind="patch2self").warnings[0]
    assert correct(odd_series((9, 9, 6), 30), kind="patch2self").warnings == []


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_what_is_not_finite_stays_and_harms_nothing(method):
    bvals = MANY
    clean = truth(bvals)
    before = noisy(clean).astype(np.float32)
    holes = before.copy()
    holes[10:13, 8:11, 1:3] = np.nan
    holes[20, 15, 2, 5] = np.inf
    holes[21, 15, 2, 7:9] = np.nan
    holes[..., 30] = np.nan
    after = correct(series(holes, bvals), kind=method).series.signals
    np.testing.assert_array_equal(np.isfinite(after), np.isfinite(holes))
    np.testing.assert_array_equal(after[~np.isfinite(holes)], holes[~np.isfinite(holes)])
    near = np.zeros(holes.shape, dtype=bool)
    near[8:15, 6:13] = near[18:23, 13:18] = True
    near &= np.isfinite(holes) & PHANTOM.mask[..., None]
    assert gain(before, after, clean, near) > 5.0


@pytest.mark.parametrize(("method", "decibel"), [("mppca", 5.5), ("patch2self", 4.5)])
def test_scattered_missing_values_cost_little(method, decibel):
    clean = truth(MANY)
    before = noisy(clean).astype(np.float32)
    holes = before.copy()
    holes[np.random.default_rng(0).random(holes.shape) < 0.02] = np.nan
    after = correct(series(holes, MANY), kind=method).series.signals
    assert gain(before, after, clean, np.isfinite(holes) & PHANTOM.mask[..., None]) > decibel


@pytest.mark.parametrize("layer", [np.s_[0:1], np.s_[14:15], np.s_[29:30]])
@pytest.mark.parametrize("volumes", [12, 40])
def test_mppca_denoises_the_border_of_the_image_as_well(layer, volumes):
    bvals = np.resize(FEW, volumes)
    clean = 300.0 + 700.0 * np.exp(-bvals * 0.0015) * np.ones((30, 16, 4, 1))
    before = noisy(clean, sigma=50.0)
    after = correct(series(before, bvals), kind="mppca").series.signals
    assert gain(before, after, clean, layer) > 8.0


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_the_same_series_gives_the_same_bits(method):
    given_series = odd_series((9, 8, 4), 14)
    first, second = (correct(given_series, kind=method).series.signals for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
@pytest.mark.parametrize("factor", [1e-5, 3.0, 1e4])
def test_units_do_not_matter(method, factor):
    given_series = odd_series((9, 8, 4), 14)
    scaled = series(given_series.signals * factor, given_series.bvals)
    once, twice = (correct(one, kind=method).series.signals for one in (given_series, scaled))
    np.testing.assert_allclose(twice, once * factor, rtol=1e-4, atol=1e-4 * factor)


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_negative_values_are_not_clipped_to_a_bias(method):
    signals = np.random.default_rng(0).normal(0.0, 10.0, (20, 18, 3, 20))
    signals[:10] += 500.0 * np.exp(-np.linspace(0, 0.8, 20))
    after = correct(series(signals, np.linspace(0, 800, 20)), kind=method).series.signals
    assert after.min() < 0
    # The standard error of the mean over half the image is 10 / sqrt(10 * 18 * 3 * 20) = 0.1.
    assert abs(after[10:].mean()) < 0.4


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_voxels_without_data_stay(method):
    signals = noisy(truth(MANY)).astype(np.float32)
    inside = PHANTOM.mask.copy()
    inside[:, :8] = False
    inside[:3] = False
    signals[~inside] = 0.0
    result = correct(series(signals, MANY), kind=method)
    after = result.series.signals
    np.testing.assert_array_equal(after[~inside], 0.0)
    assert result.record["VoxelsDenoised"] == inside.sum()
    assert (after[inside] != signals[inside]).mean() > 0.99
    assert gain(signals, after, truth(MANY), inside) > 6.0


def test_an_image_without_data_is_refused():
    with pytest.raises(DataError, match="no voxel has data"):
        correct(series(np.zeros((9, 9, 3, 12)), FEW), kind="mppca")


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_noise_free_images_hardly_change(method):
    clean = truth(MANY)
    after = correct(series(clean, MANY), kind=method).series.signals
    assert rms(after - clean) < 0.005 * PHANTOM.s0[PHANTOM.mask].mean()


@pytest.mark.parametrize(
    ("requested", "volumes", "preprocessed", "method", "reason"),
    [
        ("auto", 5, False, "none", "automatic: 5 volumes, MP-PCA from 6 on"),
        ("auto", 6, False, "mppca", "automatic: 6 volumes, MP-PCA from 6 on"),
        ("auto", 40, True, "none", "automatic: the image is preprocessed"),
        ("none", 40, False, "none", "--denoise none"),
        ("patch2self", 12, False, "patch2self", "--denoise patch2self"),
        ("mppca", 4, True, "mppca", "--denoise mppca"),
    ],
)
def test_choice_and_reason(requested, volumes, preprocessed, method, reason):
    situation = Situation("body", preprocessed, volumes, (6, 6, 3))
    found = STEPS["denoising"].wanted(PreprocessingSettings(denoise=requested), situation)
    assert found == (method, reason)
