"""The preprocessing of one run, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sicnn_app.errors import DataError
from sicnn_app.ivim.before_after import BeforeAfter, change_of, root_mean_square
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.carpet import Carpet
from sicnn_app.ivim.series import AveragedSignals, DwiSeries, Evidence
from sicnn_app.preprocess.average import average_repeats, mean_of_volumes
from sicnn_app.preprocess.choose_average import choose_average
from sicnn_app.preprocess.contradictions import Contradiction
from sicnn_app.preprocess.correction import NotPossible, Progress, find_slice_axis
from sicnn_app.preprocess.judgement import judge
from sicnn_app.preprocess.mask import Mask, body_mask, brain_mask, check_mask
from sicnn_app.preprocess.mask_doubts import doubts_of_mask
from sicnn_app.preprocess.noise import Denoising, Noise, estimate_noise, noise_after_denoising
from sicnn_app.preprocess.saturation import saturated_voxels
from sicnn_app.preprocess.volumes import select_volumes
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import NOT_DONE, STEPS, Situation

MASK_MAX_BVAL = 50.0
"""s/mm^2; volumes up to it, or of the lowest b-value, make the image the mask is found in."""


@dataclass(frozen=True)
class Prepared:
    """All that the estimators and the outputs need of a run.

    Attributes
    ----------
    series : DwiSeries
        The volumes used, before averaging.
    mask_method : str
        In words; ``given`` for an external one.
    steps : list of dict
        ``{"Name": str, "Description": str, ...numbers}`` in the order of execution; JSON-serialisable.
    saturated : ndarray, shape (X, Y, Z), bool
        Voxels whose signal was cut off in some volume, at its position before motion correction.
    normaliser_bval : float
        The b-value all signals are divided by, s/mm^2.
    volumes : list of dict
        One row per volume of the source image, see :meth:`sicnn_app.preprocess.judgement.JudgedVolume.row`.
    motion : list of dict, or None
        See :func:`sicnn_app.preprocess.motion.correct`.
    denoising : Denoising, or None
        Of a series that was denoised, if it was asked for.
    before_after : list of BeforeAfter
        What each correction that changed anything did to one slice.
    carpet : Carpet or None
        All volumes of the source image against what is expected of them.
    evidence : Evidence or None
        Of a series that was denoised, what maps are refined with. Where a later step moved the images it is
        the denoised signals with the noise as acquired: denoising leaves it where decays lie, and takes it
        away elsewhere.
    """

    series: DwiSeries
    averaged: AveragedSignals
    mask_method: str
    steps: list[dict[str, Any]]
    warnings: list[str]
    saturated: np.ndarray
    normaliser_bval: float
    volumes: list[dict[str, Any]]
    motion: list[dict[str, Any]] | None = None
    denoising: Denoising | None = None
    before_after: list[BeforeAfter] = field(default_factory=list)
    carpet: Carpet | None = None
    evidence: Evidence | None = None


def prepare(
    series: DwiSeries,
    *,
    anatomy: str,
    external_mask: np.ndarray | None = None,
    settings: PreprocessingSettings,
    preprocessed: bool = False,
    ignore_volumes: Sequence[int] = (),
    regions: tuple[np.ndarray, Mapping[int, str]] | None = None,
    stated: Sequence[Contradiction] = (),
    progress: Progress | None = None,
    keep_acquired: bool = False,
) -> Prepared:
    """Judge, select and correct volumes, find the mask, average, estimate the noise, name the normaliser.

    Corrections are the rows of :data:`sicnn_app.steps.STEPS`. Every one has a record, also one that is not
    done, with the reason.

    Parameters
    ----------
    anatomy : {'brain', 'body'}
    external_mask : ndarray, shape (X, Y, Z), or None
        Used instead of making one; after motion correction it belongs to the position of the reference.
    preprocessed : bool
        See :class:`sicnn_app.steps.Situation`. What is asked for is done all the same.
    ignore_volumes : sequence of int
        Volumes of the source image that are neither judged nor used.
    regions : (ndarray, shape (X, Y, Z), int; mapping of int to str), optional
        Segmentation and the names of its regions, to say where volumes lost signal.
    stated : sequence of Contradiction
        What sidecars say against the images being a series; handled as what the images say.
    progress : callable (text, done, total), optional
        Called as the corrections advance.
    keep_acquired : bool
        Hand on the series from before it was denoised, from which other measurements can be drawn.

    Raises
    ------
    DataError
        When too few b-values remain, the mask is empty or of another shape, or no voxel has data; when the
        b-values cannot be right, or contradict the images and ``on_contradiction`` is ``stop``.
    """
    ignored = np.isin(series.source_volumes, ignore_volumes)
    judgement = judge(series, anatomy=anatomy, regions=regions, ignored=ignored)
    judgement = replace(judgement, contradictions=(*stated, *judgement.contradictions))
    for contradiction in judgement.contradictions:
        if contradiction.cannot_be_right or settings.on_contradiction == "stop":
            raise DataError(f"images and what is written of them contradict each other: {contradiction}")
    corrected, selection, warnings = select_volumes(
        replace(series, bvals=judgement.bvals),
        max_bval=settings.max_bval,
        ignore_bvals=settings.ignore_bvals,
        unfit={"named by --ignore-volumes": ignored, **judgement.unfit},
    )
    warnings = [*judgement.warnings, *warnings]
    for volume in sorted(set(ignore_volumes) - set(series.source_volumes.tolist())):
        warnings.append(f"--ignore-volumes {volume}: the series has {series.source_volumes.size} volumes")
    steps, motion = [judgement.record, selection], None
    *grid, volumes = corrected.signals.shape
    slice_axis = find_slice_axis(tuple(grid), series.slice_axis)
    situation = Situation(anatomy, preprocessed, volumes, tuple(grid), slice_axis)
    levels = judgement.cut_off[np.isin(series.source_volumes, corrected.source_volumes)]
    saturated = saturated_voxels(corrected.signals, levels)
    changes: dict[str, tuple[DwiSeries, DwiSeries]] = {}
    for label, step in STEPS.items():
        kind, choice = step.wanted(settings, situation)
        record: dict[str, Any] = {"Description": f"{NOT_DONE}: {choice}"}
        if kind != "none":
            if progress is not None:
                progress(step.name.lower(), 0, 1)
            try:
                done = step.load().correct(corrected, kind=kind, settings=settings, progress=progress)
            except NotPossible as obstacle:
                record = {"Description": f"{NOT_DONE}: {obstacle.reason}", **obstacle.details}
                warnings.append(str(obstacle))
            else:
                record = done.record
                warnings += done.warnings
                motion = done.motion or motion
                changes[label] = (corrected, done.series)
                corrected = done.series
        steps.append({"Name": step.name, **record, "Choice": choice})
    mask = _find_mask(corrected, anatomy, external_mask, motion is not None)
    way, chosen_by = choose_average(settings.average, corrected, mask.voxels, anatomy)
    average = average_repeats(corrected, mask.voxels, way)
    denoising: Denoising | None = None
    lowered = [label for label in changes if STEPS[label].lowers_noise]
    evidence = None
    if lowered:
        kinds = {label: STEPS[label].wanted(settings, situation)[0] for label in lowered}

        def redo(other: DwiSeries) -> DwiSeries:
            for label, kind in kinds.items():
                other = STEPS[label].load().correct(other, kind=kind, settings=settings).series
            return other

        denoising = Denoising(changes[lowered[0]][0], changes[lowered[-1]][1], redo)
        noise = noise_after_denoising(denoising, corrected, average)
        if noise.acquired is not None:
            source = "averaged signals before denoising"
            evidence = Evidence(*noise.acquired, source, noise.left, noise.left_in_shape)
            if corrected is not denoising.denoised:
                source = "averaged signals after denoising, with the noise before it"
                evidence = replace(evidence, signals=average.signals, source=source)
    else:
        noise = estimate_noise(corrected, average)
    pictures = [compare_step(label, *pair, average.mask) for label, pair in changes.items()]
    averaged = average.with_noise(noise.sigma, noise.method, noise.averaged)
    normaliser_bval = float(averaged.bvals[0])
    warnings += [*mask.warnings, *average.warnings]
    warnings += _saturation_warning(levels, corrected.source_volumes, saturated[average.mask].mean())
    if series.slice_axis is None and slice_axis != 2 and any("SliceAxis" in step for step in steps):
        warnings.append(
            f"no metadata state how the slices lie: axis {'ijk'[slice_axis]}, of the fewest voxels, is taken "
            "to lie across them; if it does not, add SliceEncodingDirection to the sidecar"
        )
    if not noise.sigma > 0:
        count = int(average.mask.sum())
        warnings.append(f"no noise was found in {count} voxels: thresholds in units of it are 0")
    if normaliser_bval != 0:
        warnings.append(
            "there is no volume at b = 0: signals are normalised by the lowest b-value, "
            f"{normaliser_bval:g} s/mm^2"
        )
    return Prepared(
        series=corrected,
        averaged=averaged,
        mask_method=mask.method,
        steps=[
            *steps,
            {"Name": "Mask", "Description": _capitalised(mask.method), "Voxels": int(mask.voxels.sum())},
            {**average.record, "Choice": chosen_by},
            _noise_record(averaged, noise, preprocessed),
            {
                "Name": "Normalisation",
                "Description": f"Signals divided by the averaged signal at b = {normaliser_bval:g} s/mm^2",
                "NormalisationBValue": normaliser_bval,
            },
        ],
        warnings=warnings,
        saturated=saturated,
        normaliser_bval=normaliser_bval,
        volumes=judgement.rows(corrected.source_volumes),
        motion=motion,
        denoising=denoising if keep_acquired else None,
        before_after=[picture for picture in pictures if picture is not None],
        carpet=judgement.carpet,
        evidence=evidence,
    )


def _saturation_warning(levels: np.ndarray, source_volumes: np.ndarray, share: float) -> list[str]:
    """What is said of signals that are cut off in a share of the voxels of the mask."""
    if share == 0:
        return []
    cut = np.isfinite(levels)
    volumes, more = source_volumes[cut][:10], max(int(cut.sum()) - 10, 0)
    shown = ", ".join(map(str, volumes)) + (f" and {more} more" if more else "")
    values = ", ".join(f"{level:g}" for level in np.unique(levels[cut])[:3])
    return [
        f"signals are cut off at {values} in {100 * share:.3g} % of the voxels of the mask, volumes {shown} "
        "(counted from 0): their maps are wrong and they are flagged as saturated; convert the images again "
        "with another scale, or leave these b-values out"
    ]


def _find_mask(series: DwiSeries, anatomy: str, external_mask: np.ndarray | None, moved: bool) -> Mask:
    shape = series.signals.shape[:3]
    nominal, index = group_bvalues(series.bvals)
    low = mean_of_volumes(series.signals, np.flatnonzero((nominal[index] <= MASK_MAX_BVAL) | (index == 0)))
    high = mean_of_volumes(series.signals, np.flatnonzero(index == index.max()))
    overall = mean_of_volumes(series.signals, np.arange(index.size))
    if external_mask is not None:
        place = ", taken to lie at the position of the reference of the motion correction" if moved else ""
        given = check_mask(external_mask, shape)
        tissue = body_mask(low, high, overall, slice_axis=series.slice_axis).voxels
        doubts = doubts_of_mask(given, tissue, low, high, series.slice_axis)
        return Mask(given, f"given{place}", doubts)
    make = brain_mask if anatomy == "brain" else body_mask
    mask = make(low, high, overall, slice_axis=series.slice_axis)
    check_mask(mask.voxels, shape)
    return mask


def _noise_record(averaged: AveragedSignals, noise: Noise, preprocessed: bool) -> dict[str, Any]:
    hidden = "; the image was preprocessed elsewhere, which may hide noise" if preprocessed else ""
    signal = np.median(averaged.signals[averaged.mask], axis=0)
    snr = (signal / noise.sigma).tolist() if noise.sigma > 0 else None
    per_bval = averaged.sigma_per_bval
    averaged_snr = (signal / per_bval).tolist() if (per_bval > 0).all() else None
    return {
        "Name": "Noise estimate",
        "Description": _capitalised(noise.method) + hidden,
        "NoiseStandardDeviation": noise.sigma,
        "NoiseStandardDeviationPerBValue": per_bval.tolist(),
        **noise.details,
        "MedianSignalToNoiseRatio": None if snr is None else snr[0],
        "SignalToNoiseRatioPerBValue": snr,
        "AveragedSignalToNoiseRatioPerBValue": averaged_snr,
    }


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def compare_step(label: str, before: DwiSeries, after: DwiSeries, mask: np.ndarray) -> BeforeAfter | None:
    """One slice of two volumes before and after a step; None where the step changed nothing in it.

    The slice is the one with most voxels in the mask, shape (X, Y, Z). The volumes are of the middle and the
    highest nominal b-value, and of each the one that changed most in the slice: motion may have spared all
    others.
    """
    nominal, index = group_bvalues(before.bvals)
    slice_index = int(np.argmax(mask.sum(axis=(0, 1))))
    inside = mask[..., slice_index]

    def change(volume: int) -> float:
        pair = (series.signals[:, :, slice_index, volume][inside] for series in (before, after))
        return root_mean_square(change_of(*pair))

    def slices(series: DwiSeries) -> np.ndarray:
        # One by one: several at once would be gathered in memory from a series on disk.
        return np.stack([np.array(series.signals[:, :, slice_index, volume]) for volume in chosen])

    groups = [nominal.size // 2, nominal.size - 1]
    # The first of equals: max keeps it.
    chosen = [max(np.flatnonzero(index == group).tolist(), key=change) for group in groups]
    if not any(change(volume) for volume in chosen):
        return None
    return BeforeAfter(
        label=label,
        bvals=tuple(float(nominal[group]) for group in groups),
        volumes=tuple(int(before.source_volumes[volume]) for volume in chosen),
        slice_index=slice_index,
        before=slices(before),
        after=slices(after),
        inside=inside.copy(),
    )
