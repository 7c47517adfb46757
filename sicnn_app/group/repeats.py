"""Rows of all runs to the measurements that repeat one another, and what they say of repeatability."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sicnn_app.formats import natural_key
from sicnn_app.group.measure import REPEATED_ENTITIES
from sicnn_app.group.statistics import Agreement, Repeatability, agreement, repeatability
from sicnn_app.group.table import Row, cell, number
from sicnn_app.ivim.parameters import MAPS, TISSUE_LABELS

_SHARED = ("anatomy", "method", "segmentation", "region")
_UNITS = {spec.label: spec.unit for spec in MAPS}


@dataclass(frozen=True)
class Repeats:
    """One parameter in one region, measured repeatedly.

    Attributes
    ----------
    repeated : {'ses', 'run'}
        Entity by which the measurements of a participant differ.
    acquisition : str or None
        Entities that they share, besides the participant.
    shared : dict of str to str or None
        Anatomy, method, segmentation and region.
    parameter : str
        Label of the map.
    values : dict of str to list of (Row, float)
        Measurements by participant, in natural order of their names; two or more each.
    """

    repeated: str
    acquisition: str | None
    shared: dict[str, str | None]
    parameter: str
    values: dict[str, list[tuple[Row, float]]]

    @property
    def pairs(self) -> list[tuple[Row, float, float]]:
        """First row, first and second value of every participant."""
        return [(found[0][0], found[0][1], found[1][1]) for found in self.values.values()]

    def repeatability(self) -> Repeatability:
        """Statistics over all measurements."""
        return repeatability([np.array([value for _, value in found]) for found in self.values.values()])

    def agreement(self) -> Agreement:
        """Statistics over the first two measurements of every participant."""
        return agreement(*np.array([pair[1:] for pair in self.pairs]).T)


def find_repeats(rows: Sequence[Row]) -> list[Repeats]:
    """Measurements that differ in the session only, or in the run number only.

    A participant counts once in each: with two sessions of two runs, sessions are compared for each run
    number, and runs for each session. Rows of one run that have the same region count once.

    Parameters
    ----------
    rows : sequence of dict of str to str
        Of ``group_ivim.tsv``.

    Returns
    -------
    list of Repeats
        Sessions first; within that in the order of the rows.
    """
    found = []
    for repeated in REPEATED_ENTITIES:
        groups: dict[tuple, dict[str, dict[str, Row]]] = {}
        for row in rows:
            entities = [part.split("-", 1) for part in row["source"].split("_")]
            if repeated not in {key for key, _ in entities}:
                continue
            kept = "_".join(f"{key}-{label}" for key, label in entities if key not in ("sub", repeated))
            shared = tuple(cell(row, column) for column in _SHARED)
            participants = groups.setdefault((kept or None, *shared), {})
            participants.setdefault(row["participant_id"], {}).setdefault(row["source"], row)
        for (acquisition, *values_shared), participants in groups.items():
            for label in TISSUE_LABELS:
                values = {name: _measurements(own.values(), label) for name, own in participants.items()}
                values = {name: own for name, own in values.items() if len(own) > 1}
                if values:
                    described = dict(zip(_SHARED, values_shared, strict=True))
                    found.append(Repeats(repeated, acquisition, described, label, values))
    return found


def _measurements(rows: Iterable[Row], label: str) -> list[tuple[Row, float]]:
    ordered = sorted(rows, key=lambda row: natural_key(row["source"]))
    measured = [(row, number(row, f"{label}_median")) for row in ordered]
    return [(row, value) for row, value in measured if value is not None]


def repeatability_row(repeats: Repeats) -> dict[str, Any]:
    """Values of :func:`sicnn_app.group.columns.repeatability_columns`."""
    found, compared = repeats.repeatability(), repeats.agreement()
    row: dict[str, Any] = {
        "repeated": repeats.repeated,
        "acquisition": repeats.acquisition,
        **repeats.shared,
        "parameter": repeats.parameter,
        "units": _UNITS[repeats.parameter],
        "participants": found.participants,
        "measurements": found.measurements,
        "mean": found.mean,
        "within_subject_sd": found.within_subject_sd,
        "within_subject_cv": found.within_subject_cv,
        "repeatability_coefficient": found.coefficient,
        "icc": found.icc,
        "pairs": compared.pairs,
        "bias": compared.bias,
    }
    for name, interval in (
        ("repeatability_coefficient", found.coefficient_interval),
        ("icc", found.icc_interval),
        ("bias", compared.bias_interval),
        ("limits", compared.limits),
    ):
        row[f"{name}_lower"], row[f"{name}_upper"] = interval
    return row
