"""What speaks against a mask that was given: right angles and straight cuts inside the body, and air."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sicnn_app.preprocess.correction import find_slice_axis
from sicnn_app.preprocess.mask import MAX_FAINT_RATIO

MIN_LEG = 7
"""Voxels of both legs of a right angle. Of two steps of a curve on a grid that meet, one is one voxel long;
in masks drawn by hand on a grid, and in thresholded ones, both are up to six."""

MIN_CUT = 8
"""Voxels of a straight edge from one end of the tissue to the other."""

CUT_WIDTH = 0.4
"""Share of the width of the tissue that such an edge has; the flat top of a curve has less."""

RIM = 2
"""Voxels within the outline of the tissue in which edges of a mask follow it, whatever its shape."""

MAX_AIR = 0.5
"""Share of a mask outside of the tissue; masks of the body hold suppressed fat that looks like air."""


def doubts_of_mask(
    mask: np.ndarray, tissue: np.ndarray, low: np.ndarray, high: np.ndarray, slice_axis: int | None = None
) -> list[str]:
    """What looks wrong about a mask, one line each.

    Parameters
    ----------
    mask, tissue : ndarray, shape (X, Y, Z), bool
        The mask, and where the image shows tissue (:func:`sicnn_app.preprocess.mask.body_mask`).
    low, high : ndarray, shape (X, Y, Z)
        Mean images at low b and at the highest b, same units.
    slice_axis : int, optional
        Axis across the slices; guessed by default.
    """
    doubts = []
    air = mask & ~tissue
    # Noise has the same mean at every b-value.
    fades = np.nansum(high[air]) < MAX_FAINT_RATIO * np.nansum(low[air])
    if tissue.any() and air.sum() > MAX_AIR * mask.sum() and not fades:
        doubts.append(
            f"{air.sum() / mask.sum():.0%} of the voxels of the mask hold no tissue, their signal is that of "
            "air: check that the mask belongs to these images"
        )
    across = find_slice_axis(mask.shape, slice_axis)
    cut = [number for number, found in enumerate(_cut_slices(mask, tissue, across)) if found]
    if cut:
        left_out = np.take(tissue & ~mask, cut, across).sum() / np.take(tissue, cut, across).sum()
        shown = ", ".join(map(str, cut[:5])) + (f" and {len(cut) - 5} more" if len(cut) > 5 else "")
        doubts.append(
            f"the mask has straight edges inside the body, as if a rectangle was cut out, in slices {shown} "
            f"(counted from 0), of whose tissue it leaves out {left_out:.0%}: check that this is meant"
        )
    return doubts


def _cut_slices(mask: np.ndarray, tissue: np.ndarray, across: int) -> np.ndarray:
    """Slices in which the mask has right angles or straight cuts well inside the tissue, shape (S,), bool."""
    mask, tissue = (np.moveaxis(image, across, 0) for image in (mask, tissue))
    plane = ndimage.generate_binary_structure(3, 1)
    plane[[0, 2]] = False
    body = ndimage.binary_erosion(tissue, plane, iterations=RIM, border_value=1)
    inner, outer = mask & body, ~mask & body
    found = np.zeros(mask.shape, dtype=bool)
    for turns in range(4):
        within, beyond = (np.rot90(leg, turns, axes=(1, 2)) for leg in _right_angle())
        for one, other in ((inner, outer), (outer, inner)):
            found |= ndimage.binary_erosion(one, within) & ndimage.binary_erosion(other, beyond)
    slices = np.asarray(found.any(axis=(1, 2)))
    for along in (1, 2):
        slices |= _cut_across(*(np.swapaxes(image, along, 2) for image in (inner, outer, tissue)))
    return slices


def _right_angle() -> tuple[np.ndarray, np.ndarray]:
    """Voxels on both sides of the legs of a right angle, within it and beyond."""
    within, beyond = np.zeros((2, 1, MIN_LEG + 1, MIN_LEG + 1), dtype=bool)
    within[0, 1, 1:] = within[0, 1:, 1] = beyond[0, 0] = beyond[0, :, 0] = True
    return within, beyond


def _cut_across(inner: np.ndarray, outer: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Slices in which an edge along the last axis goes from one end of the tissue to the other.

    Not where the tissue ends with the image: masks of long organs end there as well.
    """
    pairs = (inner | outer)[:, :-1] & (inner | outer)[:, 1:]
    pieces, _ = ndimage.label(pairs, [[[0] * 3] * 3, [[0] * 3, [1] * 3, [0] * 3], [[0] * 3] * 3])
    sizes = np.bincount(pieces.ravel())
    whole = np.zeros(sizes.size, dtype=bool)
    for one, other in ((inner, outer), (outer, inner)):
        edges = np.bincount(pieces[one[:, :-1] & other[:, 1:]], minlength=sizes.size)
        whole |= (edges == sizes) & (sizes >= MIN_CUT)
    whole[np.r_[0, pieces[..., 0].ravel(), pieces[..., -1].ravel()]] = False
    longest = (sizes * whole)[pieces].max(axis=(1, 2), initial=0)
    return longest > CUT_WIDTH * tissue.sum(axis=2).max(axis=1)
