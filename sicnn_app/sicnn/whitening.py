"""Whitening of the network's input: strongly correlated b-value images in, uncorrelated channels out."""

from __future__ import annotations

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
        """Whitening of the voxels of one subject.

        Parameters
        ----------
        signals : Tensor, shape (slices, B, X, Y)
        weight : Tensor, shape (slices, X, Y)
            Weight of every voxel; 0 outside the mask.
        """
        inside = weight > 0
        values = signals.movedim(1, -1)[inside].double().cpu()
        share = (weight[inside] / weight[inside].sum()).double().cpu()[:, None]
        mean = (values * share).sum(dim=0)
        centred = values - mean
        variances, components = torch.linalg.eigh(centred.T @ (centred * share))
        matrix = components.T / variances.clamp_min(VARIANCE_FLOOR).sqrt()[:, None]
        return cls(mean.to(signals), matrix.to(signals))

    def __call__(self, signals: Tensor, mask: Tensor) -> Tensor:
        """Whitened signals, shape (slices, B, X, Y); 0 outside the mask of shape (slices, X, Y)."""
        centred = signals - self.mean[None, :, None, None]
        return torch.einsum("cb,sbxy->scxy", self.matrix, centred) * mask[:, None]
