"""Array -> the picture a radiologist expects: slices of the acquisition plane, turned and labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np

MAX_SLICES = 12
MIN_SLICE_SHARE = 0.1
"""A slice with less than this share of the largest slice's mask is left out of the pictures."""

CROP_MARGIN = 0.06
"""Border kept around the mask, as a share of its extent."""

_PLANES = ("sagittal", "coronal", "axial")
_ENDS = (("R", "L"), ("A", "P"), ("S", "I"))
"""Positive and negative end of every world axis."""


@dataclass(frozen=True)
class Display:
    """How slices along the third array axis are turned, cropped and chosen.

    Attributes
    ----------
    transpose : bool
        The first array axis runs down the picture instead of across.
    flip_across, flip_down : bool
        After the transposition.
    crop : tuple of slice
        Of the first two array axes.
    slices : tuple of int
        Indices along the third array axis.
    aspect : float
        Height of a pixel over its width.
    edges : tuple of str or None
        Anatomical letters at left, right, top, bottom; None when the orientation is unknown.
    plane : str or None
        ``axial``, ``coronal`` or ``sagittal``.
    """

    transpose: bool
    flip_across: bool
    flip_down: bool
    crop: tuple[slice, slice]
    slices: tuple[int, ...]
    aspect: float
    edges: tuple[str, str, str, str] | None
    plane: str | None

    def picture(self, plane: np.ndarray) -> np.ndarray:
        """Turn one slice, shape (X, Y) or (X, Y, C), into rows from the top and columns from the left."""
        turned = plane[self.crop] if self.transpose else np.swapaxes(plane[self.crop], 0, 1)
        return turned[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    @property
    def convention(self) -> str:
        """One sentence for the reader."""
        if self.edges is None:
            return (
                "The image header states no orientation: the first array axis runs from left to right, the "
                "second downwards as on a screen, and left and right of the subject are not known."
            )
        left = {"R": "the subject's right is on the left", "A": "anterior is on the left"}[self.edges[0]]
        return f"Radiological convention, {self.plane} slices as acquired: {left}."


def plan_display(mask: np.ndarray, affine: np.ndarray | None, zooms: tuple[float, float, float]) -> Display:
    """Decide how the volumes of a run are shown.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
    affine : ndarray, shape (4, 4), or None
        Voxel to RAS+ world; None when unknown.
    zooms : tuple of float
        Voxel size, mm.
    """
    crop = _extent(mask.any(axis=(1, 2))), _extent(mask.any(axis=(0, 2)))
    slices = choose_slices(mask)
    if affine is None:
        # Arrays without an orientation come from pictures and scanner matrices, whose first row is on top.
        return Display(False, False, False, crop, slices, zooms[1] / zooms[0], None, None)
    orientation = nib.orientations.io_orientation(affine)
    world = [int(axis) for axis in orientation[:, 0]]
    positive = orientation[:, 1] > 0
    # Across the picture runs the earlier of the two world axes (left-right before back-front before
    # up-down), and both axes run from their positive end: right on the left, anterior and superior on top.
    across, down = (0, 1) if world[0] < world[1] else (1, 0)
    return Display(
        transpose=across == 1,
        flip_across=bool(positive[across]),
        flip_down=bool(positive[down]),
        crop=crop,
        slices=slices,
        aspect=zooms[down] / zooms[across],
        edges=(*_ENDS[world[across]], *_ENDS[world[down]]),
        plane=_PLANES[world[2]],
    )


@dataclass(frozen=True)
class Turned:
    """The box around a mask with its axes turned to those of the subject: right, anterior, superior.

    Attributes
    ----------
    crop : tuple of slice
        Of the three array axes of the file.
    orientation : ndarray, shape (3, 2)
        As :func:`nibabel.orientations.io_orientation` has it: axis of the box for every array axis, and
        -1 where it runs the other way.
    shape : tuple of int
        Of the box.
    affine : ndarray, shape (4, 4)
        Voxel of the box to RAS+ world, mm.
    """

    crop: tuple[slice, slice, slice]
    orientation: np.ndarray
    shape: tuple[int, int, int]
    affine: np.ndarray

    def box(self, volume: np.ndarray) -> np.ndarray:
        """A volume of the file, shape (X, Y, Z), in the box."""
        return nib.orientations.apply_orientation(volume[self.crop], self.orientation)


def turn_to_subject(
    mask: np.ndarray, affine: np.ndarray | None, zooms: tuple[float, float, float], display: Display
) -> Turned:
    """Box of what the pictures of a run show, of all slices from the first to the last of the mask.

    Without an orientation the box is turned so that a viewer in radiological convention shows what the
    pictures show: the first array axis from left to right, the second downwards.
    """
    if affine is None:
        affine = np.diag([-zooms[0], -zooms[1], zooms[2], 1.0])
    occupied = np.flatnonzero(mask.any(axis=(0, 1)))
    crop = (*display.crop, slice(int(occupied[0]), int(occupied[-1]) + 1))
    shape = tuple(part.stop - part.start for part in crop)
    orientation = nib.orientations.io_orientation(affine)
    corner = nib.affines.from_matvec(np.eye(3), [part.start for part in crop])
    return Turned(
        crop,
        orientation,
        tuple(shape[int(axis)] for axis in np.argsort(orientation[:, 0])),
        affine @ corner @ nib.orientations.inv_ornt_aff(orientation, shape),
    )


def choose_slices(mask: np.ndarray, max_slices: int = MAX_SLICES) -> tuple[int, ...]:
    """At most ``max_slices`` indices along the third axis, evenly spread over the mask.

    Examples
    --------
    >>> choose_slices(np.ones((4, 4, 30), dtype=bool), 4)
    (0, 10, 19, 29)
    """
    area = mask.sum(axis=(0, 1))
    if not area.any():
        return (mask.shape[2] // 2,)
    worthwhile = np.flatnonzero(area >= MIN_SLICE_SHARE * area.max())
    count = min(max_slices, worthwhile.size)
    positions = np.round(np.linspace(0, worthwhile.size - 1, count)).astype(int)
    return tuple(int(index) for index in worthwhile[positions])


def grid_columns(count: int, tile_height_over_width: float, *, target: float = 0.85) -> int:
    """Columns for ``count`` tiles: a whole near ``target`` high over wide, with few empty places."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = rows * tile_height_over_width / columns
        return abs(math.log(shape / target)) + 0.5 * (rows * columns - count) / count

    return min(range(1, count + 1), key=cost)


def _extent(occupied: np.ndarray) -> slice:
    inside = np.flatnonzero(occupied)
    if inside.size == 0:
        return slice(0, occupied.size)
    margin = max(1, round(CROP_MARGIN * (inside[-1] - inside[0] + 1)))
    return slice(max(0, int(inside[0]) - margin), min(occupied.size, int(inside[-1]) + 1 + margin))
