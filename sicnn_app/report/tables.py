"""One run's derivatives -> the words and tables of its part of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import (
    MISSING,
    Facts,
    as_number,
    count_of,
    format_number,
    in_words,
    stop_in_words,
)
from sicnn_app.derivatives.quality import columns
from sicnn_app.formats import printable, shorten
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.methods import METHODS
from sicnn_app.report.methods import has_step, methods_paragraphs, references_of, step_in_words
from sicnn_app.report.quantities import shown_quantities

_MAIN = [quantity for quantity in shown_quantities(None) if quantity.spec.of_tissue]
SUMMARY_HEAD = (
    "Run",
    "Method",
    "Voxels",
    "SNR",
    *(f"{quantity.spec.symbol} ({quantity.unit})" for quantity in _MAIN),
    "Flagged",
    "Ended because",
)
SUMMARY_WORDS = (1, len(SUMMARY_HEAD) - 1)
STATISTICS_HEAD = ("Map", "Median", "Quartiles", "Median, no flag", "Quartiles, no flag")
BVALUE_HEAD = (
    "b (s/mm²)",
    "Volumes",
    "Directions",
    "Mean signal",
    "Relative to S0",
    "Noise",
    "Signal / noise",
)
MAX_COUNT = 1e15
"""Whole numbers up to here are exact in the tables that are read, and short enough for a cell."""

MAX_NAME = 40
"""Letters of the name of a method, which charts must have room for."""


def method_name(method: str) -> str:
    """Name of a method as texts and charts write it.

    Examples
    --------
    >>> method_name("lsq")
    'Least squares'
    """
    return METHODS[method].title if method in METHODS else shorten(printable(method), MAX_NAME)


@dataclass(frozen=True)
class RunTables:
    """Everything written, not drawn, about one run; rows are lists of text."""

    summary: list[str]
    tiles: list[dict[str, str]]
    problems: list[str]
    warnings: list[str]
    done: list[str]
    statistics: list[list[str]]
    statistics_head: tuple[str, ...]
    bvalue_rows: list[list[str]]
    bvalue_head: tuple[str, ...]
    flag_rows: list[dict[str, str]]
    history_rows: list[list[str]]
    history_head: list[str]
    methods: list[str]
    references: list[str]
    settings: list[tuple[str, str]]


def tabulate_run(run: RunDerivatives) -> RunTables:
    """Put one run into words; what is missing reads ``n/a``."""
    facts = _facts(run)
    # A fit has one row too, but trains nothing.
    head = list(run.history[0]) if run.history and _may_train(facts) else []
    return RunTables(
        summary=_summary(run, facts),
        tiles=_tiles(run, facts),
        problems=list(run.problems),
        warnings=facts.strings("warnings"),
        done=_done(run, facts),
        statistics=_statistics(run),
        statistics_head=STATISTICS_HEAD,
        bvalue_rows=_bvalue_rows(run, facts),
        bvalue_head=BVALUE_HEAD,
        flag_rows=_flag_rows(run, facts),
        history_rows=[list(row) for row in zip(*(_column(run, name) for name in head), strict=True)],
        history_head=[column.replace("_", " ") for column in head],
        methods=methods_paragraphs(run.parameters, run.software, compared=bool(run.conventional)),
        references=references_of(run.parameters, run.software),
        settings=_settings(run),
    )


def _may_train(facts: Facts) -> bool:
    method = METHODS.get(facts.text("method"))
    return method is None or method.trains


def _facts(run: RunDerivatives) -> Facts:
    settings = run.qc.get("Settings")
    return Facts(
        run.parameters, run.qc_row, run.qc, settings if isinstance(settings, Mapping) else {}, run.sidecar
    )


def _method(facts: Facts) -> str:
    return method_name(facts.text("method"))


def _snr(facts: Facts) -> float | None:
    """Signal-to-noise ratio of one volume at the lowest b-value."""
    per_bvalue = facts.numbers("signal_to_noise_ratio_per_b_value")
    return per_bvalue[0] if per_bvalue else facts.number("snr_b0")


def _median(run: RunDerivatives, label: str, factor: float) -> float | None:
    if label not in run.maps or not run.has_voxels:
        return None
    values = run.inside(label)[run.meaningful(label)]
    return float(np.median(values)) * factor if values.size else None


def _voxels(run: RunDerivatives) -> str:
    return MISSING if run.mask is None else f"{int(run.mask.sum()):,}"


def _flagged(run: RunDerivatives) -> str:
    if run.flags is None or not run.has_voxels:
        return MISSING
    return f"{100.0 * run.flagged.mean():.1f} %"


def _summary(run: RunDerivatives, facts: Facts) -> list[str]:
    medians = [format_number(_median(run, quantity.spec.label, quantity.factor)) for quantity in _MAIN]
    snr = format_number(_snr(facts))
    ended = stop_in_words(facts.get("stop_reason"))
    return [_method(facts), _voxels(run), snr, *medians, _flagged(run), ended]


def _tiles(run: RunDerivatives, facts: Facts) -> list[dict[str, str]]:
    tiles = [
        {"name": "Method", "value": _method(facts)},
        {"name": "Voxels", "value": _voxels(run)},
        {"name": "SNR", "value": format_number(_snr(facts))},
    ]
    for quantity in _MAIN:
        value = format_number(_median(run, quantity.spec.label, quantity.factor))
        tiles.append({"name": f"{quantity.spec.symbol}, median ({quantity.unit})", "value": value})
    tiles.append({"name": "Flagged", "value": _flagged(run)})
    own = [(column.tile, run.qc_row.get(column.name)) for column in columns() if column.tile]
    return [*tiles, *({"name": name, "value": _cell(value)} for name, value in own)]


def _done(run: RunDerivatives, facts: Facts) -> list[str]:
    steps = facts.get("preprocessing_steps")
    steps = steps if isinstance(steps, list) else []
    done = [f"{step_in_words(step)}." for step in steps] or ["No preprocessing step is recorded."]
    if anatomy := run.anatomy:
        how = facts.get("anatomy_source")
        done.append(f"Treated as {in_words(anatomy)}{f' ({in_words(how)})' if how else ''}.")
    source = facts.text("mask_source")
    if f"mask: {source}.".lower() not in (line.lower() for line in done):
        done.append(f"Mask: {source}.")
    bvals = facts.numbers("b_values_used")
    if bvals and not has_step(steps, "averag"):
        volumes = count_of(int(sum(facts.numbers("b_value_repeats"))), "volume")
        done.append(f"{volumes} averaged to one signal at each of {count_of(len(bvals), 'b-value')}.")
    if (noise := facts.get("noise_sigma")) is not None:
        how = None if has_step(steps, "noise") else facts.get("noise_method")
        done.append(
            f"Noise of one volume: {format_number(noise)} image units{f' ({in_words(how)})' if how else ''}."
        )
    algorithm = run.sidecar.get("EstimationAlgorithm")
    done.append(f"Estimation: {in_words(algorithm) if algorithm else _method(facts)}".rstrip(".") + ".")
    if facts.get("stop_reason") is not None:
        iterations = facts.number("data_iterations")
        after = f" after {count_of(int(iterations), 'data iteration')}" if iterations else ""
        done.append(f"Ended{after}: {stop_in_words(facts.text('stop_reason'))}.")
    return done


def _quartiles(values: np.ndarray) -> tuple[str, str]:
    if values.size == 0:
        return MISSING, MISSING
    low, median, high = (format_number(value) for value in np.percentile(values, (25, 50, 75)))
    return median, f"{low} – {high}"


def _statistics(run: RunDerivatives) -> list[list[str]]:
    if not run.has_voxels:
        return []
    rows = []
    for quantity in shown_quantities(None):
        if quantity.spec.label in run.maps:
            selected = run.meaningful(quantity.spec.label)
            values = run.inside(quantity.spec.label)[selected] * quantity.factor
            unflagged = (
                (MISSING, MISSING) if run.flags is None else _quartiles(values[~run.flagged[selected]])
            )
            rows.append([f"{quantity.spec.symbol} ({quantity.unit})", *_quartiles(values), *unflagged])
    return rows


def at_bvalues(facts: Facts, name: str, bvals: Sequence[float]) -> list[float | None]:
    """What a sidecar lists per b-value used, at the nearest of these to each b-value.

    Parameters
    ----------
    facts : Facts
    name : str
    bvals : sequence of float, s/mm^2

    Returns
    -------
    list
        None for every b-value where the sidecar lists none, or not one for each b-value used.
    """
    used, values = facts.numbers("b_values_used"), facts.numbers(name)
    if not used or len(values) != len(used):
        return [None] * len(bvals)
    return [values[min(range(len(used)), key=lambda index: abs(used[index] - b))] for b in bvals]


def _bvalue_rows(run: RunDerivatives, facts: Facts) -> list[list[str]]:
    bvals = list(run.measured.bvals) if run.measured is not None else facts.numbers("b_values_used")
    repeats = at_bvalues(facts, "b_value_repeats", bvals)
    directions = at_bvalues(facts, "b_value_directions", bvals)
    noise = at_bvalues(facts, "noise_sigma_per_b_value", bvals)
    reference = float(run.inside("s0").mean()) if "s0" in run.maps else None
    rows = []
    for position, b in enumerate(bvals):
        volumes, mean = repeats[position], None
        if run.measured is not None:
            volumes = int(run.measured.volumes[position])
            mean = float(run.measured.in_mask[position].mean())
        relative = mean / reference if mean is not None and reference else None
        sigma = noise[position]
        rows.append(
            [
                f"{b:g}",
                in_words(volumes),
                "not known" if directions[position] is None else in_words(directions[position]),
                format_number(mean, 4),
                format_number(relative),
                format_number(sigma),
                format_number(mean / sigma if mean is not None and sigma else None),
            ]
        )
    return rows


def _flag_rows(run: RunDerivatives, facts: Facts) -> list[dict[str, str]]:
    if run.flags is None or not run.has_voxels:
        return []
    codes = run.flags[run.mask]
    rows = []
    for spec in FLAGS:
        shown = int((codes == spec.code).sum())
        share = 100.0 * shown / codes.size
        held = facts.number(f"{spec.name}_count")
        rows.append(
            {
                "name": spec.name.replace("_", " ").replace("dstar", "D*"),
                "meaning": spec.description,
                "colour": spec.color,
                "shown": f"{shown:,}",
                "share": f"{share:.1f} %",
                "width": f"{share:.1f}",
                "holds": MISSING if held is None else f"{int(held):,}",
            }
        )
    return rows


def _settings(run: RunDerivatives) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    settings = run.qc.get("Settings")
    for source in (settings if isinstance(settings, Mapping) else {}, run.parameters):
        rows += [(str(key), _cell(value)) for key, value in source.items()]
    for name, version in run.software.items():
        rows.append((f"version of {name}", in_words(version)))
    rows.append(("estimated on", in_words(run.sidecar.get("EstimatedOn"))))
    rows.append(("fingerprint of settings and sources", in_words(run.qc.get("Fingerprint"))))
    return rows


def _column(run: RunDerivatives, name: str) -> list[str]:
    """A column of the history; numbers that are all whole are counts and shown as such."""
    texts = [row.get(name) for row in run.history]
    numbers = [as_number(text) for text in texts]
    if all(number is None or (number.is_integer() and abs(number) < MAX_COUNT) for number in numbers):
        return [MISSING if number is None else f"{number:.0f}" for number in numbers]
    return [_cell(text) for text in texts]


def _cell(value: Any) -> str:
    number = as_number(value)
    if number is not None and not isinstance(value, str):
        return f"{number:.6g}"
    return format_number(number, 4) if number is not None else in_words(value)
