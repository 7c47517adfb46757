"""Objects and tables as the text that BIDS wants of them; the same content always becomes the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

NOT_AVAILABLE = "n/a"
"""How BIDS writes a missing value in a .tsv file."""


def json_bytes(content: Any) -> bytes:
    """Content as indented UTF-8 JSON; refuses NaN, which JSON does not have."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def tsv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as tab-separated text with a header line; None, non-finite and absent values become ``n/a``."""
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
    return " ".join(str(value).split()) or NOT_AVAILABLE
