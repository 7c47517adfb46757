"""Maps as a prior, signals as the evidence: one estimate of the refinement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from sicnn_app.ivim.local_mean import local_sum
from sicnn_app.ivim.parameters import PARAMETERS, TISSUE_LABELS
from sicnn_app.ivim.precision import signal_derivatives
from sicnn_app.ivim.series import Evidence
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.settings import Bounds
from sicnn_app.sicnn.surroundings import Surroundings

ROUNDS = 20
"""Of estimating how far tissue departs from the prior. On smooth tissue D* is 16 % worse than a prior that is
right, with 12 rounds 22 %; with more than 20 fewer true values lie within the standard deviations."""

LAST_STEPS = 8
"""Steps to the mode after the last round; before, one a round suffices, since the prior hardly changes."""

WIDTH = 3.0
"""Voxels: standard deviation of the Gaussian in the slice, within the mask, over which departures are
averaged. Between 2.5 and 6 errors change by less than 1 %."""

DEPARTURE = (0.03, 0.1, 0.3, 1.0)
"""Standard deviations of F, log D, log D* and log S0 around the prior to begin with. What signals say nothing
about stays there: D* where F is near 0. That of S0 always stays, so that the prior does not decide on S0,
which belongs to coils rather than tissue, and of which the network follows the voxel's own noise. What a
region departs by in common goes no farther than this."""

_LOGARITHMIC = np.array([label != "f" for label in PARAMETERS])
_FREE = len(TISSUE_LABELS)

SHIFT_WIDTH = 1.5
"""Voxels: standard deviation of the Gaussian over which departures have a mean in common."""

SHIFT_SPREAD = 3.0
"""Voxels: of the Gaussian over which the squares of these means are averaged."""

SHIFTS_FROM = 3
"""Rounds before departures have a mean in common: where signals say little, first steps are large."""

OWN_SHARE = (1.6, 0.11)
"""a and c of 1 / (a + c n): share of a voxel's own noise that the prior holds after n similar voxels,
itself included, were averaged. From regressions of errors on noise over twelve kinds of truth: .55 for n of
1 or 2, .45 for 3, .29 for 12, .14 for 48 (benchmarks/accuracy/refinement.py)."""

LEAST_SHIFT = 1e-3
"""Spread of what departures have in common, relative to :data:`DEPARTURE`, below which it counts as none."""

LEAST_TISSUE = 0.1
"""Spread of values over the mask, relative to :data:`DEPARTURE`, that is added to what the prior shows."""

LEAST_NOISE = 1e-3
"""Of S0; noise that is smaller, or not known, counts as this."""

LEAST_LOGARITHM = 1e-3
"""Of the upper bound: where the lower bound of a parameter with a logarithm is at most this, its end."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""Of numbers that are divided by."""

SETTLED = 0.002
"""Standard deviations of the posterior: after a shorter step there is no other."""

VOXELS_AT_ONCE = 2**13

DAMPING = 1e-3
"""Of the diagonal of the Hessian, to begin with; a step that lowers nothing is not taken and raises it."""


@dataclass(frozen=True)
class Posterior:
    """Maps, and how sure they are, of voxels of shape (V,).

    Attributes
    ----------
    maps : dict of str to ndarray, shape (V,), float64
        f, d, dstar, s0.
    std : dict of str to ndarray, shape (V,), float64
        Of f, d and dstar, in their units.
    departure : ndarray, shape (3,)
        Median standard deviation of F, log D and log D* of the tissue around the prior.
    """

    maps: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    departure: np.ndarray


class _Data(NamedTuple):
    """Of some voxels: signals over the prior's S0 and their weights, (V, B), prior and its limits, (V, 4)."""

    signals: np.ndarray
    weights: np.ndarray
    floor: np.ndarray
    prior: np.ndarray
    low: np.ndarray
    high: np.ndarray


