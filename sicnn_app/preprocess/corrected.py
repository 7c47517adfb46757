"""What every step that changes a series returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sicnn_app.ivim.series import DwiSeries


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
    """

    series: DwiSeries
    record: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
