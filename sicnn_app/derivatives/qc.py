"""Tables of the volumes, of the training and of the motion of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from sicnn_app.derivatives.sidecar import DatasetRoots, plain, provenance, sources
from sicnn_app.formats import described
from sicnn_app.ivim.run import RunResult

MAX_CURVE_POINTS = 500
"""Points kept of the training curve: enough for a figure, small enough for a sidecar."""

MOTION_COLUMNS: dict[str, dict[str, Any]] = {
    "volume": described("Volume", "Index in the source image, counted from 0"),
    "b_value": described("b-value", "b-value of the volume", "s/mm^2"),
    **{
        f"{key}_{axis}": described(f"{title} {axis}", f"{words} the reference, world axis {axis}", unit)
        for key, title, words, unit in (
            ("trans", "Translation along", "Where the volume lay relative to", "mm"),
            ("rot", "Rotation about", "How the volume was turned relative to", "degrees"),
        )
        for axis in "xyz"
    },
    "framewise_displacement": described(
        "Framewise displacement",
        "Sum of the absolute changes of the six numbers since the volume before, rotations as displacements "
        "on a sphere of 50 mm",
        "mm",
    ),
}
"""Columns of the table of motion, one row per volume."""

VOLUME_COLUMNS: dict[str, dict[str, Any]] = {
    "volume": described("Volume", "Index in the source image, counted from 0"),
    "b_value": described("b-value", "b-value of the volume, as it was used", "s/mm^2"),
    **{
        f"direction_{axis}": described(
            f"Direction {axis}", f"Component {axis} of the gradient vector as the table states it"
        )
        for axis in "xyz"
    },
    "level_in_group": described(
        "Level in its group", "Signal over the median of the volumes of its b-value, median over the tissue"
    ),
    "level_to_decay": described(
        "Level against the decay",
        "Signal over what all other volumes let expect at its b-value and direction, median over the tissue",
    ),
    "fell_out": described("Fell out", "Share of the voxels of tissue that lost signal in one piece"),
    "fell_out_slices": described(
        "Fell out by slice", "The same in the slices where any did, counted from 0: slice: share; …"
    ),
    "fell_out_regions": described(
        "Fell out by region", "The same in the regions of a segmentation of -d: region: share; …"
    ),
    "found": described("Found", "What the volume looks like; explained in the documentation on volumes"),
    "used": described("Used", "Whether the volume went into the maps: yes or no"),
    "weight": described("Weight", "Weight of the whole volume among those of its b-value and direction"),
}
"""Columns of the table of volumes, one row per volume of the source image."""

_HISTORY_COLUMNS: dict[str, dict[str, Any]] = {
    "data_iteration": described("Data iteration", "Number of times the training signals had been rewritten"),
    "epochs": described("Epochs", "Training epochs of this data iteration"),
    "iterations": described("Iterations", "Most iterations of the fit of one voxel"),
    "training_loss": described(
        "Training loss",
        "Mean loss of the prediction against the training signals, in normalised signal units",
    ),
    "noisy_loss": described(
        "Loss against the measured signals",
        "Mean loss of the prediction against the measured signals, normalised signal units; of an ensemble, "
        "against what each network was given instead",
    ),
    "training_signal_change": described(
        "Change of the training signals",
        "Relative change of the training signals by the rewrite after this data iteration",
    ),
    "change_over_noise": described(
        "Change over the noise",
        "Change of the training signals by this rewrite relative to the noise of the measured signals: norms "
        "over all voxels and b-values",
    ),
    "replaced_fraction": described(
        "Replaced fraction",
        "Fraction of the signals inside the mask whose fitting error was above the threshold",
    ),
    "mean_neighbours": described(
        "Similar neighbours", "Mean number of similar neighbours of a voxel, itself included"
    ),
    "mean_closely_similar": described(
        "Closely similar neighbours",
        "Mean number of neighbours of a voxel within half the threshold, itself included",
    ),
    "mean_nearly_similar": described(
        "Nearly similar neighbours",
        "Mean number of neighbours of a voxel with any weight, itself included: with weights that fall as a "
        "Gaussian those within twice the threshold",
    ),
    "fitting_error": described(
        "Fitting error",
        "Mean absolute difference of predicted and measured signals, normalised signal units; of an "
        "ensemble, from what each network was given instead",
    ),
}


def history_columns(result: RunResult) -> list[str]:
    """Columns of the training table: the keys of the history, the data iteration first."""
    return list(dict.fromkeys(["data_iteration", *(key for row in result.estimate.history for key in row)]))


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
        generic = described(title, f"{title} of the data iteration")
        content[column] = _HISTORY_COLUMNS.get(column, generic)
    return content | {"TrainingLoss": training_curve(result.estimate.losses)} | provenance(result)


def motion_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Columns of the table of motion."""
    return {
        "Description": "Motion that was corrected: one row per volume of the preprocessed series",
        "Sources": sources(result, roots),
        **MOTION_COLUMNS,
        **provenance(result),
    }


def volumes_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Columns of the table of volumes."""
    return {
        "Description": "What was found in the volumes: one row per volume of the source image",
        "Sources": sources(result, roots),
        **VOLUME_COLUMNS,
        **provenance(result),
    }


def training_curve(losses: list[tuple[int, int, float]]) -> list[list]:
    """At most 500 evenly spaced points (data iteration, epoch, loss), first and last included."""
    kept = np.linspace(0, len(losses) - 1, min(len(losses), MAX_CURVE_POINTS)).round().astype(int)
    return plain([losses[i] for i in kept])
