"""Patches held out of a training, for a validation loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PATCH_SIZE = 4
"""Voxels along both axes: single voxels would be known through their neighbours in the network's input."""


def held_out_patches(mask: Tensor, share: float, *, seed: int) -> Tensor:
    """Draw square patches of the mask.

    Parameters
    ----------
    mask : Tensor, shape (slices, X, Y), bool
    share : float
        Of the patches of every volume, on average.
    seed : int

    Returns
    -------
    Tensor, shape (slices, X, Y), bool
        True in the mask voxels of the patches drawn.

    Raises
    ------
    ValueError
        When the mask is too small: nothing, or everything, would be held out.
    """
    slices, size_x, size_y = mask.shape
    count = (slices, math.ceil(size_x / PATCH_SIZE), math.ceil(size_y / PATCH_SIZE))
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share
    patches = drawn.repeat_interleave(PATCH_SIZE, 1).repeat_interleave(PATCH_SIZE, 2)
    held_out = patches[:, :size_x, :size_y].to(mask.device) & mask
    if not held_out.any() or not (mask & ~held_out).any():
        raise ValueError(
            f"a share of {share:g} in patches of {PATCH_SIZE} voxels leaves nothing to train or hold out"
        )
    return held_out
