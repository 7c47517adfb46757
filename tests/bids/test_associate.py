from __future__ import annotations

from pathlib import Path

import pytest
from bids_datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.bids.associate import (
    ENTITY_ORDER,
    Associator,
    applies,
    parse_name,
)
from sicnn_app.bids.derivative_datasets import find_mask, find_preprocessed
from sicnn_app.errors import DataError, MissingInputError, UsageError

IMAGE = "sub-01/ses-1/dwi/sub-01_ses-1_acq-a_run-01_dwi"
LEVELS = ("", "sub-01/", "sub-01/ses-1/", "sub-01/ses-1/dwi/")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "ds")


def associate(dataset: Dataset, relative: str = IMAGE):
    image = dataset.image(relative, bvals=None)
    warnings: list[str] = []
    return Associator(dataset.root).associate(image, parse_name(image.name).entities, warnings), warnings


def test_names_are_parsed_into_bids_order_with_labels_as_written():
    name = parse_name("sub-01_run-007_dir-AP_ses-pre_dwi.nii.gz")
    assert list(name.entities.items()) == [("sub", "01"), ("ses", "pre"), ("dir", "AP"), ("run", "007")]
    assert (name.suffix, name.extension) == ("dwi", ".nii.gz")


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_dwi.txt",
        "sub-01_foo_dwi.nii",
        "sub-01_sub-02_dwi.nii",
        "sub-_dwi.nii",
        "sub-01.nii",
        "_dwi.nii",
        "sub-.._dwi.nii",
        "sub-01_acq-a/b_dwi.nii",
        "sub-01_acq-a-b_dwi.nii",
        "sub-01_acq-a.b_dwi.nii",
        "sub-01_acq-<b>_dwi.nii",
        "sub-01_acq-a\n_dwi.nii",
        "sub-01_acq-\u0661_dwi.nii",
        "sub-01_acq-a_d wi.nii",
        "sub-01_dwi\n.nii",
    ],
)
def test_other_names_are_no_bids_names(name):
    assert parse_name(name) is None


labels = st.text("abcXYZ019+", min_size=1, max_size=4)
entities = st.dictionaries(st.sampled_from(ENTITY_ORDER), labels, min_size=1)


@given(entities, st.sampled_from([".nii", ".nii.gz", ".bval", ".json"]))
def test_any_name_survives_parsing(mapping, extension):
    text = "_".join([*(f"{key}-{label}" for key, label in mapping.items()), f"dwi{extension}"])
    name = parse_name(text)
    assert name.entities == mapping
    assert list(name.entities) == sorted(mapping, key=ENTITY_ORDER.index)
    assert name.extension == extension


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_label_can_lead_out_of_a_folder_or_into_markup(label, suffix):
    name = parse_name(f"sub-{label}_acq-{label}_{suffix}.nii.gz")
    if name is not None:
        assert all(text.isascii() and text.replace("+", "0").isalnum() for text in (label, suffix))


@given(entities, entities)
def test_a_candidate_applies_exactly_when_it_says_nothing_else(candidate, run):
    assert applies(candidate, run) == all(run.get(key) == label for key, label in candidate.items())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("extension", ["bval", "bvec"])
def test_tables_are_inherited_from_every_level(dataset, level, extension):
    expected = dataset.write(f"{level}dwi.{extension}", "0")
    source, _ = associate(dataset)
    assert getattr(source, extension) == expected


def test_the_nearest_folder_wins(dataset):
    for level in LEVELS[:-1]:
        dataset.write(f"{level}dwi.bval", "0")
    near = dataset.write("sub-01/ses-1/dwi/sub-01_ses-1_dwi.bval", "0")
    assert associate(dataset)[0].bval == near


def test_files_above_the_dataset_do_not_apply(dataset):
    (dataset.root.parent / "dwi.bval").write_text("0")
    assert associate(dataset)[0].bval is None


