"""MR series in DICOM on the grid of an image, as scanners write them: single slices, frames, and mosaics."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY, FRAME = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.9"
KINDS = ("slices", "frames", "frames_by_themselves", "mosaic")


def oblique(turns: Sequence[float], zooms: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """Affine, voxel to RAS+ mm, turned by three angles in degrees."""
    affine = np.eye(4)
    for axis, turn in enumerate(np.deg2rad(turns)):
        one, other = [index for index in range(3) if index != axis]
        turned = np.eye(4)
        turned[one, one] = turned[other, other] = np.cos(turn)
        turned[one, other], turned[other, one] = -np.sin(turn), np.sin(turn)
        affine = affine @ turned
    affine[:3, :3] *= zooms
    affine[:3, 3] = origin
    return affine


def write_series(
    folder: Path,
    affine: np.ndarray,
    shape: Sequence[int],
    bvals: Sequence[float],
    *,
    kind: str = "slices",
    patient: str = "01",
    number: int = 5,
    without: Sequence[str] = (),
    b_in: str = "standard",
) -> list[Path]:
    """Write a series whose voxels are those of an image of dcm2niix: its rows run against the y-axis.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Voxel to RAS+ mm of the image.
    shape : sequence of int, (X, Y, Z)
    without : sequence of str
        Elements that every image lacks.
    b_in : {'standard', 'siemens', 'ge', 'unknown', 'nowhere'}
        Element with the b-values; unknown: that of Siemens, in bytes that nobody has interpreted.
    """
    from pydicom import Dataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, slices = shape
    # From (column, row, slice) to mm: rows from the last y on.
    grid = LPS @ affine @ np.array([[1, 0, 0, 0], [0, -1, 0, rows - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    zooms = np.linalg.norm(grid[:3, :3], axis=0)
    cosines = grid[:3, :3] / zooms

    def numbers(values) -> list[str]:
        return [f"{value:.10f}"[:16] for value in values]

    def place(image, index: float, *, groups: bool) -> None:
        orientation, measures, position = (Dataset(), Dataset(), Dataset()) if groups else (image,) * 3
        orientation.ImageOrientationPatient = numbers([*cosines[:, 0], *cosines[:, 1]])
        measures.PixelSpacing = numbers(zooms[[1, 0]])
        measures.SliceThickness = measures.SpacingBetweenSlices = f"{zooms[2]:.6f}"
        position.ImagePositionPatient = numbers(grid[:3, 3] + index * grid[:3, 2])
        if groups:
            image.PlaneOrientationSequence, image.PixelMeasuresSequence = [orientation], [measures]
            image.PlanePositionSequence = [position]

    def state_b(image, b: float) -> None:
        if b_in == "standard":
            image.DiffusionBValue = float(b)
        elif b_in == "ge":
            image.private_block(0x43, "GEMS_PARM_01", create=True).add_new(
                0x39, "IS", [int(b + 1e9), 8, 0, 0]
            )
        elif b_in != "nowhere":
            block = image.private_block(0x19, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, *(("IS", int(b)) if b_in == "siemens" else ("UN", b"%d " % b)))

    def new(place_in_series: int) -> Dataset:
        image = Dataset()
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4" + (".1" if kind.startswith("frames") else "")
        image.SOPInstanceUID = f"{STUDY}.{number}.{place_in_series}"
        image.StudyInstanceUID, image.SeriesInstanceUID = STUDY, f"{STUDY}.{number}"
        image.FrameOfReferenceUID = FRAME
        image.Modality, image.Manufacturer, image.ManufacturerModelName = "MR", "Made up", "Phantom"
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = patient, "A^B", "", "O"
        image.StudyID, image.AccessionNumber, image.StudyDate, image.StudyTime = "1", "", "20260101", "120000"
        image.SeriesNumber, image.SeriesDescription, image.InstanceNumber = (
            number,
            "ep2d_diff",
            place_in_series,
        )
        image.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
        image.Rows, image.Columns = rows, columns
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PositionReferenceIndicator = ""
        return image

    images = []
    if kind == "slices":
        for b in bvals:
            for index in range(slices):
                images.append(new(len(images) + 1))
                place(images[-1], index, groups=False)
                state_b(images[-1], b)
    elif kind.startswith("frames"):
        image = new(1)
        shared, frames = Dataset(), []
        for b in bvals:
            for index in range(slices):
                frame, diffusion = Dataset(), Dataset()
                place(frame, index, groups=True)
                state_b(diffusion, b)
                frame.MRDiffusionSequence = [diffusion]
                frames.append(frame)
        if kind == "frames":
            for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
                setattr(shared, name, getattr(frames[0], name))
                for frame in frames:
                    delattr(frame, name)
        image.NumberOfFrames = len(frames)
        image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
        images = [image]
    else:
        side = int(np.ceil(np.sqrt(slices)))
        for b in bvals:
            image = new(len(images) + 1)
            images.append(image)
            image.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "MOSAIC"]
            image.Rows, image.Columns = rows * side, columns * side
            place(image, 0, groups=False)
            # Where the mosaic would lie if it were one large slice with the middle of the small ones.
            shift = cosines[:, :2] @ (zooms[:2] * np.array([columns, rows]) * (side - 1) / 2)
            image.ImagePositionPatient = numbers(grid[:3, 3] - shift)
            state_b(image, b)
            block = image.private_block(0x29, "SIEMENS CSA HEADER", create=True)
            normal = cosines[:, 2]
            block.add_new(
                0x10, "OB",
                csa(
                    AcquisitionMatrixText=[f"{rows}*{columns}"],
                    NumberOfImagesInMosaic=[f"{slices}"],
                    SliceNormalVector=numbers(normal),
                ),
            )  # fmt: skip
    files = []
    for position, image in enumerate(images):
        for name in without:
            delattr(image, name)
        image.PixelData = bytes(2 * image.Rows * image.Columns * int(image.get("NumberOfFrames", 1)))
        image["PixelData"].VR = "OW"
        image.ensure_file_meta()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files.append(folder / f"{number}_{position:04d}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    return files


def csa(**tags: Sequence[str]) -> bytes:
    """Header in the format of Siemens' second version."""
    content = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(tags), 77)
    for name, values in tags.items():
        kind = {"A": b"LO", "N": b"US", "S": b"FD"}[name[0]]
        content += struct.pack("<64si4s3i", name.encode(), len(values), kind, 3, len(values), 77)
        for value in values:
            item = value.encode() + b"\0"
            content += struct.pack("<4i", len(item), len(item), 77, len(item)) + item
            content += bytes(-len(item) % 4)
    return content
