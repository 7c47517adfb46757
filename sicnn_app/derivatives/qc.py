"""What describes the tables of a run: its quality, the history of the training, and the motion."""

from __future__ import annotations

from typing import Any

import numpy as np

from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.sidecar import (
    DatasetRoots,
    mask_source,
    plain,
    portable_json,
    provenance,
    sources,
)
from sicnn_app.ivim.adequacy import Adequacy
from sicnn_app.ivim.run import RunResult
from sicnn_app.steps import STEPS

MAX_CURVE_POINTS = 500
"""Points kept of the training curve: enough for a figure, small enough for a sidecar."""

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


def qc_sidecar(quality: Quality, roots: DatasetRoots, outputs: list[str]) -> dict[str, Any]:
    """Columns of the QC table and what identifies the run; written last, it marks completion.

    Parameters
    ----------
    quality : Quality
    roots : DatasetRoots
    outputs : list of str
        File names of everything the run wrote beside this sidecar.
    """
    result = quality.result
    return {
        "Description": "Quality measures of one run; this file is written after all others of the run",
        "Sources": sources(result, roots),
        **{column.name: column.words() for column in columns()},
        "Adequacy": _adequacy_in_words(quality.adequacy),
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


def _adequacy_in_words(adequacy: Adequacy) -> dict[str, Any]:
    """The verdict with the words of every check, for the sidecar of the QC table and the report."""
    return plain(
        {
            "Verdict": adequacy.verdict,
            "Sentence": adequacy.sentence,
            "Checks": [
                {
                    "Name": check.name,
                    "Value": check.value,
                    "Verdict": check.verdict,
                    "Meaning": check.meaning,
                    "Numbers": check.numbers,
                }
                for check in adequacy.checks.values()
            ],
        }
    )


def step_pictures(result: RunResult) -> list[dict[str, Any]]:
    """What the pictures of the corrections show; slices and volumes are counted from 0."""
    return plain(
        [
            {
                "Step": STEPS[step.label].name,
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
