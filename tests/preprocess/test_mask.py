"""Masks of phantoms with known extent, and of real data where a reference exists."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sicnn_app.errors import DataError
from sicnn_app.preprocess import mask as masks
from sicnn_app.preprocess.mask import check_mask

ABDOMEN = Path(__file__).parents[2] / "../shared/data/ivim-abdomen"
CORD = Path(__file__).parents[2] / "../shared/data/ivim-cord"


def body_mask(low, high, overall=None):
    return masks.body_mask(low, high, low if overall is None else overall)


def brain_mask(low, high, overall=None):
    return masks.brain_mask(low, high, low if overall is None else overall)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def coordinates(shape):
    """Two in-plane coordinates in -1..1."""
    u, v, _ = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    return 2 * u / (shape[0] - 1) - 1, 2 * v / (shape[1] - 1) - 1


def abdomen(shape=(64, 56, 3), centre=(0.0, 0.0)):
    u, v = coordinates(shape)
    u, v = u - centre[0], v - centre[1]
    body = (u / 0.7) ** 2 + (v / 0.5) ** 2 < 1
    signal = np.where(body, 0.25, 0.0)
    signal[((u + 0.3) / 0.25) ** 2 + (v / 0.3) ** 2 < 1] = 0.45
    signal[((u - 0.35) / 0.12) ** 2 + ((v - 0.2) / 0.15) ** 2 < 1] = 1.0
    return body, signal


def legs(shape=(64, 48, 4)):
    u, v = coordinates(shape)
    big, small = (u + 0.45) ** 2 + v**2 < 0.35**2, (u - 0.5) ** 2 + v**2 < 0.22**2
    marrow = (u + 0.45) ** 2 + v**2 < 0.1**2
    return big | small, np.where(big | small, 0.6, 0.0) * ~marrow


def head(shape=(64, 64, 5)):
    u, v = coordinates(shape)
    radius = (u / 0.8) ** 2 + (v / 0.65) ** 2
    signal = np.where(radius < 1, 0.08, 0.0)
    signal[radius < 0.7] = 0.6
    signal[radius < 0.04] = 1.0
    return radius < 0.7, signal


def measured(signal, snr, seed=0, volumes=2, diffusion=0.0015):
    """Rician mean images at b = 0 and b = 500 s/mm^2, SNR of a signal of 1."""
    rng = np.random.default_rng(seed)

    def image(truth):
        shape = (volumes, *truth.shape)
        noise = rng.standard_normal((2, *shape)) / snr
        return 100 * np.hypot(truth + noise[0], noise[1]).mean(axis=0)

    return image(signal), image(signal * np.exp(-500 * diffusion))


@pytest.mark.parametrize("snr", [12, 30, 100, 1e6])
@pytest.mark.parametrize("shape", [(64, 56, 3), (64, 56, 1), (64, 1, 56), (3, 64, 56)])
def test_body_of_an_abdomen_in_any_orientation(snr, shape):
    body, signal = abdomen()
    axis = int(np.argmin(shape))
    body = np.moveaxis(body[..., : shape[axis]], 2, axis)
    signal = np.moveaxis(signal[..., : shape[axis]], 2, axis)
    assert dice(body_mask(*measured(signal, snr)).voxels, body) > 0.97


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.3, 0.45), (-0.35, -0.6)])
def test_body_position_is_not_assumed(centre):
    body, signal = abdomen(centre=centre)
    assert dice(body_mask(*measured(signal, 30)).voxels, body) > 0.97


def test_both_legs_are_kept_and_dark_marrow_is_filled():
    body, signal = legs()
    found = body_mask(*measured(signal, 20)).voxels
    assert dice(found, body) > 0.97
    assert found[17, 23, 1], "marrow of the large leg"


def test_specks_outside_are_dropped():
    body, signal = abdomen()
    signal[2:5, 2:5] = 1.0
    found = body_mask(*measured(signal, 30)).voxels
    assert not found[:7, :7].any() and dice(found, body) > 0.97


def test_image_without_background_is_kept_whole():
    signal = np.full((40, 40, 2), 0.4)
    signal[15:25, 15:30] = 1.0
    result = body_mask(*measured(signal, 30))
    assert result.voxels.all()
    assert "no background" in result.warnings[0]


def test_little_background_beside_very_bright_organs_is_still_found():
    signal = np.full((60, 60, 2), 0.25)
    signal[10:50, 10:40] = 1.0
    signal[:, 54:] = 0.0
    found = body_mask(*measured(signal, 40)).voxels
    assert found[:, :54].mean() > 0.99 and found[:, 55:].mean() < 0.01


def test_nan_islands_and_negative_background():
    body, signal = abdomen()
    rng = np.random.default_rng(3)
    low = 100 * signal + rng.normal(0, 2.0, signal.shape)
    high = 100 * signal * np.exp(-0.75) + rng.normal(0, 2.0, signal.shape)
    low[30:33, 25:28] = high[30:33, 25:28] = np.nan
    low[0, 0] = np.inf
    assert np.nanmin(low) < 0
    assert dice(body_mask(low, high).voxels, body) > 0.97


def test_the_images_are_not_changed():
    low, high = measured(abdomen()[1], 20)
    low[0, 0, 0] = np.nan
    before = low.copy(), high.copy()
    body_mask(low, high)
    brain_mask(low, high)
    np.testing.assert_array_equal(low, before[0])
    np.testing.assert_array_equal(high, before[1])


def test_faint_tissue_is_found_in_the_mean_of_all_volumes():
    body, signal = abdomen()
    u, v = coordinates(signal.shape)
    ring = ((u / 0.85) ** 2 + (v / 0.65) ** 2 < 1) & ~body
    signal[ring] = 0.1
    diffusion = np.where(ring, 0.0002, 0.0015)
    low, high = measured(signal, 30, diffusion=diffusion)
    overall, _ = measured(signal, 30, volumes=12, diffusion=diffusion, seed=1)
    assert dice(body_mask(low, high, overall).voxels, body | ring) > 0.98


def test_noise_alone_is_no_faint_tissue():
    body, signal = abdomen()
    low, high = measured(signal, 20)
    overall, _ = measured(signal, 20, volumes=12, seed=1)
    assert dice(body_mask(low, high, overall).voxels, body) > 0.97


@pytest.mark.parametrize("ratio", [1.0, 1.2])
def test_a_separate_background_that_does_not_decay_is_no_tissue(ratio):
    """Two levels of air, as where a scanner scales its noise from region to region."""
    body, signal = abdomen()
    low, high = measured(signal, 120)
    u, _ = coordinates(signal.shape)
    loud = (u > 0) & ~body
    low, high = np.where(loud, 5 * low, low), np.where(loud, 5 * ratio * high, high)
    assert dice(body_mask(low, high, low).voxels, body) > 0.97


@pytest.mark.parametrize("level", [0.0, 0.1, 0.4, 0.9])
def test_an_even_background_is_not_brain(level):
    """dipy's Otsu threshold is the lower edge of a bin; here one bin holds all of the background."""
    brain, signal = head()
    low = 100 * signal + level
    low[signal == 0.08] = level
    assert dice(brain_mask(low, 0.5 * low).voxels, brain) > 0.97