def refine(
    signals: np.ndarray,
    noise: np.ndarray,
    bvals: np.ndarray,
    prior: dict[str, np.ndarray],
    mask: np.ndarray,
    *,
    neighbours: np.ndarray,
    normaliser: np.ndarray,
    bounds: Bounds,
    first: tuple[float, ...] = DEPARTURE[:_FREE],
    floor: float = 0.0,
    rounds: int = ROUNDS,
    progress: Callable[[], None] | None = None,
) -> Posterior:
    """Maps between the prior and what the signals say, each as far as it can be trusted.

    With x = (F, log D, log D*, log S0) and the prior x ~ N(mu, Sigma), Sigma is how far tissue around a voxel
    departs from the prior, beyond what its noise lets expect. It is found by expectation maximisation: damped
    Gauss-Newton steps to the mode x, its covariance C by the curvature there, and Sigma the local mean of
    (x - mu)(x - mu)' + C. Where the prior is right Sigma falls and the maps stay the prior's; where it
    smoothes structure away, or noise is low, they go to the voxel's own fit.

    What neighbours depart by in common moves mu: by its mean under their own fits, drawn to 0 by the spread
    of such means around, which is found in the same rounds. Several voxels show what one alone cannot, unless
    they have noise in common.

    The prior holds a share h of the voxel's own noise (:data:`OWN_SHARE`), so that the two agree better than
    they should, and C is too small. With W, the covariance that the voxel's signals alone leave of the values
    of this tissue, h W of the prior's error is the noise of the evidence; the covariance of x is then
    C + h (2 W - W G Sigma - Sigma G W), G the inverse of the covariance of the voxel's own fit around mu.

    Noise that neighbours have in common, such as pulsation, lost signal or a misfit of the model, no average
    over them lowers: prior and evidence err alike. Where residuals around a voxel agree more than independent
    ones would, s W is added, s the share of the noise that they have in common; what N voxels say of mu
    counts as 1 / (1 + N s) of that.

    Parameters
    ----------
    signals : ndarray, shape (V, B)
        Of the voxels of the mask, any unit.
    noise : ndarray, shape (V, B)
        Standard deviation of the signals from the truth, independent between them.
    bvals : ndarray, shape (B,), s/mm^2
    prior : dict of str to ndarray, shape (V,)
        f, d, dstar and s0, in the units of the signals and within the bounds.
    mask : ndarray, shape (X, Y, Z), bool
    neighbours : ndarray, shape (V,)
        Similar voxels that were averaged for the prior of each, itself included.
    normaliser : ndarray, shape (V,)
        What S0 is held against its bounds by; units of the signals.
    first : tuple of three floats
        Departures of F, log D and log D* to begin with, and the farthest that a region departs in common.
    floor : float
        Noise of one channel of magnitude images, whose floor is to be reckoned with; units of the signals.
    rounds : int
        Of estimating how far tissue departs.
    progress : callable (), optional
        Called after each of them.

    Notes
    -----
    Expectation maximisation for hierarchical models: Dempster, Laird and Rubin, J R Stat Soc B 1977;39:1-38.
    """
    work = _Work(signals, noise, np.asarray(bvals), prior, normaliser, bounds, floor)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        around = Surroundings(mask, threads.map)
        found = _departures(work, around, np.array(first), rounds, progress)
        return _modes(work, mask, neighbours, found, threads.map)


class _Departures(NamedTuple):
    """Where the rounds of :func:`refine` ended: values and the damping of their steps, centre, departure.

    Shapes (V, 4), (V,), (V, 4) and (V, 6), the lower triangles of Sigma.
    """

    found: np.ndarray
    damping: np.ndarray
    centre: np.ndarray
    departure: np.ndarray


