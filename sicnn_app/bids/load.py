"""A run's files to a DwiSeries: every rule on how its images and gradient tables fit together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sicnn_app.bids.geometry import (
    greatest_distance,
    grid_shape,
    position_warnings,
    same_grid,
    stated_slice_axis,
    states_orientation,
)
from sicnn_app.bids.gradients import bvals_in_words, bvals_path, merged_bvals, part_bvals, read_bvecs
from sicnn_app.bids.images import open_image, read_signals, require_voxels, volume_count
from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import group_bvalues, other_unit
from sicnn_app.ivim.run import DwiRun
from sicnn_app.ivim.series import MAX_LOW_BVAL, MIN_DISTINCT_BVALS, DwiSeries
from sicnn_app.system.memory import empty_series

SAME_SIZE = 0.01
"""Share by which the voxel sizes of combined images may differ."""


@dataclass(frozen=True)
class LoadedRun:
    """A run in memory.

    Attributes
    ----------
    header : nibabel header
        That of the (first) source image, from which geometry is copied.
    image_of_volume : ndarray, shape (N,), int
        Which of the source images every volume of the series comes from.
    """

    series: DwiSeries
    header: Any
    warnings: list[str]
    image_of_volume: np.ndarray


@dataclass(frozen=True)
class _Part:
    path: Path
    image: nib.Nifti1Image
    bvals: np.ndarray
    bvecs: np.ndarray | None


def _open_parts(run: DwiRun, bvals_file: Path | None, warnings: list[str]) -> list[_Part]:
    images = [open_image(source.image) for source in run.parts]
    counts = [volume_count(image) for image in images]
    tables, shared_out = part_bvals(run.parts, counts, bvals_file)
    warnings.extend(shared_out)
    hint = ""
    if len(counts) > 1:
        hint = f" (the {len(counts)} images that are combined have {sum(counts)} volumes together)"
    elif counts == [1]:
        hint = " (see --combine for one image per b-value)"
    parts = []
    for source, image, volumes, bvals in zip(run.parts, images, counts, tables, strict=True):
        warnings.extend(image.extra["position"])
        if bvals.size != volumes:
            table = bvals_path(source, bvals_file)
            raise DataError(
                f"{source.image.name} has {volumes} volumes but {table.name} has {bvals.size} b-values: "
                f"check {table}{hint}"
            )
        bvecs = None
        if source.bvec is not None:
            bvecs, more = read_bvecs(source.bvec, bvals)
            warnings.extend(more)
        parts.append(_Part(source.image, image, bvals, bvecs))
    return parts


def _require_one_grid(parts: list[_Part]) -> list[str]:
    """Make sure that images lie alike, as far as they say; returns what is assumed of those that do not."""
    first, warnings = parts[0], []
    for part in parts[1:]:
        images = (first.image, part.image)
        shapes = [grid_shape(image) for image in images]
        zooms = [nib.affines.voxel_sizes(image.affine) for image in images]
        stated = [states_orientation(image.header) for image in images]
        if shapes[0] != shapes[1]:
            difference = f"{' and '.join(' x '.join(map(str, shape)) for shape in shapes)} voxels"
        elif not np.allclose(zooms[0], zooms[1], rtol=SAME_SIZE):
            sizes = [" x ".join(f"{size:.3g}" for size in voxel) for voxel in zooms]
            difference = f"voxels of {' and '.join(sizes)} mm"
        elif all(stated) and not same_grid(part.image.affine, first.image.affine, shapes[0]):
            distance = greatest_distance(part.image.affine, first.image.affine, shapes[0])
            difference = f"up to {distance:.3g} mm apart"
        else:
            if any(stated) and not all(stated):
                warnings.append(
                    f"one of {first.path.name} and {part.path.name} states no position: "
                    "they are taken to lie at the same place"
                )
            continue
        raise DataError(
            f"{first.path.name} and {part.path.name} have different grids ({difference}): "
            "runs can be combined only when shape and position are equal (see --combine)"
        )
    return warnings


def _read_parts(parts: list[_Part], scratch: Path | None, warnings: list[str]) -> np.ndarray:
    """Signals of all parts, one after the other, shape (X, Y, Z, N), float32."""
    for part in parts:
        warnings.extend(require_voxels(part.path, part.image))
    ends = np.cumsum([part.bvals.size for part in parts])
    signals = empty_series((*grid_shape(parts[0].image), int(ends[-1])), folder=scratch)
    for part, end in zip(parts, ends, strict=True):
        volumes = slice(int(end) - part.bvals.size, int(end))
        warnings.extend(read_signals(part.path, part.image, signals, volumes))
    return signals


def _drop_missing(signals: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """``signals`` without some volumes; the others move up in place: a copy would take twice the memory."""
    kept = np.flatnonzero(~missing)
    for position, volume in enumerate(kept):
        if position != volume:
            signals[..., position] = signals[..., volume]
    return signals[..., : kept.size]


def _require_ivim(name: str, bvals: np.ndarray) -> None:
    if (mistake := other_unit(bvals)) is not None:
        raise DataError(f"{name}: {mistake}")
    nominal, _ = group_bvalues(bvals)
    values = ", ".join(bvals_in_words(bvals)[:MIN_DISTINCT_BVALS])
    if nominal.size < MIN_DISTINCT_BVALS:
        raise DataError(
            f"{name} has {nominal.size} distinct b-values ({values}): IVIM needs {MIN_DISTINCT_BVALS} or more"
            + (", and --combine merges images of one b-value each" if nominal.size == 1 else "")
        )
    if nominal[0] > MAX_LOW_BVAL:
        raise DataError(
            f"{name} has no b-value up to {MAX_LOW_BVAL:g} s/mm^2, its lowest are {values}: "
            "perfusion needs one"
        )


def series_size(run: DwiRun, *, bvals_file: Path | None) -> tuple[tuple[int, int, int, int], int]:
    """Shape (X, Y, Z, N) of a run's series and its number of nominal b-values; the voxels are not read.

    Raises MissingInputError and DataError as :func:`load_run`.
    """
    parts = _open_parts(run, bvals_file, [])
    bvals = np.concatenate([part.bvals for part in parts])
    return (*grid_shape(parts[0].image), bvals.size), group_bvalues(bvals)[0].size


def load_run(run: DwiRun, *, bvals_file: Path | None, scratch: Path | None = None) -> LoadedRun:
    """Read the images of a run and their gradient tables.

    Besides the float32 series itself a few megabytes are held in reading it. With a folder ``scratch`` it is
    kept on the file system of that, as a :class:`sicnn_app.system.memory.DiskArray`; its values are the same.
    ``bvals_file`` has the b-values of images without a .bval.

    Raises
    ------
    MissingInputError
        A file is not there, or its content is not fetched.
    DataError
        The data break a rule; the message names the file and the rule.
    OutputError
        There is no room in ``scratch``.
    """
    warnings: list[str] = []
    parts = _open_parts(run, bvals_file, warnings)
    warnings.extend(_require_one_grid(parts))
    signals = _read_parts(parts, scratch, warnings)
    warnings.extend(position_warnings(parts[0].path, parts[0].image))
    slice_axis, contradiction = stated_slice_axis(parts[0].path, parts[0].image.header, run.metadata)
    warnings.extend(contradiction)
    without = [source.image.name for source in run.parts if source.bvec is None]
    if without:
        warnings.append(f"{', '.join(without)}: no .bvec: only |b| is used")
    bvals = np.concatenate([part.bvals for part in parts])
    bvecs = [part.bvecs for part in parts if part.bvecs is not None]
    warnings.extend(merged_bvals(bvals))
    names = ", ".join(source.image.name for source in run.parts)
    # One volume at a time: of a series on disk each takes memory until the next is looked at.
    volumes = range(signals.shape[3])
    missing = np.array([np.isnan(signals[..., volume]).all() for volume in volumes])
    if missing.all():
        raise DataError(f"{names} holds only NaN or infinite values: convert it again")
    if not any(np.nan_to_num(signals[..., volume]).any() for volume in volumes):
        raise DataError(f"{names} holds only zeros: convert it again")
    if missing.any():
        positions = ", ".join(str(v) for v in np.flatnonzero(missing))
        warnings.append(f"{run.name}: volume {positions} (counted from 0) holds only NaN and is left out")
    series = DwiSeries(
        signals=_drop_missing(signals, missing),
        bvals=bvals[~missing],
        bvecs=np.concatenate(bvecs)[~missing] if len(bvecs) == len(parts) else None,
        affine=parts[0].image.affine,
        source_volumes=np.flatnonzero(~missing),
        slice_axis=slice_axis,
    )
    _require_ivim(names, series.bvals)
    image_of_volume = np.repeat(np.arange(len(parts)), [part.bvals.size for part in parts])[~missing]
    return LoadedRun(series, parts[0].image.header, warnings, image_of_volume)
