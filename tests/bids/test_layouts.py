"""Segmentations as TotalSegmentator, FreeSurfer, FastSurfer, SynthSeg and fMRIPrep lay them out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import App, add_run, body, leave_out_figures
from bids_datasets import AFFINE, Dataset
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.bids.label_names import FREESURFER, read_label_table
from sicnn_app.bids.segmentations import Segmentations, load_regions, unrecognised

SHAPE = (12, 10, 2)
ORGANS = {5: "liver", 1: "spleen & more", 300: "kidney  left"}


def labels(*indices: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Columns of the image with one index each, from the third on."""
    found = np.zeros(shape, dtype=np.int16)
    for place, index in enumerate(indices, start=3):
        found[place, 2:-2] = index
    return found


def label_table(names: dict[int, str]) -> bytes:
    """XML as TotalSegmentator and Workbench write it."""
    rows = "\n".join(
        f'<Label Key="{index}" Red="0.1" Green="0" Blue="1" Alpha="1"><![CDATA[{name}]]></Label>'
        for index, name in names.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <VolumeInformation Index="0"> <LabelTable>'
        f"{rows}</LabelTable> <VolumeType><![CDATA[Label]]></VolumeType> </VolumeInformation>"
        "</CaretExtension>\n    "
    ).encode()


def put(
    path: Path, data: np.ndarray, *extensions: bytes, affine: np.ndarray = AFFINE, kind=nib.Nifti1Image
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(data.astype(np.int32), affine), path)
        return path
    image = kind(data, affine)
    image.header.extensions.extend(nib.nifti1.Nifti1Extension(0, text) for text in extensions)
    nib.save(image, path)
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    """The map that regions are brought to."""
    return put(tmp_path / "map.nii.gz", np.ones(SHAPE, dtype=np.float32))


def found(root: Path, image: Path, **entities: str) -> dict[str, tuple[str, dict[str, int], list[str]]]:
    """Of every segmentation its program, the voxels of its regions and the warnings, by its name."""
    segmentations, warnings = Segmentations({"rois": root}).of({"sub": "01", **entities})
    result = {}
    for one in segmentations:
        regions, said = load_regions(one, image, np.ones(SHAPE, dtype=bool))
        result[one.name] = one.program, dict(zip(regions.names, regions.sizes.tolist(), strict=True)), said
    return {**result, **({"warnings": ("", {}, warnings)} if warnings else {})}


FREESURFER_LABELS = labels(10, 1024, 53, 99999 % 32768)
BY_FREESURFER = {"Left-Thalamus": 12, "Right-Hippocampus": 12, "ctx-lh-precentral": 12, "1695": 12}

FREESURFER_FILES = [
    ("sub-01/mri/aseg.mgz", "FreeSurfer", "aseg"),
    ("sub-01/mri/aparc+aseg.mgz", "FreeSurfer", "aparcaseg"),
    ("sub-01/mri/aseg.auto.mgz", "FastSurfer", "aseg"),
    ("sub-01/mri/aparc.DKTatlas+aseg.deep.mgz", "FastSurfer", "aparcaseg"),
    ("sub-01_ses-1/mri/aseg.mgz", "FreeSurfer", "aseg"),
    ("sub-01_ses-1.long.sub-01/mri/aseg.mgz", "FreeSurfer", "aseg"),
    ("sub-01/ses-1/mri/aseg.mgz", "FreeSurfer", "aseg"),
    ("sub-01_T1w_synthseg.nii.gz", "SynthSeg", "synthseg"),
    ("sub-01_acq-mprage_T1w_synthseg.nii.gz", "SynthSeg", "synthseg"),
    ("sub-01/anat/sub-01_T1w_synthseg.nii.gz", "SynthSeg", "synthseg"),
    ("sub-01/SynthSeg.nii.gz", "SynthSeg", "synthseg"),
    ("sub-01/ses-1/anat/sub-01_ses-1_run-1_desc-aseg_dseg.nii.gz", "fMRIPrep", "aseg"),
    ("sub-01/ses-1/anat/sub-01_ses-1_desc-aparcaseg_dseg.nii.gz", "fMRIPrep", "aparcaseg"),
    ("sub-01/ses-1/dwi/sub-01_ses-1_desc-aseg_dseg.nii.gz", "BIDS", "aseg"),
]


