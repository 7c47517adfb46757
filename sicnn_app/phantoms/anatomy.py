"""Analytic anatomy: which tissue lies where, from smooth formulas in centimetres.

Coordinates are centimetres from the centre of the field of view: x towards the
patient's left, y towards the front, z towards the head. Tissues are painted one over the
other, so the order of the lines is part of the drawing. Formulas instead of a stored
picture give any matrix size, odd or with one slice, from the same body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform

from sicnn_app.phantoms.fields import gaussian_field
from sicnn_app.phantoms.tissues import TISSUES

FIELD_OF_VIEW = {"abdomen": (38.0, 30.0), "brain": (17.0, 20.5)}
"""Extent in x and y, cm."""

SLAB = 6.4
"""Extent in z that is shared out among the slices, cm."""

MAX_SLICE_THICKNESS = 0.8
"""cm; few slices cover less of the body rather than becoming thick."""

DEFORMATION_LENGTH = 5.0
"""Distance over which a deformation moves places alike, cm."""

KNOTS_PER_LENGTH = 4
"""Knots that a smooth field is interpolated between, per correlation length."""


@dataclass(frozen=True)
class Grid:
    """Places that an anatomy is drawn at.

    Attributes
    ----------
    preset : str
        Decides the field of view.
    shape : tuple of int, (X, Y, Z)
    subdivision : int
        Places per voxel and axis.
    """

    preset: str
    shape: tuple[int, int, int]
    subdivision: int = 1

    @property
    def extent(self) -> tuple[float, float, float]:
        """Size of the field of view, cm."""
        slices = self.shape[2] / self.subdivision
        return (*FIELD_OF_VIEW[self.preset], min(SLAB, slices * MAX_SLICE_THICKNESS))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between places along each axis, cm."""
        x, y, z = (size / count for size, count in zip(self.extent, self.shape, strict=True))
        return x, y, z

    @property
    def axes(self) -> list[np.ndarray]:
        """Coordinates of the places, shapes (X, 1, 1), (1, Y, 1) and (1, 1, Z), cm."""
        axes = [
            (np.arange(count) - (count - 1) / 2) * step
            for count, step in zip(self.shape, self.spacing, strict=True)
        ]
        return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def smooth_field(grid: Grid, length: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field of variance 1 and a correlation length in cm, of the shape of the grid.

    The same seed gives the same field, however fine the grid is.
    """
    pitch = length / KNOTS_PER_LENGTH
    knots = np.ceil(np.array((*FIELD_OF_VIEW[grid.preset], SLAB)) / pitch).astype(int) + 3
    field = gaussian_field(tuple(knots.tolist()), KNOTS_PER_LENGTH, rng)
    first = np.array([axis.flat[0] for axis in grid.axes]) / pitch + (knots - 1) / 2
    return affine_transform(
        field, np.array(grid.spacing) / pitch, first, output_shape=grid.shape, order=3, mode="nearest"
    )


def drawn_label(grid: Grid, rng: np.random.Generator, *, deformation: float = 0.0) -> np.ndarray:
    """Code of every place in :data:`sicnn_app.phantoms.tissues.TISSUES`, 0 in the background; int16.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of the deformation: without one the drawing is always the same.
    deformation : float, cm
        Standard deviation of how far places are moved along each axis, smoothly over
        :data:`DEFORMATION_LENGTH`. The body gets smaller by twice as much, to keep it in the image.
    """
    axes = grid.axes
    if deformation:
        for index, extent in enumerate(grid.extent[:2]):
            axes[index] = axes[index] * (1.0 + 4.0 * deformation / extent)
        axes = [axis + deformation * smooth_field(grid, DEFORMATION_LENGTH, rng) for axis in axes]
    labels = np.zeros(grid.shape, dtype=np.int16)
    codes = {tissue.name: tissue.code for tissue in TISSUES[grid.preset]}

    def paint(tissue: str, region: np.ndarray) -> None:
        labels[np.broadcast_to(region, grid.shape)] = codes[tissue]

    _DRAW[grid.preset](paint, *axes, max(grid.spacing[:2]))
    return labels


def random_label(
    grid: Grid, body: np.ndarray, organs: int, vessel: int, rng: np.random.Generator
) -> np.ndarray:
    """Organs of random place, size and shape that fill a body, crossed by vessels.

    An organ is where its own smooth field is the highest of all, a vessel where two further fields are close
    to 0, which happens along lines.

    Parameters
    ----------
    body : ndarray, shape (X, Y, Z), bool
    organs : int
        Codes 1 to this one; the last is rare.
    vessel : int
        Code of the vessels.

    Returns
    -------
    ndarray, shape (X, Y, Z), int16
    """
    width = FIELD_OF_VIEW[grid.preset][0]
    length = width / 9
    highest, labels = np.full(grid.shape, -np.inf), np.zeros(grid.shape, dtype=np.int16)
    for code in range(1, organs + 1):
        # Organs differ in size.
        size = -0.5 if code == organs else 0.4 * rng.standard_normal()
        field = smooth_field(grid, length, rng) + size
        labels[field > highest] = code
        highest = np.maximum(field, highest)
    # The slope of a field is sqrt(2) / length; lines thinner than the places are far apart would break.
    near = np.sqrt(2.0) * max(0.01 * width, 0.6 * max(grid.spacing[:2])) / length
    sheets = [np.abs(smooth_field(grid, length, rng)) < near for _ in range(2)]
    labels[sheets[0] & sheets[1]] = vessel
    return np.where(body, labels, 0).astype(np.int16)


def _radius(x, y, centre, axes, angle=0.0, power=2.0):
    """Distance from the centre in units of an ellipse's edge: below 1 is inside; angle in degrees."""
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    u = (x - centre[0]) * cosine + (y - centre[1]) * sine
    v = (y - centre[1]) * cosine - (x - centre[0]) * sine
    return (np.abs(u / axes[0]) ** power + np.abs(v / axes[1]) ** power) ** (1 / power)


def _tube(x, y, z, start, end, thickness):
    """Inside of a straight tube between two points (x, y, z)."""
    start, end = np.asarray(start), np.asarray(end)
    axis = end - start
    offset = (x - start[0]) * axis[0] + (y - start[1]) * axis[1] + (z - start[2]) * axis[2]
    along = np.clip(offset / (axis @ axis), 0.0, 1.0)
    squared = sum((value - s - along * a) ** 2 for value, s, a in zip((x, y, z), start, axis, strict=True))
    return squared <= (thickness / 2) ** 2


def _draw_abdomen(paint: Callable, x, y, z, pitch: float) -> None:
    """Upper abdomen at the level of the kidneys, pancreas and gallbladder."""
    thin = max(0.5, 1.05 * pitch)
    body = _radius(x, y, (0, 0), (17.6 + 0.15 * z, 12.3 + 0.1 * z), power=2.3)
    paint("fat", body <= 1)
    paint("muscle", _radius(x, y, (0, 0), (16.2 + 0.15 * z, 10.9 + 0.1 * z), power=2.3) <= 1)
    cavity = _radius(x, y, (0, 1.0), (14.9 + 0.15 * z, 8.7 + 0.1 * z), power=2.3) <= 1
    paint("fat", cavity)
    for side in (-1, 1):
        paint("muscle", _radius(x, y, (4.1 * side, -8.4), (3.5, 2.3), angle=-12 * side) <= 1)
        paint("muscle", _radius(x, y, (3.7 * side, -4.9), (1.5 - 0.1 * z, 2.0), angle=10 * side) <= 1)

    _draw_spine(paint, x, y, z)
    _draw_bowel(paint, x, y, z, cavity)
    _draw_liver(paint, x, y, z, cavity, thin)

    spleen = _radius(x, y, (11.2, -2.2), (2.7 + 0.15 * z, 5.0 + 0.45 * z), angle=14)
    hilum = _radius(x, y, (8.6, -1.6), (2.0, 3.4), angle=14)
    paint("spleen", cavity & (spleen <= 1) & (hilum > 1))
    for side, lift in ((-1, 0.6), (1, -0.4)):
        _draw_kidney(paint, x, y, z + lift, side)

    paint("vessel", _radius(x, y, (1.1, -2.0), (1.0, 1.0)) <= 1)
    paint("vessel", _radius(x, y, (-2.4, -2.1), (1.4, 0.9), angle=15) <= 1)
    _draw_pancreas(paint, x, y, z)
    _draw_stomach(paint, x, y, z, cavity, thin)
    size = np.sqrt(np.clip(1.0 - ((z + 1.0) / 3.2) ** 2, 0.0, None))
    paint("gallbladder", _radius(x, y, (-5.0, 2.6), (1.5 * size + 1e-9, 2.4 * size + 1e-9), angle=-20) <= 1)


def _draw_spine(paint: Callable, x, y, z) -> None:
    disc = 0.15 * np.cos(z)
    ring = _radius(x, y, (0, -7.6), (1.9, 1.6))
    process = (np.abs(x) < 0.45) & (y < -8.5) & (y > -10.6)
    wing = (np.abs(y + 7.9) < 0.45) & (np.abs(x) < 3.4)
    vertebra = _radius(x, y, (0, -4.9), (2.4 + disc, 1.9 + disc), power=2.3)
    paint("marrow", (vertebra <= 1) | (ring <= 1) | process | wing)
    paint("spinal_canal", _radius(x, y, (0, -7.4), (1.05, 0.9)) <= 1)


def _draw_bowel(paint: Callable, x, y, z, cavity) -> None:
    """Loops of small intestine and colon between the organs."""
    loops = (
        (3.4, 0.9, 1.5, 1.2),
        (6.3, 0.4, 1.5, 1.3),
        (9.4, 5.4, 1.5, 1.4),
        (-0.6, 7.4, 1.8, 1.1),
        (11.9, 3.6, 1.3, 1.6),
    )
    for number, (cx, cy, a, b) in enumerate(loops):
        sway = 0.35 * np.sin(0.9 * z + number)
        radius = _radius(x, y, (cx + sway, cy - 0.5 * sway), (a, b), angle=25 * number)
        paint("intestine", cavity & (radius <= 1))


def _draw_liver(paint: Callable, x, y, z, cavity, thin: float) -> None:
    right = _radius(x, y, (-7.6, 0.4), (7.4 + 0.2 * z, 7.6 + 0.25 * z), angle=8, power=2.2) <= 1
    left = _radius(x, y, (-1.4, 5.4 + 0.1 * z), (6.4 + 0.6 * z, 2.7 + 0.3 * z), angle=-6) <= 1
    behind = (x > -3.9) & (y < 0.8)
    kidney_bed = _radius(x, y, (-6.6, -4.6), (3.6, 3.9), angle=-20) <= 1
    hilum = _radius(x, y, (-2.6, 1.6), (1.7, 1.5), angle=30) <= 1
    fissure = np.abs((x + 2.4) - 0.25 * (y - 5.0)) < 0.45 * thin
    liver = cavity & (right | left) & ~behind & ~kidney_bed & ~hilum & ~(fissure & (y > 4.8))
    paint("liver", liver)

    portal, fork = (-4.0, 1.2, -1.5), (-6.6, 2.4, 0.0)
    branches = (
        (portal, fork, 1.5),
        (fork, (-9.4, 4.8, 0.6), 1.1),
        (fork, (-10.6, 1.6, -0.4), 1.1),
        ((-9.4, 4.8, 0.6), (-11.6, 5.2, 2.2), 1.0),
        ((-10.6, 1.6, -0.4), (-12.8, -0.6, -1.8), 1.0),
        ((-10.6, 1.6, -0.4), (-12.6, 2.9, 1.4), 1.0),
        ((-2.4, 4.6, 0.2), (2.6, 5.9, 1.2), 1.0),
        ((-8.2, 6.8, -3.0), (-6.4, 5.2, 3.0), 1.0),
        ((-11.8, -3.4, -3.0), (-9.6, -1.4, 3.0), 1.0),
    )
    for start, end, width in branches:
        paint("vessel", liver & _tube(x, y, z, start, end, width * thin))


def _draw_kidney(paint: Callable, x, y, z, side: int) -> None:
    """Cortex, pyramids of medulla and a sinus of fat that opens towards the middle."""
    size = np.sqrt(np.clip(1.0 - (z / 5.6) ** 2, 0.0, None)) + 1e-9
    centre = (6.7 * side, -4.5)
    angle = -25 * side
    radius = _radius(x, y, centre, (2.6 * size, 3.1 * size), angle=angle)
    paint("kidney_cortex", radius <= 1)
    turn = np.arctan2(y - centre[1], (x - centre[0]) * side) + 0.25 * z
    pyramids = np.cos(5.0 * turn) > -0.35
    paint("kidney_medulla", (radius <= 0.72) & (radius > 0.3) & pyramids)
    opening = (np.abs(y - centre[1] - 0.9) < 0.5) & (x * side < centre[0] * side)
    central = np.abs(z) < 3.2
    paint("fat", central & ((radius <= 0.3) | (opening & (radius <= 1))))


def _draw_pancreas(paint: Callable, x, y, z) -> None:
    """A lobulated band from the head beside the duodenum to the tail at the spleen."""
    along = np.clip((x + 3.0) / 11.2, 0.0, 1.0)
    middle = 0.2 + 2.0 * np.sin(np.pi * np.clip(along, 0.0, 0.72)) - 1.6 * along + 0.25 * z * along
    half = 1.15 - 0.35 * along + 0.12 * np.cos(6.0 * x + z)
    head = _radius(x, y, (-2.5, 0.4 + 0.1 * z), (1.5, 1.9)) <= 1
    paint("pancreas", head | ((np.abs(y - middle) < half) & (x > -3.0) & (x < 8.2)))


def _draw_stomach(paint: Callable, x, y, z, cavity, thin: float) -> None:
    centre, axes = (6.0 + 0.2 * z, 5.0), (3.7 + 0.35 * z, 2.5 + 0.2 * z)
    outer = cavity & (_radius(x, y, centre, axes, angle=-18) <= 1)
    paint("stomach_wall", outer)
    inner = tuple(axis - thin for axis in axes)
    paint("stomach_content", outer & (_radius(x, y, centre, inner, angle=-18) <= 1))


def _draw_brain(paint: Callable, x, y, z, pitch: float) -> None:
    """Brain without skull at the level of the lateral ventricles and the basal ganglia."""
    thin = max(0.25, 1.05 * pitch)
    dome = np.sqrt(np.clip(1.0 - ((z - 0.4) / 8.5) ** 2, 0.05, None))
    length, width = 8.7 * dome, 6.9 * dome
    turn = np.arctan2(y, x)
    taper = 1.0 - 0.045 * np.sin(turn)
    surface = _radius(x, y, (0, 0), (width, length), power=2.15) / taper
    scale = np.sqrt(width * length)
    depth = (1.0 - surface) * scale

    paint("csf", depth >= 0)
    # Two waves of different length that drift with height fold the ribbon like gyri and sulci.
    wave = np.sin(11.0 * turn + 0.8 * z) + 0.7 * np.sin(19.0 * turn - 1.1 * z + 0.7)
    sulcus = 1.5 * np.clip((wave - 0.9) / 0.8, 0.0, 1.0)
    ribbon = max(0.42, 1.05 * pitch)
    rim = max(0.25, 0.55 * pitch)
    # Sulci narrower than a voxel would only break the ribbon.
    pial = rim + sulcus if pitch < 0.4 else rim
    paint("cortical_grey_matter", depth >= pial)
    paint("white_matter", depth >= rim + ribbon + 1.1 * np.clip((wave + 0.2) / 1.2, 0.0, 1.2))

    midline = np.abs(x)
    fissure = (np.abs(y) > 3.9) & (depth >= 0)
    paint("cortical_grey_matter", (midline < ribbon + 0.5 * thin) & fissure & (depth >= pial))
    paint("csf", (midline < 0.5 * thin) & fissure)
    level = 0.35 + 0.1 * z + 0.25 * (midline - 5.0)
    insula = (midline > 4.6) & (np.abs(y - level) < 0.5 * thin + ribbon) & (depth >= pial)
    claustrum = (np.abs(_radius(midline, y, (1.6, 0.3), (3.25, 3.0)) - 1) < 0.07) & (midline > 3.9)
    paint("cortical_grey_matter", insula | claustrum)
    paint("csf", (np.abs(y - level) < 0.5 * thin) & (midline > 5.0) & (depth >= 0))

    low = np.clip((1.9 - z) / 2.6, 0.0, 1.0)
    grow = low + 1e-9
    thalamus = _radius(midline, y, (1.45, -1.0), (1.05 * grow, 1.55 * grow), angle=25)
    lentiform = _radius(midline, y, (3.05, 1.1), (0.8 * grow, 2.0 * grow), angle=12)
    paint("deep_grey_matter", (low > 0.15) & ((thalamus <= 1) | (lentiform <= 1)))
    paint("deep_grey_matter", _radius(midline, y, (1.55, 3.0), (0.6, 1.0), angle=-20) <= 1)

    wide = 1.0 + 0.06 * z
    paint("csf", _radius(midline, y, (0.85, 2.9), (0.5 * wide, 1.75), angle=-18) <= 1)
    paint("csf", (z > 0.2) & (_radius(midline, y, (0.95, 0.2), (0.6, 3.0), angle=4) <= 1))
    paint("csf", _radius(midline, y, (1.95, -3.4), (0.65 * wide, 1.7), angle=14) <= 1)
    paint("csf", (z <= 0.2) & (midline < 0.5 * thin) & (np.abs(y + 0.6) < 1.6))

    paint("vessel", _radius(x, y, (0, -8.45 * dome), (0.55, 0.5)) <= 1)
    paint("vessel", _radius(x, y, (0, 7.6 * dome), (0.3 + pitch / 4, 0.3 + pitch / 4)) <= 1)
    for side in (-1, 1):
        paint("vessel", _tube(x, y, z, (4.9 * side, 0.9, -3.2), (5.4 * side, 0.2, 3.2), 1.1 * thin))
        paint("vessel", _tube(x, y, z, (0.45 * side, 4.4, -3.2), (0.35 * side, 5.6, 3.2), 1.1 * thin))


_DRAW: dict[str, Callable] = {"abdomen": _draw_abdomen, "brain": _draw_brain}
