"""How far one training has come towards its end, period by period."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

from torch import Tensor


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
