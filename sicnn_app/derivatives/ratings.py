"""A reviewer's rating of a run: its words and file, as the report's box downloads it, and reading it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sicnn_app.bids.text_files import read_json
from sicnn_app.derivatives.names import run_called
from sicnn_app.errors import DataError
from sicnn_app.formats import shorten

RATINGS = {
    "good": "Good: use the maps",
    "doubtful": "Doubtful: use a part of them, or with care",
    "unusable": "Unusable: leave the run out",
}
"""Words of a rating, from best to worst, as files and the page write them."""

REASONS = {
    "motion": "Motion, or signal lost to it",
    "noise": "Too much noise",
    "artefact": "Ghosts, ringing, folding or distortion",
    "coverage": "An organ is cut off or not covered",
    "mask": "The mask is wrong",
    "implausible": "Maps that cannot be true",
    "protocol": "b-values or settings are not those meant",
    "other": "Something else, see the note",
}
"""Reasons for a rating, any number of them, as files and the page write them."""

MAX_NOTE, MAX_REVIEWER = 2000, 100
"""Letters of a note and of a name; the page takes no more."""

PATTERN = "*_desc-rating*.json"
"""Names of the files; a browser counts those that it downloads again."""


@dataclass(frozen=True)
class Rating:
    """What one reviewer thought of one run.

    Attributes
    ----------
    run : str
        Stem of its outputs, as in the column ``run`` of ``group_ivim.tsv``.
    rating : str
        One of :data:`RATINGS`.
    reasons : tuple of str
        Of :data:`REASONS`, in their order.
    note, reviewer : str
        May be empty.
    date : datetime
        With its time zone; UTC where the file names none.
    version : str or None
        Of the app whose report was rated.
    """

    run: str
    rating: str
    reasons: tuple[str, ...]
    note: str
    reviewer: str
    date: datetime
    version: str | None = None


def rating_name(run: str) -> str:
    """Name of the file of a run.

    Examples
    --------
    >>> rating_name("sub-01_ses-1")
    'sub-01_ses-1_desc-rating.json'
    """
    return f"{run}_desc-rating.json"


def read_rating(path: Path) -> Rating:
    """Read one file, and check all that the group relies on; keys of others are ignored.

    Raises DataError for what is no rating, besides the errors of
    :func:`sicnn_app.bids.text_files.read_json`.
    """
    content = read_json(path)

    def text(key: str, most: int) -> str:
        value = content.get(key, "")
        if not isinstance(value, str) or len(value) > most:
            raise DataError(f"{path}: {key} is no text of at most {most} letters: rate the run again")
        return value.strip()

    run, rating, reasons = text("Run", 1000), content.get("Rating"), content.get("Reasons", [])
    if run_called(run) is None:
        raise DataError(f"{path}: Run is {shorten(run)!r}, which names no run: rate it again in its report")
    if not isinstance(rating, str) or rating not in RATINGS:
        raise DataError(f"{path}: Rating is {shorten(str(rating))!r}: write {', '.join(RATINGS)}")
    known = list(REASONS)
    if not isinstance(reasons, list) or any(reason not in known for reason in reasons):
        raise DataError(
            f"{path}: Reasons is {shorten(str(reasons))}: write a list of any of {', '.join(REASONS)}"
        )
    try:
        date = datetime.fromisoformat(text("Date", 40))
    except ValueError:
        raise DataError(f"{path}: Date is no date as in 2026-11-30T14:00:00Z: correct it") from None
    by = content.get("GeneratedBy")
    version = by.get("Version") if isinstance(by, dict) else None
    return Rating(
        run,
        rating,
        tuple(reason for reason in known if reason in reasons),
        text("Note", MAX_NOTE),
        text("Reviewer", MAX_REVIEWER),
        date if date.tzinfo else date.replace(tzinfo=UTC),
        version if isinstance(version, str) else None,
    )
