"""Whitening of the network's input: strongly correlated b-value images in, uncorrelated channels out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-3
"""Of normalised signals: weaker components are mostly noise and are not scaled up to unit variance."""


@dataclass(frozen=True)
class Whitening:
    """Principal components of the normalised signals, scaled to unit variance.

    The images at neighbouring b-values differ little. Undone correlations let the network learn
    several times faster, above all D*, which lives in small differences.

    Attributes
    ----------
    mean : Tensor, shape (B,)
    matrix : Tensor, shape (B, B)
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, signals: Tensor, weight: Tensor) -> Whitening:
        """Whitening of the voxels of one subject; ``weight``, shape (slices, X, Y), is 0 outside the mask."""
        return cls.of_several([(signals, weight)])

    @classmethod
    def of_several(cls, cases: Sequence[tuple[Tensor, Tensor]]) -> Whitening:
        """Whitening of the voxels of several subjects together: signals and weights as for :meth:`of`."""
        n_bvals = cases[0][0].shape[1]
        mean = torch.zeros(n_bvals, dtype=torch.float64)
        for values, share in _voxels(cases):
            mean += (values * share).sum(dim=0)
        covariance = torch.zeros(n_bvals, n_bvals, dtype=torch.float64)
        for values, share in _voxels(cases):
            centred = values - mean
            covariance += centred.T @ (centred * share)
        variances, components = torch.linalg.eigh(covariance)
        matrix = components.T / variances.clamp_min(VARIANCE_FLOOR).sqrt()[:, None]
        return cls(mean.to(cases[0][0]), matrix.to(cases[0][0]))

    def to(self, device: torch.device) -> Whitening:
        """The same on another device."""
        return Whitening(self.mean.to(device), self.matrix.to(device))

    def __call__(self, signals: Tensor, mask: Tensor) -> Tensor:
        """Whitened signals, shape (slices, B, X, Y); 0 outside the mask of shape (slices, X, Y)."""
        centred = signals - self.mean[None, :, None, None]
        return torch.einsum("cb,sbxy->scxy", self.matrix, centred) * mask[:, None]


def _voxels(cases: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Signals inside the mask, shape (N, B), and their shares of all weight, shape (N, 1), case by case."""
    total = sum(weight[weight > 0].sum() for _, weight in cases)
    for signals, weight in cases:
        inside = weight > 0
        values = signals.movedim(1, -1)[inside].double().cpu()
        yield values, (weight[inside] / total).double().cpu()[:, None]
