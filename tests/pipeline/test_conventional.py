"""The conventional fit beside the network: that of --method lsq, and nothing that a map depends on."""

from __future__ import annotations

import json
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
from app_runs import QUICK, TINY_TRAINING, App, dataset, leave_out_figures, values

from sicnn_app.lsq import estimate as lsq_estimate
from sicnn_app.pipeline import one_run as processing

STEM = "sub-01/dwi/sub-01"
MAPS = ("f", "d", "dstar", "s0", "rmse")


@pytest.fixture
def app(capsys, monkeypatch):
    leave_out_figures(monkeypatch)
    return App(capsys)


def map_bytes(out) -> dict[str, bytes]:
    return {label: (out / f"{STEM}_model-ivim_param-{label}_dwimap.nii.gz").read_bytes() for label in MAPS}


def warnings(out) -> str:
    return " ".join(json.loads((out / f"{STEM}_desc-ivim_qc.json").read_text())["Warnings"])


def test_it_is_the_fit_of_the_other_method_and_changes_no_map(app, tmp_path, monkeypatch):
    bids = dataset(tmp_path / "bids")
    assert app(bids, tmp_path / "lsq", *QUICK).code == 0
    assert app(bids, tmp_path / "both", *TINY_TRAINING).code == 0
    for label in ("f", "d", "dstar", "s0"):
        beside = nib.load(tmp_path / "both" / f"{STEM}_model-ivim_param-{label}_desc-lsq_dwimap.nii.gz")
        np.testing.assert_array_equal(np.asarray(beside.dataobj), values(tmp_path / "lsq", STEM, label))
    assert not list((tmp_path / "lsq").rglob("*desc-lsq*"))
    monkeypatch.setattr(processing, "fit_conventionally", lambda *_args, **_options: (None, []))
    assert app(bids, tmp_path / "alone", *TINY_TRAINING).code == 0
    assert not list((tmp_path / "alone").rglob("*desc-lsq*"))
    assert map_bytes(tmp_path / "alone") == map_bytes(tmp_path / "both")


def no_memory(*_args, **_options):
    raise MemoryError


def no_device_memory(*_args, **_options):
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes")


@pytest.mark.parametrize(
    ("where", "name", "substitute", "reason"),
    [
        (lsq_estimate, "estimate_lsq", no_memory, "ran out of memory even with few voxels"),
        (lsq_estimate, "estimate", no_memory, "out of memory"),
        (lsq_estimate, "estimate", no_device_memory, "out of memory"),
        (processing, "remaining_memory", Mock(side_effect=(None, 0)), "allow more"),
    ],
)
def test_without_memory_for_it_the_maps_are_there_and_a_warning(
    app, tmp_path, monkeypatch, where, name, substitute, reason
):
    monkeypatch.setattr(where, name, substitute)
    out = tmp_path / "out"
    call = app(dataset(tmp_path / "bids"), out, *TINY_TRAINING)
    assert call.code == 0, call.text
    assert set(map_bytes(out)) == set(MAPS) and not list(out.rglob("*desc-lsq*"))
    for said in (call.err, warnings(out), (out / "sub-01.html").read_text()):
        assert "the maps are not compared with the conventional fit" in said and reason in said


def test_a_bug_in_it_is_not_taken_for_a_lack_of_memory(app, tmp_path, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(lsq_estimate, "estimate", broken)
    call = app(dataset(tmp_path / "bids"), tmp_path / "out", *TINY_TRAINING)
    assert call.code == 70 and "shape mismatch" in call.err


def test_a_dry_run_announces_its_maps(app, tmp_path):
    bids = dataset(tmp_path / "bids")
    assert "desc-lsq_dwimap.nii.gz" in app(bids, tmp_path / "out", "--dry-run", "-v").out
    assert "desc-lsq" not in app(bids, tmp_path / "out", "--dry-run", "-v", *QUICK).out
