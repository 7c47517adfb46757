"""Levenberg-Marquardt inside a box, for many bi-exponential fits at once.

Every voxel has its own damping. The step uses the exact Hessian where that is convex, because
bi-exponential valleys are so flat that the Gauss-Newton matrix alone creeps along them. A parameter
at its bound whose gradient points outwards is held there; a step that would leave the box is cut
at the bound and the other parameters take that into account, so that solutions at the bounds are
reached as accurately as inner ones (compare Bertsekas, SIAM J Control Optim 1982;20:221-246).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SCALE = (1.0, 1.0, 1e-3, 1e-2)
"""Typical size of S0 (relative), F, D and D* (mm^2/s): steps are computed in these units."""

FIRST_DAMPING = 1e-3
MIN_DAMPING = 1e-15
MAX_DAMPING = 1e10
"""Shares of the diagonal of the normal matrix. Where even the shortest damped step brings nothing,
rounding is all that is left of the descent."""

DAMPING_AFTER_SUCCESS = 0.1
DAMPING_AFTER_FAILURE = 5.0

DIAGONAL_FLOOR = 1e-13
"""Added to the diagonal (scaled units), which vanishes for D* at F = 0 and for D at F = 1."""

NEGLIGIBLE_RESIDUAL = 1e-11
"""Root mean squared residual, relative to the normaliser, that counts as an exact fit."""

RELATIVE_DECREASE = 1e-10
"""A step that lowers the residual sum of squares by less than this share, and ..."""

RELATIVE_STEP = 1e-6
"""... moves no parameter by more than this (units of SCALE) ends the fit."""

GRADIENT_TOLERANCE = 1e-9
"""Cosine between the residual and every free column of the Jacobian below which the fit has ended."""


class Minimum(NamedTuple):
    """Where the iterations ended.

    Attributes
    ----------
    parameters : Tensor, shape (4, V), rows S0, F, D, D*
    rss : Tensor, shape (V,), residual sum of squares
    converged : Tensor, shape (V,), bool
    iterations : Tensor, shape (V,), int64
    """

    parameters: Tensor
    rss: Tensor
    converged: Tensor
    iterations: Tensor


class Expansion(NamedTuple):
    """The residual sum of squares around a point, to second order.

    Symmetric matrices are the ten entries of their upper triangle by rows. Voxels come last, so that every
    entry of all voxels is one operation on memory in a row.

    Attributes
    ----------
    rss : Tensor, shape (V,)
    gradient : Tensor, shape (4, V), half the gradient of ``rss``
    normal : Tensor, shape (10, V), Jacobian of the signals, transposed, times itself
    hessian : Tensor, shape (10, V), half the Hessian of ``rss``
    """

    rss: Tensor
    gradient: Tensor
    normal: Tensor
    hessian: Tensor


ROWS, COLUMNS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 3), (0, 1, 2, 3, 1, 2, 3, 2, 3, 3)
"""Of the entries of a symmetric matrix."""

DIAGONAL = (0, 4, 7, 9)
WHOLE = (0, 1, 2, 3, 1, 4, 5, 6, 2, 5, 7, 8, 3, 6, 8, 9)
"""Entries that make the rows of the whole matrix."""


def expand(signals: Tensor, bvals: Tensor, parameters: Tensor, weights: Tensor | None = None) -> Expansion:
    """Expand the residual sum of squares of the bi-exponential around ``parameters``.

    All derivatives are combinations of 15 sums over b: products of the residual and the two
    exponentials times 1, b and b^2, so that the Jacobian is never formed.

    Parameters
    ----------
    signals : Tensor, shape (B, V)
    bvals : Tensor, shape (B,), s/mm^2
    parameters : Tensor, shape (4, V), rows S0, F, D, D* (mm^2/s)
        The expansion is in units of :data:`SCALE`.
    weights : Tensor, shape (B, V), optional
        Of the squared residuals.
    """
    s0, f, d, dstar = parameters
    g = 1 - f
    u, v = s0 * f, s0 * g
    blood, tissue = torch.exp(-bvals[:, None] * dstar), torch.exp(-bvals[:, None] * d)
    residual = torch.addcmul(torch.addcmul(-signals, u, blood), v, tissue)
    products = blood.new_empty((5, *blood.shape))
    own = residual, blood, tissue
    weighted, weighted_blood, weighted_tissue = own if weights is None else (weights * one for one in own)
    torch.mul(weighted, blood, out=products[0])
    torch.mul(weighted, tissue, out=products[1])
    torch.mul(weighted_blood, blood, out=products[2])
    torch.mul(weighted_blood, tissue, out=products[3])
    torch.mul(weighted_tissue, tissue, out=products[4])
    powers = torch.stack((torch.ones_like(bvals), bvals, bvals.square()))
    (rb0, rb1, rb2), (rt0, rt1, rt2), (bb0, bb1, bb2), (bt0, bt1, bt2), (tt0, tt1, tt2) = powers @ products
    scale = signals.new_tensor(SCALE)
    outer = (scale[list(ROWS)] * scale[list(COLUMNS)])[:, None]
    # Sums over b of a compartment, or of their difference, times its signal and a power of b.
    gradient = torch.stack((f * rb0 + g * rt0, s0 * (rb0 - rt0), -v * rt1, -u * rb1)) * scale[:, None]
    mixed_blood, mixed_tissue = f * bb0 + g * bt0, f * bt0 + g * tt0
    normal = torch.stack(
        (
            f * mixed_blood + g * mixed_tissue,
            s0 * (mixed_blood - mixed_tissue),
            -v * (f * bt1 + g * tt1),
            -u * (f * bb1 + g * bt1),
            s0 * s0 * (bb0 - 2 * bt0 + tt0),
            s0 * v * (tt1 - bt1),
            s0 * u * (bt1 - bb1),
            v * v * tt2,
            v * u * bt2,
            u * u * bb2,
        )
    )
    normal *= outer
    zero = torch.zeros_like(f)
    curvature = torch.stack(
        (zero, rb0 - rt0, -g * rt1, -f * rb1, zero, s0 * rt1, -s0 * rb1, v * rt2, zero, u * rb2)
    )
    hessian = torch.addcmul(normal, curvature, outer)
    return Expansion((weighted * residual).sum(dim=0), gradient, normal, hessian)


def minimise(
    signals: Tensor,
    bvals: Tensor,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    max_iterations: int,
    weights: Tensor | None = None,
) -> Minimum:
    """Minimise the residual sum of squares of every voxel inside the box.

    The rows of ``start``, shape (4, V), and of the bounds, shape (4, 1), are S0, F, D, D*. It lies inside the
    box, and no voxel ends with more than its residual sum of squares, weighted by ``weights``, shape (B, V),
    where there are any. Steps that are rejected count as iterations.
    """
    scale = signals.new_tensor(SCALE)[:, None]
    voxels = signals.shape[1]
    result = Minimum(
        parameters=start.clone(),
        rss=signals.new_empty(voxels),
        converged=torch.zeros(voxels, dtype=torch.bool, device=signals.device),
        iterations=torch.zeros(voxels, dtype=torch.int64, device=signals.device),
    )
    exact = NEGLIGIBLE_RESIDUAL**2 * len(bvals)
    active = torch.arange(voxels, device=signals.device)
    y, w, x, here = signals, weights, start, expand(signals, bvals, start, weights)
    damping = torch.full_like(here.rss, FIRST_DAMPING)
    settled = torch.zeros_like(result.converged)
    for iteration in range(max_iterations + 1):
        done = settled | (here.rss <= exact) | (damping > MAX_DAMPING) | _stationary(x, here, lower, upper)
        last = iteration == max_iterations
        ended = (torch.ones_like(done) if last else done).nonzero()[:, 0]
        if len(ended):
            index = active[ended]
            result.parameters[:, index] = x[:, ended]
            result.rss[index] = here.rss[ended]
            result.converged[index] = done[ended]
            result.iterations[index] = iteration
            if len(ended) == len(active):
                break
            keep = (~done).nonzero()[:, 0]
            active, y, x, damping, *rest = (
                value.index_select(-1, keep) for value in (active, y, x, damping, *here)
            )
            here = Expansion(*rest)
            w = None if w is None else w.index_select(1, keep)
        trial = x + _step(x, here, damping, lower, upper) * scale
        trial = torch.minimum(torch.maximum(trial, lower), upper)
        there = expand(y, bvals, trial, w)
        accepted = there.rss < here.rss
        settled = accepted & (here.rss - there.rss <= RELATIVE_DECREASE * here.rss)
        settled &= ((trial - x).abs() <= RELATIVE_STEP * scale).all(dim=0)
        damping = torch.where(
            accepted,
            (damping * DAMPING_AFTER_SUCCESS).clamp(min=MIN_DAMPING),
            damping * DAMPING_AFTER_FAILURE,
        )
        x = torch.where(accepted, trial, x)
        here = Expansion(*(torch.where(accepted, new, old) for new, old in zip(there, here, strict=True)))
    return result


def _step(x: Tensor, here: Expansion, damping: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Damped Newton or Gauss-Newton step that stays in the box, shape (4, V), units of SCALE."""
    scale = x.new_tensor(SCALE)[:, None]
    down, up = (lower - x) / scale, (upper - x) / scale
    held = _held(x, here.gradient, lower, upper)
    ridge = torch.addcmul(x.new_tensor(DIAGONAL_FLOOR), damping, here.normal[list(DIAGONAL)])
    matrix = here.hessian.clone()
    matrix[list(DIAGONAL)] += ridge
    step, convex = _solve(matrix, -here.gradient, held)
    other = (~convex).nonzero()[:, 0]
    if len(other):
        plain = here.normal[:, other]
        plain[list(DIAGONAL)] += ridge[:, other]
        matrix[:, other] = plain
        step[:, other], _ = _solve(plain, -here.gradient[:, other], held[:, other])
    cut = torch.minimum(torch.maximum(step, down), up)
    # Where the box cut the step short, the parameters still free step again, given what was cut.
    again = (cut != step).any(dim=0).nonzero()[:, 0]
    if len(again):
        fixed = (held | (cut != step))[:, again]
        kept, there = torch.where(fixed, cut[:, again], 0.0), matrix[:, again]
        pull = (there[list(WHOLE)].view(4, 4, -1) * kept).sum(dim=1)
        second, _ = _solve(there, -here.gradient[:, again] - pull, fixed)
        second = torch.where(fixed, kept, second)
        cut[:, again] = torch.minimum(torch.maximum(second, down[:, again]), up[:, again])
    return cut