def _departures(
    work: _Work,
    around: Surroundings,
    first: np.ndarray,
    rounds: int,
    progress: Callable[[], None] | None,
) -> _Departures:
    """How far tissue departs from the prior: what :func:`refine` repeats."""
    mean, sample = work.prior(), around.sample
    found, damping = mean.copy(), np.full(len(mean), DAMPING)
    # Kept as the six numbers of each symmetric matrix: whole ones of large images would take much memory.
    row, column = np.tril_indices(_FREE)
    begin = np.diag(np.square(first))[row, column]
    departure = np.tile(begin, (len(sample), 1))
    moments, evidence = np.empty((2, *departure.shape))
    scores, shift = np.zeros((2, len(sample), _FREE))
    centre, spread_of_shifts = mean.copy(), departure.copy()
    together = _in_common_at(work, mean, around)[sample]
    counted = 1.0 / (1.0 + 2 * np.pi * SHIFT_WIDTH**2 * together[:, None])
    parts = _parts(len(sample))
    known: list[_Seen | None] = [None] * len(parts)

    def one_round(index: int) -> None:
        voxels, part = sample[parts[index]], parts[index]
        precision = np.linalg.inv(_whole(departure[part]))
        found[voxels], damping[voxels], seen = _towards_mode(
            work.data(voxels, centre),
            work.bvals,
            precision,
            found[voxels],
            damping[voxels],
            known[index],
            steps=1,
        )
        apart = found[voxels] - centre[voxels]
        covariance = np.linalg.inv(seen.information + precision)
        moment = apart[:, :, None] * apart[:, None] + covariance
        moments[part], known[index] = moment[:, row, column], seen
        # Information of the own fit on the mean of departures, and its score of a mean of 0.
        prior_of = precision[:, :_FREE, :_FREE]
        own = prior_of - prior_of @ covariance[:, :_FREE, :_FREE] @ prior_of
        evidence[part] = own[:, row, column]
        scores[part] = (prior_of @ apart[:, :_FREE, None] + own @ shift[part, :, None])[..., 0]

    for done in range(rounds):
        list(around.over(one_round, range(len(parts))))
        departure[:] = around.mean(moments, WIDTH)
        if done >= SHIFTS_FROM:
            shift[:], second = _shifts(
                counted * around.total(evidence, SHIFT_WIDTH),
                counted * around.total(scores, SHIFT_WIDTH),
                spread_of_shifts,
                first,
            )
            spread_of_shifts[:] = around.mean(second, SHIFT_SPREAD)
            centre[sample, :_FREE] = mean[sample, :_FREE] + shift
        if progress is not None:
            progress()
    if around.every > 1:
        departure = around.mean(moments, WIDTH, everywhere=True)
        # Voxels far from all others that lie between those of the sample.
        departure[departure[:, 0] == 0] = begin
        centre[:, :_FREE] = mean[:, :_FREE] + around.mean(shift, SHIFT_WIDTH, everywhere=True)
    return _Departures(found, damping, centre, departure)


def _in_common_at(work: _Work, x: np.ndarray, around: Surroundings) -> np.ndarray:
    """Share of noise in common, shape (V,), by what x leaves over of the signals."""
    residual = np.empty(work.signals.shape, dtype=np.float32)

    def of(part: slice) -> None:
        residual[part] = _residual(x[part], work.data(part, x), work.bvals)

    list(around.over(of, _parts(len(x))))
    return in_common(residual, len(work.bvals) - len(PARAMETERS), around.mask)


