"""Positions of the images of a diffusion-weighted series: one transform per image, found with dipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sicnn_app.preprocess.correction import bounding_box

SMOOTHING = 0.5
"""Standard deviation of the in-plane Gaussian before registration, in sampled voxels. More of it biases the
position where the contrast turns over with b: a smoothed bright rim reaches beyond the object."""

HISTOGRAM_BINS = 32

MAX_SAMPLES = 40_000
"""Voxels of the fixed image that are compared; beyond it only the time grows."""

COARSE_SIZE = 24
"""Sampled voxels per axis from which on a level of half the resolution goes first."""

ITERATIONS = 50
"""Most evaluations of the similarity per level."""

MARGIN = 8
"""Voxels around the object that are kept."""

MIN_OBJECT = 100
"""Voxels; a smaller object has no position worth estimating."""

MIN_MOTION = 0.05
"""Voxels; what nowhere in the object moves further is left where it is."""

MAX_MOTION = 0.2
"""Share of the object's diagonal; what moves further anywhere was not registered."""

MAX_ROTATION = 20.0
"""Degrees."""

MAX_STRETCH = 1.25
"""Largest singular value of an affine transform, and inverse of the smallest."""

NOTABLE_MOTION = 1.0
"""Voxels, mean over the object; an estimate beyond it that explains the image no better than no motion
is a failure to report, a smaller one is noise."""

EVIDENCE_SMOOTHING = 1.0
"""Voxels; in-plane Gaussian before two positions are compared, so that interpolation changes little noise."""

MAX_CHANNELS = 8
"""Most b-values an image is predicted from."""

INPUT_PERCENTILES = (0.1, 99.9)
"""Intensities beyond are clipped before the histogram."""


@dataclass(frozen=True)
class Alignment:
    """Positions of the images of a series.

    Attributes
    ----------
    matrices : ndarray, shape (N, d + 1, d + 1)
        From a voxel of the reference position to the voxel of the image that shows the same tissue.
    failed : list of int
        Images whose registration was rejected; their matrix is the identity.
    object_voxels : ndarray, shape (d, M)
        Voxel coordinates of (a sample of) the object.
    """

    matrices: np.ndarray
    failed: list[int]
    object_voxels: np.ndarray


