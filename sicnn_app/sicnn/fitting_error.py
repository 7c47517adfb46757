"""The fitting error |p - n| and which training signals it marks for rewriting."""

from __future__ import annotations

import torch
from torch import Tensor

from sicnn_app.settings import Threshold


def threshold_map(threshold: Threshold, sigma: Tensor) -> Tensor:
    """Threshold on normalised signals for every entry of ``sigma``.

    Parameters
    ----------
    threshold : Threshold
        Absolute, or a multiple of the noise.
    sigma : Tensor, any shape
        Noise relative to the normaliser.

    Returns
    -------
    Tensor, shape of ``sigma``
    """
    return (
        sigma * threshold.value if threshold.unit == "sigma" else sigma.new_full(sigma.shape, threshold.value)
    )


def fitting_error(predicted: Tensor, noisy: Tensor) -> Tensor:
    """Fitting Error |p - n| per voxel and b-value (supplement, Eq. 2)."""
    return (predicted - noisy).abs()


def signals_to_rewrite(
    predicted: Tensor, noisy: Tensor, threshold: Tensor, mask: Tensor, *, whole: bool = False
) -> Tensor:
    """Signals whose fitting error exceeds the threshold.

    Phenomenon 2 of the supplement: the larger the fitting error, the larger the advantage of the
    prediction over the noisy signal.

    Parameters
    ----------
    predicted, noisy, threshold : Tensor, shape (slices, B, X, Y)
    mask : Tensor, shape (slices, X, Y), bool
    whole : bool
        Decide for whole curves, by the root mean square over b of fitting error over threshold.

    Returns
    -------
    Tensor, shape (slices, B, X, Y), bool
    """
    errors = fitting_error(predicted, noisy)
    if whole:
        smallest = torch.finfo(threshold.dtype).tiny
        excess = (errors / threshold.clamp_min(smallest)).square().mean(dim=1, keepdim=True)
        return (excess > 1.0).expand_as(errors) & mask[:, None]
    return (errors > threshold) & mask[:, None]
