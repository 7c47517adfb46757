"""One run -> a self-contained page in which every voxel shows its numbers, its signals and their fits."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, Facts
from sicnn_app.derivatives.names import picture_name
from sicnn_app.formats import printable, shorten
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.ivim.parameters import BOUNDS
from sicnn_app.report import figures
from sicnn_app.report.clusters import TissueClusters
from sicnn_app.report.comparison import CONVENTIONAL, method_of
from sicnn_app.report.display import Display, plan_display, turn_to_subject
from sicnn_app.report.packing import Halves, first_voxel, halve, pack_voxels, packed
from sicnn_app.report.page import render_page, vendored
from sicnn_app.report.picture import volume_of
from sicnn_app.report.quantities import shown_quantities, spread_quantities
from sicnn_app.report.style import colour_map, colour_scale
from sicnn_app.report.tables import at_bvalues

MAX_BYTES = 10_000_000
"""Of a page that nobody asked for: larger ones cannot be mailed and open slowly."""

SHADES = 256

MOST_REGIONS = 250
"""In the page, the first of the table: it names and colours each."""

LIBRARIES = {"niivue": "BSD-2-Clause", "uPlot": "MIT"}
"""In the page, with their licences."""


def voxel_page(
    run: RunDerivatives, *, report: str, version: str, tissue: TissueClusters | None = None
) -> tuple[str, bytes] | None:
    """The page of a run, file name and HTML; None when the run has no voxels or no map.

    Parameters
    ----------
    report : str
        Address of the run's report, as seen from the page.
    version : str
        Of the app that made the maps.
    tissue : TissueClusters, optional
        Shown where no regions are given.
    """
    if not run.has_voxels or not run.maps:
        return None
    display = plan_display(run.mask, run.affine, run.zooms)
    content = render_page(
        "voxels.html.j2",
        styles=("report.css", "voxels.css"),
        libraries=("uPlot.min.css", "uPlot.iife.min.js"),
        scripts=("biexponential.js", "voxels.js"),
        name=run.name,
        report=report,
        version=version,
        convention=display.convention,
        measured=run.measured,
        own_method=method_of(run),
        conventional=CONVENTIONAL if run.conventional else None,
        spread=bool(run.spread),
        shape=run.mask.shape,
        licences={f"{name} ({kind})": vendored(f"{name}.LICENSE.txt") for name, kind in LIBRARIES.items()},
        viewer=_packed_viewer(),
        run=_content(run, display, tissue),
    )
    return picture_name(run.name, "voxels", "html"), content


@cache
def _packed_viewer() -> str:
    return packed(vendored("niivue.umd.js").encode("utf-8"))


def _fields(run: RunDerivatives) -> dict[str, Halves]:
    """Every number of a voxel: own maps, their spread, the conventional fit, and the measured signals."""
    fields = {
        f"{label}{suffix}": halve(volume[run.mask])
        for suffix, volumes in (("", run.maps), ("_std", run.spread), ("_lsq", run.conventional))
        for label, volume in volumes.items()
    }
    signals = () if run.measured is None else run.measured.in_mask
    return fields | {f"signal_{position}": halve(signal) for position, signal in enumerate(signals)}


def _content(run: RunDerivatives, display: Display, tissue: TissueClusters | None) -> dict[str, Any]:
    """Data that the program of the page reads."""
    turned = turn_to_subject(run.mask, run.affine, run.zooms, display)
    fields, views = _fields(run), _views(run)
    voxels = int(run.mask.sum())
    flags = np.zeros(voxels) if run.flags is None else run.flags[run.mask]
    kind, regions, codes = _regions(run, tissue)
    underlay = np.rint(255 * figures.underlay_of(run)).astype(np.uint8)
    return {
        "name": run.name,
        "shape": turned.shape,
        "affine": turned.affine.tolist(),
        "axes": [int(axis) for axis in turned.orientation[:, 0]],
        "flipped": [bool(direction < 0) for direction in turned.orientation[:, 1]],
        "origin": [part.start for part in turned.crop],
        "oriented": run.affine is not None,
        "first": first_voxel(run.mask, volume_of(run, ~run.flagged)),
        "fields": [{"name": name, "unit": field.unit} for name, field in fields.items()],
        "signals": None if run.measured is None else _signals(run),
        "views": views,
        "quantities": [
            {
                "label": quantity.spec.label,
                "symbol": quantity.spec.symbol,
                "factor": quantity.factor,
                "unit": quantity.unit,
            }
            for quantity in shown_quantities(run.anatomy)
            if quantity.spec.label in run.maps
        ],
        "shades": {view["colours"]: _shades(view) for view in views},
        "flags": [
            {"code": spec.code, "words": spec.description, "colour": spec.color}
            for spec in (FLAGS if run.flags is not None else ())
        ],
        "regions": regions,
        "regions_kind": kind,
        "negligible_f": NEGLIGIBLE_F,
        "underlay_brightness": figures.UNDERLAY_BRIGHTNESS,
        "uncoloured_brightness": figures.UNCOLOURED_BRIGHTNESS,
        "packed": pack_voxels(run.mask, underlay, (flags, codes & 255, codes >> 8), fields.values(), turned),
    }


def _regions(
    run: RunDerivatives, tissue: TissueClusters | None
) -> tuple[str, list[dict[str, Any]], np.ndarray]:
    """Their kind, each of them, and the code of every voxel: of those given, or else of the clusters."""
    if run.regions and run.region_codes is not None:
        codes = np.nan_to_num(run.region_codes[run.mask])
        named = (codes > 0) & (codes <= min(len(run.regions), MOST_REGIONS))
        codes = np.where(named, codes, 0).astype(np.uint16)
        names = [printable(shorten(row.get("name") or MISSING)) for row in run.regions]
        colours = cycle(map(to_hex, colormaps["Set3"](range(12))))
        there = np.unique(codes[codes > 0]).tolist()
        given = [{"code": code, "words": names[code - 1], "colour": next(colours)} for code in there]
        return "Regions", given, codes
    codes = np.zeros(int(run.mask.sum())) if tissue is None else tissue.numbers
    clusters = [
        {"code": row["cluster"], "words": f"cluster {row['cluster']}", "colour": row["color"]}
        for row in (tissue.rows if tissue else ())
    ]
    return "Tissue clusters", clusters, codes.astype(np.uint16)


def _signals(run: RunDerivatives) -> dict[str, Any]:
    """What the chart and the fit of a region need: b-values, noise and weights of each, bounds."""
    facts = Facts(run.parameters)
    bvals = [float(b) for b in run.measured.bvals]
    stated = facts.get("bounds")
    bounds = stated if isinstance(stated, Mapping) else {}
    return {
        "bvals": bvals,
        "sigma": at_bvalues(facts, "noise_sigma_per_b_value", bvals),
        "volumes": run.measured.volumes.tolist(),
        "bounds": {
            label: ends if len(ends := Facts(bounds).numbers(label)) == 2 else list(usual)
            for label, usual in BOUNDS.items()
        },
    }


def _views(run: RunDerivatives) -> list[dict[str, Any]]:
    """Maps that can be looked at, in groups."""
    own = shown_quantities(run.anatomy)
    views = []
    for group, suffix, quantities, volumes in (
        (method_of(run), "", own, run.maps),
        ("Standard deviations", "_std", spread_quantities(run.anatomy), run.spread),
        (CONVENTIONAL.capitalize(), "_lsq", own, run.conventional),
    ):
        # The spread of D* is that of the run's own maps, so their F says whether it means anything.
        perfusion = "f_lsq" if suffix == "_lsq" else "f"
        for quantity in quantities:
            label = quantity.spec.label
            if label not in volumes:
                continue
            low, high = quantity.limits(volumes[label][run.mask])
            views.append(
                {
                    "field": f"{label}{suffix}",
                    "group": group,
                    "label": quantity.name,
                    "factor": quantity.factor,
                    "unit": quantity.unit,
                    "low": low,
                    "high": high,
                    "cmap": quantity.cmap,
                    "colours": f"{quantity.cmap}{', logarithmic' * quantity.logarithmic}",
                    "logarithmic": quantity.logarithmic,
                    "needs": perfusion if quantity.spec.needs_perfusion else None,
                }
            )
    return views


def _shades(view: Mapping[str, Any]) -> str:
    """Red, green and blue of the shades of a view, at equal steps from low to high end, as base64."""
    low, high = view["low"], view["high"]
    scale = colour_scale(low, high, logarithmic=view["logarithmic"])
    colours = colour_map(view["cmap"])(scale(np.linspace(low, high, SHADES)))[:, :3]
    return base64.b64encode(np.rint(255 * colours).astype(np.uint8).tobytes()).decode("ascii")
