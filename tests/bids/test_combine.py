"""Images that are joined to one run: what their sidecars and headers have to agree in."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from bids_datasets import AFFINE, Dataset

from sicnn_app.bids.discover import discover
from sicnn_app.bids.load import load_run
from sicnn_app.settings import InputSettings, SelectionSettings

STEM = "sub-01/dwi/sub-01_run-{}_dwi"


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(tmp_path / "ds")


def combined(dataset: Dataset, *sidecars: dict | None):
    for number, content in enumerate(sidecars, start=1):
        dataset.image(STEM.format(number))
        if content is not None:
            dataset.write(f"{STEM.format(number)}.json", json.dumps(content))
    return discover(dataset.root, SelectionSettings(combine="run"), InputSettings())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("EchoTime", (0.055, 0.085)),
        ("EchoTime", (0.06, 0.062)),
        ("RepetitionTime", (2, 3)),
        ("PhaseEncodingDirection", ("j", "j-")),
        ("PhaseEncodingDirection", ("i", "j")),
        ("BigDelta", (0.03, 0.06)),
        ("SmallDelta", (0.01, 0.02)),
        ("DiffusionTimeMs", (70, 100)),
        ("EchoTime", (0.055, None, 0.085)),
    ],
)
def test_other_acquisitions_are_refused_with_files_and_values(dataset, key, values):
    found = combined(dataset, *(None if value is None else {key: value} for value in values))
    ((run, error),) = found.problems
    assert (run.name, error.exit_code, found.runs) == ("sub-01", 65, ())
    last = len(values)
    assert f"{key} {values[0]} in sub-01_run-1_dwi.nii.gz, {values[-1]} in sub-01_run-{last}_" in str(error)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("EchoTime", (0.055, 0.055)),
        ("EchoTime", (0.0551, 0.055)),
        ("EchoTime", (0.055, None)),
        ("EchoTime", (None, "of Jane", 0.05, 0, True)),
        ("RepetitionTime", (6, 9.5)),
        ("RepetitionTime", (3.1, 3.3)),
        ("PhaseEncodingDirection", ("j", None)),
        ("PhaseEncodingDirection", ("j-", "Jane")),
        ("SeriesNumber", (3, 4)),
    ],
)
def test_what_agrees_or_is_not_stated_is_joined(dataset, key, values):
    found = combined(dataset, *({} if value is None else {key: value} for value in values))
    assert [len(run.parts) for run in found.runs] == [len(values)] and not found.problems


def test_images_that_stay_apart_may_differ(dataset):
    combined(dataset, {"EchoTime": 0.055}, {"EchoTime": 0.085})
    assert len(discover(dataset.root, SelectionSettings(), InputSettings()).runs) == 2


def load_two(dataset: Dataset, affine: np.ndarray, *, stated: bool = True):
    dataset.image(STEM.format(1))
    path = dataset.image(STEM.format(2), affine=affine)
    if not stated:
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        image.header.set_sform(None, code=0)
        image.header.set_qform(None, code=0)
        nib.save(nib.Nifti1Image(data, None, image.header), path)
    (run,) = discover(dataset.root, SelectionSettings(combine="run"), InputSettings()).runs
    return load_run(run, bvals_file=None)


def test_every_volume_knows_its_image(dataset):
    loaded = load_two(dataset, AFFINE)
    assert loaded.image_of_volume.tolist() == [0] * 5 + [1] * 5


def test_a_position_that_is_rounded_or_not_stated_is_the_same(dataset):
    rounded = AFFINE.copy()
    rounded[:3, 3] += 0.01
    assert not any("position" in text for text in load_two(dataset, rounded).warnings)
    unstated = load_two(dataset, AFFINE, stated=False)
    assert any("run-2_dwi.nii.gz states no position" in text for text in unstated.warnings)
