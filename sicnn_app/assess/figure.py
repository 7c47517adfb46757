"""The expectation of every tissue as a chart."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sicnn_app.assess.expectation import Assessment, Expectation
from sicnn_app.assess.trial import COMPARED, NAMES
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.report.style import BLUE, INK, ORANGE, plain_style

MARKS = (("o", BLUE), ("^", ORANGE))
"""Shape and colour of every method, so that either alone tells them apart."""

PANEL_WIDTH = 3.1
TISSUE_HEIGHT = 0.3
"""Inches."""


def expectation_chart(assessment: Assessment) -> bytes:
    """Bounds and errors in every tissue, in per cent of the true value, as SVG that is always the same."""
    names = list(dict.fromkeys(row.tissue for row in assessment.expectations))
    size = (1.6 + PANEL_WIDTH * len(TISSUE_LABELS), 1.7 + TISSUE_HEIGHT * len(names))
    with plain_style():
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(TISSUE_LABELS), sharey=True)
        for axes, parameter in zip(panels, TISSUE_LABELS, strict=True):
            _draw(axes, [row for row in assessment.expectations if row.parameter == parameter])
            axes.set_xlabel(f"{SPECS[parameter].symbol}: % of the true value")
        panels[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def _draw(axes: Axes, rows: list[Expectation]) -> None:
    true_values = np.array([row.true_value for row in rows])

    def mark(values: list[float], shape: str, color: str, size: float, edge: float, label: str) -> None:
        share = 100 * np.array(values) / true_values
        axes.plot(
            share, range(len(rows)), shape, color=color, markersize=size, markeredgewidth=edge, label=label
        )

    mark([row.bound for row in rows], "|", INK, 14, 2, "least possible without neighbours")
    mark([row.bound_suggested for row in rows], ".", INK, 5, 2, "the same with the b-values suggested")
    for method, (shape, color) in zip(COMPARED, MARKS, strict=True):
        errors = [row.errors[method].root_mean_square for row in rows]
        mark(errors, shape, color, 6.5, 1, f"{NAMES[method]}, error")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(100, color=INK, linewidth=0.8, linestyle=":")
