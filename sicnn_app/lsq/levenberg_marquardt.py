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

    Symmetric matrices are their diagonal and then the six entries above it by rows. Voxels come last, so that
    every entry of all voxels is one operation on memory in a row.

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


ROWS, COLUMNS = (0, 1, 2, 3, 0, 0, 0, 1, 1, 2), (0, 1, 2, 3, 1, 2, 3, 2, 3, 3)
"""Of the entries of a symmetric matrix."""

DIAGONAL = slice(4)
WHOLE = (0, 4, 5, 6, 4, 1, 7, 8, 5, 7, 2, 9, 6, 8, 9, 3)
"""Entries that make the rows of the whole matrix."""


def expand(signals: Tensor, bvals: Tensor, parameters: Tensor, roots: Tensor | None = None) -> Expansion:
    """Expand the residual sum of squares of the bi-exponential around ``parameters``.

    All derivatives are combinations of 15 sums over b: products of the residual and the two
    exponentials times 1, b and b^2, so that the Jacobian is never formed.

    Parameters
    ----------
    signals : Tensor, shape (B, V)
    bvals : Tensor, shape (B,), s/mm^2
    parameters : Tensor, shape (4, V), rows S0, F, D, D* (mm^2/s)
        Or (4, N V): N points of all voxels, one after the other. The expansion is in units of :data:`SCALE`.
    roots : Tensor, shape (B, V), optional
        Of the weights of the squared residuals; ``signals`` are multiplied by them.
    """
    s0, f = parameters[:2]
    g = 1 - f
    u, v = s0 * f, s0 * g
    residual, blood, tissue = _residual(signals, bvals, parameters, roots)
    product = torch.empty_like(blood)
    rss = torch.mul(residual, residual, out=product).sum(dim=0)
    powers = torch.stack((torch.ones_like(bvals), bvals, bvals.square()))
    pairs = (residual, blood), (residual, tissue), (blood, blood), (blood, tissue), (tissue, tissue)
    sums = [powers @ torch.mul(*pair, out=product) for pair in pairs]
    (rb0, rb1, rb2), (rt0, rt1, rt2), (bb0, bb1, bb2), (bt0, bt1, bt2), (tt0, tt1, tt2) = sums
    scale = signals.new_tensor(SCALE)
    outer = (scale[list(ROWS)] * scale[list(COLUMNS)])[:, None]
    # Sums over b of a compartment, or of their difference, times its signal and a power of b.
    gradient = torch.stack((f * rb0 + g * rt0, s0 * (rb0 - rt0), -v * rt1, -u * rb1)) * scale[:, None]
    mixed_blood, mixed_tissue = f * bb0 + g * bt0, f * bt0 + g * tt0
    normal = torch.stack(
        (
            f * mixed_blood + g * mixed_tissue,
            s0 * s0 * (bb0 - 2 * bt0 + tt0),
            v * v * tt2,
            u * u * bb2,
            s0 * (mixed_blood - mixed_tissue),
            -v * (f * bt1 + g * tt1),
            -u * (f * bb1 + g * bt1),
            s0 * v * (tt1 - bt1),
            s0 * u * (bt1 - bb1),
            v * u * bt2,
        )
    )
    normal *= outer
    zero = torch.zeros_like(f)
    curvature = torch.stack(
        (zero, zero, v * rt2, u * rb2, rb0 - rt0, -g * rt1, -f * rb1, s0 * rt1, -s0 * rb1, zero)
    )
    return Expansion(rss, gradient, normal, torch.addcmul(normal, curvature, outer))


