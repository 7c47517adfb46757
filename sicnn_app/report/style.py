"""How every figure looks, whatever the user's own matplotlib configuration says."""

from __future__ import annotations

from contextlib import AbstractContextManager

from matplotlib import style

INK = "#1d2733"
MUTED = "#5b6875"
GRID = "#d9dfe5"
BLUE = "#0b5d93"
ORANGE = "#d55e00"
LIGHT_BLUE = "#9cc9e6"

_PLAIN = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    # Element names of an SVG are random without it.
    "svg.hashsalt": "sicnn-app",
}


def plain_style() -> AbstractContextManager[None]:
    """Context in which figures are made and saved."""
    return style.context(["default", _PLAIN])
