"""Masks that cut into the body, or hold air, and masks that only look a little like it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sicnn_app.phantoms.acquire import acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.mask import body_mask, brain_mask
from sicnn_app.preprocess.mask_doubts import doubts_of_mask

PHANTOM = make_phantom("abdomen", (64, 52, 3), seed=0)
LOW, HIGH = np.moveaxis(acquire(PHANTOM, np.array([0.0, 800.0]), snr=30, seed=0), 3, 0)
TISSUE = body_mask(LOW, HIGH, (LOW + HIGH) / 2).voxels
X, Y = PHANTOM.mask.shape[0] // 2, PHANTOM.mask.shape[1] // 2


def doubts(mask: np.ndarray, *, axis: int = 2) -> str:
    turned = (np.swapaxes(image, 2, axis) for image in (mask, TISSUE, LOW, HIGH))
    return " ".join(doubts_of_mask(*turned, slice_axis=axis))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "box",
    [
        np.s_[X:, Y:, :2],
        np.s_[X:, :, :2],
        np.s_[:, :Y, :2],
        np.s_[X - 5 : X + 5, Y - 4 : Y + 5, :2],
        np.s_[X - 3 : X + 3, :, :2],
    ],
    ids=["quarter", "half", "other half", "hole", "strip"],
)
def test_what_was_cut_out_straight_is_told(box, axis):
    mask = PHANTOM.mask.copy()
    mask[box] = False
    said = doubts(mask, axis=axis)
    share = (TISSUE & ~mask)[:, :, :2].sum() / TISSUE[:, :, :2].sum()
    assert "straight edges inside the body" in said
    assert f"slices 0, 1 (counted from 0), of whose tissue it leaves out {share:.0%}" in said


@settings(max_examples=25, deadline=None)
@given(st.floats(4, 40), st.floats(0.25, 1), st.floats(0, 180), st.floats(-8, 8), st.floats(-8, 8))
def test_round_masks_of_organs_are_not_doubted(radius, aspect, angle, x, y):
    turn = np.deg2rad(angle)
    dx, dy = np.indices(PHANTOM.mask.shape)[:2] - np.array([X + x, Y + y])[:, None, None, None]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    assert doubts(np.hypot(along, across / aspect) < radius) == ""


@pytest.mark.parametrize(
    "mask",
    [
        PHANTOM.mask,
        TISSUE,
        ndimage.binary_erosion(PHANTOM.mask, np.ones((3, 3, 1)), iterations=2),
        ndimage.binary_dilation(PHANTOM.mask, iterations=3),
        brain_mask(LOW, HIGH, (LOW + HIGH) / 2).voxels,
        *(PHANTOM.labels == label for label in np.unique(PHANTOM.labels)[1:]),
    ],
)
def test_masks_of_the_body_and_its_organs_are_not_doubted(mask):
    assert doubts(mask) == ""


def test_a_mask_of_air_is_told():
    air = ~ndimage.binary_dilation(TISSUE, iterations=2)
    assert "100% of the voxels of the mask hold no tissue" in doubts(air)
    shifted = np.roll(PHANTOM.mask, 40, axis=0)
    assert ("hold no tissue" in doubts(shifted)) == ((shifted & ~TISSUE).sum() > 0.5 * shifted.sum())


def test_images_that_were_cut_to_the_mask_are_not_doubted():
    mask = PHANTOM.mask.copy()
    mask[X:, Y:] = False
    low, high = np.where(mask, LOW, 0), np.where(mask, HIGH, 0)
    tissue = body_mask(low, high, low).voxels
    assert doubts_of_mask(mask, tissue, low, high, 2) == []
