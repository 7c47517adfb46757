"""Folders of DICOM files to the MR series in them, each with its grid and its b-values."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sicnn_app.errors import MissingInputError, UsageError, one_line
from sicnn_app.ivim.bvalues import group_bvalues

if TYPE_CHECKING:
    from pydicom import Dataset

MR_IMAGES = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1")
"""Classes of MR images of one and of many frames."""

PRIVATE_BVALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0043, "GEMS_PARM_01", 0x39),
)
"""Group, creator and element in which vendors state b, beside or instead of the standard's own element."""

GE_OFFSET = 1e9
"""Added to b in images that GE's scanners have averaged over directions."""

SAME_DIRECTION = 1e-3
"""Difference below which direction cosines, voxel sizes and positions, mm, are one."""

NEEDED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
"""Elements that every image has, possibly without a value, but that programs for anonymisation take out."""


@dataclass(frozen=True)
class SourceSeries:
    """One MR series.

    Attributes
    ----------
    images : list of pydicom.Dataset
        Without their pixels.
    affine : ndarray, shape (4, 4)
        From (slice, row, column) to mm in DICOM's patient coordinates, which run to the left, to the back and
        to the head.
    shape : tuple of int
        Slices, rows, columns.
    bvals : ndarray, shape (B,), s/mm^2, ascending
        Nominal b-values that the images state; empty when they state none.
    """

    images: list[Dataset]
    affine: np.ndarray
    shape: tuple[int, int, int]
    bvals: np.ndarray

    @property
    def name(self) -> str:
        """Number and description of the series."""
        return _name(self.images[0])

    @property
    def number(self) -> int | None:
        """Number of the series."""
        return None if (value := self.images[0].get("SeriesNumber")) is None else int(value)

    @property
    def patient(self) -> str:
        """``PatientID``; empty when there is none."""
        return str(self.images[0].PatientID or "").strip()


def require_highdicom() -> None:
    """Make sure that the extra is installed; raises UsageError."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UsageError(
            "sicnn-dicom needs highdicom, which is not installed here: pip install 'sicnn-app[dicom]'"
        ) from None


def read_series(folders: Iterable[Path]) -> tuple[list[SourceSeries], list[str]]:
    """The MR series of all files below some folders, and why others cannot be used, one line each.

    Files that are no DICOM are passed over. Raises MissingInputError when a folder does not exist.
    """
    found: dict[str, dict[str, Dataset]] = defaultdict(dict)
    with warnings.catch_warnings():
        # Of pydicom, about values that no standard allows; they are judged by what they are needed for.
        warnings.simplefilter("ignore")
        for image in _mr_images(folders):
            # A copy of an image is the same image.
            found[str(image.SeriesInstanceUID)].setdefault(str(image.SOPInstanceUID), image)
        usable, reasons = [], []
        for images in found.values():
            first = next(iter(images.values()))
            try:
                usable.append(_series(list(images.values())))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                reasons.append(f"{_name(first)}: {one_line(error).partition(': ')[2]}")
    return usable, reasons


def _mr_images(folders: Iterable[Path]) -> Iterator[Dataset]:
    from pydicom import dcmread

    for folder in folders:
        if not folder.exists():
            raise MissingInputError(f"--source: {folder} does not exist")
        files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            try:
                image = dcmread(path, stop_before_pixels=True)
                is_image = str(image.get("SOPClassUID")) in MR_IMAGES
            except Exception:
                # Whatever lies there besides; pydicom raises many kinds of errors on files that are broken.
                continue
            # What has no name cannot be referred to.
            if is_image and all(image.get(f"{level}InstanceUID") for level in ("SOP", "Series", "Study")):
                yield image


def _name(image: Dataset) -> str:
    description = image.get("SeriesDescription")
    return f"series {image.get('SeriesNumber', '?')}" + (f" ({description})" if description else "")


def _series(images: list[Dataset]) -> SourceSeries:
    """Series of some images; raises ValueError and others when they are no volume."""
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    first = images[0]
    for name in NEEDED:
        if name not in first:
            setattr(first, name, None)
    if not first.get("FrameOfReferenceUID"):
        raise ValueError("its images have no FrameOfReferenceUID")
    if any((image.Rows, image.Columns) != (first.Rows, first.Columns) for image in images):
        raise ValueError("its images have several sizes")
    if "MOSAIC" in first.get("ImageType", ()):
        wrapper = wrapper_from_data(first)
        rows, columns, slices = wrapper.image_shape
        affine, shape = wrapper.affine[:, [2, 0, 1, 3]], (slices, rows, columns)
        stated = [_bvalue(image) for image in images]
    else:
        planes = [plane for image in images for plane in _planes(image)]
        affine, shape = _grid(planes, first.Rows, first.Columns)
        stated = [_bvalue(plane) for plane in planes]
    bvals = [value for value in stated if value is not None]
    return SourceSeries(images, affine, shape, group_bvalues(np.array(bvals))[0] if bvals else np.array([]))


def _planes(image: Dataset) -> list[Dataset]:
    """The slices of an image: itself, or every frame with the elements that an image of one slice has."""
    from pydicom import Dataset

    frames = image.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        return [image]
    shared = image.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        # Some scanners repeat with every frame what all share, and highdicom looks for it here.
        if name not in shared:
            setattr(shared, name, getattr(frames[0], name))
    planes = []
    for frame in frames:
        planes.append(Dataset())
        for group in (*shared, *frame):
            if group.VR == "SQ" and group.value:
                planes[-1].update(group.value[0])
    return planes


def _grid(planes: list[Dataset], rows: int, columns: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    from highdicom import VolumeGeometry
    from highdicom.spatial import get_volume_positions

    first = planes[0]
    positions = np.array([plane.ImagePositionPatient for plane in planes], dtype=float)
    turns = np.array([[*plane.ImageOrientationPatient, *plane.PixelSpacing] for plane in planes], dtype=float)
    if np.ptp(turns, axis=0).max() > SAME_DIRECTION:
        raise ValueError("its slices are not all parallel and of one voxel size")
    thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness")
    is_single = np.ptp(positions, axis=0).max() < SAME_DIRECTION
    spacing, indices = get_volume_positions(
        positions,
        first.ImageOrientationPatient,
        allow_duplicate_positions=True,
        spacing_hint=float(thickness) if is_single and thickness else None,
    )
    if spacing is None or indices is None:
        raise ValueError("its slices are not evenly spaced: some are missing, or it has several stacks")
    geometry = VolumeGeometry.from_attributes(
        image_position=positions[indices.index(0)],
        image_orientation=first.ImageOrientationPatient,
        rows=rows,
        columns=columns,
        pixel_spacing=first.PixelSpacing,
        spacing_between_slices=spacing,
        number_of_frames=max(indices) + 1,
        coordinate_system="PATIENT",
    )
    return geometry.affine, geometry.spatial_shape


def _bvalue(image: Dataset) -> float | None:
    value: Any = image.get("DiffusionBValue")
    for group, creator, element in PRIVATE_BVALUES:
        if value is None and creator in image.private_creators(group):
            block = image.private_block(group, creator)
            value = block[element].value if element in block else None
    if isinstance(value, bytes):
        # Archives that do not know an element hand its bytes on: text, or one float.
        text = value.decode("ascii", "replace").rstrip(" \0")
        value = text.split("\\") if text.isprintable() else np.frombuffer(value, "<f4").tolist()
    if value is not None and not isinstance(value, str | float | int):
        value = next(iter(value), None)
    return None if value is None else float(value) % GE_OFFSET
