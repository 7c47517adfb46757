from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from bids import BIDSLayout
from bids_datasets import Dataset, real_dataset

from sicnn_app.bids.describe import describe
from sicnn_app.bids.discover import Discovery, discover
from sicnn_app.bids.load import load_run
from sicnn_app.bids.validate import check_dataset
from sicnn_app.errors import DataError, MissingInputError, NoRunsError, NotBidsError, OutputError, UsageError
from sicnn_app.formats import natural_key
from sicnn_app.settings import InputSettings, SelectionSettings


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "ds")


def found(dataset: Dataset, *, derivatives=None, mask_desc=None, bvals=None, **selection) -> Discovery:
    inputs = InputSettings(derivatives=derivatives or {}, mask_desc=mask_desc, bvals=bvals)
    return discover(dataset.root, SelectionSettings(**selection), inputs)


def names(discovery: Discovery) -> list[str]:
    return [run.name for run in discovery.runs]


def problems(discovery: Discovery) -> dict[str, Exception]:
    return {run.name: error for run, error in discovery.problems}


# the dataset


def test_a_sound_dataset_gives_no_warning(dataset):
    assert check_dataset(dataset.root, skip=False) == []


@pytest.mark.parametrize("content", [None, "{", "[1]", b"\xff\xfe"])
def test_a_missing_or_broken_description_is_an_error_or_a_warning(dataset, content):
    path = dataset.root / "dataset_description.json"
    path.unlink()
    if content is not None:
        dataset.write(path.name, content)
    with pytest.raises(NotBidsError, match=path.name):
        check_dataset(dataset.root, skip=False)
    assert len(check_dataset(dataset.root, skip=True)) == 1


@pytest.mark.parametrize("content", [None, "{", b"\xff\xfe"])
def test_runs_are_found_without_a_description(dataset, content):
    dataset.image("sub-01/dwi/sub-01_dwi")
    (dataset.root / "dataset_description.json").unlink()
    if content is not None:
        dataset.write("dataset_description.json", content)
    assert names(found(dataset)) == ["sub-01"]


def test_the_description_is_looked_at(dataset):
    dataset.write("dataset_description.json", '{"Name": "x", "DatasetType": "derivative"}')
    assert len(check_dataset(dataset.root, skip=False)) == 2


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist"):
        check_dataset(tmp_path / "gone", skip=True)
    with pytest.raises(MissingInputError, match="not a folder"):
        (tmp_path / "file").write_text("")
        check_dataset(tmp_path / "file", skip=True)


# selection


@pytest.fixture
def study(dataset: Dataset) -> Dataset:
    for subject in ("2", "10"):
        for session in ("a", "b"):
            for run in ("1", "01"):
                dataset.image(
                    f"sub-{subject}/ses-{session}/dwi/sub-{subject}_ses-{session}_acq-x_run-{run}_dwi"
                )
    dataset.image("sub-2/ses-a/dwi/sub-2_ses-a_acq-y_dwi")
    for folder in ("derivatives/d", "sourcedata", "code", ".datalad"):
        dataset.image(f"{folder}/sub-2/ses-a/dwi/sub-2_ses-a_acq-no_dwi")
    dataset.image("sub-2/ses-a/anat/sub-2_ses-a_acq-no_dwi")
    return dataset


def test_runs_are_found_in_natural_order(study):
    discovery = found(study)
    assert [(run.subject, run.session, run.entities.get("run")) for run in discovery.runs] == [
        ("2", "a", "01"), ("2", "a", "1"), ("2", "a", None), ("2", "b", "01"), ("2", "b", "1"),
        ("10", "a", "01"), ("10", "a", "1"), ("10", "b", "01"), ("10", "b", "1"),
    ]  # fmt: skip
    assert discovery.warnings == discovery.skipped == discovery.problems == ()


