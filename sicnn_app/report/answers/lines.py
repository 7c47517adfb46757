"""Numbers of the runs of a subject -> the five lines at the top of its report, the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sicnn_app.formats import listed
from sicnn_app.report.answers.advice import advice_sentences
from sicnn_app.report.answers.between_runs import difference_sentences, differences
from sicnn_app.report.answers.dstar import dstar_sentences, judge_dstar
from sicnn_app.report.answers.inputs import RunAnswers
from sicnn_app.report.answers.perfusion import perfusion_sentences
from sicnn_app.report.answers.wording import SHOWN_RUNS


@dataclass(frozen=True)
class Line:
    """One of the lines: its head and its sentences, which may be steps to take."""

    head: str
    sentences: tuple[str, ...]
    steps: bool = False


def answer(runs: Sequence[RunAnswers]) -> list[Line]:
    """The five lines of a subject or session; none without runs."""
    if not runs:
        return []
    found = differences(runs)
    levels = judge_dstar(runs, found)
    return [
        Line("Verdict", tuple(verdict_sentences(runs))),
        Line("Perfusion", tuple(perfusion_sentences(runs))),
        Line("D*", tuple(dstar_sentences(levels))),
        Line("Between the runs", tuple(difference_sentences(runs, found))),
        Line("What to do", tuple(advice_sentences(runs, found, levels)), steps=True),
    ]


def verdict_sentences(runs: Sequence[RunAnswers]) -> list[str]:
    """The verdict on the data of every run; runs of which the same is said share a sentence."""
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault(run.sentence or "No verdict is recorded.", []).append(run.title)
    if len(said) == 1:
        both = "" if len(runs) == 1 else "Both runs: " if len(runs) == 2 else f"All {len(runs)} runs: "
        return [f"{both}{next(iter(said))}"]
    return _shown([f"{listed(titles)}: {sentence}" for sentence, titles in said.items()], SHOWN_RUNS, "run")


def _shown(sentences: list[str], most: int, noun: str) -> list[str]:
    more = len(sentences) - most
    return sentences if more <= 0 else [*sentences[:most], f"{more} more {noun}s: see their sections."]
