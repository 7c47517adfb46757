"""The data iterations: train, predict, rewrite the training signals, stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.rewrite import fitting_error, rewrite
from sicnn_app.sicnn.train import Trainer, TrainingData

MIN_EPOCHS = 10
"""The supplement's metrics settle after epoch 10."""

FIRST_PERIOD_STEPS = 300
"""Optimiser steps per period of the first training at a ``period_share`` of 1: rewriting an underfitted
network locks its bias in, but for what the refinement takes back."""

PERIOD_STEPS = 200
"""Optimiser steps per period of every later training, which starts from a converged network."""

MAX_FIRST_PERIODS = 20
"""A bound on the first training; small learning rates need many periods, the default two or three."""

MAX_PERIODS = 3

CONTINUUM = 3.0
"""Voxels within twice the neighbour threshold over those within half of it, means over the mask, above
which tissue changes everywhere instead of forming groups. After the second training it is 1.9 to 2.7 where
there are organs, 3.5 to 5 on continuous fields: there every further rewriting averages more voxels that are
only nearly alike (docs/method.md)."""

TINY = 1e-30
"""Norm of what is all 0: noise that is not there."""

Curve = list[tuple[int, int, float]]
"""(data iteration, epoch, loss) of every epoch."""

Progress = Callable[[str, int, int], None]

Observe = Callable[[int, int, Parameters, Tensor, Tensor], None]
"""Sees (data iteration, epochs done, parameters, predicted signals, training signals) as they come about."""

Save = Callable[[dict[str, Any]], None]
"""Keeps a state: :meth:`sicnn_app.system.checkpoints.TrainingCheckpoint.save`."""


@dataclass(frozen=True)
class IterationResult:
    """Outcome of the data iterations; ``predicted`` are the normalised signals of the last network."""

    parameters: Parameters
    predicted: Tensor
    neighbour_count: Tensor | None
    history: list[dict[str, Any]]
    losses: Curve
    validation_losses: Curve
    stop_reason: str

    def to_cpu(self) -> IterationResult:
        """The same with its tensors on the CPU."""
        return replace(
            self,
            parameters=Parameters(*(values.cpu() for values in self.parameters)),
            predicted=self.predicted.cpu(),
            neighbour_count=None if self.neighbour_count is None else self.neighbour_count.cpu(),
        )


def epochs_per_period(trainer: Trainer, data: TrainingData, steps: int) -> int:
    """Epochs that take at least ``steps`` optimiser steps, and never fewer than MIN_EPOCHS."""
    return max(MIN_EPOCHS, math.ceil(steps / trainer.steps_per_epoch(data)))