def test_run_1_and_run_01_have_their_own_tables(study):
    for run in found(study).runs:
        assert run.parts[0].bval.name == f"{run.name}_dwi.bval"
    (study.root / "sub-2/ses-a/dwi/sub-2_ses-a_acq-x_run-1_dwi.bval").unlink()
    discovery = found(study, participant_label=("2",), session_id=("a",), run_label=("1",))
    assert isinstance(problems(discovery)["sub-2_ses-a_acq-x_run-1"], MissingInputError)


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({"participant_label": ("2",)}, 5),
        ({"participant_label": ("sub-2",)}, 5),
        ({"session_id": ("b",)}, 4),
        ({"acquisition_label": ("y",)}, 1),
        ({"run_label": ("01",)}, 4),
        ({"participant_label": ("10",), "session_id": ("ses-a",), "run_label": ("1",)}, 1),
        ({"bids_filters": {"dwi": {}}}, 9),
        ({"bids_filters": {"dwi": {"session": "a", "suffix": "dwi"}}}, 5),
        ({"bids_filters": {"dwi": {"session": ["a", "b"], "run": "1"}}}, 4),
        ({"bids_filters": {"dwi": {"run": 1}}}, 8),
        ({"bids_filters": {"dwi": {"run": None}}}, 1),
        ({"bids_filters": {"dwi": {"run": ["Query.NONE", "01"]}}}, 5),
        ({"bids_filters": {"dwi": {"run": "*"}}}, 8),
        ({"bids_filters": {"dwi": {"run": "Query.OPTIONAL", "extension": ".nii.gz"}}}, 9),
    ],
)
def test_selections(study, selection, count):
    discovery = found(study, **selection)
    assert len(discovery.runs) == count
    assert discovery.warnings == ()


@pytest.mark.parametrize(
    "selection",
    [
        {"participant_label": ("99",)},
        {"participant_label": ("02",)},
        {"session_id": ("c",)},
        {"run_label": ("001",)},
        {"bids_filters": {"dwi": {"suffix": "sbref"}}},
        {"bids_filters": {"dwi": {"direction": "*"}}},
    ],
)
def test_a_selection_of_nothing_is_an_error(study, selection):
    with pytest.raises(NoRunsError):
        found(study, **selection)


def test_labels_that_match_nothing_beside_others_are_warnings(study):
    discovery = found(study, participant_label=("2", "99"), session_id=("a", "c"))
    assert len(discovery.runs) == 3
    assert discovery.warnings == (
        "--participant-label 99 matches no DWI run", "--session-id c matches no DWI run"
    )  # fmt: skip


def test_unknown_filters_are_ignored_with_a_warning(study):
    discovery = found(study, bids_filters={"dwi": {"colour": "red", "acquisition": "y"}})
    assert len(discovery.runs) == 1
    assert len(discovery.warnings) == 1 and "colour" in discovery.warnings[0]


def test_filters_for_other_images_choose_nothing_which_is_said(study):
    discovery = found(study, bids_filters={"bold": {"run": 7}})
    assert len(discovery.runs) == 9
    assert len(discovery.warnings) == 1 and '"dwi"' in discovery.warnings[0]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"session": "ses-a"}, 5),
        ({"subject": ["sub-2"], "ses": "a"}, 3),
        ({"extension": ["nii", "nii.gz"]}, 9),
        ({"extension": "nii.gz", "run": "Query.REQUIRED"}, 8),
    ],
)
def test_filters_as_people_write_them(study, filters, count):
    discovery = found(study, bids_filters={"dwi": filters})
    assert len(discovery.runs) == count and discovery.warnings == ()


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"acquisition": "ivim"}, "acquisition"),
        ({"ses": "a", "dwi": {}}, "ses"),
        ({"Session": "a"}, "Session"),
        ({"extension": ".nii"}, "extension"),
        ({"DWI": {"session": "a"}}, "DWI"),
        ({"dwi": ["run"]}, "dwi"),
        ({"dwi": None}, "dwi"),
        ({"dwi": {"session": True}}, "session"),
        ({"dwi": {"run": 1.0}}, "run"),
        ({"dwi": {"run": [1, [2]]}}, "run"),
        ({"dwi": {"run": {"a": 1}}}, "run"),
        ({"dwi": {"acquisition": []}}, "acquisition"),
        ({"dwi": {"acquisition": "ivim.*"}}, "acquisition"),
        ({"dwi": {"session": "sub-2"}}, "session"),
        ({"dwi": {"extension": 5}}, "extension"),
        ({"dwi": {"ses": "a", "session": "b"}}, "session"),
    ],
)
def test_filters_that_could_not_be_meant_are_refused_by_their_key(study, filters, named):
    with pytest.raises(UsageError, match=f'--bids-filter-file: "{named}"'):
        found(study, bids_filters=filters)


