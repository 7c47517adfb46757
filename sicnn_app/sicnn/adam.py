"""The optimiser Adam of torch, without the class around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam at torch's defaults but for the learning rate; the same bits as ``torch.optim.Adam``.

    That class loads torch's compiler, which nothing here uses: more than a second, and 100 MB.

    Parameters
    ----------
    weights : sequence of Tensor
        All of them have a gradient at every step.
    learning_rate : float
    fused : bool
        One kernel for all weights instead of several; on the CPU with other last bits.
    """

    def __init__(self, weights: Sequence[Tensor], learning_rate: float, *, fused: bool) -> None:
        self._weights, self._learning_rate, self._fused = list(weights), learning_rate, fused
        self._state = {
            "means": [torch.zeros_like(one) for one in weights],
            "squares": [torch.zeros_like(one) for one in weights],
            "steps": [torch.zeros((), device=one.device if fused else "cpu") for one in weights],
        }

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for one in self._weights:
            one.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients."""
        adam(
            self._weights,
            [one.grad for one in self._weights if one.grad is not None],
            self._state["means"],
            self._state["squares"],
            [],
            self._state["steps"],
            foreach=not self._fused,
            fused=self._fused,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Moving averages and counts of steps, which the next step changes in place."""
        return self._state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take over a :meth:`state_dict`."""
        for name, values in self._state.items():
            for own, given in zip(values, state[name], strict=True):
                own.copy_(given)
