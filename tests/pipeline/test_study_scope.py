"""``--training-scope study`` through ``main``: one network for the runs of a dataset, shared by calls."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from app_runs import BVALS, TINY_TRAINING, App, add_run, body, dataset, files, leave_out_figures, values

from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.study import groups
from sicnn_app.pipeline.study import training as training_module
from sicnn_app.settings import Settings
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn import study as study_module
from sicnn_app.system.locks.folders import MADE_FILE
from sicnn_app.system.locks.shared import locked_folder

STUDY = (*TINY_TRAINING, "--training-scope", "study")
LABELS = ("f", "d", "dstar", "s0")


@pytest.fixture
def app(capsys):
    return App(capsys)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No figures, a handful of optimiser steps, no long waits."""
    leave_out_figures(monkeypatch)
    monkeypatch.setattr(iterate, "MIN_EPOCHS", 4)
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 4)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 3)
    monkeypatch.setattr(training_module, "POLL", 0.1)


@pytest.fixture
def trained(monkeypatch) -> list[list[str]]:
    """The runs of every study network that is trained."""
    calls = []
    original = study_module.train_study

    def train_study(cases, *args, **options):
        calls.append(sorted(cases))
        return original(cases, *args, **options)

    monkeypatch.setattr(study_module, "train_study", train_study)
    return calls


def test_fingerprints_of_twice_as_many_runs_take_twice_the_work(monkeypatch):
    looks, name = [], DwiRun.name.fget
    monkeypatch.setattr(DwiRun, "name", property(lambda run: looks.append(run) or name(run)))
    monkeypatch.setattr(groups, "fingerprint_all", lambda _, runs: {run.name: "of it alone" for run in runs})

    def work(number: int) -> int:
        runs = tuple(DwiRun({"sub": str(label)}, ()) for label in range(number))
        study = groups.Study((groups.StudyGroup((0.0, 1.0), runs, Settings(Path("bids"), Path("out"))),))
        looks.clear()
        found = study.fingerprints(Settings(Path("bids"), Path("out")), runs)
        assert len(found) == number and len(set(found.values())) == 1
        assert {study.own_fingerprint(name, found[name]) for name in found} == {"of it alone"}
        return len(looks)

    assert work(400) <= 2.5 * work(200)


def stem(name: str) -> str:
    return f"{name.split('_')[0]}/dwi/{name}"


def maps(out: Path, name: str) -> bytes:
    return b"".join(values(out, stem(name), label).tobytes() for label in LABELS)


def parameters(out: Path, name: str) -> dict:
    sidecar = json.loads((out / f"{stem(name)}_model-ivim_param-f_dwimap.json").read_text())
    return sidecar["Model"]["Parameters"]


def networks(work: Path) -> list[Path]:
    return sorted(work.glob("study-*.pt"))


def test_two_participants_share_a_network_and_say_so(app, tmp_path, trained):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    call = app(made, out, *STUDY)
    assert call.code == 0, call.text
    assert trained == [["sub-01", "sub-02"]]
    assert "one network for 2 runs with b = 0, 20, 50, 100, 200, 400, 800 s/mm^2" in call.out
    for name in ("sub-01", "sub-02"):
        used = parameters(out, name)
        assert used["training_scope"] == "study"
        assert used["study_runs"] == 2
        assert used["study_run_names"] == ["sub-01", "sub-02"]
        assert used["study_epochs"] >= 4
        assert used["study_loss"] > 0
    assert "first on the images of 2 runs of the study together" in (out / "sub-01.html").read_text()
    assert not (out / ".work").exists()
    assert app(made, tmp_path / "alone", *TINY_TRAINING).code == 0
    assert maps(tmp_path / "alone", "sub-01") != maps(out, "sub-01")


@pytest.mark.parametrize("method", ["di-cnn", "cnn"])
def test_the_other_networks_have_a_study_too(app, tmp_path, trained, method):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert app(made, out, *STUDY, "--method", method, "--participant-label", "01").code == 0
    assert trained == [["sub-01", "sub-02"]]
    assert parameters(out, "sub-01")["training_scope"] == "study"