def test_values_of_a_filter_that_match_nothing_are_named(study):
    with pytest.raises(NoRunsError, match=r'--bids-filter-file {"session": "c"}'):
        found(study, bids_filters={"dwi": {"session": "c"}})
    discovery = found(study, bids_filters={"dwi": {"session": ["a", "c"]}})
    assert discovery.warnings == ("--bids-filter-file: session c matches no DWI run",)


@pytest.mark.parametrize("label", ["a_b", "..", "<b>", "é", "a\nb"])
def test_participants_whose_folders_have_no_bids_name(dataset, label):
    dataset.image(f"sub-{label}/dwi/sub-{label}_dwi")
    with pytest.raises(NoRunsError, match="participant folders are not BIDS") as error:
        found(dataset)
    assert "\n" not in str(error.value)
    dataset.image("sub-01/dwi/sub-01_dwi")
    discovery = found(dataset)
    assert names(discovery) == ["sub-01"]
    assert len(discovery.warnings) == 1 and discovery.warnings[0].startswith("ignored: names of 1 ")
    assert found(dataset, participant_label=("01",)).warnings == ()
    with pytest.raises(NoRunsError, match="no such participant"):
        found(dataset, participant_label=(label,))


def test_many_folders_without_a_bids_name_are_one_short_warning(dataset):
    dataset.image("sub-01/dwi/sub-01_dwi")
    for number in range(30):
        dataset.write(f"sub-{number}_x/notes.txt")
    (warning,) = found(dataset).warnings
    assert "names of 30 participant folders" in warning and warning.count("sub-") == 5


def test_names_that_are_no_text(tmp_path):
    dataset = Dataset(tmp_path / "ds")
    dataset.image("sub-01/dwi/sub-01_dwi")
    dataset.image("sub-01/ses-1/dwi/sub-01_ses-1_dwi")
    for folder in ("sub-01/dwi", "sub-01/ses-1/dwi"):
        for name in (b"sub-01_acq-\xe9_dwi.nii.gz", b"notes \xe9.txt"):
            Path(os.fsdecode(os.fsencode(dataset.root / folder) + b"/" + name)).touch()
    discovery = found(dataset)
    assert len(discovery.runs) == len(discovery.warnings) == 2
    assert all("acq-\\udce9_dwi.nii.gz is ignored" in warning for warning in discovery.warnings)
    assert found(dataset, bids_database_dir=tmp_path / "db").warnings == discovery.warnings
    moved = dataset.root.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")))
    with pytest.raises(UsageError, match="is not UTF-8") as error:
        discover(moved, SelectionSettings(), InputSettings())
    assert str(error.value).isprintable()


def test_a_dataset_without_dwi(dataset):
    with pytest.raises(NoRunsError, match="no sub-"):
        found(dataset)
    dataset.image("sub-01/anat/sub-01_T1w")
    with pytest.raises(NoRunsError, match="no DWI run"):
        found(dataset)


def test_only_magnitude_images_are_runs(dataset):
    for stem in ("acq-x_dwi", "sbref", "part-mag_dwi", "part-phase_dwi", "part-real_dwi", "part-imag_dwi"):
        dataset.image(f"sub-01/dwi/sub-01_{stem}")
    discovery = found(dataset)
    assert names(discovery) == ["sub-01_acq-x", "sub-01_part-mag"]
    assert len(discovery.skipped) == 3