@pytest.mark.parametrize("make", [body_mask, brain_mask])
def test_gaps_and_negative_values_of_the_overall_mean_do_no_harm(make):
    low, high = measured(head()[1], 20)
    overall = low - np.percentile(low, 5)
    expected = make(low, high, overall).voxels
    overall[30:33, 30:33], overall[0, 0], overall[5, 5] = np.nan, np.inf, -np.inf
    assert dice(make(low, high, overall).voxels, expected) > 0.98


@pytest.mark.parametrize("make", [body_mask, brain_mask])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 1), (2, 2, 2), (1, 40, 3), (5, 4, 1)])
def test_tiny_and_thin_images_with_signal_give_a_mask(make, shape):
    low, high = measured(np.full(shape, 1.0), 50)
    found = make(low, high, low).voxels
    assert found.shape == shape and found.dtype == bool and found.any()


@pytest.mark.parametrize("make", [body_mask, brain_mask])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_images_without_signal_give_an_empty_mask(make, value):
    image = np.full((6, 6, 2), value)
    assert not make(image, image).voxels.any()


@pytest.mark.parametrize("slices", [1, 5])
@pytest.mark.parametrize("snr", [10, 30])
def test_brain_without_scalp(slices, snr):
    brain, signal = head((64, 64, slices))
    assert dice(brain_mask(*measured(signal, snr)).voxels, brain) > 0.97