def iterate(
    trainer: Trainer,
    data: TrainingData,
    bvals: Tensor,
    settings: EstimationSettings,
    progress: Progress | None = None,
    *,
    save: Save | None = None,
    saved: dict[str, Any] | None = None,
    observe: Observe | None = None,
) -> IterationResult:
    """Run the data iterations of SI-CNN or DI-CNN, or the one long training of the plain CNN.

    Parameters
    ----------
    bvals : Tensor, shape (B,), s/mm^2
    save : callable, optional
        Gets the state after every data iteration that another one follows; of the plain CNN, which has
        but one, after as many epochs as a period has.
    saved : dict, optional
        Such a state of the same data and settings: what follows is bit for bit what would have followed.
    observe : callable, optional
        Called after every data iteration; of the plain CNN after the first epoch and every MIN_EPOCHS.

    Notes
    -----
    T starts as the noisy signals n. After every training, T = n where the fitting error |p - n|
    is within its threshold and the replacement elsewhere; T is built afresh from n each time, unless the
    fitting error is taken against T.
    """
    first_period, period = (
        epochs_per_period(trainer, data, math.ceil(settings.period_share * steps))
        for steps in (FIRST_PERIOD_STEPS, PERIOD_STEPS)
    )
    rewriting = settings.resolved_update_rule is not None
    target = data.signals
    history: list[dict[str, Any]] = []
    if saved is not None:
        trainer.restore(saved["trainer"])
        if rewriting:
            target, history = saved["target"].to(target.device), saved["history"]
    if not rewriting:
        total = settings.epochs or first_period + settings.max_iterations * period
        return _train_plain(trainer, data, total, period, progress, save, observe)
    while True:
        iteration = len(history)
        from_scratch = iteration == 0 or settings.restart_network
        network_input = target if settings.network_input == "training" else data.signals
        loss = trainer.train_until_converged(
            data,
            network_input,
            target,
            delta=settings.delta,
            period=first_period if from_scratch else period,
            max_periods=MAX_FIRST_PERIODS if from_scratch else MAX_PERIODS,
        )
        epochs = trainer.epochs_done - sum(row["epochs"] for row in history)
        parameters, predicted = trainer.predict(data, network_input)
        errors = _mean_errors(data, predicted)
        if observe is not None:
            observe(iteration, trainer.epochs_done, parameters, predicted, target)
        next_target, rewritten, neighbour_count, around = rewrite(
            parameters, predicted, target, data, bvals, trainer.bval_weight, settings
        )
        moved = float((next_target - target).norm())
        change, noise_change = (moved / max(float(of.norm()), TINY) for of in (target, data.noise))
        replaced = float(rewritten.movedim(1, -1)[data.mask].float().mean())
        neighbours = close = nearly = math.nan
        if neighbour_count is not None and around is not None:
            neighbours, close, nearly = (
                float(count[data.mask].mean()) for count in (neighbour_count, *around)
            )
        history.append(
            _history_row(
                iteration, epochs, loss, errors, change, noise_change, replaced, neighbours, close, nearly
            )
        )
        if progress is not None:
            progress(f"data iteration {iteration}", iteration + 1, settings.max_iterations + 1)
        limit = settings.lambda_
        by_noise = limit.unit == "sigma"
        stop_reason = ""
        if (noise_change if by_noise else change) < limit.value:
            stop_reason = "lambda"
        elif iteration >= settings.max_iterations:
            stop_reason = "max_iterations"
        elif by_noise and iteration > 0 and nearly > CONTINUUM * close:
            stop_reason = "continuum"
        if stop_reason:
            curves = _curves(history, trainer)
            return IterationResult(parameters, predicted, neighbour_count, history, *curves, stop_reason)
        # Not needed while training goes on, and as large as the data.
        del parameters, predicted, rewritten
        if settings.restart_network:
            trainer.start_anew()
        target = next_target
        if save is not None:
            save({"trainer": trainer.state(), "target": target, "history": history})


def _train_plain(
    trainer: Trainer,
    data: TrainingData,
    epochs: int,
    period: int,
    progress: Progress | None,
    save: Save | None,
    observe: Observe | None,
) -> IterationResult:
    while trainer.epochs_done < epochs:
        trainer.train_epoch(data, data.signals, data.signals)
        if save is not None and (trainer.epochs_done % period == 0 or trainer.epochs_done == epochs):
            save({"trainer": trainer.state()})
        if progress is not None and trainer.epochs_done % MIN_EPOCHS == 0:
            progress("epoch", trainer.epochs_done, epochs)
        if observe is not None and (trainer.epochs_done == 1 or trainer.epochs_done % MIN_EPOCHS == 0):
            observe(0, trainer.epochs_done, *trainer.predict(data, data.signals), data.signals)
    parameters, predicted = trainer.predict(data, data.signals)
    row = _history_row(0, epochs, trainer.losses[-1], _mean_errors(data, predicted))
    return IterationResult(parameters, predicted, None, [row], *_curves([row], trainer), "epochs")


def _curves(history: list[dict[str, Any]], trainer: Trainer) -> tuple[Curve, Curve]:
    """Losses and validation losses; epochs are counted from 1 on through all data iterations."""
    iterations = [row["data_iteration"] for row in history for _ in range(row["epochs"])]
    losses, validation = (
        list(zip(iterations, range(1, len(found) + 1), found, strict=True)) if found else []
        for found in (trainer.losses, trainer.validation_losses)
    )
    return losses, validation


def _mean_errors(data: TrainingData, predicted: Tensor) -> dict[str, float]:
    difference = fitting_error(predicted, data.signals).movedim(1, -1)[data.mask]
    return {"noisy_loss": float(difference.square().mean()), "fitting_error": float(difference.mean())}


def _history_row(
    iteration: int,
    epochs: int,
    loss: float,
    errors: dict[str, float],
    change: float = 0.0,
    noise_change: float = 0.0,
    replaced: float = 0.0,
    neighbours: float = math.nan,
    close: float = math.nan,
    nearly: float = math.nan,
) -> dict[str, Any]:
    return {
        "data_iteration": iteration,
        "epochs": epochs,
        "training_loss": loss,
        **errors,
        "training_signal_change": change,
        "change_over_noise": noise_change,
        "replaced_fraction": replaced,
        "mean_neighbours": neighbours,
        "mean_closely_similar": close,
        "mean_nearly_similar": nearly,
    }
