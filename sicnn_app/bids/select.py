"""Which images the labels and the filter file of the command line choose.

A filter file is checked key by key: a misspelt one would choose everything, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sicnn_app.bids.associate import ENTITY_ORDER, LABEL, BidsName
from sicnn_app.errors import UsageError
from sicnn_app.formats import printable, shorten
from sicnn_app.settings import SelectionSettings

QUERY = "dwi"
"""Key at the top that holds the filters of DWI images; other programs have others, which are ignored."""

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

NAMES = {key: name for name, key in LONG_NAMES.items()}

FILE_KEYS = {"suffix": '"dwi"', "extension": '".nii.gz" or [".nii.gz", ".nii"]', "datatype": '"dwi"'}
"""Keys that are no entities, and how their values are written."""

ABSENT = (None, "Query.NONE")
PRESENT = ("*", "Query.ANY", "Query.REQUIRED")
OPTIONAL = "Query.OPTIONAL"

LABEL_SETTINGS = {
    "sub": "participant_label",
    "ses": "session_id",
    "acq": "acquisition_label",
    "run": "run_label",
}
"""Settings with the labels of an entity; their flags have hyphens."""


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
        labels = {
            key: tuple(value.removeprefix(f"{key}-") for value in values)
            for key, name in LABEL_SETTINGS.items()
            if (values := getattr(settings, name))
        }
        return cls(labels, *_checked_filters(settings.bids_filters))

    def accepts(self, name: BidsName) -> bool:
        """True when an image of a ``dwi`` folder is chosen."""
        fields = {**name.entities, "suffix": name.suffix, "extension": name.extension, "datatype": "dwi"}
        return all(fields.get(key) in labels for key, labels in self.labels.items()) and all(
            any(fits(fields.get(key), value) for value in values) for key, values in self.filters.items()
        )

    def unmatched(self, chosen: Iterable[dict[str, str]]) -> list[str]:
        """One warning per requested label that no chosen run has."""
        chosen = list(chosen)
        asked = [(key, _flag(key), label) for key, labels in self.labels.items() for label in labels]
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
        words = [f"{_flag(key)} {' '.join(labels)}" for key, labels in self.labels.items()]
        if self.filters:
            content = {
                NAMES.get(key, key): list(values) if len(values) > 1 else values[0]
                for key, values in self.filters.items()
            }
            words.append(f"--bids-filter-file {printable(json.dumps(content, ensure_ascii=False))}")
        return ", ".join(words)


def _flag(key: str) -> str:
    return "--" + LABEL_SETTINGS[key].replace("_", "-")


def fits(label: str | None, wanted: Any) -> bool:
    """True when one value of a filter file accepts a label (None: the name has no such entity)."""
    if wanted == OPTIONAL:
        return True
    if wanted in ABSENT:
        return label is None
    if wanted in PRESENT:
        return label is not None
    if isinstance(wanted, int):
        return label is not None and label.isdecimal() and int(label) == wanted
    return label == wanted


def is_label(value: Any) -> bool:
    """True when a value of a filter file is a label, and not a rule about labels."""
    return value not in (*ABSENT, *PRESENT, OPTIONAL)


def _checked_filters(content: dict[str, Any]) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
    """Filters and warnings of a :class:`Selection` from a filter file as fMRIPrep documents it.

    ``content`` has filters by the query they are for, as ``{"dwi": {"acquisition": "ivim"}}``. Labels are
    returned without prefix, extensions with their dot.

    Raises
    ------
    UsageError
        A filter stands outside of its query, is given twice, or holds what no name can match.
    """
    for name in content:
        if _key(name.lower()) is not None or (name != QUERY and name.lower() == QUERY):
            raise UsageError(
                f'--bids-filter-file: {_shown(name)} is no query: filters stand inside of "dwi", '
                'as in {"dwi": {"acquisition": "ivim"}}'
            )
    queries = content.get(QUERY, {})
    if not isinstance(queries, dict):
        raise UsageError(
            '--bids-filter-file: "dwi" must hold entities and their values, as in {"dwi": {"run": 1}}'
        )
    warnings = []
    if content and QUERY not in content:
        warnings.append('--bids-filter-file: it has no "dwi" and chooses nothing')
    filters: dict[str, tuple[Any, ...]] = {}
    for name, value in queries.items():
        key = _key(name)
        if key is None:
            warnings.append(f"--bids-filter-file: {printable(name)} is no BIDS entity and is ignored")
        elif key in filters:
            raise UsageError(f"--bids-filter-file: {_shown(name)} is given by two names: keep one of them")
        else:
            filters[key] = _values(name, key, value)
    return filters, tuple(warnings)


def _key(name: str) -> str | None:
    key = LONG_NAMES.get(name, name)
    return key if key in ENTITY_ORDER or key in FILE_KEYS else None


def _values(name: str, key: str, value: Any) -> tuple[Any, ...]:
    given = value if isinstance(value, list) else [value]
    values = tuple(_value(key, item) for item in given)
    wrong = [item for item, found in zip(given, values, strict=True) if found is NotImplemented]
    if wrong or not values:
        form = FILE_KEYS.get(key, 'a label such as "01", or a list of labels')
        raise UsageError(
            f"--bids-filter-file: {_shown(name)} holds {_shown(wrong[0] if wrong else value)}: write {form}"
        )
    return values


def _value(key: str, item: Any) -> Any:
    """A value as names are compared with it; NotImplemented for one that no name can have."""
    if isinstance(item, str | None) and not is_label(item):
        return item
    if isinstance(item, int) and not isinstance(item, bool) and item >= 0 and key not in FILE_KEYS:
        return item
    if not isinstance(item, str):
        return NotImplemented
    item = f".{item.removeprefix('.')}" if key == "extension" else item.removeprefix(f"{key}-")
    return item if LABEL.fullmatch(item.removeprefix(".").replace(".", "")) else NotImplemented


def _shown(value: Any) -> str:
    return shorten(printable(json.dumps(value, ensure_ascii=False)))
