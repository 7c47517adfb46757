"""A position that cannot be used is never copied; of two the good one counts, and that is said."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import App, add_run, dataset, leave_out_figures
from bids_datasets import AFFINE, Dataset
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.bids.geometry import settle_position
from sicnn_app.bids.images import open_image
from sicnn_app.bids.masks import load_labels, load_mask
from sicnn_app.errors import DataError

SIZES = (2.0, 2.0, 4.0)
SHAPE = (12, 10, 2)
STEM = "sub-01/dwi/sub-01"
NAN = float("nan")

GOOD_SFORM = {
    "sform_code": 1, "srow_x": (2.0, 0, 0, 5.0), "srow_y": (0, 2.0, 0, -7.0), "srow_z": (0, 0, 4.0, 1.0)
}  # fmt: skip
GOOD_QFORM = {
    "qform_code": 1, "pixdim": (1.0, *SIZES, 3.0, 1, 1, 1), "quatern_b": 0, "quatern_c": 0, "quatern_d": 0,
    "qoffset_x": 5.0, "qoffset_y": -7.0, "qoffset_z": 1.0,
}  # fmt: skip
PLACED = np.array([[2.0, 0, 0, 5], [0, 2, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]])


def sform(scale: float, **changes: tuple[float, ...]) -> dict:
    rows = {key: tuple(scale * value for value in GOOD_SFORM[key]) for key in ("srow_x", "srow_y", "srow_z")}
    return {"sform_code": 1, **rows, **changes}


BAD_SFORMS = {
    "zeros": sform(0.0),
    "one axis twice": sform(1.0, srow_y=(2.0, 0, 0, 0)),
    "nearly one axis twice": sform(1.0, srow_x=(2.0, 2.0, 0, 0), srow_y=(1e-7, 2e-7, 0, 0)),
    "NaN": sform(1.0, srow_x=(NAN, 0, 0, 0)),
    "infinite offset": sform(1.0, srow_x=(2.0, 0, 0, float("inf"))),
    "tiny": sform(1e-30),
    "huge": sform(1e30),
    "far away": sform(1.0, srow_z=(0, 0, 4.0, 3e38)),
    "code of none": {**GOOD_SFORM, "sform_code": 77},
    "negative code": {**GOOD_SFORM, "sform_code": -1},
}
BAD_QFORMS = {
    "NaN quaternion": {**GOOD_QFORM, "quatern_b": NAN},
    "long quaternion": {**GOOD_QFORM, "quatern_b": 0.9, "quatern_c": 0.9},
    "NaN offset": {**GOOD_QFORM, "qoffset_x": NAN},
    "code of none": {**GOOD_QFORM, "qform_code": 99},
}
BAD_SIZES = {
    "zero": (1.0, 0, 2.0, 4.0, 3.0, 1, 1, 1),
    "all zero": (0.0,) * 8,
    "NaN": (1.0, NAN, 2.0, 4.0, 3.0, 1, 1, 1),
    "tiny": (1.0, 1e-30, 2.0, 4.0, 3.0, 1, 1, 1),
    "infinite": (1.0, 2.0, float("inf"), 4.0, 3.0, 1, 1, 1),
}


def place(path: Path, **fields) -> Path:
    """The image as .nii, with a header that says just this of its position."""
    image = nib.load(path)
    plain = path.with_suffix("")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), plain)
    content = bytearray(plain.read_bytes())
    header = np.ndarray((), nib.nifti1.header_dtype, buffer=content)
    for field, value in ({"sform_code": 0, "qform_code": 0} | fields).items():
        header[field] = value
    plain.write_bytes(bytes(content))
    path.unlink()
    return plain


@pytest.fixture
def app(capsys, monkeypatch) -> App:
    leave_out_figures(monkeypatch)
    return App(capsys)


def outputs(root: Path) -> list[nib.Nifti1Image]:
    found = [nib.load(path) for path in root.rglob("*.nii.gz")]
    assert found
    return found


@pytest.mark.parametrize("kind", BAD_SFORMS)
def test_a_good_qform_counts_where_the_sform_cannot_be_used(tmp_path, kind):
    image = open_image(place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **GOOD_QFORM | BAD_SFORMS[kind]))
    np.testing.assert_array_equal(image.affine, PLACED)
    assert image.header["sform_code"] == 0 and image.header["qform_code"] == 1
    assert not image.header.get_sform()[:3].any()
    assert image.extra["position"] == ["sub-01_dwi.nii: its sform cannot be used: its qform alone counts"]


@pytest.mark.parametrize("kind", BAD_QFORMS)
def test_a_good_sform_counts_where_the_qform_cannot_be_used(tmp_path, kind):
    image = open_image(place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **GOOD_SFORM | BAD_QFORMS[kind]))
    np.testing.assert_array_equal(image.affine, PLACED)
    assert image.header["qform_code"] == 0 and image.header["sform_code"] == 1
    assert image.extra["position"] == ["sub-01_dwi.nii: its qform cannot be used: its sform alone counts"]


@pytest.mark.parametrize("qform", [False, True])
@pytest.mark.parametrize("kind", BAD_SIZES)
def test_voxel_sizes_follow_the_sform_where_there_are_none(tmp_path, kind, qform):
    fields = (GOOD_QFORM if qform else {}) | GOOD_SFORM | {"pixdim": BAD_SIZES[kind]}
    image = open_image(place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **fields))
    np.testing.assert_array_equal(image.affine, PLACED)
    assert image.header.get_zooms()[:3] == SIZES
    assert image.header["qform_code"] == 0
    assert len(image.extra["position"]) == 1 + qform


NOWHERE = {
    **{f"sform, {kind}": fields for kind, fields in BAD_SFORMS.items()},
    **{f"qform, {kind}": fields for kind, fields in BAD_QFORMS.items()},
    **{f"qform, sizes {kind}": {**GOOD_QFORM, "pixdim": sizes} for kind, sizes in BAD_SIZES.items()},
    **{f"no code, sizes {kind}": {"pixdim": sizes} for kind, sizes in BAD_SIZES.items()},
    "both": BAD_QFORMS["NaN quaternion"] | BAD_SFORMS["zeros"],
}


@pytest.mark.parametrize("kind", NOWHERE)
def test_an_image_without_any_position_is_refused(tmp_path, kind):
    path = place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **NOWHERE[kind])
    with pytest.raises(DataError, match="correct its sform or qform"):
        open_image(path)


SOUND = {
    "both": GOOD_QFORM | GOOD_SFORM,
    "no code": {"pixdim": (1.0, *SIZES, 3.0, 1, 1, 1)},
    "NaN in rows without a code": GOOD_QFORM | {"srow_x": (NAN,) * 4},
    "metres": sform(1e-3) | {"pixdim": (1.0, 2e-3, 2e-3, 4e-3, 3.0, 1, 1, 1), "xyzt_units": 1},
    "micrometres": sform(1e3) | {"pixdim": (1.0, 2e3, 2e3, 4e3, 3.0, 1, 1, 1), "xyzt_units": 3},
}


@pytest.mark.parametrize("kind", SOUND)
def test_nothing_is_said_of_a_position_that_can_be_used(tmp_path, kind):
    path = place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **SOUND[kind])
    image = open_image(path)
    assert image.extra["position"] == []
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)


@pytest.mark.parametrize(("written", "read"), [(0.0, 1), (-1.0, -1), (-7.0, -1), (3.0, 1), (NAN, 1)])
def test_the_handedness_of_a_qform_is_the_sign_of_its_factor(tmp_path, written, read):
    fields = GOOD_QFORM | {"pixdim": (written, *SIZES, 3.0, 1, 1, 1)}
    image = open_image(place(dataset(tmp_path).root / f"{STEM}_dwi.nii.gz", **fields))
    assert image.affine[2, 2] == 4.0 * read
    assert image.header["pixdim"][0] == read


def test_one_slice_needs_no_thickness(tmp_path):
    made = dataset(tmp_path, shape=(12, 10, 1))
    fields = GOOD_QFORM | {"pixdim": (1.0, 2.0, 2.0, 0.0, 3.0, 1, 1, 1)}
    assert open_image(place(made.root / f"{STEM}_dwi.nii.gz", **fields)).header.get_zooms()[2] == 1


numbers = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 2.0])


@given(st.lists(numbers, min_size=26, max_size=26), st.integers(-2, 6), st.integers(-2, 6))
def test_what_is_left_of_any_position_is_one_that_all_read_alike(values, sform_code, qform_code):
    header = nib.Nifti1Header()
    header.set_data_shape((3, 4, 2, 5))
    header["srow_x"], header["srow_y"], header["srow_z"] = np.reshape(values[:12], (3, 4))
    header["pixdim"] = values[12:20]
    for field, value in zip(("b", "c", "d"), values[20:23], strict=True):
        header[f"quatern_{field}"] = value
    for field, value in zip("xyz", values[23:], strict=True):
        header[f"qoffset_{field}"] = value
    header["sform_code"], header["qform_code"] = sform_code, qform_code
    try:
        settle_position(Path("any.nii"), header)
    except DataError:
        return
    before = header.copy()
    header.check_fix()
    assert header == before or header["pixdim"][0] == before["pixdim"][0]
    for form in ("sform", "qform"):
        if header[f"{form}_code"]:
            affine = getattr(header, f"get_{form}")()
            assert np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0
    assert settle_position(Path("any.nii"), header) == []


def test_maps_have_the_position_that_counts_and_the_report_says_which(app, tmp_path):
    made = dataset(tmp_path / "bids")
    place(made.root / f"{STEM}_dwi.nii.gz", **GOOD_QFORM | BAD_SFORMS["zeros"])
    out = tmp_path / "out"
    call = app.quick(made, out)
    assert call.code == 0, call.text
    said = "sub-01_dwi.nii: its sform cannot be used: its qform alone counts"
    assert call.err.count(said) == 1
    assert said in json.dumps(json.loads((out / f"{STEM}_desc-ivim_qc.json").read_text()))
    for image in outputs(out):
        assert (image.header["sform_code"], image.header["qform_code"]) == (0, 1)
        np.testing.assert_array_equal(image.affine, PLACED)
        assert image.header.get_zooms()[:3] == SIZES


def test_a_run_without_a_position_is_refused_when_it_is_found_and_stops_no_other(app, tmp_path, monkeypatch):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    place(made.root / f"{STEM}_dwi.nii.gz", **BAD_SFORMS["zeros"])
    call = app.quick(made, tmp_path / "out")
    assert call.code == 1
    assert (tmp_path / "out/sub-02/dwi").exists() and not (tmp_path / "out/sub-01/dwi").exists()
    monkeypatch.setattr("sicnn_app.pipeline.one_run.load_run", lambda *_, **__: pytest.fail("was loaded"))
    call = app.quick(made, tmp_path / "other", "--participant-label", "01")
    assert call.code == 65, call.text
    assert "correct its sform or qform" in call.err


def masks_of(root: Path, name: str, **fields) -> Dataset:
    made = Dataset(root, kind="derivative")
    made.image(f"{STEM}_{name}", data=np.ones(SHAPE, np.uint8), bvals=None, affine=AFFINE)
    place(made.root / f"{STEM}_{name}.nii.gz", **fields)
    return made


def test_masks_and_preprocessed_images_are_placed_alike(app, tmp_path):
    made = dataset(tmp_path / "bids")
    unmoved = {"qoffset_x": 0, "qoffset_y": 0, "qoffset_z": 0}
    masks = masks_of(tmp_path / "masks", "desc-body_mask", **GOOD_QFORM | unmoved | BAD_SFORMS["NaN"])
    add_run(masks, "sub-01_desc-preproc")
    place(masks.root / f"{STEM}_desc-preproc_dwi.nii.gz", **GOOD_QFORM | unmoved | BAD_SFORMS["tiny"])
    call = app.quick(made, tmp_path / "out", "-d", masks.root)
    assert call.code == 0, call.text
    assert call.err.count("its sform cannot be used: its qform alone counts") == 2
    nowhere = masks_of(tmp_path / "nowhere", "desc-body_mask", **BAD_SFORMS["zeros"])
    call = app.quick(made, tmp_path / "other", "-d", nowhere.root)
    assert call.code == 65, call.text
    assert "_desc-body_mask.nii has no position that can be used" in call.err


def test_segmentations_are_placed_alike(tmp_path):
    made = masks_of(tmp_path, "desc-organs_dseg", **GOOD_QFORM | BAD_SFORMS["zeros"])
    path = made.root / f"{STEM}_desc-organs_dseg.nii"
    for load in (load_labels, load_mask):
        values, warnings = load(path, PLACED, shape=SHAPE)
        assert values.all()
        assert warnings == [f"{path.name}: its sform cannot be used: its qform alone counts"]
