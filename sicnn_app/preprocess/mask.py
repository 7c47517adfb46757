"""Where the body or the brain is: masks from the mean image at low b."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from dipy.segment.threshold import otsu
from scipy import ndimage

from sicnn_app.errors import DataError
from sicnn_app.preprocess.correction import find_slice_axis

SMOOTHING_WIDTH = 3
"""Voxels; side of the in-plane median filter before the threshold. Unlike a Gaussian filter it
does not spread bright edges outwards."""

SIGNAL_FLOOR = 0.01
"""Share of the 99th percentile added before the logarithm, so that zeros and negative voxels stay finite."""

MAX_BACKGROUND_LEVEL = 0.2
"""A class below this share of the brighter one may be background whatever its decay (air, zero filling)."""

MIN_BACKGROUND_RATIO = 0.65
"""S(high b) / S(low b) above which a class does not decay. Magnitude noise has 1, tissue at b >= 400 s/mm^2
about exp(-400 * 0.0012) = 0.6 or less."""

HISTOGRAM_BINS = 256

MAX_SPLITS = 3
"""Bright organs, dark tissue and background are at most three classes apart."""

MIN_SEPARATION = 5.5
"""Pooled standard deviations of the logarithm between faint tissue and the air. Noise cut in two lies 2 to
2.5 apart; suppressed fat of SNR 2 and more over ten volumes 6 or more; the outline of the body in abdominal
images whose fat is suppressed down to the noise up to 4.8, and those are better left alone."""

MIN_FAINT_LEVEL = 0.1
"""Share of the signal of the body below which a separate faint class is ghosts rather than tissue."""

MAX_FAINT_RATIO = 0.93
"""S(high b) / S(low b) from which on a faint class is noise, which has 1, or 0.94 under ghosts; fat with
D = 0.0002 mm^2/s has 0.85 at b = 800 s/mm^2."""

NO_DATA_LEVEL = 1e-3
"""Share of the 99th percentile up to which a voxel holds padding and no air; noise is 3e-3 and more."""

MIN_COMPONENT_SHARE = 0.2
"""Components of at least this share of the largest one are body too (a second leg, arms)."""

MIN_MASK_SHARE = 0.01
"""A brain below this share of the image, or a tenth of the body mask, is a failure of the method."""

MEDIAN_PASSES = 4
MAX_MEDIAN_RADIUS = 4
"""Passes and voxels of the median filter: the defaults of ``dipy.segment.mask.median_otsu``."""


@dataclass(frozen=True)
class Mask:
    """A mask, shape (X, Y, Z), bool, and how it was made, in words for the sidecar."""

    voxels: np.ndarray
    method: str
    warnings: list[str] = field(default_factory=list)


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Binarise a given mask (> 0; NaN counts as outside) and bring it to the shape of the image.

    Trailing singleton dimensions may be added or missing.

    Raises
    ------
    DataError
        When the shapes differ or no voxel is inside.
    """
    mask = np.asarray(mask)
    given, wanted = (np.trim_zeros(np.array(sizes) - 1, "b").tolist() for sizes in (mask.shape, shape))
    if given != wanted:
        raise DataError(
            f"the mask has shape {mask.shape}, the image {tuple(shape)}: give a mask on the grid of the image"
        )
    inside = np.greater(mask, 0).reshape(shape)
    if not inside.any():
        raise DataError("the mask is empty: no voxel is above 0")
    return inside


def body_mask(
    low: np.ndarray, high: np.ndarray, overall: np.ndarray, *, slice_axis: int | None = None
) -> Mask:
    """Everything that gives signal, wherever it lies in the image.

    1. Take the median of 3 x 3 voxels in the slice plane and L = log(S + floor): in the logarithm
       dark tissue lies nearer to the bright organs than to the background.
    2. Split L by Otsu's threshold. The darker class is background when it is dark and does not
       decay from low to high b, as tissue does and the noise floor does not; otherwise it is dark
       tissue, and is split again. If no class is background the tissue fills the image.
    3. Split the background once more, by L of the mean over all volumes, where noise is lowest. Its
       brighter part is body too (suppressed fat, and thin muscle behind it) when it stands clear of
       the rest (:data:`MIN_SEPARATION`), decays, and is no ghost.
    4. Drop specks (opening), keep components of at least 20 % of the largest, fill holes in
       3-D and in every slice.

    Nothing is assumed about position, number or shape of the parts.

    Parameters
    ----------
    low, high, overall : ndarray, shape (X, Y, Z)
        Mean images at low b, at the highest b and over all volumes, same units; may hold NaN and negative
        values.
    slice_axis : int, optional
        Axis across the slices; guessed by default.

    Returns
    -------
    Mask
        Empty only when ``low`` has no positive voxel.

    References
    ----------
    Otsu, IEEE Trans Syst Man Cybern 1979;9:62-66.
    """
    finite = np.isfinite(low)
    low, high, overall = (_not_negative(image) for image in (low, high, overall))
    across = find_slice_axis(low.shape, slice_axis)
    smooth = _smooth(low, across)
    threshold = _background_threshold(smooth, high)
    if threshold is None:
        return Mask(
            voxels=finite & (low > 0),
            method="every voxel with signal: no background was found in the image",
            warnings=["no background was found in the image: the mask holds every voxel with signal"],
        )
    above = smooth > threshold
    above |= _faint_tissue(_smooth(overall, across), above, low, high)
    opened = _open(above, across)
    return Mask(
        voxels=_fill(_large_components(opened if opened.any() else above), across),
        method="body mask: Otsu threshold on the logarithm of the smoothed mean image at low b, "
        f"components of at least {MIN_COMPONENT_SHARE:.0%} of the largest, holes filled",
    )


