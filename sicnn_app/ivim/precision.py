"""How precisely F, D, D* and S0 can be known from given b-values: Cramer-Rao bounds, and better b-values."""

from __future__ import annotations

import numpy as np

from sicnn_app.ivim.parameters import PARAMETERS

STEPS = (
    *(0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 350, 400, 450, 500),
    *(600, 700, 800, 900, 1000),
)
"""s/mm^2; b-values that a scanner is asked for, closer together where the perfusion part changes fast."""

LEAST_GAIN = 1e-9
"""Relative fall of the criterion below which an exchange is rounding, not an improvement."""

_UNSEEN = 1e-14
"""Share (squared cosine) of an unknown in a direction that the signals do not see; below it is rounding."""


Values = np.ndarray | float
"""Of one tissue, or of tissues of shape (...)."""


def signal_derivatives(
    bvals: np.ndarray, f: Values, d: Values, dstar: Values, s0: Values = 1.0
) -> np.ndarray:
    """Derivatives of the bi-exponential signal with respect to its unknowns, shape (..., B, 4).

    The last axis is in the order of :data:`sicnn_app.ivim.parameters.PARAMETERS`.
    """
    b = np.asarray(bvals, dtype=np.float64)
    f, d, dstar, s0 = (
        value[..., None] for value in np.broadcast_arrays(*(np.asarray(v, float) for v in (f, d, dstar, s0)))
    )
    blood, tissue = np.exp(-b * dstar), np.exp(-b * d)
    by_unknown = (
        s0 * (blood - tissue),
        -s0 * (1.0 - f) * b * tissue,
        -s0 * f * b * blood,
        f * blood + (1.0 - f) * tissue,
    )
    return np.stack(by_unknown, axis=-1)


