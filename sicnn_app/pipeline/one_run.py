"""One run from its files to its derivatives: lock, load, prepare, estimate, flag, write."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sicnn_app.bids.discover import NO_MASK
from sicnn_app.bids.load import LoadedRun, load_run, series_size
from sicnn_app.bids.masks import load_mask
from sicnn_app.bids.segmentations import Segmentation, Segmentations, load_regions
from sicnn_app.bids.unpacked import digests_of_reads
from sicnn_app.derivatives.names import run_unit
from sicnn_app.derivatives.write import require_room, write_run
from sicnn_app.errors import DataError, SicnnAppError, TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.ivim.regions import MeasuredRegions, Regions
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.ivim.series import AveragedSignals
from sicnn_app.methods import LEAST_SQUARES, estimator
from sicnn_app.pipeline.forecast import Schedule, plan_run
from sicnn_app.pipeline.planned import finished_runs, require_unchanged, training_key
from sicnn_app.preprocess.anatomy import choose_anatomy, unknown_part_warning
from sicnn_app.settings import Settings
from sicnn_app.system.checkpoints import TrainingCheckpoint
from sicnn_app.system.console import Console, ProgressCallback
from sicnn_app.system.helpers import helpers
from sicnn_app.system.locks.shared import locked_folder, shared_folder
from sicnn_app.system.memory import (
    MemoryPlan,
    forget_peak,
    peak_memory,
    remaining_memory,
    resident_memory,
)

if TYPE_CHECKING:
    from sicnn_app.pipeline.study.training import StudyNetworks
    from sicnn_app.pipeline.tasks.part import Part
    from sicnn_app.preprocess.steps import Prepared

CHECKPOINT = "training.pt"
"""File in the folder of a run, below the work directory, from which an interrupted training continues."""


CUT_SHARE, CUT_VOXELS = 0.1, 5
"""Share of a region, and voxels, outside of a mask from which on it is said: outlines differ by some."""


@dataclass(frozen=True)
class Job:
    """All that the work on the runs of one process needs besides their files.

    ``part`` holds the runs and what is known of them; the device is ``cpu`` or ``cuda:N``; trainings start
    from one of the networks.
    """

    part: Part
    console: Console
    device: str
    log: Path
    networks: StudyNetworks
    schedule: Schedule = field(default_factory=Schedule)

    def progress(self, item: DwiRun) -> AbstractContextManager[ProgressCallback]:
        """Context with the callback for the long work on a run, see :meth:`Console.progress`."""
        return self.console.progress(self.schedule.title(item.name), self.schedule.left)

    @property
    def settings(self) -> Settings:
        """Those of the part."""
        return self.part.settings


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to be estimated, with what was assumed or left out, one line each."""

    loaded: LoadedRun
    prepared: Prepared
    anatomy: str
    anatomy_source: str
    warnings: list[str]
    regions: list[tuple[Segmentation, Regions]]


def work_folder(item: DwiRun, settings: Settings) -> Path:
    """Folder in the work directory that whoever works on this run and output has to lock."""
    return shared_folder(settings.work_dir, run_unit(item.name), settings.output_dir)


def process_run(item: DwiRun, job: Job) -> bool:
    """Load, prepare, estimate and write one run; False when another process has finished it.

    Raises what keeps the run from being finished, a SicnnAppError; HeldElsewhere when another process works
    on it.
    """
    settings, console, fingerprint = job.settings, job.console, job.part.fingerprints[item.name]
    with locked_folder(work_folder(item, settings), keep=(CHECKPOINT,), wait=job.part.lock_wait) as lock:
        if lock.recovered:
            console.warning(f"{item.name}: {lock.recovered}")
        if finished_runs(settings, [item], {item.name: fingerprint}):
            return False
        key = training_key(settings, job.device, fingerprint=fingerprint)
        checkpoint = TrainingCheckpoint(lock.folder / CHECKPOINT, key)
        result = _estimate_run(item, job, checkpoint, scratch=lock.folder)
        # Loaded when the estimation is over: what Matplotlib takes is not taken from it.
        from sicnn_app.report.before_after import draw_steps
        from sicnn_app.report.carpet import draw_volumes

        write_run(
            result,
            settings.output_dir,
            bids_dir=settings.bids_dir,
            dataset_links=settings.inputs.derivatives,
            pictures={**draw_steps(result), **draw_volumes(result)},
            check=lock.check,
        )
    console.line(f"{item.name}: written")
    return True


