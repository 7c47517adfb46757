"""Rows of all runs to the measurements that repeat one another, and what they say of repeatability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np

from sicnn_app.formats import Column, natural_key
from sicnn_app.group.columns import METHOD, PLACE, REPEATED_ENTITIES, attribute
from sicnn_app.group.outliers import Kind, kind_of
from sicnn_app.group.statistics import Agreement, Repeatability, agreement, repeatability
from sicnn_app.group.table import Row, number
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS


@dataclass(frozen=True)
class Repeats:
    """One parameter in one region, measured repeatedly.

    Attributes
    ----------
    repeated : {'ses', 'run'}
        Entity by which the measurements of a participant differ.
    kind : mapping of str to str or None
        By :data:`sicnn_app.group.outliers.KIND_COLUMNS`; the acquisition is the entities that they share,
        besides the participant.
    parameter : str
        Label of the map.
    values : dict of str to list of (Row, float)
        Measurements by participant, in natural order of their names; two or more each.
    """

    repeated: str
    kind: Kind
    parameter: str
    values: dict[str, list[tuple[Row, float]]]

    @property
    def pairs(self) -> list[tuple[Row, float, float]]:
        """First row, first and second value of every participant."""
        return [(row, first, second) for (row, first), (_, second), *_ in self.values.values()]

    @cached_property
    def repeatability(self) -> Repeatability:
        """Statistics over all measurements."""
        return repeatability([np.array([value for _, value in found]) for found in self.values.values()])

    @cached_property
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
        Of ``group_ivim.tsv``; their order is kept, after that of sessions before runs.
    """
    found = []
    for repeated in REPEATED_ENTITIES:
        groups: dict[tuple, dict[str, dict[str, Row]]] = {}
        for row in rows:
            entities = dict(part.split("-", 1) for part in row["source"].split("_"))
            if repeated not in entities:
                continue
            kept = "_".join(
                f"{key}-{label}" for key, label in entities.items() if key not in ("sub", repeated)
            )
            kind = kind_of(row) | {"acquisition": kept or None}
            participants = groups.setdefault(tuple(kind.items()), {})
            participants.setdefault(row["participant_id"], {}).setdefault(row["source"], row)
        for items, participants in groups.items():
            for label in TISSUE_LABELS:
                values = {name: _measurements(own.values(), label) for name, own in participants.items()}
                values = {name: own for name, own in values.items() if len(own) > 1}
                if values:
                    found.append(Repeats(repeated, dict(items), label, values))
    return found


def _measurements(rows: Iterable[Row], label: str) -> list[tuple[Row, float]]:
    ordered = sorted(rows, key=lambda row: natural_key(row["source"]))
    return [(row, value) for row in ordered if (value := number(row, f"{label}_median")) is not None]


def _of_kind(name: str, title: str, description: str) -> Column:
    return Column(name, title, description, lambda repeats: repeats.kind[name])


def _interval(
    name: str, title: str, by: str, value: Callable[[Repeats], tuple[float, float]]
) -> Iterator[Column]:
    for position, end in enumerate(("lower", "upper")):
        yield Column(
            f"{name}_{end}",
            f"{title}, {end} end",
            f"{end.capitalize()} end of its 95 % confidence interval{by}",
            lambda repeats, position=position: value(repeats)[position],
        )


_UNIT = "in the unit of the column units"

COLUMNS: tuple[Column, ...] = (
    attribute("repeated", "Repeated entity", "ses: sessions are compared; run: runs of one session are"),
    _of_kind("acquisition", "Acquisition", "Entities that the compared runs share besides the participant"),
    _of_kind("anatomy", "Anatomy", "Brain or body"),
    *(_of_kind(column.name, column.title, column.description) for column in (METHOD, *PLACE)),
    attribute("parameter", "Parameter", "Label of the map; its median over the region is what is compared"),
    Column("units", "Units", "Unit of the parameter", lambda repeats: SPECS[repeats.parameter].unit),
    attribute("repeatability.participants", "Participants", "Participants with two measurements or more"),
    attribute("repeatability.measurements", "Measurements", "All measurements of these participants"),
    attribute("repeatability.mean", "Mean", f"Mean of all measurements, {_UNIT}"),
    attribute(
        "repeatability.within_subject_sd",
        "Within-subject standard deviation",
        f"Square root of the mean square within participants (one-way analysis of variance), {_UNIT}",
    ),
    attribute(
        "repeatability.within_subject_cv",
        "Within-subject coefficient of variation",
        "Within-subject standard deviation over the mean",
    ),
    attribute(
        "repeatability.within_subject_log_cv",
        "Within-subject coefficient of variation on the log scale",
        "sqrt(exp(s^2) - 1), s the within-subject standard deviation of natural logarithms: the coefficient "
        "of variation where errors grow with the value, as those of D*; n/a: a value is not above 0",
    ),
    Column(
        "repeatability_coefficient",
        "Repeatability coefficient",
        "1.96 sqrt(2) within-subject standard deviations: two measurements of one participant differ by less "
        f"in 95 % of cases (Bland and Altman, Lancet 1986;327:307-310), {_UNIT}",
        attrgetter("repeatability.coefficient"),
    ),
    *_interval(
        "repeatability_coefficient",
        "Repeatability coefficient",
        " (chi-squared)",
        attrgetter("repeatability.coefficient_interval"),
    ),
    attribute(
        "repeatability.icc",
        "Intraclass correlation",
        "ICC(1,1), one-way random, single measurement (Shrout and Fleiss, Psychol Bull 1979;86:420-428)",
    ),
    *_interval("icc", "Intraclass correlation", "", attrgetter("repeatability.icc_interval")),
    attribute("agreement.pairs", "Pairs", "Participants whose first two measurements are compared below"),
    attribute("agreement.bias", "Bias", f"Mean of second less first measurement, {_UNIT}"),
    *_interval("bias", "Bias", " (Student's t)", attrgetter("agreement.bias_interval")),
    Column(
        "limits_lower",
        "Lower limit of agreement",
        f"Bias less 1.96 standard deviations of the differences (Bland and Altman 1986), {_UNIT}",
        lambda repeats: repeats.agreement.limits[0],
    ),
    Column(
        "limits_upper",
        "Upper limit of agreement",
        f"Bias plus 1.96 standard deviations of the differences, {_UNIT}",
        lambda repeats: repeats.agreement.limits[1],
    ),
)
"""Columns of ``group_repeatability.tsv``, in its order; their values are functions of :class:`Repeats`."""
