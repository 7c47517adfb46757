"""Numbers and lists as the lines word them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sicnn_app.derivatives.facts import format_number

SHOWN_TISSUES, SHOWN_DIFFERENCES, SHOWN_RUNS = 3, 4, 3
"""At most so many are named in a sentence; the sections of the runs have all."""


def with_error(value: float, error: float) -> str:
    """A number with its standard deviation, and no more digits than that leaves.

    Examples
    --------
    >>> with_error(32.14, 10.6), with_error(0.652, 0.17), with_error(62.1, math.nan)
    ('32 ± 11', '0.65 ± 0.17', '62.1')
    """
    if not math.isfinite(error) or error <= 0:
        return format_number(value)
    decimals = min(4, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def two_digits(value: float) -> str:
    """A positive number with two significant digits.

    Examples
    --------
    >>> two_digits(12.6), two_digits(0.0505)
    ('13', '0.051')
    """
    return format_number(value, 2) if value < 10 else f"{value:.0f}"


def percent(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"


def relative(share: float) -> str:
    """A standard deviation over its value; far beyond it no number is worth reading."""
    return f"{100 * share:.0f} %" if share < 10 else "more than ten times"


def capital(text: str) -> str:
    """Text with a capital first letter; the others stay."""
    return text[:1].upper() + text[1:]


def few(words: Sequence[str], most: int = SHOWN_RUNS) -> list[str]:
    """The first words of a list, and how many more there are."""
    more = len(words) - most
    return list(words) if more <= 0 else [*words[:most], f"{more} more"]
