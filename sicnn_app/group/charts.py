"""Numbers of many runs to positions in a drawing: strips with boxes, and Bland-Altman plots.

The template draws them as SVG inside the page, where every point can be a link and follows the colours of the
page; a picture of matplotlib can do neither.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from sicnn_app.group.statistics import Distribution, distribution

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

BOX = ("low", "lower", "median", "upper", "high", "width")
"""Places of quartiles and whiskers along the axis, and the width of the box."""


@dataclass(frozen=True)
class Source:
    """Meaning of a point: a text, and the report that it leads to (None: there is none)."""

    title: str
    href: str | None


@dataclass(frozen=True)
class Point:
    """A point of a drawing; ``level`` 0, 1 or 2 says how far outside it lies."""

    x: str
    y: str
    level: int
    source: Source


@dataclass(frozen=True)
class Strip:
    """Values of one kind along a line at height ``y``."""

    label: str
    y: float
    box: dict[str, str] | None
    points: list[Point]


class Axis:
    """Values to places between two ends; ``ticks`` are pairs of a place and a round number."""

    def __init__(self, label: str, values: np.ndarray, start: float, end: float, bins: int) -> None:
        low, high = float(values.min()), float(values.max())
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        self.label = label
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end
        locator = MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10])
        ticks = np.asarray(locator.tick_values(self._low, self._high))
        ticks = ticks[(ticks >= self._low) & (ticks <= self._high)]
        # Steps of binary fractions leave 0.30000000000000004.
        numbers = [f"{round(tick, 12):g}" for tick in ticks]
        self.ticks = list(zip(_texts(self.place(ticks)), numbers, strict=True))

    def place(self, values: ArrayLike) -> np.ndarray:
        """Places of values, in the shape of these."""
        share = (np.asarray(values) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


@dataclass(frozen=True)
class StripChart:
    """All strips of one measure over one axis."""

    title: str
    axis: Axis
    height: int
    strips: list[Strip]


@dataclass(frozen=True)
class ScatterChart:
    """A Bland-Altman plot; ``lines`` across it are of height, text and kind."""

    title: str
    across: Axis
    up: Axis
    height: int
    lines: list[tuple[str, str, str]]
    points: list[Point]


@dataclass(frozen=True)
class Values:
    """Content of a strip: values in the unit of the axis, shape (n,), and a source for each."""

    label: str
    values: np.ndarray
    sources: Sequence[Source]


def strip_chart(title: str, axis_label: str, strips: Sequence[Values]) -> StripChart:
    """Lay out the values of one kind or more as points along one axis, over their boxes."""
    axis = Axis(axis_label, np.concatenate([strip.values for strip in strips]), LEFT, WIDTH - RIGHT, 6)
    drawn = []
    for position, strip in enumerate(strips):
        middle = position * STRIP + LABEL + (STRIP - LABEL) / 2
        found = distribution(strip.values)
        x = axis.place(strip.values)
        y = middle + swarm(x, (STRIP - LABEL) / 2 - DOT / 2)
        box = _box(strip.values, found, axis) if strip.values.size >= MIN_BOX else None
        drawn.append(Strip(strip.label, middle, box, _points(x, y, found.levels, strip.sources)))
    return StripChart(title, axis, len(strips) * STRIP + AXIS, drawn)


def _box(values: np.ndarray, found: Distribution, axis: Axis) -> dict[str, str]:
    inside = values[(values >= found.fences[0]) & (values <= found.fences[1])]
    low, middle, high = found.quartiles
    places = axis.place([min(inside.min(), low), low, middle, high, max(inside.max(), high)])
    return dict(zip(BOX, _texts([*places, places[3] - places[1]]), strict=True))


def swarm(x: np.ndarray, room: float) -> np.ndarray:
    """Distances from a line by which points that would hide one another move apart.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Places along the line.
    room : float
        Largest distance; points come nearer to each other where there are too many.

    Examples
    --------
    >>> swarm(np.array([10.0, 30.0, 10.5, 11.0]), 20.0).tolist()
    [0.0, 0.0, 5.0, -5.0]
    """
    columns = np.floor(x / DOT).astype(int).tolist()
    sizes = Counter(columns)
    ranks: dict[int, count] = defaultdict(count)
    rank = np.array([next(ranks[column]) for column in columns])
    step = [min(DOT, room / max(sizes[column] // 2, 1)) for column in columns]
    return np.where(rank % 2 == 1, (rank + 1) // 2, -(rank // 2)) * step


def scatter_chart(
    title: str,
    x_label: str,
    y_label: str,
    pairs: np.ndarray,
    lines: Sequence[tuple[float, str, str]],
    sources: Sequence[Source],
) -> ScatterChart:
    """Lay out differences over means.

    Parameters
    ----------
    pairs : ndarray, shape (n, 2)
        First and second value.
    lines : sequence of (value, text, kind)
        Bias and limits, finite.
    sources : sequence of Source
        One per pair.
    """
    mean, difference = pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0]
    values = [value for value, _, _ in lines]
    across = Axis(x_label, mean, LEFT_AXIS, WIDTH - RIGHT, 5)
    up = Axis(y_label, np.concatenate([difference, values, [0.0]]), PLOT_HEIGHT, TOP, 5)
    levels = np.zeros(mean.size, dtype=int)
    return ScatterChart(
        title,
        across,
        up,
        PLOT_HEIGHT + AXIS,
        [(y, text, kind) for y, (_, text, kind) in zip(_texts(up.place(values)), lines, strict=True)],
        _points(across.place(mean), up.place(difference), levels, sources),
    )


def _points(x: np.ndarray, y: np.ndarray, levels: np.ndarray, sources: Sequence[Source]) -> list[Point]:
    places = zip(_texts(x), _texts(y), np.abs(levels).tolist(), sources, strict=True)
    return [Point(*place) for place in places]


def _texts(numbers: Iterable[float]) -> list[str]:
    """Places in the drawing, to a tenth of a unit."""
    return [f"{number:.1f}".removesuffix(".0") for number in numbers]
