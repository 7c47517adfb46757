"""Objects and tables as the text that BIDS wants of them; the same content always becomes the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@")
"""First letters that make spreadsheets compute, or fetch, what was meant as text."""

NOT_AVAILABLE = "n/a"
"""How BIDS writes a missing value in a .tsv file."""


def printable(text: object) -> str:
    r"""Text on one line without codes that a terminal or a reader's eye obeys; those are shown as escapes.

    Examples
    --------
    >>> printable("liver\x1b[2J\u202e")
    'liver\\x1b[2J\\u202e'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text)
    )


def shorten(text: str, length: int = 40) -> str:
    """The start of a text that may be of any length, to quote it in a message.

    Examples
    --------
    >>> shorten("ten"), shorten("1234567", 4)
    ('ten', '1234...')
    """
    return text if len(text) <= length else f"{text[:length]}..."


def listed(words: Sequence[str]) -> str:
    """Words with commas and an "and" before the last.

    Examples
    --------
    >>> listed(["F", "D", "D*"]), listed(["F"])
    ('F, D and D*', 'F')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def rough_time(seconds: float) -> str:
    """A duration in the unit that suits it, with no more digits than an estimate has.

    Examples
    --------
    >>> [rough_time(seconds) for seconds in (3, 47, 100, 1000, 9000, 1e6)]
    ['10 s', '50 s', '2 min', '17 min', '2.5 h', '280 h']
    """
    if seconds < 55:
        return f"{max(10, round(seconds, -1)):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = float(f"{seconds / 3600:.2g}")
    return f"{hours:g} h"


def natural_key(name: str) -> list[tuple[int, str]]:
    """Key that sorts numbers by their size and puts a name before all that go on after it.

    Examples
    --------
    >>> sorted(["sub-10", "sub-2B_dwi", "sub-2_dwi", "sub-2"], key=natural_key)
    ['sub-2', 'sub-2_dwi', 'sub-2B_dwi', 'sub-10']
    """
    # What separates entities comes before every letter of a label.
    parts = re.split(r"([0-9]+)", name.replace("_", "\0"))
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def printable_traceback(error: BaseException) -> str:
    """A traceback with its causes; every line of it :func:`printable`."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "\n".join(map(printable, lines))


def json_bytes(content: Any) -> bytes:
    """Content as indented UTF-8 JSON; refuses NaN, which JSON does not have."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Column:
    """One column of a table, and the ``LongName`` and ``Description`` of it in the sidecar.

    ``value`` makes a cell from what a row is made of; ``levels`` say what values mean, where they are words.
    """

    name: str
    title: str
    description: str
    value: Callable[[Any], Any]
    unit: str | None = None
    levels: Mapping[str, str] | None = None

    def words(self) -> dict[str, Any]:
        """Its words in the sidecar."""
        return described(self.title, self.description, self.unit, self.levels)


def described(
    title: str, description: str, unit: str | None = None, levels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Words of a sidecar on a column of a table.

    Examples
    --------
    >>> described("b-value", "Nominal b-value", "s/mm^2")
    {'LongName': 'b-value', 'Description': 'Nominal b-value', 'Units': 's/mm^2'}
    """
    words = {"LongName": title, "Description": description, "Units": unit, "Levels": levels}
    return {key: value for key, value in words.items() if value is not None}


def tsv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as tab-separated text with a header line.

    None, non-finite and absent values become ``n/a``. Text that a spreadsheet would take for a formula gets
    an apostrophe in front, which makes it text there.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return f"{float(value):.8g}" if math.isfinite(value) else NOT_AVAILABLE
    text = printable(" ".join(str(value).split()))
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not _is_number(text) else text or NOT_AVAILABLE


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
