"""The network: whitened signals of a slice in, bounded IVIM parameters of every voxel out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sicnn_app.settings import Bounds, NetworkSettings

TYPICAL = {"f": 0.15, "d": 1.3e-3, "dstar": 0.03, "s0": 1.0}
"""Typical tissue (mean of the abdominal consensus values, Ljimani et al. 2020): where the outputs start."""

START_LIMITS = (0.02, 0.98)
"""Of the interval, where the bounds leave typical tissue out: at an end the gradient would vanish."""

HEAD_GAIN = 0.5
"""Initial shrinkage of the output layer, so that training starts near typical tissue and off the bounds."""

GROUPS = 8
"""Of channels, in group normalisation."""


class Parameters(NamedTuple):
    """Maps of one batch, each of shape (slices, X, Y); ``s0`` relative to the normaliser."""

    f: Tensor
    d: Tensor
    dstar: Tensor
    s0: Tensor


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a network; ``n_bvals`` is the number of its input channels."""

    n_bvals: int
    shape: NetworkSettings = NetworkSettings()
    dropout: float = 0.0
    bounds: Bounds = Bounds()


class ChannelNorm(nn.LayerNorm):
    """Normalise every voxel over its channels.

    Batch normalisation over one or few slices flickers between training and evaluation mode;
    this depends neither on the batch nor on how much of the image is background.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (slices, C, X, Y)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class IvimNetwork(nn.Module):
    """Convolutional network from whitened signals to F, D, D* and S0.

    The supplement does not give Huang's layers; this one is a plain stack of 3 x 3 convolutions
    with residual connections. The first layer is not normalised: that would discard how far a
    voxel lies from the mean. Outputs are sigmoids scaled to the bounds.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(_block(config, first=index == 0) for index in range(config.shape.depth))
        self.head = nn.Conv2d(config.shape.width, len(Parameters._fields), 1)
        bias = self.head.bias
        assert bias is not None
        with torch.no_grad():
            self.head.weight.mul_(HEAD_GAIN)
            for index, name in enumerate(Parameters._fields):
                low, high = getattr(config.bounds, name)
                share = torch.tensor((TYPICAL[name] - low) / (high - low))
                bias[index] = torch.logit(share.clamp(*START_LIMITS))

    def forward(self, signals: Tensor) -> Parameters:
        """Map whitened signals, shape (slices, B, X, Y), to parameters of shape (slices, X, Y)."""
        hidden = self.blocks[0](signals)
        for block in self.blocks[1:]:
            hidden = hidden + block(hidden)
        outputs = torch.sigmoid(self.head(hidden))
        intervals = (getattr(self.config.bounds, name) for name in Parameters._fields)
        shares = zip(intervals, outputs.unbind(dim=1), strict=True)
        return Parameters(*(low + (high - low) * share for (low, high), share in shares))


def _block(config: NetworkConfig, *, first: bool) -> nn.Sequential:
    width, kernel_size = config.shape.width, config.shape.kernel_size
    channels = config.n_bvals if first else width
    layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2)]
    if not first:
        layers += _NORMALISATIONS[config.shape.normalisation](width)
    layers.append(nn.ELU())
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


_NORMALISATIONS: dict[str, Callable[[int], list[nn.Module]]] = {
    "channels": lambda width: [ChannelNorm(width)],
    "none": lambda _: [],
    "batch": lambda width: [nn.BatchNorm2d(width)],
    "group": lambda width: [nn.GroupNorm(math.gcd(GROUPS, width), width)],
}
"""Layers after a convolution."""