def prepare_run(
    item: DwiRun, settings: Settings, *, fingerprint: str, scratch: Path, progress: ProgressCallback
) -> PreparedRun:
    """Load a run and do all that comes before the estimation.

    The series lies on the file system of ``scratch`` where memory is short. Raises what keeps the run from
    being estimated; TryAgainError when its files are not those of ``fingerprint`` any more, see
    :func:`sicnn_app.pipeline.planned.fingerprint_all`.
    """
    from sicnn_app.preprocess.gains import join_images
    from sicnn_app.preprocess.image_types import contradictions_of_types
    from sicnn_app.preprocess.steps import prepare

    anatomy, anatomy_source = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    plan = _plan(item, anatomy, settings, scratch)
    with digests_of_reads() as read:
        loaded = load_run(item, bvals_file=settings.inputs.bvals, scratch=scratch if plan.on_disk else None)
        external_mask, warnings = None, [*loaded.warnings, *unknown_part_warning(anatomy_source)]
        if item.mask is not None:
            shape = loaded.series.signals.shape[:3]
            external_mask, mask_warnings = load_mask(item.mask, loaded.series.affine, shape=shape)
            warnings += mask_warnings
    require_unchanged(settings, item, fingerprint, read)
    joined = []
    if len(item.parts) > 1:
        images = [source.image.name for source in item.parts]
        scaled = join_images(loaded.series, loaded.image_of_volume, images)
        joined, warnings = [scaled.record], warnings + scaled.warnings
    try:
        with helpers(plan.helpers):
            prepared = prepare(
                loaded.series,
                anatomy=anatomy,
                external_mask=external_mask,
                settings=settings.preprocessing,
                preprocessed=item.preprocessed,
                ignore_volumes=settings.preprocessing.ignored_volumes(item.name),
                regions=_regions(item, settings, loaded),
                stated=contradictions_of_types(
                    [(source.image.name, source.metadata.get("ImageType")) for source in item.parts],
                    loaded.image_of_volume,
                    loaded.series.bvals,
                    loaded.series.source_volumes,
                ),
                progress=progress,
                keep_acquired=settings.estimation.ensemble > 1,
            )
    except DataError as error:
        # Arrays do not know from which files they came.
        names = ", ".join(source.image.name for source in item.parts)
        raise DataError(f"{names}: {error}") from error
    prepared = replace(prepared, steps=[*joined, *prepared.steps])
    warnings += prepared.warnings
    regions, cut = _regions_inside(item, settings, prepared.averaged.mask)
    warnings += cut
    averaged = prepared.averaged
    if settings.estimation.rician and averaged.average == "geometric" and averaged.directions.max() > 1:
        warnings.append(
            "--rician reckons with arithmetic means, and directions are averaged geometrically: the noise "
            "floor is overestimated, and D gets too high"
        )
    return PreparedRun(loaded, prepared, anatomy, anatomy_source, warnings, regions)


def _regions_inside(
    item: DwiRun, settings: Settings, mask: np.ndarray
) -> tuple[list[tuple[Segmentation, Regions]], list[str]]:
    """Regions of every segmentation in a mask, and what is said of those that it cuts."""
    inside: list[tuple[Segmentation, Regions]] = []
    if not settings.inputs.derivatives:
        return inside, []
    try:
        segmentations, warnings = Segmentations(settings.inputs.derivatives).of(item.entities)
    except SicnnAppError as error:
        return inside, [f"its segmentations are left out: {error}"]
    for segmentation in segmentations:
        try:
            found, said = load_regions(segmentation, item.parts[0].image, mask)
        except SicnnAppError as error:
            warnings.append(f"a segmentation is left out: {error}")
            continue
        inside.append((segmentation, found))
        outside = found.sizes * (1 - found.inside)
        cut = np.flatnonzero((found.inside < 1 - CUT_SHARE) & (outside >= CUT_VOXELS))
        shown = [f"{1 - found.inside[position]:.0%} of {found.names[position]}" for position in cut]
        more = f" and more of {cut.size - 5} others" if cut.size > 5 else ""
        warnings += said
        if cut.size:
            warnings.append(
                f"the mask leaves out {', '.join(shown[:5])}{more} ({segmentation.name}): the numbers of "
                "these regions are of the rest; give a mask that holds them, or let one be made with "
                f"--mask-desc {NO_MASK}"
            )
    return inside, warnings


def _regions(item: DwiRun, settings: Settings, loaded: LoadedRun) -> tuple[np.ndarray, dict[int, str]] | None:
    """The first segmentation of the run that can be read, and the names of its regions."""
    with suppress(SicnnAppError):
        for found in Segmentations(settings.inputs.derivatives).of(item.entities)[0]:
            shape = loaded.series.signals.shape[:3]
            with suppress(SicnnAppError):
                labels, _ = found.labels(loaded.series.affine, shape)
                return labels, found.names()
    return None


