"""Which images the labels and the filter file of the command line choose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sicnn_app.bids.associate import ENTITY_ORDER, BidsName
from sicnn_app.errors import UsageError
from sicnn_app.settings import SelectionSettings

LONG_NAMES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "nucleus": "nuc",
    "volume": "voi",
    "ceagent": "ce",
    "tracer": "trc",
    "staining": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "modality": "mod",
}
"""Entity names of pybids, as filter files write them; the others equal their short keys."""

FILE_KEYS = ("suffix", "extension", "datatype")

LABEL_FLAGS = {
    "sub": "--participant-label",
    "ses": "--session-id",
    "acq": "--acquisition-label",
    "run": "--run-label",
}

ABSENT = (None, "Query.NONE")
PRESENT = ("*", "Query.ANY")
OPTIONAL = "Query.OPTIONAL"


def _fits(label: str | None, wanted: Any) -> bool:
    """Whether one value of a filter file accepts a label (None: the name has no such entity)."""
    if (
        wanted == OPTIONAL
        or (wanted in ABSENT and label is None)
        or (wanted in PRESENT and label is not None)
    ):
        return True
    if isinstance(wanted, int) and label is not None and label.isdecimal():
        return int(label) == wanted
    return label is not None and label == wanted


@dataclass(frozen=True)
class Selection:
    """Labels and filters, ready to be asked.

    Attributes
    ----------
    labels : dict of str to tuple of str
        Labels requested per short entity key; only those that were.
    filters : dict of str to tuple
        Values accepted per short entity key, ``suffix``, ``extension`` or ``datatype``.
    warnings : tuple of str
        Filters that were ignored.
    """

    labels: dict[str, tuple[str, ...]]
    filters: dict[str, tuple[Any, ...]]
    warnings: tuple[str, ...]

    @classmethod
    def build(cls, settings: SelectionSettings) -> Selection:
        """Selection of the settings; raises UsageError when the ``dwi`` filters are no mapping."""
        requested = {
            "sub": settings.participant_label,
            "ses": settings.session_id,
            "acq": settings.acquisition_label,
            "run": settings.run_label,
        }
        labels = {
            key: tuple(value.removeprefix(f"{key}-") for value in values)
            for key, values in requested.items()
            if values
        }
        queries = settings.bids_filters.get("dwi") or {}
        if not isinstance(queries, dict):
            raise UsageError(
                '--bids-filter-file: "dwi" must hold entities and their values, as in {"dwi": {"run": 1}}'
            )
        filters, warnings = {}, []
        for name, value in queries.items():
            key = LONG_NAMES.get(name, name)
            if key in ENTITY_ORDER or key in FILE_KEYS:
                filters[key] = tuple(value) if isinstance(value, list) else (value,)
            else:
                warnings.append(f"--bids-filter-file: {name} is no BIDS entity and is ignored")
        return cls(labels, filters, tuple(warnings))

    def accepts(self, name: BidsName) -> bool:
        """Whether an image of a ``dwi`` folder is chosen."""
        fields = {**name.entities, "suffix": name.suffix, "extension": name.extension, "datatype": "dwi"}
        return all(fields.get(key) in labels for key, labels in self.labels.items()) and all(
            any(_fits(fields.get(key), value) for value in values) for key, values in self.filters.items()
        )

    def unmatched(self, chosen: Iterable[dict[str, str]]) -> list[str]:
        """One warning per requested label that no chosen run has."""
        chosen = list(chosen)
        return [
            f"{LABEL_FLAGS[key]} {label} matches no DWI run"
            for key, labels in self.labels.items()
            for label in labels
            if not any(entities.get(key) == label for entities in chosen)
        ]

    def describe(self) -> str:
        """The selection in the words of the command line; empty when everything is chosen."""
        words = [f"{LABEL_FLAGS[key]} {' '.join(labels)}" for key, labels in self.labels.items()]
        return ", ".join([*words, "--bids-filter-file"] if self.filters else words)
