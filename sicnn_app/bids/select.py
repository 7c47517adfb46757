"""Which images the labels and the filter file of the command line choose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sicnn_app.bids.associate import BidsName
from sicnn_app.bids.filters import FILE_KEYS, NAMES, check_filters, describe_filters, fits, is_label
from sicnn_app.settings import SelectionSettings

LABEL_FLAGS = {
    "sub": "--participant-label",
    "ses": "--session-id",
    "acq": "--acquisition-label",
    "run": "--run-label",
}


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
        """Selection of the settings; raises UsageError for filters that no file name can match."""
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
        filters, warnings = check_filters(settings.bids_filters)
        return cls(labels, filters, tuple(warnings))

    def accepts(self, name: BidsName) -> bool:
        """Whether an image of a ``dwi`` folder is chosen."""
        fields = {**name.entities, "suffix": name.suffix, "extension": name.extension, "datatype": "dwi"}
        return all(fields.get(key) in labels for key, labels in self.labels.items()) and all(
            any(fits(fields.get(key), value) for value in values) for key, values in self.filters.items()
        )

    def unmatched(self, chosen: Iterable[dict[str, str]]) -> list[str]:
        """One warning per requested label that no chosen run has."""
        chosen = list(chosen)
        asked = [(key, LABEL_FLAGS[key], label) for key, labels in self.labels.items() for label in labels]
        asked += [
            (key, f"--bids-filter-file: {NAMES.get(key, key)}", label)
            for key, values in self.filters.items()
            for label in values
            if key not in FILE_KEYS and is_label(label)
        ]
        return [
            f"{words} {label} matches no DWI run"
            for key, words, label in asked
            if not any(fits(entities.get(key), label) for entities in chosen)
        ]

    def describe(self) -> str:
        """The selection in the words of the command line; empty when everything is chosen."""
        words = [f"{LABEL_FLAGS[key]} {' '.join(labels)}" for key, labels in self.labels.items()]
        if self.filters:
            words.append(f"--bids-filter-file {describe_filters(self.filters)}")
        return ", ".join(words)