def brain_mask(
    low: np.ndarray, high: np.ndarray, overall: np.ndarray, *, slice_axis: int | None = None
) -> Mask:
    """Brain by ``dipy.segment.mask.median_otsu``: median filters, Otsu threshold, largest component.

    The radius of the median filter shrinks with the matrix, so that small images keep their shape.
    When the result is empty or implausibly small the body mask is used instead, with a warning.
    Parameters as in :func:`body_mask`.
    """
    # Takes half a second to load, and a body needs none.
    from dipy.segment.mask import median_otsu

    across = find_slice_axis(low.shape, slice_axis)
    radius = int(np.clip(np.delete(low.shape, across).min() // 24, 1, MAX_MEDIAN_RADIUS))
    image = _not_negative(low)
    # median_otsu cuts at the lower edge of a bin, so an even background that is not zero would lie above it.
    image[image < SIGNAL_FLOOR * np.percentile(image, 99)] = 0.0
    body = body_mask(low, high, overall, slice_axis=slice_axis)
    voxels = np.zeros(low.shape, dtype=bool)
    if np.ptp(image) > 0:
        # The median filter can leave a tiny image without contrast, where Otsu's method divides 0 by 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            _, voxels = median_otsu(image, median_radius=radius, numpass=MEDIAN_PASSES)
        voxels = _fill(_large_components(voxels, share=1.0), across)
    if voxels.sum() < max(MIN_MASK_SHARE * voxels.size, 0.1 * body.voxels.sum(), 1):
        warning = (
            f"median_otsu found a brain of {int(voxels.sum())} voxels, too few to be one: "
            "the body mask is used; a mask can be given with --derivatives"
        )
        return Mask(body.voxels, f"{body.method} (median_otsu failed)", [*body.warnings, warning])
    return Mask(
        voxels, f"brain mask: dipy median_otsu, radius {radius}, {MEDIAN_PASSES} passes, holes filled"
    )


def _not_negative(image: np.ndarray) -> np.ndarray:
    return np.maximum(np.nan_to_num(image, posinf=0.0, neginf=0.0), 0.0).astype(np.float64)


def _smooth(image: np.ndarray, across: int) -> np.ndarray:
    return ndimage.median_filter(image, size=[1 if axis == across else SMOOTHING_WIDTH for axis in range(3)])


def _background_threshold(smooth: np.ndarray, high: np.ndarray) -> float | None:
    """Signal below which a voxel is background; None when there is no background."""
    if not smooth.any():
        return None
    floor = SIGNAL_FLOOR * np.percentile(smooth[smooth > 0], 99)
    logarithm = np.log(smooth + floor)
    candidates = np.ones(smooth.shape, dtype=bool)
    for _ in range(MAX_SPLITS):
        if np.ptp(logarithm[candidates]) == 0:
            return None
        cut = _otsu(logarithm[candidates])
        dark, bright = candidates & (logarithm <= cut), candidates & (logarithm > cut)
        dark_level, bright_level = np.median(smooth[dark]), np.median(smooth[bright])
        decays = np.median(high[dark]) < MIN_BACKGROUND_RATIO * dark_level
        if not decays or dark_level < MAX_BACKGROUND_LEVEL * bright_level:
            return float(smooth[dark].max() + smooth[bright].min()) / 2
        candidates = dark
    return None


def _faint_tissue(smooth: np.ndarray, body: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Voxels outside ``body`` that give signal all the same; none when the background is air only."""
    nothing = np.zeros(body.shape, dtype=bool)
    dark = ~body & (smooth > NO_DATA_LEVEL * np.percentile(smooth[body], 99))
    logarithm = np.log(smooth[dark])
    if logarithm.size == 0 or np.ptp(logarithm) == 0:
        return nothing
    is_faint = logarithm > _otsu(logarithm)
    classes = logarithm[is_faint], logarithm[~is_faint]
    spread = np.sqrt(np.average([part.var() for part in classes], weights=[part.size for part in classes]))
    separated = classes[0].mean() - classes[1].mean() >= MIN_SEPARATION * spread
    faint = nothing.copy()
    faint[dark] = is_faint
    decays = high[faint].mean() < MAX_FAINT_RATIO * low[faint].mean()
    visible = np.median(smooth[faint]) >= MIN_FAINT_LEVEL * np.median(smooth[body])
    return faint if separated and decays and visible else nothing


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold; values up to it are the darker class, and neither class is empty."""
    # dipy returns the lower edge of the last bin of the darker class, which still belongs to it.
    return float(otsu(values, nbins=HISTOGRAM_BINS) + np.ptp(values) / HISTOGRAM_BINS)


def _cross(*flat: int) -> np.ndarray:
    """Cross of 3 x 3 x 3 voxels without its arms along some axes."""
    cross = ndimage.generate_binary_structure(3, 1)
    for axis in flat:
        np.moveaxis(cross, axis, 0)[[0, 2]] = False
    return cross


def _open(mask: np.ndarray, across: int) -> np.ndarray:
    """Opening by a cross in the slice plane; the border of the image does not count as outside."""
    single = (axis for axis in range(3) if mask.shape[axis] == 1)
    padded = np.pad(mask, 1, mode="edge")
    return ndimage.binary_opening(padded, _cross(across, *single))[1:-1, 1:-1, 1:-1] & mask


def _large_components(mask: np.ndarray, share: float = MIN_COMPONENT_SHARE) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    return np.isin(labels, 1 + np.flatnonzero(sizes >= share * sizes.max()))


def _fill(mask: np.ndarray, across: int) -> np.ndarray:
    """Fill cavities closed in 3-D or within one slice."""
    return ndimage.binary_fill_holes(ndimage.binary_fill_holes(mask), _cross(across))