def _residual(
    signals: Tensor, bvals: Tensor, parameters: Tensor, roots: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Residuals and both exponentials, shape (B, N V) each, times ``roots``; see :func:`expand`."""
    points = len(bvals), parameters.shape[1] // max(1, signals.shape[1]), signals.shape[1]
    s0, f, d, dstar = parameters
    u, v = (amplitude.view(points[1:]) for amplitude in (s0 * f, s0 * (1 - f)))
    blood, tissue = (torch.exp(-bvals[:, None] * rate).view(points) for rate in (dstar, d))
    if roots is not None:
        blood, tissue = roots[:, None] * blood, roots[:, None] * tissue
    residual = torch.addcmul(torch.addcmul(-signals[:, None], u, blood), v, tissue)
    return residual.flatten(1), blood.flatten(1), tissue.flatten(1)


def descend(
    signals: Tensor,
    bvals: Tensor,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    steps: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As many steps from every start, whether it has arrived or not: parameters and residual sums of squares.

    As for :func:`minimise`, but ``start`` and what is returned may hold several points of every voxel, shapes
    (4, N V) and (N V,), see :func:`expand`.
    """
    y, roots = _weighed(signals, weights)
    x, here = start, expand(y, bvals, start, roots)
    damping = torch.full_like(here.rss, FIRST_DAMPING)
    for left in reversed(range(steps)):
        step = _step(x, here, _held(x, here.gradient, lower, upper), damping, lower, upper)
        trial = _trial(x, step, lower, upper)
        if not left:
            rss = _residual(y, bvals, trial, roots)[0].square().sum(dim=0)
            accepted = rss < here.rss
            return torch.where(accepted, trial, x), torch.where(accepted, rss, here.rss)
        x, here, damping = _better(x, here, damping, trial, expand(y, bvals, trial, roots))
    return x, here.rss


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
    voxels = signals.shape[1]
    result = Minimum(
        parameters=start.clone(),
        rss=signals.new_empty(voxels),
        converged=torch.zeros(voxels, dtype=torch.bool, device=signals.device),
        iterations=torch.zeros(voxels, dtype=torch.int64, device=signals.device),
    )
    exact = NEGLIGIBLE_RESIDUAL**2 * len(bvals)
    active = torch.arange(voxels, device=signals.device)
    y, roots = _weighed(signals, weights)
    x, here = start, expand(y, bvals, start, roots)
    damping = torch.full_like(here.rss, FIRST_DAMPING)
    for iteration in range(max_iterations + 1):
        held = _held(x, here.gradient, lower, upper)
        step = _step(x, here, held, damping, lower, upper)
        done = (here.rss <= exact) | (damping > MAX_DAMPING) | _stationary(here, held)
        # Half of what the step should bring, or more: where that is nothing, it need not be tried.
        gain = -(here.gradient * step).sum(dim=0)
        done |= (gain <= RELATIVE_DECREASE * here.rss) & (step.abs() <= RELATIVE_STEP).all(dim=0)
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
            active, y, x, step, damping, *rest = (
                value.index_select(-1, keep) for value in (active, y, x, step, damping, *here)
            )
            here = Expansion(*rest)
            roots = None if roots is None else roots.index_select(1, keep)
        trial = _trial(x, step, lower, upper)
        x, here, damping = _better(x, here, damping, trial, expand(y, bvals, trial, roots))
    return result


def _weighed(signals: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Signals times the roots of their weights, and these."""
    if weights is None:
        return signals, None
    roots = weights.sqrt()
    return roots * signals, roots


def _trial(x: Tensor, step: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x + step * x.new_tensor(SCALE)[:, None], lower), upper)


def _better(
    x: Tensor, here: Expansion, damping: Tensor, trial: Tensor, there: Expansion
) -> tuple[Tensor, Expansion, Tensor]:
    """Where it is better, the trial with less damping; elsewhere ``x`` with more.

    Both are written into ``trial`` and ``there``.
    """
    accepted = there.rss < here.rss
    damping = torch.where(
        accepted,
        (damping * DAMPING_AFTER_SUCCESS).clamp(min=MIN_DAMPING),
        damping * DAMPING_AFTER_FAILURE,
    )
    rejected = (~accepted).nonzero()[:, 0]
    for new, old in zip((trial, *there), (x, *here), strict=True):
        new[..., rejected] = old[..., rejected]
    return trial, there, damping


def _step(x: Tensor, here: Expansion, held: Tensor, damping: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Damped Newton or Gauss-Newton step that stays in the box, shape (4, V), units of SCALE."""
    scale = x.new_tensor(SCALE)[:, None]
    down, up = (lower - x) / scale, (upper - x) / scale
    ridge = torch.addcmul(x.new_tensor(DIAGONAL_FLOOR), damping, here.normal[DIAGONAL])
    matrix = here.hessian.clone()
    matrix[DIAGONAL] += ridge
    step, convex = _solve(matrix, -here.gradient, held)
    other = (~convex).nonzero()[:, 0]
    if len(other):
        plain = here.normal[:, other]
        plain[DIAGONAL] += ridge[:, other]
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

    By L D L^T, entry by entry: routines for many small matrices take each by itself. Nothing moves what has
    an infinite entry on the diagonal.
    """
    a00, a11, a22, a33 = torch.where(fixed, torch.inf, matrix[DIAGONAL])
    a01, a02, a03, a12, a13, a23 = matrix[4:]
    r0, r1, r2, r3 = right
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


def _stationary(here: Expansion, held: Tensor) -> Tensor:
    """True where the residual is orthogonal to every free column of the Jacobian, shape (V,), bool."""
    norms = (here.normal[DIAGONAL].clamp(min=0.0) * here.rss).sqrt()
    return ((here.gradient.abs() <= GRADIENT_TOLERANCE * norms) | held).all(dim=0)
