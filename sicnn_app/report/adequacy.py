"""The verdict that a run's QC sidecar records, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sicnn_app.derivatives.facts import in_words
from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, GOOD, POOR, UNKNOWN

SYMBOLS = {GOOD: "✔", DOUBTFUL: "≈", POOR: "✘", UNKNOWN: "?"}
"""Beside the word, so that a verdict is found at a glance without its colour."""

_CHECK = ("Name", "Value", "Verdict", "Meaning")


def shown_adequacy(qc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The verdict in a sentence, and its checks, from the sidecar of the QC table.

    None where no verdict is recorded, as in outputs of version 0.3 and before. Every ``kind`` is one of the
    verdicts, whatever the file says.
    """
    found = qc.get("Adequacy")
    checks = found.get("Checks") if isinstance(found, Mapping) else None
    if not isinstance(checks, list) or not checks:
        return None
    return {
        **_marked(found),
        "sentence": in_words(found.get("Sentence")),
        "checks": [
            {**_marked(check), **{key.lower(): in_words(check.get(key)) for key in _CHECK}}
            for check in checks
            if isinstance(check, Mapping)
        ],
    }


def _marked(judged: Mapping[str, Any]) -> dict[str, str]:
    verdict = judged.get("Verdict")
    kind = verdict if isinstance(verdict, str) and verdict in SYMBOLS else UNKNOWN
    return {"kind": kind, "symbol": SYMBOLS[kind]}
