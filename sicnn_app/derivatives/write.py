"""Write everything a finished run produced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.bids.associate import LABEL
from sicnn_app.bids.derivative_datasets import mask_label
from sicnn_app.bids.geometry import POSITION_FIELDS
from sicnn_app.derivatives import qc, sidecar
from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.comparison import conventional_result, conventional_sidecar
from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import InternalError
from sicnn_app.ivim.before_after import step_picture_name
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import MAPS, PARAMETERS, TISSUE_LABELS, maps_of
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.steps import STEPS

SPREAD_SUFFIX = "_std"
"""Key of a map's standard deviation over an ensemble in ``Estimate.maps``: ``f_std``."""

AFFINE_TOLERANCE = 1e-3
"""mm; float32 header fields against the float64 affine of the series."""

GEOMETRY_FIELDS = (
    "dim", "pixdim", "xyzt_units", *POSITION_FIELDS["sform"], *POSITION_FIELDS["qform"],
    "dim_info", "slice_code", "slice_start", "slice_end", "slice_duration", "toffset",
)  # fmt: skip
"""All that outputs take over from the header of their source."""

_FLAGS = "desc-ivimflags_dseg"
_SERIES = "desc-preproc_dwi"
_QC = "desc-ivim_qc"
_TRAINING = "desc-training_qc"
_MOTION = "desc-motion_qc"
MARKER = f"{_QC}.json"
"""End of the name of the completion marker, see :mod:`sicnn_app.derivatives.marker`."""


def run_folder(run: DwiRun, output_dir: Path) -> Path:
    """Folder of the run's outputs: ``sub-X[/ses-Y]/dwi`` below ``output_dir``.

    Raises
    ------
    InternalError
        When a label could lead out of that folder; names of files that were read have none like that.
    """
    for key, label in run.entities.items():
        if not (LABEL.fullmatch(key) and LABEL.fullmatch(label)):
            raise InternalError(f"{key}-{label!r} cannot be part of a file name: only letters and digits can")
    folder = Path(output_dir) / f"sub-{run.subject}"
    if run.session is not None:
        folder /= f"ses-{run.session}"
    return folder / "dwi"


def _target(run: DwiRun, output_dir: Path, ending: str) -> Path:
    return run_folder(run, output_dir) / f"{run.name}_{ending}"


def _step_picture(run: DwiRun, output_dir: Path, label: str) -> Path:
    return Path(output_dir) / f"sub-{run.subject}" / "figures" / step_picture_name(run.name, label)


def _map_ending(label: str, *, spread: bool = False) -> str:
    return f"model-ivim_param-{label}_{'desc-std_' if spread else ''}dwimap"


def _conventional_ending(label: str) -> str:
    return f"model-ivim_param-{label}_desc-lsq_dwimap"


def _endings(
    masks: tuple[str, ...], method: str, *, ensemble: bool, comparison: bool, with_bvecs: bool, motion: bool
) -> list[str]:
    images = [_map_ending(spec.label) for spec in maps_of(method)]
    if comparison:
        images += [_conventional_ending(label) for label in PARAMETERS]
    if ensemble:
        images += [_map_ending(label, spread=True) for label in TISSUE_LABELS]
    images += [_FLAGS, _SERIES, *(f"desc-{label}_mask" for label in masks)]
    endings = [f"{image}{extension}" for image in images for extension in (".nii.gz", ".json")]
    endings += [f"{_FLAGS}.tsv", f"{_SERIES}.bval"]
    if with_bvecs:
        endings.append(f"{_SERIES}.bvec")
    if motion:
        endings += [f"{_MOTION}.tsv", f"{_MOTION}.json"]
    return [*endings, f"{_TRAINING}.tsv", f"{_TRAINING}.json", f"{_QC}.tsv", MARKER]


def expected_outputs(
    run: DwiRun,
    output_dir: Path,
    *,
    anatomy: str,
    method: str = "",
    ensemble: bool = False,
    comparison: bool = False,
    with_bvecs: bool | None = None,
    motion: bool = False,
) -> list[Path]:
    """Files that :func:`write_run` writes for a run, the completion marker last.

    Parameters
    ----------
    anatomy : str
        ``brain`` or ``body``.
    method : str
        Decides which maps there are besides those of every method.
    ensemble : bool
        Whether standard deviations over an ensemble are written.
    comparison : bool
        Whether maps of the conventional fit are.
    with_bvecs : bool, optional
        Whether the series has directions; by default whether every source image has a .bvec.
    motion : bool
        Whether motion is corrected.
    """
    if with_bvecs is None:
        with_bvecs = all(part.bvec is not None for part in run.parts)
    masks = (mask_label(run, anatomy),)
    endings = _endings(
        masks, method, ensemble=ensemble, comparison=comparison, with_bvecs=with_bvecs, motion=motion
    )
    return [_target(run, output_dir, ending) for ending in endings]


