"""The pieces of one estimation, to be run one by one: an epoch, a neighbour search, a least-squares fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.scenarios import Measurement
from sicnn_app.lsq.fit import LsqFit, fit_biexponential
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.estimate import build_trainer
from sicnn_app.sicnn.memory_fallback import Attempt
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.reproducible import reproducible, threads_for
from sicnn_app.sicnn.rewrite import rewrite
from sicnn_app.sicnn.train import Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening


@dataclass
class Pieces:
    """One network on one measurement, as :func:`sicnn_app.sicnn.estimate.estimate` sets it up.

    Attributes
    ----------
    settings : EstimationSettings
    data : TrainingData
        On the device.
    bvals, sigma_ratio : Tensor, shape (B,)
    trainer : Trainer
    steps : int
        Optimiser steps of an epoch when no tile is empty.
    """

    settings: EstimationSettings
    data: TrainingData
    bvals: Tensor
    sigma_ratio: Tensor
    trainer: Trainer

    @property
    def steps(self) -> int:
        return self.trainer.steps_per_epoch(self.data)

    @contextmanager
    def as_in_an_estimation(self) -> Iterator[None]:
        """Context with the threads and the deterministic algorithms of a training."""
        with (
            reproducible(self.bvals.device, self.settings.random_seed),
            threads_for(self.data.mask.numel() // self.steps),
        ):
            yield

    def epoch(self) -> float:
        """Train for one epoch."""
        return self.trainer.train_epoch(self.data, self.data.signals, self.data.signals)

    def predict(self) -> tuple[Parameters, Tensor]:
        """Parameters and predicted signals of all slices."""
        return self.trainer.predict(self.data, self.data.signals)

    def search(self, parameters: Parameters, predicted: Tensor) -> None:
        """Rewrite the training signals once, by similar neighbours."""
        rewrite(
            parameters,
            predicted,
            self.data.signals,
            self.data,
            self.bvals,
            self.trainer.bval_weight,
            self.settings,
        )


def pieces_of(measured: Measurement, settings: EstimationSettings, device: str = "cpu") -> Pieces:
    """Pieces of an estimation with one network, with random weights."""
    box = Box.around(measured.mask)
    data, _ = training_data(measured.signals, box, measured.sigma, measured.sigma_per_bval)
    where = torch.device(device)
    data = data.to(where)
    bvals, ratio = (
        torch.tensor(values, dtype=torch.float32, device=where)
        for values in (measured.bvals, measured.sigma_per_bval / measured.sigma)
    )
    with reproducible(where, settings.random_seed):
        whitening = Whitening.of(data.signals, data.weight)
        trainer = build_trainer(bvals, ratio, whitening, settings, Attempt(device, settings.batch_size))
    return Pieces(settings, data, bvals, ratio, trainer)


def fit_voxels(signals: Tensor, bvals: Tensor) -> LsqFit:
    """Least squares of voxels; ``signals``, shape (V, B), relative to the one at the lowest b-value."""
    return fit_biexponential(signals, bvals)


def normalised_signals(measured: Measurement, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Signals of the mask relative to the lowest b-value, shape (V, B), and b-values, float64."""
    signals = torch.from_numpy(measured.signals[measured.mask]).to(device, torch.float64)
    bvals = torch.tensor(measured.bvals, dtype=torch.float64, device=device)
    return signals / signals[:, [int(bvals.argmin())]], bvals