def test_a_call_per_participant_gives_the_maps_of_one_call_and_trains_once(app, tmp_path, trained):
    made, work, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "work", tmp_path / "out"
    assert app(made, tmp_path / "both", *STUDY).code == 0
    for name, left in (("01", 1), ("02", 0)):
        assert app(made, out, *STUDY, "-w", work, "--participant-label", name).code == 0
        assert len(networks(work)) == left
        assert maps(out, f"sub-{name}") == maps(tmp_path / "both", f"sub-{name}")
    assert len(trained) == 2
    assert not work.exists()


def test_the_work_directory_keeps_the_network_for_another_output_until_it_is_cleaned(app, tmp_path, trained):
    made, work = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "work"
    for out in ("a", "b"):
        call = app(made, tmp_path / out, *STUDY, "-w", work, "--participant-label", "01")
        assert call.code == 0
    assert "taken from" in call.out and len(trained) == 1
    assert maps(tmp_path / "a", "sub-01") == maps(tmp_path / "b", "sub-01")
    assert app(made, tmp_path / "a", *TINY_TRAINING, "-w", work, "--clean-workdir", "--overwrite").code == 0
    assert not work.exists()


@pytest.mark.parametrize("content", [b"", None])
def test_a_damaged_network_is_trained_anew(app, tmp_path, trained, content):
    made, work = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "work"
    assert app(made, tmp_path / "a", *STUDY, "-w", work, "--participant-label", "01").code == 0
    (path,) = networks(work)
    path.write_bytes(path.read_bytes()[:-9] + b"something" if content is None else content)
    assert app(made, tmp_path / "b", *STUDY, "-w", work, "--participant-label", "01").code == 0
    assert len(trained) == 2
    assert maps(tmp_path / "a", "sub-01") == maps(tmp_path / "b", "sub-01")


def test_finished_runs_are_skipped_and_another_participant_is_another_study(app, tmp_path, trained):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert app(made, out, *STUDY).code == 0
    call = app(made, out, *STUDY, "--participant-label", "02")
    assert (call.code, len(trained)) == (0, 1)
    assert "sub-02: skipped" in call.out
    add_run(made, "sub-03", data=body(seed=9))
    before = files(out)
    call = app(made, out, *STUDY, "--participant-label", "01")
    assert call.code == 64
    assert "other source files" in call.err
    assert files(out) == before
    call = app(made, out, *STUDY, "--participant-label", "01", "--overwrite")
    assert call.code == 0
    assert parameters(out, "sub-01")["study_runs"] == 3


def test_runs_with_other_b_values_have_a_network_of_their_own(app, tmp_path, trained):
    other = tuple(b + 10 * (b > 100) for b in BVALS)
    jittered = (*BVALS[:-1], BVALS[-1] + 3)
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    add_run(made, "sub-03", data=body(bvals=other, seed=3), bvals=other)
    add_run(made, "sub-04", data=body(bvals=jittered, seed=4), bvals=jittered)
    call = app(made, out, *STUDY)
    assert call.code == 0, call.text
    assert trained == [["sub-01", "sub-02", "sub-04"]]
    assert "no other run has the b-values of sub-03" in call.out
    assert parameters(out, "sub-03")["training_scope"] == "subject"
    assert parameters(out, "sub-03")["BValuesUsed"][-1] == 810
    assert app(made, tmp_path / "alone", *TINY_TRAINING, "--participant-label", "03").code == 0
    assert maps(tmp_path / "alone", "sub-03") == maps(out, "sub-03")


def test_runs_that_cannot_be_loaded_are_left_out_with_a_warning(app, tmp_path, trained):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    add_run(made, "sub-03", data=np.zeros((6, 6, 2, len(BVALS)), dtype=np.float32))
    add_run(made, "sub-04").write_bytes(b"no image")
    lost = body(seed=5)
    lost[..., -1] = np.nan
    add_run(made, "sub-05", data=lost)
    call = app(made, out, *STUDY)
    assert call.code == 1
    assert trained == [["sub-01", "sub-02"]]
    for name in ("sub-03", "sub-04", "sub-05"):
        assert f"warning: study network: trained without {name}" in call.err
    assert parameters(out, "sub-01")["study_run_names"] == ["sub-01", "sub-02"]
    assert parameters(out, "sub-05")["training_scope"] == "subject"
    assert "its b-values are not those of the study network" in call.err
    assert not (out / ".work").exists()