def test_names_that_are_not_bids_or_lie_elsewhere_are_ignored_with_a_warning(dataset):
    dataset.image("sub-01/dwi/sub-01_dwi")
    dataset.image("sub-01/dwi/sub-01_old_dwi")
    dataset.image("sub-01/dwi/sub-02_dwi")
    dataset.image("sub-01/dwi/sub-01_ses-1_dwi")
    dataset.image("sub-01/dwi/._sub-01_acq-mac_dwi")
    discovery = found(dataset)
    assert names(discovery) == ["sub-01"]
    assert len(discovery.warnings) == 3


@pytest.mark.parametrize(
    "folder", ["dåtä sets", "sub-99/ses-9/dwi/ds", "50%20 #1", "a[1](2)", "derivatives/x"]
)
def test_the_path_of_the_dataset_does_not_matter(tmp_path, folder):
    dataset = Dataset(tmp_path / folder)
    dataset.image("sub-01/dwi/sub-01_dwi")
    assert names(found(dataset)) == ["sub-01"]
    linked = tmp_path / "link to it"
    linked.symlink_to(dataset.root)
    run = discover(linked, SelectionSettings(), InputSettings()).runs[0]
    assert run.parts[0].image == linked / "sub-01/dwi/sub-01_dwi.nii.gz"


def test_a_relative_path_of_the_dataset(dataset, monkeypatch):
    dataset.image("sub-01/dwi/sub-01_dwi")
    monkeypatch.chdir(dataset.root.parent)
    assert len(discover(Path("ds"), SelectionSettings(), InputSettings()).runs) == 1


def test_links_are_followed_and_loops_are_not(dataset, tmp_path):
    elsewhere = Dataset(tmp_path / "store")
    elsewhere.image("sub-01/dwi/sub-01_dwi")
    (dataset.root / "sub-01").symlink_to(elsewhere.root / "sub-01")
    dataset.image("sub-02/dwi/sub-02_dwi")
    (dataset.root / "sub-02/dwi/again").symlink_to(dataset.root / "sub-02")
    (dataset.root / "sub-02/sub-02").symlink_to(dataset.root / "sub-02")
    assert names(found(dataset)) == ["sub-01", "sub-02"]


def test_the_order_of_names():
    assert sorted(["sub-10", "sub-2", "sub-b", "sub-02"], key=natural_key) == [
        "sub-02",
        "sub-2",
        "sub-10",
        "sub-b",
    ]


# one bad run never stops the others


def test_problems_are_returned_run_by_run(dataset):
    dataset.image("sub-01/dwi/sub-01_dwi")
    dataset.image("sub-02/dwi/sub-02_dwi", bvals=None)
    dataset.image("sub-03/dwi/sub-03_acq-a_run-1_dwi", bvals=None)
    dataset.write("sub-03/dwi/sub-03_acq-a_dwi.bval", "0 1 2 3 4")
    dataset.write("sub-03/dwi/sub-03_run-1_dwi.bval", "0 1 2 3 4")
    gone = dataset.image("sub-04/dwi/sub-04_dwi")
    gone.unlink()
    gone.symlink_to("../../.git/annex/objects/gone")
    table = dataset.image("sub-05/dwi/sub-05_dwi").with_name("sub-05_dwi.bval")
    table.unlink()
    table.symlink_to("../../.git/annex/objects/gone")
    dataset.image("sub-06/dwi/sub-06_dwi")
    dataset.write("sub-06/dwi/sub-06_dwi.nii", "")
    discovery = found(dataset)
    errors = problems(discovery)
    assert names(discovery) == ["sub-01"]
    assert {name: type(error) for name, error in errors.items()} == {
        "sub-02": MissingInputError,
        "sub-03_acq-a_run-1": DataError,
        "sub-04": MissingInputError,
        "sub-05": MissingInputError,
        "sub-06": DataError,
    }
    assert "sub-02_dwi.nii.gz has no .bval" in str(errors["sub-02"])
    assert "sub-03_acq-a_dwi.bval" in str(errors["sub-03_acq-a_run-1"])
    assert f"datalad get {gone}" in str(errors["sub-04"])
    assert f"datalad get {table}" in str(errors["sub-05"])


