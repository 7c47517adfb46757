"""The data iterations: train, predict, rewrite the training signals, stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.fitting_error import fitting_error, signals_to_rewrite, threshold_map
from sicnn_app.sicnn.neighbours import similar_neighbour_sum
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.train import MIN_EPOCHS, Trainer, TrainingData

FIRST_PERIOD_STEPS = 150
"""Optimiser steps per period of the first training: rewriting an underfitted network locks its bias in."""

PERIOD_STEPS = 100
"""Optimiser steps per period of every later training, which starts from a converged network."""

MAX_FIRST_PERIODS = 20
"""A bound on the first training; small learning rates need many periods, the default two or three."""

MAX_PERIODS = 3

EMPTY = 1e-6
"""Sums of normalised signals below this hold none."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class IterationResult:
    """What the data iterations end with.

    Attributes
    ----------
    parameters : Parameters, each of shape (slices, X, Y)
    predicted : Tensor, shape (slices, B, X, Y)
        Normalised predicted signals of the last network.
    neighbour_count : Tensor, shape (slices, X, Y), or None
    history : list of dict
    losses : list of (data_iteration, epoch, loss)
    stop_reason : str
    """

    parameters: Parameters
    predicted: Tensor
    neighbour_count: Tensor | None
    history: list[dict]
    losses: list[tuple[int, int, float]]
    stop_reason: str


def epochs_per_period(trainer: Trainer, data: TrainingData, steps: int) -> int:
    """Epochs that take at least ``steps`` optimiser steps, and never fewer than MIN_EPOCHS."""
    return max(MIN_EPOCHS, math.ceil(steps / trainer.steps_per_epoch(data)))


def iterate(
    trainer: Trainer,
    data: TrainingData,
    bvals: Tensor,
    sigma_per_bval: Tensor,
    settings: EstimationSettings,
    progress: Progress | None = None,
) -> IterationResult:
    """Run the data iterations of SI-CNN or DI-CNN, or the one long training of the plain CNN.

    Parameters
    ----------
    trainer : Trainer
    data : TrainingData
    bvals : Tensor, shape (B,), s/mm^2
    sigma_per_bval : Tensor, shape (B,)
        Noise of every averaged signal relative to that of one volume.
    settings : EstimationSettings
    progress : callable (text, done, total), optional

    Returns
    -------
    IterationResult

    Notes
    -----
    T starts as the noisy signals n. After every training, T = n where the fitting error |p - n|
    is within its threshold and the replacement elsewhere; T is built afresh from n each time.
    """
    rule = settings.resolved_update_rule
    first_period = epochs_per_period(trainer, data, FIRST_PERIOD_STEPS)
    period = epochs_per_period(trainer, data, PERIOD_STEPS)
    if rule is None:
        total = settings.epochs or first_period + settings.max_iterations * period
        return _train_plain(trainer, data, total, progress)

    signal_threshold = threshold_map(
        settings.fitting_threshold, data.sigma[:, None] * sigma_per_bval[None, :, None, None]
    )
    curve_threshold = threshold_map(
        settings.neighbour_threshold, data.sigma * sigma_per_bval.square().mean().sqrt()
    )
    target = data.signals
    history, losses = [], []
    stop_reason = "max_iterations"
    neighbour_count = None
    for iteration in range(settings.max_iterations + 1):
        network_input = target if settings.network_input == "training" else data.signals
        before = trainer.epochs_done
        loss = trainer.train_until_converged(
            data,
            network_input,
            target,
            delta=settings.delta,
            period=first_period if iteration == 0 else period,
            max_periods=MAX_FIRST_PERIODS if iteration == 0 else MAX_PERIODS,
        )
        losses += [
            (iteration, epoch + 1, trainer.losses[epoch]) for epoch in range(before, trainer.epochs_done)
        ]
        parameters, predicted = trainer.predict(data, network_input)
        rewritten = signals_to_rewrite(predicted, data.signals, signal_threshold, data.mask)
        if rule == "own-prediction":
            replacement = predicted
        else:
            replacement, neighbour_count = neighbour_mean(
                parameters,
                data,
                bvals,
                curve_threshold,
                radius=settings.neighbour_radius,
                observed=rule == "observed-neighbours",
            )
        next_target = torch.where(rewritten, replacement, data.signals)
        change = float((next_target - target).norm() / target.norm())
        history.append(
            _history_row(
                iteration,
                trainer.epochs_done - before,
                loss,
                data,
                predicted,
                change,
                rewritten,
                neighbour_count,
            )
        )
        if progress is not None:
            progress(f"data iteration {iteration}", iteration + 1, settings.max_iterations + 1)
        if change < settings.lambda_:
            stop_reason = "lambda"
            break
        target = next_target
    return IterationResult(parameters, predicted, neighbour_count, history, losses, stop_reason)


