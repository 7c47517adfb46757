"""Results of the estimation: its end, and moments on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """Result of every estimator.

    Attributes
    ----------
    maps : dict of str to ndarray, shape (X, Y, Z), float32
        One array per label of :func:`sicnn_app.ivim.parameters.maps_of` its method, and, where
        standard deviations are known, one per property of the tissue with ``_std`` appended: finite inside
        the mask, NaN outside.
    predicted : ndarray, shape (X, Y, Z, B), float32, units of the source image
        Signals the maps predict; 0 outside the mask.
    history : list of dict
        One row per data iteration (one row for least squares); same keys in every row.
    losses : list of tuple (data_iteration, epoch, loss)
        Training curve; empty for least squares.
    validation_losses : list of tuple (data_iteration, epoch, loss)
        The same over the voxels held out; empty when there are none.
    neighbour_count : ndarray, shape (X, Y, Z), int, or None
        Similar neighbours of each voxel at the end, itself included; None when not searched.
    prior : dict of str to ndarray, shape (X, Y, Z), or None
        f, d, dstar and s0 before the maps were refined; None where they were not.
    members_at_bound : ndarray, shape (X, Y, Z), bool, or None
        Voxels in which at least half of the networks of an ensemble have a parameter at a bound; None for
        other methods.
    parameters : dict
        Settings as resolved for these data (thresholds, bounds, iterations done,
        stop reason, seed ...), JSON-serialisable, for the sidecar. The rest of the app knows ``stop_reason``,
        ``data_iterations``, ``out_of_memory`` (warnings on what was given up for want of it) and, of least
        squares, ``bounds``; what a method has not is left out.
    algorithm : str
        One sentence for ``EstimationAlgorithm``.
    device : str
        Where it was estimated ("cpu", "cuda:0 NVIDIA H200").
    """

    maps: dict[str, np.ndarray]
    predicted: np.ndarray
    history: list[dict[str, Any]]
    parameters: dict[str, Any]
    algorithm: str
    device: str = "cpu"
    losses: list[tuple[int, int, float]] = field(default_factory=list)
    validation_losses: list[tuple[int, int, float]] = field(default_factory=list)
    neighbour_count: np.ndarray | None = None
    prior: dict[str, np.ndarray] | None = None
    members_at_bound: np.ndarray | None = None


@dataclass(frozen=True)
class Observation:
    """State of a training at one moment.

    Attributes
    ----------
    data_iteration : int
        The training signals have been rewritten so often.
    epochs : int
        Done so far, in all data iterations.
    maps : dict of str to ndarray, shape (X, Y, Z), float32
        f, d, dstar and s0; NaN outside the mask.
    predicted, training_signals : ndarray, shape (X, Y, Z, B), float32, units of the source image
        What the network predicts, and what it was trained on; 0 outside the mask.
    """

    data_iteration: int
    epochs: int
    maps: dict[str, np.ndarray]
    predicted: np.ndarray
    training_signals: np.ndarray
