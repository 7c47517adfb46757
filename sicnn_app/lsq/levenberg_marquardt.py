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
    parameters : Tensor, shape (V, 4), columns S0, F, D, D*
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

    Attributes
    ----------
    rss : Tensor, shape (V,)
    gradient : Tensor, shape (V, 4), half the gradient of ``rss``
    normal : Tensor, shape (V, 4, 4), Jacobian of the signals, transposed, times itself
    hessian : Tensor, shape (V, 4, 4), half the Hessian of ``rss``
    """

    rss: Tensor
    gradient: Tensor
    normal: Tensor
    hessian: Tensor

    def select(self, index: Tensor) -> Expansion:
        """Expansion of the voxels in ``index`` (shape (W,), int64)."""
        return Expansion(*(values.index_select(0, index) for values in self))

    def update(self, where: Tensor, other: Expansion) -> Expansion:
        """``other`` in the voxels of ``where`` (shape (V,), bool), this expansion elsewhere."""
        pairs = zip(self, other, strict=True)
        return Expansion(
            *(torch.where(where.view(-1, *[1] * (old.ndim - 1)), new, old) for old, new in pairs)
        )


def expand(signals: Tensor, bvals: Tensor, parameters: Tensor, weights: Tensor | None = None) -> Expansion:
    """Expand the residual sum of squares of the bi-exponential around ``parameters``.

    All derivatives are combinations of 15 sums over b: products of the residual and the two
    exponentials times 1, b and b^2, so that the Jacobian is never formed.

    Parameters
    ----------
    signals : Tensor, shape (V, B)
    bvals : Tensor, shape (B,), s/mm^2
    parameters : Tensor, shape (V, 4), columns S0, F, D, D* (mm^2/s)
        The expansion is in units of :data:`SCALE`.
    weights : Tensor, shape (V, B), optional
        Of the squared residuals.
    """
    s0, f, d, dstar = parameters.unbind(dim=1)
    blood, tissue = torch.exp(-dstar[:, None] * bvals), torch.exp(-d[:, None] * bvals)
    predicted = (s0 * f)[:, None] * blood + (s0 * (1 - f))[:, None] * tissue
    residual = predicted - signals
    powers = torch.stack((torch.ones_like(bvals), bvals, bvals.square()), dim=1)

    def moments(values: Tensor) -> tuple[Tensor, ...]:
        return ((values if weights is None else weights * values) @ powers).unbind(dim=1)

    rb0, rb1, rb2 = moments(residual * blood)
    rt0, rt1, rt2 = moments(residual * tissue)
    bb0, bb1, bb2 = moments(blood.square())
    bt0, bt1, bt2 = moments(blood * tissue)
    tt0, tt1, tt2 = moments(tissue.square())
    g = 1 - f
    zero = torch.zeros_like(f)
    scale = signals.new_tensor(SCALE)
    gradient = torch.stack((f * rb0 + g * rt0, s0 * (rb0 - rt0), -s0 * g * rt1, -s0 * f * rb1), dim=1) * scale
    normal = _symmetric(
        f * f * bb0 + 2 * f * g * bt0 + g * g * tt0,
        s0 * (f * bb0 + (g - f) * bt0 - g * tt0),
        -s0 * g * (f * bt1 + g * tt1),
        -s0 * f * (f * bb1 + g * bt1),
        s0 * s0 * (bb0 - 2 * bt0 + tt0),
        s0 * s0 * g * (tt1 - bt1),
        s0 * s0 * f * (bt1 - bb1),
        s0 * s0 * g * g * tt2,
        s0 * s0 * f * g * bt2,
        s0 * s0 * f * f * bb2,
    )
    curvature = _symmetric(
        zero, rb0 - rt0, -g * rt1, -f * rb1, zero, s0 * rt1, -s0 * rb1, s0 * g * rt2, zero, s0 * f * rb2
    )
    outer = scale[:, None] * scale
    normal = normal * outer
    squares = residual.square() if weights is None else weights * residual.square()
    return Expansion(squares.sum(dim=1), gradient, normal, normal + curvature * outer)


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
    """Minimise the residual sum of squares of every voxel inside the box, all in float64.

    The columns of ``start``, shape (V, 4), and of the bounds are S0, F, D, D*. It lies inside the box, and
    no voxel ends with more than its residual sum of squares, weighted by ``weights``, shape (V, B), where
    there are any. Steps that are rejected count as iterations.
    """
    scale = signals.new_tensor(SCALE)
    result = Minimum(
        parameters=start.clone(),
        rss=signals.new_empty(len(signals)),
        converged=torch.zeros(len(signals), dtype=torch.bool, device=signals.device),
        iterations=torch.zeros(len(signals), dtype=torch.int64, device=signals.device),
    )
    exact = NEGLIGIBLE_RESIDUAL**2 * len(bvals)
    active = torch.arange(len(signals), device=signals.device)
    y, w, x, here = signals, weights, start, expand(signals, bvals, start, weights)
    damping = torch.full_like(here.rss, FIRST_DAMPING)
    settled = torch.zeros_like(result.converged)
    for iteration in range(max_iterations + 1):
        done = settled | (here.rss <= exact) | (damping > MAX_DAMPING) | _stationary(x, here, lower, upper)
        ended = (done if iteration < max_iterations else torch.ones_like(done)).nonzero()[:, 0]
        if len(ended):
            index = active[ended]
            result.parameters[index] = x[ended]
            result.rss[index] = here.rss[ended]
            result.converged[index] = done[ended]
            result.iterations[index] = iteration
            if len(ended) == len(active):
                break
            keep = (~done).nonzero()[:, 0]
            active, y, x, damping = (value.index_select(0, keep) for value in (active, y, x, damping))
            w = None if w is None else w.index_select(0, keep)
            here = here.select(keep)
        trial = x + _step(x, here, damping, lower, upper) * scale
        trial = torch.minimum(torch.maximum(trial, lower), upper)
        there = expand(y, bvals, trial, w)
        accepted = there.rss < here.rss
        settled = accepted & (here.rss - there.rss <= RELATIVE_DECREASE * here.rss)
        settled &= ((trial - x).abs() <= RELATIVE_STEP * scale).all(dim=1)
        damping = torch.where(
            accepted,
            (damping * DAMPING_AFTER_SUCCESS).clamp(min=MIN_DAMPING),
            damping * DAMPING_AFTER_FAILURE,
        )
        x = torch.where(accepted[:, None], trial, x)
        here = here.update(accepted, there)
    return result


def _step(x: Tensor, here: Expansion, damping: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Damped Newton or Gauss-Newton step that stays in the box, shape (V, 4), units of SCALE."""
    scale = x.new_tensor(SCALE)
    down, up = (lower - x) / scale, (upper - x) / scale
    held = _held(x, here.gradient, lower, upper)
    diagonal = here.normal.diagonal(dim1=1, dim2=2)
    ridge = torch.diag_embed(damping[:, None] * diagonal + DIAGONAL_FLOOR)
    convex = torch.linalg.cholesky_ex(_restrict(here.hessian + ridge, held))[1] == 0
    matrix = torch.where(convex[:, None, None], here.hessian, here.normal) + ridge
    step = _solve(matrix, here.gradient, torch.zeros_like(x), held)
    cut = torch.minimum(torch.maximum(step, down), up)
    # Where the box cut the step short, the parameters still free step again, given what was cut.
    again = (cut != step).any(dim=1).nonzero()[:, 0]
    fixed = (held | (cut != step))[again]
    second = _solve(matrix[again], here.gradient[again], torch.where(fixed, cut[again], 0.0), fixed)
    cut[again] = torch.minimum(torch.maximum(second, down[again]), up[again])
    return cut