def forget_run(item: DwiRun, settings: Settings) -> None:
    """Remove what a killed process left of a run that it had finished."""
    folder = work_folder(item, settings)
    if folder.exists():
        # A living process that has it removes it itself.
        with suppress(SicnnAppError), locked_folder(folder):
            pass


def _estimate_run(item: DwiRun, job: Job, checkpoint: TrainingCheckpoint, *, scratch: Path) -> RunResult:
    from sicnn_app.ivim.flags import doubts, flag_voxels
    from sicnn_app.ivim.own_signals import objections
    from sicnn_app.preprocess.resample import Resampling

    settings, console, fingerprint = job.settings, job.console, job.part.fingerprints[item.name]
    start = job.networks.start_of(item)
    forget_peak()
    own_fingerprint = job.part.study.own_fingerprint(item.name, fingerprint)
    with job.progress(item) as progress:
        progress("reading", 0, 1)
        ready = prepare_run(item, settings, fingerprint=own_fingerprint, scratch=scratch, progress=progress)
    prepared = ready.prepared
    averaged = prepared.averaged
    console.line(
        f"{item.name}: {int(averaged.mask.sum())} voxels ({ready.anatomy}), "
        f"{len(prepared.series.bvals)} volumes, {len(averaged.bvals)} b-values, noise {averaged.sigma:.3g}"
    )
    warnings = list(ready.warnings)
    if start is not None and not start.fits(averaged.bvals):
        start = None
        warnings.append(
            "its b-values are not those of the study network, because volumes are left out: its training "
            "starts from random weights"
        )
    resampling = None
    if settings.estimation.ensemble > 1:
        resampling = Resampling.of(prepared.series, averaged, prepared.denoising)
        if averaged.sigma == 0 and any("noise" in way for way in resampling.ways):
            warnings.append(
                "the noise is not known and none could be added for the ensemble: its standard deviations "
                "tell of initial weights only"
            )
    for segmentation, found in ready.regions:
        console.line(f"{item.name}: {len(found.names)} regions of {segmentation.described}")
    for text in warnings:
        console.warning(f"{item.name}: {text}")
    with job.progress(item) as progress:
        progress(f"estimation by {settings.estimation.described.title}", 0, 1)
        estimate = _estimate(
            settings.estimation.method,
            averaged,
            settings,
            device=job.device,
            progress=progress,
            checkpoint=checkpoint,
            start=start,
            resample=resampling,
            evidence=prepared.evidence,
        )
    if resampling is not None:
        ways = {"ensemble_resampling_per_b_value": list(resampling.ways)}
        estimate = replace(estimate, parameters={**estimate.parameters, **ways})
    with job.progress(item) as progress:
        if settings.estimation.described.trains:
            progress("conventional fit, to compare with", 0, 1)
        conventional, not_compared = fit_conventionally(
            averaged, settings, device=job.device, progress=progress
        )
    with job.progress(item) as progress:
        regions, not_fitted = measure_regions(
            ready.regions, averaged, settings, device=job.device, progress=progress
        )
    said = [*estimate.parameters.get("out_of_memory", ()), *not_compared, *not_fitted]
    warnings += said
    for text in (*said, *checkpoint.warnings):
        console.warning(f"{item.name}: {text}")
    own = prepared.evidence or averaged
    reasons = doubts(
        estimate.maps,
        averaged.mask,
        vars(settings.estimation.bounds),
        averaged.sigma,
        objections(
            own.signals, own.noise, averaged.bvals, estimate.maps, averaged.mask, prior=estimate.prior
        ),
        estimate.neighbour_count,
        averaged.signals[..., 0],
        estimate.members_at_bound,
        prepared.saturated,
    )
    flags, flag_counts = flag_voxels(reasons)
    return RunResult(
        run=item,
        header=ready.loaded.header,
        series=prepared.series,
        averaged=averaged,
        estimate=estimate,
        conventional=conventional,
        flags=flags,
        flag_counts=flag_counts,
        anatomy=ready.anatomy,
        anatomy_source=ready.anatomy_source,
        mask_source=prepared.mask_method if item.mask is None else str(item.mask),
        steps=prepared.steps,
        volumes=prepared.volumes,
        motion=prepared.motion,
        before_after=prepared.before_after,
        carpet=prepared.carpet,
        regions=regions,
        warnings=warnings,
        settings={**settings.changing_maps(), "bvals_file": settings.inputs.bvals},
        fingerprint=fingerprint,
        peak_memory=peak_memory(),
    )