def run_record(run: DwiRun, output_dir: Path) -> WrittenRecord:
    """The record of what was written for a run."""
    return WrittenRecord(output_dir, f"run-{run.name}")


def step_pictures_of(run: DwiRun, output_dir: Path) -> list[Path]:
    """Pictures of corrections that :func:`write_run` may write for a run."""
    return [_step_picture(run, output_dir, label) for label in STEPS]


def write_run(
    result: RunResult,
    output_dir: Path,
    *,
    bids_dir: Path,
    dataset_links: Mapping[str, Path],
    step_pictures: Mapping[str, bytes] | None = None,
    check: Callable[[], None] | None = None,
) -> list[Path]:
    """Write maps, flags, mask, series and quality tables of a finished run.

    Everything is first written completely to ``output_dir/.work``; only then are earlier outputs
    of the run removed, as far as they are as they were written, and the new files renamed, the
    completion marker last.

    Parameters
    ----------
    result : RunResult
    output_dir : Path
    bids_dir : Path
        Input dataset, ``raw`` in BIDS URIs.
    dataset_links : mapping of str to Path
        Other datasets that the run used, by the names in ``DatasetLinks``.
    step_pictures : mapping of str to bytes, optional
        PNG of every correction by its label in :data:`sicnn_app.steps.STEPS`. They go to
        the figures of the report, which cannot make them: images from before a step are not written.
    check : callable, optional
        Called when everything is written and before any final name changes; may raise to prevent that.

    Returns
    -------
    list of Path
        The files written, in order.

    Raises
    ------
    OutputError
        When the file system refuses, or somebody else's file has one of the names.
    InternalError
        When the result is inconsistent: a map that is not finite inside the mask, a wrong shape or grid.
    """
    roots = sidecar.DatasetRoots.of(bids_dir, dataset_links)
    with scratch_folder(output_dir) as folder:
        staged = StagedFiles(folder)
        _stage_maps(staged, result, output_dir, roots)
        _stage_conventional(staged, result, output_dir, roots)
        _stage_flags(staged, result, output_dir, roots)
        _stage_series(staged, result, output_dir, roots)
        _stage_mask(staged, result, output_dir, roots)
        for label, picture in (step_pictures or {}).items():
            staged.add_bytes(_step_picture(result.run, output_dir, label), picture)
        _stage_tables(staged, result, output_dir, roots)
        if check is not None:
            check()
        return staged.publish(run_record(result.run, output_dir))