@pytest.mark.parametrize(
    "other",
    [
        "sub-01/ses-1/dwi/sub-01_ses-1_acq-b_dwi.bval",
        "sub-01/ses-1/dwi/sub-01_ses-1_acq-a_run-1_dwi.bval",
        "sub-01/ses-1/dwi/sub-01_ses-1_acq-a_run-01_dir-AP_dwi.bval",
        "sub-01/ses-1/dwi/sub-01_ses-1_acq-a_run-01_sbref.bval",
        "acq-b_dwi.bval",
        "sub-01/ses-2/dwi/sub-01_dwi.bval",
    ],
)
def test_files_of_others_never_apply(dataset, other):
    dataset.write(other, "0")
    assert associate(dataset)[0].bval is None


@pytest.mark.parametrize("extension", ["bval", "bvec"])
def test_two_candidates_in_one_folder_are_an_error_naming_both(dataset, extension):
    dataset.write(f"sub-01/ses-1/dwi/sub-01_ses-1_acq-a_dwi.{extension}", "0")
    dataset.write(f"sub-01/ses-1/dwi/sub-01_ses-1_run-01_dwi.{extension}", "0")
    with pytest.raises(DataError) as error:
        associate(dataset)
    assert f"sub-01_ses-1_acq-a_dwi.{extension}" in str(error.value)
    assert f"sub-01_ses-1_run-01_dwi.{extension}" in str(error.value)


def test_a_file_of_the_same_name_belongs_to_the_image_beside_a_more_general_one(dataset):
    own = dataset.write(f"{IMAGE}.bval", "0")
    dataset.write("sub-01/ses-1/dwi/sub-01_ses-1_dwi.bval", "0")
    assert associate(dataset)[0].bval == own


def test_two_candidates_farther_up_do_not_matter_when_a_nearer_one_applies(dataset):
    dataset.write("dwi.bval", "0")
    dataset.write("acq-a_dwi.bval", "0")
    near = dataset.write(f"{IMAGE}.bval", "0")
    assert associate(dataset)[0].bval == near


def test_sidecars_are_merged_and_the_nearest_overrides(dataset):
    far = dataset.write("dwi.json", '{"A": 1, "B": 1, "C": 1}')
    middle = dataset.write("sub-01/sub-01_dwi.json", '{"B": 2, "C": 2}')
    near = dataset.write(f"{IMAGE}.json", '{"C": 3}')
    dataset.write("acq-b_dwi.json", '{"A": 9}')
    source, warnings = associate(dataset)
    assert source.metadata == {"A": 1, "B": 2, "C": 3}
    assert source.sidecars == (far, middle, near)
    assert warnings == []


@pytest.mark.parametrize("content", ['{"B": ', "[1, 2]", b"\xff\xfe\x00", ""])
def test_a_broken_sidecar_is_left_out_with_a_warning(dataset, content):
    dataset.write("dwi.json", '{"A": 1}')
    broken = dataset.write(f"{IMAGE}.json", content)
    source, warnings = associate(dataset)
    assert source.metadata == {"A": 1}
    assert len(warnings) == 1 and str(broken) in warnings[0]


def test_two_sidecars_in_one_folder_are_merged_with_a_warning(dataset):
    dataset.write("sub-01/ses-1/dwi/sub-01_ses-1_dwi.json", '{"A": 1, "B": 1}')
    dataset.write(f"{IMAGE}.json", '{"B": 2}')
    source, warnings = associate(dataset)
    assert source.metadata == {"A": 1, "B": 2}
    assert len(warnings) == 1


RUN = {"sub": "01", "acq": "a"}


def mask(root: Path, name: str, *, folder: str = "sub-01/dwi") -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mask")
    return path


