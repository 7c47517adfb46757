"""Which volumes of a series are used: by b-value, and only those that hold data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import SAME_BVAL, group_bvalues, named_bvalue
from sicnn_app.ivim.series import MAX_LOW_BVAL, MIN_DISTINCT_BVALS, DwiSeries
from sicnn_app.preprocess.correction import holds_data


def select_volumes(
    series: DwiSeries,
    *,
    max_bval: float,
    ignore_bvals: Sequence[float] = (),
    unfit: Mapping[str, np.ndarray] | None = None,
) -> tuple[DwiSeries, dict[str, Any], list[str]]:
    """Leave out volumes that were not asked for or hold no data.

    Parameters
    ----------
    max_bval : float
        s/mm^2; volumes of a nominal b-value more than :data:`SAME_BVAL` above it are left out.
    ignore_bvals : sequence of float
        s/mm^2; volumes of the nominal b-value nearest to each are left out.
    unfit : mapping of str to ndarray, shape (N,), bool
        Further volumes to leave out, by the reason.

    Returns
    -------
    series, record, warnings
        Those selected, a row of the preprocessing steps, and a line for every reason to leave volumes out.

    Raises
    ------
    DataError
        When fewer than 4 distinct b-values, or none at or below 200 s/mm^2, remain.
    """
    nominal, index = group_bvalues(series.bvals)
    warnings = []
    ignored = np.zeros(index.size, dtype=bool)
    for bval in ignore_bvals:
        if (named_position := named_bvalue(nominal, bval)) is None:
            warnings.append(f"--ignore-bvals {bval:g}: the series has no such b-value ({_list(nominal)})")
        else:
            ignored |= index == named_position
    reasons = {
        f"above --max-bval {max_bval:g}": nominal[index] > max_bval + SAME_BVAL,
        "named by --ignore-bvals": ignored,
        **(unfit or {}),
        "without data (all zero or not finite)": np.array(
            [not holds_data(series.signals[..., volume]).any() for volume in range(index.size)]
        ),
    }
    left_out = np.zeros(index.size, dtype=bool)
    named = []
    for reason, applies in reasons.items():
        applies = applies & ~left_out
        left_out |= applies
        if applies.any():
            bvals = f"b = {_list(np.unique(nominal[index[applies]]))} s/mm^2"
            named.append(f"{bvals} {reason}")
            warnings.append(
                f"left out {int(applies.sum())} volumes {reason}: {bvals}, "
                f"volumes {ranges(series.source_volumes[applies])} (counted from 0)"
            )
    causes = f"; left out: {'; '.join(named)}" if named else ""
    _require_ivim_information(nominal[np.unique(index[~left_out])], causes)
    record = {
        "Name": "Volume selection",
        "Description": f"{int((~left_out).sum())} of {index.size} volumes used{causes}",
        "VolumesLeftOut": series.source_volumes[left_out].tolist(),
        "BValuesLeftOut": series.bvals[left_out].tolist(),
        "MaximumBValue": float(max_bval),
    }
    return _select(series, ~left_out), record, warnings


def _select(series: DwiSeries, keep: np.ndarray) -> DwiSeries:
    """Series of the volumes to keep, without a copy of their signals where they are evenly spaced.

    A series too large for the memory is mapped from disk, and a slice of it stays there.
    """
    kept = np.flatnonzero(keep)
    steps = np.unique(np.diff(kept))
    if steps.size != 1:
        return series.select(keep)
    return replace(
        series,
        signals=series.signals[..., kept[0] : kept[-1] + 1 : int(steps[0])],
        bvals=series.bvals[keep],
        bvecs=None if series.bvecs is None else series.bvecs[keep],
        source_volumes=series.source_volumes[keep],
    )


def _require_ivim_information(bvals: np.ndarray, causes: str) -> None:
    if bvals.size < MIN_DISTINCT_BVALS:
        found = f"({_list(bvals)} s/mm^2) " if bvals.size else ""
        raise DataError(
            f"{bvals.size} distinct b-values {found}are left, "
            f"the IVIM model needs at least {MIN_DISTINCT_BVALS}{causes}"
        )
    if bvals.min() > MAX_LOW_BVAL:
        raise DataError(
            f"the lowest b-value left is {bvals.min():g} s/mm^2, the IVIM model needs one at or below "
            f"{MAX_LOW_BVAL:g}{causes}"
        )


def _list(bvals: np.ndarray) -> str:
    return ", ".join(f"{bval:g}" for bval in bvals)


def ranges(volumes: Sequence[int] | np.ndarray) -> str:
    """Ascending indices as text, runs shortened.

    Examples
    --------
    >>> ranges([3, 7, 8, 9])
    '3, 7-9'
    """
    indices = np.asarray(volumes)
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return ", ".join(f"{run[0]}" if run.size == 1 else f"{run[0]}-{run[-1]}" for run in runs)
