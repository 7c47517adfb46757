"""Everything that the page of the group shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sicnn_app.group.charts import Source
from sicnn_app.group.gather import Chosen, Gathered
from sicnn_app.group.outliers import Measured
from sicnn_app.group.repeats import Repeats
from sicnn_app.group.table import Row


@dataclass(frozen=True)
class Group:
    """All runs, their distributions and what repeats, and where their reports are.

    Attributes
    ----------
    gathered : Gathered
    rows : list of dict of str to str
        Of ``group_ivim.tsv``, outliers marked.
    measured : list of Measured
        Their distributions.
    repeats : list of (Repeats, dict)
        With the row of ``group_repeatability.tsv``.
    reports : mapping of str to str
        Address of the report of a run, by its name; runs without a report are not in it.
    chosen : Chosen
        What was asked for.
    """

    gathered: Gathered
    rows: Sequence[Row]
    measured: Sequence[Measured]
    repeats: Sequence[tuple[Repeats, Row]]
    reports: Mapping[str, str]
    chosen: Chosen

    def source(self, row: Row, text: str) -> Source:
        """What a point of a row stands for."""
        return Source(f"{row['source']}: {text}", self.reports.get(row["source"]))

    def link(self, row: Row) -> dict[str, str] | str:
        """Cell of a table that leads to the report of a row's run."""
        name = row["source"]
        return {"text": name, "href": self.reports[name]} if name in self.reports else name
