"""Gibbs unringing of a truncated k-space against the object it came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.correction import NotPossible
from sicnn_app.preprocess.unring import correct

FINE = 256
COARSE = 64
BVALS = np.array([0.0, 50.0, 200.0, 800.0])


def series(signals):
    signals = np.asarray(signals, np.float32)
    return DwiSeries(signals, np.linspace(0.0, 800.0, signals.shape[3]), None, np.eye(4))


def fine_object():
    """Ellipses of different decay on a fine grid, shape (FINE, FINE, 4)."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, FINE)] * 2, indexing="ij")
    image = np.zeros((FINE, FINE, BVALS.size))
    for centre, axes, s0, d in (
        ((0, 0), (0.8, 0.7), 600, 0.0010),
        ((-0.3, 0.2), (0.25, 0.3), 400, 0.0020),
        ((0.35, -0.2), (0.2, 0.15), -300, 0.0015),
    ):
        inside = ((x - centre[0]) / axes[0]) ** 2 + ((y - centre[1]) / axes[1]) ** 2 < 1
        image += inside[..., None] * s0 * np.exp(-BVALS * d)
    return image


def truncated(image):
    """Magnitude image of the inner COARSE x COARSE samples of the k-space."""
    kspace = np.fft.fftshift(np.fft.fft2(image, axes=(0, 1)), axes=(0, 1))
    keep = slice((FINE - COARSE) // 2, (FINE + COARSE) // 2)
    kspace = np.fft.ifftshift(kspace[keep, keep], axes=(0, 1))
    # The centres of the coarse voxels lie half a voxel less half a fine one from the fine ones'.
    shift = (FINE / COARSE - 1) / 2
    phase = np.exp(2j * np.pi * np.fft.fftfreq(COARSE) * COARSE / FINE * shift)
    kspace *= phase[:, None, None] * phase[None, :, None]
    return np.abs(np.fft.ifft2(kspace, axes=(0, 1))) * (COARSE / FINE) ** 2


def block_means(image):
    step = FINE // COARSE
    return image.reshape(COARSE, step, COARSE, step, -1).mean(axis=(1, 3))


def rms(values):
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


RINGING = truncated(fine_object())[:, :, None]
REFERENCE = block_means(fine_object())[:, :, None]


def smooth_image(shape):
    """Positive image of a few low frequencies, shape (X, Y, Z, 4): nothing in it can ring."""
    phases = [np.arange(size) / size for size in shape[:2]]
    wave = np.cos(2 * np.pi * phases[0])[:, None] + np.sin(4 * np.pi * phases[1])[None]
    return (500 + 100 * wave[..., None, None]) * np.ones(shape)


def distance_from_edges():
    """Voxels to the nearest edge of the object at b = 0, shape (COARSE, COARSE)."""
    slopes = np.gradient(REFERENCE[:, :, 0, 0])
    return distance_transform_edt(np.abs(slopes).sum(axis=0) < 20.0)


def gain(after, where, reference=REFERENCE):
    """Gain of the peak signal-to-noise ratio in some voxels, dB."""
    return 20 * np.log10(rms((RINGING - reference)[where]) / rms((after - reference)[where]))


def test_ringing_beside_edges_falls():
    after = correct(series(RINGING)).series.signals
    distance = distance_from_edges()
    assert gain(after, (distance >= 1) & (distance <= 6)) > 3.0
    assert gain(after, (distance >= 3) & (distance < 9)) > 3.0
    # Every volume by itself, also where the decay left little of the step.
    for volume in range(BVALS.size):
        beside = ((distance >= 1) & (distance <= 6))[..., None, None] & (np.arange(4) == volume)
        assert gain(after, beside) > 2.5


def test_the_price_is_a_softer_edge():
    # Against the object at its own resolution the voxels on the edge get worse, by a few per cent of the step
    # of 600; against one blurred by half a voxel (standard deviation) all voxels together get better.
    after = correct(series(RINGING)).series.signals
    on_edge = distance_from_edges() < 1
    assert rms((after - REFERENCE)[on_edge]) < 0.06 * 600
    blurred = block_means(gaussian_filter(fine_object(), (2, 2, 0)))[:, :, None]
    assert gain(after, np.ones_like(on_edge), blurred) > 2.0


@pytest.mark.parametrize("shape", [(64, 48, 2, 4), (33, 40, 1, 4)])
def test_smooth_images_hardly_change(shape):
    image = smooth_image(shape)
    result = correct(series(image))
    assert rms(result.series.signals - image) < 0.002 * 500
    assert result.record["RootMeanSquareChange"] == pytest.approx(
        rms(result.series.signals - series(image).signals), rel=1e-3
    )


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3)])
def test_the_slice_axis_is_the_shortest(order):
    stack = np.concatenate([RINGING, 0.5 * RINGING], axis=2)
    straight = correct(series(stack))
    turned = correct(series(stack.transpose(order)))
    assert straight.record["SliceAxis"] == 2
    assert turned.record["SliceAxis"] == order.index(2)
    np.testing.assert_allclose(turned.series.signals, straight.series.signals.transpose(order), atol=0.01)


def test_every_slice_and_volume_stands_alone():
    stack = np.concatenate([RINGING, 0.5 * RINGING], axis=2)
    both, one = correct(series(stack)).series.signals, correct(series(RINGING)).series.signals
    np.testing.assert_allclose(both[:, :, :1], one, atol=0.01)
    np.testing.assert_allclose(both[:, :, 1:], 0.5 * one, atol=0.01)


def test_what_is_not_finite_stays_and_harms_little():
    holes = RINGING.astype(np.float32)
    holes[30:33, 31:33] = np.nan
    holes[10, 40, 0, 2] = np.inf
    holes[..., 3] = np.nan
    after = correct(series(holes)).series.signals
    np.testing.assert_array_equal(after[~np.isfinite(holes)], holes[~np.isfinite(holes)])
    assert np.isfinite(after[np.isfinite(holes)]).all()
    distance = distance_from_edges()
    beside = ((distance >= 1) & (distance <= 6))[..., None, None] & np.isfinite(holes)
    assert gain(after, beside) > 3.0


def test_negative_images_keep_their_sign():
    image = smooth_image((40, 36, 2, 4)) - 500.0
    assert rms(correct(series(image)).series.signals - image) < 0.002 * 500


def test_images_without_contrast_are_left_alone():
    image = np.full((12, 12, 2, 4), 7.5)
    image[..., 1] = 0.0
    np.testing.assert_array_equal(correct(series(image)).series.signals, image)


@settings(max_examples=15, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 9), power=st.integers(-10, 20))
def test_any_shape_is_corrected_or_left_alone_with_a_warning(shape, seed, power):
    image = np.random.default_rng(seed).uniform(1.0, 2.0, (*shape, 4)) * 2.0**power
    given_series = series(image)
    before = given_series.signals.copy()
    try:
        result = correct(given_series)
    except NotPossible as obstacle:
        assert sorted(shape)[1] < 8 and "too small" in str(obstacle)
        return
    assert sorted(shape)[1] >= 8
    after = result.series.signals
    np.testing.assert_array_equal(given_series.signals, before)
    assert after.shape == before.shape and after.dtype == np.float32
    assert np.isfinite(after).all() and (after >= 0).all()
    assert not np.array_equal(after, before)
    json.dumps(result.record, allow_nan=False)