def test_a_bval_of_another_run_is_never_used(dataset):
    dataset.image("sub-01/dwi/sub-01_acq-a_dwi", bvals=None)
    dataset.image("sub-01/dwi/sub-01_acq-b_dwi")
    discovery = found(dataset)
    assert names(discovery) == ["sub-01_acq-b"]
    assert list(problems(discovery)) == ["sub-01_acq-a"]


def test_bvals_of_the_command_line(dataset, tmp_path):
    dataset.image("sub-01/dwi/sub-01_dwi", bvals=None)
    file = dataset.write("trace.txt", "0 10 50 100 400")
    assert names(found(dataset, bvals=file)) == ["sub-01"]
    with pytest.raises(MissingInputError, match="--bvals"):
        found(dataset, bvals=tmp_path / "gone")
    dataset.write("dwi.bval", "0 10 50 100 400")
    assert "is not used" in found(dataset, bvals=file).warnings[0]


def test_a_sidecar_of_many_runs_is_named_once(dataset):
    for subject in ("01", "02", "03"):
        dataset.image(f"sub-{subject}/dwi/sub-{subject}_dwi")
    dataset.write("dwi.json", "{")
    (warning,) = found(dataset).warnings
    assert "dwi.json" in warning


# runs that are no IVIM runs


@pytest.mark.parametrize(
    "bvals", [(0,), None, (0, 1000, 1000, 995, 1005), (0, 500, 1000, 1000, 1000), (0, 1000, 2000, 3000)]
)
def test_other_diffusion_runs_are_skipped_beside_a_usable_one(dataset, bvals):
    volumes = 1 if bvals is None else len(bvals)
    dataset.image("sub-01/dwi/sub-01_acq-b0_dwi", bvals=bvals, data=np.ones((3, 3, 2, volumes), np.float32))
    alone = found(dataset)
    assert alone.skipped == ()
    assert [*names(alone), *problems(alone)] == ["sub-01_acq-b0"]
    dataset.image("sub-01/dwi/sub-01_acq-ivim_dwi")
    dataset.image("sub-02/dwi/sub-02_dwi")
    beside = found(dataset)
    assert names(beside) == ["sub-01_acq-ivim", "sub-02"]
    assert beside.problems == ()
    assert [name for name, _ in beside.skipped] == ["sub-01_acq-b0"]


def test_an_unusable_run_beside_an_unusable_one_is_kept(dataset):
    dataset.image("sub-01/dwi/sub-01_acq-a_dwi", bvals=(0, 1000))
    dataset.image("sub-01/dwi/sub-01_acq-b_dwi", bvals=None)
    discovery = found(dataset)
    assert names(discovery) == ["sub-01_acq-a"]
    assert list(problems(discovery)) == ["sub-01_acq-b"]


# combining


@pytest.mark.parametrize(("how", "key"), [("acquisition", "acq"), ("run", "run"), ("direction", "dir")])
def test_combined_runs_keep_the_shared_entities(dataset, how, key):
    for session in ("1", "2"):
        for label in ("1", "2", "3"):
            dataset.image(f"sub-01/ses-{session}/dwi/sub-01_ses-{session}_rec-x_{key}-{label}_dwi")
    assert len(found(dataset).runs) == 6
    discovery = found(dataset, combine=how)
    assert names(discovery) == ["sub-01_ses-1_rec-x", "sub-01_ses-2_rec-x"]
    assert [len(run.parts) for run in discovery.runs] == [3, 3]
    series = load_run(discovery.runs[0], bvals_file=None).series
    assert series.signals.shape[3] == 15
    other = "run" if how == "acquisition" else "acquisition"
    assert len(found(dataset, combine=other).runs) == 6