@pytest.mark.parametrize(("place", "program", "label"), FREESURFER_FILES)
def test_indices_of_freesurfer_get_its_names(tmp_path, image, place, program, label):
    put(tmp_path / "fs" / place, FREESURFER_LABELS)
    assert found(tmp_path / "fs", image, ses="1") == {f"rois:{label}": (program, BY_FREESURFER, [])}


def test_a_colour_table_beside_the_participants_names_more(tmp_path, image):
    put(tmp_path / "fs/sub-01/mri/aseg.mgz", FREESURFER_LABELS)
    (tmp_path / "fs/FreeSurferColorLUT.txt").write_text(
        "#No. Label Name: R G B A\n\n10  Left-Thalamus-Proper  0 118 14 0\n1695 other 1 2 3 0\n"
    )
    _, names, _ = found(tmp_path / "fs", image)["rois:aseg"]
    assert names == {
        "Left-Thalamus-Proper": 12, "Right-Hippocampus": 12, "ctx-lh-precentral": 12, "other": 12
    }  # fmt: skip


def test_the_table_in_the_package_is_complete_for_aparc_and_aseg():
    assert {FREESURFER[index] for index in (17, 53, 58, 26, 251, 1035, 2002)} == {
        "Left-Hippocampus", "Right-Hippocampus", "Right-Accumbens-area", "Left-Accumbens-area",
        "CC_Posterior", "ctx-lh-insula", "ctx-rh-caudalanteriorcingulate",
    }  # fmt: skip
    assert len(set(FREESURFER.values())) == len(FREESURFER)


MULTI_LABEL = [
    ("sub-01.nii.gz", "rois"),
    ("sub-01_seg.nii", "rois"),
    ("sub-01_dwi.nii.gz", "rois:dwi"),
    ("sub-01/segmentations.nii", "rois"),
    ("sub-01/total.nii.gz", "rois:total"),
    ("sub-01/ses-1/sub-01_ses-1_total.nii.gz", "rois:total"),
    ("sub-01/dwi/sub-01_desc-total_dseg.nii.gz", "rois:total"),
    ("sub-01/ses-1/dwi/sub-01_ses-1_dseg.nii.gz", "rois"),
    ("sub-01/ses-1/anat/sub-01_ses-1_acq-fine_desc-total_dseg.nii.gz", "rois:total"),
]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("place", "name"), MULTI_LABEL)
def test_names_come_from_the_header_of_a_multi_label_image(tmp_path, image, place, name, kind):
    put(tmp_path / "ts" / place, labels(5, 1, 300, 7), b"other text", label_table(ORGANS), kind=kind)
    session = {"ses": "1"} if "ses-1" in place else {}
    program = "BIDS" if "/dwi/" in place else "TotalSegmentator"
    names = {"spleen & more": 12, "liver": 12, "7": 12, "kidney left": 12}
    assert found(tmp_path / "ts", image, **session) == {name: (program, dict(names), [])}


def test_a_lookup_table_counts_more_than_the_header(tmp_path, image):
    path = put(tmp_path / "ts/sub-01/dwi/sub-01_dseg.nii.gz", labels(5), label_table({5: "of the header"}))
    path.with_name("sub-01_dseg.tsv").write_text("index\tname\n5\tof the table\n")
    assert found(tmp_path / "ts", image)["rois"][1] == {"of the table": 12}