def found(root: Path, *, space: str | None = None, desc: str | None = None) -> Path | None:
    return find_mask([root], RUN if space is None else {**RUN, "space": space}, desc=desc)


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_mask.nii.gz",
        "sub-01_desc-cord_mask.nii.gz",
        "sub-01_acq-a_desc-body_mask.nii",
        "sub-01_space-orig_desc-body_mask.nii.gz",
        "sub-01_res-native_mask.nii.gz",
    ],
)
def test_a_mask_of_the_run_is_found(tmp_path, name):
    expected = mask(tmp_path, name)
    assert found(tmp_path) == expected


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("sub-01/dwi", "sub-01_acq-b_desc-body_mask.nii.gz"),
        ("sub-01/dwi", "sub-01_space-T1w_desc-brain_mask.nii.gz"),
        ("sub-01/dwi", "sub-01_desc-organs_dseg.nii.gz"),
        ("sub-01/dwi", "sub-01_desc-body_mask.json"),
        ("sub-01/anat", "sub-01_desc-brain_mask.nii.gz"),
        ("sub-01/ses-1/dwi", "sub-01_ses-1_desc-body_mask.nii.gz"),
        ("sub-02/dwi", "sub-02_desc-body_mask.nii.gz"),
        ("", "desc-body_mask.nii.gz"),
    ],
)
def test_masks_of_others_or_on_other_grids_are_not_used(tmp_path, folder, name):
    mask(tmp_path, name, folder=folder)
    assert found(tmp_path) is None


def test_the_mask_must_be_in_the_space_of_the_image(tmp_path):
    mask(tmp_path, "sub-01_desc-brain_mask.nii.gz")
    expected = mask(tmp_path, "sub-01_space-T1w_desc-brain_mask.nii.gz")
    assert found(tmp_path, space="T1w") == expected


def test_several_masks_need_a_choice(tmp_path):
    liver = mask(tmp_path, "sub-01_desc-liver_mask.nii.gz")
    spleen = mask(tmp_path, "sub-01_desc-spleen_mask.nii.gz")
    with pytest.raises(UsageError, match="--mask-desc") as error:
        found(tmp_path)
    assert str(liver) in str(error.value) and str(spleen) in str(error.value)
    assert found(tmp_path, desc="spleen") == spleen
    assert found(tmp_path, desc="kidney") is None


def test_a_single_brain_or_body_mask_is_preferred(tmp_path):
    mask(tmp_path, "sub-01_desc-liver_mask.nii.gz")
    body = mask(tmp_path, "sub-01_desc-body_mask.nii.gz")
    assert found(tmp_path) == body
    mask(tmp_path, "sub-01_desc-brain_mask.nii.gz")
    with pytest.raises(UsageError):
        found(tmp_path)


def test_the_mask_of_this_run_is_preferred_to_one_of_all_runs(tmp_path):
    mask(tmp_path, "sub-01_desc-body_mask.nii.gz")
    own = mask(tmp_path, "sub-01_acq-a_desc-body_mask.nii.gz")
    assert found(tmp_path) == own
    assert found(tmp_path, desc="body") == own


def test_an_unfetched_mask_names_datalad(tmp_path):
    (tmp_path / "sub-01/dwi").mkdir(parents=True)
    (tmp_path / "sub-01/dwi/sub-01_mask.nii.gz").symlink_to("../.git/annex/gone")
    with pytest.raises(MissingInputError, match=r"datalad get .*sub-01_mask.nii.gz"):
        found(tmp_path)


def test_the_preprocessed_image_of_a_run_is_found(tmp_path):
    mask(tmp_path, "sub-01_acq-b_desc-preproc_dwi.nii.gz")
    mask(tmp_path, "sub-01_acq-a_desc-denoised_dwi.nii.gz")
    assert find_preprocessed([tmp_path], RUN) is None
    expected = mask(tmp_path, "sub-01_acq-a_space-T1w_desc-preproc_dwi.nii.gz")
    file = find_preprocessed([tmp_path], RUN)
    assert (file.path, file.space, file.source) == (expected, "T1w", RUN)


def test_several_preprocessed_images_are_an_error(tmp_path):
    for space in ("T1w", "ACPC"):
        mask(tmp_path, f"sub-01_space-{space}_desc-preproc_dwi.nii.gz")
    with pytest.raises(UsageError, match=r"space-ACPC.*space-T1w"):
        find_preprocessed([tmp_path], RUN)