def test_single_volumes_are_combined_before_they_are_judged(dataset):
    dataset.image("sub-01/dwi/sub-01_acq-full_dwi")
    for run, b in enumerate((0, 50, 100, 400)):
        dataset.image(f"sub-01/dwi/sub-01_acq-x_run-{run}_dwi", bvals=(b,))
    assert len(found(dataset).skipped) == 4
    assert names(found(dataset, combine="run")) == ["sub-01_acq-full", "sub-01_acq-x"]


def test_a_bad_part_is_not_left_out_of_a_combination(dataset):
    dataset.image("sub-01/dwi/sub-01_run-1_dwi")
    dataset.image("sub-01/dwi/sub-01_run-2_dwi", bvals=None)
    discovery = found(dataset, combine="run")
    assert discovery.runs == () and list(problems(discovery)) == ["sub-01"]


# derivatives


@pytest.fixture
def masks(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "masks", kind="derivative")


def test_masks_serve_every_run_of_their_subject(dataset, masks):
    for subject in ("01", "02"):
        for acquisition in ("a", "b"):
            dataset.image(f"sub-{subject}/dwi/sub-{subject}_acq-{acquisition}_dwi")
    mask = masks.image("sub-01/dwi/sub-01_desc-cord_mask", bvals=None)
    discovery = found(dataset, derivatives={"seg": masks.root})
    assert [run.mask for run in discovery.runs] == [mask, mask, None, None]
    assert len(discovery.warnings) == 2 and all("sub-02" in warning for warning in discovery.warnings)


def test_an_undecided_mask_is_a_problem_of_its_run(dataset, masks):
    for subject in ("01", "02"):
        dataset.image(f"sub-{subject}/dwi/sub-{subject}_dwi")
        masks.image(f"sub-{subject}/dwi/sub-{subject}_desc-liver_mask", bvals=None)
    kidney = masks.image("sub-01/dwi/sub-01_desc-kidney_mask", bvals=None)
    discovery = found(dataset, derivatives={"m": masks.root})
    assert names(discovery) == ["sub-02"]
    assert isinstance(problems(discovery)["sub-01"], UsageError)
    chosen = found(dataset, derivatives={"m": masks.root}, mask_desc="kidney")
    assert [run.mask for run in chosen.runs] == [kidney, None]
    without = found(dataset, derivatives={"m": masks.root}, mask_desc="none")
    assert [run.mask for run in without.runs] == [None, None]
    assert not without.warnings
    with pytest.raises(MissingInputError, match="desc-heart"):
        found(dataset, derivatives={"m": masks.root}, mask_desc="heart")
    with pytest.raises(UsageError, match="--mask-desc"):
        found(dataset, mask_desc="kidney")


def test_a_derivative_dataset_that_is_not_there(dataset, tmp_path):
    dataset.image("sub-01/dwi/sub-01_dwi")
    with pytest.raises(MissingInputError, match="gone"):
        found(dataset, derivatives={"m": tmp_path / "gone"})


def test_preprocessed_images_replace_the_raw_ones(dataset, masks):
    dataset.image("sub-01/dwi/sub-01_acq-a_dwi", bvals=None)
    dataset.image("sub-01/dwi/sub-01_acq-b_dwi")
    dataset.write("dwi.json", '{"From": "raw"}')
    image = masks.image("sub-01/dwi/sub-01_acq-a_desc-preproc_dwi")
    masks.write("dwi.json", '{"From": "derivative"}')
    discovery = found(dataset, derivatives={"p": masks.root})
    first, second = discovery.runs
    assert (first.name, first.preprocessed, first.parts[0].image) == ("sub-01_acq-a", True, image)
    assert first.parts[0].bval == image.with_name("sub-01_acq-a_desc-preproc_dwi.bval")
    assert first.metadata == {"From": "derivative"}
    assert (second.name, second.preprocessed, second.metadata) == ("sub-01_acq-b", False, {"From": "raw"})