def _solve(matrix: Tensor, gradient: Tensor, step: Tensor, fixed: Tensor) -> Tensor:
    """Step whose ``fixed`` parameters keep the values in ``step`` (0 where free), the rest minimising."""
    right = -gradient - (matrix @ step[:, :, None])[:, :, 0]
    solved, _ = torch.linalg.solve_ex(_restrict(matrix, fixed), torch.where(fixed, 0.0, right))
    return torch.where(fixed, step, solved)


def _held(x: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Parameters at a bound that the fit would push further out, shape (V, 4), bool."""
    return ((x <= lower) & (gradient >= 0)) | ((x >= upper) & (gradient <= 0))


def _stationary(x: Tensor, here: Expansion, lower: Tensor, upper: Tensor) -> Tensor:
    """True where the residual is orthogonal to every free column of the Jacobian, shape (V,), bool."""
    norms = (here.normal.diagonal(dim1=1, dim2=2).clamp(min=0.0) * here.rss[:, None]).sqrt()
    flat = here.gradient.abs() <= GRADIENT_TOLERANCE * norms
    return (flat | _held(x, here.gradient, lower, upper)).all(dim=1)


def _restrict(matrix: Tensor, fixed: Tensor) -> Tensor:
    """``matrix`` with the rows and columns of fixed parameters replaced by those of the identity."""
    free = ~fixed
    return torch.where(free[:, :, None] & free[:, None, :], matrix, 0.0) + torch.diag_embed(
        fixed.to(matrix.dtype)
    )


def _symmetric(*upper_triangle: Tensor) -> Tensor:
    """Symmetric matrices, shape (V, 4, 4), from the ten entries of their upper triangle by rows."""
    order = (0, 1, 2, 3, 1, 4, 5, 6, 2, 5, 7, 8, 3, 6, 8, 9)
    return torch.stack([upper_triangle[entry] for entry in order], dim=1).view(-1, 4, 4)
