"""The group as its page sees it: names of measures and regions, and which regions are drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sicnn_app.derivatives.facts import MISSING
from sicnn_app.derivatives.quality import Shown, outlier_columns
from sicnn_app.formats import natural_key
from sicnn_app.group.gather import Chosen, Gathered
from sicnn_app.group.outliers import Kind, Measured, RegionKey, conventional_of, measure_kinds, region_key
from sicnn_app.group.ratings import Ratings, is_usable
from sicnn_app.group.repeats import Repeats
from sicnn_app.group.table import MASK_REGION, Row, cell
from sicnn_app.methods import METHODS
from sicnn_app.report.quantities import shown_quantities

MAX_POINTS = 300_000
"""Points on the page; each takes some 12 bytes, and the page shall stay below 10 MB."""

MAX_REGIONS = 100
"""Regions to choose from: nobody reads a longer list."""

_REPEATED = {"ses": "Sessions", "run": "Runs of one session"}


@dataclass(frozen=True)
class ShownMeasure(Shown):
    """A column of the table as the page shows it; ``of_run``: the regions of a run share its value."""

    logarithmic: bool = False
    of_run: bool = False

    @property
    def axis(self) -> str:
        """Name of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def ending(self) -> str:
        """What follows a number."""
        return self.text(0.0).removeprefix(self.text(0.0, unit=False))

    def quartiles(self, item: Measured) -> str:
        """Median of a distribution, and its quartiles in brackets."""
        low, middle, high = (self.text(value, unit=False) for value in item.distribution.quartiles)
        return f"{middle} ({low} – {high})"

    @property
    def short(self) -> str:
        """Head of a column of numbers without unit."""
        return self.axis.removeprefix("median ")


def region_measures() -> dict[str, ShownMeasure]:
    """Measures that are drawn of every region, by column of the table."""
    maps = {
        f"{item.spec.label}_median": ShownMeasure(
            f"median {item.spec.symbol}",
            f"{item.spec.symbol}, {item.title}",
            item.factor,
            item.unit,
            item.logarithmic,
        )
        for item in shown_quantities(None)
        if item.spec.outlier
    }
    return maps | {"flagged_share": ShownMeasure("flagged voxels", "Flagged voxels", 100.0, "%")}


def run_measures() -> dict[str, ShownMeasure]:
    """Measures that are drawn of every run, by column of the table."""
    return {column.name: ShownMeasure(**vars(column.outlier), of_run=True) for column in outlier_columns()}


def method_in_words(method: str | None) -> str:
    """Name of a method as the reports write it.

    Examples
    --------
    >>> method_in_words("lsq")
    'Least squares'
    """
    return METHODS[method].title if method in METHODS else method or MISSING


class RegionNames:
    """Names of kinds: the region, and of the rest what differs between the kinds there are.

    Regions stand in the order in which these name them.
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        kinds = list(kinds)
        others = ("acquisition", "method", "anatomy")
        self._varying = [column for column in others if len({kind[column] for kind in kinds}) > 1]
        keys = dict.fromkeys(map(region_key, kinds))
        self._order = {key: position for position, key in enumerate(keys)}
        segmentations = Counter(region for _, region in keys)
        self._ambiguous = {region for region, count in segmentations.items() if count > 1} | {MASK_REGION}

    def of(self, kind: Kind, *, alone: bool = False) -> str:
        """Name of a kind; ``alone`` leaves all but the region out."""
        segmentation, region = region_key(kind)
        name = "whole mask" if segmentation is None else str(region)
        if segmentation is not None and region in self._ambiguous:
            name = f"{region} ({segmentation})"
        others = [] if alone else self._varying
        words = [method_in_words(kind[other]) if other == "method" else kind[other] for other in others]
        return ", ".join([name, *filter(None, words)])

    def rank(self, kind: Kind) -> tuple:
        """Sort key: region by region, and within one by the rest of the name."""
        return self._order[region_key(kind)], natural_key(self.of(kind))


def choose_regions(measured: Iterable[Measured]) -> tuple[set[RegionKey], int]:
    """Regions that are drawn, those of most runs first, and how many are not; the mask always is."""
    points: Counter[RegionKey] = Counter()
    for item in measured:
        points[region_key(item.kind)] += item.values.size
    shown: set[RegionKey] = set()
    total = 0
    for key, count in sorted(points.items(), key=lambda item: (item[0][0] is not None, -item[1])):
        if key[0] is None or (total + count <= MAX_POINTS and len(shown) < MAX_REGIONS):
            shown.add(key)
            total += count
    return shown, len(points) - len(shown)


@dataclass(frozen=True)
class Group:
    """All runs, their distributions and what repeats, and where their reports are.

    Attributes
    ----------
    rows : list of dict of str to str
        Of ``group_ivim.tsv``, outliers marked.
    measured, apart : list of Measured
        Of the runs that can be used, and of those that reviewers called unusable.
    repeats : list of (Repeats, dict)
        With the row of ``group_repeatability.tsv``.
    reports : mapping of str to str
        Address of the report of a run, by its name; runs without a report are not in it.
    """

    gathered: Gathered
    rows: Sequence[Row]
    measured: Sequence[Measured]
    apart: Sequence[Measured]
    repeats: Sequence[tuple[Repeats, Row]]
    reports: Mapping[str, str]
    chosen: Chosen
    ratings: Ratings

    @cached_property
    def names(self) -> RegionNames:
        """Names of all kinds there are."""
        return RegionNames(item.kind for item in (*self.measured, *self.apart))

    def conventional(self, *, usable: bool = True) -> list[Measured]:
        """Medians of the conventional fit, of the runs that can be used or of the others."""
        columns = [conventional_of(column) for column in self.measures]
        return measure_kinds([row for row in self.rows if is_usable(row) == usable], columns)

    @cached_property
    def regions(self) -> tuple[dict[RegionKey, str], int]:
        """Names of the regions that are drawn, in the order of the table, and how many are not."""
        items = [*self.measured, *self.apart]
        chosen, hidden = choose_regions(items)
        kinds = {
            region_key(item.kind): item.kind
            for item in sorted(items, key=lambda item: self.names.rank(item.kind))
        }
        return {key: self.names.of(kind, alone=True) for key, kind in kinds.items() if key in chosen}, hidden

    @cached_property
    def sections(self) -> dict[str, list[tuple[Repeats, Row]]]:
        """What repeats, by what is repeated and how it was acquired and estimated, in words."""
        found: dict[str, list[tuple[Repeats, Row]]] = defaultdict(list)
        for repeats, row in self.repeats:
            kind = repeats.kind
            words = (_REPEATED[repeats.repeated], kind["acquisition"], kind["anatomy"])
            found[", ".join([*filter(None, words), method_in_words(kind["method"])])].append((repeats, row))
        return found

    @cached_property
    def measures(self) -> dict[str, ShownMeasure]:
        """Measures that are drawn and looked through for outliers, by column of the table."""
        return region_measures() | run_measures()

    @cached_property
    def masks(self) -> list[Row]:
        """The row of every run that stands for its whole mask."""
        return [row for row in self.rows if cell(row, "segmentation") is None]

    def link(self, row: Row) -> dict[str, str] | str:
        """Cell of a table that leads to the report of a row's run."""
        name = row["source"]
        return {"text": name, "href": self.reports[name]} if name in self.reports else name
