"""No sidecar hands on what points to a person."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest
from app_runs import App, dataset
from factories import make_result, source_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.bids.personal import is_personal, without_personal
from sicnn_app.bids.write import write_run

SECRET = "Erika Mustermann"

PERSONAL = (
    # What dcm2niix leaves out when it anonymises, as it does by default.
    "SeriesInstanceUID", "StudyInstanceUID", "ReferringPhysicianName", "StudyID", "PatientName", "PatientID",
    "PatientSex", "PatientWeight", "AccessionNumber", "PatientBirthDate", "AcquisitionDateTime",
    # And what other converters are known to hand on.
    "PatientAge", "PatientAddress", "OtherPatientIDs", "PatientBirthName", "PatientMotherBirthName",
    "OperatorsName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "RequestingPhysician",
    "StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate", "InstanceCreationDate", "TimezoneTimeStamp",
    "DeviceSerialNumber", "InstitutionAddress", "PatientComments", "ImageComments", "SOPInstanceUID",
    "AdditionalPatientHistory", "FrameOfReferenceUID", "PatientTelephoneNumbers", "EthnicGroup", "Occupation",
    "MilitaryRank", "CountryOfResidence", "MedicalRecordLocator", "PregnancyStatus", "AdmittingDate",
    "IssuerOfPatientID", "ResponsiblePerson", "00100010", "(0010,0030)", "0x00100020", "0008,0080",
)  # fmt: skip

ACQUISITION = (
    "EchoTime", "RepetitionTime", "FlipAngle", "SliceTiming", "PhaseEncodingDirection", "PatientPosition",
    "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName", "InstitutionName", "SoftwareVersions",
    "BodyPart", "BodyPartExamined", "ProtocolName", "SeriesDescription", "SequenceName", "ScanningSequence",
    "ImagePositionPatient", "EffectiveEchoSpacing", "TotalReadoutTime", "MultipartID", "ImageType",
    "ImageOrientationPatientDICOM", "PulseSequenceType", "ReceiveCoilName", "AcquisitionTime", "DwellTime",
    "ConversionSoftware", "ConversionSoftwareVersion", "StationName", "SeriesNumber", "DiffusionScheme",
)  # fmt: skip


def spellings(key: str) -> st.SearchStrategy[str]:
    """The key as other programs might write it."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key).lstrip("_")
    return st.sampled_from([key, key.lower(), key.upper(), snake, key.replace("Patient", "Patients ")])


PERSONAL_KEYS = st.sampled_from(PERSONAL).flatmap(spellings)
VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(ACQUISITION), inner, max_size=3),
        st.dictionaries(PERSONAL_KEYS, st.just(SECRET) | st.just({"Value": [SECRET]}), max_size=2),
    ),
    max_leaves=12,
)
METADATA = st.dictionaries(st.sampled_from(ACQUISITION), VALUES, max_size=6)


@pytest.mark.parametrize("key", PERSONAL)
def test_keys_that_point_to_a_person(key):
    assert is_personal(key)


@pytest.mark.parametrize("key", ACQUISITION)
def test_keys_of_the_acquisition_stay(key):
    assert not is_personal(key)


@given(METADATA, st.dictionaries(PERSONAL_KEYS, st.just(SECRET), max_size=4))
def test_nothing_personal_is_left_at_any_depth(metadata, personal):
    kept = without_personal({**metadata, "global": {"const": [{**personal, "EchoTime": 0.07}]}, **personal})
    assert SECRET not in json.dumps(kept)
    assert kept["global"] == {"const": [{"EchoTime": 0.07}]}
    assert [key for key in metadata if key not in kept] == [key for key in metadata if is_personal(key)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(METADATA, st.dictionaries(PERSONAL_KEYS, st.just(SECRET), min_size=1, max_size=4))
def test_no_output_of_a_run_holds_what_the_source_says_of_a_person(tmp_path: Path, metadata, personal):
    header = source_header((9, 8, 3, 12))
    for text in ("descrip", "aux_file", "db_name", "data_type"):
        header[text] = SECRET
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    result = make_result(tmp_path, header=header)
    part = replace(result.run.parts[0], metadata={**metadata, **personal, "EchoTime": 0.07})
    result = replace(result, run=replace(result.run, parts=(part,)))
    written = write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    for path in written:
        content = path.read_bytes() if path.suffix != ".gz" else nib.load(path).header.binaryblock
        assert SECRET.encode() not in content, path.name
        assert path.suffix != ".gz" or not nib.load(path).header.extensions
    (sidecar,) = [path for path in written if path.name.endswith("desc-preproc_dwi.json")]
    assert json.loads(sidecar.read_text())["EchoTime"] == 0.07


def test_no_log_and_no_report_names_the_person(tmp_path: Path, capsys):
    made = dataset(tmp_path / "ds")
    content = {
        "PatientName": SECRET,
        "BodyPart": "ABDOMEN",
        "global": {"PatientID": [SECRET]},
        "EchoTime": 0.07,
    }
    made.write("sub-01/dwi/sub-01_dwi.json", json.dumps(content))
    call = App(capsys).quick(
        made, tmp_path / "out", "-vv", "--denoise", "none", "--motion-correction", "none"
    )
    assert call.code == 0, call.text
    assert SECRET not in call.text
    texts = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert {".html", ".log", ".json", ".tsv"} <= {path.suffix for path in texts}
    assert [path.name for path in texts if SECRET.encode() in path.read_bytes()] == []
