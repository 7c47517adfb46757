"""The part of a sidecar that is handed on: what scanner and converter said of the acquisition, nothing else.

A list of what may point to a person is never complete, so this is a list of what does not. Free text, in
which names of patients have been seen, is not on it, nor are places, serial numbers, dates and times of day;
they stand in the sidecar of the source, which outputs name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sicnn_app.ivim.body_parts import BODY_PART_KEYS, is_body_part

NUMBERS = frozenset((
    "AccelFactPE", "AccelFactSlice", "AccelNumReferenceLines", "AcquisitionDuration", "AcquisitionMatrixPE",
    "AcquisitionNumber", "BandwidthPerPixelPhaseEncode", "BaseResolution", "BigDelta", "DelayTime",
    "DerivedVendorReportedEchoSpacing", "DwellTime", "EchoNumber", "EchoTime", "EchoTime1", "EchoTime2",
    "EchoTrainLength", "EffectiveEchoSpacing", "EstimatedEffectiveEchoSpacing", "EstimatedTotalReadoutTime",
    "FlipAngle", "ImageOrientationPatientDICOM", "ImagePositionPatient", "ImagingFrequency", "InversionTime",
    "MagneticFieldStrength", "MixingTime", "MultibandAccelerationFactor", "NumberOfAverages", "NumberShots",
    "NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser", "ParallelReductionFactorInPlane",
    "ParallelReductionFactorOutOfPlane", "PartialFourier", "PercentPhaseFOV", "PercentSampling",
    "PhaseEncodingSteps", "PhaseEncodingStepsNoPartialFourier", "PhaseEncodingStepsOutOfPlane",
    "PhaseOversampling", "PhaseResolution", "PhilipsRescaleIntercept", "PhilipsRescaleSlope",
    "PhilipsScaleSlope", "PixelBandwidth", "PixelSpacing", "ReconMatrixPE", "RefLinesPE", "RepetitionTime",
    "RepetitionTimeExcitation", "RepetitionTimePreparation", "SAR", "SeriesNumber", "ShimSetting",
    "SliceThickness", "SliceTiming", "SmallDelta", "SpacingBetweenSlices", "SpoilingGradientDuration",
    "SpoilingGradientMoment", "SpoilingRFPhaseIncrement", "TablePosition", "TotalReadoutTime", "TxRefAmp",
    "VendorReportedEchoSpacing", "WaterFatShift",
))  # fmt: skip
"""Keys of numbers, alone or in a list."""

FLAGS = frozenset((
    "Interpolation2D", "Interpolation3D", "MTState", "NonlinearGradientCorrection", "RawImage",
    "SpoilingState", "UsePhilipsFloatNotDisplayScaling",
))  # fmt: skip
"""Keys that are true or false."""

LARGEST_NUMBER = 1e15

_CODES = r"[A-Z0-9_]{1,16}(\\[A-Z0-9_]{1,16})*"
_MADE_BY = r"[\w .,:;*%#()+/\\&|=-]{1,64}"
"""Names that a device or program has for itself. No ``^``, with which DICOM parts the names of persons."""

TEXTS = {
    "MRAcquisitionType": "[123]D",
    "Modality": "MR",
    "PatientPosition": "(H|F|L|R|A|P)F(P|S|DR|DL)",
    "DiffusionScheme": "Bipolar|Monopolar",
    **dict.fromkeys(("PhaseEncodingDirection", "SliceEncodingDirection"), "[ijk]-?"),
    "PhaseEncodingAxis": "[ijk]",
    "InPlanePhaseEncodingDirectionDICOM": "ROW|COL",
    **dict.fromkeys(
        ("ImageType", "ImageTypeText", "ScanningSequence", "SequenceVariant", "ScanOptions"), _CODES
    ),
    **dict.fromkeys(
        (
            "CoilCombinationMethod", "CoilString", "ConversionSoftware", "ConversionSoftwareVersion",
            "Manufacturer", "ManufacturersModelName", "MatrixCoilMode", "ParallelAcquisitionTechnique",
            "PartialFourierDirection", "PulseSequenceDetails", "PulseSequenceType",
            "ReceiveCoilActiveElements", "ReceiveCoilName", "SequenceName", "SoftwareVersions",
        ),
        _MADE_BY,
    ),
}  # fmt: skip
"""Keys of texts, alone or in a list, and what these look like."""


def harmless(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a sidecar that points to no person: known keys, with values of the type they have.

    Examples
    --------
    >>> harmless({"EchoTime": 0.07, "FlipAngle": "of Jane", "PatientName": "Jane", "ImageType": ["ORIGINAL"]})
    {'EchoTime': 0.07, 'ImageType': ['ORIGINAL']}
    """
    return {
        key: value
        for key, value in metadata.items()
        if all(_is_harmless(key, item) for item in (value if value and isinstance(value, list) else [value]))
    }


def _is_harmless(key: str, value: Any) -> bool:
    if key in FLAGS:
        return isinstance(value, bool)
    if key in NUMBERS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < LARGEST_NUMBER
    if not isinstance(value, str):
        return False
    if key in BODY_PART_KEYS:
        return is_body_part(value)
    return key in TEXTS and re.fullmatch(TEXTS[key], value) is not None
