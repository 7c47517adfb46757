"""Rows as they stand in a table, and as earlier calls left them."""

from __future__ import annotations

import csv
import io

from sicnn_app.derivatives.facts import as_number
from sicnn_app.formats import NOT_AVAILABLE

Row = dict[str, str]
"""Cells of a row by column. Everything further is made from these texts: measured anew or taken from the
last table, a run gives the same bytes."""

MASK_REGION = "mask"
"""The region that every run has."""

MAX_LETTERS = 200
"""Of a text that is taken over from a run."""


def parse_table(content: bytes) -> list[Row]:
    r"""Rows of tab-separated text with a header line.

    Examples
    --------
    >>> parse_table(b"a\tb\n1\tn/a\n")
    [{'a': '1', 'b': 'n/a'}]
    """
    text = io.StringIO(content.decode("utf-8"))
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def cell(row: Row, column: str) -> str | None:
    """Text of a cell; None where it is not available."""
    text = row.get(column)
    return None if text in (None, NOT_AVAILABLE) else text


def number(row: Row, column: str) -> float | None:
    """Number in a cell; None where there is none."""
    return as_number(cell(row, column))
