"""How every figure looks, whatever the user's own matplotlib configuration says."""

from __future__ import annotations

from contextlib import AbstractContextManager

from matplotlib import colormaps, style
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.ticker import LogLocator, NullLocator

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

DIFFERENCES = LinearSegmentedColormap.from_list(
    "differences", ["#08234f", "#2a6aad", "#8c8c8c", "#dfa63a", "#fff3b8"], N=255
)
"""Blue below, grey at, yellow above zero. Lightness only rises, so that grey print keeps the sign, which the
usual diverging maps lose there; and blue against yellow is what colour-blind eyes tell apart best."""

SCATTER = LinearSegmentedColormap.from_list("scatter", [LIGHT_BLUE, BLUE, INK])
"""From few to many, dark on white: the lightest still stands out from the page."""


def colour_map(name: str) -> Colormap:
    """A colour map of ours or of Matplotlib by its name."""
    return DIFFERENCES if name == DIFFERENCES.name else colormaps[name]


def colour_scale(low: float, high: float, *, logarithmic: bool) -> Normalize:
    """What takes the ends of a colour range to those of a colour map."""
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def plain_ticks(axis: Axis) -> None:
    """Let a logarithmic axis count 5, 10, 20, 50, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def plain_style() -> AbstractContextManager[None]:
    """Context in which figures are made and saved."""
    return style.context(["default", _PLAIN])
