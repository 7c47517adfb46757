"""The last line: what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sicnn_app.formats import listed
from sicnn_app.ivim.adequacy_inputs import GOOD, POOR
from sicnn_app.report.answers.between_runs import Difference
from sicnn_app.report.answers.inputs import NOTABLE_SHARE, RunAnswers
from sicnn_app.report.answers.wording import few

MOST_CHECKS = 2
"""Whose advice is repeated; the table of checks has all."""

MOSTLY_INSIDE = 0.5
"""Share of a region below which its numbers are those of a part only."""


def advice_sentences(
    runs: Sequence[RunAnswers], found: Sequence[Difference], levels: Mapping[str, tuple[str, str]]
) -> list[str]:
    """What to do, the most important first."""
    advice = []
    if found:
        places = listed(few(list(dict.fromkeys(difference.tissue for difference in found))))
        advice.append(f"Report each run by itself: {places} must not be averaged over runs that disagree.")
    if any(run.lost for run in runs):
        advice.append(
            "Look at the volumes that lost signal (section Volumes), and process again without the worst "
            "(--ignore-volumes)."
        )
    cut = list(
        dict.fromkeys(t.name for run in runs if run.named for t in run.tissues if t.inside < MOSTLY_INSIDE)
    )
    if cut:
        advice.append(f"Give a mask that holds {listed(few(cut))}, or let one be made (--mask-desc none).")
    if not any(run.named for run in runs):
        advice.append("Give a segmentation with -d to have numbers per organ.")
    if levels and {level for level, _ in levels.values()} == {POOR}:
        advice.append("Report F and D, and leave out D*.")
    elif any(level != GOOD for level, _ in levels.values()):
        advice.append("Report D* only where the line above believes it.")
    if any(max(run.fluid, run.vessels) >= NOTABLE_SHARE for run in runs):
        advice.append("Leave fluid and vessels out of regions before F is averaged.")
    weak = {name: words for run in runs for name, words in run.advice.items()}
    for name, words in list(weak.items())[:MOST_CHECKS]:
        advice.append(f"{words.rstrip('.')} ({name[:1].lower()}{name[1:]}).")
    return advice or ["Nothing stands against the use of the maps: look at them, and rate the run."]
