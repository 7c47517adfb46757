"""One run's derivatives -> the words and tables of its part of the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
from sicnn_app.derivatives.quality import Column, columns
from sicnn_app.formats import printable, shorten
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.run import TIMES
from sicnn_app.methods import METHODS
from sicnn_app.report.methods import has_step, methods_paragraphs, references_of, step_in_words
from sicnn_app.report.quantities import shown_quantities, tissue_quantities

MAX_COUNT = 1e15
"""Whole numbers up to here are exact in the tables that are read, and short enough for a cell."""

MAX_PLACES = 3
"""In which a volume lost signal; the table of volumes has all."""

SNR = "SNR of one volume"
"""Signal-to-noise ratio at the lowest b-value; those after averaging are among the checks."""

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


def tabulate_run(run: RunDerivatives) -> dict[str, Any]:
    """Everything written, not drawn, about one run, by the names of the page; what is missing is ``n/a``."""
    settings = run.qc.get("Settings")
    settings = settings if isinstance(settings, Mapping) else {}
    facts = Facts(run.parameters, run.qc_row, run.qc, settings, run.sidecar)
    method = METHODS.get(facts.text("method"))
    # A fit has one row too, but trains nothing.
    head = list(run.history[0]) if run.history and (method is None or method.trains) else []
    main = _main_numbers(run, facts)
    return {
        "summary": {**main, "Ended because": stop_in_words(facts.get("stop_reason"))},
        "tiles": [
            *(
                (name.replace(" (", ", median ("), value)
                for name, value in main.items()
                if name not in ("Method", SNR)
            ),
            *((column.tile, _of_column(run, column)) for column in columns() if column.tile),
        ],
        "problems": list(run.problems),
        "warnings": facts.strings("warnings"),
        "done": _done(run, facts),
        "statistics": _statistics(run),
        "volume_rows": _volume_rows(run),
        "volume_words": _volume_words(run),
        "bvalue_rows": _bvalue_rows(run, facts),
        "flag_rows": _flag_rows(run, facts),
        "history_rows": [list(row) for row in zip(*(_column(run, name) for name in head), strict=True)],
        "history_head": [column.replace("_", " ") for column in head],
        "methods": methods_paragraphs(run.parameters, run.software, compared=bool(run.conventional)),
        "references": references_of(run.parameters, run.software),
        "settings": _settings(run),
    }


def _of_column(run: RunDerivatives, column: Column) -> str:
    """Value of a column of the quality table as the pages show it."""
    written = run.qc_row.get(column.name)
    return _cell(written) if column.outlier is None else column.outlier.text(as_number(written))


def _main_numbers(run: RunDerivatives, facts: Facts) -> dict[str, str]:
    """Those that are seen first, by name."""
    # Of one volume at the lowest b-value.
    per_bvalue = facts.numbers("signal_to_noise_ratio_per_b_value")
    snr = per_bvalue[0] if per_bvalue else facts.number("snr_b0")
    medians = {}
    for quantity in tissue_quantities(None):
        label, median = quantity.spec.label, None
        if label in run.maps and run.has_voxels:
            values = run.inside(label)[run.meaningful(label)]
            median = float(np.median(values)) * quantity.factor if values.size else None
        medians[quantity.heading] = format_number(median)
    flagged = run.flags is not None and run.has_voxels
    return {
        "Method": method_name(facts.text("method")),
        "Voxels": MISSING if run.mask is None else f"{int(run.mask.sum()):,}",
        SNR: format_number(snr),
        **medians,
        "Flagged": f"{100.0 * run.flagged.mean():.1f} %" if flagged else MISSING,
    }


def _done(run: RunDerivatives, facts: Facts) -> list[str]:
    steps = facts.get("preprocessing_steps")
    steps = steps if isinstance(steps, list) else []
    times = [f"{name} {seconds:g} s" for key, name in TIMES.items() if (seconds := facts.number(key))]
    done = [f"Acquired with {', '.join(times)}."] if times else []
    done += [f"{step_in_words(step)}." for step in steps] or ["No preprocessing step is recorded."]
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
    estimation = in_words(algorithm) if algorithm else method_name(facts.text("method"))
    done.append(f"Estimation: {estimation.rstrip('.')}.")
    if facts.get("stop_reason") is not None:
        iterations = facts.number("data_iterations")
        after = f" after {count_of(int(iterations), 'data iteration')}" if iterations else ""
        done.append(f"Ended{after}: {stop_in_words(facts.text('stop_reason'))}.")
    return done


def _quartiles(values: np.ndarray, which: str = "") -> dict[str, str]:
    median, ends = MISSING, MISSING
    if values.size:
        low, median, high = map(format_number, np.percentile(values, (25, 50, 75)))
        ends = f"{low} – {high}"
    return {f"Median{which}": median, f"Quartiles{which}": ends}


def _statistics(run: RunDerivatives) -> list[dict[str, str]]:
    rows = []
    for quantity in shown_quantities(None) if run.has_voxels else ():
        label = quantity.spec.label
        if label in run.maps:
            selected = run.meaningful(label)
            values = run.inside(label)[selected] * quantity.factor
            unflagged = values[~run.flagged[selected]] if run.flags is not None else values[:0]
            rows.append({"Map": quantity.heading, **_quartiles(values), **_quartiles(unflagged, ", no flag")})
    return rows


def at_bvalues(facts: Facts, name: str, bvals: Sequence[float]) -> list[float | None]:
    """Values that a sidecar lists per b-value used, at the nearest of these to each b-value.

    None for every b-value where the sidecar lists none, or not one for each b-value used.

    Parameters
    ----------
    bvals : sequence of float, s/mm^2
    """
    used, values = facts.numbers("b_values_used"), facts.numbers(name)
    if not used or len(values) != len(used):
        return [None] * len(bvals)
    return [values[min(range(len(used)), key=lambda index: abs(used[index] - b))] for b in bvals]


def _bvalue_rows(run: RunDerivatives, facts: Facts) -> list[dict[str, str]]:
    measured = run.measured
    bvals = facts.numbers("b_values_used") if measured is None else list(measured.bvals)
    repeats, directions, noise = (
        at_bvalues(facts, name, bvals)
        for name in ("b_value_repeats", "b_value_directions", "noise_sigma_per_b_value")
    )
    means: list[float | None] = [None] * len(bvals)
    if measured is not None:
        repeats = [int(volumes) for volumes in measured.volumes]
        means = [float(signals.mean()) for signals in measured.in_mask]
    ratios = at_bvalues(
        Facts(run.parameters, _step(facts, "Noise estimate")),
        "averaged_signal_to_noise_ratio_per_b_value",
        bvals,
    )
    reference = float(run.inside("s0").mean()) if "s0" in run.maps else None
    return [
        {
            "b (s/mm²)": f"{b:g}",
            "Volumes": in_words(volumes),
            "Directions": "not known" if along is None else in_words(along),
            "Mean signal": format_number(mean, 4),
            "Relative to S0": format_number(mean / reference if mean is not None and reference else None),
            "Noise": format_number(sigma),
            "Signal / noise": format_number(ratio),
        }
        for b, volumes, along, mean, sigma, ratio in zip(
            bvals, repeats, directions, means, noise, ratios, strict=True
        )
    ]


def _step(facts: Facts, name: str) -> Mapping[str, Any]:
    """Record of a preprocessing step; empty where there is none."""
    steps = facts.get("preprocessing_steps")
    found = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    return next((step for step in found if step.get("Name") == name), {})


def in_question(row: Mapping[str, Any]) -> bool:
    """True for a row of the table of volumes with something that is worth a look."""
    return row.get("found") not in ("nothing", "negative values", None)


def fallen_places(row: Mapping[str, Any], column: str, word: str = "") -> str:
    r"""The places of a column of the table of volumes in which most signal was lost, in words.

    Examples
    --------
    >>> fallen_places({"fell_out_slices": "0: 0.1; 3: 0.25"}, "fell_out_slices", "slice ")
    '25\xa0% of slice 3, 10\xa0% of slice 0'
    """
    pairs = (place.rpartition(": ") for place in str(row.get(column) or "").split("; "))
    found = [(number, name) for name, _, share in pairs if (number := as_number(share)) is not None]
    found.sort(key=lambda pair: -pair[0])
    words = [f"{100 * number:.0f}\u00a0% of {word}{name}" for number, name in found[:MAX_PLACES]]
    more = [f"{len(found) - MAX_PLACES} more"] if len(found) > MAX_PLACES else []
    return ", ".join([*words, *more])


def _volume_rows(run: RunDerivatives) -> list[dict[str, str]]:
    """One row per volume in question."""
    shown = {
        "volume": "Volume",
        "b_value": "b (s/mm²)",
        "found": "Found",
        "level_to_decay": "Level",
        "fell_out": "Fell out",
        "fell_out_slices": "by slice",
        "fell_out_regions": "by region",
        "used": "Used",
    }
    places = ("fell_out_slices", "fell_out_regions")
    return [
        {
            words: fallen_places(row, name) or MISSING if name in places else _short(row.get(name))
            for name, words in shown.items()
        }
        for row in run.volumes
        if in_question(row)
    ]


def _short(value: Any) -> str:
    number = as_number(value)
    return in_words(value) if number is None else f"{number:.4g}"


def _volume_words(run: RunDerivatives) -> str:
    """One sentence on the volumes; nothing where none were judged."""
    if not run.volumes:
        return ""
    found, total = sum(map(in_question, run.volumes)), count_of(len(run.volumes), "volume")
    out = count_of(sum(row.get("used") == "no" for row in run.volumes), "volume")
    return f"Of {total} {found or 'none'} in question; {out} did not go into the maps."


def _flag_rows(run: RunDerivatives, facts: Facts) -> list[dict[str, str]]:
    if run.flags is None or not run.has_voxels:
        return []
    codes = run.flags[run.mask]
    rows = []
    for spec in FLAGS:
        shown = int((codes == spec.code).sum())
        share = f"{100.0 * shown / codes.size:.1f}"
        held = facts.number(f"{spec.name}_count")
        rows.append(
            {
                "name": spec.name.replace("_", " ").replace("dstar", "D*"),
                "meaning": spec.description,
                "colour": spec.color,
                "shown": f"{shown:,}",
                "share": share,
                "holds": MISSING if held is None else f"{int(held):,}",
            }
        )
    return rows


def _settings(run: RunDerivatives) -> list[tuple[str, str]]:
    """Every setting once: as it was resolved for the data, or else as it was given."""
    given = run.qc.get("Settings")
    rows: dict[str, str] = {}
    for source in (given if isinstance(given, Mapping) else {}, run.parameters):
        rows |= {_key_in_words(key): _value_in_words(key, value) for key, value in source.items()}
    # "What was done" has them.
    rows.pop("preprocessing steps", None)
    return [
        *rows.items(),
        *((f"version of {name}", in_words(version)) for name, version in run.software.items()),
        ("estimated on", in_words(run.sidecar.get("EstimatedOn"))),
        ("fingerprint of settings and sources", in_words(run.qc.get("Fingerprint"))),
    ]


def _key_in_words(key: Any) -> str:
    """A key of a sidecar, which may be one word of several, as words.

    Examples
    --------
    >>> _key_in_words("NoiseSigmaPerBValue"), _key_in_words("lambda_"), _key_in_words("max_bval")
    ('noise sigma per b value', 'lambda', 'max bval')
    """
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=B)(?=Value)", " ", str(key)).replace("_", " ").split()
    return " ".join(parts).lower()


def _value_in_words(key: Any, value: Any) -> str:
    if isinstance(value, Mapping):
        return in_words({_key_in_words(name): item for name, item in value.items()})
    return stop_in_words(value) if key == "stop_reason" else _cell(value)


def _column(run: RunDerivatives, name: str) -> list[str]:
    """A column of the history; numbers that are all whole are counts and shown as such."""
    texts = [row.get(name) for row in run.history]
    numbers = [as_number(text) for text in texts]
    if all(number is None or (number.is_integer() and abs(number) < MAX_COUNT) for number in numbers):
        return [MISSING if number is None else f"{number:.0f}" for number in numbers]
    return [_cell(text) for text in texts]


def _cell(value: Any) -> str:
    number = as_number(value)
    if number is None:
        return in_words(value)
    return format_number(number, 4) if isinstance(value, str) else f"{number:.6g}"
