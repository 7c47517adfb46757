"""Columns of the quality table: a row each, with its words and where else it is shown, and their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sicnn_app import formats
from sicnn_app.derivatives.facts import MISSING, format_number
from sicnn_app.derivatives.names import SPREAD_SUFFIX
from sicnn_app.derivatives.sidecar import method_name, signal_to_noise
from sicnn_app.ivim.adequacy_inputs import VERDICTS, Adequacy, Evidence, perfused_tissue
from sicnn_app.ivim.checks import CHECKS, judge
from sicnn_app.ivim.comparison import agreement
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F, at_bounds, left_out
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
                bvals=averaged.bvals,
                signal=np.median(averaged.signals[averaged.mask], axis=0) if self.voxels else zeros,
                sigma=averaged.sigma,
                sigma_per_bval=averaged.sigma_per_bval,
                at_bound=self._share(self._counts["parameter_at_bound"]),
                conventional_at_bound=self._share(self._counts["lsq_parameter_at_bound"]),
                displacements=np.array(displacements, dtype=np.float64) if displacements else None,
                voxel_edge=float(np.linalg.norm(result.series.affine[:3, :3], axis=0).min()),
                preprocessed=result.run.preprocessed,
                tissue=perfused_tissue(result.estimate.maps, averaged.mask),
            )
        )

    @cached_property
    def values(self) -> dict[str, Any]:
        """By the name of the column; what there is not is missing or None."""
        result, averaged = self.result, self.result.averaged
        ratios, parameters = signal_to_noise(result), result.estimate.parameters
        epochs = [row["epochs"] for row in result.estimate.history if row.get("epochs") is not None]
        found = {
            "source": result.run.name,
            "method": method_name(result),
            "anatomy": result.anatomy,
            **{column: result.run.times.get(key) for key, column in TIME_COLUMNS.items()},
            "voxels": self.voxels,
            "mask_volume": self.voxels * abs(float(np.linalg.det(result.series.affine[:3, :3]))) / 1000.0,
            "volumes": result.series.bvals.size,
            "b_values": averaged.bvals.size,
            "lowest_b": averaged.bvals[0],
            "highest_b": averaged.bvals[-1],
            "sigma": averaged.sigma,
            "sigma_averaged": float(np.sqrt(np.mean(np.square(averaged.sigma_per_bval)))),
            "snr_b0": ratios[0],
            "snr_highest_b": ratios[-1],
            "data_iterations": parameters.get("data_iterations"),
            "epochs": sum(epochs) if epochs else None,
            "stop_reason": parameters.get("stop_reason"),
            "adequacy": self.adequacy.verdict,
            "peak_memory": result.peak_memory,
        }
        for key, check in self.adequacy.checks.items():
            found |= {f"adequacy_{key}": check.verdict, **check.numbers}
        for name, count in self._counts.items():
            found |= {f"{name}_count": count, f"{name}_share": self._share(count)}
        return found | self._statistics() | self._agreement()

    @cached_property
    def _counts(self) -> dict[str, int | None]:
        """Voxels in which a reason not to trust them holds; None without the fit that it is about."""
        result, fit = self.result, self.result.conventional
        counts = {"flagged": int(np.count_nonzero(left_out(result.flags))), "lsq_parameter_at_bound": None}
        counts |= {spec.name: result.flag_counts.get(spec.name, 0) for spec in FLAGS}
        if fit is not None:
            bounds, normaliser = fit.parameters["bounds"], result.averaged.signals[..., 0]
            found = at_bounds(fit.maps, result.averaged.mask, bounds, normaliser)
            counts["lsq_parameter_at_bound"] = int(np.count_nonzero(found))
        return counts

    def _share(self, count: int | None) -> float | None:
        return count / self.voxels if self.voxels and count is not None else None

    def _statistics(self) -> dict[str, float]:
        """Median and interquartile range of every map, and its median standard deviation."""
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
        unflagged = self.result.averaged.mask & ~left_out(self.result.flags)
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
    """How pages show a column: the group's one that is looked through for outliers, the report its tile.

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

    def text(self, value: float | None, *, unit: bool = True) -> str:
        """A value of the table in the unit shown.

        Examples
        --------
        >>> Shown("flagged voxels", "Flagged voxels", 100.0, "%").text(0.125)
        '12.5 %'
        """
        if value is None:
            return MISSING
        number = format_number(value * self.factor)
        times = "\u00a0×\u00a0" if self.unit.startswith("10") else " "
        return f"{number}{times}{self.unit}" if unit and self.unit else number


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
        Name under which the report of the run shows it at its top, in the unit of ``outlier``.
    """

    in_group: int | None = None
    outlier: Shown | None = None
    tile: str | None = None


def _column(name: str, title: str, description: str, unit: str | None = None, **others: Any) -> Column:
    """A column whose value is one of :attr:`Quality.values`."""
    return Column(name, title, description, lambda quality: quality.values.get(name), unit, **others)


def _map_columns(specs: Iterable[MapSpec]) -> Iterator[Column]:
    for spec in specs:
        condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
        over = f"over the voxels inside the mask{condition}"
        for suffix, word in (("median", "Median"), ("iqr", "Interquartile range")):
            description = f"{word} {over}. {spec.description}"
            yield _column(f"{spec.label}_{suffix}", f"{word} of {spec.symbol}", description, spec.unit)
        if spec.of_tissue:
            yield _column(
                f"{spec.label}_std_median",
                f"Median standard deviation of {spec.symbol}",
                f"Median {over} of the standard deviation, of the posterior or over an ensemble of "
                "networks; n/a: there is none",
                spec.unit,
            )


def _voxel_columns(name: str, title: str, which: str, **shown: Any) -> Iterator[Column]:
    """How many voxels of the mask, and which share of them, something holds for."""
    yield _column(f"{name}_count", f"{title}: voxels", f"Voxels inside the mask {which}")
    yield _column(f"{name}_share", f"{title}: share", f"Share of the voxels inside the mask {which}", **shown)


def _flag_columns() -> Iterator[Column]:
    reasons = {spec.name: spec.description for spec in FLAGS}
    for name, description in {"flagged": "Any reason to leave the voxel out", **reasons}.items():
        title, place = name.replace("_", " ").capitalize(), 11 if name == "parameter_at_bound" else None
        yield from _voxel_columns(name, title, f"for which this holds: {description}", in_group=place)


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
            yield _column(
                f"lsq_{spec.label}_{name}",
                f"{spec.symbol} against least squares: {title}",
                description.format(spec.symbol) + both,
                spec.unit if name.startswith("median") else None,
            )


def _bound_columns() -> Iterator[Column]:
    for spec in (spec for spec in MAPS if spec.of_tissue):
        yield _column(
            f"bound_{spec.label}",
            f"Cramer-Rao bound of {spec.symbol}",
            f"Smallest standard deviation of {spec.symbol} from one voxel alone, relative to its value, in "
            "the perfused tissue of the run (medians where F is not negligible) with its noise; n/a where "
            "nothing is perfused, or the b-values do not determine it",
        )


def _verdict_columns() -> Iterator[Column]:
    meanings = (
        "Suffices",
        "Suffices for some questions",
        "Does not suffice",
        "Nothing was measured that tells",
    )
    levels = dict(zip(VERDICTS, meanings, strict=True))
    yield _column("adequacy", "Adequacy", "Verdict on the run", levels=levels, in_group=12)
    for key in CHECKS:
        title, words = f"Adequacy: {key.replace('_', ' ')}", f"Verdict of the check {key}, see Adequacy"
        yield _column(f"adequacy_{key}", title, words, levels=levels)


def _signal_to_noise_columns(*, averaged: bool = False) -> Iterator[Column]:
    for end, name, place in (("lowest", "snr_b0", 6), ("highest", "snr_highest_b", 7)):
        title = f"Signal-to-noise ratio at the {end} b-value"
        words = f"Median signal inside the mask at the {end} b-value over the noise of"
        shown = Shown(f"SNR, {end} b", title)
        if averaged:
            yield _column(f"{name}_averaged", f"{title} after averaging", f"{words} its average")
        else:
            yield _column(name, title, f"{words} one volume", in_group=place, outlier=shown)


TIME_COLUMNS = {"EchoTime": "echo_time", "BigDelta": "big_delta", "SmallDelta": "small_delta"}
"""Columns of the times of :data:`sicnn_app.ivim.run.TIMES`."""


def _time_columns() -> Iterator[Column]:
    words = {
        "EchoTime": ("Echo time", "Echo time"),
        "BigDelta": ("Diffusion time", "Time between the onsets of the diffusion gradients"),
        "SmallDelta": ("Gradient duration", "Duration of a diffusion gradient"),
    }
    for place, (key, (title, description)) in enumerate(words.items(), start=13):
        told = f"{description} ({key} of the sidecar); n/a: not stated"
        yield _column(TIME_COLUMNS[key], title, told, "s", in_group=place)


COLUMNS: tuple[Column, ...] = (
    _column("source", "Source run", "Entities of the source run"),
    _column("method", "Method", "Estimation method"),
    _column("anatomy", "Anatomy", "Brain or body: chooses mask and preprocessing", in_group=1),
    _column("voxels", "Voxels", "Voxels inside the mask"),
    _column("mask_volume", "Mask volume", "Volume inside the mask", "mL"),
    _column("volumes", "Volumes", "Volumes of the preprocessed series"),
    _column("b_values", "b-values", "Distinct nominal b-values", in_group=2),
    _column("lowest_b", "Lowest b-value", "Lowest b-value used", "s/mm^2", in_group=3),
    _column("highest_b", "Highest b-value", "Highest b-value used", "s/mm^2", in_group=4),
    _column(
        "sigma",
        "Noise",
        "Standard deviation of the noise of one volume, in units of the source image",
        "arbitrary",
        in_group=5,
    ),
    _column(
        "sigma_averaged",
        "Noise after averaging",
        "Root mean square over b-values of the noise of the averaged signals, in units of the source image",
        "arbitrary",
    ),
    *_signal_to_noise_columns(),
    *_map_columns(MAPS),
    *_time_columns(),
    *_flag_columns(),
    _column(
        "data_iterations",
        "Data iterations",
        "Number of times the network was trained on rewritten signals; the first training, on the measured "
        "ones, is not counted. n/a without a network",
        in_group=8,
    ),
    _column("epochs", "Epochs", "Training epochs of all data iterations together", in_group=9),
    _column("stop_reason", "Stop reason", "Why the estimation ended", in_group=10),
    *_agreement_columns(),
    *_voxel_columns(
        "lsq_parameter_at_bound",
        "Least squares, parameter at bound",
        "in which a parameter of the conventional fit is at a bound",
    ),
    *_signal_to_noise_columns(averaged=True),
    _column(
        "snr_averaged",
        "Signal-to-noise ratio after averaging",
        "Median signal inside the mask at the lowest b-value over the root mean square of the noise of all "
        "averages",
    ),
    _column("low_b_values", "Low b-values", f"b-values above 0 and up to {MAX_LOW_BVAL:g} s/mm^2"),
    _column("high_b_values", "High b-values", f"b-values above {MAX_LOW_BVAL:g} s/mm^2"),
    *_bound_columns(),
    _column(
        "framewise_displacement_mean",
        "Mean framewise displacement",
        "Mean over the volumes; n/a when motion was not corrected",
        "mm",
        outlier=Shown("mean framewise displacement", "Motion between volumes", unit="mm"),
    ),
    _column(
        "framewise_displacement_max",
        "Largest framewise displacement",
        "Largest over the volumes; n/a when motion was not corrected",
        "mm",
    ),
    *_verdict_columns(),
    _column(
        "peak_memory",
        "Peak memory",
        "Highest resident memory while this run was processed; differs between executions",
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