def align(
    images: np.ndarray,
    groups: np.ndarray,
    *,
    reference: int,
    reference_groups: int,
    zooms: np.ndarray,
    kind: str,
    in_plane: bool,
    progress: Callable[[], None],
) -> Alignment:
    """Find the position of every image of a series, upwards in b.

    All images are registered by mutual information to the mean of the aligned images of low b: directly and
    not to their neighbour in b, so that errors do not add up over the b-values. A position is accepted when
    it explains the image better than no motion by the Bayesian information criterion: the image is compared
    with the linear combination of the aligned means at lower b that resembles it most, at either position.
    On images that did not move this keeps the estimates at exactly zero.

    Parameters
    ----------
    images : ndarray, shape (X, Y, N) or (X, Y, Z, N), finite
    groups : ndarray, shape (N,), int
        Index of the nominal b-value of every image, ascending with b from 0.
    reference : int
        The image, of the lowest b-value, whose position all others are brought to.
    reference_groups : int
        How many of the lowest b-values make the reference, 1 or more.
    zooms : ndarray, shape (d,), mm
    kind : {'rigid', 'affine'}
    in_plane : bool
        In 3-D: only move within the plane of the first two axes, all slices together.
    progress : callable
        Called after every image but the reference.
    """
    dims = images.ndim - 1
    matrices = np.tile(np.eye(dims + 1), (images.shape[-1], 1, 1))
    object_mask = _object(images[..., groups == 0].mean(axis=-1))
    points = np.argwhere(object_mask)
    sample = points[:: max(1, len(points) // 2000)].T
    failed: list[int] = []
    if len(points) < MIN_OBJECT:
        for _ in range(images.shape[-1] - 1):
            progress()
        return Alignment(matrices, failed, sample)
    crop = bounding_box(object_mask, MARGIN)
    registration = _Registration(object_mask[crop], zooms, kind=kind, in_plane=in_plane)
    shift = np.eye(dims + 1)
    shift[:dims, dims] = [axis.start for axis in crop]
    means: list[np.ndarray] = []
    counts: list[int] = []
    fixed = images[..., reference][crop]
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        total = np.zeros(fixed.shape)
        predictors = [means[0], *means[1:][1 - MAX_CHANNELS :]] if means else [fixed]
        for i in members:
            moving = images[..., i][crop]
            matrix, accepted = np.eye(dims + 1), True
            if i != reference:
                matrix, accepted = registration.position(fixed, moving, predictors)
                progress()
            if not accepted:
                failed.append(int(i))
            total += moved(moving, matrix)
            matrices[i] = shift @ matrix @ np.linalg.inv(shift)
        means.append(total / members.size)
        counts.append(members.size)
        if group < reference_groups:
            fixed = np.average(means, axis=0, weights=counts)
    return Alignment(matrices, failed, sample)


def most_typical(images: np.ndarray) -> int:
    """Index of the image (last axis) that correlates most with the mean of all; the first of two."""
    if images.shape[-1] < 3:
        return 0
    step = max(1, round(np.sqrt(images[..., 0].size / MAX_SAMPLES)))
    values = images[::step, ::step].reshape(-1, images.shape[-1]).astype(np.float64)
    values -= values.mean(axis=0)
    norms = np.linalg.norm(values, axis=0)
    products = values.mean(axis=1) @ values
    return int(np.argmax(np.divide(products, norms, out=np.zeros(norms.size), where=norms > 0)))


def moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Resample a finite image by cubic splines; the values at its edge continue outside.

    No value leaves the range of the image: splines overshoot at edges. The matrix, shape (d + 1, d + 1),
    leads from a voxel of the result to the voxel of the image.
    """
    dims = image.ndim
    if np.array_equal(matrix, np.eye(dims + 1)):
        return image
    result = ndimage.affine_transform(
        image.astype(np.float64), matrix[:dims, :dims], matrix[:dims, dims], order=3, mode="nearest"
    )
    return np.clip(result, image.min(), image.max())


def displacements(matrix: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """How far a transform moves voxels, shape (d, M), in voxels along every axis."""
    dims = voxels.shape[0]
    return matrix[:dims, :dims] @ voxels + matrix[:dims, dims:] - voxels


class _Registration:
    """Registers images of one grid; the object and what follows from it are worked out once."""

    def __init__(self, mask: np.ndarray, zooms: np.ndarray, *, kind: str, in_plane: bool) -> None:
        self.mask = mask
        self.zooms = zooms
        self.kind = kind
        self.dims = mask.ndim
        self.in_plane = in_plane and self.dims == 3
        self.points = np.argwhere(mask).T
        extent = np.ptp(self.points, axis=1) * zooms
        self.max_motion = MAX_MOTION * float(np.linalg.norm(extent[:2] if self.in_plane else extent))
        centre = self.points.mean(axis=1)
        offsets = (self.points - centre[:, None]) * zooms[:, None]
        # In units of the object's radius a step in rotation moves as much as one in translation.
        radius = float(np.sqrt((offsets**2).sum(axis=0).mean()))
        self.to_space = np.diag([*(zooms / radius), 1.0])
        self.to_space[: self.dims, self.dims] = -centre * zooms / radius
        self.strides = _strides(mask, zooms)
        free = {("rigid", 2): 3, ("affine", 2): 6, ("rigid", 3): 6, ("affine", 3): 12}
        self.freedom = free[kind, 2 if self.in_plane else self.dims]

    def position(
        self, fixed: np.ndarray, moving: np.ndarray, predictors: list[np.ndarray]
    ) -> tuple[np.ndarray, bool]:
        """Voxel-to-voxel matrix of ``moving``, and whether it could be estimated."""
        identity = np.eye(self.dims + 1)
        if np.ptp(fixed[self.mask]) == 0 or np.ptp(moving[self.mask]) == 0:
            return identity, False
        found = self._register(fixed, moving)
        if found is None or not self._plausible(found):
            return identity, False
        motion = displacements(found, self.points)
        if np.abs(motion).max() < MIN_MOTION:
            return identity, True
        if self._evidence(found, moving, predictors) > 0:
            return found, True
        return identity, float(np.linalg.norm(motion, axis=0).mean()) <= NOTABLE_MOTION

    def _register(self, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
        from dipy.align.imaffine import AffineInvalidValuesError, AffineInversionError

        pick = tuple(slice(None, None, stride) for stride in self.strides)
        images = {
            "static": self._prepared(fixed)[pick],
            "moving": self._prepared(moving),
            "static_grid2world": self.to_space @ np.diag([*self.strides, 1.0]),
            "moving_grid2world": self.to_space,
            "static_mask": self.mask[pick].astype(np.int32),
            "moving_mask": np.ones(moving.shape, dtype=np.int32),
        }
        coarse = min(images["static"].shape[:2]) >= COARSE_SIZE
        try:
            start = self._optimise(images, "rigid", 2 if coarse else 1, None)
            if self.kind == "affine":
                start = self._optimise(images, "affine", 1, start)
        except (AffineInversionError, AffineInvalidValuesError, np.linalg.LinAlgError):
            return None
        return np.linalg.inv(self.to_space) @ start @ self.to_space

    def _optimise(self, images: dict, kind: str, levels: int, start: np.ndarray | None) -> np.ndarray:
        from dipy.align import transforms
        from dipy.align.imaffine import AffineRegistration, MutualInformationMetric

        transform = getattr(transforms, f"{kind.capitalize()}Transform{self.dims}D")()
        metric = MutualInformationMetric(nbins=HISTOGRAM_BINS)
        if self.in_plane:
            _hold_within_plane(metric, kind)
        registration = AffineRegistration(
            metric=metric,
            level_iters=[ITERATIONS] * levels,
            sigmas=[float(self.strides[0]), 0.0][-levels:],
            factors=[2, 1][-levels:],
            options={"gtol": 1e-6, "ftol": 1e-6},
            verbosity=0,
        )
        found = registration.optimize(transform=transform, params0=None, starting_affine=start, **images)
        return found.affine

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        low, high = np.percentile(image, INPUT_PERCENTILES)
        if low == high:
            low, high = image.min(), image.max()
        sigmas = [SMOOTHING * stride for stride in self.strides[:2]] + [0.0] * (self.dims - 2)
        return ndimage.gaussian_filter(np.clip(image, low, high).astype(np.float64), sigmas)

    def _plausible(self, matrix: np.ndarray) -> bool:
        if not np.isfinite(matrix).all():
            return False
        motion = np.linalg.norm(displacements(matrix, self.points) * self.zooms[:, None], axis=0)
        linear = np.diag(self.zooms) @ matrix[: self.dims, : self.dims] @ np.diag(1.0 / self.zooms)
        left, stretches, right = np.linalg.svd(linear)
        cosine = (np.trace(left @ right) - (self.dims - 2)) / 2.0
        return (
            bool(motion.max() <= self.max_motion)
            and cosine >= np.cos(np.deg2rad(MAX_ROTATION))
            and stretches[0] <= MAX_STRETCH
            and stretches[-1] >= 1.0 / MAX_STRETCH
        )

    def _evidence(self, matrix: np.ndarray, moving: np.ndarray, predictors: list[np.ndarray]) -> float:
        """Gain in the Bayesian information criterion over no motion; above 0 for the motion."""
        inside = [*(predictor[self.mask] for predictor in predictors), np.ones(self.points.shape[1])]
        columns = np.stack(inside, axis=1)
        weights = np.linalg.lstsq(columns, moved(moving, matrix)[self.mask], rcond=None)[0]
        sigmas = [EVIDENCE_SMOOTHING] * 2 + [0.0] * (self.dims - 2)
        prediction = sum(w * p for w, p in zip(weights[:-1], predictors, strict=True)) + weights[-1]
        prediction = ndimage.gaussian_filter(prediction, sigmas)
        observed = ndimage.gaussian_filter(moving.astype(np.float64), sigmas)
        # The prediction is moved, not the image: interpolating the image would lower its noise
        # and speak for any motion.
        inverse = np.linalg.inv(matrix)
        seen = displacements(inverse, self.points) + self.points
        limits = np.array(self.mask.shape)[:, None] - 1
        overlap = ((seen >= 0) & (seen <= limits)).all(axis=0)
        target = observed[self.mask][overlap]
        residuals = []
        for candidate in (prediction, moved(prediction, inverse)):
            column = np.stack([candidate[self.mask][overlap], np.ones(target.size)], axis=1)
            fit = column @ np.linalg.lstsq(column, target, rcond=None)[0]
            residuals.append(float(((target - fit) ** 2).sum()))
        still, motion = residuals
        if still <= 0 or motion <= 0:
            return still - motion
        independent = max(target.size / (4.0 * np.pi * EVIDENCE_SMOOTHING**2), 2.0)
        return float(independent * np.log(still / motion) - self.freedom * np.log(independent))


def _hold_within_plane(metric, kind: str) -> None:
    """Hold the parameters of a 3-D transform that leave the plane of the first two axes."""
    # Order of the parameters: rotations about x, y, z, then translations; or the rows of the matrix.
    free = [2, 3, 4] if kind == "rigid" else [0, 1, 3, 4, 5, 7]
    full = metric.distance_and_gradient

    def distance_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        distance, gradient = full(parameters)
        held = np.zeros_like(gradient)
        held[free] = gradient[free]
        return distance, held

    metric.distance_and_gradient = distance_and_gradient


def _object(image: np.ndarray) -> np.ndarray:
    """Where the object is, two voxels wider in plane: its outline says most about its position."""
    from dipy.segment.threshold import otsu

    smooth = ndimage.gaussian_filter(image.astype(np.float64), [1.0] * 2 + [0.0] * (image.ndim - 2))
    if np.ptp(smooth) == 0:
        return np.zeros(image.shape, dtype=bool)
    # Half of Otsu's threshold keeps the dark tissue beside the bright one.
    mask = smooth > smooth.min() + 0.5 * (otsu(smooth) - smooth.min())
    cross = ndimage.generate_binary_structure(2, 1).reshape((3, 3) + (1,) * (image.ndim - 2))
    return ndimage.binary_dilation(mask, cross, iterations=2)


def _strides(mask: np.ndarray, zooms: np.ndarray) -> np.ndarray:
    """Steps of the sampling grid: the finest axis is thinned first, until few enough voxels remain."""
    strides = np.ones(mask.ndim, dtype=int)
    while mask.sum() / strides.prod() > MAX_SAMPLES:
        strides[np.argmin(zooms * strides)] += 1
    return strides
