"""Calls that are stopped or killed: nothing half-written, and the same call ends as if it never happened."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from app_processes import (
    NO_FIGURES,
    SHORT,
    SLOWLY,
    finish,
    kill,
    remains,
    results,
    started,
    wait_until,
)
from app_runs import TINY_TRAINING, TWO_ITERATIONS, App, dataset, leave_out_figures

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.train import Trainer
from sicnn_app.system.locks import shared
from sicnn_app.system.locks.folders import MADE_FILE

pytestmark = pytest.mark.usefixtures("signals_as_in_a_terminal")

NAMES = ("sub-01", "sub-02")

FIRST_TRAINING, BOTH_TRAININGS = 16, 26
"""Epochs of a run until a second data iteration begins, and until that ends."""


def resumed(out: str, name: str) -> bool:
    """True when a line says that the training of a run went on."""
    return re.search(rf"^{name}[^:\n]*: resumed after", out, re.MULTILINE) is not None


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    for name, value in SHORT.items():
        monkeypatch.setattr(iterate, name, value)
    leave_out_figures(monkeypatch)


@pytest.fixture
def app(capsys):
    return App(capsys)


@pytest.fixture
def made(tmp_path):
    return dataset(tmp_path / "bids", *NAMES)


def train(app: App, made, out: Path, *options: str):
    return app(made, out, *TINY_TRAINING, *TWO_ITERATIONS, *options)


def interrupt_at(monkeypatch, epoch: int, number: int) -> None:
    """Let the process get a signal in an epoch of the training, counted over all runs."""
    original, done = Trainer.train_epoch, []

    def train_epoch(*arguments, **options):
        done.append(1)
        if len(done) == epoch:
            signal.raise_signal(number)
        return original(*arguments, **options)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)


# stopped by a signal


@pytest.mark.parametrize("epoch", [1, FIRST_TRAINING, FIRST_TRAINING + 4])
def test_a_stopped_training_goes_on_to_the_same_maps(app, made, tmp_path, monkeypatch, epoch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert train(app, made, whole).code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, epoch, signal.SIGTERM)
        stopped = train(app, made, out)
    assert stopped.code == 75
    assert stopped.err.splitlines()[-1] == (
        "sicnn-app: stopped by SIGTERM: finished runs are kept, the same command goes on"
    )
    assert "Traceback" not in stopped.text
    if epoch > FIRST_TRAINING:
        assert {path.name for path in out.glob(".work/*/*")} == {"training.pt", MADE_FILE}
    assert not list(out.glob("sub-*"))
    again = train(app, made, out)
    assert again.code == 0, again.text
    assert resumed(again.out, "sub-01") == (epoch > FIRST_TRAINING)
    assert results(out) == results(whole)
    assert remains(out) == []


def test_a_stop_in_the_conventional_fit_does_not_lose_the_training(app, made, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert train(app, made, whole).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "sicnn_app.lsq.estimate.estimate_lsq", lambda *_, **__: signal.raise_signal(signal.SIGTERM)
        )
        assert train(app, made, out).code == 75
    again = train(app, made, out)
    assert again.code == 0 and resumed(again.out, "sub-01")
    assert results(out) == results(whole)
    assert any("desc-lsq" in name for name in results(out))


def test_a_stop_between_two_runs_keeps_the_first(app, made, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert train(app, made, whole, "--participant-label", "01").code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, BOTH_TRAININGS + FIRST_TRAINING + 4, signal.SIGTERM)
        assert train(app, made, out).code == 75
    assert results(out) == results(whole)
    assert (out / "sub-01.html").exists()
    again = train(app, made, out)
    assert again.code == 0
    assert "sub-01: skipped" in again.out
    assert resumed(again.out, "sub-02")
    assert remains(out) == []


def test_ctrl_c_is_130_and_goes_on_like_any_stop(app, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGINT)
        stopped = train(app, made, out)
    assert stopped.code == 130
    assert "Traceback" not in stopped.text
    assert resumed(train(app, made, out).out, "sub-01")
    assert remains(out) == []


def test_a_stopped_overwriting_goes_on(app, made, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert train(app, made, out, "--random-seed", "1").code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGTERM)
        assert train(app, made, out, "--overwrite").code == 75
    assert train(app, made, whole).code == 0
    assert resumed(train(app, made, out, "--overwrite").out, "sub-01")
    assert results(out) == results(whole)
    assert remains(out) == []


def test_a_checkpoint_of_other_settings_is_not_used(app, made, tmp_path, monkeypatch):
    options = ("--random-seed", "1")
    out, whole = tmp_path / "out", tmp_path / "whole"
    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGTERM)
        assert train(app, made, out).code == 75
    assert train(app, made, whole, *options).code == 0
    other = train(app, made, out, *options)
    assert other.code == 0
    assert "resumed" not in other.text
    assert results(out) == results(whole)
    assert remains(out) == []


def test_a_checkpoint_of_another_image_is_not_used(app, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGTERM)
        assert train(app, made, out).code == 75
    folder = made.root
    first, second = (folder / name / "dwi" / f"{name}_dwi.nii.gz" for name in NAMES)
    first.write_bytes(second.read_bytes())
    again = train(app, made, out)
    assert again.code == 0
    assert "resumed" not in again.text


def test_a_checkpoint_is_kept_by_cleaning_only_when_it_is_not_asked_for(app, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGTERM)
        assert train(app, made, out).code == 75
    assert train(app, made, out, "--participant-label", "02").code == 0
    assert list(out.glob(".work/run-sub-01-*/training.pt"))
    assert train(app, made, out, "--participant-label", "02", "--clean-workdir").code == 0
    assert remains(out) == []


@pytest.mark.parametrize("error", [OutputError("the disk is full"), TryAgainError("no memory")])
def test_an_error_that_may_pass_keeps_the_checkpoint(app, made, tmp_path, monkeypatch, error):
    out, whole = tmp_path / "out", tmp_path / "whole"

    def refused(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("sicnn_app.pipeline.one_run.write_run", refused)
        assert train(app, made, out).code == error.exit_code
    assert train(app, made, whole).code == 0
    again = train(app, made, out)
    assert again.code == 0
    assert resumed(again.out, "sub-01")
    assert results(out) == results(whole)
    assert remains(out) == []


def test_an_error_leaves_no_checkpoint(app, made, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise IndexError("a bug")

    monkeypatch.setattr("sicnn_app.pipeline.one_run.write_run", broken)
    assert train(app, made, tmp_path / "out").code == 70
    assert remains(tmp_path / "out") == []


def test_a_stop_that_a_destructor_swallows_comes_again(app, made, tmp_path, monkeypatch):
    """Python prints and forgets what is raised in a destructor."""
    original, done = Trainer.train_epoch, []

    class Destroyed:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def train_epoch(*arguments, **options):
        done.append(Destroyed() if len(done) == FIRST_TRAINING + 2 else None)
        if len(done) == FIRST_TRAINING + 4:
            done[FIRST_TRAINING + 2] = None
        if len(done) > FIRST_TRAINING + 4:
            time.sleep(0.05)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", train_epoch)
        stopped = train(app, made, tmp_path / "out")
    assert stopped.code == 75
    assert "Traceback" not in stopped.text
    assert "Exception ignored" not in stopped.text
    assert resumed(train(app, made, tmp_path / "out").out, "sub-01")


def test_a_second_sigterm_does_not_break_off_the_cleaning_up(app, made, tmp_path, monkeypatch):
    empty_folder, cleaned = shared.empty_folder, []

    def interrupted(*arguments, **options):
        if sys.exc_info()[0] is not None:
            cleaned.append(True)
            signal.raise_signal(signal.SIGTERM)
        return empty_folder(*arguments, **options)

    with monkeypatch.context() as patch:
        interrupt_at(patch, FIRST_TRAINING + 4, signal.SIGTERM)
        patch.setattr(shared, "empty_folder", interrupted)
        stopped = train(app, made, tmp_path / "out")
    assert cleaned and stopped.code == 75
    assert stopped.err.count("stopped by SIGTERM") == 1
    assert resumed(train(app, made, tmp_path / "out").out, "sub-01")


# killed


def arguments(made, out: Path) -> tuple:
    return (made.root, out, "participant", *TINY_TRAINING, *TWO_ITERATIONS)


def check_goes_on(app: App, made, out: Path, whole: Path):
    """The same call ends well and leaves what a call that was left alone leaves."""
    again = train(app, made, out)
    assert again.code == 0, again.text
    assert results(out) == results(whole)
    assert {path.name for path in out.glob("*.html")} == {f"{name}.html" for name in NAMES}
    assert remains(out) == []
    return again


MOMENTS = {
    "training": ".work/run-sub-01-*/training.pt",
    "preprocessing": ".work/run-sub-01-*/lock",
    "writing": ".work/write-*/*.nii.gz",
    "renaming": "sub-01/dwi/*dwimap*",
    "reporting": ".work/report-*/lock",
    "between runs": "sub-01.html",
    "second run": ".work/run-sub-02-*/training.pt",
}
"""What shows that a call has come so far."""


@pytest.mark.parametrize(
    "moment", [name if name == "training" else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS]
)
def test_after_a_kill_the_same_call_finishes_with_the_same_maps(app, made, tmp_path, moment):
    out, whole = tmp_path / "out", tmp_path / "whole"
    with started(*arguments(made, out), prelude=SLOWLY + NO_FIGURES) as process:
        wait_until(lambda: list(out.glob(MOMENTS[moment])), process)
        kill(process)
    assert (out / ".work").exists()
    assert train(app, made, whole).code == 0
    again = check_goes_on(app, made, out, whole)
    if moment == "training":
        assert resumed(again.out, "sub-01")
        assert f"pid {process.pid}" in again.err


COUNTED = """
def counted(function):
    def step(*arguments, **options):
        with open({steps!r}, "ab") as stream:
            stream.write(b".")
        return function(*arguments, **options)
    return step
