"""The expectation of every tissue as a chart."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sicnn_app.assess.expectation import Assessment, Expectation
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.report.style import BLUE, INK, ORANGE, plain_style

MARKS = {"lsq": ("o", BLUE, "least squares, error"), "si-cnn": ("^", ORANGE, "SI-CNN, error")}
"""Shape and colour, so that either alone tells the methods apart."""

PANEL_WIDTH = 3.1
TISSUE_HEIGHT = 0.3
"""Inches."""


def expectation_chart(assessment: Assessment) -> bytes:
    """Bounds and errors of F, D and D* in every tissue, in per cent of the true value.

    Parameters
    ----------
    assessment : Assessment

    Returns
    -------
    bytes
        SVG; the same assessment gives the same bytes.
    """
    names = list(dict.fromkeys(row.tissue for row in assessment.expectations))
    size = (1.6 + PANEL_WIDTH * len(TISSUE_LABELS), 1.7 + TISSUE_HEIGHT * len(names))
    with plain_style():
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(TISSUE_LABELS), sharey=True)
        for axes, parameter in zip(panels, TISSUE_LABELS, strict=True):
            rows = [row for row in assessment.expectations if row.parameter == parameter]
            _draw(axes, rows)
            axes.set_xlabel(f"{SPECS[parameter].symbol}: % of the true value")
        panels[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def _draw(axes, rows: list[Expectation]) -> None:
    places = np.arange(len(rows))
    for name, mark, color, label in (
        ("bound", "|", INK, "least possible without neighbours"),
        ("bound_suggested", ".", INK, "the same with the b-values suggested"),
    ):
        values = [100 * getattr(row, name) / row.true_value for row in rows]
        size = {"|": 14, ".": 5}[mark]
        axes.plot(values, places, mark, color=color, markersize=size, markeredgewidth=2, label=label)
    for method, (mark, color, label) in MARKS.items():
        values = [
            np.nan if (found := row.errors[method]) is None else 100 * found.root_mean_square / row.true_value
            for row in rows
        ]
        axes.plot(values, places, mark, color=color, markersize=6.5, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axvline(100, color=INK, linewidth=0.8, linestyle=":")
