"""Several processes in one output directory."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from app_processes import NO_FIGURES, TOGETHER, finish, remains, run, started, wait_until
from app_runs import BVALS, QUICK, add_run, body, dataset
from validator import validator_errors

PROCESSES = 8

HELD = """
import time
from pathlib import Path
from sicnn_app.lsq import estimate as module
original = module.estimate
def estimate(*arguments, **options):
    Path({go!r} + "-waiting").touch()
    while not Path({go!r}).exists():
        time.sleep(0.01)
    return original(*arguments, **options)
module.estimate = estimate
"""
"""Prelude: the estimation waits for a file."""


def together(made, out: Path, choices: list[tuple[str, ...]], prelude: str) -> list:
    """Calls with other options each, let go at the same moment."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(made.root, out, "participant", *QUICK, *options, prelude=prelude))
            for options in choices
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.communicate()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [finish(process) for process in processes]


def check_round(tmp_path: Path, prelude: str) -> None:
    names = [f"sub-{number:02d}" for number in range(1, PROCESSES + 1)]
    made, out = dataset(tmp_path / "bids", *names), tmp_path / "out"
    calls = together(made, out, [("--participant-label", name) for name in names], prelude)
    assert [call.code for call in calls] == [0] * PROCESSES, [call.text for call in calls]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": made.root.as_uri()}
    logs = [path.read_text() for path in (out / "logs").iterdir()]
    assert len(logs) == PROCESSES
    for name in names:
        (log,) = (text for text in logs if f"{name}: written" in text)
        assert f"report: {out / f'{name}.html'}" in log
        assert "runs: 1 written, 0 skipped, 0 failed" in log
        assert (out / f"{name}.html").exists()
    assert remains(out) == []
    assert validator_errors(out) == set()


def test_eight_processes_on_eight_participants_share_an_output(tmp_path):
    check_round(tmp_path, TOGETHER + NO_FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_eight_processes_that_draw_again_and_again(tmp_path, round_):
    check_round(tmp_path, TOGETHER)


def test_of_two_processes_on_one_participant_one_says_who_has_it(tmp_path):
    made, out, go = dataset(tmp_path / "bids"), tmp_path / "out", tmp_path / "go"
    arguments = (made.root, out, "participant", *QUICK)
    with started(*arguments, prelude=HELD.format(go=str(go)) + NO_FIGURES) as first:
        wait_until((tmp_path / "go-waiting").exists, first)
        with started(*arguments) as second:
            refused = finish(second)
        assert refused.code == 75
        (line,) = re.findall(r".*held by another process.*", refused.err)
        assert f"host {os.uname().nodename}, pid {first.pid}, since 20" in line
        assert first.poll() is None
        go.touch()
        done = finish(first)
    assert done.code == 0, done.text
    assert remains(out) == []


@pytest.mark.slow
def test_processes_on_runs_of_one_session_leave_one_report_of_all(tmp_path):
    names = [f"sub-01_run-{number}" for number in (1, 2, 3)]
    made, out = dataset(tmp_path / "bids", *names), tmp_path / "out"
    calls = together(made, out, [("--run-label", str(number)) for number in (1, 2, 3)], TOGETHER + NO_FIGURES)
    assert [call.code for call in calls] == [0, 0, 0], [call.text for call in calls]
    page = (out / "sub-01.html").read_text()
    assert all(f'id="run-{name}"' in page for name in names)
    assert remains(out) == []


@pytest.mark.slow
def test_a_suspended_process_that_lost_its_run_writes_nothing(tmp_path):
    made, out, go = dataset(tmp_path / "bids"), tmp_path / "out", tmp_path / "go"
    arguments = (made.root, out, "participant", *QUICK)
    with started(*arguments, prelude=HELD.format(go=str(go)) + NO_FIGURES) as first:
        wait_until((tmp_path / "go-waiting").exists, first)
        first.send_signal(signal.SIGSTOP)
        (lock,) = out.glob(".work/run-sub-01-*/lock")
        os.utime(lock, (0, 0))
        with started(*arguments, prelude=NO_FIGURES) as second:
            taken = finish(second)
        assert taken.code == 0, taken.text
        assert f"pid {first.pid}" in taken.err
        written = {path: path.stat().st_mtime_ns for path in out.rglob("*_dwimap.*")}
        go.touch()
        first.send_signal(signal.SIGCONT)
        late = finish(first)
    assert late.code == 75
    assert "suspended" in late.err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*_dwimap.*")} == written
    assert remains(out) == []


@pytest.mark.slow
def test_other_settings_at_the_same_time_do_not_mix(tmp_path):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    add_run(made, "sub-02", data=body(), bvals=BVALS)
    calls = together(
        made, out, [("--max-bval", "1000"), ("--max-bval", "500")], TOGETHER + NO_FIGURES
    )  # fmt: skip
    # Who comes second finds a run in work (75), or finished with other settings (64), or both (1).
    assert {call.code for call in calls} <= {0, 1, 64, 75}
    for name in ("sub-01", "sub-02"):
        folder = out / name / "dwi"
        written = {
            json.loads(path.read_text())["Model"]["Parameters"]["BValuesUsed"][-1]
            for path in folder.glob("*_dwimap.json")
        }
        assert len(written) == 1, written
    assert remains(out) == []


@pytest.mark.slow
def test_processes_that_gather_one_group_write_the_same_and_leave_nothing(tmp_path):
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    assert run(made.root, out, "participant", *QUICK, prelude=NO_FIGURES).code == 0
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(made.root, out, "group", prelude=TOGETHER)) for _ in range(3)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.communicate()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        calls = [finish(process) for process in processes]
    assert [call.code for call in calls] == [0, 0, 0], [call.text for call in calls]
    assert sorted("0 of them unchanged" in call.out for call in calls) == [False, False, True]
    assert remains(out) == []
    assert validator_errors(out) == set()