def neighbour_mean(
    parameters: Parameters,
    data: TrainingData,
    bvals: Tensor,
    threshold: Tensor,
    *,
    radius: int,
    observed: bool,
) -> tuple[Tensor, Tensor]:
    """Mean signals of the similar neighbours, brought to every voxel's own scale.

    Similarity is judged on the predicted curves at S0 = 1, so that the noise of a voxel's
    normaliser does not choose its neighbours. The mean curve is a ratio of sums,
    m(b) = sum_u S(u, b) / sum_u S0(u) in source units: bright voxels count for more because their
    signals carry less relative noise, and no noisy normaliser is divided by. Its scale is the
    least-squares one against the voxel's own signals, sum_b n m / sum_b m^2: taking the predicted
    S0 instead lets its errors feed on themselves from one data iteration to the next.

    Parameters
    ----------
    parameters : Parameters, each of shape (slices, X, Y)
    data : TrainingData
        Signals are relative to the normaliser; ``data.normaliser`` brings them back.
    bvals : Tensor, shape (B,)
    threshold : Tensor, shape (slices, X, Y)
    radius : int
    observed : bool
        Average the observed signals (the default update) or the predicted ones.

    Returns
    -------
    means : Tensor, shape (slices, B, X, Y), relative to the normaliser
    counts : Tensor, shape (slices, X, Y)
    """
    b = bvals[None, :, None, None]
    f, d, dstar, s0 = (value[:, None] for value in parameters)
    curves = ivim_signal_torch(b, f, d, dstar) * data.mask[:, None]
    scale = s0 * data.normaliser[:, None]
    values = data.signals * data.normaliser[:, None] if observed else curves * scale
    sums, counts = similar_neighbour_sum(
        curves, torch.cat([values, scale], dim=1), data.mask, threshold, radius
    )
    shapes = sums[:, :-1] / sums[:, -1:].clamp_min(EMPTY)
    power = shapes.square().sum(dim=1, keepdim=True)
    own_scale = (data.signals * shapes).sum(dim=1, keepdim=True) / power.clamp_min(EMPTY)
    return own_scale * shapes * data.mask[:, None], counts


def _train_plain(
    trainer: Trainer, data: TrainingData, epochs: int, progress: Progress | None
) -> IterationResult:
    for epoch in range(epochs):
        loss = trainer.train_epoch(data, data.signals, data.signals)
        if progress is not None and (epoch + 1) % MIN_EPOCHS == 0:
            progress("epoch", epoch + 1, epochs)
    parameters, predicted = trainer.predict(data, data.signals)
    nothing = torch.zeros_like(data.signals, dtype=torch.bool)
    row = _history_row(0, epochs, loss, data, predicted, 0.0, nothing, None)
    losses = [(0, epoch + 1, value) for epoch, value in enumerate(trainer.losses)]
    return IterationResult(parameters, predicted, None, [row], losses, "epochs")


def _history_row(
    iteration: int,
    epochs: int,
    loss: float,
    data: TrainingData,
    predicted: Tensor,
    change: float,
    rewritten: Tensor,
    neighbour_count: Tensor | None,
) -> dict:
    difference = fitting_error(predicted, data.signals).movedim(1, -1)[data.mask]
    return {
        "data_iteration": iteration,
        "epochs": epochs,
        "training_loss": loss,
        "noisy_loss": float(difference.square().mean()),
        "fitting_error": float(difference.mean()),
        "training_signal_change": change,
        "replaced_fraction": float(rewritten.movedim(1, -1)[data.mask].float().mean()),
        "mean_neighbours": math.nan if neighbour_count is None else float(neighbour_count[data.mask].mean()),
    }
