"""Volumes -> pictures (PNG): maps, mask, b-value images, flags and clusters over the b = 0 image, steps."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap, Normalize, to_rgb

from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.report.display import Display
from sicnn_app.report.mosaic import DARK, grey_levels, mosaic
from sicnn_app.report.quantities import Quantity
from sicnn_app.report.style import colour_map

MAX_TILES = 12
UNDERLAY_BRIGHTNESS = 0.5
"""Of the b = 0 image outside the mask of a map, so that the map stands out in grey print too."""

UNCOLOURED_BRIGHTNESS = 0.25
"""Of the b = 0 image inside the mask where a map shows no colour: darker than any grey of a colour map."""

CMAP_SHADES = 176
"""Of the 256 colours of a picture; the others are greys."""

_OUTLINE = "#ffd92f"


def map_picture(
    values: np.ndarray,
    mask: np.ndarray,
    baseline: np.ndarray | None,
    display: Display,
    quantity: Quantity,
    *,
    shown: np.ndarray | None = None,
) -> bytes:
    """One parameter map with the mask outline over the b = 0 image, and its colour bar.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z), in the unit of the file
    mask : ndarray, shape (X, Y, Z), bool
    baseline : ndarray, shape (X, Y, Z), or None
    display : Display
    quantity : Quantity
        Colour map, range, factor and unit of what is shown.
    shown : ndarray, shape (X, Y, Z), bool, optional
        Voxels of the mask that get a colour; all of them by default.

    Returns
    -------
    bytes
        PNG.
    """
    coloured = mask if shown is None else mask & shown
    low, high = quantity.limits(values[coloured])
    norm = Normalize(low, high)
    cmap = colour_map(quantity.cmap)
    scaled = np.nan_to_num(values * quantity.factor, nan=low)
    underlay = grey_levels(baseline, mask) * np.where(mask, UNCOLOURED_BRIGHTNESS, UNDERLAY_BRIGHTNESS)
    tiles = []
    for index in display.slices:
        colours = cmap(norm(scaled[..., index]))[..., :3]
        tiles.append(np.where(coloured[..., index, None], colours, underlay[..., index, None]))
    return mosaic(
        tiles,
        display,
        labels=[str(index + 1) for index in display.slices],
        outlines=[mask[..., index] for index in display.slices],
        colours=cmap(np.linspace(0, 1, CMAP_SHADES))[:, :3],
        outline_colour="white",
        outline_width=0.5,
        bar=(norm, cmap, quantity.axis_label, _extend(values[coloured] * quantity.factor, low, high)),
    )


def mask_picture(mask: np.ndarray, baseline: np.ndarray | None, display: Display) -> bytes:
    """The b = 0 image with the outline of the mask, PNG; arguments as for :func:`map_picture`."""
    grey = grey_levels(baseline, mask)
    return mosaic(
        [np.repeat(grey[..., index, None], 3, axis=-1) for index in display.slices],
        display,
        labels=[str(index + 1) for index in display.slices],
        outlines=[mask[..., index] for index in display.slices],
        colours=np.array([to_rgb(_OUTLINE)]),
        outline_colour=_OUTLINE,
        outline_width=1.1,
    )


def bvalue_picture(slices: np.ndarray, bvals: np.ndarray, display: Display) -> bytes:
    """One slice at up to ``MAX_TILES`` b-values, each b-value with its own grey scale, PNG.

    Parameters
    ----------
    slices : ndarray, shape (B, X, Y)
    bvals : ndarray, shape (B,), s/mm^2
    display : Display
    """
    chosen = np.round(np.linspace(0, len(bvals) - 1, min(len(bvals), MAX_TILES))).astype(int)
    tiles = [np.repeat(grey_levels(slices[position], None)[..., None], 3, axis=-1) for position in chosen]
    labels = [f"b = {bvals[position]:g}" for position in chosen]
    return mosaic(tiles, display, labels=labels, colours=np.array([to_rgb(DARK)]), with_edges=False)


def flag_picture(
    flags: np.ndarray,
    colours: dict[int, str],
    mask: np.ndarray,
    baseline: np.ndarray | None,
    display: Display,
) -> bytes:
    """Flagged voxels in their colours over the b = 0 image, PNG.

    Parameters
    ----------
    flags : ndarray, shape (X, Y, Z), int, 0 where nothing is flagged
    colours : dict of int to str
        Colour of every code.
    mask, baseline, display
        As for :func:`map_picture`.
    """
    grey = grey_levels(baseline, mask)
    tiles = []
    for index in display.slices:
        tile = np.repeat(grey[..., index, None], 3, axis=-1)
        for code, colour in colours.items():
            tile[flags[..., index] == code] = to_rgb(colour)
        tiles.append(tile)
    return mosaic(
        tiles,
        display,
        labels=[str(index + 1) for index in display.slices],
        outlines=[mask[..., index] for index in display.slices],
        colours=np.array([to_rgb(colour) for colour in colours.values()]),
        outline_colour="white",
        outline_width=0.5,
    )


def cluster_picture(
    clusters: np.ndarray,
    colours: list[str],
    mask: np.ndarray,
    baseline: np.ndarray | None,
    display: Display,
) -> bytes:
    """Numbered groups of voxels in their colours over the b = 0 image, PNG.

    Parameters
    ----------
    clusters : ndarray, shape (X, Y, Z), int, from 1; 0 where there is none
    colours : list of str
        Colour of every cluster, the first for number 1.
    mask, baseline, display
        As for :func:`map_picture`.
    """
    cmap = ListedColormap(colours)
    colours_used = cmap(np.arange(len(colours)))[:, :3]
    underlay = grey_levels(baseline, mask) * np.where(mask, UNCOLOURED_BRIGHTNESS, UNDERLAY_BRIGHTNESS)
    tiles = [
        np.where(
            clusters[..., index, None] > 0,
            colours_used[clusters[..., index] - 1],
            underlay[..., index, None],
        )
        for index in display.slices
    ]
    return mosaic(
        tiles,
        display,
        labels=[str(index + 1) for index in display.slices],
        outlines=[mask[..., index] for index in display.slices],
        colours=colours_used,
        bar=(Normalize(0.5, len(colours) + 0.5), cmap, "cluster", "neither"),
    )


def step_picture(step: BeforeAfter, display: Display) -> bytes:
    """One slice before and after a step and their difference, a row per b-value, PNG.

    Before and after share a grey scale in each row; the differences have one symmetrical colour range.

    Parameters
    ----------
    step : BeforeAfter
    display : Display
    """
    norm, cmap = Normalize(-step.limit, step.limit), colour_map("differences")
    tiles, labels = [], []
    for bval, *pair, change in zip(step.bvals, step.before, step.after, step.difference, strict=True):
        greys = grey_levels(np.stack(pair), None)
        tiles += [np.repeat(grey[..., None], 3, axis=-1) for grey in greys]
        tiles.append(cmap(norm(change))[..., :3])
        labels += [f"b = {bval:g}, before", "after", "difference"]
    return mosaic(
        tiles,
        display,
        labels=labels,
        colours=cmap(np.linspace(0, 1, CMAP_SHADES))[:, :3],
        with_edges=False,
        bar=(
            norm,
            cmap,
            "after minus before (image units)",
            _extend(step.difference, -step.limit, step.limit),
        ),
        columns=3,
    )


def _extend(shown: np.ndarray, low: float, high: float) -> str:
    below, above = bool((shown < low).any()), bool((shown > high).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        below, above
    ]
