"""Adequacy of a run for what is asked of it: one verdict, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sicnn_app.ivim.adequacy_inputs import DOUBTFUL, GOOD, POOR, UNKNOWN, Check, Evidence, TypicalTissue
from sicnn_app.ivim.checks import CHECKS
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS


@dataclass(frozen=True)
class Adequacy:
    """The verdict on a run, a sentence that says why, and the checks behind it by the keys of ``CHECKS``."""

    verdict: str
    sentence: str
    checks: dict[str, Check]


def judge(evidence: Evidence) -> Adequacy:
    """Check whether data and protocol suffice for maps of F, D and D*.

    The run is as poor as the poorest check, except that D* alone makes it doubtful at most, since F and D are
    of use without it, and that whether a network pays says nothing about the data.
    """
    checks = {key: check(evidence) for key, check in CHECKS.items()}
    found = {key: check.verdict for key, check in checks.items() if key != "network"}
    if found["precision_dstar"] == POOR:
        found["precision_dstar"] = DOUBTFUL
    verdict = next((word for word in (POOR, DOUBTFUL, GOOD) if word in found.values()), UNKNOWN)
    return Adequacy(verdict, _sentence(verdict, checks, evidence.tissue), checks)


def _sentence(verdict: str, checks: dict[str, Check], tissue: TypicalTissue) -> str:
    words = {GOOD: "well", DOUBTFUL: "roughly", POOR: "hardly or not"}
    known = {SPECS[label].symbol: checks[f"precision_{label}"].verdict for label in TISSUE_LABELS}
    text = f"{verdict.capitalize()}."
    if UNKNOWN not in known.values():
        parts = [
            f"{_listed([symbol for symbol, found in known.items() if found == word])} {words[word]}"
            for word in (GOOD, DOUBTFUL, POOR)
            if word in known.values()
        ]
        text += f" A single voxel of typical tissue ({tissue.name}) determines {', '.join(parts)}."
    weak = [
        check.name.lower()
        for key, check in checks.items()
        if check.verdict in (DOUBTFUL, POOR) and not key.startswith(("precision", "network"))
    ]
    return f"{text} Weak besides: {'; '.join(weak)}." if weak else text


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
