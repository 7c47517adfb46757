"""Files that are replaced while the app works on them never count as those they replaced."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import BVALS, TINY_TRAINING, App, add_mask, add_run, body, dataset, leave_out_figures
from bids_datasets import Dataset

from sicnn_app.bids import load
from sicnn_app.pipeline import one_run as processing
from sicnn_app.pipeline import planned

STEM = "sub-01/dwi/sub-01"
CHANGED = "were changed while it was processed: repeat this command"


@pytest.fixture
def app(capsys, monkeypatch) -> App:
    leave_out_figures(monkeypatch)
    return App(capsys)


@pytest.fixture
def made(tmp_path) -> Dataset:
    """A dataset with every kind of input: image, tables, and beside it a mask and a file for ``--bvals``."""
    made = dataset(tmp_path / "bids")
    directions = np.random.default_rng(0).normal(size=(3, len(BVALS)))
    np.savetxt(made.root / f"{STEM}_dwi.bvec", directions)
    add_mask(tmp_path / "masks", "sub-01", np.ones((12, 10, 2)))
    (tmp_path / "bvals.txt").write_text(" ".join(map(str, BVALS)))
    return made


def new_image(root: Path) -> None:
    add_run(Dataset(root / "bids"), "sub-01", data=body(seed=5))


def new_bytes_behind_the_image(root: Path) -> None:
    with (root / f"bids/{STEM}_dwi.nii.gz").open("ab") as stream:
        stream.write(b"\0" * 512)


def new_bvals(root: Path) -> None:
    (root / f"bids/{STEM}_dwi.bval").write_text(" ".join(map(str, (*BVALS[:-1], 700.0))))


def new_bvecs(root: Path) -> None:
    np.savetxt(root / f"bids/{STEM}_dwi.bvec", np.ones((3, len(BVALS))))


def new_mask(root: Path) -> None:
    mask = np.ones((12, 10, 2), np.uint8)
    mask[:6] = 0
    nib.save(
        nib.Nifti1Image(mask, np.diag([2.0, 2.0, 4.0, 1.0])), root / f"masks/{STEM}_desc-body_mask.nii.gz"
    )


def no_bvecs(root: Path) -> None:
    (root / f"bids/{STEM}_dwi.bvec").write_text("none")


CHANGES = [new_image, new_bytes_behind_the_image, new_bvals, new_bvecs, no_bvecs, new_mask]


def when_loading(monkeypatch, change: Callable[[Path], None], root: Path) -> None:
    """Change a file after the fingerprint was made and before it is read."""
    loading = processing.load_run

    def changed(*words, **named):
        change(root)
        return loading(*words, **named)

    monkeypatch.setattr(processing, "load_run", changed)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_replaced_before_it_was_read_is_75(app, made, tmp_path, monkeypatch, change):
    out, masks = tmp_path / "out", tmp_path / "masks"
    with monkeypatch.context() as patch:
        when_loading(patch, change, tmp_path)
        call = app.quick(made, out, "-d", masks)
    assert call.code == 75, call.text
    assert f"sub-01_dwi.nii.gz, its tables or its mask {CHANGED}" in call.err
    assert not list(out.rglob("*.nii.gz"))
    call = app.quick(made, out, "-d", masks)
    assert call.code == 0, call.text
    assert "1 written" in call.out
    assert "1 skipped" in app.quick(made, out, "-d", masks).out


def test_the_file_of_bvals_counts_too(app, made, tmp_path, monkeypatch):
    (made.root / f"{STEM}_dwi.bval").unlink()
    table = tmp_path / "bvals.txt"
    when_loading(monkeypatch, lambda _: table.write_text(" ".join(map(str, (*BVALS[:-1], 700)))), tmp_path)
    call = app.quick(made, tmp_path / "out", "--bvals", table)
    assert call.code == 75, call.text


def test_a_file_that_is_replaced_between_two_looks_at_it(app, made, tmp_path, monkeypatch):
    counting = load.require_voxels

    def changed(path, image):
        said = counting(path, image)
        new_image(tmp_path)
        return said

    monkeypatch.setattr(load, "require_voxels", changed)
    assert app.quick(made, tmp_path / "out").code == 75


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_image_that_becomes_shorter_between_two_looks(app, made, tmp_path, monkeypatch, ending):
    path = made.root / f"{STEM}_dwi.nii.gz"
    image = made.root / f"{STEM}_dwi{ending}"
    image.write_bytes(path.read_bytes() if ending == ".nii.gz" else gzip.decompress(path.read_bytes()))
    if ending == ".nii":
        path.unlink()
    counting = load.require_voxels

    def cut(path, opened):
        said = counting(path, opened)
        path.write_bytes(path.read_bytes()[:1000])
        return said

    monkeypatch.setattr(load, "require_voxels", cut)
    assert app.quick(made, tmp_path / "out").code == 65


def test_a_new_time_or_place_of_the_same_bytes_is_no_change(app, made, tmp_path, monkeypatch):
    path = made.root / f"{STEM}_dwi.nii.gz"

    def copy(_: Path) -> None:
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)

    when_loading(monkeypatch, copy, tmp_path)
    assert app.quick(made, tmp_path / "out").code == 0


def test_a_run_of_a_study_counts_for_the_others(app, tmp_path, monkeypatch):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    when_loading(monkeypatch, new_image, tmp_path)
    call = app(made, tmp_path / "out", *TINY_TRAINING, "--training-scope", "study")
    assert call.code == 75, call.text
    assert not list((tmp_path / "out").rglob("*dwimap.nii.gz"))


def test_what_was_read_needs_no_other_look(app, made, tmp_path, monkeypatch):
    """Each file is hashed once for the fingerprint, and then in reading it."""
    hashed: list[Path | None] = []
    hashing = planned.hash_file
    monkeypatch.setattr(planned, "hash_file", lambda path: hashed.append(path) or hashing(path))
    assert app.quick(made, tmp_path / "out", "-d", tmp_path / "masks").code == 0
    files = [path for path in hashed if path is not None]
    assert len(files) == len(set(files)) == 4