def test_an_implausible_brain_falls_back_to_the_body_with_a_warning():
    body, signal = abdomen()
    signal[28:36, 24:32] = 8.0
    result = brain_mask(*measured(signal, 30))
    assert any("median_otsu" in warning for warning in result.warnings)
    assert dice(result.voxels, body) > 0.97


def test_given_masks_are_binarised():
    mask = np.zeros((3, 2, 1))
    mask[0, 0], mask[1, 0], mask[2, 0] = 0.2, np.nan, -1.0
    np.testing.assert_array_equal(np.flatnonzero(check_mask(mask, (3, 2, 1))), [0])


@pytest.mark.parametrize("given", [(3, 2), (3, 2, 1), (3, 2, 1, 1)])
def test_given_masks_may_drop_or_add_singleton_dimensions(given):
    assert check_mask(np.ones(given), (3, 2, 1)).shape == (3, 2, 1)


@pytest.mark.parametrize("given", [(2, 3, 1), (6, 1, 1), (3, 2, 2), (3, 2, 1, 2)])
def test_given_masks_of_another_shape_are_refused(given):
    with pytest.raises(DataError, match="shape"):
        check_mask(np.ones(given), (3, 2, 1))


@pytest.mark.parametrize("value", [0.0, -2.0, np.nan])
def test_empty_given_masks_are_refused(value):
    with pytest.raises(DataError, match="empty"):
        check_mask(np.full((3, 2, 1), value), (3, 2, 1))


def real_images(stem: Path):
    signals = nib.load(f"{stem}_dwi.nii.gz").get_fdata(dtype=np.float32)
    bvals = np.loadtxt(f"{stem}_dwi.bval")
    return signals[..., bvals <= 50].mean(axis=3), signals[..., bvals == bvals.max()].mean(axis=3)


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason="the abdominal example data are not there")
@pytest.mark.parametrize("acquisition", ["T70", "T100"])
@pytest.mark.parametrize("subject", ["01", "02", "03"])
def test_real_abdomen_against_the_mask_of_the_study(subject, acquisition):
    found = body_mask(*real_images(ABDOMEN / f"sub-{subject}/dwi/sub-{subject}_acq-{acquisition}")).voxels
    rois = ABDOMEN / f"derivatives/rois/sub-{subject}/dwi/sub-{subject}"
    study = nib.load(f"{rois}_desc-body_mask.nii.gz").get_fdata() > 0
    organs = nib.load(f"{rois}_desc-organs_dseg.nii.gz").get_fdata() > 0
    assert (found & organs).sum() == organs.sum()
    assert (found & study).sum() > 0.99 * study.sum()
    if (
        subject != "01"
    ):  # its mask leaves out a rectangle in the middle of the body, so only coverage can be asked
        assert dice(found, study) > 0.93


@pytest.mark.skipif(not CORD.is_dir(), reason="the spinal cord example data are not there")
@pytest.mark.parametrize("acquisition", ["ap", "rl", "is"])
def test_real_neck_holds_the_cord_and_not_the_background(acquisition):
    found = body_mask(*real_images(CORD / f"sub-01/dwi/sub-01_acq-{acquisition}")).voxels
    cord = nib.load(CORD / "derivatives/seg/sub-01/dwi/sub-01_desc-cord_mask.nii.gz").get_fdata() > 0
    assert (found & cord).sum() > 0.95 * cord.sum()
    assert 0.25 < found.mean() < 0.5