def _modes(
    work: _Work,
    mask: np.ndarray,
    neighbours: np.ndarray,
    rounds: _Departures,
    over: Callable[..., Iterable[None]],
) -> Posterior:
    """Modes of the posterior and their standard deviations, as :func:`refine` says."""
    found, damping, centre, departure = rounds
    mean = work.prior()
    # The second part is for maps that are constant, and for a single voxel.
    tissue = np.diag(np.square(DEPARTURE) * ([LEAST_TISSUE**2] * _FREE + [1.0]))
    tissue[:_FREE, :_FREE] += np.cov(mean[:, :_FREE].T, bias=True)
    values_known = np.linalg.inv(tissue)
    variances, alone = np.empty((2, len(found), _FREE))
    decided = np.empty(len(found))
    residual = np.empty(work.signals.shape, dtype=np.float32)

    def last(part: slice) -> None:
        around = _whole(departure[part])
        precision = np.linalg.inv(around)
        data = work.data(part, centre)
        found[part], _, seen = _towards_mode(
            data, work.bvals, precision, found[part], damping[part], steps=LAST_STEPS
        )
        residual[part] = _residual(found[part], data, work.bvals)
        own = 1.0 / (OWN_SHARE[0] + OWN_SHARE[1] * np.maximum(neighbours[part], 1))
        variances[part], alone[part], decided[part] = _variances(
            seen.information, around, precision, values_known, own
        )

    list(over(last, _parts(len(found))))
    common = in_common(residual, len(work.bvals) - decided, mask)
    spread = np.sqrt(variances + common[:, None] * alone)
    spread *= np.where(_LOGARITHMIC[:_FREE], np.exp(found[:, :_FREE]), 1.0)
    diagonal = departure[:, np.equal(*np.tril_indices(_FREE))]
    return Posterior(
        work.maps(found),
        {label: spread[:, index] for index, label in enumerate(TISSUE_LABELS)},
        np.sqrt(np.median(diagonal, axis=0)),
    )


@dataclass(frozen=True)
class _Work:
    """What :func:`refine` is given, part by part in float64."""

    signals: np.ndarray
    noise: np.ndarray
    bvals: np.ndarray
    given: dict[str, np.ndarray]
    normaliser: np.ndarray
    bounds: Bounds
    floor: float

    def limits(self, label: str) -> tuple[float, float]:
        """Ends of a parameter whose logarithm, or which itself, is estimated."""
        low, high = getattr(self.bounds, label)
        return (low if label == "f" else max(low, LEAST_LOGARITHM * high)), high

    def prior(self) -> np.ndarray:
        """Shape (V, 4), S0 relative to itself: 0."""
        mean = np.zeros((len(self.signals), len(PARAMETERS)))
        for index, label in enumerate(TISSUE_LABELS):
            values = np.clip(np.asarray(self.given[label], dtype=np.float64), *self.limits(label))
            mean[:, index] = np.log(values) if _LOGARITHMIC[index] else values
        return mean

    def data(self, part: slice | np.ndarray, mean: np.ndarray) -> _Data:
        level = self.given["s0"][part, None].astype(np.float64)
        noise = np.maximum(self.noise[part] / level, LEAST_NOISE)
        low, high = np.array([self.limits(label) for label in PARAMETERS]).T
        limits = np.tile(low, (len(level), 1)), np.tile(high, (len(level), 1))
        for end in limits:
            end[:, -1:] *= self.normaliser[part, None] / level
            end[:, _LOGARITHMIC] = np.log(end[:, _LOGARITHMIC])
        return _Data(self.signals[part] / level, noise**-2, self.floor / level, mean[part], *limits)

    def maps(self, found: np.ndarray) -> dict[str, np.ndarray]:
        values = np.where(_LOGARITHMIC, np.exp(found), found).T
        maps = {
            label: np.clip(one, *getattr(self.bounds, label))
            for label, one in zip(TISSUE_LABELS, values[:_FREE], strict=True)
        }
        return {**maps, "s0": values[-1] * self.given["s0"]}


