"""The preprocessing of one run, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.preprocess.average import RepeatAverage, average_repeats, mean_of_volumes
from sicnn_app.preprocess.before_after import compare_step
from sicnn_app.preprocess.corrected import Progress
from sicnn_app.preprocess.mask import Mask, body_mask, brain_mask, check_mask
from sicnn_app.preprocess.noise import Noise, estimate_noise, noise_after_denoising
from sicnn_app.preprocess.volumes import select_volumes
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS, Situation

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
    motion : list of dict, or None
        See :class:`sicnn_app.preprocess.motion.correct_motion`.
    before_after : list of BeforeAfter
        What each correction that changed anything did to one slice.
    """

    series: DwiSeries
    averaged: AveragedSignals
    mask_method: str
    steps: list[dict[str, Any]]
    warnings: list[str]
    normaliser_bval: float
    motion: list[dict[str, Any]] | None = None
    before_after: list[BeforeAfter] = field(default_factory=list)


def prepare(
    series: DwiSeries,
    *,
    anatomy: str,
    external_mask: np.ndarray | None = None,
    settings: PreprocessingSettings,
    preprocessed: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Select volumes, correct them, find the mask, average, estimate the noise and name the normaliser.

    Corrections are the rows of :data:`sicnn_app.steps.STEPS`. Every one has a record, also one that is not
    done, with the reason.

    Parameters
    ----------
    series : DwiSeries
    anatomy : str
        ``brain`` or ``body``, as returned by :func:`sicnn_app.preprocess.anatomy.choose_anatomy`.
    external_mask : ndarray, shape (X, Y, Z), or None
        Used instead of making one; after motion correction it belongs to the position of the reference.
    settings : PreprocessingSettings
    preprocessed : bool
        The series comes from a derivative dataset: ``auto`` then means not to denoise or move it again,
        because a second interpolation or projection loses detail and hides noise. What is asked for is done.
    progress : callable (text, done, total), optional
        Called as the corrections advance.

    Returns
    -------
    Prepared

    Raises
    ------
    DataError
        When too few b-values remain, the mask is empty or of another shape, or no voxel has data.
    """
    selected, selection, left_out = select_volumes(
        series, max_bval=settings.max_bval, ignore_bvals=settings.ignore_bvals
    )
    steps, warnings = [selection], list(left_out)
    situation = Situation(anatomy, preprocessed, selected.bvals.size)
    # A series that a step left alone is the same object.
    changes: dict[str, tuple[DwiSeries, DwiSeries]] = {}
    corrected, motion = selected, None
    for label, step in STEPS.items():
        done = step.load().correct(corrected, settings=settings, situation=situation, progress=progress)
        steps.append(done.record)
        warnings += done.warnings
        # Empty where motion could not be estimated, of which the record and a warning tell.
        motion = done.motion or motion
        if done.series is not corrected:
            changes[label] = (corrected, done.series)
        corrected = done.series
    mask = _find_mask(corrected, anatomy, external_mask, motion is not None)
    average = average_repeats(corrected, mask.voxels)
    noise = estimate_noise(corrected, average)
    for label, pair in changes.items():
        if STEPS[label].lowers_noise:
            noise = noise_after_denoising(*pair, average.mask, noise)
    pictures = [compare_step(label, *pair, average.mask) for label, pair in changes.items()]
    averaged = average.with_noise(noise.sigma, noise.remaining, noise.method)
    normaliser_bval = float(averaged.bvals[0])
    return Prepared(
        series=corrected,
        averaged=averaged,
        mask_method=mask.method,
        steps=[
            *steps,
            _mask_record(mask),
            average.record,
            _noise_record(averaged, noise, preprocessed),
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
        motion=motion,
        before_after=[picture for picture in pictures if picture is not None],
    )


def _find_mask(series: DwiSeries, anatomy: str, external_mask: np.ndarray | None, moved: bool) -> Mask:
    shape = series.signals.shape[:3]
    if external_mask is not None:
        place = ", taken to lie at the position of the reference of the motion correction" if moved else ""
        return Mask(check_mask(external_mask, shape), f"given{place}")
    nominal, index = group_bvalues(series.bvals)
    low = mean_of_volumes(series.signals, np.flatnonzero((nominal[index] <= MASK_MAX_BVAL) | (index == 0)))
    high = mean_of_volumes(series.signals, np.flatnonzero(index == index.max()))
    overall = mean_of_volumes(series.signals, np.arange(index.size))
    mask = brain_mask(low, high, overall) if anatomy == "brain" else body_mask(low, high, overall)
    check_mask(mask.voxels, shape)
    return mask


def _mask_record(mask: Mask) -> dict[str, Any]:
    return {
        "Name": "Mask",
        "Description": mask.method[0].upper() + mask.method[1:],
        "Voxels": int(mask.voxels.sum()),
    }


def _noise_record(averaged: AveragedSignals, noise: Noise, preprocessed: bool) -> dict[str, Any]:
    description = noise.method[0].upper() + noise.method[1:]
    if preprocessed:
        description += "; the image was preprocessed elsewhere, which may hide noise"
    signal = np.median(averaged.signals[averaged.mask], axis=0)
    snr = (signal / noise.sigma).tolist() if noise.sigma > 0 else None
    averaged_snr = (signal / averaged.sigma_per_bval).tolist() if noise.remaining > 0 else None
    return {
        "Name": "Noise estimate",
        "Description": description,
        "NoiseStandardDeviation": noise.sigma,
        "NoiseStandardDeviationPerBValue": averaged.sigma_per_bval.tolist(),
        **noise.details,
        "MedianSignalToNoiseRatio": None if snr is None else snr[0],
        "SignalToNoiseRatioPerBValue": snr,
        "AveragedSignalToNoiseRatioPerBValue": averaged_snr,
    }


def _noise_warnings(noise: Noise, average: RepeatAverage) -> list[str]:
    if noise.sigma > 0:
        return []
    return [f"no noise was found in {int(average.mask.sum())} voxels: thresholds in units of it are 0"]


def _normaliser_warnings(bval: float) -> list[str]:
    if bval == 0:
        return []
    return [f"there is no volume at b = 0: signals are normalised by the lowest b-value, {bval:g} s/mm^2"]
