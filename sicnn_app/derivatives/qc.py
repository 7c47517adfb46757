"""Quality tables of a run: one row of numbers, and the history of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sicnn_app.derivatives.adequacy import adequacy_columns, adequacy_of, adequacy_row, adequacy_sidecar
from sicnn_app.derivatives.comparison import comparison_columns, comparison_row
from sicnn_app.derivatives.sidecar import (
    DatasetRoots,
    mask_source,
    method_name,
    plain,
    portable_json,
    provenance,
    signal_to_noise,
    sources,
)
from sicnn_app.ivim.adequacy import Adequacy
from sicnn_app.ivim.before_after import CORRECTIONS
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.ivim.maps import MAPS, SPREAD_LABELS
from sicnn_app.ivim.run import RunResult

MAX_CURVE_POINTS = 500
"""Points kept of the training curve: enough for a figure, small enough for a sidecar."""

_SOURCE_UNITS = "arbitrary"

_RUN_COLUMNS: dict[str, dict[str, str]] = {
    "source": {"LongName": "Source run", "Description": "Entities of the source run"},
    "method": {"LongName": "Method", "Description": "Estimation method"},
    "anatomy": {"LongName": "Anatomy", "Description": "Brain or body: chooses mask and preprocessing"},
    "voxels": {"LongName": "Voxels", "Description": "Voxels inside the mask"},
    "mask_volume": {"LongName": "Mask volume", "Description": "Volume inside the mask", "Units": "mL"},
    "volumes": {"LongName": "Volumes", "Description": "Volumes of the preprocessed series"},
    "b_values": {"LongName": "b-values", "Description": "Distinct nominal b-values"},
    "lowest_b": {"LongName": "Lowest b-value", "Description": "Lowest b-value used", "Units": "s/mm^2"},
    "highest_b": {"LongName": "Highest b-value", "Description": "Highest b-value used", "Units": "s/mm^2"},
    "sigma": {
        "LongName": "Noise",
        "Description": "Standard deviation of the noise of one volume, in units of the source image",
        "Units": _SOURCE_UNITS,
    },
    "sigma_averaged": {
        "LongName": "Noise after averaging",
        "Description": "Root mean square over b-values of the noise of the averaged signals, in units of the "
        "source image",
        "Units": _SOURCE_UNITS,
    },
    "snr_b0": {
        "LongName": "Signal-to-noise ratio at the lowest b-value",
        "Description": "Median signal inside the mask at the lowest b-value over the noise of one volume",
    },
    "snr_highest_b": {
        "LongName": "Signal-to-noise ratio at the highest b-value",
        "Description": "Median signal inside the mask at the highest b-value over the noise of one volume",
    },
}

_RESOURCE_COLUMNS: dict[str, dict[str, str]] = {
    "peak_memory": {
        "LongName": "Peak memory",
        "Description": "Highest resident memory while this run was processed; differs between executions",
        "Units": "GB",
    },
}

MOTION_COLUMNS: dict[str, dict[str, str]] = {
    "volume": {"LongName": "Volume", "Description": "Index in the source image, counted from 0"},
    "b_value": {"LongName": "b-value", "Description": "b-value of the volume", "Units": "s/mm^2"},
    **{
        f"trans_{axis}": {
            "LongName": f"Translation along {axis}",
            "Description": f"Where the volume lay relative to the reference, world axis {axis}",
            "Units": "mm",
        }
        for axis in "xyz"
    },
    **{
        f"rot_{axis}": {
            "LongName": f"Rotation about {axis}",
            "Description": f"How the volume was turned relative to the reference, world axis {axis}",
            "Units": "degrees",
        }
        for axis in "xyz"
    },
    "framewise_displacement": {
        "LongName": "Framewise displacement",
        "Description": "Sum of the absolute changes of the six numbers since the volume before, rotations "
        "as displacements on a sphere of 50 mm",
        "Units": "mm",
    },
}
"""Columns of the table of motion, one row per volume."""

_TRAINING_END_COLUMNS: dict[str, dict[str, str]] = {
    "data_iterations": {
        "LongName": "Data iterations",
        "Description": "Number of times the network was trained on rewritten signals; the first training, on "
        "the measured ones, is not counted. n/a without a network",
    },
    "epochs": {"LongName": "Epochs", "Description": "Training epochs of all data iterations together"},
    "stop_reason": {"LongName": "Stop reason", "Description": "Why the estimation ended"},
}

_HISTORY_COLUMNS: dict[str, dict[str, str]] = {
    "data_iteration": {
        "LongName": "Data iteration",
        "Description": "Number of times the training signals had been rewritten",
    },
    "epochs": {"LongName": "Epochs", "Description": "Training epochs of this data iteration"},
    "iterations": {"LongName": "Iterations", "Description": "Most iterations of the fit of one voxel"},
    "training_loss": {
        "LongName": "Training loss",
        "Description": "Mean loss of the prediction against the training signals, in normalised signal units",
    },
    "noisy_loss": {
        "LongName": "Loss against the measured signals",
        "Description": "Mean loss of the prediction against the measured signals, normalised signal units; "
        "of an ensemble, against what each network was given instead",
    },
    "training_signal_change": {
        "LongName": "Change of the training signals",
        "Description": "Relative change of the training signals by the rewrite after this data iteration",
    },
    "replaced_fraction": {
        "LongName": "Replaced fraction",
        "Description": "Fraction of the signals inside the mask whose fitting error was above the threshold",
    },
    "mean_neighbours": {
        "LongName": "Similar neighbours",
        "Description": "Mean number of similar neighbours of a voxel, itself included",
    },
    "fitting_error": {
        "LongName": "Fitting error",
        "Description": "Mean absolute difference of predicted and measured signals, normalised signal units; "
        "of an ensemble, from what each network was given instead",
    },
}


def _statistics(result: RunResult) -> dict[str, Any]:
    mask = result.averaged.mask
    perfused = mask & (result.estimate.maps["f"] >= NEGLIGIBLE_F)
    row: dict[str, Any] = {}
    for spec in MAPS:
        values = result.estimate.maps[spec.label][perfused if spec.label == "dstar" else mask]
        low, middle, high = (
            np.percentile(values.astype(np.float64), (25, 50, 75)) if values.size else (None,) * 3
        )
        row[f"{spec.label}_median"] = middle
        row[f"{spec.label}_iqr"] = None if high is None else high - low
    for label in SPREAD_LABELS:
        spread = result.estimate.maps.get(f"{label}_std")
        where = perfused if label == "dstar" else mask
        known = spread is not None and where.any()
        row[f"{label}_std_median"] = float(np.median(spread[where])) if known else None
    return row


@dataclass(frozen=True)
class Quality:
    """The quality of a finished run.

    Attributes
    ----------
    row : dict
        One value per column of :func:`qc_columns`.
    adequacy : Adequacy
        The verdict, of which the row has the numbers.
    """

    row: dict[str, Any]
    adequacy: Adequacy


def quality_of(result: RunResult) -> Quality:
    """Measure and judge a finished run."""
    comparison = comparison_row(result)
    adequacy = adequacy_of(result, conventional_at_bound=comparison["lsq_parameter_at_bound_share"])
    row = _run_row(result) | comparison | adequacy_row(adequacy) | {"peak_memory": result.peak_memory}
    return Quality(row, adequacy)


def _run_row(result: RunResult) -> dict[str, Any]:
    averaged, estimate = result.averaged, result.estimate
    voxels = int(averaged.mask.sum())
    voxel_volume = abs(float(np.linalg.det(result.series.affine[:3, :3])))
    ratio = signal_to_noise(result)
    flagged = {
        "flagged": int(np.count_nonzero(result.flags)),
        **{spec.name: result.flag_counts.get(spec.name, 0) for spec in FLAGS},
    }
    row: dict[str, Any] = {
        "source": result.run.name,
        "method": method_name(result),
        "anatomy": result.anatomy,
        "voxels": voxels,
        "mask_volume": voxels * voxel_volume / 1000.0,
        "volumes": result.series.bvals.size,
        "b_values": averaged.bvals.size,
        "lowest_b": averaged.bvals[0],
        "highest_b": averaged.bvals[-1],
        "sigma": averaged.sigma,
        "sigma_averaged": float(np.sqrt(np.mean(np.square(averaged.sigma_per_bval)))),
        "snr_b0": ratio[0],
        "snr_highest_b": ratio[-1],
        **_statistics(result),
    }
    for name, count in flagged.items():
        row[f"{name}_count"] = count
        row[f"{name}_share"] = count / voxels if voxels else None
    epochs = [entry["epochs"] for entry in estimate.history if entry.get("epochs") is not None]
    row["data_iterations"] = estimate.parameters.get("data_iterations")
    row["epochs"] = sum(epochs) if epochs else None
    row["stop_reason"] = estimate.parameters.get("stop_reason")
    return row


def qc_columns() -> dict[str, dict[str, str]]:
    """``LongName``, ``Description`` and ``Units`` of every QC column, in the order of the table."""
    columns = dict(_RUN_COLUMNS)
    for spec in MAPS:
        condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.label == "dstar" else ""
        for suffix, word in (("median", "Median"), ("iqr", "Interquartile range")):
            columns[f"{spec.label}_{suffix}"] = {
                "LongName": f"{word} of {spec.symbol}",
                "Description": f"{word} over the voxels inside the mask{condition}. {spec.description}",
                "Units": spec.unit,
            }
        if spec.label in SPREAD_LABELS:
            columns[f"{spec.label}_std_median"] = {
                "LongName": f"Median standard deviation of {spec.symbol}",
                "Description": f"Median over the voxels inside the mask{condition} of the standard deviation "
                "over an ensemble of networks; n/a for a single network",
                "Units": spec.unit,
            }
    reasons = {"flagged": "Any reason not to trust the voxel"}
    reasons |= {spec.name: spec.description for spec in FLAGS}
    for name, description in reasons.items():
        title = name.replace("_", " ").capitalize()
        columns[f"{name}_count"] = {
            "LongName": f"{title}: voxels",
            "Description": f"Voxels inside the mask for which this holds: {description}",
        }
        columns[f"{name}_share"] = {
            "LongName": f"{title}: share",
            "Description": f"Share of the voxels inside the mask for which this holds: {description}",
        }
    return columns | _TRAINING_END_COLUMNS | comparison_columns() | adequacy_columns() | _RESOURCE_COLUMNS


def qc_sidecar(
    result: RunResult, adequacy: Adequacy, roots: DatasetRoots, outputs: list[str]
) -> dict[str, Any]:
    """Columns of the QC table and what identifies the run; written last, it marks completion.

    Parameters
    ----------
    adequacy : Adequacy
        From :func:`quality_of`.
    outputs : list of str
        File names of everything the run wrote beside this sidecar.
    """
    return {
        "Description": "Quality measures of one run; this file is written after all others of the run",
        "Sources": sources(result, roots),
        **qc_columns(),
        "Adequacy": adequacy_sidecar(adequacy),
        "Fingerprint": result.fingerprint,
        "Settings": portable_json(result.settings, roots),
        "Outputs": outputs,
        "MaskSource": mask_source(result, roots),
        "AnatomySource": roots.portable(result.anatomy_source),
        "PreprocessingSteps": portable_json(result.steps, roots),
        "StepPictures": step_pictures(result),
        "Warnings": [roots.portable(line) for line in result.warnings],
        **provenance(result),
    }


def step_pictures(result: RunResult) -> list[dict[str, Any]]:
    """What the pictures of the corrections show; slices and volumes are counted from 0."""
    return plain(
        [
            {
                "Step": CORRECTIONS[step.label],
                "Slice": step.slice_index,
                "BValues": step.bvals,
                "SourceVolumes": step.volumes,
                "RootMeanSquareDifference": step.root_mean_squares,
                "DifferenceRange": step.limit,
            }
            for step in result.before_after
        ]
    )


def history_columns(result: RunResult) -> list[str]:
    """Columns of the training table: the keys of the history, the data iteration first."""
    columns = ["data_iteration"]
    for row in result.estimate.history:
        columns += [key for key in row if key not in columns]
    return columns


def history_rows(result: RunResult) -> list[dict[str, Any]]:
    """One row per data iteration, numbered in order when the estimator did not number them."""
    return [{"data_iteration": index, **row} for index, row in enumerate(result.estimate.history)]


def history_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Columns of the training table and the thinned training curve."""
    content: dict[str, Any] = {
        "Description": "History of the estimation: one row per data iteration",
        "Sources": sources(result, roots),
    }
    for column in history_columns(result):
        title = column.replace("_", " ").capitalize()
        generic = {"LongName": title, "Description": f"{title} of the data iteration"}
        content[column] = _HISTORY_COLUMNS.get(column, generic)
    content["TrainingLoss"] = training_curve(result.estimate.losses)
    return content | provenance(result)


def motion_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Columns of the table of motion."""
    return {
        "Description": "Motion that was corrected: one row per volume of the preprocessed series",
        "Sources": sources(result, roots),
        **MOTION_COLUMNS,
        **provenance(result),
    }


def training_curve(losses: list[tuple[int, int, float]]) -> list[list]:
    """At most 500 evenly spaced points (data iteration, epoch, loss), first and last included."""
    kept = losses
    if len(losses) > MAX_CURVE_POINTS:
        kept = [losses[i] for i in np.linspace(0, len(losses) - 1, MAX_CURVE_POINTS).round().astype(int)]
    return plain([list(point) for point in kept])