def _estimate(
    method: str,
    averaged: AveragedSignals,
    settings: Settings,
    *,
    device: str,
    progress: ProgressCallback,
    **training: Any,
) -> Estimate:
    """Maps of a method in the memory that is left below ``--mem``."""
    from sicnn_app.system.device import describe_device

    found = estimator(method).estimate(
        averaged.signals,
        averaged.mask,
        averaged.bvals,
        noise=averaged.noise,
        volumes=averaged.repeats,
        sigma=averaged.sigma,
        settings=settings.estimation,
        device=device,
        progress=progress,
        fall_back=settings.resources.device == "auto",
        memory_limit=remaining_memory(settings.resources.mem),
        **training,
    )
    return replace(found, device=describe_device(found.device))


def fit_conventionally(
    averaged: AveragedSignals, settings: Settings, *, device: str, progress: ProgressCallback
) -> tuple[Estimate | None, list[str]]:
    """Least squares over the very signals, mask and bounds that a network was given.

    It is an extra that may be missing, and changes nothing else. Where no network is trained nothing is
    fitted: those maps are the conventional fit, or as good. It gets the memory that is left when the network
    is done. No room is planned for it beforehand: that could change the batch of the network, and with it the
    maps. Its ``predicted`` is left empty, to keep its memory free. A warning tells why there is none when the
    memory does not suffice.
    """
    if not settings.estimation.described.trains:
        return None, []
    without = "the maps are not compared with the conventional fit"
    return _fit_besides(averaged, settings, without, device=device, progress=progress)


def _fit_besides(
    averaged: AveragedSignals, settings: Settings, without: str, *, device: str, progress: ProgressCallback
) -> tuple[Estimate | None, list[str]]:
    """Least squares as an extra; a warning begins with ``without`` where the memory does not suffice."""
    from sicnn_app.system.device import is_out_of_memory

    try:
        found = _estimate(LEAST_SQUARES, averaged, settings, device=device, progress=progress)
    except (TryAgainError, RuntimeError, MemoryError) as error:
        if not isinstance(error, TryAgainError) and not is_out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, TryAgainError) else "out of memory"
        return None, [f"{without}: {reason}"]
    return replace(found, predicted=np.empty((0,), dtype=np.float32)), []


def measure_regions(
    regions: list[tuple[Segmentation, Regions]],
    averaged: AveragedSignals,
    settings: Settings,
    *,
    device: str,
    progress: ProgressCallback,
) -> tuple[list[MeasuredRegions], list[str]]:
    """Mean signals of regions and their fit by least squares, and a warning where memory does not suffice.

    The signals are weighed by the noise of a single voxel, as those of its voxels are; with that of the mean
    the fits of phantoms are as near to the truth.
    """
    signals = averaged.signals[averaged.mask] if regions else np.empty((0, averaged.bvals.size))
    measured = [
        MeasuredRegions.of(segmentation.name, segmentation.path, segmentation.program, found, signals)
        for segmentation, found in regions
    ]
    means = [one.mean for one in measured]
    there = [np.isfinite(mean).all(axis=1) for mean in means]
    count = int(sum(map(np.count_nonzero, there)))
    if not count:
        return measured, []
    # Each in a slice of its own: least squares draws on the surroundings in the slice for its weights.
    as_voxels = np.concatenate([mean[known] for mean, known in zip(means, there, strict=True)])
    own = replace(
        averaged,
        signals=as_voxels[None, None].astype(np.float32),
        mask=np.ones((1, 1, count), bool),
        noise=np.broadcast_to(averaged.sigma_per_bval, (1, 1, *as_voxels.shape)),
    )
    without = "the mean signals of regions are not fitted"
    found, warnings = _fit_besides(own, settings, without, device=device, progress=progress)
    if found is None:
        return measured, warnings
    ends = np.cumsum([np.count_nonzero(known) for known in there])[:-1]
    parts = {label: np.split(found.maps[label].ravel(), ends) for label in PARAMETERS}
    fitted = []
    for position, (one, known) in enumerate(zip(measured, there, strict=True)):
        fit = {label: np.full(known.size, np.nan) for label in PARAMETERS}
        for label, values in fit.items():
            values[known] = parts[label][position]
        fitted.append(replace(one, fit=fit))
    return fitted, warnings


def _plan(item: DwiRun, anatomy: str, settings: Settings, scratch: Path) -> MemoryPlan:
    """How the run is kept below its memory; raises when memory or a disk has no room for it."""
    shape, bvals = series_size(item, bvals_file=settings.inputs.bvals)
    estimation = estimator(settings.estimation.method).needed_bytes(shape[:3], bvals, settings.estimation)
    plan = plan_run(shape, bvals, anatomy, item, settings, resident=resident_memory(), estimation=estimation)
    require_room(
        item,
        settings.output_dir,
        shape,
        bvals=bvals,
        spread=settings.estimation.gives_spread,
        conventional=settings.estimation.described.trains,
        work=[(scratch, plan.disk)],
    )
    return plan
