"""What a machine can do at most: measured for the one at hand, from the data sheet for a large GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.common.clocks import timed

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the square matrices."""

IN_CACHE = {"cpu": 2**15, "cuda": 2**22}
"""Numbers per array, so that three arrays stay in a cache."""

IN_MEMORY = {"cpu": 2**26, "cuda": 2**29}
"""Numbers per float32 array, far more than a cache holds."""

ELEMENT_REPEATS = 200

TIMES = 5
"""Measurements, the best of which counts."""


@dataclass(frozen=True)
class Peaks:
    """Highest rates.

    Attributes
    ----------
    products32, products64 : float
        Operations per second of matrix products, float32 and float64.
    elements32, elements64 : float
        Element-wise operations per second.
    bandwidth : float
        Bytes per second from and to memory.
    """

    products32: float
    products64: float
    elements32: float
    elements64: float
    bandwidth: float

    def least_seconds(self, products: float, elements: float, moved: float, *, double: bool = False) -> float:
        """Time below which nothing can do this work: all arithmetic at its peak, or all traffic at its."""
        rates = (self.products64, self.elements64) if double else (self.products32, self.elements32)
        return max(products / rates[0] + elements / rates[1], moved / self.bandwidth)


H200 = Peaks(
    products32=494.5e12,
    products64=67e12,
    elements32=67e12 / 2,
    elements64=34e12 / 2,
    bandwidth=4.8e12,
)
"""NVIDIA H200 SXM, data sheet of 2024: TF32 on tensor cores 989 TFLOP/s with sparsity, so half of that dense
(BF16: twice as much), FP64 67; without tensor cores FP32 67 and FP64 34 TFLOP/s, which count a multiplication
and an addition as two, so half of that for single element-wise operations; 4.8 TB/s."""


def measured_peaks(device: str) -> Peaks:
    """Best rates of torch on a device, with the number of threads it has now."""
    kind = torch.device(device).type
    return Peaks(
        _gemm(device, GEMM_SIZE[kind], torch.float32),
        _gemm(device, GEMM_SIZE[kind] // 2, torch.float64),
        _elements(device, IN_CACHE[kind], torch.float32),
        _elements(device, IN_CACHE[kind] // 2, torch.float64),
        _copies(device, IN_MEMORY[kind]),
    )


def _best(work: Callable[[], object], device: str) -> float:
    work()
    return min(timed(work, device)[0] for _ in range(TIMES))


def _gemm(device: str, size: int, dtype: torch.dtype) -> float:
    left, right = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * size**3 / _best(lambda: torch.mm(left, right, out=out), device)


def _elements(device: str, count: int, dtype: torch.dtype) -> float:
    left, right = (torch.rand(count, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(left)

    def work() -> None:
        for _ in range(ELEMENT_REPEATS):
            torch.add(left, right, out=out)

    return ELEMENT_REPEATS * count / _best(work, device)


def _copies(device: str, count: int) -> float:
    source = torch.rand(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.element_size() * count / _best(lambda: target.copy_(source), device)
