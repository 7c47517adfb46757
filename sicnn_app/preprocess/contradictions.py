"""Gradient tables held against the images: order, strength, groups that differ, parts of another gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.expected import DecayPrior, expect, misfits
from sicnn_app.preprocess.volumes import ranges

PriorOf = Callable[[np.ndarray, np.ndarray | None], DecayPrior]

MAX_SHIFT = 3
"""Volumes by which a table is tried to be shifted."""

EXPLAINS = 0.25
"""Share of a misfit that an explanation may leave."""

MISFITS = 1.0
"""Mean squared distance per volume, in noise and fluctuation, from which on an explanation is looked for."""

SOME_RISES = 0.1
"""From which share on sorting is tried as the explanation."""

SORTED = "in another order, as if it or the volumes had been sorted"

MOST_TRIED = 12
"""Single volumes, the worst first, that are tried as the explanation of a misfit."""

RISES = 0.3
"""Share of the pairs of volumes in which the signal rises with b that no series of tissue reaches."""

MANY = 0.2
"""Of the volumes; when more fit no b-value, the table is wrong and not the volumes."""

RISE = 0.05
"""Relative; what counts as a rise."""

FAR_APART = 0.1
"""Of the range of b-values; nearer volumes say nothing about the order."""

LENGTH_TOLERANCE = 0.05
"""Of |g|^2 within a shell: rounding and imaging gradients."""

UNEQUAL = 0.06
"""Relative; spread of the volumes of one b-value beyond which they do not belong together."""

LOW = 60.0
"""s/mm^2; up to it perfusion makes volumes differ more than anisotropy does."""

MIN_GAIN = 0.06
"""Relative; a factor nearer to 1 is drift."""


@dataclass(frozen=True)
class Contradiction:
    """What does not fit together.

    Attributes
    ----------
    volumes : tuple of int
        Counted from 0 in the source image.
    what : str
        The volumes, what is wrong and what it looks like, one sentence.
    remedy : str
        What to do.
    cannot_be_right : bool
        No map of it would mean anything.
    """

    volumes: tuple[int, ...]
    what: str
    remedy: str
    cannot_be_right: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True)
class CheckedTable:
    """B-values to be used, what they let expect, and what was found.

    Attributes
    ----------
    bvals : ndarray, shape (N,), s/mm^2
    prior : DecayPrior
        Of these b-values.
    contradictions : tuple of Contradiction
    said : tuple of str
        What was decided without a contradiction.
    hopeless : bool
        The table cannot be right, so that no volume can be held against it.
    """

    bvals: np.ndarray
    prior: DecayPrior
    contradictions: tuple[Contradiction, ...] = ()
    said: tuple[str, ...] = ()
    hopeless: bool = False


def pooled_curve(signals: np.ndarray) -> np.ndarray:
    """Level of every volume, shape (N,), about 1 without weighting: median over blocks, shape (K, N)."""
    return np.median(signals, axis=0)


def _misfit(signals: np.ndarray, noise: float, prior: DecayPrior) -> float:
    return float(np.median(misfits(signals, noise, prior)))


def _suspects(curve: np.ndarray, noise: float, prior: DecayPrior) -> np.ndarray:
    """The volumes that the others let expect least, the worst first."""
    expected = expect(
        curve[None], np.full((1, curve.size), noise), np.ones((1, curve.size), dtype=bool), prior
    )
    scores = np.abs(curve - expected.levels[0]) / expected.deviation[0]
    return np.argsort(-scores, kind="stable")[:MOST_TRIED]


def _misfit_without(bad: int, signals: np.ndarray, noise: float, prior: DecayPrior) -> float:
    """Least misfit when some volumes are left out, found one after the other."""
    kept, found = np.arange(signals.shape[1]), np.inf
    for _ in range(bad):
        tried = _suspects(pooled_curve(signals[:, kept]), noise, prior.of_volumes(kept))
        rest = [np.delete(kept, i) for i in tried]
        found, kept = min(
            ((_misfit(signals[:, left], noise, prior.of_volumes(left)), left) for left in rest),
            key=lambda pair: pair[0],
        )
    return found


def check_table(series: DwiSeries, signals: np.ndarray, noise: float, prior_of: PriorOf) -> CheckedTable:
    """Look for the table that fits the images best, and say what the given one does wrong.

    Parameters
    ----------
    series : DwiSeries
        Its b-values and vectors are looked at, not its signals.
    signals : ndarray, shape (K, N)
        Blocks, about 1 without weighting.
    noise : float
        Variance of a block's signal.
    prior_of : callable (bvals, bvecs) to DecayPrior
    """
    bvals, prior, said = _strength_in_lengths(series, signals, noise, prior_of)
    given = _misfit(signals, noise, prior)
    rises = _rises(bvals, pooled_curve(signals))
    if given < MISFITS and rises < RISES:
        return CheckedTable(bvals, prior, said=said)
    tried = [
        (_misfit(signals[:, order], noise, prior), name)
        for name, order in _orders(bvals, pooled_curve(signals), rises >= SOME_RISES)
    ]
    # The first that is nearly the best: sorting explains whatever a simpler order does.
    least = min(misfit for misfit, _ in tried)
    best, name = next(one for one in tried if one[0] <= 1.5 * least)
    # One bad volume, or two where any order would do, is less than a bad table.
    bad = 2 if name == SORTED else 1
    explained = best < EXPLAINS * given and best < max(MISFITS, given / 10)
    explained = explained and best < 0.95 * _misfit_without(bad, signals, noise, prior)
    if not explained and rises < RISES:
        return CheckedTable(bvals, prior, said=said)
    looks = f"; the images fit a table {name} (misfit {best:.2g} instead of {given:.2g})" if explained else ""
    found = _wrong_table(series, bvals, pooled_curve(signals), rises, looks)
    return CheckedTable(bvals, prior, (found,), said, hopeless=True)


def check_order(
    series: DwiSeries, bvals: np.ndarray, signals: np.ndarray, off: np.ndarray
) -> Contradiction | None:
    """A table in another order, where too many volumes, ``off``, shape (N,), bool, fit no b-value.

    Parameters are those of :func:`check_table`.
    """
    level = pooled_curve(signals)
    if off.sum() < 3 or off.mean() < MANY:
        return None
    return _wrong_table(
        series,
        bvals,
        level,
        _rises(bvals, level),
        f"; {off.sum()} of {off.size} volumes fit no b-value, as if sorted",
    )


def _wrong_table(
    series: DwiSeries, bvals: np.ndarray, level: np.ndarray, rises: float, looks: str
) -> Contradiction:
    low, high = bvals <= np.quantile(bvals, 0.25), bvals >= np.quantile(bvals, 0.75)
    return Contradiction(
        tuple(series.source_volumes.tolist()),
        "the b-values do not fit the images: the signal of the volumes with the lowest b-values is "
        f"{np.median(level[low]) / np.median(level[high]):.2g} times that of the highest, and in "
        f"{rises:.0%} of all pairs it rises with b{looks}",
        "put the .bval (and .bvec) into the order of the volumes",
        cannot_be_right=True,
    )


def _orders(bvals: np.ndarray, level: np.ndarray, shuffled: bool) -> list[tuple[str, np.ndarray]]:
    """Explanations: names, and the volume that belongs to each entry of the table."""
    order = np.arange(bvals.size)
    orders = [("in reverse", order[::-1])]
    for shift in range(1, min(MAX_SHIFT, bvals.size // 3) + 1):
        volumes = "volume" if shift == 1 else "volumes"
        orders.append((f"shifted by {shift} {volumes} towards the beginning", np.roll(order, shift)))
        orders.append((f"shifted by {shift} {volumes} towards the end", np.roll(order, -shift)))
    if shuffled:
        by_level = np.empty_like(order)
        by_level[np.argsort(bvals, kind="stable")] = np.argsort(-level, kind="stable")
        orders.append((SORTED, by_level))
    return orders


def _rises(bvals: np.ndarray, level: np.ndarray) -> float:
    """Share of pairs in which the signal rises with b, whatever single volume is left out."""
    apart = bvals[None, :] - bvals[:, None] > FAR_APART * np.ptp(bvals)
    higher = apart & (level[None, :] > level[:, None] * (1 + RISE))
    pairs, rising = apart.sum(), higher.sum()
    if not rising:
        return 0.0
    without = rising - higher.sum(axis=0) - higher.sum(axis=1)
    left = pairs - apart.sum(axis=0) - apart.sum(axis=1)
    return float(np.min(without / np.maximum(left, 1)))


def _strength_in_lengths(
    series: DwiSeries, signals: np.ndarray, noise: float, prior_of: PriorOf
) -> tuple[np.ndarray, DecayPrior, tuple[str, ...]]:
    """B-values with the strength that is in the lengths of the vectors, where the images say so."""
    prior = prior_of(series.bvals, series.bvecs)
    if series.bvecs is None:
        return series.bvals, prior, ()
    squares = np.square(series.bvecs).sum(axis=1)
    _, index = group_bvalues(series.bvals)
    weighted = np.isfinite(squares) & (series.bvals > 0.5)
    largest = np.array([squares[weighted & (index == i)].max(initial=0) for i in range(index.max() + 1)])[
        index
    ]
    shorter = weighted & (squares < (1 - LENGTH_TOLERANCE) * largest)
    if not shorter.any():
        return series.bvals, prior, ()
    strength = np.where(weighted, series.bvals * squares, series.bvals)
    strong = prior_of(strength, series.bvecs)
    given, lengths = (_misfit(signals, noise, one) for one in (prior, strong))
    varied = (
        f"the gradient vectors of volumes {ranges(series.source_volumes[shorter])} "
        "are shorter than others of their b-value"
    )
    if lengths < 0.7 * given:
        return (
            strength,
            strong,
            (
                f"{varied}: b |g|^2 fits the images better (misfit {lengths:.2g} instead of {given:.2g}) "
                "and is used",
            ),
        )
    if not shorter[squares > 0].any():
        # Trace images among the directions.
        return series.bvals, prior, ()
    return series.bvals, prior, (f"{varied}: the b-values as written fit the images no worse and are used",)


@dataclass(frozen=True)
class Gain:
    """Volumes of another gain, their factors (all volumes, shape (N,)), what that is called and says."""

    volumes: np.ndarray
    factors: np.ndarray
    name: str
    contradictions: tuple[Contradiction, ...]


def find_gain(
    bvals: np.ndarray, source_volumes: np.ndarray, signals: np.ndarray, noise: float, prior: DecayPrior
) -> Gain | None:
    """A part of the series, from some volume on, that is brighter or darker by one factor."""
    curve = pooled_curve(signals)
    count = curve.size
    given = float(misfits(curve[None], noise, prior)[0])
    if count < 4 or given < MISFITS:
        return None
    gains = np.exp(np.linspace(-1.4, 1.4, 281))
    splits = np.unique(np.linspace(2, count - 2, min(count - 3, 200)).round().astype(int))
    later = np.arange(count) >= splits[:, None]
    tried = curve / np.where(later[:, None, :], gains[:, None], 1.0)
    tried /= np.quantile(tried, 0.9, axis=-1, keepdims=True)
    found = misfits(tried.reshape(-1, count), noise, prior).reshape(splits.size, gains.size)
    split, which = np.unravel_index(np.argmin(found), found.shape)
    gain = float(gains[which])
    single = min(
        float(misfits(np.delete(curve, i)[None], noise, prior.of_volumes(np.delete(np.arange(count), i)))[0])
        for i in _suspects(curve, noise, prior)
    )
    best = float(found[split, which])
    orders = [misfits(curve[None, order], noise, prior)[0] for _, order in _orders(bvals, curve, False)]
    if which in (0, gains.size - 1) or abs(gain - 1) < MIN_GAIN or best > EXPLAINS * given or best > MISFITS:
        return None
    if single < 2 * best or min(orders, default=np.inf) < best:
        return None
    first = splits[split]
    late = np.arange(count) >= first
    if first <= 3 and gain < 1 and np.unique(group_bvalues(bvals)[1][:first]).size == 1:
        volumes, name = np.arange(first), "not in steady state"
    else:
        volumes = np.flatnonzero(late) if 2 * first > count else np.flatnonzero(~late)
        name = "other gain"
    if name == "not in steady state":
        return Gain(volumes, np.where(late, 1.0, 1 / gain), name, ())
    return Gain(
        volumes,
        np.where(late, gain, 1.0),
        name,
        (
            Contradiction(
                tuple(source_volumes[volumes].tolist()),
                f"from volume {source_volumes[first]} on, all signals are {gain:.2f} times what the "
                "volumes before let expect; it looks like runs of other gain or scaling that were joined",
                "bring them to one scale, or leave one part out with --ignore-volumes",
            ),
        ),
    )


@dataclass(frozen=True)
class UnequalGroup:
    """Volumes of one b-value that cannot have it together; without a contradiction: the first ones."""

    volumes: np.ndarray
    name: str
    contradiction: Contradiction | None = None


def find_unequal_groups(
    bvals: np.ndarray, source_volumes: np.ndarray, signals: np.ndarray, prior: DecayPrior
) -> list[UnequalGroup]:
    """B-values whose volumes differ beyond noise, anisotropy and one bad volume.

    Volumes of a low b-value must fall in the order of time, or differ more than twice as much as those of
    any other b-value up to :data:`LOW`: breathing alone does neither. Volumes of a higher one must
    fall into two clear levels.
    """
    nominal, index = group_bvalues(bvals)
    spreads = {}
    for b in range(nominal.size):
        volumes = np.flatnonzero(index == b)
        if volumes.size < 3:
            continue
        group = signals[:, volumes]
        directions = prior.features[volumes] - prior.features[volumes].mean(axis=0)
        # What stated directions, and by the scatter those not stated, make of one b-value.
        allowed = np.sqrt(np.square(directions).sum(axis=1).max() + prior.scatter[volumes].max())
        middle = np.maximum(np.median(group, axis=1, keepdims=True), 1e-3)
        level = np.median(group / middle, axis=0)
        error = 1.2533 * 1.4826 * np.median(np.abs(group / middle - level)) / np.sqrt(len(group))
        ordered = np.sort(level)
        # One volume may be bad for itself.
        spread = min(ordered[-1] - ordered[1], ordered[-2] - ordered[0])
        spreads[b] = (volumes, level, error, spread, 4 * allowed / np.median(middle))
    groups = []
    for b, (volumes, level, error, spread, allowed) in spreads.items():
        if spread <= max(UNEQUAL, 6 * error, allowed):
            continue
        if nominal[b] <= LOW:
            others = [one[3] for c, one in spreads.items() if c != b and nominal[c] <= LOW]
            # Takes half a second to load, and tables are seldom wrong.
            from scipy.stats import kendalltau

            in_order = volumes.size >= 4 and abs(kendalltau(volumes, level).statistic) > 0.8
            if not (in_order or spread > 2 * max(others, default=0.0)):
                continue
            looks = "as if low b-values were written as one"
        elif _two_levels(level):
            looks = "as if two encodings or echo times share one b-value"
        else:
            continue
        groups.append(
            UnequalGroup(
                volumes,
                "fits no b-value",
                Contradiction(
                    tuple(source_volumes[volumes].tolist()),
                    f"volumes {ranges(source_volumes[volumes])} all have b = {nominal[b]:g} in the table, "
                    f"but their levels differ by {np.ptp(level):.0%}, far beyond noise; it looks {looks}",
                    "correct the .bval from the protocol of the scanner, "
                    "or leave volumes out with --ignore-volumes",
                ),
            )
        )
    first = spreads.get(0)
    if len(groups) == 1 and groups[0].volumes[0] == 0 and nominal[0] <= 0.5 and first is not None:
        settled = _settled_from(first[1])
        if settled is not None:
            return [UnequalGroup(groups[0].volumes[:settled], "not in steady state")]
    return groups


def _settled_from(level: np.ndarray) -> int | None:
    """Volume of a group from which on levels stay equal after falling; None when they do not."""
    for start in range(1, level.size // 2 + 1):
        rest = level[start:]
        if np.ptp(rest) < UNEQUAL / 2 and level[:start].min() > rest.max() + UNEQUAL / 2:
            return start
    return None


def _two_levels(level: np.ndarray) -> bool:
    """Two clusters of two or more each, much further apart than they are wide."""
    ordered = np.sort(level)
    cut = int(np.argmax(np.diff(ordered))) + 1
    parts = ordered[:cut], ordered[cut:]
    if min(part.size for part in parts) < 2:
        return False
    within = np.sqrt(np.mean(np.concatenate([part - part.mean() for part in parts]) ** 2))
    return bool(parts[1][0] - parts[0][-1] > max(0.1, 6 * within))