Trainer.train_epoch = counted(Trainer.train_epoch)
atomic.StagedFiles.add_bytes = counted(atomic.StagedFiles.add_bytes)
atomic._rename = counted(atomic._rename)
"""
"""Prelude after SLOWLY: a file grows with every step."""


def at_random_steps(made, folder: Path, *, seed: int) -> Iterator[tuple[Path, subprocess.Popen]]:
    """Twelve calls that have just come to any step of training and writing, the very start among them."""
    steps, rng = folder / "steps", random.Random(seed)
    prelude = SLOWLY + COUNTED.format(steps=str(steps)) + NO_FIGURES
    with started(*arguments(made, folder / "undisturbed"), prelude=prelude) as process:
        assert finish(process).code == 0
    count = steps.stat().st_size
    for number in range(12):
        steps.write_bytes(b"")
        step, out = rng.randrange(count), folder / f"out{number}"
        with started(*arguments(made, out), prelude=prelude) as process:
            wait_until(lambda step=step: steps.stat().st_size >= step, process)
            yield out, process


@pytest.mark.slow
def test_random_kills_change_nothing(app, made, tmp_path):
    """More kills than the tests have tasted elsewhere: at any moment of start, work and end."""
    whole = tmp_path / "whole"
    assert train(app, made, whole).code == 0
    for out, process in at_random_steps(made, tmp_path, seed=7):
        kill(process)
        check_goes_on(app, made, out, whole)


@pytest.mark.slow
def test_kill_after_kill_the_work_gets_done(app, made, tmp_path):
    """A job that is killed shortly after every checkpoint still comes to its end."""
    out, whole, rng = tmp_path / "out", tmp_path / "whole", random.Random(3)
    assert train(app, made, whole).code == 0

    def checkpoints() -> dict[Path, int]:
        found = {}
        for path in out.glob(".work/run-*/training.pt"):
            with suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found

    for _ in range(40):
        before = checkpoints()
        with started(*arguments(made, out), prelude=SLOWLY + NO_FIGURES) as process:
            while process.poll() is None and not set(checkpoints().items()) - set(before.items()):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
            if process.poll() is None:
                kill(process)
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert results(out) == results(whole)
    assert remains(out) == []


@pytest.mark.slow
def test_sigterm_at_random_moments_is_75_and_leaves_only_checkpoints(app, made, tmp_path):
    whole = tmp_path / "whole"
    assert train(app, made, whole).code == 0
    for out, process in at_random_steps(made, tmp_path, seed=11):
        process.send_signal(signal.SIGTERM)
        call = finish(process)
        # Before the first line of the app, and after its last, nobody can hear the signal.
        outside = not out.exists() or "runs: 2 written, 0 skipped, 0 failed" in call.out
        assert call.code in (0, 75) or (call.code == -signal.SIGTERM and outside), call.text
        assert "Traceback" not in call.text
        assert "Exception ignored" not in call.text
        left = {Path(name).parts[-1] for name in remains(out)} | {path.name for path in out.glob(".work/*/*")}
        assert left <= {".work", "training.pt", MADE_FILE}, left
        check_goes_on(app, made, out, whole)
