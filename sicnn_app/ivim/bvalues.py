"""Measured b-values to nominal ones: scanner jitter is one b-value, a protocol's steps are several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAME_BVAL = 5.0
"""s/mm^2; a b-value named by the user means the nominal one at most this far away."""

JITTER_FRACTION_LOW = 0.1
"""Share of a low b-value within which imaging gradients move it (b = 10 is written as 9 or 11)."""

JITTER_LIMIT_LOW = 4.0
"""s/mm^2; stays below the 5 s/mm^2 steps of published IVIM protocols up to b = 100."""

JITTER_FLOOR = 0.5
"""s/mm^2; b = 0 and b = 1 are two b-values of some protocols, 0 and 0.4 never are."""

JITTER_FRACTION = 0.01
"""Rounding and per-direction variation of high b-values (995, 1000, 1005)."""

HIGHEST_IN_MS_PER_UM2 = 10.0
"""A series whose highest b-value is not above it has no diffusion weighting in s/mm^2."""

LOWEST_IN_S_PER_M2 = 1e6
"""A highest b-value from here on is beyond every scanner in s/mm^2."""

MAX_SPAN = 2.0
"""Widest group in tolerances, so that a chain of close values cannot grow without end."""


def bvalue_tolerance(bvals: np.ndarray) -> np.ndarray:
    """Gap below a b-value from which on it is a step of the protocol, not jitter; both in s/mm^2.

    Examples
    --------
    >>> bvalue_tolerance([0, 10, 20, 50, 100, 1000]).tolist()
    [0.5, 1.1, 2.2, 4.5, 5.0, 14.0]
    """
    b = np.asarray(bvals, dtype=np.float64)
    return np.clip(JITTER_FRACTION_LOW * b, JITTER_FLOOR, JITTER_LIMIT_LOW) + JITTER_FRACTION * b


def _group_once(bvals: np.ndarray) -> np.ndarray:
    """Median of the group of every b-value; groups are grown upwards from the lowest value."""
    values, inverse = np.unique(bvals, return_inverse=True)
    tolerance = bvalue_tolerance(values)
    group = np.zeros(values.size, dtype=int)
    start = 0
    for i in range(1, values.size):
        apart = values[i] - values[i - 1] >= tolerance[i]
        if apart or values[i] - values[start] > MAX_SPAN * tolerance[i]:
            start = i
        group[i] = group[i - 1] + (start == i)
    group_of_volume = group[inverse]
    medians = np.array([np.median(bvals[group_of_volume == g]) for g in range(group[-1] + 1)])
    return medians[group_of_volume]


def group_bvalues(bvals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nominal b-values of a series, and which of them each volume has.

    Neighbouring values belong together when their gap is below the :func:`bvalue_tolerance` of the larger one
    and the group stays within :data:`MAX_SPAN` tolerances. The nominal b-value is the median of its volumes.
    Those returned ascend strictly; ``nominal[index]`` are those of the volumes, which come in any order.

    Examples
    --------
    >>> nominal, index = group_bvalues([1000, 0, 995, 10, 5, 1005])
    >>> nominal.tolist(), index.tolist()
    ([0.0, 5.0, 10.0, 1000.0], [3, 0, 3, 2, 1, 3])
    """
    current = np.asarray(bvals, dtype=np.float64)
    distinct = np.unique(current).size
    # Medians of two groups can lie closer than the groups' edges; grouping again until
    # nothing merges makes the result the same for nominal values as for measured ones.
    # Ends because every pass but the last leaves fewer values, whatever they are.
    while True:
        current = _group_once(current)
        nominal, index = np.unique(current, return_inverse=True)
        if nominal.size == distinct:
            return nominal, index
        distinct = nominal.size


def named_bvalue(nominal: np.ndarray, bval: float) -> int | None:
    """Position of the nominal b-value that a user means by ``bval``; None for none."""
    nearest = int(np.argmin(np.abs(nominal - bval)))
    return None if abs(nominal[nearest] - bval) > SAME_BVAL else nearest


def same_bvalues(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> bool:
    """True when two series, ascending, s/mm^2, have the same nominal b-values, jitter aside.

    Examples
    --------
    >>> same_bvalues([0, 50, 1000], [0, 51, 995]), same_bvalues([0, 50, 1000], [0, 50])
    (True, False)
    """
    if len(one) != len(other):
        return False
    difference = np.abs(np.subtract(one, other))
    return bool((difference < bvalue_tolerance(np.maximum(one, other))).all())


def other_unit(bvals: np.ndarray) -> str | None:
    """Words on b-values, at least one, that are in another unit than s/mm^2; None when they are not.

    Examples
    --------
    >>> other_unit(np.array([0.0, 0.5, 2.5]))
    'the highest b-value is 2.5, as in ms/um^2: write 1000 times as much, s/mm^2'
    >>> other_unit(np.array([0.0, 500.0])) is None
    True
    """
    highest = bvals.max()
    if 0 < highest <= HIGHEST_IN_MS_PER_UM2:
        return f"the highest b-value is {highest:g}, as in ms/um^2: write 1000 times as much, s/mm^2"
    if highest >= LOWEST_IN_S_PER_M2:
        return f"the highest b-value is {highest:g}, as in s/m^2: write a millionth of it, s/mm^2"
    return None


def wanted_bvalues(nominal: np.ndarray, *, max_bval: float, ignore_bvals: Sequence[float]) -> np.ndarray:
    """True for the nominal b-values, shape (B,), that are to be used.

    Not to be used are those more than :data:`SAME_BVAL` above ``max_bval``, and the nearest to each of
    ``ignore_bvals``.

    Examples
    --------
    >>> wanted_bvalues(np.array([0.0, 50.0, 1000.0, 2000.0]), max_bval=1000, ignore_bvals=[49]).tolist()
    [True, False, True, False]
    """
    wanted = nominal <= max_bval + SAME_BVAL
    for bval in ignore_bvals:
        if (named := named_bvalue(nominal, bval)) is not None:
            wanted[named] = False
    return wanted
