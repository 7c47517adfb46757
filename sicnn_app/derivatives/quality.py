"""Columns of the quality table: a row each, with its words, its value and where else it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sicnn_app import formats
from sicnn_app.derivatives.names import SPREAD_SUFFIX
from sicnn_app.derivatives.sidecar import method_name, signal_to_noise
from sicnn_app.ivim.adequacy_inputs import TYPICAL, VERDICTS, Adequacy, Evidence
from sicnn_app.ivim.checks import CHECKS, judge
from sicnn_app.ivim.comparison import agreement
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F, at_bounds
from sicnn_app.ivim.parameters import MAPS, PARAMETERS, MapSpec, all_maps
from sicnn_app.ivim.run import RunResult
from sicnn_app.ivim.series import MAX_LOW_BVAL


@dataclass(frozen=True)
class Quality:
    """A finished run as the columns see it."""

    result: RunResult

    @cached_property
    def voxels(self) -> int:
        """In the mask."""
        return int(self.result.averaged.mask.sum())

    @cached_property
    def adequacy(self) -> Adequacy:
        """The verdict on the run."""
        result, averaged = self.result, self.result.averaged
        zeros = np.zeros(averaged.bvals.size)
        displacements = [row.get("framewise_displacement") for row in result.motion or ()]
        return judge(
            Evidence(
                anatomy=result.anatomy,
                method=method_name(result),
                bvals=averaged.bvals,
                signal=np.median(averaged.signals[averaged.mask], axis=0) if self.voxels else zeros,
                sigma=averaged.sigma,
                sigma_per_bval=averaged.sigma_per_bval,
                at_bound=self._share(self._counts["parameter_at_bound"]),
                conventional_at_bound=self._share(self._counts["lsq_parameter_at_bound"]),
                displacements=np.array(displacements, dtype=np.float64) if displacements else None,
                voxel_edge=float(np.linalg.norm(result.series.affine[:3, :3], axis=0).min()),
                preprocessed=result.run.preprocessed,
            )
        )

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What was measured, by the name of its column; a number that there is not is missing or None."""
        averaged, series = self.result.averaged, self.result.series
        ratios = signal_to_noise(self.result)
        epochs = [row["epochs"] for row in self.result.estimate.history if row.get("epochs") is not None]
        found = {
            "mask_volume": self.voxels * abs(float(np.linalg.det(series.affine[:3, :3]))) / 1000.0,
            "sigma_averaged": float(np.sqrt(np.mean(np.square(averaged.sigma_per_bval)))),
            "snr_b0": ratios[0],
            "snr_highest_b": ratios[-1],
            "epochs": sum(epochs) if epochs else None,
        }
        for check in self.adequacy.checks.values():
            found |= check.numbers
        for name, count in self._counts.items():
            found |= {f"{name}_count": count, f"{name}_share": self._share(count)}
        return found | self._statistics() | self._agreement()

    @cached_property
    def _counts(self) -> dict[str, int | None]:
        """Voxels in which a reason not to trust them holds; None without the fit that it is about."""
        result, fit = self.result, self.result.conventional
        counts = {"flagged": int(np.count_nonzero(result.flags)), "lsq_parameter_at_bound": None}
        counts |= {spec.name: result.flag_counts.get(spec.name, 0) for spec in FLAGS}
        if fit is not None:
            bounds, normaliser = fit.parameters["bounds"], result.averaged.signals[..., 0]
            found = at_bounds(fit.maps, result.averaged.mask, bounds, normaliser)
            counts["lsq_parameter_at_bound"] = int(np.count_nonzero(found))
        return counts

    def _share(self, count: int | None) -> float | None:
        return count / self.voxels if self.voxels and count is not None else None

    def _statistics(self) -> dict[str, float]:
        """Median and interquartile range of every map, and its median standard deviation over an ensemble."""
        found: dict[str, float] = {}
        maps, mask = self.result.estimate.maps, self.result.averaged.mask
        for spec in all_maps():
            where = mask & (maps["f"] >= NEGLIGIBLE_F) if spec.needs_perfusion else mask
            values, spread = maps.get(spec.label), maps.get(f"{spec.label}{SPREAD_SUFFIX}")
            if values is not None and where.any():
                low, middle, high = np.percentile(values[where].astype(np.float64), (25, 50, 75))
                found |= {f"{spec.label}_median": middle, f"{spec.label}_iqr": high - low}
            if spread is not None and where.any():
                found[f"{spec.label}_std_median"] = float(np.median(spread[where]))
        return found

    def _agreement(self) -> dict[str, float | int | None]:
        """How the maps agree with the conventional fit; empty where there is none."""
        if self.result.conventional is None:
            return {}
        maps, others = self.result.estimate.maps, self.result.conventional.maps
        unflagged = self.result.averaged.mask & (self.result.flags == 0)
        return {
            f"lsq_{label}_{name}": value
            for label in PARAMETERS
            for name, value in agreement(label, maps, others, unflagged).items()
        }

    def row(self) -> dict[str, Any]:
        """One value per column of the table."""
        return {column.name: column.value(self) for column in columns()}


