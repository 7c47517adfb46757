"""The fourth line: what disagrees between the runs, and what was not the same when they were measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.report.answers.inputs import LEAST_VOXELS, RunAnswers, Tissue, value_in_words
from sicnn_app.report.answers.wording import SHOWN_DIFFERENCES, few

REPEATABILITY = {"f": 0.15, "d": 0.11, "dstar": 0.40}
"""Within-subject coefficients of variation of medians over a region that are usual. Liver: 12 % of F and
11 % of D with the best of several sequences on one scanner ("Reproducibility and repeatability of intervoxel
incoherent motion MRI acquisition methods in liver", https://scholarworks.utrgv.edu/som_pub/1378), 23, 11 and
47 % of F, D and D* between scanners (Cui et al., Eur J Radiol Open 2015;2:123-128)."""

SMALLEST = {"f": 0.05, "d": 0.5e-3, "dstar": 0.0}
"""Values below count as these where a share of them is asked for: near 0 repeats differ by an amount."""


@dataclass(frozen=True)
class Difference:
    """A median that differs between two runs by more than chance and usual repeatability allow.

    ``size`` is the difference over what they allow, above 1.
    """

    tissue: str
    label: str
    runs: tuple[str, str]
    values: tuple[Tissue, Tissue]
    size: float


def differences(runs: Sequence[RunAnswers]) -> list[Difference]:
    """Every difference between two runs in the same tissue that calls for an explanation, the largest first.

    A region without flags on most of its voxels is compared, or the whole mask where there are no regions.
    Of each tissue and parameter the two runs count that differ most.
    """
    largest: dict[tuple[str, str], Difference] = {}
    for first, second in combinations(runs, 2):
        for a, b in _shared(first, second):
            for label in TISSUE_LABELS:
                size = _difference(a, b, label)
                known = largest.get((a.name, label))
                if size > 1 and (known is None or size > known.size):
                    both = (first.title, second.title)
                    largest[a.name, label] = Difference(a.name, label, both, (a, b), size)
    return sorted(largest.values(), key=lambda difference: -difference.size)


def _shared(first: RunAnswers, second: RunAnswers) -> Iterable[tuple[Tissue, Tissue]]:
    if first.named and second.named:
        others = {tissue.name: tissue for tissue in second.tissues}
        pairs = [(tissue, others[tissue.name]) for tissue in first.tissues if tissue.name in others]
    else:
        pairs = [(first.whole, second.whole)] if first.whole and second.whole else []
    return [(a, b) for a, b in pairs if min(a.voxels, b.voxels) >= LEAST_VOXELS]


def _difference(a: Tissue, b: Tissue, label: str) -> float:
    """Difference of two medians over what chance and usual repeatability allow (95 %); 0 where not known."""
    if not {"f", label} <= a.medians.keys() & b.medians.keys():
        return 0.0
    if SPECS[label].needs_perfusion and min(a.medians["f"], b.medians["f"]) < NEGLIGIBLE_F:
        return 0.0
    first, second = a.medians[label], b.medians[label]
    usual = math.sqrt(2) * REPEATABILITY[label] * max((first + second) / 2, SMALLEST[label])
    allowed = 1.96 * math.hypot(usual, a.error(label), b.error(label))
    return abs(first - second) / allowed if allowed > 0 else 0.0


def difference_sentences(runs: Sequence[RunAnswers], found: Sequence[Difference]) -> list[str]:
    """What disagrees between the runs, and what was not the same when they were measured."""
    if len(runs) == 1:
        return ["There is one run: nothing tells how far its numbers repeat."]
    unlike = condition_sentences(runs)
    if not any(True for pair in combinations(runs, 2) for _ in _shared(*pair)):
        return ["They have no tissue in common that could be compared.", *unlike]
    if not found:
        return ["Their medians agree, as far as noise and usual repeatability allow.", *unlike]
    words = [
        f"{d.tissue} {SPECS[d.label].symbol} {value_in_words(d.values[0], d.label)} in {d.runs[0]}, "
        f"{value_in_words(d.values[1], d.label)} in {d.runs[1]}"
        for d in found
    ]
    more = len(words) - SHOWN_DIFFERENCES
    rest = f"; and {more} more" if more > 0 else ""
    head = "They contradict each other by more than noise and usual repeatability allow"
    return [f"{head}: {'; '.join(words[:SHOWN_DIFFERENCES])}{rest}.", *unlike]


def condition_sentences(runs: Sequence[RunAnswers]) -> list[str]:
    """What differs between the runs besides the tissue, and the volumes that lost signal."""
    names = dict.fromkeys(name for run in runs for name in run.conditions)
    unlike = []
    for name in names:
        values = {run.title: run.conditions.get(name, "not stated") for run in runs}
        if len(set(values.values())) > 1:
            shown = [f"{value} in {title}" for title, value in values.items()]
            unlike.append(f"{name} {', '.join(few(shown))}")
    sentences = [f"Not the same: {'; '.join(unlike)}."] if unlike else []
    lost = [f"{run.title}: {', '.join(few(run.lost))}" for run in runs if run.lost]
    return [*sentences, *([f"Signal was lost in single volumes: {'; '.join(lost)}."] if lost else [])]
