"""One run -> a self-contained page in which every voxel shows its numbers, its signals and their fits."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.report import figures
from sicnn_app.report.comparison import CONVENTIONAL, method_of
from sicnn_app.report.display import Display, plan_display
from sicnn_app.report.packing import CODE_BYTES, Quantised, first_voxel, pack_slices, plan_packing, quantise
from sicnn_app.report.page import render_page
from sicnn_app.report.picture import volume_of
from sicnn_app.report.quantities import shown_quantities, spread_quantities
from sicnn_app.report.style import colour_map, colour_scale
from sicnn_app.report.tables import at_bvalues

MAX_BYTES = 9_500_000
"""Of the packed slices: with program, style and colours the page stays below 10 MB."""

SHADES = 256


def voxel_page(
    run: RunDerivatives, *, report: str, version: str, max_bytes: int = MAX_BYTES
) -> tuple[str, bytes] | None:
    """The page of a run, file name and HTML; None when the run has no voxels or no map.

    Parameters
    ----------
    report : str
        Address of the run's report, as seen from the page.
    version : str
        Of the app that made the maps.
    max_bytes : int
        See :func:`sicnn_app.report.packing.plan_packing`.
    """
    if not run.has_voxels or not run.maps:
        return None
    display = plan_display(run.mask, run.affine, run.zooms)
    fields = _fields(run)
    slices, code_bytes = plan_packing(run.mask, display, len(fields), max_bytes)
    packed = {name: quantise(values, code_bytes) for name, values in fields.items()}
    rounded = [
        f"{quantity.spec.symbol} in steps of {quantity.with_unit(float(f'{step * quantity.factor:.2g}'))}"
        for quantity in shown_quantities(run.anatomy)
        if quantity.spec.label in packed and code_bytes < CODE_BYTES[0]
        for step in (packed[quantity.spec.label].step,)
    ]
    content = render_page(
        "voxels.html.j2",
        styles=("report.css", "voxels.css"),
        scripts=("voxels.js",),
        name=run.name,
        report=report,
        version=version,
        convention=display.convention,
        has_signals=run.measured is not None,
        own_method=method_of(run),
        conventional=CONVENTIONAL if run.conventional else None,
        spread=bool(run.spread),
        left_out=int(run.mask.any(axis=(0, 1)).sum()) - len(slices),
        slices=len(slices),
        rounded=rounded,
        run={**_content(run, display, packed, slices), "code_bytes": code_bytes},
    )
    return picture_name(run.name, "voxels", "html"), content


def _fields(run: RunDerivatives) -> dict[str, np.ndarray]:
    """Every number of a voxel: own maps, their spread, the conventional fit, and signals relative to S0.

    Signals of one voxel differ less than voxels do, which leaves finer steps to those relative to S0.
    """
    fields = {
        f"{label}{suffix}": volume[run.mask]
        for suffix, volumes in (("", run.maps), ("_std", run.spread), ("_lsq", run.conventional))
        for label, volume in volumes.items()
    }
    if run.measured is not None:
        reference = run.inside("s0") if "s0" in run.maps else np.ones(int(run.mask.sum()))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = run.measured.in_mask / reference
        fields |= {f"signal_{position}": signal for position, signal in enumerate(relative)}
    return fields


def _content(
    run: RunDerivatives, display: Display, packed: dict[str, Quantised], slices: tuple[int, ...]
) -> dict[str, Any]:
    """Data that the program of the page reads, but for the bytes of a number."""
    rows, columns = display.picture(run.mask[..., 0]).shape
    flags = np.zeros(int(run.mask.sum()), dtype=np.uint8) if run.flags is None else run.flags[run.mask]
    underlay = np.rint(255 * figures.underlay_of(run)).astype(np.uint8)
    views = _views(run)
    signals = None
    if run.measured is not None:
        bvals = [float(b) for b in run.measured.bvals]
        sigma = at_bvalues(Facts(run.parameters), "noise_sigma_per_b_value", bvals)
        relative_to = "s0" if "s0" in run.maps else None
        signals = {"bvals": bvals, "sigma": sigma, "relative_to": relative_to}
    unflagged = volume_of(run, ~run.flagged)
    return {
        "rows": rows,
        "columns": columns,
        "pixel_height": display.aspect,
        "transpose": display.transpose,
        "flip_across": display.flip_across,
        "flip_down": display.flip_down,
        "origin": [axis.start for axis in display.crop],
        "edges": display.edges,
        "slices": slices,
        "first": first_voxel(run.mask, unflagged, display, slices),
        "fields": [{"name": name, "low": field.low, "step": field.step} for name, field in packed.items()],
        "signals": signals,
        "views": views,
        "quantities": [
            {
                "label": quantity.spec.label,
                "symbol": quantity.spec.symbol,
                "title": quantity.title,
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
        "negligible_f": NEGLIGIBLE_F,
        "underlay_brightness": figures.UNDERLAY_BRIGHTNESS,
        "uncoloured_brightness": figures.UNCOLOURED_BRIGHTNESS,
        "packed": pack_slices(run.mask, underlay, flags, list(packed.values()), display, slices),
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
