"""The networks of an ensemble as one: their weights side by side, evaluated in one batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig, Parameters


class Members(nn.Module):
    """Networks of one shape, each with weights of its own, that see the slices of one batch in parts.

    Every weight is stacked along a first axis, so that one optimiser whose steps go element by element,
    such as Adam, trains each network as if it were alone. The networks have no buffers, that is no batch
    normalisation.
    """

    def __init__(self, networks: Sequence[IvimNetwork]) -> None:
        super().__init__()
        self.config = networks[0].config
        self.count = len(networks)
        weights, _ = stack_module_state(list(networks))
        # Names of parameters hold no dots.
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(values.detach()) for name, values in weights.items()}
        )
        # In a tuple it is no submodule: only its code is used.
        self._shape = (copy.deepcopy(networks[0]).to("meta"),)

    def train(self, mode: bool = True) -> Members:
        """Dropout on or off, as for every module."""
        self._shape[0].train(mode)
        return super().train(mode)

    def forward(self, signals: Tensor) -> Parameters:
        """Map whitened signals, shape (members * slices, B, X, Y), to parameters (members * slices, X, Y).

        First come all slices of the first network, then all of the second, and so on.
        """
        weights = {name.replace("/", "."): values for name, values in self.weights.items()}
        parts = torch.unflatten(signals, 0, (self.count, -1))
        found = vmap(self._one, randomness="different")(weights, parts)
        return Parameters(*(values.flatten(0, 1) for values in found))

    def _one(self, weights: dict[str, Tensor], signals: Tensor) -> Parameters:
        found: Parameters = functional_call(self._shape[0], weights, (signals,))
        return found


def build_network(
    config: NetworkConfig, members: int, weights: dict[str, Tensor] | None = None
) -> IvimNetwork | Members:
    """A network, or several as one, with random weights from torch's generator or with given ones.

    The first of several has the weights that a single one would have. Given ones are the state of an
    :class:`IvimNetwork`, for every member.
    """
    networks = [IvimNetwork(config) for _ in range(members)]
    if weights is not None:
        for network in networks:
            network.load_state_dict(weights)
    return networks[0] if members == 1 else Members(networks)


def clip_gradients(parameters: Sequence[Tensor], members: int, largest: float) -> None:
    """Shorten the gradient of every member to at most ``largest``, each by its own norm.

    Gradients of several members are stacked along the first axis.
    """
    if members == 1:
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        return
    gradients = [values.grad for values in parameters if values.grad is not None]
    norms = torch.stack([values.flatten(1).norm(dim=1) for values in gradients]).norm(dim=0)
    share = (largest / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    for values in gradients:
        values.mul_(share.view(-1, *[1] * (values.dim() - 1)))