def _solve(matrix: Tensor, right: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions, shape (4, V), 0 where ``fixed``, and whether the rest of the matrix is positive definite.

    By L D L^T, entry by entry: routines for many small matrices take each by itself.
    """
    free = (~fixed).to(matrix.dtype)
    matrix = matrix * (free[list(ROWS)] * free[list(COLUMNS)])
    matrix[list(DIAGONAL)] += 1 - free
    a00, a01, a02, a03, a11, a12, a13, a22, a23, a33 = matrix
    r0, r1, r2, r3 = right * free
    l1, l2, l3 = a01 / a00, a02 / a00, a03 / a00
    d1, c12, c13 = a11 - l1 * a01, a12 - l1 * a02, a13 - l1 * a03
    m2, m3 = c12 / d1, c13 / d1
    d2, c23 = a22 - l2 * a02 - m2 * c12, a23 - l2 * a03 - m2 * c13
    n3 = c23 / d2
    d3 = a33 - l3 * a03 - m3 * c13 - n3 * c23
    r1 = r1 - l1 * r0
    r2 = r2 - l2 * r0 - m2 * r1
    x3 = (r3 - l3 * r0 - m3 * r1 - n3 * r2) / d3
    x2 = r2 / d2 - n3 * x3
    x1 = r1 / d1 - m2 * x2 - m3 * x3
    x0 = r0 / a00 - l1 * x1 - l2 * x2 - l3 * x3
    return torch.stack((x0, x1, x2, x3)), (a00 > 0) & (d1 > 0) & (d2 > 0) & (d3 > 0)


def _held(x: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Parameters at a bound that the fit would push further out, shape (4, V), bool."""
    return ((x <= lower) & (gradient >= 0)) | ((x >= upper) & (gradient <= 0))


def _stationary(x: Tensor, here: Expansion, lower: Tensor, upper: Tensor) -> Tensor:
    """True where the residual is orthogonal to every free column of the Jacobian, shape (V,), bool."""
    norms = (here.normal[list(DIAGONAL)].clamp(min=0.0) * here.rss).sqrt()
    flat = here.gradient.abs() <= GRADIENT_TOLERANCE * norms
    return (flat | _held(x, here.gradient, lower, upper)).all(dim=0)