@dataclass(frozen=True)
class Shown:
    """How the page of the group shows a column that is looked through for outliers.

    Attributes
    ----------
    name : str
        In a sentence.
    title : str
        Above its chart.
    factor : float
        From the unit of the table to the unit shown.
    unit : str
        Empty for a number without one.
    """

    name: str
    title: str
    factor: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Column(formats.Column):
    """One column of the quality table; its value is a function of :class:`Quality`.

    Attributes
    ----------
    in_group : int, optional
        The group's table has it, too: its place among those of the run.
    outlier : Shown, optional
        Runs of the group that lie outside in it are named; the page draws it.
    tile : str, optional
        Name under which the report of the run shows it at its top.
    """

    in_group: int | None = None
    outlier: Shown | None = None
    tile: str | None = None


def _measured(name: str, title: str, description: str, unit: str | None = None, **shown: Any) -> Column:
    """A column of one of :attr:`Quality.numbers`."""
    return Column(name, title, description, lambda quality: quality.numbers.get(name), unit, **shown)


def _map_columns(specs: Iterable[MapSpec]) -> Iterator[Column]:
    for spec in specs:
        condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
        over = f"over the voxels inside the mask{condition}"
        for suffix, word in (("median", "Median"), ("iqr", "Interquartile range")):
            description = f"{word} {over}. {spec.description}"
            yield _measured(f"{spec.label}_{suffix}", f"{word} of {spec.symbol}", description, spec.unit)
        if spec.of_tissue:
            yield _measured(
                f"{spec.label}_std_median",
                f"Median standard deviation of {spec.symbol}",
                f"Median {over} of the standard deviation over an ensemble of networks; n/a for a single "
                "network",
                spec.unit,
            )


def _voxel_columns(name: str, title: str, which: str, **shown: Any) -> Iterator[Column]:
    """How many voxels of the mask, and which share of them, something holds for."""
    yield _measured(f"{name}_count", f"{title}: voxels", f"Voxels inside the mask {which}")
    yield _measured(
        f"{name}_share", f"{title}: share", f"Share of the voxels inside the mask {which}", **shown
    )


def _flag_columns() -> Iterator[Column]:
    reasons = {"flagged": "Any reason not to trust the voxel"}
    reasons |= {spec.name: spec.description for spec in FLAGS}
    for name, description in reasons.items():
        yield from _voxel_columns(
            name,
            name.replace("_", " ").capitalize(),
            f"for which this holds: {description}",
            in_group=11 if name == "parameter_at_bound" else None,
        )


_AGREEMENT = {
    "voxels": ("voxels compared", "Unflagged voxels over which {} is compared"),
    "median_difference": ("median difference", "Median over these voxels of {} minus that of least squares"),
    "median_absolute_difference": (
        "median absolute difference",
        "Median over these voxels of the absolute difference of {} from that of least squares",
    ),
    "pearson": ("correlation", "Pearson correlation over these voxels with {} of least squares"),
    "spearman": ("rank correlation", "Spearman correlation over these voxels with {} of least squares"),
}
"""Title and description by the name of the number in ``agreement``; medians have the unit of the map."""


def _agreement_columns() -> Iterator[Column]:
    for spec in (spec for spec in MAPS if spec.bounds is not None):
        both = f", where both F are at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
        for name, (title, description) in _AGREEMENT.items():
            yield _measured(
                f"lsq_{spec.label}_{name}",
                f"{spec.symbol} against least squares: {title}",
                description.format(spec.symbol) + both,
                spec.unit if name.startswith("median") else None,
            )


_TISSUES = "; ".join(f"{anatomy}: {tissue.name}" for anatomy, tissue in TYPICAL.items())


def _bound_columns() -> Iterator[Column]:
    for spec in (spec for spec in MAPS if spec.of_tissue):
        yield _measured(
            f"bound_{spec.label}",
            f"Cramer-Rao bound of {spec.symbol}",
            f"Smallest standard deviation of {spec.symbol} from one voxel alone, relative to its value, in "
            f"typical tissue ({_TISSUES}) with the noise of this run; n/a where the b-values do not "
            "determine it",
        )


def _verdict_columns() -> Iterator[Column]:
    meanings = (
        "Suffices",
        "Suffices for some questions",
        "Does not suffice",
        "Nothing was measured that tells",
    )
    levels = dict(zip(VERDICTS, meanings, strict=True))
    yield Column(
        "adequacy",
        "Adequacy",
        "Verdict on the run",
        lambda quality: quality.adequacy.verdict,
        levels=levels,
        in_group=12,
    )
    for key in CHECKS:
        yield Column(
            f"adequacy_{key}",
            f"Adequacy: {key.replace('_', ' ')}",
            f"Verdict of the check {key}, see Adequacy",
            lambda quality, key=key: quality.adequacy.checks[key].verdict,
            levels=levels,
        )