def test_a_preprocessed_image_of_several_raw_runs_is_one_run_in_its_space(dataset, masks):
    for run in ("1", "2"):
        dataset.image(f"sub-01/ses-1/dwi/sub-01_ses-1_run-{run}_dwi")
    masks.image("sub-01/ses-1/dwi/sub-01_ses-1_space-ACPC_desc-preproc_dwi")
    masks.image("sub-01/ses-1/dwi/sub-01_ses-1_desc-brain_mask", bvals=None)
    mask = masks.image("sub-01/ses-1/dwi/sub-01_ses-1_space-ACPC_desc-brain_mask", bvals=None)
    (run,) = found(dataset, derivatives={"qsiprep": masks.root}).runs
    assert (run.name, run.mask) == ("sub-01_ses-1_space-ACPC", mask)


def test_tables_of_a_raw_image_do_not_matter_where_a_preprocessed_one_stands_in(dataset, masks):
    dataset.image("sub-01/dwi/sub-01_acq-a_run-1_dwi", bvals=None)
    for extension in ("bval", "bvec"):
        dataset.write(f"sub-01/dwi/sub-01_acq-a_dwi.{extension}", "0")
        dataset.write(f"sub-01/dwi/sub-01_run-1_dwi.{extension}", "0")
    assert list(problems(found(dataset))) == ["sub-01_acq-a_run-1"]
    dataset.write("sub-01/dwi/sub-01_dwi.json", '{"BodyPart": "LEG"}')
    masks.image("sub-01/dwi/sub-01_acq-a_run-1_desc-preproc_dwi")
    discovery = found(dataset, derivatives={"p": masks.root})
    assert discovery.problems == ()
    assert discovery.runs[0].metadata == {"BodyPart": "LEG"}


def test_preprocessed_images_of_no_raw_run_are_named(dataset, masks):
    for session in ("1", "2"):
        masks.image(f"sub-01/ses-{session}/dwi/sub-01_ses-{session}_desc-preproc_dwi")
    dataset.write("sub-01/ses-1/dwi/notes.txt")
    with pytest.raises(NoRunsError, match="give their dataset as BIDS_DIR"):
        found(dataset, derivatives={"p": masks.root})
    dataset.image("sub-01/ses-1/dwi/sub-01_ses-1_run-1_dwi")
    discovery = found(dataset, derivatives={"p": masks.root})
    assert names(discovery) == ["sub-01_ses-1"]
    assert [("ses-2" in warning and "is not used" in warning) for warning in discovery.warnings[:1]] == [True]
    assert not any("is not used" in text for text in found(
        dataset, derivatives={"p": masks.root}, session_id=("1",)
    ).warnings)  # fmt: skip
    raw = dataset.image("sub-01/ses-2/dwi/sub-01_ses-2_run-1_dwi")
    assert found(dataset, derivatives={"p": masks.root}, run_label=("2", "1")).problems == ()
    assert raw.exists()


def test_images_of_a_derivative_given_as_the_dataset(masks):
    image = masks.image("sub-01/dwi/sub-01_space-T1w_desc-preproc_dwi")
    masks.image("sub-01/dwi/sub-01_space-T1w_desc-denoised_dwi")
    mask = masks.image("sub-01/dwi/sub-01_space-T1w_desc-brain_mask", bvals=None)
    for derivatives, expected in (({}, None), ({"p": masks.root}, mask)):
        discovery = found(masks, derivatives=derivatives)
        (run,) = discovery.runs
        assert (run.name, run.preprocessed, run.mask) == ("sub-01_space-T1w", True, expected)
        assert run.parts[0].image == image
        assert [name for name, _ in discovery.skipped] == [
            "sub-01_space-T1w_desc-denoised_dwi.nii.gz"
        ]  # fmt: skip


# pybids database


def test_a_database_serves_later_calls_for_other_participants(study, tmp_path):
    database = tmp_path / "db"
    first = found(study, bids_database_dir=database, participant_label=("2",))
    assert (database / "layout_index.sqlite").exists()
    assert len(first.runs) == 5
    image = study.image("sub-10/ses-a/dwi/sub-10_ses-a_acq-new_dwi")
    assert len(found(study, bids_database_dir=database, participant_label=("10",)).runs) == 4
    image.unlink()
    first.runs[0].parts[0].image.unlink()
    stale = found(study, bids_database_dir=database)
    assert list(problems(stale)) == [first.runs[0].name]


