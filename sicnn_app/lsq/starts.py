"""Starting points of the bi-exponential fit: the segmented fit, and a grid against local minima.

Parameters are columns of one tensor in the order of :data:`COLUMNS`; signals are relative to the
signal at the lowest b-value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sicnn_app.settings import Bounds

COLUMNS = ("s0", "f", "d", "dstar")
"""Order of the parameter columns; the names of the fields of ``Bounds``."""

SPLIT_BVAL = 200.0
"""s/mm^2; from here on the perfusion part has decayed and one exponential is left
(Le Bihan, NeuroImage 2019;187:56-67)."""

GRID_POINTS = 12
"""Values of D, and of D*, on the grid of starts."""

DSTAR_BANDS = 4
"""Parts of the D* grid, each with a start of its own."""

LOWEST_GRID_SHARE = 0.02
"""First value of D on the grid above a bound of 0, as a share of the upper bound."""


def limits(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, each of shape (4,), in the order of :data:`COLUMNS`."""
    lower, upper = zip(*(getattr(bounds, name) for name in COLUMNS), strict=True)
    return like.new_tensor(lower), like.new_tensor(upper)


def split_bval(bvals: Tensor) -> float:
    """First b-value (s/mm^2) of the mono-exponential part.

    :data:`SPLIT_BVAL`, or the last but one distinct b-value when fewer than two reach it.
    """
    distinct = torch.unique(bvals)
    return min(SPLIT_BVAL, float(distinct[-2]))


def segmented_start(signals: Tensor, bvals: Tensor, bounds: Bounds) -> Tensor:
    """Segmented fit: D from high b-values, F from its intercept, then D* from all of them.

    D and the intercept come from a straight line through the logarithms of the signals from
    :func:`split_bval` on, weighted by the squared signals because the noise of a logarithm grows
    as the signal falls. D* is the best of a logarithmic grid given the rest.

    Zero and negative signals take no part in the straight line. For signals of shape (V, B) the starts have
    the shape (V, 4); they are inside the bounds.
    """
    lower, upper = limits(bounds, signals)
    high = bvals >= split_bval(bvals)
    b, y = bvals[high], signals[:, high]
    tiny = torch.finfo(y.dtype).tiny
    relative = y / y.amax(dim=1, keepdim=True).clamp(min=tiny)
    weights = relative.clamp(min=0.0).square()
    logs = y.clamp(min=tiny).log()
    total = weights.sum(dim=1).clamp(min=tiny)
    mean_b = (weights * b).sum(dim=1) / total
    mean_log = (weights * logs).sum(dim=1) / total
    spread = b - mean_b[:, None]
    variance = (weights * spread.square()).sum(dim=1)
    covariance = (weights * spread * (logs - mean_log[:, None])).sum(dim=1)
    # One usable signal, or none, gives no slope: the middle of the interval is as good as any.
    usable = (weights > 0).sum(dim=1) >= 2
    d = torch.where(usable, -covariance / variance.clamp(min=tiny), (lower[2] + upper[2]) / 2)
    d = d.clamp(lower[2], upper[2])
    tissue = (mean_log + d * mean_b).clamp(max=upper[0].log().item()).exp()
    s0 = torch.ones_like(d).clamp(lower[0], upper[0])
    f = torch.where(usable, 1 - tissue / s0, (lower[1] + upper[1]) / 2).clamp(lower[1], upper[1])
    rest = signals - ((1 - f) * s0)[:, None] * torch.exp(-d[:, None] * bvals)
    # RSS of every D* of the grid, less what does not depend on it.
    grid = _logarithmic(lower[3], upper[3])
    decay = torch.exp(-grid[:, None] * bvals)
    blood = (f * s0)[:, None]
    cost = blood.square() * decay.square().sum(dim=1) - 2 * blood * (rest @ decay.T)
    return torch.stack((s0, f, d, grid[cost.argmin(dim=1)]), dim=1)


def grid_starts(signals: Tensor, bvals: Tensor, bounds: Bounds) -> Tensor:
    """Best point of every band of a grid over (D, D*), with S0 and F fitted at every point.

    Given both exponents the model is linear in S0 F and S0 (1 - F), so this needs no iteration.
    The residual of noisy signals often has one minimum at a small and one at a large D*, so every
    band of D* offers a start of its own.

    For signals of shape (V, B) the starts have the shape (DSTAR_BANDS, V, 4); they are inside the bounds.
    """
    lower, upper = limits(bounds, signals)
    d_grid, dstar_grid = _logarithmic(lower[2], upper[2]), _logarithmic(lower[3], upper[3])
    tiny = torch.finfo(signals.dtype).tiny
    # Voxels come last, so that every operation is one on memory in a row.
    blood = torch.exp(-dstar_grid[:, None] * bvals)
    blood_blood, blood_signal = blood.square().sum(dim=1, keepdim=True), blood @ signals.T
    shape = blood_signal.shape
    best = signals.new_full(shape, torch.inf)
    best_s0, best_f, best_d = ((lower + upper) / 2)[:3, None, None].expand(3, *shape)
    for d in d_grid:
        tissue = torch.exp(-d * bvals)
        tissue_tissue, cross = tissue.square().sum(), (blood @ tissue)[:, None]
        tissue_signal = signals @ tissue
        # Both amplitudes times one determinant, which is not negative: F is their ratio.
        amplitude = tissue_tissue * blood_signal - cross * tissue_signal
        total = (tissue_tissue - cross) * blood_signal + (blood_blood - cross) * tissue_signal
        # With a negative amplitude the best point lies on an edge of the allowed F. Where the grids meet,
        # D = D* and the two amplitudes cannot be told apart.
        f = (amplitude / torch.where(total.abs() < tiny, tiny, total)).clamp(lower[1], upper[1])
        apart = cross - tissue_tissue
        mix_mix = tissue_tissue + f * (2 * apart + f * (blood_blood - cross - apart))
        mix_signal = torch.addcmul(tissue_signal, f, blood_signal - tissue_signal)
        s0 = (mix_signal / mix_mix).clamp(lower[0], upper[0])
        cost = s0 * (s0 * mix_mix - 2 * mix_signal)
        better = cost < best
        best = torch.where(better, cost, best)
        best_s0, best_f = torch.where(better, s0, best_s0), torch.where(better, f, best_f)
        best_d = torch.where(better, d, best_d)
    points = torch.stack((best_s0, best_f, best_d, dstar_grid[:, None].expand(shape)), dim=2)
    bands = zip(best.chunk(DSTAR_BANDS), points.chunk(DSTAR_BANDS), strict=True)
    voxels = torch.arange(len(signals), device=signals.device)
    return torch.stack([candidates[cost.argmin(dim=0), voxels] for cost, candidates in bands])


def _logarithmic(lower: Tensor, upper: Tensor) -> Tensor:
    """Values from ``lower`` (or a small share of ``upper``) to ``upper`` at equal ratios."""
    first = max(lower.item(), LOWEST_GRID_SHARE * upper.item())
    exponents = torch.linspace(0.0, 1.0, GRID_POINTS, dtype=upper.dtype, device=upper.device)
    return (first * (upper / first) ** exponents).clamp(lower, upper)
