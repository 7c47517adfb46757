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

from sicnn_app.derivatives.personal import harmless
from sicnn_app.derivatives.sidecar import DatasetRoots, mask_sidecar
from sicnn_app.derivatives.write import write_run

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

FREE_TEXT = (
    "ProcedureStepDescription", "RequestedProcedureDescription", "ProtocolName", "SeriesDescription",
    "InstitutionName", "InstitutionalDepartmentName", "StationName", "TaskName", "Instructions", "Authors",
    "HowToAcknowledge", "Description", "AcquisitionTime", "DeidentificationMethod", "ContrastBolusIngredient",
    "CogAtlasID", "RawSources", "global", "_comment", "note", "whatever a converter comes up with",
)  # fmt: skip
"""Keys that no list of personal ones would have, or whose text somebody types."""

ACQUISITION = {
    "EchoTime": 0.07, "RepetitionTime": 3, "FlipAngle": 90.0, "SliceTiming": [0.0, 1.5, 0.75],
    "PhaseEncodingDirection": "j-", "SliceEncodingDirection": "k", "MagneticFieldStrength": 3,
    "Manufacturer": "Siemens Healthineers", "ManufacturersModelName": "Prisma_fit",
    "SoftwareVersions": "27\\LX\\MR Software release:RX27.0_R03_1831.b", "BodyPart": "Upper abdomen",
    "BodyPartExamined": "LIVER", "PatientPosition": "HFS", "MRAcquisitionType": "2D", "Modality": "MR",
    "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND"], "ScanningSequence": "EP\\SE",
    "SequenceName": "*ep_b0#1", "PulseSequenceDetails": "%SiemensSeq%\\ep2d_diff", "TotalReadoutTime": 0.05,
    "ImageOrientationPatientDICOM": [1, 0, 0, 0, 1, 0], "EffectiveEchoSpacing": 5e-4, "RawImage": True,
    "ReceiveCoilName": "Body_18", "ConversionSoftware": "dcm2niix", "SeriesNumber": 7, "MTState": False,
    "ConversionSoftwareVersion": "v1.0.20220720", "MultibandAccelerationFactor": 2, "DwellTime": 2.6e-6,
}  # fmt: skip

UNEXPECTED = (SECRET, [SECRET], {"a": SECRET}, [[SECRET]], {"EchoTime": 1}, [{"EchoTime": 1}], None, [])


def spellings(key: str) -> st.SearchStrategy[str]:
    """The key as other programs might write it."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key).lstrip("_")
    return st.sampled_from([key, key.lower(), key.upper(), snake, key.replace("Patient", "Patients ")])


PERSONAL_KEYS = st.sampled_from(PERSONAL).flatmap(spellings) | st.sampled_from(FREE_TEXT)
SECRETS = st.sampled_from([SECRET, [SECRET], {"Value": [SECRET]}, [{"const": {"EchoTime": SECRET}}]])
METADATA = st.dictionaries(st.sampled_from(sorted(ACQUISITION)), st.none(), max_size=6).map(
    lambda keys: {key: ACQUISITION[key] for key in keys}
)


@pytest.mark.parametrize("key", [*PERSONAL, *FREE_TEXT])
def test_other_keys_are_not_handed_on(key):
    assert harmless({key: SECRET, "EchoTime": 0.07}) == {"EchoTime": 0.07}
    assert harmless({key: []}) == harmless({key: [SECRET]}) == harmless({key: 1}) == {}


@pytest.mark.parametrize("key", ACQUISITION)
def test_keys_of_the_acquisition_are_handed_on(key):
    assert harmless({key: ACQUISITION[key]}) == {key: ACQUISITION[key]}


@pytest.mark.parametrize("value", UNEXPECTED, ids=repr)
@pytest.mark.parametrize("key", sorted(set(ACQUISITION) - {"Manufacturer", "ManufacturersModelName"}))
def test_a_value_of_another_kind_is_not_handed_on(key, value):
    # Names that devices have for themselves may consist of two words.
    named = key.startswith(("Software", "Sequence", "PulseSequence", "ReceiveCoil", "ConversionSoftware"))
    if not (named and value in (SECRET, [SECRET])):
        assert harmless({key: value}) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("EchoTime", True), ("EchoTime", "0.07"), ("EchoTime", float("nan")), ("EchoTime", 10**400),
        ("MTState", 1), ("PhaseEncodingDirection", "x"), ("PatientPosition", "HFS of Jane"),
        ("Manufacturer", "Roe^Jane"), ("Manufacturer", "jane@roe.org"), ("Manufacturer", "a\nb"),
        ("Manufacturer", "x" * 65), ("Manufacturer", "\x1b[2J"), ("ImageType", "Jane Roe"),
        ("BodyPart", "Jane Roe"), ("BodyPartExamined", "LIVER of Jane"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_not_handed_on(key, value):
    assert harmless({key: value}) == {}


@given(METADATA, st.dictionaries(PERSONAL_KEYS, SECRETS, max_size=4))
def test_nothing_else_of_a_sidecar_is_handed_on(metadata, personal):
    kept = harmless({**metadata, **personal, "global": {"const": [{**personal, "EchoTime": 0.07}]}})
    assert kept == metadata


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(METADATA, st.dictionaries(PERSONAL_KEYS, SECRETS, min_size=1, max_size=4))
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
        **dict.fromkeys((*PERSONAL, *FREE_TEXT), SECRET),
        "BodyPart": SECRET,
        "SpatialReference": f"file:///home/{SECRET}/image.nii",
        "ImageType": [SECRET],
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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("orig", True), ("bids:raw:sub-01/anat/sub-01_T1w.nii.gz", True),
        (f"file:///home/{SECRET}/T1w.nii.gz", False), (f"https://example.org/{SECRET}", False),
        ({"VoxelSpace": SECRET}, False), (SECRET, False), (7, False),
    ],
)  # fmt: skip
def test_a_spatial_reference_names_no_place_outside_of_the_datasets(tmp_path, given, kept):
    result = make_result(tmp_path)
    part = replace(result.run.parts[0], metadata={"SpatialReference": given})
    run = replace(result.run, parts=(part,), entities={**result.run.entities, "space": "T1w"})
    sidecar = mask_sidecar(replace(result, run=run), DatasetRoots.of(tmp_path / "bids", {}))
    own = f"bids:raw:{part.image.relative_to(tmp_path / 'bids')}"
    assert sidecar["SpatialReference"] == (given if kept else own)
