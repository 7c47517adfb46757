"""One training: network and training signals in, weights and loss history out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional
from torch import Tensor

from sicnn_app.sicnn.loss import ForwardModel, mean_squared_difference
from sicnn_app.sicnn.network import IvimNetwork, Parameters
from sicnn_app.sicnn.whitening import Whitening

MIN_EPOCHS = 10
"""The supplement's metrics settle after epoch 10."""

EMA_DECAY = 0.99
"""Per optimiser step; predictions come from the averaged weights, which flicker far less."""

MAX_GRADIENT_NORM = 1.0

TILE_SIZE = 64
"""Voxels; slices larger than about this are cut, so that an epoch has several optimiser steps."""

TILE_GAP = 4
"""Zeros between the two ends of a slice that is shifted in a circle: the reach of the kernels."""


@dataclass(frozen=True)
class TrainingData:
    """What the network sees, cropped to the mask.

    Attributes
    ----------
    signals : Tensor, shape (slices, B, X, Y)
        Noisy normalised signals n; 0 outside the mask.
    mask : Tensor, shape (slices, X, Y), bool
    normaliser : Tensor, shape (slices, X, Y)
        Signal at the lowest b-value, source units; 0 outside the mask.
    sigma : Tensor, shape (slices, X, Y)
        Noise of one volume, relative to the normaliser.
    weight : Tensor, shape (slices, X, Y)
        Weight of every voxel in the loss; 0 outside the mask.
    """

    signals: Tensor
    mask: Tensor
    normaliser: Tensor
    sigma: Tensor
    weight: Tensor


@dataclass
class Trainer:
    """A network with the whitening of its input, its optimiser, averaged weights and random generator.

    The weights, the optimiser and the generator carry on from one data iteration to the next.
    """

    network: IvimNetwork
    whitening: Whitening
    forward_model: ForwardModel
    learning_rate: float
    batch_size: int
    generator: torch.Generator
    epochs_done: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.steps_done = 0

    def train_epoch(self, data: TrainingData, network_input: Tensor, target: Tensor) -> float:
        """Visit every tile once; returns the mean loss of the epoch."""
        self.network.train()
        total, weights = torch.zeros((), device=target.device), 0.0
        for signals, wanted, sigma, weight in self._batches(data, network_input, target):
            predicted = self.forward_model(self.network(signals), sigma)
            loss = mean_squared_difference(predicted, wanted, weight)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
            self.optimiser.step()
            self._update_average()
            share = weight.sum()
            total += loss.detach() * share
            weights = weights + share
        self.epochs_done += 1
        self.losses.append(float(total / weights))
        return self.losses[-1]

    def train_until_converged(
        self,
        data: TrainingData,
        network_input: Tensor,
        target: Tensor,
        *,
        delta: float,
        period: int,
        max_periods: int,
    ) -> float:
        """Train in periods until the loss improves by less than ``delta`` within one.

        Parameters
        ----------
        data : TrainingData
        network_input, target : Tensor, shape (slices, B, X, Y)
        delta : float
            Relative improvement of the mean loss from the first to the second half of a period.
        period : int
            Epochs per period.
        max_periods : int

        Returns
        -------
        float
            Mean loss of the second half of the last period.

        Notes
        -----
        The averaged weights kept at the end are those of the half-period with the lowest mean
        loss: a late spike of the optimiser never reaches the maps.
        """
        best_loss, best_weights = math.inf, None
        second = math.inf
        for _ in range(max_periods):
            halves = []
            for epochs in (period // 2, period - period // 2):
                losses = [self.train_epoch(data, network_input, target) for _ in range(epochs)]
                halves.append(sum(losses) / len(losses))
                if halves[-1] < best_loss:
                    best_loss, best_weights = halves[-1], copy.deepcopy(self.averaged.state_dict())
            first, second = halves
            if first - second < delta * first:
                break
        if best_weights is not None and second > best_loss:
            self.averaged.load_state_dict(best_weights)
        return second

    @torch.no_grad()
    def predict(self, data: TrainingData, network_input: Tensor) -> tuple[Parameters, Tensor]:
        """Parameters and predicted signals of whole slices, from the averaged weights."""
        maps, signals = [], []
        for index in range(len(network_input)):
            one = slice(index, index + 1)
            parameters = self.averaged(self.whitening(network_input[one], data.mask[one]))
            maps.append(parameters)
            signals.append(self.forward_model(parameters, data.sigma[one]))
        parameters = Parameters(*(torch.cat(values) for values in zip(*maps, strict=True)))
        return parameters, torch.cat(signals) * data.mask[:, None]

    def steps_per_epoch(self, data: TrainingData) -> int:
        """Optimiser steps of one epoch when no tile is empty."""
        (count_x, _), (count_y, _) = (tile_grid(length) for length in data.mask.shape[1:])
        return math.ceil(len(data.mask) * count_x * count_y / self.batch_size)

    def _batches(
        self, data: TrainingData, network_input: Tensor, target: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        shift = torch.randint(2**31, (2,), generator=self.generator).tolist()
        seen = self.whitening(network_input, data.mask)
        tiles = [
            cut_tiles(values, shift) for values in (seen, target, data.sigma[:, None], data.weight[:, None])
        ]
        occupied = torch.nonzero(tiles[3].flatten(1).any(dim=1)).flatten()
        order = torch.randperm(len(occupied), generator=self.generator).to(occupied.device)
        for chosen in occupied[order].split(self.batch_size):
            signals, wanted, sigma, weight = (values[chosen] for values in tiles)
            yield signals.contiguous(memory_format=torch.channels_last), wanted, sigma[:, 0], weight[:, 0]

    @torch.no_grad()
    def _update_average(self) -> None:
        self.steps_done += 1
        decay = min(EMA_DECAY, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1.0 - decay)


def tile_grid(length: int) -> tuple[int, int]:
    """Number of tiles along an axis and the size of each; an axis of about one tile is not cut."""
    count = max(1, round(length / TILE_SIZE))
    return (1, length) if count == 1 else (count, math.ceil((length + TILE_GAP) / count))


def cut_tiles(values: Tensor, shift: list[int]) -> Tensor:
    """Cut slices into equal tiles after shifting them in a circle.

    The seams move with the shift, so no voxel stays at one, and no tile is padded beyond the gap.

    Parameters
    ----------
    values : Tensor, shape (slices, C, X, Y)
    shift : list of two int
        Voxels along X and Y, drawn anew in every epoch; ignored along an axis that is not cut.

    Returns
    -------
    Tensor, shape (tiles, C, tile X, tile Y)
    """
    slices, channels, size_x, size_y = values.shape
    (count_x, tile_x), (count_y, tile_y) = tile_grid(size_x), tile_grid(size_y)
    padded = functional.pad(values, (0, count_y * tile_y - size_y, 0, count_x * tile_x - size_x))
    for axis, count, tile, distance in ((2, count_x, tile_x, shift[0]), (3, count_y, tile_y, shift[1])):
        if count > 1:
            padded = padded.roll(distance % (count * tile), dims=axis)
    tiles = padded.reshape(slices, channels, count_x, tile_x, count_y, tile_y).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, channels, tile_x, tile_y)