def _shifts(
    evidence: np.ndarray, scores: np.ndarray, spread: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean departures of F, log D and log D* around voxels, shape (V, 3), and their second moments, (V, 6).

    The information on them and its scores are sums around the voxels; the prior has mean 0 and ``spread``,
    and nothing departs by more than ``most``. Matrices are lower triangles, as in :func:`refine`.
    """
    row, column = np.tril_indices(_FREE)
    least = np.diag(np.square(LEAST_SHIFT * most))
    covariance = np.linalg.inv(_symmetric(evidence) + np.linalg.inv(_symmetric(spread) + least))
    shift = np.clip((covariance @ scores[..., None])[..., 0], -most, most)
    return shift, (shift[:, :, None] * shift[:, None] + covariance)[:, row, column]


def _symmetric(lower: np.ndarray) -> np.ndarray:
    """Matrices of shape (V, 3, 3) from their lower triangles, (V, 6)."""
    row, column = np.tril_indices(_FREE)
    whole = np.empty((len(lower), _FREE, _FREE))
    whole[:, row, column] = whole[:, column, row] = lower
    return whole


def _parts(count: int) -> list[slice]:
    return [slice(start, start + VOXELS_AT_ONCE) for start in range(0, count, VOXELS_AT_ONCE)]


def _whole(lower: np.ndarray) -> np.ndarray:
    """Covariances of all four, shape (V, 4, 4), from the lower triangles of those of F, D and D*, (V, 6)."""
    whole = np.zeros((len(lower), len(PARAMETERS), len(PARAMETERS)))
    whole[:, :_FREE, :_FREE] = _symmetric(lower)
    whole[:, -1, -1] = DEPARTURE[-1] ** 2
    return whole


class _Seen(NamedTuple):
    """Of voxels at x, without the prior: misfit (V,), its descent (V, 4) and information (V, 4, 4)."""

    misfit: np.ndarray
    descent: np.ndarray
    information: np.ndarray


def _seen(x: np.ndarray, data: _Data, bvals: np.ndarray) -> _Seen:
    values = np.where(_LOGARITHMIC, np.exp(x), x)
    slopes = signal_derivatives(bvals, *values.T) * np.where(_LOGARITHMIC, values, 1.0)[:, None]
    signals = slopes[..., -1]
    # The mean magnitude to second order in the noise.
    lifted = np.sqrt(signals**2 + data.floor**2)
    slopes *= (signals / lifted)[..., None]
    residual = data.signals - lifted
    weighted = np.swapaxes(slopes * data.weights[..., None], 1, 2)
    return _Seen(
        (data.weights * residual**2).sum(axis=1), (weighted @ residual[..., None])[..., 0], weighted @ slopes
    )


def _towards_mode(
    data: _Data,
    bvals: np.ndarray,
    precision: np.ndarray,
    x: np.ndarray,
    damping: np.ndarray,
    seen: _Seen | None = None,
    *,
    steps: int,
) -> tuple[np.ndarray, np.ndarray, _Seen]:
    """Damped Gauss-Newton steps within the limits; ``seen`` is of x, and comes back of where they end."""
    identity = np.eye(len(PARAMETERS))
    seen = _seen(x, data, bvals) if seen is None else _Seen(*(one.copy() for one in seen))
    x, damping, moving = x.copy(), damping.copy(), np.arange(len(x))
    for _ in range(steps):
        here, known, at = (
            _Data(*(one[moving] for one in data)),
            _Seen(*(one[moving] for one in seen)),
            x[moving],
        )
        around, damped = precision[moving], damping[moving]
        pull = (around @ (at - here.prior)[..., None])[..., 0]
        descent = known.descent - pull
        hessian = known.information + around
        free = ~(((at <= here.low) & (descent < 0)) | ((at >= here.high) & (descent > 0)))
        diagonal = damped[:, None] * np.diagonal(hessian, axis1=1, axis2=2) + ~free
        hessian = np.where(free[:, :, None] & free[:, None], hessian, 0.0) + identity * diagonal[:, None]
        tried = at + np.linalg.solve(hessian, (descent * free)[..., None])[..., 0]
        tried = np.clip(tried, here.low, here.high)
        step = tried - at
        new = _seen(tried, here, bvals)
        # Of the prior's cost, to second order about x: exact.
        rise = (step * (2 * pull + (around @ step[..., None])[..., 0])).sum(axis=1)
        better = new.misfit + rise <= known.misfit
        accepted = moving[better]
        x[accepted] = tried[better]
        for whole, part in zip(seen, new, strict=True):
            whole[accepted] = part[better]
        damping[moving] = np.clip(damped * np.where(better, 0.2, 8.0), 1e-7, 1e7)
        length = np.einsum("vi,vij,vj->v", step, hessian, step)
        moving = moving[~better | (length > SETTLED**2)]
        if not moving.size:
            break
    return x, damping, seen


def _residual(x: np.ndarray, data: _Data, bvals: np.ndarray) -> np.ndarray:
    """Signals less those of the model, in their noise, shape (V, B)."""
    modelled = ivim_signal_maps(bvals, *np.where(_LOGARITHMIC, np.exp(x), x).T)
    return (data.signals - np.hypot(modelled, data.floor)) * np.sqrt(data.weights)


def in_common(residual: np.ndarray, freedom: np.ndarray | float, mask: np.ndarray) -> np.ndarray:
    """Share of the variance of their noise that neighbours have in common, shape (V,).

    By how much more than by chance the local means of residuals, shape (V, B), differ from 0, over what they
    would come to if all noise were in common and each voxel had ``freedom`` b-values more than parameters.
    """

    def around(values: np.ndarray | float, width: float = WIDTH) -> np.ndarray:
        volume = np.zeros(mask.shape, dtype=np.float32)
        volume[mask] = values
        return local_sum(volume, mask, width)

    # Of sums of independent values: the square of a Gaussian is one of half its variance.
    chance = around(np.einsum("vb,vb->v", residual, residual), WIDTH / np.sqrt(2))
    excess = (sum(np.square(around(one)) for one in residual.T) - chance) / np.square(around(1.0))
    return np.maximum(around(excess), 0.0) / around(np.maximum(freedom, 1.0))


def noise_in_common(
    maps: dict[str, np.ndarray], evidence: Evidence, mask: np.ndarray, bvals: np.ndarray, floor: float = 0.0
) -> np.ndarray:
    """Share of the variance of their noise that neighbours have in common, shape (X, Y, Z), 0 outside.

    By what the signals leave over of the decays of the maps, f, d, dstar and s0 of shape (X, Y, Z).
    """
    noise = np.broadcast_to(evidence.noise, evidence.signals.shape)[mask]
    residual = evidence.signals[mask]
    given = [maps[label][mask].astype(np.float64) for label in PARAMETERS]
    for part in _parts(len(residual)):
        modelled = np.hypot(ivim_signal_maps(bvals, *(values[part] for values in given)), floor)
        least = np.maximum(LEAST_NOISE * given[-1][part], SMALLEST)[:, None]
        residual[part] = (residual[part] - modelled) / np.maximum(noise[part], least)
    del noise
    share = np.zeros(mask.shape)
    share[mask] = in_common(residual, len(bvals) - len(PARAMETERS), mask)
    return share


def _variances(
    information: np.ndarray, around: np.ndarray, precision: np.ndarray, tissue: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of F, log D and log D* by the formula of :func:`refine`, and of its W, each of shape (V, 3).

    The last is how many of the four values the voxel's signals alone decide, shape (V,).
    """
    covariance = np.linalg.inv(information + precision)
    alone = np.linalg.inv(information + tissue)
    decided = np.einsum("vij,vji->v", information, alone)
    # The prior's S0 is not used, and so has no share.
    alone[:, -1] = alone[:, :, -1] = 0.0
    inverse = information - information @ covariance @ information
    mixed = alone @ inverse @ around
    both = 2 * alone - mixed - np.swapaxes(mixed, 1, 2)
    variances, least, of_own = (
        np.diagonal(of, axis1=1, axis2=2)[:, :_FREE]
        for of in (covariance + own[:, None, None] * both, covariance, alone)
    )
    return np.maximum(variances, least), of_own, decided
