"""What the official validator and pybids make of an output dataset."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bids.layout import BIDSLayout, Query
from factories import make_result
from validator import validator_errors

from sicnn_app.derivatives.dataset import prepare_output, pybids_config_path
from sicnn_app.derivatives.qc import MOTION_COLUMNS
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.parameters import MAPS

COMBINATIONS = [
    {"sub": "01"},
    {"sub": "02", "ses": "1"},
    {"sub": "02", "ses": "2"},
    {"sub": "03", "acq": "T70"},
    {"sub": "03", "acq": "T100", "dir": "AP", "run": "01", "part": "mag"},
    {"sub": "03", "acq": "T100", "dir": "PA", "run": "01", "part": "mag"},
    {"sub": "03", "rec": "norm", "run": "2", "space": "ACPC"},
    {"sub": "04", "ses": "pre", "part": "mag"},
    {"sub": "04", "ses": "pre", "run": "1"},
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output dataset with every combination of entities, and what reports put beside it."""
    tmp_path = tmp_path_factory.mktemp("tree")
    out = tmp_path / "bids" / "derivatives" / "sicnn"
    prepare_output(out, tmp_path / "bids", {}, citation="# How to cite\n")
    for index, entities in enumerate(COMBINATIONS):
        result = make_result(
            tmp_path,
            entities=entities,
            ensemble=index % 2 == 0,
            comparison=index % 3 != 1,
            anatomy=("body", "brain")[index % 2],
            with_bvecs=index % 3 != 0,
        )
        if index == 0:
            row = dict.fromkeys(MOTION_COLUMNS, 0.0)
            result = replace(result, motion=[row] * result.series.bvals.size, peak_memory=0.5)
        write_run(result, out, bids_dir=tmp_path / "bids", dataset_links={})
    for name in ("sub-01.html", "sub-02_ses-1.html", "group.html", "group_ivim.tsv", "group_ivim.json",
                 "sub-01/figures/f.svg", "logs/run.log"):  # fmt: skip
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("{}")
    return out


def test_official_validator_finds_no_error(tree: Path):
    assert validator_errors(tree) == set()


def test_official_validator_still_looks_at_what_bids_knows(tree: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    (copy / "sub-01" / "dwi" / "sub-01_desc-body_mask.json").write_text('{"SpatialReference": 1}')
    (copy / "sub-01" / "dwi" / "sub-01_desc-body_msk.nii.gz").touch()
    locations = {location for _, location in validator_errors(copy)}
    assert locations >= {
        "/sub-01/dwi/sub-01_desc-body_mask.json",
        "/sub-01/dwi/sub-01_desc-body_msk.nii.gz",
    }


@pytest.fixture(scope="module")
def layout(tree: Path) -> BIDSLayout:
    config = ["bids", "derivatives", str(pybids_config_path())]
    return BIDSLayout(tree, validate=False, config=config)


def test_pybids_finds_a_map_by_its_parameter(layout: BIDSLayout, tree: Path):
    found = layout.get(
        param="f", model="ivim", suffix="dwimap", extension=".nii.gz", desc=Query.NONE, return_type="file"
    )
    assert len(found) == len(COMBINATIONS)
    assert sorted(layout.get_params()) == sorted(spec.label for spec in MAPS)
    one = layout.get(
        subject="02", session="2", param="dstar", suffix="dwimap", extension=".nii.gz", return_type="file"
    )
    stem = "sub-02/ses-2/dwi/sub-02_ses-2_model-ivim_param-dstar"
    assert sorted(one) == [
        str(tree / f"{stem}_{ending}.nii.gz") for ending in ("desc-lsq_dwimap", "desc-std_dwimap", "dwimap")
    ]
    assert (
        layout.get(param="f", suffix="dwimap", extension=".nii.gz")[0].get_metadata()["Units"] == "arbitrary"
    )


def test_the_way_to_read_maps_in_the_readme_finds_the_maps_themselves(tree: Path, monkeypatch):
    monkeypatch.chdir(tree)
    snippet = re.search(r"```python\n(.*?)```", (tree / "README.md").read_text(), re.DOTALL)[1]
    *lines, last = snippet.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    found = {file.path for file in eval(last, names)}
    assert found == {str(path) for path in tree.rglob("*_param-f_dwimap.nii.gz")}
    assert len(found) == len(COMBINATIONS)


def test_pybids_tells_every_output_from_every_other(layout: BIDSLayout, tree: Path):
    outputs = [path for path in tree.glob("sub-*/**/dwi/*") if path.is_file()]
    assert len(outputs) > 20 * len(COMBINATIONS)
    entities = [layout.get_file(str(path)).get_entities() for path in outputs]
    assert len({tuple(sorted((key, str(value)) for key, value in own.items())) for own in entities}) == len(
        outputs
    )


def test_pybids_finds_every_output_of_a_run_by_its_entities(layout: BIDSLayout, tree: Path):
    names = ("acquisition", "reconstruction", "direction", "run", "part", "space", "model", "param", "desc")
    for path in (tree / "sub-02" / "ses-2" / "dwi").iterdir():
        own = layout.get_file(str(path)).get_entities()
        others = {name: Query.NONE for name in names if name not in own}
        assert layout.get(return_type="file", **own, **others) == [str(path)]


def test_pybids_builds_the_name_of_a_map(layout: BIDSLayout, tree: Path):
    entities = {"subject": "02", "session": "1", "model": "ivim", "param": "f", "suffix": "dwimap"}
    expected = tree / "sub-02" / "ses-1" / "dwi" / "sub-02_ses-1_model-ivim_param-f_dwimap.nii.gz"
    assert layout.build_path(entities, validate=False) == str(expected)
    assert expected.exists()
