"""The derivatives of a run -> what the lines at the top of the report need of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts, as_number, format_number, in_words
from sicnn_app.formats import shorten
from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, POOR, UNKNOWN, VERDICTS
from sicnn_app.ivim.flags import BOUND_MARGIN, FLAGS, left_out
from sicnn_app.ivim.parameters import BOUNDS, TISSUE_LABELS
from sicnn_app.ivim.summary import spread
from sicnn_app.report.answers.inputs import FLUID_D, VESSEL_F, RunAnswers, Tissue
from sicnn_app.report.clusters import TissueClusters
from sicnn_app.report.tables import fallen_places, in_question, method_name

_TIMES = {"echo_time": "echo time", "big_delta": "diffusion time", "small_delta": "gradient duration"}

_TO_STANDARD_DEVIATION = 1.349
"""Interquartile range over standard deviation of a normal distribution; a few odd voxels do not move it."""

_AT_BOUND = next(spec.code for spec in FLAGS if spec.name == "parameter_at_bound")


def answers_of(run: RunDerivatives, title: str, clusters: TissueClusters | None) -> RunAnswers:
    """What the lines at the top need of a run; what its files do not tell stays empty.

    Parameters
    ----------
    title : str
        How the report calls the run.
    clusters : TissueClusters or None
        Clusters of similar voxels, which stand for regions where there are none.
    """
    adequacy = run.qc.get("Adequacy")
    adequacy = adequacy if isinstance(adequacy, Mapping) else {}
    verdict = adequacy.get("Verdict")
    regions = _regions(run)
    return RunAnswers(
        title,
        verdict if isinstance(verdict, str) and verdict in VERDICTS else UNKNOWN,
        in_words(adequacy.get("Sentence")) if adequacy.get("Sentence") else "",
        _advice(adequacy.get("Checks")),
        regions or _clusters(run, clusters),
        bool(regions),
        _tissue(run, "the mask", np.ones(int(run.mask.sum()), dtype=bool)) if _has_maps(run) else None,
        _conditions(run),
        tuple(_lost(run)),
        run.anatomy,
        *(_not_tissue(run) if _has_maps(run) else (0.0, 0.0)),
    )


def _has_maps(run: RunDerivatives) -> bool:
    return run.has_voxels and set(TISSUE_LABELS) <= run.maps.keys()


def _advice(checks: Any) -> dict[str, str]:
    """Meanings of the checks that are not good, the worst first; D* has a line of its own."""
    found = [check for check in checks if isinstance(check, Mapping)] if isinstance(checks, list) else []
    weak = [
        (in_words(check.get("Name")), in_words(check.get("Meaning")))
        for verdict in (POOR, DOUBTFUL)
        for check in found
        if check.get("Verdict") == verdict
    ]
    others = ("Precision of D*", "Worth of a network")
    return {name: meaning for name, meaning in weak if name not in others}


def _regions(run: RunDerivatives) -> tuple[Tissue, ...]:
    several = len({row.get("segmentation") for row in run.regions}) > 1
    return tuple(_region(row, several) for row in run.regions)


def _region(row: Mapping[str, str], several: bool) -> Tissue:
    def known(form: str) -> dict[str, float]:
        found = {label: as_number(row.get(form.format(label))) for label in TISSUE_LABELS}
        return {label: value for label, value in found.items() if value is not None}

    name = shorten(in_words(row.get("name"))).replace("_", " ")
    return Tissue(
        f"{name} ({shorten(in_words(row.get('segmentation')))})" if several else name,
        int(as_number(row.get("voxels")) or 0),
        known("{}_median"),
        known("{}_iqr"),
        known("{}_std"),
        known("{}_std_median"),
        known("{}_bound"),
        as_number(row.get("parameter_at_bound_share")) or 0.0,
        as_number(row.get("flagged_share")) or 0.0,
        1.0 if (share := as_number(row.get("share_inside"))) is None else share,
    )


def _clusters(run: RunDerivatives, clusters: TissueClusters | None) -> tuple[Tissue, ...]:
    found = []
    for row in clusters.rows if clusters else ():
        number = row["cluster"]
        bound = {} if row["dstar_bound"] is None else {"dstar": row["dstar_bound"]}
        cluster = _tissue(run, f"cluster {number}", clusters.numbers == number, bound)
        robust = {label: width / _TO_STANDARD_DEVIATION for label, width in cluster.iqr.items()}
        found.append(replace(cluster, deviations={**robust, **cluster.of_voxel}, cluster=True))
    return tuple(found)


def _tissue(
    run: RunDerivatives, name: str, voxels: np.ndarray, bounds: Mapping[str, float] | None = None
) -> Tissue:
    """Numbers of some voxels of the mask, shape (M,), bool."""
    of_maps, of_voxel = {}, {}
    for label in TISSUE_LABELS:
        counted = voxels & run.meaningful(label)
        if counted.any():
            of_maps[label] = spread(run.inside(label)[counted])
            if label in run.spread:
                known = run.spread[label][run.mask][counted]
                known = known[np.isfinite(known)]
                if known.size:
                    of_voxel[label] = float(np.median(known))
    flags = np.zeros(int(run.mask.sum()), dtype=int) if run.flags is None else run.flags[run.mask]
    return Tissue(
        name,
        int(voxels.sum()),
        {label: found.median for label, found in of_maps.items()},
        {label: found.iqr for label, found in of_maps.items()},
        {label: found.std for label, found in of_maps.items()},
        of_voxel,
        bounds or {},
        float(np.mean(flags[voxels] == _AT_BOUND)),
        float(np.mean(left_out(flags[voxels]))),
    )


def _not_tissue(run: RunDerivatives) -> tuple[float, float]:
    """Shares of the voxels that look like fluid and like vessels."""
    f, d, dstar = (run.inside(label) for label in TISSUE_LABELS)
    low, high = BOUNDS["dstar"]
    at_upper_end = dstar >= high - BOUND_MARGIN * (high - low)
    fluid = d > FLUID_D
    vessels = ~fluid & at_upper_end & (f > VESSEL_F.get(run.anatomy or "body", VESSEL_F["body"]))
    return float(fluid.mean()), float(vessels.mean())


def _conditions(run: RunDerivatives) -> dict[str, str]:
    """What the numbers may depend on besides the tissue, in words by name."""
    facts = Facts(run.parameters, run.qc_row)
    conditions = {"method": method_name(facts.text("method"))}
    for key, name in _TIMES.items():
        if (seconds := facts.number(key)) is not None:
            conditions[name] = f"{1000 * seconds:.4g} ms"
    if bvals := facts.numbers("b_values_used"):
        conditions["b-values"] = ", ".join(f"{b:g}" for b in bvals)
    if repeats := facts.numbers("b_value_repeats"):
        conditions["volumes used"] = f"{sum(repeats):.0f}"
    if run.mask is not None:
        conditions["voxel size"] = " × ".join(format_number(size) for size in run.zooms) + " mm"
    settings = run.qc.get("Settings")
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        conditions.setdefault(str(key).replace("_", " ").strip(), shorten(in_words(value)))
    return conditions


def _lost(run: RunDerivatives) -> list[str]:
    """Volumes in question, each with what it looks like and where, the worst first."""
    words = []
    worst = sorted(filter(in_question, run.volumes), key=lambda row: -(as_number(row.get("fell_out")) or 0))
    for row in worst:
        places = fallen_places(row, "fell_out_regions") or fallen_places(row, "fell_out_slices", "slice ")
        used = ", left out" if row.get("used") == "no" else ""
        words.append(f"volume {in_words(row.get('volume'))} ({places or in_words(row.get('found'))}{used})")
    return words
