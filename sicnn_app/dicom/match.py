"""Which series a run was acquired in: that of the same person, on the same grid, with its b-values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from sicnn_app.bids.geometry import same_grid
from sicnn_app.dicom.series import SourceSeries
from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import bvalue_tolerance

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the coordinates of NIfTI to those of DICOM, both mm."""

MAX_NAMED = 5
"""Series named in one message."""


@dataclass(frozen=True)
class Wanted:
    """What is known of the series of a run.

    Attributes
    ----------
    run : str
    subject : str
        Label of the participant.
    affine : ndarray, shape (4, 4), or None
        Voxel to RAS+ mm of the maps; None when they state no orientation.
    shape : tuple of int, (X, Y, Z)
    bvals : sequence of float, s/mm^2
        b-values that the estimation used; empty when that is not known.
    number : int, optional
        ``SeriesNumber`` that the sidecar of the source stated.
    patient : str, optional
        ``PatientID`` that was said to be this participant's.
    """

    run: str
    subject: str
    affine: np.ndarray | None
    shape: tuple[int, ...]
    bvals: Sequence[float] = field(default_factory=tuple)
    number: int | None = None
    patient: str | None = None


def on_grid(values: np.ndarray, affine: np.ndarray, series: SourceSeries) -> np.ndarray | None:
    """A map with its axes turned and flipped to those of a series; None where that does not bring it there.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z)
    affine : ndarray, shape (4, 4)
        Voxel to RAS+ mm.

    Returns
    -------
    ndarray, shape of the series, or None

    Examples
    --------
    >>> series = SourceSeries([], np.diag([3.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], (1, 2, 2), np.array([]))
    >>> on_grid(np.array([[[1], [2]], [[3], [4]]]), np.diag([-2.0, -2.0, 3.0, 1.0]), series)
    array([[[1, 3],
            [2, 4]]])
    """
    affine = RAS_TO_LPS @ affine
    axes = nib.io_orientation(np.linalg.inv(series.affine) @ affine)
    turned = nib.apply_orientation(values, axes)
    affine = affine @ nib.orientations.inv_ornt_aff(axes, values.shape)
    fits = turned.shape == series.shape and same_grid(affine, series.affine, series.shape)
    return turned if fits else None


def is_person(patient: str, subject: str) -> bool:
    """True when a ``PatientID`` is the label of a participant, but for case and what no label can hold.

    Examples
    --------
    >>> is_person("SUB-0 1", "01"), is_person("Pat_7a", "pat7A"), is_person("1", "01")
    (True, True, False)
    """
    plain = re.sub("[^a-z0-9]", "", patient.lower())
    return subject.lower() in (plain, plain.removeprefix("sub"))


def choose_series(wanted: Wanted, found: Sequence[SourceSeries], reasons: Sequence[str] = ()) -> SourceSeries:
    """The series that a run was acquired in.

    Parameters
    ----------
    found : sequence of SourceSeries
    reasons : sequence of str
        Why others cannot be used.

    Raises
    ------
    DataError
        When none is of this person, on this grid, with these b-values, or several are.
    """
    if wanted.affine is None:
        raise DataError(
            f"{wanted.run} states no orientation, so that left and right are not known: convert its series "
            "to NIfTI again, process it and repeat"
        )
    if not found:
        raise DataError(
            f"{wanted.run}: --source holds no MR series that can be used{_because(reasons)}: name the folder "
            "of the series it was converted from"
        )
    own = [series for series in found if _is_own(series, wanted)]
    if not own:
        patients = ", ".join(sorted({repr(series.patient) for series in found})[:MAX_NAMED])
        raise DataError(
            f"{wanted.run}: PatientID {patients} is not participant {wanted.subject}: if it is the same "
            f"person, say so with --patient-id {wanted.subject}=ID; if not, name the right folder"
        )
    doubts = [_misfit(series, wanted) for series in own]
    fitting = [series for series, doubt in zip(own, doubts, strict=True) if doubt is None]
    if not fitting:
        texts = [f"{series.name}: {doubt}" for series, doubt in zip(own, doubts, strict=True)]
        raise DataError(
            f"{wanted.run}: no series fits{_because([*texts, *reasons])}: name the folder of the series that "
            "it was converted from; maps on another grid than their series cannot be written"
        )
    for is_better in (
        # Maps that the scanner computed lie on the same grid, and state no b-values.
        lambda series: series.bvals.size > 0,
        lambda series: series.number == wanted.number,
    ):
        fitting = [series for series in fitting if is_better(series)] or fitting
    if len(fitting) > 1:
        names = ", ".join(series.name for series in fitting[:MAX_NAMED])
        raise DataError(
            f"{wanted.run}: several series fit, {names}: name the folder of the one that it was converted "
            f"from, with --source {wanted.run}=DIR"
        )
    return fitting[0]


def _is_own(series: SourceSeries, wanted: Wanted) -> bool:
    if wanted.patient is not None:
        return series.patient == wanted.patient
    return is_person(series.patient, wanted.subject)


def _misfit(series: SourceSeries, wanted: Wanted) -> str | None:
    """What speaks against a series; None for nothing."""
    assert wanted.affine is not None
    if on_grid(np.zeros(wanted.shape, dtype=bool), wanted.affine, series) is None:
        slices, rows, columns = series.shape
        if sorted(series.shape) != sorted(wanted.shape):
            size = " x ".join(map(str, wanted.shape))
            return f"{columns} x {rows} voxels in {slices} slices, the maps have {size}"
        centre = np.array([*(np.array(wanted.shape) - 1) / 2, 1.0])
        own = np.array([*(np.array(series.shape) - 1) / 2, 1.0])
        apart = np.linalg.norm((RAS_TO_LPS @ wanted.affine @ centre - series.affine @ own)[:3])
        return f"it lies turned, or elsewhere: the centres are {apart:.3g} mm apart"
    if series.bvals.size and len(wanted.bvals):
        used = np.array(sorted(wanted.bvals))
        nearest = np.abs(series.bvals - used[:, None]).min(axis=1)
        missing = used[nearest >= bvalue_tolerance(used)]
        if missing.size:
            return f"it has no images of b = {', '.join(f'{b:g}' for b in missing)} s/mm^2"
    return None


def _because(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - MAX_NAMED} more" if len(reasons) > MAX_NAMED else ""
    return f" ({'; '.join(reasons[:MAX_NAMED])}{more})" if reasons else ""
