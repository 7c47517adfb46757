"""One training: network and training signals in, weights and loss history out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sicnn_app.sicnn.adam import Adam
from sicnn_app.sicnn.loss import ForwardModel, mean_squared_difference
from sicnn_app.sicnn.network import IvimNetwork, Parameters
from sicnn_app.sicnn.stacked_networks import Members, build_network, clip_gradients
from sicnn_app.sicnn.tiles import TILE_SIZE, cut_tiles, tile_count, tile_gap
from sicnn_app.sicnn.whitening import Whitening

EMA_DECAY = 0.99
"""Per optimiser step; predictions come from the averaged weights, which flicker far less."""

MAX_GRADIENT_NORM = 1.0

STATES = ("network", "averaged", "optimiser")
"""Attributes of a trainer of which the state is saved."""

PLAIN = ("epochs_done", "steps_done", "losses", "validation_losses")
"""Attributes that are saved as they are."""


class TrainingData(NamedTuple):
    """Data that the network sees, cropped to the mask.

    Attributes
    ----------
    signals : Tensor, shape (slices, B, X, Y)
        Noisy normalised signals n; 0 outside the mask.
    mask : Tensor, shape (slices, X, Y), bool
    normaliser : Tensor, shape (slices, X, Y)
        Signal at the lowest b-value, source units; 0 outside the mask.
    sigma : Tensor, shape (slices, X, Y)
        Noise of one volume, relative to the normaliser.
    noise : Tensor, shape (slices, B, X, Y)
        Of every averaged signal, relative to the normaliser; 0 outside the mask.
    weight : Tensor, shape (slices, X, Y)
        Weight of every voxel in the loss; 0 outside the mask.
    """

    signals: Tensor
    mask: Tensor
    normaliser: Tensor
    sigma: Tensor
    noise: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> TrainingData:
        """The same on another device; on the same one nothing is copied."""
        return TrainingData(*(values.to(device) for values in self))

    def slices(self, some: slice) -> TrainingData:
        """The data of some slices; nothing is copied."""
        return TrainingData(*(values[some] for values in self))


@dataclass
class Convergence:
    """Mean losses of the half-periods of one training, and the averaged weights of the best one.

    Attributes
    ----------
    halves : list of float
        Mean loss of every finished half-period.
    losses : list of float
        Losses of the epochs since.
    best_weights : dict of str to Tensor, or None
        After the half-period of the lowest mean loss; never changed in place.
    """

    halves: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] | None = None

    def add(self, loss: float, period: int, weights: dict[str, Tensor]) -> None:
        """Take in the loss of one epoch, after which the averaged network has ``weights``."""
        self.losses.append(loss)
        epochs = period - period // 2 if len(self.halves) % 2 else period // 2
        if len(self.losses) < epochs:
            return
        self.halves.append(sum(self.losses) / epochs)
        self.losses = []
        if self.halves[-1] < self.best_loss:
            self.best_loss, self.best_weights = self.halves[-1], copy.deepcopy(weights)

    def reached(self, delta: float, max_periods: int) -> bool:
        """True when the last period improved the loss by less than the share ``delta``, or was the last."""
        if not self.halves or len(self.halves) % 2:
            return False
        first, second = self.halves[-2:]
        return first - second < delta * first or len(self.halves) >= 2 * max_periods


@dataclass
class Trainer:
    """A network with the whitening of its input, its optimiser, averaged weights and random generator.

    The weights, the optimiser and the generator carry on from one data iteration to the next, unless
    :meth:`start_anew` is called between them. The networks of an ensemble are trained at once, each on slices
    of its own: all of the first one's slices, then all of the second's. They have the whitening and the order
    of the tiles in common, and their mean loss decides when they stop and which averaged weights are kept.

    Attributes
    ----------
    members : int
        Networks in ``network``.
    bval_weight : Tensor, shape (B,), mean 1, in the loss
    held_out : Tensor, shape (slices, X, Y), optional
        Weight in the validation loss of voxels that no training sees; 0 elsewhere.
    """

    network: IvimNetwork | Members
    whitening: Whitening
    forward_model: ForwardModel
    learning_rate: float
    batch_size: int
    generator: torch.Generator
    bval_weight: Tensor
    tile_size: int = TILE_SIZE
    held_out: Tensor | None = None
    members: int = 1
    epochs_done: int = 0
    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.averaged = copy.deepcopy(self.network).requires_grad_(False).eval()
        # Looking through the modules is slow beside a step, which takes milliseconds.
        self._weights: list[Tensor] = list(self.network.parameters())
        self._averaged_weights: list[Tensor] = list(self.averaged.parameters())
        self._buffers = list(zip(self.averaged.buffers(), self.network.buffers(), strict=True))
        # On a GPU one kernel instead of many; on the CPU it would change the last bits of every map.
        fused = self._device().type == "cuda"
        self.optimiser = Adam(self._weights, self.learning_rate, fused=fused)
        self.steps_done = 0

    def start_anew(self) -> None:
        """Replace the network by one with random weights from torch's generator."""
        fresh = build_network(self.network.config, self.members)
        self.network.load_state_dict(fresh.state_dict())
        self._begin()

    def train_epoch(self, data: TrainingData, network_input: Tensor, target: Tensor) -> float:
        """Visit every tile once; returns the mean loss of the epoch."""
        self.network.train()
        total, weights = torch.zeros((), device=target.device), torch.zeros((), device=target.device)
        for signals, wanted, sigma, weight in self._batches(data, network_input, target):
            predicted = self.forward_model(self.network(signals), sigma)
            losses = mean_squared_difference(predicted, wanted, weight, self.bval_weight, self.members)
            self.optimiser.zero_grad()
            torch.autograd.backward(losses.sum())
            clip_gradients(self._weights, self.members, MAX_GRADIENT_NORM)
            self.optimiser.step()
            self._update_average()
            share = weight.sum()
            total += losses.detach().mean() * share
            weights += share
        self.epochs_done += 1
        self.losses.append(float(total / weights))
        if self.held_out is not None:
            _, predicted = self.predict(data, network_input)
            losses = mean_squared_difference(
                predicted, data.signals, self.held_out, self.bval_weight, self.members
            )
            self.validation_losses.append(float(losses.mean()))
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

        The averaged weights kept at the end are those of the half-period with the lowest mean
        loss: a late spike of the optimiser never reaches the maps.

        ``delta`` is the relative improvement of the mean loss from the first to the second half of a period,
        ``period`` the number of its epochs. Returns the mean loss of the second half of the last period.
        """
        convergence = Convergence()
        while not convergence.reached(delta, max_periods):
            loss = self.train_epoch(data, network_input, target)
            convergence.add(loss, period, self.averaged.state_dict())
        if convergence.best_weights is not None and convergence.halves[-1] > convergence.best_loss:
            self.averaged.load_state_dict(convergence.best_weights)
        return convergence.halves[-1]

    @torch.no_grad()
    def predict(self, data: TrainingData, network_input: Tensor) -> tuple[Parameters, Tensor]:
        """Parameters and predicted signals of whole slices, from the averaged weights, slice by slice."""
        maps = Parameters(*(torch.empty_like(data.sigma) for _ in Parameters._fields))
        signals = torch.empty_like(data.signals)
        count = len(network_input) // self.members
        for index in range(count):
            # This slice of every member.
            one = slice(index, None, count)
            parameters = self.averaged(self.whitening(network_input[one], data.mask[one]))
            for values, found in zip(maps, parameters, strict=True):
                values[one] = found
            signals[one] = self.forward_model(parameters, data.sigma[one]) * data.mask[one, None]
        return maps, signals

    def steps_per_epoch(self, data: TrainingData) -> int:
        """Optimiser steps of one epoch when no tile is empty."""
        tiles = math.prod(tile_count(length, self.tile_size) for length in data.mask.shape[1:])
        return math.ceil(len(data.mask) // self.members * tiles / self.batch_size)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for :meth:`restore`; to be written before the next epoch changes them."""
        device = self._device()
        return {
            **{name: getattr(self, name).state_dict() for name in STATES},
            "generator": self.generator.get_state(),
            # Dropout draws from the default generators.
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            **{name: getattr(self, name) for name in PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another trainer, made in the same way, was when it gave its :meth:`state`."""
        for name in STATES:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["cpu_generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self._device())
        for name in PLAIN:
            setattr(self, name, copy.copy(state[name]))

    def _device(self) -> torch.device:
        return self._weights[0].device

    def _batches(
        self, data: TrainingData, network_input: Tensor, target: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        shift = torch.randint(2**31, (2,), generator=self.generator).tolist()
        gap = tile_gap(self.network.config.shape)
        cut = partial(cut_tiles, shift=shift, tile_size=self.tile_size, gap=gap)
        given = cut(network_input)
        wanted = given if target is network_input else cut(target)
        mask, sigma, weight = (cut(values[:, None])[:, 0] for values in (data.mask, data.sigma, data.weight))
        # The members see the same voxels, so a tile is empty for all of them or for none.
        count = len(weight) // self.members
        occupied = torch.nonzero(weight[:count].flatten(1).any(dim=1)).flatten()
        first = torch.arange(self.members, device=occupied.device)[:, None] * count
        order = torch.randperm(len(occupied), generator=self.generator).to(occupied.device)
        for tiles in torch.split(occupied[order], self.batch_size):
            chosen = (first + tiles).flatten()
            # Whitened here and not before: that would be one more copy of all signals.
            seen = self.whitening(given[chosen], mask[chosen])
            yield (
                seen.contiguous(memory_format=torch.channels_last),
                wanted[chosen],
                sigma[chosen],
                weight[chosen],
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        self.steps_done += 1
        decay = min(EMA_DECAY, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(self._averaged_weights, self._weights, 1.0 - decay)
        for kept, current in self._buffers:
            kept.copy_(current)
