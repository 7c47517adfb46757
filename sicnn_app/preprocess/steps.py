"""The preprocessing of one run, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.preprocess.average import RepeatAverage, average_repeats, mean_of_volumes
from sicnn_app.preprocess.mask import Mask, body_mask, brain_mask, check_mask
from sicnn_app.preprocess.noise import Noise, estimate_noise
from sicnn_app.preprocess.volumes import select_volumes
from sicnn_app.settings import PreprocessingSettings

MASK_MAX_BVAL = 50.0
"""s/mm^2; volumes up to it, or of the lowest b-value, make the image the mask is found in."""


@dataclass(frozen=True)
class Prepared:
    """What the estimators and the outputs need of a run.

    Attributes
    ----------
    series : DwiSeries
        The volumes used, before averaging.
    averaged : AveragedSignals
    mask_method : str
        How the mask was made, in words; ``given`` for an external one.
    steps : list of dict
        ``{"Name": str, "Description": str, ...numbers}`` in the order of execution; JSON-serialisable.
    warnings : list of str
    normaliser_bval : float
        The b-value all signals are divided by, s/mm^2.
    """

    series: DwiSeries
    averaged: AveragedSignals
    mask_method: str
    steps: list[dict[str, Any]]
    warnings: list[str]
    normaliser_bval: float


def prepare(
    series: DwiSeries,
    *,
    anatomy: str,
    external_mask: np.ndarray | None = None,
    settings: PreprocessingSettings,
) -> Prepared:
    """Select volumes, find the mask, average, estimate the noise and name the normaliser.

    Parameters
    ----------
    series : DwiSeries
    anatomy : str
        ``brain`` or ``body``, as returned by :func:`sicnn_app.preprocess.anatomy.choose_anatomy`.
    external_mask : ndarray, shape (X, Y, Z), or None
        Used instead of making one.
    settings : PreprocessingSettings

    Returns
    -------
    Prepared

    Raises
    ------
    DataError
        When too few b-values remain, the mask is empty or of another shape, or no voxel has data.
    """
    selected, selection, warnings = select_volumes(
        series, max_bval=settings.max_bval, ignore_bvals=settings.ignore_bvals
    )
    mask = _find_mask(selected, anatomy, external_mask)
    average = average_repeats(selected, mask.voxels)
    noise = estimate_noise(selected, average)
    averaged = AveragedSignals(
        signals=average.signals,
        bvals=average.groups.bvals,
        mask=average.mask,
        repeats=average.groups.repeats,
        directions=average.groups.directions,
        sigma=noise.sigma,
        sigma_per_bval=noise.sigma * average.groups.noise_factors,
        sigma_method=noise.method,
    )
    normaliser_bval = float(averaged.bvals[0])
    return Prepared(
        series=selected,
        averaged=averaged,
        mask_method=mask.method,
        steps=[
            selection,
            _mask_record(mask),
            average.record,
            _noise_record(averaged),
            {
                "Name": "Normalisation",
                "Description": f"Signals divided by the averaged signal at b = {normaliser_bval:g} s/mm^2",
                "NormalisationBValue": normaliser_bval,
            },
        ],
        warnings=[
            *warnings,
            *mask.warnings,
            *average.warnings,
            *_noise_warnings(noise, average),
            *_normaliser_warnings(normaliser_bval),
        ],
        normaliser_bval=normaliser_bval,
    )


def _find_mask(series: DwiSeries, anatomy: str, external_mask: np.ndarray | None) -> Mask:
    shape = series.signals.shape[:3]
    if external_mask is not None:
        return Mask(check_mask(external_mask, shape), "given")
    nominal, index = group_bvalues(series.bvals)
    low = mean_of_volumes(series.signals, np.flatnonzero((nominal[index] <= MASK_MAX_BVAL) | (index == 0)))
    high = mean_of_volumes(series.signals, np.flatnonzero(index == index.max()))
    mask = brain_mask(low, high) if anatomy == "brain" else body_mask(low, high)
    check_mask(mask.voxels, shape)
    return mask


def _mask_record(mask: Mask) -> dict[str, Any]:
    return {
        "Name": "Mask",
        "Description": mask.method[0].upper() + mask.method[1:],
        "Voxels": int(mask.voxels.sum()),
    }


def _noise_record(averaged: AveragedSignals) -> dict[str, Any]:
    return {
        "Name": "Noise estimate",
        "Description": averaged.sigma_method[0].upper() + averaged.sigma_method[1:],
        "NoiseStandardDeviation": averaged.sigma,
        "NoiseStandardDeviationPerBValue": averaged.sigma_per_bval.tolist(),
        "MedianSignalToNoiseRatio": (
            float(np.median(averaged.signals[averaged.mask, 0]) / averaged.sigma)
            if averaged.sigma > 0
            else None
        ),
    }


def _noise_warnings(noise: Noise, average: RepeatAverage) -> list[str]:
    if noise.sigma > 0:
        return []
    return [f"no noise was found in {int(average.mask.sum())} voxels: thresholds in units of it are 0"]


def _normaliser_warnings(bval: float) -> list[str]:
    if bval == 0:
        return []
    return [f"there is no volume at b = 0: signals are normalised by the lowest b-value, {bval:g} s/mm^2"]
