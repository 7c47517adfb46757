"""``sicnn-dicom``: F, D and D* as Parametric Map objects, right in every voxel, or refused with a reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import BVALS, QUICK, Dataset, body, files, leave_out_figures
from dicom_series import FRAME, KINDS, LPS, STUDY, oblique, write_series
from validator import validator_errors

from sicnn_app.cli.dicom import main
from sicnn_app.cli.main import main as sicnn_app

hd = pytest.importorskip("highdicom", reason="highdicom, the extra dicom, is not installed")

SHAPE = (12, 10, 3)
OBLIQUE = oblique((10, -20, 30), (2.0, 3.0, 5.0), (-40.0, 17.0, 33.0))
CODES = {"f": "113293", "d": "113291", "dstar": "113292"}
RUN = "sub-01"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """An output of one run on an oblique grid; tests work on copies."""
    root = tmp_path_factory.mktemp("outputs")
    made = Dataset(root / "bids")
    made.image(f"sub-01/dwi/{RUN}_dwi", data=body(SHAPE), bvals=BVALS, affine=OBLIQUE)
    made.write(f"sub-01/dwi/{RUN}_dwi.json", '{"SeriesNumber": 7}')
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_figures(monkeypatch)
        assert sicnn_app([str(made.root), str(root / "out"), "participant", *QUICK]) == 0
    return root / "out"


@pytest.fixture
def out(outputs, tmp_path) -> Path:
    return Path(shutil.copytree(outputs, tmp_path / "out"))


def export(out: Path, *options: object) -> int:
    return main([str(out), *map(str, options)])


def objects(out: Path) -> dict[str, Path]:
    """Files that were written, by map."""
    return {path.name.split("param-")[1].split("_")[0]: path for path in (out / "dicom").rglob("*.dcm")}


def nifti(out: Path, label: str) -> nib.Nifti1Image:
    return nib.load(out / f"sub-01/dwi/{RUN}_model-ivim_param-{label}_dwimap.nii.gz")


def put_on(out: Path, affine: np.ndarray) -> None:
    """Give all images of an output another position, and voxels that are all different."""
    rng = np.random.default_rng(0)
    for path in (out / "sub-01" / "dwi").glob("*.nii.gz"):
        data = np.asarray(nib.load(path).dataobj)
        if "param-" in path.name:
            data = np.where(np.isfinite(data), rng.random(data.shape), np.nan).astype(np.float32)
        nib.save(nib.Nifti1Image(data, affine), path)


GRIDS = {
    "oblique": OBLIQUE,
    "axial, x to the left": np.diag([-2.0, 2.0, 4.0, 1.0]),
    "axial, x to the right": np.diag([2.0, 2.0, 4.0, 1.0]),
    "sagittal": np.array([[0, 0, 4.0, -9], [2.0, 0, 0, 5], [0, 2.0, 0, 3], [0, 0, 0, 1]]),
    "coronal, turned, from head to foot": oblique((85, 5, 170), (1.5, 1.5, 6.0), (12.0, -80.0, 4.0)),
}


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_lies_where_it_lay_and_has_its_value(out, tmp_path, kind, affine):
    put_on(out, affine)
    write_series(tmp_path / "dicom", affine, SHAPE, BVALS, kind=kind)
    assert export(out, "--source", tmp_path / "dicom") == 0
    assert set(objects(out)) == set(CODES)
    for label, path in objects(out).items():
        volume, image = hd.imread(path).get_volume(dtype=np.float32), nifti(out, label)
        expected = np.asarray(image.dataobj)
        voxels = np.argwhere(np.isfinite(expected))
        there = np.linalg.inv(volume.affine) @ LPS @ image.affine @ np.c_[voxels, np.ones(len(voxels))].T
        places = np.rint(there[:3]).astype(int)
        np.testing.assert_allclose(there[:3], places, atol=1e-3)
        np.testing.assert_array_equal(volume.array[tuple(places)], expected[tuple(voxels.T)])
        assert np.isnan(volume.array).sum() == volume.array.size - len(voxels)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_units_references_and_patient(out, tmp_path, kind):
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS, kind=kind)
    assert export(out, "--source", tmp_path / "dicom") == 0
    identifiers = set()
    for label, path in objects(out).items():
        made = hd.imread(path)
        assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
        assert (made.PatientID, made.StudyInstanceUID, made.FrameOfReferenceUID) == ("01", STUDY, FRAME)
        identifiers |= {made.SOPInstanceUID, made.SeriesInstanceUID}
        (mapping,) = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == ("1" if label == "f" else "mm2/s")
        assert mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
        quantity, model, *bvalues = mapping.QuantityDefinitionSequence
        assert quantity.ConceptCodeSequence[0].CodeValue == CODES[label]
        assert model.ConceptCodeSequence[0].CodeValue == "113251"
        assert {item.ConceptNameCodeSequence[0].CodeValue for item in bvalues} == {"113240"}
        assert [item.NumericValue for item in bvalues] == sorted(set(BVALS))
        assert np.isnan(made.FloatPixelPaddingValue)
        (series,) = made.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == f"{STUDY}.5"
        images = {"slices": SHAPE[2] * len(BVALS), "mosaic": len(BVALS)}.get(kind, 1)
        assert len(series.ReferencedInstanceSequence) == images
        if kind != "mosaic":
            for frame in made.PerFrameFunctionalGroupsSequence:
                # Of every slice all its b-values.
                (derived,) = frame.DerivationImageSequence
                assert len(derived.SourceImageSequence) == len(BVALS)
    assert len(identifiers) == 2 * len(CODES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_validator_finds_no_error(out, tmp_path, kind):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy, of dicom3tools, is not installed")
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS, kind=kind)
    assert export(out, "--source", tmp_path / "dicom") == 0
    for path in objects(out).values():
        said = subprocess.run([program, path], capture_output=True, text=True, check=False)
        assert "ParametricMap" in said.stderr
        assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []


def test_objects_of_an_anonymised_series_are_valid_too(out, tmp_path):
    without = ("PatientBirthDate", "AccessionNumber", "StudyID", "PatientName", "SeriesDescription")
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS, without=without, b_in="nowhere")
    assert export(out, "--source", tmp_path / "dicom") == 0
    assert hd.imread(objects(out)["f"]).PatientName in (None, "")


def test_the_output_stays_valid_and_its_other_files_as_they_were(out, tmp_path):
    before = files(out)
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS)
    assert export(out, "--source", tmp_path / "dicom") == 0
    after = files(out)
    new = set(after) - set(before)
    assert {name: after[name] for name in before} == before
    assert {name for name in new if not name.startswith("dicom/")} == {".sicnn-app/dicom-sub-01.json"}
    assert validator_errors(out) == set()


def test_the_same_maps_get_the_same_identifiers_and_others_get_others(out, tmp_path):
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS)

    def identifiers() -> set[str]:
        assert export(out, "--source", tmp_path / "dicom") == 0
        return {hd.imread(path).SOPInstanceUID for path in objects(out).values()}

    first = identifiers()
    assert identifiers() == first
    put_on(out, OBLIQUE)
    assert not identifiers() & first


def test_a_file_of_somebody_else_is_never_replaced(out, tmp_path, capsys):
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS)
    assert export(out, "--source", tmp_path / "dicom") == 0
    path = objects(out)["d"]
    path.write_bytes(b"somebody's")
    before = files(out)
    assert export(out, "--source", tmp_path / "dicom") == 73
    assert "name another output folder, or move it away" in capsys.readouterr().err
    assert files(out) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"patient": "02"}, "PatientID '02' is not participant 01"),
        ({"patient": ""}, "PatientID '' is not participant 01"),
        ({"shape": (12, 10, 4)}, "12 x 10 voxels in 4 slices, the maps have 12 x 10 x 3"),
        ({"affine": OBLIQUE + np.outer([1, 0, 0, 0], [0, 0, 0, 1.5])}, "1.5 mm apart"),
        ({"affine": oblique((10, -20, 33), (2.0, 3.0, 5.0), (-40.0, 17.0, 33.0))}, "it lies turned"),
        ({"bvals": (0, 20, 50, 100, 200, 800)}, "it has no images of b = 400 s/mm^2"),
        ({"without": ["FrameOfReferenceUID"]}, "its images have no FrameOfReferenceUID"),
        ({"without": ["ImagePositionPatient"]}, "ImagePositionPatient"),
        ({"without": ["SeriesInstanceUID"]}, "holds no MR series that can be used"),
    ],
)
def test_a_series_that_is_not_the_runs_is_refused(out, tmp_path, capsys, changed, said):
    series = {"affine": OBLIQUE, "shape": SHAPE, "bvals": BVALS} | changed
    write_series(tmp_path / "dicom", **series)
    before = files(out)
    assert export(out, "--source", tmp_path / "dicom") == 65
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert files(out) == before


def test_a_series_with_missing_slices_is_refused(out, tmp_path, capsys):
    paths = write_series(tmp_path / "dicom", OBLIQUE, (12, 10, 6), (0.0,))
    paths[2].unlink()
    assert export(out, "--source", tmp_path / "dicom") == 65
    assert "its slices are not evenly spaced" in capsys.readouterr().err


@pytest.mark.parametrize("patient", ["PAT 0042", ""])
def test_another_patient_id_is_taken_when_it_is_said_to_be_the_same_person(out, tmp_path, patient):
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS, patient=patient)
    assert export(out, "--source", tmp_path / "dicom", "--patient-id", f"01={patient}") == 0
    assert hd.imread(objects(out)["f"]).PatientID in (patient, None)
    assert export(out, "--source", tmp_path / "dicom", "--patient-id", "01=other") == 65


def test_the_series_is_found_among_others_of_the_study(out, tmp_path):
    for number, changed in enumerate(
        [
            {"patient": "02"},
            {"bvals": (0,), "shape": (20, 20, 9)},
            {"b_in": "nowhere"},
            {"bvals": (0, 1000)},
        ],
        start=1,
    ):
        series = {"affine": OBLIQUE, "shape": SHAPE, "bvals": BVALS} | changed
        write_series(tmp_path / "all" / str(number), **series, number=number)
    write_series(tmp_path / "all" / "right", OBLIQUE, SHAPE, BVALS, number=9)
    (tmp_path / "all" / "notes.txt").write_text("no DICOM")
    (tmp_path / "all" / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    assert export(out, "--source", tmp_path / "all") == 0
    (series,) = hd.imread(objects(out)["f"]).ReferencedSeriesSequence
    assert series.SeriesInstanceUID == f"{STUDY}.9"


def test_of_series_that_all_fit_the_one_of_the_sidecar_is_taken_or_the_one_that_is_named(
    out, tmp_path, capsys
):
    for number in (5, 6):
        write_series(tmp_path / "all" / str(number), OBLIQUE, SHAPE, BVALS, number=number)
    assert export(out, "--source", tmp_path / "all") == 65
    assert "several series fit, series 5 (ep2d_diff), series 6 (ep2d_diff)" in capsys.readouterr().err
    assert export(out, "--source", tmp_path / "all", f"{RUN}={tmp_path / 'all' / '6'}") == 0
    assert "from series 6" in capsys.readouterr().out
    write_series(tmp_path / "all" / "7", OBLIQUE, SHAPE, BVALS, number=7)
    assert export(out, "--source", tmp_path / "all") == 0
    assert "from series 7" in capsys.readouterr().out


def test_one_run_of_several_fails_alone(out, tmp_path, capsys):
    for path in (out / "sub-01" / "dwi").iterdir():
        other = out / "sub-02" / "ses-a" / "dwi" / path.name.replace(RUN, "sub-02_ses-a")
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other)
    write_series(tmp_path / "dicom", OBLIQUE, SHAPE, BVALS, patient="sub-02")
    assert export(out, "--source", tmp_path / "dicom") == 1
    assert "sub-01: PatientID 'sub-02' is not participant 01" in capsys.readouterr().err
    assert {path.parent for path in objects(out).values()} == {out / "dicom" / "sub-02" / "ses-a"}
    assert export(out, "--source", tmp_path / "dicom", "--participant-label", "sub-02") == 0
    assert export(out, "--source", tmp_path / "dicom", "--session-id", "b") == 18


def test_what_is_not_there_is_told(out, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for code, folder, *options in (
        (66, out, "--source", tmp_path / "nowhere"),
        (66, tmp_path / "nowhere", "--source", tmp_path),
        (18, tmp_path / "empty", "--source", tmp_path),
        (18, out, "--source", tmp_path / "empty", "--participant-label", "99"),
        (65, out, "--source", tmp_path / "empty"),
        (64, out, "--source", f"sub-77={tmp_path}"),
        (64, out, "--source", tmp_path, "--patient-id", "01"),
        (64, out),
    ):
        assert export(folder, *options) == code
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
