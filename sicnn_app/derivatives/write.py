"""Write everything a finished run produced, after making sure that it will fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sicnn_app import __version__
from sicnn_app.bids.derivative_datasets import mask_label
from sicnn_app.bids.geometry import POSITION_FIELDS
from sicnn_app.derivatives import qc, regions, sidecar
from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.names import (
    AVERAGED,
    CONVENTIONAL,
    MARKER,
    MOTION,
    QUALITY,
    REGION_CODES,
    REGIONS,
    SERIES,
    SPREAD,
    SPREAD_SUFFIX,
    TRAINING,
    VOLUMES,
    expected_outputs,
    kept_pictures_of,
    map_ending,
    map_outputs,
    mask_ending,
    output_path,
    run_unit,
)
from sicnn_app.derivatives.names import FLAGS as FLAG_CODES
from sicnn_app.derivatives.quality import Quality, columns
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import DataError, InternalError
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.map_spec import MapSpec
from sicnn_app.ivim.parameters import PARAMETERS, TISSUE_LABELS, all_maps
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.methods import LEAST_SQUARES, METHODS
from sicnn_app.steps import STEPS
from sicnn_app.system.memory import require_space

MAX_NAME = 255
"""Bytes that file systems allow in one file name."""

TEXT_BYTES = 5_000_000
"""Sidecars, tables and figures of one run, and its share in a report: about 1 MB."""

AFFINE_TOLERANCE = 1e-3
"""mm; float32 header fields against the float64 affine of the series."""

MAX_DESCRIP = 79
"""Bytes of text in the field of the NIfTI header, which a zero byte ends."""

GEOMETRY_FIELDS = (
    "dim", "pixdim", "xyzt_units", *POSITION_FIELDS["sform"], *POSITION_FIELDS["qform"],
    "dim_info", "slice_code", "slice_start", "slice_end", "slice_duration", "toffset",
)  # fmt: skip
"""All that outputs take over from the header of their source."""


def estimated_size(
    shape: tuple[int, int, int, int], *, bvals: int, spread: bool = False, conventional: bool = False
) -> int:
    """Bytes that the outputs of a run take at most; float32 noise hardly compresses.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z, N) of the series.
    bvals : int
        Distinct b-values.
    spread, conventional : bool
        See :func:`~sicnn_app.derivatives.names.expected_outputs`.
    """
    voxels = int(np.prod(shape[:3], dtype=object))
    images = shape[3] + bvals + len(all_maps()) + len(TISSUE_LABELS) * spread + len(PARAMETERS) * conventional
    return voxels * (4 * images + 4) + TEXT_BYTES


def require_room(
    run: DwiRun,
    output_dir: Path,
    shape: tuple[int, int, int, int],
    *,
    bvals: int,
    spread: bool = False,
    conventional: bool = False,
    work: Iterable[tuple[Path, int]] = (),
) -> None:
    """Refuse, before any long work, a run whose outputs the file system could not take.

    Parameters
    ----------
    work : iterable of (Path, int)
        Folders, and the bytes the run needs there besides.

    Raises
    ------
    OutputError
        When a disk has too little room.
    DataError
        When the name of an output would be too long.
    """
    outputs = expected_outputs(
        run, output_dir, anatomy=ANATOMIES[0], spread=spread, conventional=conventional
    )
    longest = max(len(os.fsencode(path.name)) for path in outputs)
    if longest > MAX_NAME:
        raise DataError(
            f"{run.name} is too long a name: those of its outputs would have {longest} characters "
            f"and {MAX_NAME} are possible; shorten a label"
        )
    size = estimated_size(shape, bvals=bvals, spread=spread, conventional=conventional)
    require_space([(Path(output_dir), size), *work])


def write_run(
    result: RunResult,
    output_dir: Path,
    *,
    bids_dir: Path,
    dataset_links: Mapping[str, Path],
    pictures: Mapping[str, bytes] | None = None,
    check: Callable[[], None] | None = None,
) -> list[Path]:
    """Write maps, flags, mask, series and quality tables of a finished run; gives the files in order.

    Everything is first written completely to ``output_dir/.work``; only then are earlier outputs of the run
    removed, as far as they are as they were written, and the new files renamed, the completion marker last.

    Parameters
    ----------
    bids_dir : Path
        Input dataset, ``raw`` in BIDS URIs.
    dataset_links : mapping of str to Path
        Other datasets that the run used, by the names in ``DatasetLinks``.
    pictures : mapping of str to bytes, optional
        PNG by label, see :func:`sicnn_app.derivatives.names.kept_pictures_of`. They go to the figures of the
        report, which cannot make them: images from before a step, and volumes left out, are not written.
    check : callable, optional
        Called when everything is written and before any final name changes; may raise to prevent that.

    Raises
    ------
    OutputError
        When the file system refuses, or somebody else's file has one of the names.
    InternalError
        When the result is inconsistent: a map that is not finite inside the mask, a wrong shape or grid.
    """
    run = result.run
    with scratch_folder(output_dir) as folder:
        staged = StagedFiles(folder)
        files = _RunFiles(staged, result, output_dir, sidecar.DatasetRoots.of(bids_dir, dataset_links))
        _stage_maps(files)
        _stage_flags(files)
        _stage_series(files)
        files.image(
            mask_ending(mask_label(run, result.anatomy)),
            result.averaged.mask.astype(np.uint8),
            sidecar.mask_sidecar(result, files.roots),
        )
        places = kept_pictures_of(run.name, output_dir, run.subject)
        for label, picture in (pictures or {}).items():
            staged.add_bytes(places[label], picture)
        _stage_tables(files)
        if check is not None:
            check()
        return staged.publish(WrittenRecord(output_dir, run_unit(run.name)))


@dataclass(frozen=True)
class _RunFiles:
    """Stages the outputs of a run under their names, each beside what describes it."""

    staged: StagedFiles
    result: RunResult
    output_dir: Path
    roots: sidecar.DatasetRoots

    def path(self, ending: str) -> Path:
        return output_path(self.result.run, self.output_dir, ending)

    def image(
        self, ending: str, values: np.ndarray, words: dict[str, Any], **header_fields: float | bytes
    ) -> None:
        image = _image(self.result, values)
        for field, value in header_fields.items():
            image.header[field] = value
        self.staged.add_nifti(self.path(f"{ending}.nii.gz"), image)
        self.staged.add_json(self.path(f"{ending}.json"), words)

    def table(
        self, ending: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], words: dict[str, Any]
    ) -> None:
        self.staged.add_tsv(self.path(f"{ending}.tsv"), columns, rows)
        self.staged.add_json(self.path(f"{ending}.json"), words)


def _stage_maps(files: _RunFiles) -> None:
    result, of = files.result, {None: files.result, SPREAD: files.result}
    if (fit := result.conventional) is not None:
        # A result of its own over the same voxels.
        settings = {**result.settings, "method": LEAST_SQUARES}
        of[CONVENTIONAL] = replace(result, estimate=fit, settings=settings)
    maps = map_outputs(
        sidecar.method_name(result),
        spread=all(f"{label}{SPREAD_SUFFIX}" in result.estimate.maps for label in TISSUE_LABELS),
        conventional=CONVENTIONAL in of,
    )
    for spec, desc in maps:
        values = _masked(of[desc], f"{spec.label}{SPREAD_SUFFIX}" if desc == SPREAD else spec.label)
        words = sidecar.map_sidecar(of[desc], spec, files.roots, desc)
        files.image(map_ending(spec.label, desc), values, words, **_for_viewers(of[desc], spec, desc))


def _for_viewers(result: RunResult, spec: MapSpec, desc: str | None) -> dict[str, float | bytes]:
    """Fields of the header from which viewers take what a map is and its range, that of the reports."""
    of_map = desc != SPREAD
    low, high = (spec.range_in if of_map else spec.spread_range_in)(result.anatomy) or (0.0, 0.0)
    title = spec.title if of_map else "standard deviation"
    unit = f" ({spec.unit})" if spec.unit != "arbitrary" else ""
    name = sidecar.method_name(result)
    method = METHODS[name].title if name in METHODS else name
    words = f"{spec.symbol}, {title}{unit}, {method}, sicnn-app {__version__}"
    return {"cal_min": low, "cal_max": high, "descrip": words.encode("ascii", "replace")[:MAX_DESCRIP]}


def _stage_flags(files: _RunFiles) -> None:
    result = files.result
    flags = np.where(result.averaged.mask, result.flags, 0).astype(np.uint8)
    files.image(FLAG_CODES, flags, sidecar.flags_sidecar(result, files.roots))
    columns = ("index", "name", "color", "description")
    rows = [{"index": spec.code, **vars(spec)} for spec in FLAGS]
    files.staged.add_tsv(files.path(f"{FLAG_CODES}.tsv"), columns, rows)


def _stage_regions(files: _RunFiles) -> None:
    codes = regions.region_codes(files.result)
    files.image(REGION_CODES, codes, regions.codes_sidecar(files.result, files.roots))
    columns = ("index", "name", "segmentation")
    rows = [
        {"index": row, "name": region.name, "segmentation": region.segmentation}
        for row, region in enumerate(regions.regions_of(files.result), start=1)
    ]
    files.staged.add_tsv(files.path(f"{REGION_CODES}.tsv"), columns, rows)


def _stage_series(files: _RunFiles) -> None:
    series = files.result.series
    words = sidecar.series_sidecar(files.result, files.roots)
    files.image(SERIES, series.signals.astype(np.float32, copy=False), words)
    files.staged.add_bytes(files.path(f"{SERIES}.bval"), _numbers(series.bvals[None], "%.10g"))
    if series.bvecs is not None:
        # A direction without a value belongs to a volume without diffusion weighting.
        directions = np.nan_to_num(series.bvecs.T, nan=0.0, posinf=0.0, neginf=0.0)
        files.staged.add_bytes(files.path(f"{SERIES}.bvec"), _numbers(directions, "%.8g"))
    averaged = files.result.averaged
    words = sidecar.averaged_sidecar(files.result, files.roots)
    files.image(AVERAGED, averaged.signals.astype(np.float32, copy=False), words)
    files.staged.add_bytes(files.path(f"{AVERAGED}.bval"), _numbers(averaged.bvals[None], "%.10g"))


def _stage_tables(files: _RunFiles) -> None:
    result, roots, staged = files.result, files.roots, files.staged
    history = qc.history_sidecar(result, roots)
    files.table(TRAINING, qc.history_columns(result), qc.history_rows(result), history)
    files.table(VOLUMES, list(qc.VOLUME_COLUMNS), result.volumes, qc.volumes_sidecar(result, roots))
    if result.regions:
        columns_of_regions = [column.name for column in regions.COLUMNS]
        words = regions.regions_sidecar(result, roots)
        files.table(REGIONS, columns_of_regions, regions.region_rows(result), words)
        _stage_regions(files)
    if result.motion is not None:
        files.table(MOTION, list(qc.MOTION_COLUMNS), result.motion, qc.motion_sidecar(result, roots))
    quality, marker = Quality(result), files.path(MARKER)
    table = files.path(f"{QUALITY}.tsv")
    staged.add_tsv(table, [column.name for column in columns()], [quality.row()])
    # A picture that is gone makes no run unfinished.
    outputs = [target.name for target in staged.targets if target.parent == marker.parent]
    staged.add_json(marker, _marker_content(quality, roots, outputs))


def _marker_content(quality: Quality, roots: sidecar.DatasetRoots, outputs: list[str]) -> dict[str, Any]:
    """Columns of the quality table and what identifies the run.

    Parameters
    ----------
    outputs : list of str
        File names of everything the run wrote beside this sidecar.
    """
    result, adequacy = quality.result, quality.adequacy
    return {
        "Description": "Quality measures of one run; this file is written after all others of the run",
        "Sources": sidecar.sources(result, roots),
        **{column.name: column.words() for column in columns()},
        "Adequacy": sidecar.plain(
            {
                "Verdict": adequacy.verdict,
                "Sentence": adequacy.sentence,
                "Checks": [
                    {name.capitalize(): value for name, value in vars(check).items()}
                    for check in adequacy.checks.values()
                ],
            }
        ),
        "Fingerprint": result.fingerprint,
        "Settings": sidecar.portable_json(result.settings, roots),
        "Outputs": outputs,
        "MaskSource": sidecar.mask_source(result, roots),
        "AnatomySource": roots.portable(result.anatomy_source),
        "PreprocessingSteps": sidecar.portable_json(result.steps, roots),
        # Slices and volumes are counted from 0.
        "StepPictures": [
            sidecar.plain(
                {
                    "Step": STEPS[step.label].name,
                    "Slice": step.slice_index,
                    "BValues": step.bvals,
                    "SourceVolumes": step.volumes,
                    "RootMeanSquareDifference": step.root_mean_squares,
                    "DifferenceRange": step.limit,
                }
            )
            for step in result.before_after
        ],
        "VolumePictures": _volume_pictures(result),
        "Warnings": [roots.portable(line) for line in result.warnings],
        **sidecar.provenance(result),
    }


def _volume_pictures(result: RunResult) -> dict[str, Any]:
    """What the carpet and the pictures of volumes show; empty where none are drawn."""
    if (carpet := result.carpet) is None:
        return {}
    return sidecar.plain(
        {
            "CarpetGroupedBy": carpet.grouped_by,
            "CarpetBlocks": carpet.groups,
            "Volumes": [
                {
                    "Volume": suspect.volume,
                    "BValue": suspect.bval,
                    "Slice": suspect.slice_index,
                    "ComparedWithVolumes": suspect.others,
                    "ComparedWithBValue": suspect.other_bval,
                    "OneGreyScale": suspect.one_scale,
                }
                for suspect in carpet.suspects
            ],
        }
    )


def _numbers(rows: np.ndarray, form: str) -> bytes:
    return "".join(" ".join(form % value for value in row) + "\n" for row in rows).encode()


def _masked(result: RunResult, key: str) -> np.ndarray:
    values = np.asarray(result.estimate.maps[key], dtype=np.float32)
    mask = result.averaged.mask
    if values.shape != mask.shape:
        raise InternalError(f"{result.run.name}: map {key} has shape {values.shape}, the mask {mask.shape}")
    if broken := int(np.count_nonzero(~np.isfinite(values[mask]))):
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
