"""Folder of ratings to what the reviewers of a run say together."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from sicnn_app.derivatives.ratings import PATTERN, RATINGS, REASONS, Rating, read_rating
from sicnn_app.errors import MissingInputError, SicnnAppError
from sicnn_app.formats import Column, shorten
from sicnn_app.group.table import MAX_LETTERS, Row, cell

WORST_LAST = tuple(RATINGS)

UNUSABLE = WORST_LAST[-1]
"""Runs rated so are left out of what is said of all runs together."""

NOBODY = "unnamed"
"""A reviewer who gave no name."""


@dataclass(frozen=True)
class RunRatings:
    """The last rating of every reviewer of one run, the worst first."""

    given: Sequence[Rating]

    @property
    def rating(self) -> str:
        """The worst."""
        return self.given[0].rating

    @property
    def reasons(self) -> str:
        """Reasons of all reviewers, in the order of :data:`sicnn_app.derivatives.ratings.REASONS`."""
        return ", ".join(reason for reason in REASONS if any(reason in one.reasons for one in self.given))

    @property
    def reviewers(self) -> str:
        """Who rated how, as ``AB: unusable, CD: good``."""
        return ", ".join(f"{one.reviewer or NOBODY}: {one.rating}" for one in self.given)

    @property
    def notes(self) -> str:
        """What they wrote, cut at :data:`sicnn_app.group.table.MAX_LETTERS`."""
        return shorten("; ".join(one.note for one in self.given if one.note), MAX_LETTERS)


COLUMNS = (
    Column(
        "rating",
        "Rating",
        f"What reviewers thought of the run, {', '.join(RATINGS)}: the worst where they disagree. Runs rated "
        f"{UNUSABLE} are left out of quartiles, outliers and repeatability; n/a: not rated",
        attrgetter("rating"),
    ),
    Column(
        "rating_reasons",
        "Reasons of the rating",
        f"Reasons that any reviewer gave, of {', '.join(REASONS)}; n/a: none",
        attrgetter("reasons"),
    ),
    Column(
        "rating_reviewers",
        "Reviewers",
        "Reviewers with the last rating of each",
        attrgetter("reviewers"),
    ),
    Column("rating_notes", "Notes of the reviewers", "What the reviewers wrote", attrgetter("notes")),
)
"""Columns of ``group_ivim.tsv``; their values are functions of :class:`RunRatings`."""


@dataclass(frozen=True)
class Ratings:
    """What a folder of ratings says.

    Attributes
    ----------
    by_run : mapping of str to RunRatings
        By the name of the run.
    files : int
        Read.
    problems : sequence of SicnnAppError
        One per file that is no rating.
    folder : Path or None
        None when no folder was named.
    """

    by_run: Mapping[str, RunRatings] = field(default_factory=dict)
    files: int = 0
    problems: Sequence[SicnnAppError] = ()
    folder: Path | None = None

    def rated(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The rows with a value for each of :data:`COLUMNS`, None without a rating."""
        cells = {
            run: {column.name: column.value(found) or None for column in COLUMNS}
            for run, found in self.by_run.items()
        }
        nothing = dict.fromkeys(column.name for column in COLUMNS)
        return [{**row, **cells.get(row["source"], nothing)} for row in rows]

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """Names of rated runs that are not among those given."""
        return sorted(self.by_run.keys() - set(names))

    def told(self) -> list[str]:
        """The problems without the place of the folder, for files that are given to others."""
        return [str(error).replace(f"{self.folder}{os.sep}", "") for error in self.problems]


def is_usable(row: Row) -> bool:
    """True for a row that no reviewer called unusable."""
    return cell(row, "rating") != UNUSABLE


def read_ratings(folder: Path | None) -> Ratings:
    """Read all ratings in a folder and the folders in it.

    Of several files of one reviewer, whatever the case of the name, the last counts. Every file without a
    name counts as a reviewer's of its own: it may be another one.

    Parameters
    ----------
    folder : Path or None
        None: nothing is rated.

    Raises
    ------
    MissingInputError
        The folder is not there or holds no file with the name of a rating.
    """
    if folder is None:
        return Ratings()
    if not folder.is_dir():
        reason = "is no folder" if os.path.lexists(folder) else "does not exist"
        raise MissingInputError(f"--ratings: {folder} {reason}: name the folder with the ratings")
    paths = sorted(folder.rglob(PATTERN))
    if not paths:
        raise MissingInputError(
            f"--ratings: {folder} holds no file {PATTERN}: name the folder with the ratings"
        )
    last: dict[str, dict[str, Rating]] = defaultdict(dict)
    problems = []
    for path in paths:
        try:
            rating = read_rating(path)
        except SicnnAppError as error:
            problems.append(error)
            continue
        reviewer = rating.reviewer.casefold() or str(path)
        known = last[rating.run].get(reviewer)
        if known is None or known.date <= rating.date:
            last[rating.run][reviewer] = rating
    by_run = {
        run: RunRatings(
            sorted(found.values(), key=lambda one: (-WORST_LAST.index(one.rating), one.reviewer.casefold()))
        )
        for run, found in last.items()
    }
    return Ratings(by_run, len(paths) - len(problems), problems, folder)