@pytest.mark.parametrize(
    "folder", ["sub-01", "sub-01/segmentations", "sub-01/ses-1/segmentations", "sub-01_ses-1", "sub-01/dwi"]
)
def test_a_folder_of_masks_is_one_segmentation(tmp_path, image, folder):
    root = tmp_path / "ts"
    put(root / folder / "liver.nii.gz", (labels(0, 1) > 0).astype(np.uint8))
    put(root / folder / "kidney_left.nii.gz", (labels(0, 0, 1) > 0).astype(np.uint8))
    put(root / folder / "spleen.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    (root / folder / "statistics.json").write_text("{}")
    put(root / "sub-02/liver.nii.gz", np.ones(SHAPE, dtype=np.uint8))
    session = {"ses": "1"} if "ses-1" in folder else {}
    assert found(root, image, **session) == {
        "rois": ("TotalSegmentator", {"kidney_left": 12, "liver": 12}, [])
    }


def test_of_masks_that_overlap_the_smaller_counts_and_others_are_left_out_by_name(tmp_path, image):
    folder = tmp_path / "ts/sub-01"
    put(folder / "body.nii.gz", np.ones(SHAPE, dtype=np.uint8))
    put(folder / "liver.nii.gz", (labels(1) > 0).astype(np.uint8))
    put(folder / "probability.nii.gz", np.linspace(0, 1, 240, dtype=np.float32).reshape(SHAPE))
    put(folder / "small.nii.gz", np.ones((4, 4, 2), dtype=np.uint8))
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    _, names, said = found(tmp_path / "ts", image)["rois"]
    assert names == {"body": 228, "liver": 12}
    assert len(said) == 4 and "voxels of body.nii.gz" in said[-1]
    for text, word in zip(said, ("damaged", "probability", "small"), strict=False):
        assert text.startswith("a mask is left out") and f"{word}.nii.gz" in text


def test_another_grid_is_brought_to_that_of_the_map_with_a_warning(tmp_path, image):
    """Turned, finer and larger, as FreeSurfer's images are; the regions stay where they are in the world."""
    fine = np.array([[-1.0, 0, 0, 30], [0, 0, 1, -10], [0, -1, 0, 20], [0, 0, 0, 1]])
    data = np.zeros((40, 40, 40), dtype=np.int32)
    world = nib.affines.apply_affine(fine, np.moveaxis(np.indices(data.shape), 0, -1))
    inside = (np.abs(world[..., 0] - 8) <= 3) & (world[..., 1] >= 4) & (world[..., 1] <= 12)
    data[inside] = 17
    put(tmp_path / "fs/sub-01/mri/aseg.mgz", data, affine=fine)
    _, names, said = found(tmp_path / "fs", image)["rois:aseg"]
    # Columns at x = 6, 8 and 10, rows at y = 4 ... 12, slices at z = 0 and 4 mm.
    assert names == {"Left-Hippocampus": 3 * 5 * 2}
    assert said == ["aseg.mgz lies on another grid and was brought to that of the image"]


@pytest.mark.parametrize("place", ["sub-01.nii.gz", "sub-01/mri/aseg.mgz", "sub-01/liver.nii.gz"])
def test_what_lies_elsewhere_is_left_out_by_name(tmp_path, image, place):
    away = AFFINE.copy()
    away[:3, 3] = 500
    put(tmp_path / "ts" / place, (labels(1) > 0).astype(np.uint8), affine=away)
    (segmentation,), _ = Segmentations({"rois": tmp_path / "ts"}).of({"sub": "01"})
    with pytest.raises(Exception, match="has no region where the image lies") as error:
        load_regions(segmentation, image, np.ones(SHAPE, dtype=bool))
    assert str(segmentation.path) in str(error.value)


@pytest.mark.parametrize(
    ("place", "space", "fits"),
    [
        ("sub-01/mri/aseg.mgz", None, True),
        ("sub-01/mri/aseg.mgz", "T1w", True),
        ("sub-01/mri/aseg.mgz", "MNI152NLin2009cAsym", False),
        ("sub-01/mri/aseg.mgz", "ACPC", False),
        ("sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-aseg_dseg.nii.gz", None, False),
        ("sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-aseg_dseg.nii.gz", "MNI152NLin6Asym", True),
        ("sub-01/dwi/sub-01_space-MNI152NLin6Asym_desc-organs_dseg.nii.gz", None, False),
        ("sub-01/dwi/sub-01_space-MNI152NLin6Asym_desc-organs_dseg.nii.gz", "MNI152NLin6Asym", True),
        ("sub-01/dwi/sub-01_space-T1w_desc-organs_dseg.nii.gz", None, True),
    ],
)
def test_a_space_that_is_not_the_runs_is_left_out_by_name(tmp_path, place, space, fits):
    path = put(tmp_path / "fs" / place, labels(10))
    entities = {"sub": "01", **({"space": space} if space else {})}
    segmentations, warnings = Segmentations({"rois": tmp_path / "fs"}).of(entities)
    assert [one.path for one in segmentations] == ([path] if fits else [])
    assert [str(path) in text and "is left out" in text for text in warnings] == ([] if fits else [True])


def test_other_participants_images_and_files_are_not_taken(tmp_path):
    root = tmp_path / "ts"
    for place in (
        "sub-011.nii.gz", "sub-02/liver.nii.gz", "liver.nii.gz", "sub-01/dwi/sub-01_desc-preproc_dwi.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz", "sub-01_ses-2/mri/aseg.mgz", "sub-01/ses-2/liver.nii.gz",
        "sub-01/sub-01_acq-b_total.nii.gz",
    ):  # fmt: skip
        put(root / place, labels(1), label_table({1: "liver"}) if "acq-b" in place else b"")
    assert Segmentations({"rois": root}).of({"sub": "01", "ses": "1", "acq": "a"}) == ([], [])


def test_the_segmentation_that_names_most_of_the_run_counts(tmp_path, image):
    for folder, index in (("sub-01", 10), ("sub-01_ses-1", 11)):
        put(tmp_path / "fs" / folder / "mri/aseg.mgz", labels(index))
    for session, name in (("1", "Left-Caudate"), ("2", "Left-Thalamus")):
        assert found(tmp_path / "fs", image, ses=session)["rois:aseg"][1] == {name: 12}


def test_a_link_in_a_circle_ends(tmp_path):
    put(tmp_path / "fs/sub-01/mri/aseg.mgz", labels(10))
    (tmp_path / "fs/sub-01/sub-01").symlink_to(tmp_path / "fs", target_is_directory=True)
    assert len(Segmentations({"rois": tmp_path / "fs"}).of({"sub": "01"})[0]) == 1


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<CaretExtension",
        label_table({}),
        label_table(ORGANS)[:-80],
        label_table(ORGANS).replace(b'Key="5"', b'Key="five"'),
        label_table(ORGANS).replace(b"<CaretExtension>", ENTITIES + b"<CaretExtension>"),
    ],
)
def test_what_is_no_table_names_nothing(tmp_path, image, text):
    put(tmp_path / "ts/sub-01.nii.gz", labels(5), text)
    assert found(tmp_path / "ts", image)["rois"][1] == {"5": 12}


