"""What every step that changes a series returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.steps import NOT_DONE

Progress = Callable[[str, int, int], None]
"""Text, steps done, steps in all."""


@dataclass(frozen=True)
class Corrected:
    """A series after one step, and what the step did.

    Attributes
    ----------
    series : DwiSeries
        Same shape and affine as before.
    record : dict
        ``{"Name": str, "Description": str, ...numbers}`` for sidecar and report; JSON-serialisable.
    warnings : list of str
    motion : list of dict
        Of a motion correction: see :func:`sicnn_app.preprocess.motion.correct_motion`.
    """

    series: DwiSeries
    record: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    motion: list[dict[str, Any]] = field(default_factory=list)

    def because(self, reason: str) -> Corrected:
        """The same with what decided that the step is done."""
        return replace(self, record={**self.record, "Choice": reason})


def not_done(name: str, series: DwiSeries, reason: str) -> Corrected:
    """A step that leaves the series as it is."""
    return Corrected(series, {"Name": name, "Description": f"{NOT_DONE}: {reason}", "Choice": reason})
