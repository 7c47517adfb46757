"""The verdict that a run's QC sidecar records, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sicnn_app.derivatives.facts import in_words
from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, GOOD, POOR, UNKNOWN

SYMBOLS = {GOOD: "✔", DOUBTFUL: "≈", POOR: "✘", UNKNOWN: "?"}
"""Beside the word, so that a verdict is found at a glance without its colour."""


@dataclass(frozen=True)
class ShownCheck:
    """One row of the table; ``kind`` is one of the verdicts whatever the file says."""

    name: str
    value: str
    verdict: str
    kind: str
    symbol: str
    meaning: str


@dataclass(frozen=True)
class ShownAdequacy:
    """The verdict in a sentence, and its checks."""

    kind: str
    symbol: str
    sentence: str
    checks: list[ShownCheck]


def shown_adequacy(qc: Mapping[str, Any]) -> ShownAdequacy | None:
    """What to show of a run.

    Parameters
    ----------
    qc : mapping
        The sidecar of the QC table.

    Returns
    -------
    ShownAdequacy or None
        None where no verdict is recorded, as in outputs of version 0.3 and before.
    """
    found = qc.get("Adequacy")
    checks = found.get("Checks") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(checks, list) or not checks:
        return None
    kind = _kind(found.get("Verdict"))
    return ShownAdequacy(
        kind,
        SYMBOLS[kind],
        in_words(found.get("Sentence")),
        [_check(check) for check in checks if isinstance(check, Mapping)],
    )


def _check(check: Mapping[str, Any]) -> ShownCheck:
    kind = _kind(check.get("Verdict"))
    return ShownCheck(
        name=in_words(check.get("Name")),
        value=in_words(check.get("Value")),
        verdict=in_words(check.get("Verdict")),
        kind=kind,
        symbol=SYMBOLS[kind],
        meaning=in_words(check.get("Meaning")),
    )


def _kind(verdict: Any) -> str:
    return verdict if isinstance(verdict, str) and verdict in SYMBOLS else UNKNOWN