def test_one_usable_run_is_trained_alone(app, tmp_path, trained):
    made, out = dataset(tmp_path / "bids", "sub-01"), tmp_path / "out"
    add_run(made, "sub-02", data=np.zeros((6, 6, 2, len(BVALS)), dtype=np.float32))
    call = app(made, out, *STUDY)
    assert call.code == 1
    assert trained == []
    assert "fewer than two runs could be loaded" in call.err
    assert parameters(out, "sub-01")["training_scope"] == "subject"


def test_a_call_waits_for_another_that_trains_the_network(app, tmp_path, trained, monkeypatch):
    made, work = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "work"
    assert app(made, tmp_path / "a", *STUDY, "-w", work, "--participant-label", "01").code == 0
    (path,) = networks(work)
    network = path.read_bytes()
    path.unlink()
    with ExitStack() as held:
        held.enter_context(locked_folder(path.with_suffix("")))

        def trained_elsewhere(_: float) -> None:
            path.write_bytes(network)
            held.close()

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=trained_elsewhere)
        monkeypatch.setattr(training_module, "time", clock)
        call = app(made, tmp_path / "b", *STUDY, "-w", work, "--participant-label", "01")
    assert call.code == 0, call.text
    assert "waiting until another process has trained it" in call.out
    assert len(trained) == 1
    assert maps(tmp_path / "a", "sub-01") == maps(tmp_path / "b", "sub-01")


@pytest.mark.parametrize("change", ["mode", "pipe"])
def test_a_network_that_others_may_have_written_is_not_used_and_stays(app, tmp_path, trained, change):
    made, work = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "work"
    call = (made, tmp_path / "out", *STUDY, "-w", work, "--participant-label")
    assert app(*call, "01").code == 0
    (path,) = networks(work)
    if change == "mode":
        path.chmod(0o660)
    else:
        path.unlink()
        os.mkfifo(path)
    before = path.lstat()
    again = app(*call, "02")
    assert again.code == 0, again.text
    assert again.err.count(f"{path}: not used (") == 1
    assert len(trained) == 2
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_mtime_ns,
    )


def test_a_call_that_is_stopped_goes_on_to_the_same_maps(app, tmp_path, monkeypatch):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert app(made, tmp_path / "whole", *STUDY).code == 0
    original, epochs = study_module._train_epoch, []

    def train_epoch(*arguments):
        epochs.append(1)
        if len(epochs) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(study_module, "_train_epoch", train_epoch)
    assert app(made, out, *STUDY).code == 75
    assert {path.name for path in (out / ".work").glob("study-*/*")} == {"training.pt", MADE_FILE}
    call = app(made, out, *STUDY)
    assert call.code == 0, call.text
    assert "study network: resumed after 2 epochs" in call.out
    for name in ("sub-01", "sub-02"):
        assert maps(out, name) == maps(tmp_path / "whole", name)
    assert not (out / ".work").exists()


def test_a_network_that_cannot_be_trained_fails_every_run_and_is_tried_once(app, tmp_path, monkeypatch):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    calls = []

    def train_epoch(*_):
        calls.append(1)
        raise MemoryError

    monkeypatch.setattr(study_module, "_train_epoch", train_epoch)
    call = app(made, out, *STUDY)
    assert call.code == 75
    assert len(calls) == 1
    assert call.err.count("--training-scope subject") >= 2
    assert not (out / ".work").exists()


def test_a_network_that_cannot_be_saved_is_a_warning(app, tmp_path, trained, monkeypatch):
    def write_network(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training_module, "write_network", write_network)
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    call = app(made, out, *STUDY)
    assert call.code == 0
    assert "the study network cannot be saved (No space left on device)" in call.err
    assert trained == [["sub-01", "sub-02"]]
    assert parameters(out, "sub-02")["training_scope"] == "study"


def test_what_would_be_shared_is_part_of_the_dry_run(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    call = app(made, tmp_path / "out", *STUDY, "--dry-run", "--participant-label", "01")
    assert call.code == 0
    assert "one network for 2 runs" in call.out
    assert not (tmp_path / "out").exists()


def test_least_squares_has_no_study(app, tmp_path):
    call = app(dataset(tmp_path / "bids"), tmp_path / "out", *STUDY, "--method", "lsq")
    assert call.code == 64
    assert "contradicts --method lsq" in call.err
