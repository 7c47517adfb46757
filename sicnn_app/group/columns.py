"""The table of the group: a row per region of a run, a :class:`Column` per number.

What reviewers and all runs together decide stands in the last columns, see :mod:`sicnn_app.group.ratings` and
:mod:`sicnn_app.group.outliers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import as_number
from sicnn_app.derivatives.quality import group_columns
from sicnn_app.formats import Column, described, shorten
from sicnn_app.group.outliers import OUTLIER_RULE
from sicnn_app.group.ratings import COLUMNS as RATING_COLUMNS
from sicnn_app.group.table import MASK_REGION, MAX_LETTERS
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, MapSpec, all_maps
from sicnn_app.ivim.regions import Regions
from sicnn_app.ivim.run import DwiRun
from sicnn_app.ivim.summary import Spread, spread

REPEATED_ENTITIES = ("ses", "run")
"""Entities by which the measurements of one participant and acquisition are told apart."""


@dataclass(frozen=True)
class Region:
    """A region of a run as the columns see it.

    Attributes
    ----------
    run : RunDerivatives
        With every map.
    inside : ndarray, shape (M,), bool
        Voxels of its mask that belong to the region.
    segmentation : str or None
        None: the region is the whole mask.
    share_inside : float or None
        Of all voxels of the region, those inside the mask.
    """

    source: DwiRun
    run: RunDerivatives
    inside: np.ndarray
    segmentation: str | None = None
    name: str = MASK_REGION
    share_inside: float | None = None

    @cached_property
    def voxels(self) -> int:
        """Inside the mask."""
        return int(np.count_nonzero(self.inside))

    def where(self, label: str) -> np.ndarray:
        """Voxels over which a map is summed up, shape (M,), bool."""
        return self.inside & self.run.meaningful(label)

    @cached_property
    def statistics(self) -> dict[str, Spread]:
        """Of every map there is, by its label."""
        maps = [spec.label for spec in all_maps() if spec.label in self.run.maps]
        return {label: spread(self.run.inside(label)[self.where(label)]) for label in maps}

    def conventional_median(self, label: str) -> float | None:
        """Median of the conventional fit, D* where it finds perfusion; None where there is none."""
        maps = self.run.conventional
        if not maps.keys() >= {label, "f"}:
            return None
        values, fractions = (maps[name][self.run.mask][self.inside] for name in (label, "f"))
        chosen = np.isfinite(values)
        if SPECS[label].needs_perfusion:
            chosen &= fractions >= NEGLIGIBLE_F
        return spread(values[chosen]).median

    def map_spread(self, label: str) -> float | None:
        """Median standard deviation of a map; None where there is no map of it."""
        deviations = self.run.spread.get(label)
        return None if deviations is None else spread(deviations[self.run.mask][self.where(label)]).median

    @property
    def flagged_share(self) -> float | None:
        """Share of the voxels with a flag; None without voxels or flags."""
        known = self.voxels and self.run.flags is not None
        return float(self.run.flagged[self.inside].mean()) if known else None

    @property
    def acquisition(self) -> str | None:
        """Entities of the run besides participant, session and run number."""
        others = (pair for pair in self.source.entities.items() if pair[0] not in ("sub", *REPEATED_ENTITIES))
        return "_".join(map("-".join, others)) or None

    @cached_property
    def displacements(self) -> dict[str, float | None]:
        """Mean and largest framewise displacement; None when motion was not corrected."""
        recorded = {
            name: as_number(self.run.qc_row.get(f"framewise_displacement_{name}")) for name in ("mean", "max")
        }
        if None not in recorded.values():
            return recorded
        # The quality tables of version 0.3 and before lack them.
        numbers = (as_number(row.get("framewise_displacement")) for row in self.run.motion)
        volumes = [value for value in numbers if value is not None]
        return {"mean": float(np.mean(volumes)) if volumes else None, "max": max(volumes, default=None)}


def _of_quality(name: str) -> Callable[[Region], float | int | str | None]:
    """A cell of the quality table as a number, if it is one: it is written as numbers are."""

    def value(region: Region) -> float | int | str | None:
        text = region.run.qc_row.get(name)
        number = as_number(text)
        if number is None:
            return None if text is None else shorten(text, MAX_LETTERS)
        return int(number) if number.is_integer() else number

    return value


def attribute(path: str, title: str, description: str) -> Column:
    """Column of what lies at the end of a path of attributes, under the same name."""
    return Column(path.rpartition(".")[2], title, description, attrgetter(path))


METHOD = Column("method", "Method", "Estimation method", _of_quality("method"))

_IDENTITY = (
    Column(
        "participant_id",
        "Participant",
        "Participant of the run",
        lambda region: f"sub-{region.source.subject}",
    ),
    Column(
        "session_id",
        "Session",
        "Session of the run",
        lambda region: None if region.source.session is None else f"ses-{region.source.session}",
    ),
    Column("source", "Source run", "Entities of the source run", attrgetter("source.name")),
    attribute(
        "acquisition", "Acquisition", "Entities of the run besides participant, session and run number"
    ),
    METHOD,
    Column(
        "app_version",
        "Version",
        "Version of sicnn-app that made the maps",
        lambda region: region.run.software.get("sicnn-app"),
    ),
)

PLACE = (
    attribute(
        "segmentation",
        "Segmentation",
        "Dataset of --derivatives and desc or seg label of the segmentation; n/a: the mask of the maps",
    ),
    Column(
        "region",
        "Region",
        f"Name of the region in the segmentation; {MASK_REGION}: all voxels of the maps",
        attrgetter("name"),
    ),
)

_COUNTS = (
    Column(
        "voxel_count",
        "Voxels",
        "Voxels of the region inside the mask of the maps: those that all statistics but that of D* are "
        "taken over",
        attrgetter("voxels"),
    ),
    attribute(
        "share_inside",
        "Share inside the mask",
        "Share of all voxels of the region that lie inside the mask of the maps; n/a: the region is the mask",
    ),
    Column(
        "dstar_voxel_count",
        "Voxels of D*",
        f"Those of them with F of at least {NEGLIGIBLE_F:g}, which the statistics of D* are taken over",
        lambda region: int(np.count_nonzero(region.where("dstar"))),
    ),
)


def _of_map(spec: MapSpec) -> Iterator[Column]:
    condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
    for name, word, detail in (
        ("median", "Median", ""),
        ("iqr", "Interquartile range", ""),
        ("std", "Standard deviation", " (n - 1)"),
    ):
        yield Column(
            f"{spec.label}_{name}",
            f"{word} of {spec.symbol}",
            f"{word}{detail} over the voxels of the region{condition}. {spec.description}",
            lambda region, name=name: getattr(region.statistics.get(spec.label), name, None),
            spec.unit,
        )
    if spec.of_tissue:
        yield Column(
            f"{spec.label}_ensemble_std_median",
            f"Median standard deviation of {spec.symbol}",
            f"Median over the voxels of the region{condition} of the standard deviation of {spec.symbol}, of "
            "the posterior or over an ensemble; n/a: there is none",
            lambda region: region.map_spread(spec.label),
            spec.unit,
        )
        yield Column(
            f"lsq_{spec.label}_median",
            f"Median of {spec.symbol} of the conventional fit",
            f"Median of {spec.symbol} of the conventional fit over the voxels of the region"
            f"{condition and f'{condition} in that fit'}; n/a: there is none",
            lambda region: region.conventional_median(spec.label),
            spec.unit,
        )


_FLAGGED = attribute(
    "flagged_share",
    "Share of flagged voxels",
    "Share of the voxels of the region with any reason not to trust them",
)

_MOTION = tuple(
    Column(
        f"framewise_displacement_{name}",
        f"{word} framewise displacement",
        f"{word} over the volumes of the motion that was corrected; n/a: none was",
        lambda region, name=name: region.displacements[name],
        "mm",
    )
    for name, word in (("mean", "Mean"), ("max", "Largest"))
)


def _columns() -> tuple[tuple[Column, ...], tuple[Column, ...], tuple[Column, ...]]:
    """Columns that one run alone decides: of the run, of its regions, and of the run again."""
    taken = (replace(column, value=_of_quality(column.name)) for column in group_columns())
    of_maps = (column for spec in all_maps() for column in _of_map(spec))
    return _IDENTITY, (*PLACE, *_COUNTS, *of_maps, _FLAGGED), (*taken, *_MOTION)


def measured_columns() -> dict[str, dict[str, Any]]:
    """Words for the columns that one run alone decides, by name."""
    return {column.name: column.words() for part in _columns() for column in part}


def table_columns() -> dict[str, dict[str, Any]]:
    """Words for the columns of ``group_ivim.tsv``, in its order."""
    words = f"Columns of this row whose value is an outlier among the runs. {OUTLIER_RULE}"
    return {
        **measured_columns(),
        **{column.name: column.words() for column in RATING_COLUMNS},
        "outliers": described("Outliers", words),
    }


def region_rows(source: DwiRun, run: RunDerivatives, regions: Mapping[str, Regions]) -> list[dict[str, Any]]:
    """Rows of a run, its whole mask and then its regions: a value per column of :func:`measured_columns`.

    Parameters
    ----------
    run : RunDerivatives
        With every map.
    regions : mapping of str to Regions
        In the voxels of its mask, by the name of the segmentation.
    """
    first, of_region, last = _columns()
    whole = Region(source, run, np.ones(int(run.mask.sum()), dtype=bool))
    # Once: a table of motion may be long, and regions many.
    own = {column.name: column.value(whole) for column in (*first, *last)}
    # One after the other: each has as many voxels as the mask.
    parts = (
        Region(source, run, found.positions == position, segmentation, name, float(inside))
        for segmentation, found in regions.items()
        for position, (name, inside) in enumerate(zip(found.names, found.inside, strict=True))
    )
    return [
        {**own, **{column.name: column.value(region) for column in of_region}}
        for region in chain([whole], parts)
    ]
