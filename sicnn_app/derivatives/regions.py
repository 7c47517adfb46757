"""The table of the regions of a run: a :class:`~sicnn_app.formats.Column` per number, a row per region."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np

from sicnn_app.derivatives.names import SPREAD_SUFFIX
from sicnn_app.derivatives.sidecar import DatasetRoots, plain, provenance, reference, sources
from sicnn_app.formats import Column
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F, left_out
from sicnn_app.ivim.map_spec import MapSpec
from sicnn_app.ivim.parameters import PARAMETERS, SPECS, TISSUE_LABELS
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.ivim.run import RunResult
from sicnn_app.ivim.summary import Spread, spread


@dataclass(frozen=True)
class Region:
    """A region of a run as the columns see it.

    Attributes
    ----------
    indices : tuple of int
        In the segmentation.
    share_inside : float
        Of all its voxels, those inside the mask.
    maps, conventional : mapping of str to ndarray, shape (m,)
        F, D, D* and S0 of its voxels inside the mask, and those of the conventional fit, empty without one.
    deviations : mapping of str to ndarray, shape (m,)
        Standard deviations of F, D and D* in each voxel; empty where the method gives none.
    flags : ndarray, shape (m,)
    fit : mapping of str to float
        Of its mean signal; empty without one.
    bvals, sigma_per_bval : ndarray, shape (B,)
        s/mm^2, and the noise of the averaged signals.
    """

    segmentation: str
    indices: tuple[int, ...]
    name: str
    share_inside: float
    maps: Mapping[str, np.ndarray]
    conventional: Mapping[str, np.ndarray]
    deviations: Mapping[str, np.ndarray]
    flags: np.ndarray
    fit: Mapping[str, float]
    bvals: np.ndarray
    sigma_per_bval: np.ndarray

    @property
    def index(self) -> int | str:
        """Its index, or all of them."""
        return self.indices[0] if len(self.indices) == 1 else ", ".join(map(str, self.indices))

    def of(self, label: str, *, conventional: bool = False) -> Spread:
        """Summary of a map over the voxels in which it has a meaning."""
        found = self.conventional if conventional else self.maps
        return spread(self._meaningful(label, found[label], found["f"])) if found else Spread()

    def deviation(self, label: str) -> float | None:
        """Median standard deviation of one voxel over the same voxels; None where there are none."""
        if label not in self.deviations:
            return None
        return spread(self._meaningful(label, self.deviations[label], self.maps["f"])).median

    def _meaningful(self, label: str, values: np.ndarray, f: np.ndarray) -> np.ndarray:
        return values[f >= NEGLIGIBLE_F] if SPECS[label].needs_perfusion else values

    def flagged(self, code: int | None = None) -> float | None:
        """Share of its voxels with a flag, or with one flag; None without voxels."""
        if not self.flags.size:
            return None
        return float(np.mean(left_out(self.flags) if code is None else self.flags == code))

    @cached_property
    def bounds(self) -> dict[str, float]:
        """Cramer-Rao bounds at the medians of the region; empty where noise or medians are not known."""
        medians = {label: self.of(label).median for label in PARAMETERS}
        known = np.isfinite(list(medians.values())).all() and medians["s0"] > 0
        if not known or not (self.sigma_per_bval > 0).all():
            return {}
        found = cramer_rao_bounds(self.bvals, self.sigma_per_bval, **medians)
        return {label: float(bound) for label, bound in found.items()}


def _summary(label: str, name: str, conventional: bool) -> Callable[[Region], float]:
    return lambda region: getattr(region.of(label, conventional=conventional), name)


def _deviation(label: str) -> Callable[[Region], float | None]:
    return lambda region: region.deviation(label)


def _of_fit(label: str) -> Callable[[Region], float | None]:
    return lambda region: region.fit.get(label)


def _flagged(code: int) -> Callable[[Region], float | None]:
    return lambda region: region.flagged(code)


def _map_columns(spec: MapSpec) -> Iterator[Column]:
    condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
    for prefix, whose, conventional in (("", "", False), ("lsq_", " of the conventional fit", True)):
        for name, word in (
            ("median", "Median"),
            ("iqr", "Interquartile range"),
            ("std", "Standard deviation (n - 1)"),
        ):
            yield Column(
                f"{prefix}{spec.label}_{name}",
                f"{word} of {spec.symbol}{whose}",
                f"{word} of {spec.symbol}{whose} over the voxels of the region inside the mask{condition}",
                _summary(spec.label, name, conventional),
                spec.unit,
            )
    yield Column(
        f"{spec.label}_bound",
        f"Cramer-Rao bound of {spec.symbol}",
        f"Smallest standard deviation of {spec.symbol} that one voxel alone can give with the medians of the "
        "region and the noise of this run; n/a where noise or b-values do not determine it",
        lambda region: region.bounds.get(spec.label),
        spec.unit,
    )


COLUMNS: tuple[Column, ...] = (
    Column(
        "segmentation",
        "Segmentation",
        "Dataset of --derivatives and desc or seg label of the segmentation",
        attrgetter("segmentation"),
    ),
    Column(
        "index",
        "Index",
        "Index of the region in the segmentation; indices that share a name are one region",
        attrgetter("index"),
    ),
    Column("name", "Region", "Name of the region in the lookup table, or its index", attrgetter("name")),
    Column("voxels", "Voxels", "Voxels of the region inside the mask", lambda region: region.flags.size),
    Column(
        "share_inside",
        "Share inside the mask",
        "Share of all voxels of the region that lie inside the mask",
        attrgetter("share_inside"),
    ),
    Column(
        "dstar_voxels",
        "Voxels of D*",
        f"Those inside the mask with F of at least {NEGLIGIBLE_F:g}, which the statistics of D* are of",
        lambda region: int(np.count_nonzero(region.maps["f"] >= NEGLIGIBLE_F)),
    ),
    *(column for label in TISSUE_LABELS for column in _map_columns(SPECS[label])),
    *(
        Column(
            f"{label}_std_median",
            f"Median standard deviation of {SPECS[label].symbol}",
            f"Median over the same voxels of the standard deviation of {SPECS[label].symbol} in one voxel, "
            "of the posterior or over an ensemble of networks; n/a: there is none",
            _deviation(label),
            SPECS[label].unit,
        )
        for label in TISSUE_LABELS
    ),
    *(
        Column(
            f"mean_signal_{label}",
            f"{SPECS[label].symbol} of the mean signal",
            f"{SPECS[label].symbol} of the least-squares fit of the mean signal over the voxels inside the "
            "mask, weighed as a voxel is",
            _of_fit(label),
            SPECS[label].unit,
        )
        for label in PARAMETERS
    ),
    Column(
        "flagged_share",
        "Flagged",
        "Share of the voxels inside the mask with any reason to leave them out",
        lambda region: region.flagged(),
    ),
    *(
        Column(
            f"{spec.name}_share",
            spec.name.replace("_", " ").capitalize(),
            f"Share of the voxels inside the mask of which this is the first reason: {spec.description}",
            _flagged(spec.code),
        )
        for spec in FLAGS
    ),
)
"""The table of regions, in its order."""


def regions_of(result: RunResult) -> Iterator[Region]:
    """Every region of every segmentation of a run, one after the other."""
    averaged, estimate, fit = result.averaged, result.estimate, result.conventional
    mask = averaged.mask
    maps = {label: np.asarray(estimate.maps[label])[mask] for label in PARAMETERS}
    deviations = {
        label: np.asarray(estimate.maps[key])[mask]
        for label in TISSUE_LABELS
        if (key := f"{label}{SPREAD_SUFFIX}") in estimate.maps
    }
    conventional = {} if fit is None else {label: np.asarray(fit.maps[label])[mask] for label in PARAMETERS}
    flags = np.asarray(result.flags)[mask]
    for measured in result.regions:
        regions = measured.regions
        columns = zip(regions.names, regions.indices, regions.members, regions.inside, strict=True)
        for position, (name, indices, members, inside) in enumerate(columns):
            yield Region(
                measured.name,
                indices,
                name,
                float(inside),
                {label: values[members] for label, values in maps.items()},
                {label: values[members] for label, values in conventional.items()},
                {label: values[members] for label, values in deviations.items()},
                flags[members],
                {label: float(values[position]) for label, values in measured.fit.items()},
                averaged.bvals,
                averaged.sigma_per_bval,
            )


def region_rows(result: RunResult) -> list[dict[str, Any]]:
    """One row per region of every segmentation of a run."""
    return [{column.name: column.value(region) for column in COLUMNS} for region in regions_of(result)]


def region_codes(result: RunResult) -> np.ndarray:
    """Row of the table, from 1, that every voxel of the mask is counted in, shape (X, Y, Z), uint16.

    0 is none. Of segmentations that overlap the first has the voxel.
    """
    inside = np.zeros(int(result.averaged.mask.sum()), dtype=np.uint16)
    rows = 0
    for measured in result.regions:
        positions = measured.regions.positions
        free = (inside == 0) & (positions >= 0)
        inside[free] = rows + 1 + positions[free]
        rows += len(measured.regions.names)
    codes = np.zeros(result.averaged.mask.shape, dtype=np.uint16)
    codes[result.averaged.mask] = inside
    return codes


def codes_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of the image of the regions."""
    return {
        "Description": "Regions of the segmentations of --derivatives inside the mask, by the rows of their "
        "table; of segmentations that overlap the first has the voxel",
        "Sources": _sources(result, roots),
        "SkullStripped": True,
        "segmentation": next(column for column in COLUMNS if column.name == "segmentation").words(),
        **reference(result, roots),
        **provenance(result),
    }


def _sources(result: RunResult, roots: DatasetRoots) -> list[str]:
    return [*sources(result, roots), *(roots.uri(measured.path) for measured in result.regions)]


def regions_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Columns of the table of regions, and the signals that its rows are fitted to."""
    return {
        "Description": "Regions of the segmentations of --derivatives: one row per region",
        "Sources": _sources(result, roots),
        "Segmentations": {
            measured.name: {"RecognisedAs": measured.program, "Source": roots.uri(measured.path)}
            for measured in result.regions
        },
        **{column.name: column.words() for column in COLUMNS},
        "BValues": plain(result.averaged.bvals),
        # In the order of the rows, units of the source image.
        "Signals": [
            {"Mean": plain(mean), "StandardDeviation": plain(deviation)}
            for measured in result.regions
            for mean, deviation in zip(measured.mean, measured.deviation, strict=True)
        ],
        **provenance(result),
    }