def cramer_rao_bounds(
    bvals: np.ndarray, sigma: Values, f: Values, d: Values, dstar: Values, s0: Values = 1.0
) -> dict[str, np.ndarray]:
    """Smallest standard deviations that an unbiased estimate from one voxel alone can have.

    Parameters
    ----------
    bvals : ndarray, shape (B,), s/mm^2
        A value given twice is measured twice.
    sigma : ndarray, shape broadcastable to (..., B), or float, above 0
        Standard deviation of the noise of every signal, in the unit of ``s0``; of an average of n volumes
        that of one divided by the root of n.
    f, d, dstar, s0 : ndarray of shape (...), or float
        True values: fraction, mm^2/s, mm^2/s (the full second exponent), any unit. S0 is unknown as well.

    Returns
    -------
    dict of str to ndarray, shape (...)
        By label of :data:`sicnn_app.ivim.parameters.PARAMETERS`, in the unit of each. Infinite where the
        signals do not determine the unknown: D* where F is 0, D where F is 1, all four with fewer than four
        b-values.

    Raises
    ------
    ValueError
        When ``sigma`` is not above 0.

    Notes
    -----
    Roots of the diagonal of the inverse Fisher information for Gaussian noise, sum over b of
    (dS/dp) (dS/dq) / sigma^2 (Kay, Fundamentals of Statistical Signal Processing, 1993, chapter 3). The noise
    of magnitude images is Rician: below about three times sigma it tells less about the signal than Gaussian
    noise of that sigma does, and moves the mean besides, so that the bounds are too optimistic there. An
    estimate that draws on neighbours, or that is biased, can scatter less than the bound of a voxel alone.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    if not (sigma > 0).all():
        raise ValueError("the noise must be above 0")
    weighted = (
        signal_derivatives(bvals, f, d, dstar, s0)
        / np.broadcast_to(sigma, (*sigma.shape[:-1], len(bvals)))[..., None]
    )
    # D and F differ by a factor of a thousand: columns of one length keep the small one from rounding away.
    length = np.linalg.norm(weighted, axis=-2)
    scale = np.where(length > 0, length, 1.0)
    _, singular, directions = np.linalg.svd(weighted / scale[..., None, :], full_matrices=True)
    values = np.zeros((*singular.shape[:-1], len(PARAMETERS)))
    values[..., : singular.shape[-1]] = singular
    seen = values > np.finfo(float).eps * max(weighted.shape[-2:]) * values.max(axis=-1, keepdims=True)
    share = np.square(directions)
    variance = np.sum(share * (seen / np.where(seen, values, 1.0) ** 2)[..., None], axis=-2) / scale**2
    undetermined = np.sum(share * ~seen[..., None], axis=-2) > _UNSEEN
    bounds = np.where(undetermined | (length == 0), np.inf, np.sqrt(variance))
    return {label: bounds[..., index] for index, label in enumerate(PARAMETERS)}


def typical_bound(bvals: np.ndarray, sigma: Values, f: Values, d: Values, dstar: Values) -> float:
    """Geometric mean, over the tissues and over F, D and D*, of the bound relative to the true value.

    A sum of squares instead would be that of D* in the worst tissue, at the cost of everything else.
    Arguments are as for :func:`improve_bvals`, which minimises this.
    """
    sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), np.shape(f))
    bounds = cramer_rao_bounds(bvals, sigma[..., None], f, d, dstar)
    relative = [bounds[label] / true for label, true in (("f", f), ("d", d), ("dstar", dstar))]
    return float(np.exp(np.mean(np.log(relative))))


def improve_bvals(
    bvals: np.ndarray, sigma: Values, f: np.ndarray, d: np.ndarray, dstar: np.ndarray, *, directions: int = 1
) -> np.ndarray:
    """Better b-values for the same number of volumes.

    The volumes are exchanged, as many at a time as there are directions, for the b-value that lowers
    :func:`typical_bound` most, until none does; once from the b-values given and once from an even spread.
    The better end is returned, or what was given where neither is better. The result depends on nothing
    random. New b-values are among :data:`STEPS` and not above the highest one given: a higher one would take
    a longer echo time and cost signal.

    Parameters
    ----------
    bvals : ndarray, shape (N,), s/mm^2
        One per volume.
    sigma : ndarray, shape (T,), or float, above 0
        Noise of one volume relative to the S0 of every tissue.
    f, d, dstar : ndarray, shape (T,), above 0
        True values of the tissues that the b-values are to serve.
    directions : int
        Gradient directions: every b-value above 0 is acquired in all of them, b = 0 as often as it may be.

    Returns
    -------
    ndarray, shape (N,), s/mm^2, ascending
        At least one is 0, and of each above 0 there is a multiple of ``directions``. Never worse than the
        b-values given, unless they lack b = 0.

    Raises
    ------
    ValueError
        When the volumes of a b-value above 0 are no multiple of ``directions``.

    Notes
    -----
    The exchange is that of Fedorov, Theory of Optimal Experiments, 1972. Optimal b-values are few, since four
    unknowns need no more: they serve the bi-exponential model with these tissues, and would not show where it
    fails.
    """
    bvals = np.sort(np.asarray(bvals, dtype=np.float64))
    choice = np.unique([0.0, *(b for b in STEPS if b <= bvals[-1]), bvals[-1]])
    _, counts = np.unique(bvals[bvals > 0], return_counts=True)
    if (counts % directions).any():
        raise ValueError(f"volumes of a b-value above 0 must be a multiple of {directions} directions")
    # Above 0 volumes come in groups, so that what is left over is at b = 0, and stays.
    rest = bvals.size % directions
    own = bvals[rest::directions].copy()
    if not rest:
        own[0] = 0.0
    spread = choice[np.round(np.linspace(0, choice.size - 1, own.size)).astype(int)]
    tissues = [np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (f, d, dstar)]
    noise = np.broadcast_to(np.asarray(sigma, dtype=np.float64), tissues[0].shape)
    found = [_exchange(start, rest / directions, choice, noise, *tissues) for start in (own, spread)]
    # Where the b-values hardly determine the unknowns, rounding can lead the exchange to worse ones.
    ends = [np.concatenate([np.zeros(rest), np.repeat(groups, directions)]) for groups in (*found, own)]
    return min(ends, key=lambda end: typical_bound(end, noise, *tissues))


def _exchange(
    start: np.ndarray, rest: float, choice: np.ndarray, sigma: np.ndarray, *tissues: np.ndarray
) -> np.ndarray:
    """Better b-values of groups of volumes; ``rest`` groups at b = 0, a fraction of one, stay besides."""
    volumes = start.copy()
    gained = _information(choice, sigma, *tissues)
    fixed = rest * _information(np.zeros(1), sigma, *tissues)[0]
    least = _cost(fixed + _information(volumes, sigma, *tissues).sum(axis=0))
    # Ends because `least` only falls, by at least LEAST_GAIN: it is the number that the last exchange was
    # chosen by, not one computed anew, since other orders of the sums differ by more for the same b-values.
    while True:
        distinct = np.unique(volumes)
        # The last volume at b = 0 stays: S0, and the app's normaliser, rest on it.
        leaving = distinct if rest or np.count_nonzero(volumes == 0) > 1 else distinct[distinct > 0]
        if not leaving.size:
            return volumes
        total = fixed + _information(volumes, sigma, *tissues).sum(axis=0)
        without = total - _information(leaving, sigma, *tissues)
        costs = _cost(without[:, None] + gained[None])
        out, best = np.unravel_index(np.argmin(costs), costs.shape)
        if not costs[out, best] < least - LEAST_GAIN:
            return volumes
        least = costs[out, best]
        volumes[np.flatnonzero(volumes == leaving[out])[0]] = choice[best]
        volumes.sort()


def _information(bvals: np.ndarray, sigma: np.ndarray, *tissues: np.ndarray) -> np.ndarray:
    """Fisher information about the logarithms of the unknowns, shape (B, T, 4, 4)."""
    values = np.stack([*tissues, np.ones_like(tissues[0])], axis=-1)
    relative = signal_derivatives(bvals, *tissues) * values[:, None] / sigma[:, None, None]
    relative = np.swapaxes(relative, 0, 1)
    return relative[..., :, None] * relative[..., None, :]


def _cost(information: np.ndarray) -> np.ndarray:
    """Logarithm of the criterion, shape (...); infinite for singular information."""
    values, directions = np.linalg.eigh(information)
    regular = np.all(values > np.finfo(float).eps * len(PARAMETERS) * values[..., -1:], axis=-1)
    scale = np.where(regular[..., None], values, 1.0)
    variance = (np.square(directions[..., :3, :]) / scale[..., None, :]).sum(axis=-1)
    logarithms = 0.5 * np.log(variance).mean(axis=-1)
    return np.where(regular, logarithms, np.inf).mean(axis=-1)
