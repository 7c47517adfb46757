"""One network trained on the runs of a whole study, for each run's own training to start from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.estimate import build_trainer
from sicnn_app.sicnn.memory_fallback import Attempt, tiles_of, train_what_fits, within_limit
from sicnn_app.sicnn.reproducible import reproducible, threads_for
from sicnn_app.sicnn.study_network import StudyNetwork
from sicnn_app.sicnn.train import Convergence, Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening
from sicnn_app.system.checkpoints import TrainingCheckpoint


def study_case(signals: np.ndarray, mask: np.ndarray, sigma: float) -> TrainingData:
    """Normalised signals of one run, cropped to the mask, for :func:`train_study`.

    Averaged signals and the noise of a single volume are in source units; inside the mask signals are
    positive at the lowest b-value.
    """
    sigma = max(float(sigma), torch.finfo(torch.float32).tiny)
    return training_data(signals, Box.around(mask), sigma, np.full(signals.shape[3], sigma))[0]


def train_study(
    cases: Mapping[str, TrainingData],
    bvals: np.ndarray,
    *,
    settings: EstimationSettings,
    device: str = "cpu",
    progress: iterate.Progress | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    fall_back: bool = False,
    memory_limit: int | None = None,
) -> StudyNetwork:
    """Train one network on the noisy signals of all runs until it has converged.

    Parameters
    ----------
    cases : mapping of str to TrainingData
        By the name of the run, on the CPU, where all of them stay; see :func:`study_case`.
    bvals : ndarray, shape (B,), s/mm^2, ascending
        Of every case.
    settings : EstimationSettings
        Learning rate, batch size, dropout, bounds, seed, ``rician`` and ``delta`` are used.
    device, progress, checkpoint, fall_back, memory_limit
        As for :func:`sicnn_app.sicnn.estimate.estimate`.

    Raises
    ------
    TryAgainError
        When the memory is too small for the smallest batches and tiles.

    Notes
    -----
    Convergence is judged as in the first training of SI-CNN. An epoch visits every slice of every case once,
    in an order drawn anew: case after case, the averaged weights would remember the last one best. The
    result does not depend on the order in which the cases are given, and is bit-identical under the
    conditions of :func:`sicnn_app.sicnn.estimate.estimate`.
    """
    cases = dict(sorted(cases.items()))
    bvals = np.asarray(bvals, dtype=np.float64)
    asked = Attempt(device, settings.batch_size)
    plane = max((case.mask.shape[1:] for case in cases.values()), key=math.prod)
    # Only the slices of one batch are on the device at a time.
    shape = (*plane, max(_slices_at_once(case.mask.shape, asked) for case in cases.values()))
    found, _, given_up = train_what_fits(
        lambda way, save, saved: _train(cases, bvals, settings, way, progress, save, saved),
        _contents(cases, bvals),
        first=within_limit(asked, shape, len(bvals), settings, memory_limit),
        shape=shape,
        n_bvals=len(bvals),
        settings=settings,
        no_memory=lambda way: (
            f"{way.device} ran out of memory even with {way}: use a machine with more memory, or "
            "--training-scope subject"
        ),
        checkpoint=checkpoint,
        fall_back=fall_back,
        memory_limit=memory_limit,
    )
    return replace(found, out_of_memory=tuple(given_up))


def _contents(cases: Mapping[str, TrainingData], bvals: np.ndarray) -> Iterator[bytes | np.ndarray]:
    """All that decides the bits of the result, besides the settings."""
    yield np.ascontiguousarray(bvals)
    for name, case in cases.items():
        yield name.encode()
        yield from (values.numpy() for values in case)


def _slices_at_once(shape: Sequence[int], attempt: Attempt) -> int:
    """Slices of a case of shape (slices, X, Y) that fill a batch; never more than it has."""
    return min(shape[0], math.ceil(attempt.batch_size / tiles_of((shape[1], shape[2], 1), attempt.tile_size)))


def _pieces(cases: Mapping[str, TrainingData], attempt: Attempt) -> list[TrainingData]:
    """The slices of all cases, as many together as fill a batch; nothing is copied."""
    return [
        case.slices(slice(first, first + count))
        for case in cases.values()
        for count in [_slices_at_once(case.mask.shape, attempt)]
        for first in range(0, len(case.mask), count)
    ]


def _train(
    cases: Mapping[str, TrainingData],
    bvals: np.ndarray,
    settings: EstimationSettings,
    attempt: Attempt,
    progress: iterate.Progress | None,
    save: iterate.Save | None,
    saved: dict[str, Any] | None,
) -> StudyNetwork:
    """One attempt from its begin, or from a saved state, to its end."""
    where = torch.device(attempt.device)
    whitening = Whitening.of_several([(case.signals, case.weight) for case in cases.values()])
    pieces = _pieces(cases, attempt)
    convergence, losses = Convergence(), []
    with reproducible(where, settings.random_seed):
        there = torch.tensor(bvals, dtype=torch.float32, device=where)
        # Runs differ in their repeats: b-values weigh equally.
        trainer = build_trainer(there, torch.ones_like(there), whitening.to(where), settings, attempt)
        steps = sum(trainer.steps_per_epoch(piece) for piece in pieces)
        period = max(iterate.MIN_EPOCHS, math.ceil(iterate.FIRST_PERIOD_STEPS / steps))
        if saved is not None:
            trainer.restore(saved["trainer"])
            convergence, losses = Convergence(**saved["convergence"]), list(saved["losses"])
            if progress is not None:
                progress(f"resumed after {len(losses)} epochs", 0, 1)
        with threads_for(sum(piece.mask.numel() for piece in pieces) // steps):
            while not convergence.reached(settings.delta, iterate.MAX_FIRST_PERIODS):
                losses.append(_train_epoch(trainer, pieces, where))
                convergence.add(losses[-1], period, trainer.averaged.state_dict())
                # One training is all there is: its half-periods are what data iterations are elsewhere.
                if save is not None and not convergence.losses:
                    save({"trainer": trainer.state(), "convergence": vars(convergence), "losses": losses})
                if progress is not None and len(losses) % iterate.MIN_EPOCHS == 0:
                    progress("epoch", len(losses), period * iterate.MAX_FIRST_PERIODS)
    best = convergence.best_weights
    assert best is not None
    return StudyNetwork(
        runs=tuple(cases),
        bvals=tuple(bvals.tolist()),
        weights={name: values.cpu() for name, values in best.items()},
        whitening=whitening,
        losses=tuple(losses),
        loss=convergence.best_loss,
        batch_size=attempt.batch_size,
        tile_size=attempt.tile_size,
    )


def _train_epoch(trainer: Trainer, pieces: Sequence[TrainingData], where: torch.device) -> float:
    """Visit every piece once, in an order drawn anew; returns the mean loss of the epoch."""
    total, weights = 0.0, 0.0
    for index in torch.randperm(len(pieces), generator=trainer.generator).tolist():
        piece = pieces[index].to(where)
        share = float(piece.weight.sum())
        total += share * trainer.train_epoch(piece, piece.signals, piece.signals)
        weights += share
    # Of single pieces, and of no use for the next epoch.
    trainer.losses.clear()
    return total / weights
