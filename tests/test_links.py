"""Links out of a dataset: what they lead to is used and that is said, and no word of it gets anywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from app_runs import App, Call, add_mask, dataset, leave_out_figures
from bids_datasets import Dataset

from sicnn_app.bids.segmentations import Segmentations
from sicnn_app.errors import DataError

STEM = "sub-01/dwi/sub-01"
SECRET = "hunter2"
OUTSIDE = "lie outside of the datasets, behind links"


@pytest.fixture
def app(capsys, monkeypatch) -> App:
    leave_out_figures(monkeypatch)
    return App(capsys)


@pytest.fixture
def made(tmp_path) -> Dataset:
    return dataset(tmp_path / "bids")


def link(path: Path, target: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


def warned(call: Call) -> int:
    """Files that a call says to lie outside; 0 when it says nothing."""
    lines = [line for line in call.err.splitlines() if OUTSIDE in line]
    assert len(lines) <= 1
    return int(lines[0].removeprefix("warning: ").split()[0]) if lines else 0


def said_or_written(call: Call, out: Path) -> bytes:
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".gz"]
    return b"".join([call.text.encode(), *texts])


def test_no_word_of_a_private_sidecar_gets_anywhere(app, made, tmp_path):
    private = tmp_path / "private.json"
    private.write_text(json.dumps({"password": SECRET, "nested": {"a": [SECRET]}, "BodyPart": SECRET,
                                   "EchoTime": 0.07, "InstitutionName": SECRET}))  # fmt: skip
    link(made.root / f"{STEM}_dwi.json", private)
    out = tmp_path / "out"
    call = app.quick(made, out, "-vv")
    assert call.code == 0, call.text
    assert warned(call) == 1 and str(private) in call.err
    assert SECRET.encode() not in said_or_written(call, out)
    assert json.loads((out / f"{STEM}_desc-preproc_dwi.json").read_text())["EchoTime"] == 0.07


TEXTS = {
    "words": f"root:x:0 {SECRET}",
    "broken JSON": '{"a": "' + SECRET,
    "JSON": json.dumps({SECRET: SECRET}),
    "text before numbers": f"{SECRET} 0 10 20",
    "numbers before text": f"0 0 20 50 100 200 400 {SECRET}",
    "bytes": SECRET + "\udcff",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("ending", [".bval", ".bvec", ".json"])
def test_no_word_of_a_private_file_is_quoted(app, made, tmp_path, kind, ending):
    private = tmp_path / "private"
    private.write_text(TEXTS[kind], errors="surrogateescape")
    link(made.root / f"{STEM}_dwi{ending}", private)
    out = tmp_path / "out"
    call = app.quick(made, out, "-vv")
    assert call.code == (65 if ending == ".bval" else 0)
    assert warned(call) == (0 if ending == ".json" and kind != "JSON" else 1)
    assert SECRET.encode() not in said_or_written(call, out)


def test_no_word_of_the_file_of_bvals_is_quoted(app, made, tmp_path):
    (made.root / f"{STEM}_dwi.bval").unlink()
    private = tmp_path / "private"
    private.write_text(f"0 10\n20 {SECRET}")
    call = app.quick(made, tmp_path / "out", "--bvals", private)
    assert call.code == 65
    assert f"{private} holds no number in line 2, word 2" in call.err
    assert SECRET not in call.text


def test_a_dataset_behind_links_is_used(app, made, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    shutil.move(made.root / "sub-01", pool / "sub-01")
    (made.root / "sub-01").symlink_to(pool / "sub-01")
    call = app.quick(made, tmp_path / "out")
    assert call.code == 0 and warned(call) == 2
    (tmp_path / "link").symlink_to(made.root)
    (made.root / "sub-01").unlink()
    shutil.move(pool / "sub-01", made.root / "sub-01")
    call = app.quick(tmp_path / "link", tmp_path / "other")
    assert call.code == 0 and warned(call) == 0


def test_many_files_in_a_pool_are_one_warning(app, tmp_path):
    made = dataset(tmp_path / "bids", *(f"sub-{label}" for label in "abc"))
    pool = tmp_path / "pool"
    pool.mkdir()
    for path in list(made.root.rglob("sub-*_dwi.*")):
        shutil.move(path, pool / path.name)
        path.symlink_to(pool / path.name)
    assert warned(app.quick(made, tmp_path / "out", "--dry-run")) == 6


def test_links_between_datasets_that_are_named_leave_none(app, made, tmp_path):
    masks = add_mask(tmp_path / "masks", "sub-01", np.ones((12, 10, 2)))
    mask = masks / f"{STEM}_desc-body_mask.nii.gz"
    shutil.move(mask, made.root / "mask.nii.gz")
    mask.symlink_to(made.root / "mask.nii.gz")
    assert warned(app.quick(made, tmp_path / "out", "-d", masks, "--dry-run")) == 0
    shutil.move(made.root / "mask.nii.gz", tmp_path / "mask.nii.gz")
    link(mask, tmp_path / "mask.nii.gz")
    assert warned(app.quick(made, tmp_path / "out", "-d", masks, "--dry-run")) == 1


@pytest.mark.parametrize("repository", ["bids", "bids/..", "bids/sub-01", "elsewhere"])
@pytest.mark.parametrize("git", [".git", ".git/modules/bids"])
def test_annexed_content_is_part_of_its_dataset(app, made, tmp_path, repository, git):
    path = made.root / f"{STEM}_dwi.nii.gz"
    content = (tmp_path / repository).resolve() / git / "annex/objects/Xx/01/MD5E-s1--0/MD5E-s1--0.nii.gz"
    content.parent.mkdir(parents=True)
    shutil.move(path, content)
    path.symlink_to(os.path.relpath(content, path.parent))
    call = app.quick(made, tmp_path / "out", "--dry-run")
    assert call.code == 0 and warned(call) == (repository == "elsewhere")


def test_names_of_regions_are_not_taken_from_a_file_outside(tmp_path):
    rois = Dataset(tmp_path / "rois", kind="derivative")
    rois.image(f"{STEM}_desc-organs_dseg", data=np.ones((3, 3, 2), np.uint8), bvals=None)
    table = rois.write("desc-organs_dseg.tsv", "index\tname\n1\tliver\n")
    (segmentation,), warnings = Segmentations({"rois": rois.root}).of({"sub": "01"})
    assert segmentation.lookup == table and warnings == []
    table.rename(tmp_path / "patients.tsv")
    table.symlink_to(tmp_path / "patients.tsv")
    (segmentation,), warnings = Segmentations({"rois": rois.root}).of({"sub": "01"})
    assert segmentation.lookup is None
    assert warnings == [f"{table} is left out: it is a link out of its dataset; copy the table"]


def test_no_index_of_a_table_is_quoted(tmp_path):
    from sicnn_app.bids.label_names import read_lookup

    path = tmp_path / "dseg.tsv"
    path.write_text(f"index\tname\n1\tliver\n{SECRET}\tspleen\n")
    with pytest.raises(DataError, match="holds no index in line 3") as error:
        read_lookup(path)
    assert SECRET not in str(error.value)
