"""Numbers -> charts (SVG): histograms, scatter, training, motion."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sicnn_app.report.quantities import Quantity
from sicnn_app.report.style import BLUE, INK, LIGHT_BLUE, MUTED, ORANGE, SCATTER, plain_style, plain_ticks

SIZE = (4.4, 2.9)
"""Inches; near the width of a phone, so that letters are not shrunk there."""

AXES = (0.155, 0.17, 0.8, 0.71)
"""Left, bottom, width and height of the axes in the figure, with room for labels and a legend above."""

SQUARE = (3.6, 3.6)
"""Inches, of a chart whose two axes are the same quantity."""

SQUARE_AXES = (0.19, 0.16, 0.77, 0.77)

HISTOGRAM_BINS = 50

HEXAGONS = 36
"""Across a scatter chart: few enough for a small file, fine enough for its shape."""


@contextmanager
def svg_chart(
    size: tuple[float, float] = SIZE, place: tuple[float, float, float, float] = AXES
) -> Iterator[tuple[Axes, io.BytesIO]]:
    """Axes to draw in, and the file that then holds the chart, with a legend of all that has a label.

    The same drawing gives the same bytes.
    """
    svg = io.BytesIO()
    with plain_style():
        figure = Figure(figsize=size, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes(place)
        yield axes, svg
        if axes.get_legend_handles_labels()[0]:
            # Above the axes it can hide no data, whatever the data are.
            figure.legend(loc="upper center", ncols=3, columnspacing=1.2, handlelength=1.6)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})


def histogram_chart(values: np.ndarray, flagged: np.ndarray, quantity: Quantity) -> bytes:
    """Distribution of a parameter over the mask, flagged voxels apart.

    Parameters
    ----------
    values : ndarray, shape (M,), in the unit of the file
    flagged : ndarray, shape (M,), bool
    quantity : Quantity
        Values past its range are counted in the last bin.
    """
    low, high = quantity.limits(values)
    shown = np.clip(values * quantity.factor, low, high)
    edges = (np.geomspace if quantity.logarithmic else np.linspace)(low, high, HISTOGRAM_BINS + 1)
    # Rounding leaves the last edge of a geometric series a little inside.
    edges[-1] = high
    share = np.full(shown.size, 100.0 / max(shown.size, 1))
    with svg_chart() as (axes, svg):
        axes.hist(
            [shown[~flagged], shown[flagged]],
            bins=edges.tolist(),
            weights=[share[~flagged], share[flagged]],
            stacked=True,
            color=[BLUE, LIGHT_BLUE],
            label=["not flagged", "flagged"],
        )
        if shown.size:
            median = float(np.median(values) * quantity.factor)
            axes.axvline(median, color=ORANGE, linestyle="--", label=f"median {median:.3g}")
        if quantity.logarithmic:
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        axes.set(xlim=(low, high), xlabel=quantity.heading, ylabel="voxels (%)")
    return svg.getvalue()


def scatter_chart(across: np.ndarray, up: np.ndarray, quantity: Quantity, labels: tuple[str, str]) -> bytes:
    """One quantity estimated in two ways, voxels counted in hexagons, with the line of equal values.

    Parameters
    ----------
    across, up : ndarray, shape (M,), in the unit of the file
    quantity : Quantity
        Values past its range are counted at the rim.
    labels : tuple of str
        The two ways, of ``across`` and of ``up``.
    """
    low, high = quantity.limits(np.concatenate([across, up]))
    scale: Any = "log" if quantity.logarithmic else "linear"
    with svg_chart(SQUARE, SQUARE_AXES) as (axes, svg):
        axes.set(xscale=scale, yscale=scale)
        axes.plot([low, high], [low, high], color=ORANGE, linestyle="--", linewidth=1.2, zorder=3)
        ends = np.array([low, high, low, high])
        if across.size:
            axes.hexbin(
                *(np.clip(values * quantity.factor, low, high) for values in (across, up)),
                gridsize=HEXAGONS,
                xscale=scale,
                yscale=scale,
                extent=tuple(np.log10(ends) if quantity.logarithmic else ends),
                mincnt=1,
                bins="log",
                cmap=SCATTER,
                linewidths=0,
            )
        if quantity.logarithmic:
            for axis in (axes.xaxis, axes.yaxis):
                plain_ticks(axis)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        # A name from a sidecar may hold dollar signs, which are no formula.
        for label, way in zip((axes.set_xlabel, axes.set_ylabel), labels, strict=True):
            label(f"{quantity.spec.symbol}, {way} ({quantity.unit})", parse_math=False)
    return svg.getvalue()


def loss_chart(losses: Sequence[tuple[float, float, float]], epochs_done: Mapping[int, int]) -> bytes:
    """Training loss per epoch with the borders of the data iterations.

    Parameters
    ----------
    losses : sequence of (data iteration, epoch, loss)
        May be thinned out.
    epochs_done : mapping of int to int
        Epochs of the data iterations, where known.
    """
    values = np.array([row[2] for row in losses], dtype=float)
    epochs, borders = epoch_axis(losses, epochs_done)
    with svg_chart() as (axes, svg):
        for position, border in enumerate(borders):
            label = "training signals rewritten" if position == 0 else None
            axes.axvline(border, color=MUTED, linewidth=1.0, linestyle=":", label=label)
        axes.plot(epochs, values, color=BLUE, marker="." if values.size < 30 else None, label="training loss")
        if (values > 0).all():
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch, counted over all data iterations", ylabel="loss")
    return svg.getvalue()


def epoch_axis(
    losses: Sequence[tuple[float, float, float]], epochs_done: Mapping[int, int]
) -> tuple[np.ndarray, list[float]]:
    """Count epochs over all data iterations; arguments as for :func:`loss_chart`.

    Epochs may start anew in each data iteration or go on.

    Returns
    -------
    epochs : ndarray, shape (P,)
    borders : list of float
        Where one data iteration ends and the next begins.

    Examples
    --------
    >>> epoch_axis([(0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.4)], {0: 2})[0].tolist()
    [0.0, 1.0, 2.0]
    """
    iterations, own = np.array([row[:2] for row in losses], dtype=float).T
    epochs, borders = own.copy(), []
    restarts = bool((np.diff(own) <= 0).any())
    offset = 0.0
    for previous, current in pairwise(np.unique(iterations)):
        if restarts:
            offset += epochs_done.get(int(previous), own[iterations == previous].max() + 1)
            epochs[iterations == current] = own[iterations == current] + offset
        borders.append((epochs[iterations == previous].max() + epochs[iterations == current].min()) / 2)
    return epochs, borders


def iteration_chart(iterations: np.ndarray, values: np.ndarray, label: str) -> bytes:
    """One number per data iteration.

    Parameters
    ----------
    iterations, values : ndarray, shape (K,)
        Values that are not finite are left out.
    label : str
        Of the upright axis, with unit.
    """
    finite = np.isfinite(values)
    with svg_chart() as (axes, svg):
        axes.plot(iterations[finite], values[finite], color=BLUE, marker="o", markersize=4)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="data iteration", ylabel=label)
    return svg.getvalue()


def motion_chart(volumes: np.ndarray, values: np.ndarray, label: str) -> bytes:
    """Three parameters of motion per volume.

    Parameters
    ----------
    volumes : ndarray, shape (N,)
        Position of every volume in the source image, counted from 0.
    values : ndarray, shape (3, N)
        Along or about x, y and z.
    label : str
        Of the upright axis, with unit.
    """
    with svg_chart() as (axes, svg):
        for row, name, color, line in zip(values, "xyz", (BLUE, ORANGE, INK), ("-", "--", ":"), strict=True):
            axes.plot(volumes, row, color=color, linestyle=line, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="volume, counted from 0", ylabel=label)
    return svg.getvalue()
