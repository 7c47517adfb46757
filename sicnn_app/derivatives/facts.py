"""Loose look-up in the metadata of a run, and values in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "n/a"

STOP_REASONS = {
    "lambda": "the training signals settled",
    "continuum": "tissue changes everywhere, so that more rewriting would average what differs",
    "max_iterations": "the limit of data iterations was reached",
    "epochs": "all epochs were done",
}
"""Meaning of the words that sidecars and tables use for the end of a training."""

LARGEST_NUMBER = 1e30
"""A number beyond it was not measured, and computing with it leaves what floats can hold."""

MAX_NUMBERS = 1000
"""Of one list; they are kept per b-value."""


class Facts:
    """Look up a value by any spelling of its key, in the first of several mappings that has it.

    Sidecars write ``BValues`` where settings write ``b_values`` or ``b-values``: the same key here.

    Examples
    --------
    >>> Facts({"StopReason": "converged"}).get("stop_reason")
    'converged'
    """

    def __init__(self, *sources: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        for source in sources:
            for key, value in source.items():
                if not _absent(value):
                    self._values.setdefault(_normal(key), value)

    def get(self, *names: str) -> Any:
        """Value of the first name that is there, else None; empty and not-a-number values are not there."""
        return next((self._values[key] for key in map(_normal, names) if key in self._values), None)

    def text(self, *names: str) -> str:
        """The value in words, ``n/a`` when it is not there."""
        return in_words(self.get(*names))

    def number(self, *names: str) -> float | None:
        """The value as a finite number, else None."""
        return as_number(self.get(*names))

    def numbers(self, *names: str) -> list[float]:
        """The value as a list of at most :data:`MAX_NUMBERS` numbers; empty when it is not one."""
        values = self.get(*names)
        if not isinstance(values, list | tuple) or len(values) > MAX_NUMBERS:
            return []
        converted = [as_number(value) for value in values]
        return [] if None in converted else converted  # type: ignore[return-value]

    def strings(self, *names: str) -> list[str]:
        """The value as a list of texts; a single text is a list of one."""
        values = self.get(*names)
        if isinstance(values, str):
            return [values]
        return [in_words(value) for value in values] if isinstance(values, list | tuple) else []


def as_number(value: Any) -> float | None:
    """Number of a value or text that lies within :data:`LARGEST_NUMBER`, else None."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST_NUMBER else None


def format_number(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, without an exponent between 0.001 and a million.

    Examples
    --------
    >>> format_number(0.0123456), format_number(1234.5), format_number(None), format_number(2)
    ('0.0123', '1234', 'n/a', '2.00')
    """
    number = as_number(value)
    if number is None:
        return MISSING
    if number == 0:
        return "0"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.{digits}g}"
    whole_digits = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    return f"{number:#.{digits}g}" if whole_digits < digits else f"{number:.0f}"


def in_words(value: Any) -> str:
    """Any JSON value as one line of text.

    Examples
    --------
    >>> in_words({"f": [0.0, 1.0]}), in_words(True), in_words([0.0, 10.0]), in_words(None)
    ('f: 0, 1', 'yes', '0, 10', 'n/a')
    """
    if _absent(value):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(in_words(item) for item in value)
    return str(value)


def stop_in_words(reason: Any) -> str:
    """Why an estimation ended, as a clause.

    Examples
    --------
    >>> stop_in_words("max_iterations"), stop_in_words("converged"), stop_in_words(None)
    ('the limit of data iterations was reached', 'converged', 'n/a')
    """
    text = in_words(reason).rstrip(".")
    return STOP_REASONS.get(text, text)


def count_of(number: int, noun: str) -> str:
    """Number and noun.

    Examples
    --------
    >>> count_of(1, "voxel"), count_of(12345, "voxel")
    ('1 voxel', '12,345 voxels')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _normal(key: str) -> str:
    return "".join(letter for letter in str(key).lower() if letter.isalnum() or letter == "*")


def _absent(value: Any) -> bool:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "n/a", "nan")):
        return True
    if isinstance(value, float) and not math.isfinite(value):
        return True
    return isinstance(value, Mapping | list | tuple) and len(value) == 0
