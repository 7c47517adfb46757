"""A map as an object of DICOM's Parametric Map Storage, with the codes of the standard (PS3.3, PS3.16)."""

from __future__ import annotations

import hashlib
import io
import math
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sicnn_app import __version__
from sicnn_app.dicom.series import SourceSeries
from sicnn_app.errors import DataError, one_line
from sicnn_app.ivim.parameters import SPECS

if TYPE_CHECKING:
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.coding import Code

QUANTITIES = {
    "f": "FastDiffusionCoefficientFraction",
    "d": "SlowDiffusionCoefficient",
    "dstar": "FastDiffusionCoefficient",
}
"""Of every map that is written: what DICOM calls it, DCM 113293, 113291 and 113292."""

FIRST_NUMBER = 100
"""The series of a map are numbered by that of their source times this, plus one, two and three."""

LARGEST_SERIES_NUMBER = 2**31 - 1


def parametric_map(
    values: np.ndarray, label: str, run: str, series: SourceSeries, bvals: Sequence[float]
) -> ParametricMap:
    """The object of a map.

    The same values, run and series always get the same identifiers.

    Parameters
    ----------
    values : ndarray, shape of the series, float32
        NaN where there is no value.
    label : str
        Key of :data:`QUANTITIES`.
    run : str
        Name of the run.
    bvals : sequence of float, s/mm^2
        b-values that the estimation used.

    Raises
    ------
    DataError
        When the images of the series lack what such an object has to repeat.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    spec = SPECS[label]
    first = series.images[0]
    frames = "PerFrameFunctionalGroupsSequence" in first
    same = "|".join((str(first.SeriesInstanceUID), run, label, hashlib.sha256(values.tobytes()).hexdigest()))
    low, high = spec.display_range or (0.0, 1.0)
    number = FIRST_NUMBER * (series.number or 0) + list(QUANTITIES).index(label) + 1
    try:
        made = hd.pm.ParametricMap(
            source_images=series.images[:1] if frames else series.images,
            further_source_images=series.images[1:] if frames else None,
            pixel_array=hd.Volume(
                values.astype(np.float32),
                series.affine,
                coordinate_system="PATIENT",
                frame_of_reference_uid=first.FrameOfReferenceUID,
            ),
            series_instance_uid=_uid("series", same),
            sop_instance_uid=_uid("object", same),
            series_number=number if number <= LARGEST_SERIES_NUMBER else number % FIRST_NUMBER,
            instance_number=1,
            manufacturer="The sicnn-app developers",
            manufacturer_model_name="sicnn-app",
            software_versions=__version__,
            # The standard wants one, and programs have none.
            device_serial_number="0",
            # Of head and body only what lies in the mask.
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_mapping(values, label, bvals)],
            # The plain function of a window cannot be narrower than 1.
            voi_lut_transformations=[
                hd.VOILUTTransformation((low + high) / 2, high - low, voi_lut_function="LINEAR_EXACT")
            ],
            content_label=f"IVIM_{label}".upper(),
            content_description=f"IVIM {spec.symbol}: {spec.title}",
            series_description=f"IVIM {spec.symbol} ({run})"[:64],
            derivation=codes.DCM.DiffusionImageAnalysis,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{run}: {series.name} lacks what the standard wants of a source ({one_line(error)}): export its "
            "images from the archive or the scanner again"
        ) from error
    # "Background that may be suppressed", which may be NaN (PS3.3 C.7.6.24).
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = math.nan
    # Wanted of pairs of organs; of which side a slice is, it says itself.
    made.Laterality = ""
    return made


def as_bytes(made: ParametricMap) -> bytes:
    """Content of the file of an object."""
    stream = io.BytesIO()
    made.save_as(stream)
    return stream.getvalue()


def _uid(kind: str, text: str) -> str:
    """Identifier below 2.25, where everybody may make some, of a text."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'sicnn-app:{kind}:{text}').int}"


def _mapping(values: np.ndarray, label: str, bvals: Sequence[float]) -> RealWorldValueMapping:
    import highdicom as hd
    from pydicom import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.valuerep import format_number_as_ds

    spec = SPECS[label]
    unit: Code = codes.UCUM.SquareMillimeterPerSecond if spec.unit == "mm^2/s" else codes.UCUM.NoUnits
    made = hd.pm.RealWorldValueMapping(
        lut_label=spec.symbol,
        lut_explanation=f"{spec.symbol}: {spec.title}",
        unit=unit,
        value_range=(float(np.nanmin(values)), float(np.nanmax(values))),
        slope=1.0,
        intercept=0.0,
        quantity_definition=getattr(codes.DCM, QUANTITIES[label]),
    )
    made.QuantityDefinitionSequence.append(
        hd.sr.CodeContentItem(codes.SCT.MeasurementMethod, codes.DCM.BiExponentialIVIMDiffusionModel)
    )
    for b in bvals:
        # Outside of reports a number is an item of another form than highdicom's.
        item = Dataset()
        item.ValueType, item.NumericValue = "NUMERIC", format_number_as_ds(b)
        item.ConceptNameCodeSequence = [hd.sr.CodedConcept(*codes.DCM.SourceImageDiffusionBValue)]
        item.MeasurementUnitsCodeSequence = [hd.sr.CodedConcept(*codes.UCUM.SecondPerSquareMillimeter)]
        made.QuantityDefinitionSequence.append(item)
    return made