def _signal_to_noise_columns(*, averaged: bool = False) -> Iterator[Column]:
    for end, name, place in (("lowest", "snr_b0", 6), ("highest", "snr_highest_b", 7)):
        title = f"Signal-to-noise ratio at the {end} b-value"
        words = f"Median signal inside the mask at the {end} b-value over the noise of"
        shown = Shown(f"signal-to-noise ratio, {end} b", title)
        if averaged:
            yield _measured(f"{name}_averaged", f"{title} after averaging", f"{words} its average")
        else:
            yield _measured(name, title, f"{words} one volume", in_group=place, outlier=shown)


COLUMNS: tuple[Column, ...] = (
    Column("source", "Source run", "Entities of the source run", lambda quality: quality.result.run.name),
    Column("method", "Method", "Estimation method", lambda quality: method_name(quality.result)),
    Column(
        "anatomy",
        "Anatomy",
        "Brain or body: chooses mask and preprocessing",
        lambda quality: quality.result.anatomy,
        in_group=1,
    ),
    Column("voxels", "Voxels", "Voxels inside the mask", lambda quality: quality.voxels),
    _measured("mask_volume", "Mask volume", "Volume inside the mask", "mL"),
    Column(
        "volumes",
        "Volumes",
        "Volumes of the preprocessed series",
        lambda quality: quality.result.series.bvals.size,
    ),
    Column(
        "b_values",
        "b-values",
        "Distinct nominal b-values",
        lambda quality: quality.result.averaged.bvals.size,
        in_group=2,
    ),
    Column(
        "lowest_b",
        "Lowest b-value",
        "Lowest b-value used",
        lambda quality: quality.result.averaged.bvals[0],
        "s/mm^2",
        in_group=3,
    ),
    Column(
        "highest_b",
        "Highest b-value",
        "Highest b-value used",
        lambda quality: quality.result.averaged.bvals[-1],
        "s/mm^2",
        in_group=4,
    ),
    Column(
        "sigma",
        "Noise",
        "Standard deviation of the noise of one volume, in units of the source image",
        lambda quality: quality.result.averaged.sigma,
        "arbitrary",
        in_group=5,
    ),
    _measured(
        "sigma_averaged",
        "Noise after averaging",
        "Root mean square over b-values of the noise of the averaged signals, in units of the source image",
        "arbitrary",
    ),
    *_signal_to_noise_columns(),
    *_map_columns(MAPS),
    *_flag_columns(),
    Column(
        "data_iterations",
        "Data iterations",
        "Number of times the network was trained on rewritten signals; the first training, on the measured "
        "ones, is not counted. n/a without a network",
        lambda quality: quality.result.estimate.parameters.get("data_iterations"),
        in_group=8,
    ),
    _measured("epochs", "Epochs", "Training epochs of all data iterations together", in_group=9),
    Column(
        "stop_reason",
        "Stop reason",
        "Why the estimation ended",
        lambda quality: quality.result.estimate.parameters.get("stop_reason"),
        in_group=10,
    ),
    *_agreement_columns(),
    *_voxel_columns(
        "lsq_parameter_at_bound",
        "Least squares, parameter at bound",
        "in which a parameter of the conventional fit is at a bound",
    ),
    *_signal_to_noise_columns(averaged=True),
    _measured(
        "snr_averaged",
        "Signal-to-noise ratio after averaging",
        "Median signal inside the mask at the lowest b-value over the root mean square of the noise of all "
        "averages",
    ),
    _measured("low_b_values", "Low b-values", f"b-values above 0 and up to {MAX_LOW_BVAL:g} s/mm^2"),
    _measured("high_b_values", "High b-values", f"b-values above {MAX_LOW_BVAL:g} s/mm^2"),
    *_bound_columns(),
    _measured(
        "framewise_displacement_mean",
        "Mean framewise displacement",
        "Mean over the volumes; n/a when motion was not corrected",
        "mm",
        outlier=Shown("mean framewise displacement", "Motion between volumes", unit="mm"),
    ),
    _measured(
        "framewise_displacement_max",
        "Largest framewise displacement",
        "Largest over the volumes; n/a when motion was not corrected",
        "mm",
    ),
    *_verdict_columns(),
    Column(
        "peak_memory",
        "Peak memory",
        "Highest resident memory while this run was processed; differs between executions",
        lambda quality: quality.result.peak_memory,
        "GB",
    ),
)
"""The quality table, in its order; :func:`columns` is how to get at it."""


def columns() -> tuple[Column, ...]:
    """Every column of the quality table, in its order; further maps of some method come last."""
    return (*COLUMNS, *_map_columns(all_maps()[len(MAPS) :]))


def group_columns() -> list[Column]:
    """Those that the group's table takes over, in the order in which it has them."""
    return sorted(
        (column for column in columns() if column.in_group is not None), key=lambda c: c.in_group or 0
    )


def outlier_columns() -> list[Column]:
    """Those in which the group looks for outliers."""
    return [column for column in columns() if column.outlier is not None]