def _stage_maps(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    maps = result.estimate.maps
    ensemble = all(f"{label}{SPREAD_SUFFIX}" in maps for label in TISSUE_LABELS)
    for spec in maps_of(sidecar.method_name(result)):
        for spread in (False, True):
            if spread and not (ensemble and spec.of_tissue):
                continue
            key = f"{spec.label}{SPREAD_SUFFIX}" if spread else spec.label
            ending = _map_ending(spec.label, spread=spread)
            staged.add_nifti(
                _target(result.run, output_dir, f"{ending}.nii.gz"), _image(result, _masked(result, key))
            )
            staged.add_json(
                _target(result.run, output_dir, f"{ending}.json"),
                sidecar.map_sidecar(result, spec, roots, spread=spread),
            )


def _stage_conventional(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    if result.conventional is None:
        return
    conventional = conventional_result(result)
    for spec in (spec for spec in MAPS if spec.bounds is not None):
        ending = _conventional_ending(spec.label)
        staged.add_nifti(
            _target(result.run, output_dir, f"{ending}.nii.gz"),
            _image(result, _masked(conventional, spec.label)),
        )
        staged.add_json(
            _target(result.run, output_dir, f"{ending}.json"), conventional_sidecar(conventional, spec, roots)
        )


def _stage_flags(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    flags = np.where(result.averaged.mask, result.flags, 0).astype(np.uint8)
    staged.add_nifti(_target(result.run, output_dir, f"{_FLAGS}.nii.gz"), _image(result, flags))
    staged.add_json(_target(result.run, output_dir, f"{_FLAGS}.json"), sidecar.flags_sidecar(result, roots))
    rows = [
        {"index": spec.code, "name": spec.name, "color": spec.color, "description": spec.description}
        for spec in FLAGS
    ]
    staged.add_tsv(
        _target(result.run, output_dir, f"{_FLAGS}.tsv"), ("index", "name", "color", "description"), rows
    )


def _stage_series(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    series = result.series
    image = _image(result, series.signals.astype(np.float32, copy=False))
    staged.add_nifti(_target(result.run, output_dir, f"{_SERIES}.nii.gz"), image)
    staged.add_json(_target(result.run, output_dir, f"{_SERIES}.json"), sidecar.series_sidecar(result, roots))
    staged.add_bytes(
        _target(result.run, output_dir, f"{_SERIES}.bval"), _numbers(series.bvals[None], "%.10g")
    )
    if series.bvecs is not None:
        # A direction without a value belongs to a volume without diffusion weighting.
        directions = np.nan_to_num(series.bvecs.T, nan=0.0, posinf=0.0, neginf=0.0)
        staged.add_bytes(_target(result.run, output_dir, f"{_SERIES}.bvec"), _numbers(directions, "%.8g"))


def _stage_mask(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    ending = f"desc-{mask_label(result.run, result.anatomy)}_mask"
    image = _image(result, result.averaged.mask.astype(np.uint8))
    staged.add_nifti(_target(result.run, output_dir, f"{ending}.nii.gz"), image)
    staged.add_json(_target(result.run, output_dir, f"{ending}.json"), sidecar.mask_sidecar(result, roots))


def _stage_tables(
    staged: StagedFiles, result: RunResult, output_dir: Path, roots: sidecar.DatasetRoots
) -> None:
    staged.add_tsv(
        _target(result.run, output_dir, f"{_TRAINING}.tsv"),
        qc.history_columns(result),
        qc.history_rows(result),
    )
    staged.add_json(_target(result.run, output_dir, f"{_TRAINING}.json"), qc.history_sidecar(result, roots))
    if result.motion is not None:
        staged.add_tsv(
            _target(result.run, output_dir, f"{_MOTION}.tsv"), list(qc.MOTION_COLUMNS), result.motion
        )
        staged.add_json(_target(result.run, output_dir, f"{_MOTION}.json"), qc.motion_sidecar(result, roots))
    quality = Quality(result)
    staged.add_tsv(
        _target(result.run, output_dir, f"{_QC}.tsv"), [column.name for column in columns()], [quality.row()]
    )
    # A picture that is gone makes no run unfinished.
    folder = run_folder(result.run, output_dir)
    outputs = [target.name for target in staged.targets if target.parent == folder]
    staged.add_json(_target(result.run, output_dir, MARKER), qc.qc_sidecar(quality, roots, outputs))


def _numbers(rows: np.ndarray, form: str) -> bytes:
    return "".join(" ".join(form % value for value in row) + "\n" for row in rows).encode()


def _masked(result: RunResult, key: str) -> np.ndarray:
    values = np.asarray(result.estimate.maps[key], dtype=np.float32)
    mask = result.averaged.mask
    if values.shape != mask.shape:
        raise InternalError(f"{result.run.name}: map {key} has shape {values.shape}, the mask {mask.shape}")
    broken = int(np.count_nonzero(~np.isfinite(values[mask])))
    if broken:
        raise InternalError(f"{result.run.name}: map {key} is not finite in {broken} voxels of the mask")
    return np.where(mask, values, np.float32(np.nan))


def _image(result: RunResult, values: np.ndarray) -> nib.Nifti1Image:
    """Image with exactly the geometry fields of the source header, in the byte order of this machine.

    The affine is left to the header, so transforms that the source does not set stay unset. Nothing else is
    taken over: scanners and converters have been seen to write names of persons there.
    """
    source, expected = result.header, result.averaged.mask.shape
    # Two dimensions only: a single slice may be stored without a third one.
    if values.shape[:3] != expected or tuple(source.get_data_shape()[:2]) != expected[:2]:
        raise InternalError(
            f"{result.run.name}: an output has shape {values.shape}, the mask {expected}, "
            f"the source {source.get_data_shape()}"
        )
    if not np.allclose(source.get_best_affine(), result.series.affine, atol=AFFINE_TOLERANCE):
        raise InternalError(f"{result.run.name}: the series is not on the grid of its source image")
    image_class = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
    header = image_class.header_class()
    for field in GEOMETRY_FIELDS:
        header[field] = source[field]
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    return image_class(values, None, header)
