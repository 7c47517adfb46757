"""Volumes -> pictures (PNG): maps, mask, b-value images, flags and clusters over the b = 0 image, steps.

Volumes have the shape (X, Y, Z) of the mask of their run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_rgb

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.outputs import MeasuredSignals
from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.report.display import Display
from sicnn_app.report.mosaic import DARK, grey_levels, mosaic
from sicnn_app.report.quantities import Quantity
from sicnn_app.report.style import colour_map, colour_scale

MAX_TILES = 12
UNDERLAY_BRIGHTNESS = 0.5
"""Of the b = 0 image outside the mask of a map, so that the map stands out in grey print too."""

UNCOLOURED_BRIGHTNESS = 0.25
"""Of the b = 0 image inside the mask where a map shows no colour: darker than any grey of a colour map."""

CMAP_SHADES = 176
"""Of the 256 colours of a picture; the others are greys."""

FADES = ((0.25, 0.35), (0.5, 0.65), (1.0, 0.9))
"""Standard deviation over the value from which on, and the share in which, a colour goes over to grey."""

FADED_TO = 0.45
"""Grey of what is not known: apart from the black of no colour and the bright ends of the maps."""

FADE_FLOOR = 0.1
"""Of the upper end of a linear colour range: a smaller value counts as this, for a known zero is known."""

OUTLINE = "#ffd92f"
"""Line around what is pointed at."""


def underlay_of(run: RunDerivatives) -> np.ndarray:
    """The image below maps, 0..1: the image at the lowest b-value, or else the S0 map, or a plain grey."""
    baseline = run.maps.get("s0") if run.measured is None else run.measured.baseline
    return np.full(run.mask.shape, 0.25) if baseline is None else grey_levels(baseline)


def map_picture(
    run: RunDerivatives,
    display: Display,
    quantity: Quantity,
    values: np.ndarray,
    shown: np.ndarray,
    spread: np.ndarray | None = None,
) -> bytes:
    """One parameter map with its colour bar.

    Parameters
    ----------
    quantity : Quantity
        Colour map, range, factor and unit of what is shown.
    values : ndarray, shape (X, Y, Z), in the unit of the file
    shown : ndarray, shape (X, Y, Z), bool
        Voxels of the mask that get a colour.
    spread : ndarray, shape (X, Y, Z), optional
        Standard deviations in the unit of the file, by which colours fade, see :data:`FADES`.
    """
    low, high = quantity.limits(values[shown])
    norm = colour_scale(low, high, logarithmic=quantity.logarithmic)
    cmap = colour_map(quantity.cmap)
    scaled = np.maximum(np.nan_to_num(_shown(values, display) * quantity.factor, nan=low), low)
    extend = extend_of(values[shown] * quantity.factor, low, high)
    # Logarithmic scales of Matplotlib take no more than two dimensions.
    coloured = cmap(norm(scaled.ravel())).reshape(*scaled.shape, 4)[..., :3]
    colours = shades_of(cmap)
    if spread is not None:
        share = fading(_shown(values, display), _shown(spread, display), quantity)
        coloured = _faded(coloured, share[..., None])
        # As many colours as without, so that each is told from the next in all strengths.
        few = colours[:: len(FADES) + 1]
        colours = np.concatenate([few, *(_faded(few, share) for _, share in FADES)])
    return _over_baseline(
        run,
        display,
        coloured,
        shown,
        dimmed=True,
        colours=colours,
        bar=(norm, cmap, f"{quantity.name} ({quantity.unit})", extend),
    )


def fading(values: np.ndarray, spread: np.ndarray, quantity: Quantity) -> np.ndarray:
    """Share in which the colour of every voxel goes over to grey, 0..1, of the shape of both arguments.

    Parameters
    ----------
    values, spread : ndarray
        Map and standard deviation in the unit of the file. Where the latter is not known nothing fades.
    """
    floor = 0.0
    if quantity.fixed_range is not None and not quantity.logarithmic:
        floor = FADE_FLOOR * quantity.fixed_range[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = spread / np.maximum(values, floor)
    share = np.zeros(relative.shape)
    for limit, faded in FADES:
        share[relative > limit] = faded
    return share


def _faded(colours: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    return (1 - share) * colours + share * FADED_TO


def mask_picture(run: RunDerivatives, display: Display) -> bytes:
    """The b = 0 image with the outline of the mask."""
    colours, nowhere = np.array([to_rgb(OUTLINE)]), np.zeros_like(run.mask)
    line = {"outline_colour": OUTLINE, "outline_width": 1.1}
    return _over_baseline(run, display, colours, nowhere, colours=colours, **line)


def flag_picture(run: RunDerivatives, display: Display) -> bytes:
    """Flagged voxels in the colours of their flags."""
    colours = [to_rgb(spec.color) for spec in FLAGS]
    flagged = [run.flags == spec.code for spec in FLAGS]
    coloured = np.select([_shown(where, display)[..., None] for where in flagged], colours)
    return _over_baseline(run, display, coloured, np.any(flagged, axis=0), colours=np.array(colours))


def cluster_picture(run: RunDerivatives, display: Display, clusters: np.ndarray, colours: list[str]) -> bytes:
    """Numbered groups of voxels in their colours.

    Parameters
    ----------
    clusters : ndarray, shape (X, Y, Z), int, from 1; 0 where there is none
    colours : list of str
        Colour of every cluster, the first for number 1.
    """
    palette = np.array([to_rgb(colour) for colour in colours])
    return _over_baseline(
        run,
        display,
        palette[_shown(clusters, display) - 1],
        clusters > 0,
        dimmed=True,
        colours=palette,
        bar=(Normalize(0.5, len(colours) + 0.5), ListedColormap(colours), "cluster", "neither"),
    )


def bvalue_picture(measured: MeasuredSignals, display: Display) -> bytes:
    """One slice at up to :data:`MAX_TILES` b-values, each b-value with its own grey scale."""
    count = len(measured.bvals)
    chosen = np.round(np.linspace(0, count - 1, min(count, MAX_TILES))).astype(int)
    tiles = [grey_tile(grey_levels(measured.slices[position])) for position in chosen]
    labels = [f"b = {measured.bvals[position]:g}" for position in chosen]
    return mosaic(tiles, display, labels=labels, colours=np.array([to_rgb(DARK)]), with_edges=False)


def step_picture(step: BeforeAfter, display: Display) -> bytes:
    """One slice before and after a step and their difference, a row per b-value.

    Before and after share a grey scale in each row; the differences have one symmetrical colour range.
    """
    norm, cmap = Normalize(-step.limit, step.limit), colour_map("differences")
    tiles, labels = [], []
    for bval, *pair, change in zip(step.bvals, step.before, step.after, step.difference, strict=True):
        tiles += [*map(grey_tile, grey_levels(np.stack(pair))), cmap(norm(change))[..., :3]]
        labels += [f"b = {bval:g}, before", "after", "difference"]
    extend = extend_of(step.difference, -step.limit, step.limit)
    return mosaic(
        tiles,
        display,
        labels=labels,
        colours=shades_of(cmap),
        with_edges=False,
        bar=(norm, cmap, "after minus before (image units)", extend),
        columns=3,
    )


def _over_baseline(
    run: RunDerivatives,
    display: Display,
    coloured: np.ndarray,
    shown: np.ndarray,
    *,
    dimmed: bool = False,
    **look: Any,
) -> bytes:
    """Colours over the b = 0 image, and the outline of the mask around them.

    Parameters
    ----------
    coloured : ndarray, shape (X, Y, S, 3), 0..1, or what broadcasts to it
        The S slices that the display chose.
    shown : ndarray, shape (X, Y, Z), bool
        Where the colours hide the image.
    dimmed : bool
        The image is darker than its greys.
    **look
        Further arguments of :func:`sicnn_app.report.mosaic.mosaic`.
    """
    grey = underlay_of(run)
    if dimmed:
        grey = grey * np.where(run.mask, UNCOLOURED_BRIGHTNESS, UNDERLAY_BRIGHTNESS)
    tiles = np.where(_shown(shown, display)[..., None], coloured, _shown(grey, display)[..., None])
    return mosaic(
        list(np.moveaxis(tiles, 2, 0)),
        display,
        labels=[str(index + 1) for index in display.slices],
        outlines=[run.mask[..., index] for index in display.slices],
        **look,
    )


def _shown(volume: np.ndarray, display: Display) -> np.ndarray:
    return volume[..., list(display.slices)]


def grey_tile(grey: np.ndarray) -> np.ndarray:
    """A slice of greys, shape (X, Y), as one of colours, shape (X, Y, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def shades_of(cmap: Colormap) -> np.ndarray:
    """Colours of a map that a picture gets, shape (:data:`CMAP_SHADES`, 3)."""
    return cmap(np.linspace(0, 1, CMAP_SHADES))[:, :3]


def extend_of(shown: np.ndarray, low: float, high: float) -> str:
    """Ends of the colour bar that values lie beyond."""
    below, above = bool((shown < low).any()), bool((shown > high).any())
    return (("neither", "max"), ("min", "both"))[below][above]
