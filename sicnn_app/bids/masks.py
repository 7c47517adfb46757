"""A mask or segmentation file to an array on the grid of its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.bids.geometry import grid_shape, same_grid, states_orientation
from sicnn_app.bids.images import open_volume, read_values, volume_count
from sicnn_app.errors import DataError, MissingInputError, one_line


def load_mask(
    path: Path, affine: np.ndarray, *, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Read a mask and bring it into the axis order of the image it is for.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Voxel to world of the image, mm.
    shape : tuple of int, optional
        Spatial shape the mask must end up with; any by default.

    Returns
    -------
    mask : ndarray, shape (X, Y, Z), bool
        True where the file is above 0; trailing axes of length 1 are dropped.
    warnings : list of str
        What was done to its axes, or assumed of them.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, is empty, or lies on another grid than the image.
    """
    image = open_volume(path)
    # Turning axes only reorders their lengths; told before memory is asked for.
    if shape is not None and sorted(grid_shape(image)) != sorted(shape):
        raise _other_shape(path, image.shape, shape)
    values, warnings = _read(path, image, shape)
    mask = np.nan_to_num(values) > 0
    if not mask.any():
        raise DataError(f"{path} is empty, no voxel is above 0: make it again, or leave it out")
    return _on_grid(path, image, mask.astype(np.uint8), affine, shape, warnings) > 0, warnings


def load_labels(path: Path, affine: np.ndarray, *, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Read a discrete segmentation and bring it to the voxels of the image it is for, as :func:`load_mask`.

    On another grid every voxel gets the label that lies at its centre: a region thinner than the voxels of
    the image may lose its shape. Returns the indices of the regions, 0 for none, shape (X, Y, Z), int32, and
    warnings.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, is no single volume, is too large, or holds a value that is no whole number of 0
        or more; or it states no orientation and has another shape than the image; or no region lies in
        the image.
    """
    image = open_volume(path)
    values, warnings = _read(path, image, shape)
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.int32)
    if not np.array_equal(labels, values) or labels.min(initial=0) < 0:
        raise DataError(f"{path} holds values that are no indices of regions: give a discrete segmentation")
    return _placed(path, image, labels, affine, shape, warnings), warnings


def load_masks(
    paths: Sequence[Path], affine: np.ndarray, *, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """Masks of one grid, one per region, as the segmentation that :func:`load_labels` would read.

    The index of a region is the place of its file, from 1. Where masks overlap the smaller one counts. Files
    that cannot be read, hold more than one value besides 0 or lie on another grid than the first are left out
    with a warning. Raises DataError when none is left, or no voxel of any lies in the image.
    """
    first: nib.Nifti1Image | None = None
    inside: dict[int, np.ndarray] = {}
    warnings: list[str] = []
    for index, path in enumerate(paths, start=1):
        try:
            image = open_volume(path)
            values, said = _read(path, image, shape)
            values = np.nan_to_num(values)
            if np.unique(values[values != 0]).size > 1:
                raise DataError(f"{path} holds other values than 0 and one more: it is no mask of a region")
            if first is None:
                first, warnings = image, [*warnings, *said]
            elif image.shape != first.shape or not same_grid(image.affine, first.affine, values.shape):
                raise DataError(f"{path} lies on another grid than the masks beside it: make them again")
        except (DataError, MissingInputError) as error:
            warnings.append(f"a mask is left out: {error}")
            continue
        inside[index] = np.flatnonzero(values)
    if first is None:
        raise DataError(f"{paths[0].parent} holds no mask that can be read: {warnings[0]}")
    labels = np.zeros(grid_shape(first), dtype=np.int32)
    for index in sorted(inside, key=lambda index: -inside[index].size):
        labels.flat[inside[index]] = index
    kept = np.bincount(labels.ravel(), minlength=len(paths) + 1)
    cut = [paths[index - 1].name for index, voxels in inside.items() if kept[index] < voxels.size]
    if cut:
        warnings.append(
            f"masks in {paths[0].parent} overlap: voxels of {', '.join(cut[:5])}"
            f"{f' and {len(cut) - 5} others' if len(cut) > 5 else ''} that smaller ones also have count there"
        )
    return _placed(paths[0].parent, first, labels, affine, shape, warnings), warnings


def _placed(
    path: Path,
    image: nib.Nifti1Image,
    labels: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...],
    warnings: list[str],
) -> np.ndarray:
    """Labels with the position of ``image`` in the voxels of the image they are for."""
    if states_orientation(image.header):
        turned = _reoriented(labels, image.affine, affine)
        if turned.shape != shape or not same_grid(turned.affine, affine, shape):
            found = _resampled(path, labels, image.affine, affine, shape)
            if labels.any() and not found.any():
                raise DataError(
                    f"{path} has no region where the image lies: it looks like another space, session or "
                    "part of the body; give the segmentation in the space of the run"
                )
            warnings.append(f"{path.name} lies on another grid and was brought to that of the image")
            return found
    return _on_grid(path, image, labels, affine, shape, warnings)


def _resampled(
    path: Path, labels: np.ndarray, own: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    # Loaded here: it takes seconds, and grids are equal as a rule.
    from nilearn.image import resample_img

    try:
        image = resample_img(
            nib.Nifti1Image(labels, own),
            target_affine=affine,
            target_shape=shape,
            interpolation="nearest",
            copy_header=True,
            force_resample=True,
        )
    except (ValueError, np.linalg.LinAlgError) as error:
        raise DataError(
            f"{path} cannot be brought to the grid of the image ({one_line(error)}): check its position"
        ) from None
    return np.asarray(image.dataobj).astype(np.int32)


def _read(path: Path, image: nib.Nifti1Image, shape: tuple[int, ...] | None) -> tuple[np.ndarray, list[str]]:
    """Values of one volume, shape (X, Y, Z), and what was assumed of them."""
    if volume_count(image) != 1:
        raise _other_shape(path, image.shape, shape)
    values, warnings = read_values(path, image)
    return values, [*image.extra["position"], *warnings]


def _other_shape(path: Path, own: tuple[int, ...], shape: tuple[int, ...] | None) -> DataError:
    return DataError(f"{path} has shape {own}, its image {shape}: resample it to the grid of the image")


def _on_grid(
    path: Path,
    image: nib.Nifti1Image,
    values: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...] | None,
    warnings: list[str],
) -> np.ndarray:
    """Values in the axis order of the image; ``warnings`` gets what was done to them."""
    if not same_grid(image.affine, affine, values.shape):
        if states_orientation(image.header):
            turned = _reoriented(values, image.affine, affine)
            if not same_grid(turned.affine, affine, turned.shape):
                raise DataError(
                    f"{path} lies on another grid than the image: resample it to the image's voxels"
                )
            values = np.asarray(turned.dataobj)
            warnings.append(f"{path.name}: axes were turned to those of the image")
        else:
            warnings.append(f"{path.name} states no orientation: it is taken to lie as the image does")
    if shape is not None and values.shape != shape:
        raise _other_shape(path, values.shape, shape)
    return values


def _reoriented(values: np.ndarray, own: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Values with the affine ``own``, their axes reordered and flipped to point as those of ``affine``."""
    axes = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(own), nib.orientations.io_orientation(affine)
    )
    return nib.Nifti1Image(values, own).as_reoriented(axes)
