"""Numbers of many runs to positions in a drawing: strips with boxes, and Bland-Altman plots.

The template draws them as SVG inside the page, where every point can be a link and follows the colours of the
page; a picture of matplotlib can do neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from sicnn_app.group.statistics import Distribution

WIDTH = 420
"""Units of the drawing, near the width of a phone in pixels, so that letters are not shrunk there."""

LEFT, RIGHT = 14, 14
STRIP = 58
"""Height of a strip, its label included."""

LABEL = 18
AXIS = 38
"""Height of the ticks and the name of the axis."""

PLOT_HEIGHT = 250
LEFT_AXIS = 58
TOP = 12

DOT = 5.0
"""Distance of neighbouring points that do not overlap."""

MIN_BOX = 5
"""Values below which the points say all that a box would."""


@dataclass(frozen=True)
class Source:
    """What a point stands for: a text, and the report that it leads to (None: there is none)."""

    title: str
    href: str | None


@dataclass(frozen=True)
class Point:
    """A point of a drawing; ``level`` 0, 1 or 2 says how far outside it lies."""

    x: str
    y: str
    level: int
    title: str
    href: str | None


@dataclass(frozen=True)
class Box:
    """Places of quartiles and whiskers along the axis, and the width of the box."""

    low: str
    lower: str
    median: str
    upper: str
    high: str
    width: str


@dataclass(frozen=True)
class Strip:
    """Values of one kind along a line at height ``y``."""

    label: str
    label_y: float
    y: float
    box: Box | None
    points: list[Point]


@dataclass(frozen=True)
class Tick:
    """A place on an axis."""

    place: str
    text: str


@dataclass(frozen=True)
class StripChart:
    """All strips of one measure over one axis."""

    title: str
    axis: str
    height: int
    strips: list[Strip]
    ticks: list[Tick]


@dataclass(frozen=True)
class Line:
    """A line across a plot at height ``y``."""

    y: str
    text: str
    kind: str


@dataclass(frozen=True)
class ScatterChart:
    """A Bland-Altman plot."""

    title: str
    x_axis: str
    y_axis: str
    height: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    points: list[Point]


@dataclass(frozen=True)
class Values:
    """What a strip shows.

    Attributes
    ----------
    label : str
    values : ndarray, shape (n,)
        In the unit of the axis.
    distribution : Distribution
        Of these values.
    sources : sequence of Source
        One per value.
    """

    label: str
    values: np.ndarray
    distribution: Distribution
    sources: Sequence[Source]


class _Axis:
    """Values to places between two ends, with round ticks."""

    def __init__(self, values: np.ndarray, start: float, end: float, bins: int) -> None:
        low, high = float(values.min()), float(values.max())
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end
        ticks = np.asarray(
            MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]).tick_values(self._low, self._high)
        )
        self._ticks = ticks[(ticks >= self._low) & (ticks <= self._high)]

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[Tick]:
        # Steps of binary fractions leave 0.30000000000000004.
        return [Tick(_text(self.place(tick)), f"{round(tick, 12):g}") for tick in self._ticks]


def _text(number: float) -> str:
    """A place in the drawing, to a tenth of a unit."""
    return f"{number:.1f}".removesuffix(".0")


def strip_chart(title: str, axis_label: str, strips: Sequence[Values]) -> StripChart:
    """Lay out the values of every kind as points along one axis, over their boxes.

    Parameters
    ----------
    title, axis_label : str
    strips : sequence of Values
        One or more, none of them empty.

    Returns
    -------
    StripChart
    """
    axis = _Axis(np.concatenate([strip.values for strip in strips]), LEFT, WIDTH - RIGHT, 6)
    drawn = []
    for position, strip in enumerate(strips):
        top = position * STRIP
        middle = top + LABEL + (STRIP - LABEL) / 2
        x = np.array([axis.place(value) for value in strip.values])
        y = middle + swarm(x, (STRIP - LABEL) / 2 - DOT / 2)
        points = _points(x, y, strip.distribution.levels, strip.sources)
        drawn.append(Strip(strip.label, top + LABEL - 5, middle, _box(strip, axis), points))
    return StripChart(title, axis_label, len(strips) * STRIP + AXIS, drawn, axis.ticks())


def _box(strip: Values, axis: _Axis) -> Box | None:
    if strip.values.size < MIN_BOX:
        return None
    found = strip.distribution
    inside = strip.values[(strip.values >= found.fences[0]) & (strip.values <= found.fences[1])]
    lower, _, upper = found.quartiles
    low, high = float(min(inside.min(), lower)), float(max(inside.max(), upper))
    ends, quartiles = map(axis.place, (low, high)), [axis.place(value) for value in found.quartiles]
    start, end = map(_text, ends)
    first, middle, last = map(_text, quartiles)
    return Box(start, first, middle, last, end, _text(quartiles[2] - quartiles[0]))


def swarm(x: np.ndarray, room: float) -> np.ndarray:
    """Distances from a line by which points that would hide one another move apart.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Places along the line.
    room : float
        Largest distance; points come nearer to each other where there are too many.

    Returns
    -------
    ndarray, shape (n,)

    Examples
    --------
    >>> swarm(np.array([10.0, 30.0, 10.5, 11.0]), 20.0).tolist()
    [0.0, 0.0, 5.0, -5.0]
    """
    column = np.floor(x / DOT).astype(int)
    order = np.argsort(column, kind="stable")
    _, start, count = np.unique(column[order], return_index=True, return_counts=True)
    rank = np.empty(x.size, dtype=int)
    rank[order] = np.arange(x.size) - np.repeat(start, count)
    size = np.empty(x.size, dtype=int)
    size[order] = np.repeat(count, count)
    step = np.minimum(DOT, room / np.maximum(size // 2, 1))
    side = np.where(rank % 2 == 1, 1.0, -1.0)
    return np.where(rank == 0, 0.0, side * ((rank + 1) // 2) * step)


def scatter_chart(
    title: str,
    x_axis: str,
    y_axis: str,
    pairs: np.ndarray,
    lines: Sequence[tuple[float, str, str]],
    sources: Sequence[Source],
) -> ScatterChart:
    """Lay out differences over means.

    Parameters
    ----------
    title, x_axis, y_axis : str
    pairs : ndarray, shape (n, 2)
        First and second value.
    lines : sequence of (value, text, kind)
        Bias and limits; those that are not finite are left out.
    sources : sequence of Source
        One per pair.

    Returns
    -------
    ScatterChart
    """
    mean, difference = pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0]
    lines = [line for line in lines if np.isfinite(line[0])]
    across = _Axis(mean, LEFT_AXIS, WIDTH - RIGHT, 5)
    heights = np.concatenate([difference, [line[0] for line in lines], [0.0]])
    up = _Axis(heights, PLOT_HEIGHT, TOP, 5)
    x = np.array([across.place(value) for value in mean])
    y = np.array([up.place(value) for value in difference])
    return ScatterChart(
        title,
        x_axis,
        y_axis,
        PLOT_HEIGHT + AXIS,
        across.ticks(),
        up.ticks(),
        [Line(_text(up.place(value)), text, kind) for value, text, kind in lines],
        _points(x, y, np.zeros(mean.size, dtype=int), sources),
    )


def _points(x: np.ndarray, y: np.ndarray, levels: np.ndarray, sources: Sequence[Source]) -> list[Point]:
    return [
        Point(_text(float(across)), _text(float(up)), abs(int(level)), source.title, source.href)
        for across, up, level, source in zip(x, y, levels, sources, strict=True)
    ]
