"""From volumes to the box that the network sees, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sicnn_app.sicnn.loss import voxel_weights
from sicnn_app.sicnn.neighbours import crop_to_mask
from sicnn_app.sicnn.train import TrainingData

NORMALISED_LIMITS = (-1.0, 3.0)
"""Normalised signals beyond these are noise over noise (S0 is fitted within 0.5..1.5) and are clipped."""


@dataclass(frozen=True)
class Box:
    """The part of the volume that the network sees: slices with mask voxels, cut to their bounding box."""

    mask: np.ndarray
    slices: np.ndarray
    x: slice
    y: slice

    @classmethod
    def around(cls, mask: np.ndarray) -> Box:
        """The box of a mask of shape (X, Y, Z), not empty."""
        slices, x, y = crop_to_mask(torch.from_numpy(mask).permute(2, 0, 1))
        return cls(mask, slices.numpy(), x, y)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, slices)."""
        return self.x.stop - self.x.start, self.y.stop - self.y.start, len(self.slices)

    def cut(self, values: np.ndarray) -> np.ndarray:
        """(X, Y, Z, ...) -> (box X, box Y, slices, ...), a copy."""
        return values[self.x, self.y][:, :, self.slices]

    def put_back(self, values: Tensor, outside: float, dtype: type) -> np.ndarray:
        """(slices, box X, box Y, ...) -> (X, Y, Z, ...) with ``outside`` wherever the mask is not."""
        volume: np.ndarray = np.full(self.mask.shape + tuple(values.shape[3:]), outside, dtype=dtype)
        part = values.numpy()
        for index, z in enumerate(self.slices):
            volume[self.x, self.y, z] = part[index]
        volume[~self.mask] = outside
        return volume


def normalise(signals: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide every signal by the one at the lowest b-value, s(b) = S(b) / S(b_min).

    The normaliser is itself a noisy measurement: s(b_min) is 1 by construction and the error of
    S(b_min) is shared by all other s(b), which is why S0 is fitted relative to it and not fixed at 1.

    Returned are the normalised signals, shape (X, Y, Z, B), and the normaliser in the units of the source
    image; both float32, 0 outside the mask and where S(b_min) is not positive.

    Examples
    --------
    >>> signals = np.array([[[[8.0, 6.0, 4.0, 2.0]]], [[[1.0, 2.0, 3.0, 4.0]]]], dtype=np.float32)
    >>> normalised, normaliser = normalise(signals, np.array([[[True]], [[False]]]))
    >>> normalised[0, 0, 0].tolist(), normalised[1, 0, 0].tolist(), float(normaliser[0, 0, 0])
    ([1.0, 0.75, 0.5, 0.25], [0.0, 0.0, 0.0, 0.0], 8.0)
    """
    lowest = signals[..., 0]
    usable = mask & (lowest > 0)
    normaliser = np.where(usable, lowest, 0).astype(np.float32)
    normalised = np.zeros(signals.shape, dtype=np.float32)
    normalised[usable] = signals[usable] / normaliser[usable][:, None]
    return normalised, normaliser


def training_data(
    signals: np.ndarray, box: Box, sigma: float, noise: np.ndarray
) -> tuple[TrainingData, Tensor]:
    """Data of the network, and the normaliser in source units, shape (slices, box X, box Y).

    ``signals``, shape (X, Y, Z, B), their noise, of that shape or (B,), and ``sigma``, the noise of a single
    volume, are in source units.
    """
    return cropped_data(
        box.cut(signals), box.cut(box.mask), sigma, noise if noise.ndim == 1 else box.cut(noise)
    )


def cropped_data(
    signals: np.ndarray, mask: np.ndarray, sigma: float, noise: np.ndarray
) -> tuple[TrainingData, Tensor]:
    """:func:`training_data` of what is cut already; signals have the shape (box X, box Y, slices, B)."""
    normalised, normaliser = normalise(signals, mask)
    np.clip(normalised, *NORMALISED_LIMITS, out=normalised)
    scale = torch.from_numpy(normaliser).movedim(2, 0).contiguous()
    usable = scale > 0
    of_signals = torch.from_numpy(np.broadcast_to(noise.astype(np.float32), signals.shape).copy())
    of_signals = of_signals.permute(2, 3, 0, 1) / torch.where(usable, scale, torch.inf)[:, None]
    return TrainingData(
        signals=torch.from_numpy(normalised).permute(2, 3, 0, 1).contiguous(),
        mask=torch.from_numpy(mask).movedim(2, 0).contiguous(),
        normaliser=scale / scale[usable].mean(),
        sigma=torch.where(usable, sigma / torch.where(usable, scale, 1.0), 0.0),
        noise=of_signals.contiguous(),
        weight=voxel_weights(scale),
    ), scale