@given(st.binary(max_size=60), st.sampled_from([352, 368, 400]))
def test_any_bytes_behind_a_header_are_no_error(tmp_path_factory, text, start):
    path = tmp_path_factory.getbasetemp() / "any.nii"
    header = nib.Nifti1Header()
    header["vox_offset"] = start
    header["magic"] = b"n+1"
    path.write_bytes(header.binaryblock + b"\1\0\0\0" + text)
    assert read_label_table(path) is None


def test_nothing_recognised_says_what_would_be(tmp_path):
    (tmp_path / "other/01").mkdir(parents=True)
    (text,) = unrecognised({"other": tmp_path / "other"}, [{"sub": "01"}])
    for word in ("other", "TotalSegmentator", "FreeSurfer", "FastSurfer", "SynthSeg", "_dseg"):
        assert word in text
    put(tmp_path / "ts/sub-02/liver.nii.gz", labels(1))
    assert unrecognised({"ts": tmp_path / "ts"}, [{"sub": "01"}, {"sub": "02"}]) == []


# The app


def test_regions_of_other_programs_are_in_the_tables_and_volumes_are_judged_by_them(
    tmp_path, capsys, monkeypatch
):
    """One volume has lost its signal in the liver."""
    leave_out_figures(monkeypatch)
    app, out = App(capsys), tmp_path / "out"
    shape, bvals = (40, 36, 6), tuple(np.repeat([0.0, 20, 50, 100, 200, 400, 800], 3).tolist())
    data = body(shape, bvals=bvals)
    liver, spleen = np.zeros((2, *shape), dtype=np.uint8)
    liver[8:14, 6:14, 1:5], spleen[20:24, 6:14, 1:5] = 1, 1
    data[liver > 0, 4] *= 0.3
    add_run(made := Dataset(tmp_path / "bids"), "sub-01", data=data, bvals=bvals)
    put(tmp_path / "ts/sub-01/liver.nii.gz", liver)
    put(tmp_path / "ts/sub-01/spleen.nii.gz", spleen)
    put(tmp_path / "fs/sub-01/mri/aseg.mgz", 10 * liver + 49 * spleen)
    away = AFFINE.copy()
    away[:3, 3] = 500
    lost = put(tmp_path / "lost/sub-01.nii.gz", liver, affine=away)
    (tmp_path / "empty").mkdir()
    datasets = ["-d", *(f"{name}={tmp_path / name}" for name in ("ts", "fs", "lost", "empty"))]
    call = app.quick(made, out, *datasets)
    assert call.code == 0, call.text
    assert f"2 regions of ts, recognised as laid out by TotalSegmentator: {tmp_path}/ts/sub-01" in call.out
    assert f"a segmentation is left out: {lost}" in call.err
    assert f"recognised in the derivative dataset empty ({tmp_path / 'empty'})" in call.err
    sizes = [str(liver.sum()), str(spleen.sum())]
    expected = [
        *zip(["ts"] * 2, ["liver", "spleen"], sizes, strict=True),
        *zip(["fs:aseg"] * 2, ["Left-Thalamus", "Right-Thalamus"], sizes, strict=True),
    ]
    table = out / "sub-01/dwi/sub-01_desc-regions_qc.tsv"
    rows = list(csv.DictReader(table.open(), delimiter="\t"))
    assert [(row["segmentation"], row["name"], row["voxels"]) for row in rows] == expected
    assert json.loads(table.with_suffix(".json").read_text())["Segmentations"] == {
        "ts": {"RecognisedAs": "TotalSegmentator", "Source": "bids:ts:sub-01"},
        "fs:aseg": {"RecognisedAs": "FreeSurfer", "Source": "bids:fs:sub-01/mri/aseg.mgz"},
    }
    volumes = csv.DictReader((out / "sub-01/dwi/sub-01_desc-volumes_qc.tsv").open(), delimiter="\t")
    assert [row["volume"] for row in volumes if "liver" in row["fell_out_regions"]] == ["4"]

    call = app.raw(tmp_path / "none", out, "group", *datasets)
    assert call.code == 0, call.text
    assert "regions of fs:aseg, recognised as laid out by FreeSurfer" in call.out
    rows = list(csv.DictReader((out / "group_ivim.tsv").open(), delimiter="\t"))
    assert [(row["segmentation"], row["region"], row["voxel_count"]) for row in rows[1:]] == expected
    recorded = json.loads((out / "group_ivim.json").read_text())["Segmentations"]
    assert recorded["ts"] == {"RecognisedAs": "TotalSegmentator"}
    assert "1 of them unchanged" in app.raw(tmp_path / "none", out, "group", *datasets).out
    put(tmp_path / "ts/sub-01/spleen.nii.gz", liver)
    assert "0 of them unchanged" in app.raw(tmp_path / "none", out, "group", *datasets).out
