"""The part of the report that shows all volumes at once, and those in question beside others.

The judged images are not written, so these pictures are drawn when a run is processed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from sicnn_app.bids.geometry import placement
from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts, as_number, count_of, in_words
from sicnn_app.derivatives.names import CARPET, VOLUME_PICTURES, picture_name
from sicnn_app.formats import shorten
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.carpet import NOWHERE, Carpet, Suspect
from sicnn_app.ivim.run import RunResult
from sicnn_app.report.display import Display, plan_display
from sicnn_app.report.figures import OUTLINE, extend_of, grey_tile, shades_of
from sicnn_app.report.mosaic import DARK, WIDTH, draw_bar, grey_levels, mosaic, palette_png
from sicnn_app.report.picture import Picture
from sicnn_app.report.style import DIFFERENCES, plain_style
from sicnn_app.report.tables import fallen_places, in_question

RANGE = 50.0
"""Per cent of what is expected, at both ends of the colours."""

HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 4.6, 0.95, 0.42, 1.18, 0.12
"""Inches, of the carpet and its margins; the width is that of all pictures."""

LEAST_GROUP, MOST_NOWHERE = 0.07, 0.4
"""Of the height, for a group of blocks however small it is, and for those in no region: a small organ shall
be seen."""

LINE, COLUMN = 0.17, 0.34
"""Inches that a label takes up and down, and across."""

MOST_LETTERS = 13
"""Of the name of a region at the side of the carpet."""

USED, LEFT_OUT = "v", "X"
"""Marks above volumes in question."""


def draw_volumes(result: RunResult) -> dict[str, bytes]:
    """PNG of the carpet of a run and of its volumes in question, by label; none where nothing was judged."""
    if (carpet := result.carpet) is None:
        return {}
    shown = result.averaged.mask.copy()
    for suspect in carpet.suspects:
        # Signal may be lost outside of a given mask, too.
        shown[..., suspect.slice_index] |= suspect.fallen
    display = plan_display(shown, *placement(result.header))
    suspects = zip(VOLUME_PICTURES, carpet.suspects, strict=False)
    return {
        CARPET: carpet_picture(carpet, result.volumes),
        **{label: suspect_picture(suspect, display) for label, suspect in suspects},
    }


def carpet_picture(carpet: Carpet, volumes: Sequence[Mapping[str, Any]]) -> bytes:
    """Signal over what is expected, blocks down by group, volumes across by b-value and then as acquired.

    Parameters
    ----------
    volumes : sequence of mapping
        One row of the table of volumes per column of the carpet.
    """
    bvals = np.array([row["b_value"] for row in volumes], dtype=float)
    nominal, group = group_bvalues(bvals)
    order = np.argsort(group, kind="stable")
    norm, cmap = Normalize(-RANGE, RANGE), DIFFERENCES
    percent = 100 * (carpet.ratios[:, order] - 1)
    coloured = np.where(
        np.isfinite(percent)[..., None], cmap(norm(np.nan_to_num(percent)))[..., :3], to_rgb(DARK)
    )
    with plain_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=240, facecolor=DARK)
        FigureCanvasAgg(figure)
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT))
        _rows(axes, carpet, coloured, height)
        edges = np.flatnonzero(np.diff(group[order])) + 1
        axes.vlines(edges, 0, 1, color="white", linewidth=0.5)
        columns = [np.flatnonzero(group[order] == b).mean() + 0.5 for b in range(nominal.size)]
        crowded = bool((np.diff(columns) < COLUMN * order.size / width).any())
        apart = (LINE if crowded else COLUMN) * order.size / width
        _ticks(axes, "x", columns, [f"{b:g}" for b in nominal], apart)
        axes.tick_params("x", rotation=90 if crowded else 0)
        axes.set_xlabel("b (s/mm²)", color="white", fontsize=10.5, labelpad=2)
        _marks(axes, [volumes[i] for i in order], width, height)
        axes.set(xlim=(0, order.size), ylim=(1, 0))
        values = percent[np.isfinite(percent)]
        extend = extend_of(values, -RANGE, RANGE)
        draw_bar(figure, HEIGHT, (norm, cmap, "signal against what is expected (%)", extend))
        return palette_png(figure, shades_of(cmap))


def _rows(axes: Axes, carpet: Carpet, coloured: np.ndarray, height: float) -> None:
    """Every group of blocks in a height of its own, with its name."""
    counts = np.array(list(carpet.groups.values()))
    shares = np.maximum(counts / counts.sum(), min(LEAST_GROUP, 1 / counts.size))
    if NOWHERE in carpet.groups:
        shares[-1] = min(shares[-1], MOST_NOWHERE)
    ends = np.cumsum(shares / shares.sum())
    starts = np.concatenate([[0.0], ends[:-1]])
    for part, start, end in zip(np.split(coloured, np.cumsum(counts)[:-1]), starts, ends, strict=True):
        axes.imshow(part, extent=(0, part.shape[1], end, start), aspect="auto", interpolation="nearest")
    axes.hlines(starts[1:], 0, coloured.shape[1], color="white", linewidth=0.5)
    word = "slice " if carpet.grouped_by == "slice" else ""
    names = [shorten(f"{word}{name}", MOST_LETTERS) for name in carpet.groups]
    _ticks(axes, "y", (starts + ends) / 2, names, LINE / height)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(axes: Axes, axis: str, places: Iterable[float], names: Sequence[str], apart: float) -> None:
    """Labels, as many as have room."""
    shown: list[tuple[float, str]] = []
    for place, name in zip(places, names, strict=True):
        if not shown or place - shown[-1][0] >= apart:
            shown.append((place, name))
    set_ticks = axes.set_xticks if axis == "x" else axes.set_yticks
    # Names of regions may hold dollar signs, which are no formula.
    set_ticks(*map(list, zip(*shown, strict=True)), parse_math=False)
    axes.tick_params(axis, colors="white", labelcolor="white", labelsize=9.5, length=0, pad=3)


def _marks(axes: Axes, rows: Sequence[Mapping[str, Any]], width: float, height: float) -> None:
    """A mark above every volume in question, and its number where there is room."""
    last = -np.inf
    for place, row in enumerate(rows, start=0):
        if not in_question(row):
            continue
        mark = USED if row["used"] == "yes" else LEFT_OUT
        x, y = place + 0.5, -0.07 / height
        axes.plot(x, y, mark, color=OUTLINE, markersize=5, markeredgewidth=0, clip_on=False)
        if place - last >= 0.15 * len(rows) / width:
            last = place
            axes.text(
                x, -0.13 / height, str(row["volume"]), color=OUTLINE, fontsize=8.5, rotation=90,
                ha="center", va="bottom",
            )  # fmt: skip


def suspect_picture(suspect: Suspect, display: Display) -> bytes:
    """One slice of a volume in question and of what it is compared with, what fell out outlined in both."""
    pair = np.stack([suspect.image, suspect.reference])
    alike = suspect.bval == suspect.other_bval
    greys = grey_levels(pair) if suspect.one_scale else np.stack([grey_levels(image) for image in pair])
    others = f"{len(suspect.others)} others" if len(suspect.others) > 1 else f"volume {suspect.others[0]}"
    return mosaic(
        [grey_tile(grey) for grey in greys],
        display,
        labels=[f"volume {suspect.volume}", others if alike else f"{others}, b = {suspect.other_bval:g}"],
        colours=np.array([to_rgb(OUTLINE), to_rgb(DARK)]),
        outlines=[suspect.fallen] * 2,
        outline_colour=OUTLINE,
        outline_width=1.1,
        with_edges=False,
        columns=2,
    )


def carpet_pictures(run: RunDerivatives) -> list[Picture]:
    """The carpet that was drawn when the run was processed."""
    if CARPET not in run.kept_pictures:
        return []
    recorded = Facts(_recorded(run))
    rows = in_words(recorded.get("CarpetGroupedBy"))
    found = [f"{row.get('volume')} ({row.get('found')})" for row in run.volumes if in_question(row)]
    return [
        Picture(
            file_name=picture_name(run.name, CARPET, "png"),
            content=run.kept_pictures[CARPET],
            title="All volumes",
            caption="Across: volumes by b-value, of each as acquired. Down: blocks of tissue by "
            f"{rows}. Blue: less signal than the other volumes let expect, yellow: more, black: not judged. "
            "Above, volumes in question, counted from 0; those with a cross are left out.",
            alt=f"Carpet of {count_of(len(run.volumes), 'volume')}: signal of blocks of tissue by {rows} "
            f"against what is expected. In question: {', '.join(found) or 'none'}.",
        )
    ]


def volume_pictures(run: RunDerivatives) -> list[Picture]:
    """The volumes in question that were drawn when the run was processed."""
    entries = _recorded(run).get("Volumes")
    entries = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    pairs = zip(VOLUME_PICTURES, entries, strict=False)
    return [_suspect(run, label, Facts(entry)) for label, entry in pairs if label in run.kept_pictures]


def undrawn_words(run: RunDerivatives, drawn: Sequence[Picture]) -> str:
    """Volumes in question without a picture; nothing where all have one."""
    titles = {picture.title for picture in drawn}
    names = [str(row.get("volume")) for row in run.volumes if in_question(row)]
    others = [name for name in names if _title(name) not in titles]
    return f"Without a picture: volumes {', '.join(others)}." if drawn and others else ""


def _title(volume: str) -> str:
    return f"Volume {volume}"


def _recorded(run: RunDerivatives) -> Mapping[str, Any]:
    recorded = run.qc.get("VolumePictures")
    return recorded if isinstance(recorded, Mapping) else {}


def _suspect(run: RunDerivatives, label: str, facts: Facts) -> Picture:
    volume, slice_index = facts.text("Volume"), facts.text("Slice")
    row = next((row for row in run.volumes if as_number(row.get("volume")) == facts.number("Volume")), {})
    others = facts.numbers("ComparedWithVolumes")
    alike = facts.number("BValue") == facts.number("ComparedWithBValue")
    compared = f"the median of {len(others)} other volumes" if len(others) > 1 else "the one other volume"
    if not alike:
        compared = "the nearest volume"
    where = fallen_places(row, "fell_out_regions") or fallen_places(row, "fell_out_slices", "slice ")
    caption = (
        f"{in_words(row.get('found')).capitalize()}.",
        f"Fell out: {where}; outlined." if where else "",
        f"Slice {slice_index}, beside {compared} at b = {facts.text('ComparedWithBValue')}"
        f"{', each in a grey scale of its own.' if facts.get('OneGreyScale') is False else '.'}",
    )
    words = " ".join(filter(None, caption))
    return Picture(
        file_name=picture_name(run.name, label, "png"),
        content=run.kept_pictures[label],
        title=_title(volume),
        caption=f"b = {facts.text('BValue')}. {words}",
        alt=f"A slice of volume {volume} in question. {words}",
    )
