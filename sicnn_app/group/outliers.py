"""Rows that may be compared with one another, how their values are distributed, and which lie outside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sicnn_app.derivatives.quality import outlier_columns
from sicnn_app.group.statistics import FAR_OUTLIER_FENCE, MIN_RUNS, OUTLIER_FENCE, Distribution, distribution
from sicnn_app.group.table import Row, cell, number
from sicnn_app.ivim.parameters import all_maps

KIND_COLUMNS = ("anatomy", "acquisition", "method", "segmentation", "region")
"""Rows that agree in these columns are of one kind."""

OUTLIER_RULE = (
    f"A value is an outlier when it lies more than {OUTLIER_FENCE:g} interquartile ranges below the lower or "
    f"above the upper quartile of its kind, and a far outlier beyond {FAR_OUTLIER_FENCE:g}. Of one kind are "
    "runs of the same anatomy, acquisition and method, in the same region. Kinds of fewer than "
    f"{MIN_RUNS} runs have no outliers."
)


RegionKey = tuple[str | None, str | None]
Kind = Mapping[str, str | None]


def kind_of(row: Row) -> dict[str, str | None]:
    """The kind of a row, by :data:`KIND_COLUMNS`."""
    return {column: cell(row, column) for column in KIND_COLUMNS}


def region_key(kind: Kind) -> RegionKey:
    """Segmentation and region, which no two regions share; the segmentation of the whole mask is None."""
    return kind["segmentation"], kind["region"]


@dataclass(frozen=True)
class Measured:
    """One column over the rows of one kind with a value in it; ``values`` has shape (n,), one per row."""

    column: str
    kind: Kind
    rows: list[Row]
    values: np.ndarray

    @cached_property
    def distribution(self) -> Distribution:
        """Quartiles, fences and outliers of the values."""
        return distribution(self.values)

    @property
    def points(self) -> Iterator[tuple[Row, float, int]]:
        """Row, value, and how far outside it lies."""
        return zip(self.rows, self.values.tolist(), self.distribution.levels.tolist(), strict=True)


def conventional_of(column: str) -> str:
    """Column of the conventional fit that is held against one of the method's own maps."""
    return f"lsq_{column}"


def outlier_measures() -> list[str]:
    """Columns that are looked through for outliers, those of regions first."""
    of_region = [f"{spec.label}_median" for spec in all_maps() if spec.outlier]
    return [*of_region, "flagged_share", *(column.name for column in outlier_columns())]


def measure_kinds(rows: Sequence[Row], columns: Sequence[str]) -> list[Measured]:
    """Distribution of columns over the rows of every kind, in the order of columns and rows.

    What belongs to the run is taken from the row of its mask only.
    """
    kinds: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[tuple(kind_of(row).items())].append(row)
    found = []
    of_run = [column.name for column in outlier_columns()]
    for column in columns:
        for items, own in kinds.items():
            kind = dict(items)
            if column in of_run and kind["segmentation"] is not None:
                continue
            measured = [(row, value) for row in own if (value := number(row, column)) is not None]
            if measured:
                chosen, values = zip(*measured, strict=True)
                found.append(Measured(column, kind, list(chosen), np.array(values)))
    return found


def outlier_words(level: int) -> str:
    """Distance and side of an outlier in words; empty inside the fences.

    Examples
    --------
    >>> outlier_words(-2), outlier_words(1), outlier_words(0)
    ('far low', 'high', '')
    """
    return {-2: "far low", -1: "low", 0: "", 1: "high", 2: "far high"}[level]


def mark_outliers(rows: Sequence[Row], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The rows with a column ``outliers``: ``f_median high, snr_b0 far low``; None without one."""
    said: dict[int, list[str]] = defaultdict(list)
    for item in measured:
        for row, _, level in item.points:
            if level:
                said[id(row)].append(f"{item.column} {outlier_words(level)}")
    return [{**row, "outliers": ", ".join(said[id(row)]) or None} for row in rows]


def distribution_record(item: Measured) -> dict[str, Any]:
    """A distribution as the sidecar of the table keeps it."""
    found = item.distribution
    return {
        "Column": item.column,
        **item.kind,
        "Runs": item.values.size,
        "Quartiles": found.quartiles,
        "Fences": found.fences,
        "FarFences": found.far_fences,
    }
