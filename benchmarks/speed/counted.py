"""Operations, calls and bytes of tensor code: counted while it runs, and by formula from the shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sicnn_app.settings import NetworkSettings
from sicnn_app.sicnn.network import Parameters

MULTIPLY_ADD = 2
"""Operations."""

MOVING_ONLY = (
    *("clone", "copy", "cat", "index", "gather", "scatter", "roll", "pad"),
    *("empty", "zeros", "ones", "fill"),
)
"""Begins of the names of operations that compute nothing."""


@dataclass(frozen=True)
class Work:
    """What a piece of code does.

    Attributes
    ----------
    products : float
        Operations of convolutions and matrix products, a multiplication and an addition being two.
    elements : float
        Numbers that everything else computes: one operation each, an exponential too.
    bytes : float
        That all calls read and write; numbers that stay in a cache from one call to the next are counted too.
    calls : int
        Of kernels; views compute nothing.
    """

    products: float
    elements: float
    bytes: float
    calls: int

    @property
    def operations(self) -> float:
        return self.products + self.elements


class _Counter(TorchDispatchMode):
    """Sums over every operation that reaches the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = self.bytes = self.calls = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function.is_view or function.namespace != "aten":
            return found
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        self.calls += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
        name = function.__name__.lstrip("_").partition(".")[0]
        if not (name.startswith(MOVING_ONLY) or _is_product(name)):
            self.elements += max((tensor.numel() for tensor in (*given, *made)), default=0)
        return found


def _is_product(name: str) -> bool:
    return "convolution" in name or name.endswith("mm") or name.endswith("mv")


def count(work: Callable[[], object]) -> Work:
    """Run code once and count what it does.

    Notes
    -----
    Products are those of :class:`torch.utils.flop_counter.FlopCounterMode`. A reduction counts the numbers it
    reads, every other operation the larger of what it reads and what it writes.
    """
    flops, rest = FlopCounterMode(display=False), _Counter()
    with flops, rest:
        work()
    return Work(flops.get_total_flops(), rest.elements, rest.bytes, rest.calls)


def convolution_products(shape: NetworkSettings, n_bvals: int, voxels: int, *, training: bool) -> int:
    """Operations of the convolutions of the network, by formula.

    Parameters
    ----------
    shape : NetworkSettings
    n_bvals : int
    voxels : int
        Of all tiles, padding included.
    training : bool
        Also backwards: the gradients of the weights, and of what every layer but the first was given.

    Returns
    -------
    int
        A kernel of k x k from C to D channels takes 2 k^2 C D per voxel, and as much again for each gradient.
    """
    kernel = shape.kernel_size**2
    first = MULTIPLY_ADD * kernel * n_bvals * shape.width
    hidden = (shape.depth - 1) * MULTIPLY_ADD * kernel * shape.width**2
    head = MULTIPLY_ADD * shape.width * len(Parameters._fields)
    return voxels * (2 * first + 3 * (hidden + head) if training else first + hidden + head)


def weights_of(shape: NetworkSettings, n_bvals: int) -> int:
    """Weights of the network, by formula: kernels, biases, and scale and shift of the normalisations."""
    kernel = shape.kernel_size**2
    norms = {"none": 0}.get(shape.normalisation, 2 * shape.width) * (shape.depth - 1)
    first = (kernel * n_bvals + 1) * shape.width
    hidden = (shape.depth - 1) * (kernel * shape.width + 1) * shape.width
    return first + hidden + norms + (shape.width + 1) * len(Parameters._fields)


def pairs_in_window(size: tuple[int, int], radius: int) -> int:
    """Pairs of different voxels of a slice that lie in each other's window, each counted once."""
    size_x, size_y = size
    ordered = 0
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            ordered += max(0, size_x - abs(dx)) * max(0, size_y - abs(dy))
    return (ordered - size_x * size_y) // 2


def neighbour_operations(size: tuple[int, int], slices: int, radius: int, n_bvals: int) -> int:
    """Least operations of the search for similar neighbours, by formula.

    Every pair needs a difference, a square and a sum per b-value, and the weighted signals and S0 added to
    either voxel: two multiply-adds per summed value.
    """
    distance, summed = 3 * n_bvals, 2 * MULTIPLY_ADD * (n_bvals + 1)
    return slices * pairs_in_window(size, radius) * (distance + summed)


def expansion_products(voxels: int, n_bvals: int) -> int:
    """Operations of the matrix products of one expansion of the residual of least squares, by formula.

    Five products of residual and exponentials, each times 1, b and b^2, summed over b.
    """
    return 5 * 3 * MULTIPLY_ADD * voxels * n_bvals
