"""Tiles -> one picture (PNG): rows and columns of slices with letters, outlines and a colour bar."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sicnn_app.report.display import Display, grid_columns
from sicnn_app.report.style import plain_style, plain_ticks

WIDTH = 5.0
"""Inches; shown about as wide on paper and on a phone, so that its letters stay readable."""

DPI = 240
MAX_INTERVALS = 6
"""Between the ticks of a colour bar: more numbers with a sign and two decimals would touch."""

TILE_GAP = 0.02
"""Gap between tiles as a share of their width."""

UNDERLAY_PERCENTILE = 99.5

DARK = "#141414"
"""Background of every picture."""


TILE_KEYS = ("left", "pitch", "tile", "ratio")
"""Where tiles lie: left end of the first, distance of two and width of one, as shares of the width of the
picture, and the width of one over the height of all rows."""


def mosaic(
    tiles: Sequence[np.ndarray],
    display: Display,
    *,
    labels: Sequence[str],
    colours: np.ndarray,
    outlines: Sequence[np.ndarray] = (),
    outline_colour: str = "white",
    outline_width: float = 0.5,
    with_edges: bool = True,
    bar: tuple[Normalize, Colormap, str, str] | None = None,
    columns: int | None = None,
) -> bytes:
    """Tiles beside and below each other on a dark ground, PNG.

    Parameters
    ----------
    tiles : sequence of ndarray, shape (X, Y, 3), 0..1
        Slices as they lie in the arrays.
    display : Display
        How they are turned and cropped.
    labels : sequence of str
        Written into the tiles.
    colours : ndarray, shape (C, 3), 0..1
        Colours besides grey that the picture needs.
    outlines : sequence of ndarray, shape (X, Y), bool, optional
        One per tile: what gets a line around it.
    with_edges : bool
        The first tile tells what lies left and above.
    bar : (norm, colour map, label, extend), optional
        Colour bar below the tiles.
    columns : int, optional
        Tiles in a row; by default what makes the whole nearly square.
    """
    pictures = [np.clip(display.picture(tile), 0.0, 1.0) for tile in tiles]
    rows_px, columns_px = pictures[0].shape[:2]
    tile_ratio = float(np.clip(rows_px * display.aspect / columns_px, 0.05, 20.0))
    columns = columns or grid_columns(len(pictures), tile_ratio)
    rows = math.ceil(len(pictures) / columns)

    # A lone tall tile is narrowed instead of growing past a screen's height.
    tile_width = min(WIDTH / (columns + (columns - 1) * TILE_GAP), 1.15 * WIDTH / (rows * tile_ratio))
    tile_height, gap = tile_width * tile_ratio, tile_width * TILE_GAP
    grid_width = columns * tile_width + (columns - 1) * gap
    left = (WIDTH - grid_width) / 2
    height = rows * tile_height + (rows - 1) * gap + (0.68 if bar else 0.0)

    with plain_style():
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=DARK)
        FigureCanvasAgg(figure)
        # One set of axes in inches from the top left: axes for every tile take several times longer.
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for position, picture in enumerate(pictures):
            row, column = divmod(position, columns)
            x, y = left + column * (tile_width + gap), row * (tile_height + gap)
            extent = (x, x + tile_width, y + tile_height, y)
            axes.imshow(picture, interpolation="nearest", aspect="auto", extent=extent)
            if outlines:
                segments = outline_segments(display.picture(outlines[position]))
                scaled = segments * (tile_width / columns_px, tile_height / rows_px) + (x, y)
                # One path: an object for every edge takes longer than all the rest.
                path = Path(scaled.reshape(-1, 2), np.tile([Path.MOVETO, Path.LINETO], len(scaled)))
                for line, width in ((DARK, outline_width + 0.9), (outline_colour, outline_width)):
                    axes.add_patch(
                        PathPatch(path, fill=False, ec=line, lw=width, capstyle="projecting", snap=True)
                    )
            _write(axes, x + 0.05, y + 0.04, labels[position], "left", "top")
            if position == 0 and display.edges and with_edges:
                left_end, _, top_end, _ = display.edges
                _write(axes, x + 0.05, y + tile_height / 2, left_end, "left", "center")
                _write(axes, x + tile_width / 2, y + 0.04, top_end, "center", "top")
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        if bar:
            draw_bar(figure, height, bar)
        area = rows * tile_height + (rows - 1) * gap
        places = (left / WIDTH, (tile_width + gap) / WIDTH, tile_width / WIDTH, tile_width / area)
        return palette_png(figure, colours, dict(zip(TILE_KEYS, places, strict=True)))


def _write(axes: Axes, x: float, y: float, text: str, horizontal: str, vertical: str) -> None:
    edge = withStroke(linewidth=1.8, foreground="black")
    axes.text(x, y, text, color="white", fontsize=10.5, ha=horizontal, va=vertical, path_effects=[edge])


def draw_bar(figure: Figure, height: float, bar: tuple[Normalize, Colormap, str, str]) -> None:
    """Colour bar (see :func:`mosaic`) at the foot of a dark figure, whose height is in inches."""
    norm, cmap, label, extend = bar
    axes = figure.add_axes((0.07, 0.45 / height, 0.86, 0.13 / height))
    colorbar = figure.colorbar(
        ScalarMappable(norm=norm, cmap=cmap),
        cax=axes,
        orientation="horizontal",
        extend=extend,
        extendfrac=0.03,
        ticks=MaxNLocator(MAX_INTERVALS, steps=[1, 2, 2.5, 5, 10]),
    )
    if isinstance(norm, LogNorm):
        plain_ticks(colorbar.ax.xaxis)
    colorbar.outline.set_edgecolor("white")
    colorbar.outline.set_linewidth(0.5)
    axes.tick_params(colors="white", labelsize=11, length=2.5, pad=1.5)
    # A name from a sidecar may hold dollar signs, which are no formula.
    axes.set_xlabel(label, color="white", fontsize=11.5, labelpad=1, parse_math=False)


def outline_segments(mask: np.ndarray) -> np.ndarray:
    """Start and end (x, y), shape (E, 2, 2), of every edge between inside and outside of a mask.

    The mask has the shape (rows, columns); x counts columns, y rows, a pixel is one unit wide.
    """
    padded = np.pad(mask.astype(bool), 1)
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])[:, ::-1]
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])[:, ::-1]
    starts = np.concatenate([upright, level])
    ends = np.concatenate([np.add(upright, (0, 1)), np.add(level, (1, 0))])
    return np.stack([starts, ends], axis=1).astype(float)


def grey_levels(image: np.ndarray) -> np.ndarray:
    """An image of any shape scaled to 0..1."""
    finite = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    positive = finite[finite > 0]
    top = np.percentile(positive, UNDERLAY_PERCENTILE) if positive.size else 1.0
    return np.clip(finite / top, 0.0, 1.0)


def tiles_of_png(content: bytes) -> dict[str, float] | None:
    """Places of the tiles of a picture by :data:`TILE_KEYS`; None where the PNG does not tell them."""
    try:
        found = {key: float(Image.open(io.BytesIO(content)).info[f"sicnn-app {key}"]) for key in TILE_KEYS}
    except (KeyError, ValueError, TypeError, OSError):
        return None
    return found if all(0 <= place <= 20 for place in found.values()) and found["tile"] > 0 else None


def palette_png(figure: Figure, colours: np.ndarray, places: Mapping[str, float] | None = None) -> bytes:
    """PNG of a figure in at most 256 colours: some, shape (C, 3), 0..1, and greys.

    ``places`` are written beside the pixels, see :func:`tiles_of_png`.
    """
    with warnings.catch_warnings():
        # Names of regions may be in any script: boxes in the picture, words in the tables.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    greys = np.linspace(0.0, 1.0, 256 - len(colours))[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.concatenate([colours, greys])).astype(np.uint8).tobytes())
    # With a palette the file is a third of the size, and its colours are known beforehand.
    told = PngInfo()
    for key, place in (places or {}).items():
        told.add_text(f"sicnn-app {key}", f"{place:.5f}")
    quantised = drawn.quantize(palette=palette, dither=Image.Dither.NONE)
    quantised.save(buffer, format="PNG", pnginfo=told)
    return buffer.getvalue()
