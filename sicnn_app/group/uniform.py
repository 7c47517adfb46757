"""Settings and software that differ between runs, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from sicnn_app.derivatives.facts import count_of, in_words
from sicnn_app.formats import shorten
from sicnn_app.group.gather import GatheredRun
from sicnn_app.group.table import MAX_LETTERS

MAX_VALUES = 4
"""Values of one setting that are listed, the most frequent ones."""

MAX_SETTINGS = 500
"""Of one run; the app has a fifth of that."""

ABSENT = "not recorded"


def differences(runs: Sequence[GatheredRun]) -> list[str]:
    """One line per setting and per program that is not the same in all runs.

    Returns
    -------
    list of str
        ``denoise: mppca (3 runs), none (1 run)``; empty when all runs were made alike.
    """
    settings = _lines("", [_flat(run.state.settings) for run in runs])
    return settings + _lines("version of ", [run.state.versions for run in runs])


def _lines(prefix: str, records: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for name in dict.fromkeys(name for record in records for name in record):
        counts = Counter(record.get(name, ABSENT) for record in records)
        if len(counts) > 1:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            values = [f"{value} ({count_of(count, 'run')})" for value, count in ranked[:MAX_VALUES]]
            rest = [f"{len(ranked) - MAX_VALUES} others"] if len(ranked) > MAX_VALUES else []
            lines.append(f"{prefix}{name}: {', '.join([*values, *rest])}")
    return lines


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by name, those of an object apart: two long texts would hide what differs."""
    leaves = islice(_leaves("", settings), MAX_SETTINGS)
    return {shorten(name, MAX_LETTERS): shorten(in_words(value), MAX_LETTERS) for name, value in leaves}


def _leaves(prefix: str, settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{name} ", value)
        else:
            yield f"{prefix}{name}", value
