"""The phantom of one subject: maps of F, D, D* and S0 with tissue labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.errors import UsageError
from sicnn_app.ivim.signal import ivim_signal, ivim_signal_maps
from sicnn_app.phantoms import anatomy
from sicnn_app.phantoms.lesions import change_values, lesion_sites
from sicnn_app.phantoms.tissues import LESION, TISSUES, VALUES, Tissue, bounds_of, vary_tissues
from sicnn_app.phantoms.truths import ANATOMIES, S0_SCALE, Place, Truth, shading

DEFAULT_SHAPE = {"abdomen": (96, 80, 8), "brain": (80, 88, 8)}
"""Matrix size of a preset when none is asked for."""

PLAIN = Truth()


@dataclass(frozen=True)
class Phantom:
    """True maps of one subject.

    Attributes
    ----------
    preset : {"abdomen", "brain"}
    f, d, dstar, s0 : ndarray, shape (X, Y, Z), float64
        Fraction, mm^2/s, mm^2/s and image units; 0 in the background.
    labels : ndarray, shape (X, Y, Z), int16
        Code of the tissue; 0 is background.
    mask : ndarray, shape (X, Y, Z), bool
        The body or the brain: every voxel that is not background.
    tissues : tuple of Tissue
        Mean values of this subject's tissues.
    voxel_size : tuple of float, mm
    affine : ndarray, shape (4, 4)
        Voxel to world, mm; the first axis runs to the patient's left in the image and so
        to negative x in the world (LAS).
    parts : Phantom, optional
        The same body on the finer grid that the signals of its voxels are averaged over: then F is the share
        of blood in the signal of a voxel at b = 0, and D and D* are means over its parts, weighted by the
        signal of tissue and of blood.
    """

    preset: str
    f: np.ndarray
    d: np.ndarray
    dstar: np.ndarray
    s0: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    tissues: tuple[Tissue, ...]
    voxel_size: tuple[float, float, float]
    affine: np.ndarray
    parts: Phantom | None = None

    @property
    def purity(self) -> np.ndarray:
        """Share of every voxel that its label holds, shape (X, Y, Z), 0..1; 1 without parts."""
        if self.parts is None:
            return np.ones(self.labels.shape)
        ratio = [have // want for have, want in zip(self.parts.labels.shape, self.labels.shape, strict=True)]
        own = np.kron(self.labels, np.ones(ratio, dtype=self.labels.dtype))
        return _voxel_means(own == self.parts.labels, self.labels.shape)

    def signals(self, bvals: Sequence[float] | np.ndarray) -> np.ndarray:
        """True signals at b-values of shape (N,), s/mm^2; shape (X, Y, Z, N), image units."""
        if self.parts is None:
            return ivim_signal_maps(np.asarray(bvals), self.f, self.d, self.dstar, self.s0)
        distinct, index = np.unique(bvals, return_inverse=True)
        parts = self.parts
        each = (ivim_signal(b, parts.f, parts.d, parts.dstar, parts.s0) for b in distinct)
        return np.stack([_voxel_means(signal, self.mask.shape) for signal in each], axis=-1)[..., index]

    def blood(self, bvals: Sequence[float] | np.ndarray) -> np.ndarray:
        """Part of :meth:`signals` that comes from blood, same shape and unit."""
        return _only_blood(self).signals(bvals)


def _only_blood(phantom: Phantom) -> Phantom:
    parts = None if phantom.parts is None else _only_blood(phantom.parts)
    return replace(phantom, f=np.ones_like(phantom.f), s0=phantom.s0 * phantom.f, parts=parts)


def make_phantom(
    preset: str,
    shape: tuple[int, int, int] | None = None,
    *,
    seed: int | Sequence[int] = 0,
    texture: float = 0.1,
    tissue_variation: float = 0.0,
    truth: Truth = PLAIN,
) -> Phantom:
    """Make the true maps of one subject.

    Parameters
    ----------
    preset : {"abdomen", "brain"}
    shape : tuple of int, (X, Y, Z), optional
        Default: :data:`DEFAULT_SHAPE`. The field of view is fixed, so the voxel size follows.
    seed : int or sequence of int
        Seed of all that is drawn: texture, the subject's tissue values, and what ``truth`` asks for. The
        anatomy of a drawing that is not deformed has none.
    texture : float
        Standard deviation of F, D, D* and S0 within a tissue, relative to the tissue's value:
        half of the variance is smooth in space, half is independent from voxel to voxel. Continuous
        fields have none.
    tissue_variation : float
        Standard deviation of the subject's tissue values around the literature's, relative.
    truth : Truth
        Kind of anatomy, values of tissues, and what else makes it harder.

    Raises
    ------
    UsageError
        For an unknown preset, a shape that is not three positive numbers, a negative deviation, values that
        the preset does not have, or lesions that have no room.
    """
    if preset not in TISSUES:
        raise UsageError(f"the preset must be one of {', '.join(TISSUES)}, not {preset!r}")
    sizes: tuple[int, ...] = DEFAULT_SHAPE[preset] if shape is None else tuple(shape)
    if len(sizes) != 3 or any(int(size) != size or size < 1 for size in sizes):
        raise UsageError(f"the shape must be three whole numbers of 1 or more, not {sizes}")
    shape = sizes[0], sizes[1], sizes[2]
    if not (0 <= texture < 1 and 0 <= tissue_variation < 0.5):
        raise UsageError(
            f"texture must be in 0..1 and between-subject variation in 0..0.5, "
            f"not {texture:g} and {tissue_variation:g}"
        )

    if preset not in VALUES[truth.values].ranges:
        names = [name for name, values in VALUES.items() if preset in values.ranges]
        raise UsageError(
            f"--values must be one of {', '.join(names)} for the preset {preset}, not {truth.values}"
        )

    parts = truth.partial_volume
    grid = anatomy.Grid(preset, (shape[0] * parts, shape[1] * parts, shape[2] * parts), parts)
    place = Place(grid, truth, VALUES[truth.values].ranges[preset], texture)
    bounds = bounds_of(place.ranges)
    rng = np.random.default_rng(seed)
    # Streams of their own: one choice more leaves what the others draw as it is.
    streams = [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(4)]
    row = ANATOMIES[truth.anatomy]
    tissues = vary_tissues(row.tissues(place, streams[0]), tissue_variation, rng, bounds)
    if truth.equal_s0:
        tissues = tuple(replace(tissue, s0=1.0) for tissue in tissues)
    labels = row.labels(place, streams[1])
    maps = row.maps(place, labels, tissues, rng)
    if truth.lesions:
        # A lesion fills whole voxels, also where these have parts.
        perfused = (maps["f"] > 0.01) & (maps["f"] < 0.95) & (labels > 0)
        whole = _voxel_means(perfused, shape) == 1
        sites = lesion_sites(whole, truth.lesions, truth.lesion_voxels, streams[2])
        sites = np.kron(sites, np.ones((parts,) * 3, dtype=sites.dtype))
        change_values(maps, sites, bounds, streams[2])
        labels[sites > 0] = LESION.code
        tissues = (*tissues, LESION)
    if truth.shading:
        maps["s0"] = maps["s0"] * shading(grid.shape, truth.shading, streams[3])
    scales = {"s0": (S0_SCALE, (0.0, None)), **{name: (1.0, limits) for name, limits in bounds.items()}}
    for name, (scale, limits) in scales.items():
        maps[name] = np.where(labels > 0, scale * np.clip(maps[name], *limits), 0.0)
    made = _phantom(grid, tissues, labels, maps)
    return made if parts == 1 else _of_parts(made, anatomy.Grid(preset, shape))


def _phantom(
    grid: anatomy.Grid, tissues: tuple[Tissue, ...], labels: np.ndarray, maps: dict[str, np.ndarray]
) -> Phantom:
    voxel_size = 10.0 * grid.spacing[0], 10.0 * grid.spacing[1], 10.0 * grid.spacing[2]
    affine = np.diag([-voxel_size[0], voxel_size[1], voxel_size[2], 1.0])
    # The world's origin lies in the middle of the image.
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return Phantom(
        preset=grid.preset,
        labels=labels,
        mask=labels > 0,
        tissues=tissues,
        voxel_size=voxel_size,
        affine=affine,
        f=maps["f"],
        d=maps["d"],
        dstar=maps["dstar"],
        s0=maps["s0"],
    )


def _voxel_means(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Means over the parts of every voxel."""
    ratio = [have // want for have, want in zip(values.shape, shape, strict=True)]
    x, y, z = shape
    return values.reshape(x, ratio[0], y, ratio[1], z, ratio[2]).mean(axis=(1, 3, 5))


def _of_parts(parts: Phantom, grid: anatomy.Grid) -> Phantom:
    """Voxels whose parts are those of a finer phantom; a voxel's label is that of most of its parts."""

    def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total, plain = _voxel_means(weights, grid.shape), _voxel_means(values, grid.shape)
        return np.divide(_voxel_means(values * weights, grid.shape), total, out=plain, where=total > 0)

    codes = np.unique(parts.labels)
    shares = np.stack([_voxel_means(parts.labels == code, grid.shape) for code in codes])
    labels = codes[shares.argmax(axis=0)]
    maps = {
        "f": mean(parts.f, parts.s0),
        "d": mean(parts.d, parts.s0 * (1.0 - parts.f)),
        "dstar": mean(parts.dstar, parts.s0 * parts.f),
        "s0": _voxel_means(parts.s0, grid.shape),
    }
    maps = {name: np.where(labels > 0, values, 0.0) for name, values in maps.items()}
    return replace(_phantom(grid, parts.tissues, labels, maps), parts=parts)
