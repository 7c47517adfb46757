"""The preprocessing of one run, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from sicnn_app.ivim.before_after import CORRECTIONS, BeforeAfter
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.preprocess.average import RepeatAverage, average_repeats, mean_of_volumes
from sicnn_app.preprocess.before_after import compare_step
from sicnn_app.preprocess.corrected import Corrected
from sicnn_app.preprocess.mask import Mask, body_mask, brain_mask, check_mask
from sicnn_app.preprocess.noise import Noise, estimate_noise, noise_after_denoising
from sicnn_app.preprocess.volumes import select_volumes
from sicnn_app.settings import PreprocessingSettings

Progress = Callable[[str, int, int], None]
"""Text, steps done, steps in all."""

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
        See :class:`sicnn_app.preprocess.motion.MotionCorrected`.
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

    Corrections are denoising, unringing and motion correction, in this order: noise is independent
    from voxel to voxel, and ringing along the axes of the image, only until voxels are moved. Every
    step has a record, also one that is not done, with the reason.

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
    steps: list[dict[str, Any]] = []
    warnings: list[str] = []

    def noted(corrected: Corrected) -> DwiSeries:
        steps.append(corrected.record)
        warnings.extend(corrected.warnings)
        return corrected.series

    selected, selection, left_out = select_volumes(
        series, max_bval=settings.max_bval, ignore_bvals=settings.ignore_bvals
    )
    selected = noted(Corrected(selected, selection, left_out))
    denoised = noted(_denoise(selected, settings, preprocessed, progress))
    unringed = noted(_unring(denoised, settings, progress))
    moved, motion = _correct_motion(unringed, anatomy, settings, preprocessed, progress)
    corrected = noted(moved)
    mask = _find_mask(corrected, anatomy, external_mask, motion is not None)
    average = average_repeats(corrected, mask.voxels)
    noise = estimate_noise(corrected, average)
    if denoised is not selected:
        noise = noise_after_denoising(selected, denoised, average.mask, noise)
    averaged = AveragedSignals(
        signals=average.signals,
        bvals=average.groups.bvals,
        mask=average.mask,
        repeats=average.groups.repeats,
        directions=average.groups.directions,
        sigma=noise.sigma,
        sigma_per_bval=noise.remaining * average.groups.noise_factors,
        sigma_method=noise.method,
    )
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
        before_after=_before_after([selected, denoised, unringed, corrected], average.mask),
    )


def _before_after(stages: list[DwiSeries], mask: np.ndarray) -> list[BeforeAfter]:
    """What led from each stage to the next, where they differ in the slice shown."""
    steps = zip(CORRECTIONS, pairwise(stages), strict=True)
    found = [compare_step(label, *pair, mask) for label, pair in steps if pair[0] is not pair[1]]
    return [step for step in found if step is not None]


# The modules of the corrections are loaded where they run: dipy's registration takes seconds to import.


def _denoise(
    series: DwiSeries, settings: PreprocessingSettings, preprocessed: bool, progress: Progress | None
) -> Corrected:
    from sicnn_app.preprocess.denoise import choose_denoising, denoise

    method, reason = choose_denoising(settings.denoise, series, preprocessed=preprocessed)
    if method == "none":
        return _not_done("Denoising", series, reason)
    _announce(progress, "denoising")
    return _because(denoise(series, method=method), reason)


def _unring(series: DwiSeries, settings: PreprocessingSettings, progress: Progress | None) -> Corrected:
    if not settings.unring:
        return _not_done("Gibbs unringing", series, "--unring was not given")
    from sicnn_app.preprocess.unring import unring

    _announce(progress, "unringing")
    return _because(unring(series), "--unring")


def _correct_motion(
    series: DwiSeries,
    anatomy: str,
    settings: PreprocessingSettings,
    preprocessed: bool,
    progress: Progress | None,
) -> tuple[Corrected, list[dict[str, Any]] | None]:
    """The series in one position, and its motion; None where it was not corrected."""
    from sicnn_app.preprocess.motion import choose_motion_correction, correct_motion

    kind, reason = choose_motion_correction(
        settings.motion_correction,
        series,
        anatomy=anatomy,
        per_slice=settings.per_slice,
        preprocessed=preprocessed,
    )
    if kind == "none":
        return _not_done("Motion correction", series, reason), None
    moved = correct_motion(series, kind=kind, per_slice=settings.per_slice, progress=progress)
    # Empty where motion could not be estimated, of which the record and a warning tell.
    return _because(moved, reason), moved.motion or None


def _not_done(name: str, series: DwiSeries, reason: str) -> Corrected:
    return Corrected(series, {"Name": name, "Description": f"Not done: {reason}", "Choice": reason})


def _because(corrected: Corrected, reason: str) -> Corrected:
    return replace(corrected, record={**corrected.record, "Choice": reason})


def _announce(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(text, 0, 1)


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