def test_a_database_without_all_participants_stays_as_another_program_made_it(study, tmp_path):
    database = tmp_path / "db" / "layout_index.sqlite"
    BIDSLayout(study.root, validate=False, database_path=database.parent)
    study.image("sub-new/dwi/sub-new_dwi")
    before = database.read_bytes()
    discovery = found(study, bids_database_dir=database.parent, participant_label=("new",))
    assert [run.name for run in discovery.runs] == ["sub-new"]
    assert any("lacks participants" in text for text in discovery.warnings)
    assert database.read_bytes() == before


def test_databases_of_others_or_broken_ones_are_refused(study, tmp_path):
    other = Dataset(tmp_path / "other")
    other.image("sub-2/dwi/sub-2_dwi")
    database = tmp_path / "db"
    found(other, bids_database_dir=database)
    with pytest.raises(UsageError, match="not of"):
        found(study, bids_database_dir=database)
    (database / "layout_index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match="database"):
        found(study, bids_database_dir=database)
    with pytest.raises(OutputError, match="database"):
        found(study, bids_database_dir=study.root / "dataset_description.json" / "db")


# dry run


def test_the_table_of_a_dry_run(dataset):
    dataset.image("sub-01/ses-1/dwi/sub-01_ses-1_dwi", bvals=(0, 0, 10, 50, 500))
    dataset.image("sub-02/dwi/sub-02_dwi", bvals=None)
    dataset.image("sub-02/dwi/sub-02_part-phase_dwi")
    dataset.write("sub-03/dwi/sub-03_dwi.nii.gz", "rubbish")
    dataset.write("sub-03/dwi/sub-03_dwi.bval", "0 1 2 3")
    rows = {row.name: row for row in describe(found(dataset))}
    first = rows["sub-01_ses-1"]
    assert (first.shape, first.volumes, first.bvals) == ("3 x 3 x 2", "5", "0x2 10x1 50x1 500x1")
    assert first.outputs == "sub-01/ses-1/dwi/sub-01_ses-1"
    assert first.note == ""
    assert "no .bval" in rows["sub-02"].note and rows["sub-02"].volumes == "5"
    assert "cannot be read" in rows["sub-03"].note
    assert "part-phase" in rows["sub-02_part-phase_dwi.nii.gz"].note


# real data


@pytest.mark.parametrize(
    ("name", "derivative", "runs", "combined"), [("ivim-abdomen", "rois", 6, 0), ("ivim-cord", "seg", 3, 1)]
)
def test_real_datasets(name, derivative, runs, combined):
    root = real_dataset(name)
    if not root.exists():
        pytest.skip(f"{name} is not here")
    assert check_dataset(root, skip=False) == []
    plain = discover(root, SelectionSettings(), InputSettings())
    assert len(plain.runs) == runs and not any(run.mask for run in plain.runs)
    assert plain.warnings == plain.skipped == plain.problems == ()
    inputs = InputSettings(derivatives={derivative: root / "derivatives" / derivative})
    masked = discover(root, SelectionSettings(), inputs)
    assert all(run.mask.name.startswith(f"sub-{run.subject}_desc-") for run in masked.runs)
    together = discover(root, SelectionSettings(combine="acquisition"), inputs)
    assert [len(run.parts) for run in together.runs] == [runs] * combined
    assert all(run.mask for run in together.runs)
    # Those of the abdomen have another diffusion time each.
    assert all("DiffusionTimeMs 70 in" in str(error) for _, error in together.problems)
    assert len(together.problems) == (3 if combined == 0 else 0)
    metadata = [run.metadata for run in (*together.runs, *(run for run, _ in together.problems))]
    assert json.dumps(metadata[0]) == json.dumps(plain.runs[0].metadata)
