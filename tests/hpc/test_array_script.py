"""What a task of the array does, without Slurm: its variables are set here, its programs are stand-ins."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from app_processes import TIMEOUT, wait_until
from app_runs import ROOT

SCRIPT = ROOT / "hpc" / "slurm_array.sh"

STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "${0##*/}" "$@" >> {said}
"""

APP = (
    STAND_IN
    + """
trap 'echo stopped >&2; exit ${STOPPED:-75}' TERM
touch {started}
{action}
"""
)

HELD = """
tries=$(cat {tries} 2>/dev/null || echo 0)
echo $((tries + 1)) > {tries}
[ "$tries" -ge {until} ] || { echo "sicnn-app: lock: held by another process (host a)" >&2; exit {code}; }
"""

WAITING = "sleep 600 & wait"


class Task:
    """A task whose programs write down their arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bids").mkdir()
        (folder / "list.txt").write_text("01\n02 pre\n10\n")
        self.add("scontrol", STAND_IN)
        self.add("apptainer", APP, action="echo GPU $APPTAINERENV_CUDA_VISIBLE_DEVICES")

    def add(self, name: str, text: str, **values: object) -> None:
        """Put a program where the script finds it."""
        values |= {key: self.folder / key for key in ("said", "started", "tries")}
        for key, value in values.items():
            text = text.replace(f"{{{key}}}", str(value))
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, action: str = "true", number: int = 1, **variables: str) -> None:
        """Start the script on a line of the list; ``action`` is what the app does."""
        self.add("sicnn-app", APP, action=action)
        given = arguments or (
            str(self.folder / "list.txt"),
            str(self.folder / "bids"),
            str(self.folder / "out"),
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        environment |= {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "70",
            "SLURM_ARRAY_JOB_ID": "68",
            "SLURM_ARRAY_TASK_ID": str(number),
            "SICNN_APP_RETRY_SECONDS": "0.05",
            **variables,
        }
        self.process = subprocess.Popen(
            [str(SCRIPT), *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the script alone, as Slurm does, once the app is at work."""
        wait_until((self.folder / "started").exists)
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.out, self.err = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode

    def run(self, *arguments: str, **options: str | int) -> int:
        self.start(*arguments, **options)
        return self.end()

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of the programs, the name of each first."""
        calls: list[list[str]] = []
        for word in (self.folder / "said").read_text().splitlines():
            if word in ("sicnn-app", "scontrol", "apptainer"):
                calls.append([])
            calls[-1].append(word)
        return calls


@pytest.fixture
def task(tmp_path) -> Task:
    return Task(tmp_path)


def test_a_task_processes_its_line(task):
    assert task.run(number=3) == 0, task.err
    (call,) = task.calls
    assert call[:6] == [
        "sicnn-app", str(task.folder / "bids"), str(task.folder / "out"), "participant",
        "--participant-label", "10",
    ]  # fmt: skip
    assert "--session-id" not in call


def test_a_line_may_name_a_session(task):
    assert task.run(number=2) == 0, task.err
    (call,) = task.calls
    assert call[4:8] == ["--participant-label", "02", "--session-id", "pre"]


def test_an_array_may_begin_further_down_in_the_list(task):
    given = [str(task.folder / name) for name in ("list.txt", "bids", "out")]
    assert task.run("--offset", "2", *given, number=1) == 0, task.err
    assert task.calls[0][4:6] == ["--participant-label", "10"]


def test_a_line_that_is_not_there_is_said(task):
    assert task.run(number=4) == 66
    assert "has no line 4" in task.err


def test_the_app_takes_what_slurm_gave_and_flags_come_after_it(task):
    given = [str(task.folder / name) for name in ("list.txt", "bids", "out")]
    variables = {"SLURM_CPUS_PER_TASK": "3", "SLURM_MEM_PER_NODE": "4000", "SLURM_JOB_GPUS": "0"}
    assert task.run(*given, "--omp-nthreads", "1", **variables) == 0, task.err
    (call,) = task.calls
    # 4000 * 2^20 bytes, a tenth less.
    assert call[6:] == ["--omp-nthreads", "3", "--mem", "3.77", "--device", "cuda", "--omp-nthreads", "1"]


def test_memory_per_cpu_counts_times_the_cpus(task):
    assert task.run(SLURM_MEM_PER_CPU="1000", SLURM_CPUS_ON_NODE="4") == 0, task.err
    assert task.calls[0][6:] == ["--omp-nthreads", "1", "--mem", "3.77", "--device", "cpu"]


def test_a_container_sees_the_dataset_read_only_under_its_own_path(task):
    given = [str(task.folder / name) for name in ("list.txt", "bids", "out")]
    masks = str(task.folder / "masks")
    gpus = {"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert task.run("--image", "app.sif", "--bind", masks, *given, **gpus) == 0, task.err
    assert task.out == "GPU 0,1\n"
    (call,) = task.calls
    bids, out = str(task.folder / "bids"), str(task.folder / "out")
    assert call[:10] == [
        "apptainer", "run", "--cleanenv", "--nv",
        "-B", f"{bids}:{bids}:ro", "-B", f"{out}:{out}", "-B", f"{masks}:{masks}:ro",
    ]  # fmt: skip
    assert call[10:14] == ["app.sif", bids, out, "participant"]


def test_the_level_group_needs_no_list(task):
    given = [str(task.folder / name) for name in ("bids", "out")]
    assert task.run("--group", *given) == 0, task.err
    assert task.calls[0][1:4] == [*given, "group"]


def test_near_the_time_limit_the_app_is_stopped_and_the_task_queued_again(task):
    task.start(action=WAITING)
    task.send(signal.SIGUSR1)
    assert task.end() == 75
    assert task.calls[1] == ["scontrol", "requeue", "68_1"]
    assert "stopped" in task.err


def test_a_cancelled_task_is_stopped_and_not_queued_again(task):
    task.start(action=WAITING)
    task.send(signal.SIGTERM)
    assert task.end() == 75
    assert [call[0] for call in task.calls] == ["sicnn-app"]


def test_a_task_that_never_gets_on_is_not_queued_for_ever(task):
    task.start(action=WAITING, SLURM_RESTART_COUNT="20")
    task.send(signal.SIGUSR1)
    assert task.end() == 75
    assert [call[0] for call in task.calls] == ["sicnn-app"]
    assert "ask for more time" in task.err


def test_an_app_that_finishes_in_spite_of_the_time_limit_is_done(task):
    task.start(action=WAITING, STOPPED="0")
    task.send(signal.SIGUSR1)
    assert task.end() == 0
    assert [call[0] for call in task.calls] == ["sicnn-app"]


# A participant with other runs that are finished ends with 1 instead of 75.
@pytest.mark.parametrize("code", [75, 1])
def test_a_lock_of_a_job_that_was_killed_elsewhere_is_waited_for(task, code):
    task.start(action=HELD.replace("{until}", "3").replace("{code}", str(code)))
    assert task.end() == 0, task.err
    assert [call[0] for call in task.calls] == ["sicnn-app"] * 4
    assert "held by another process" in task.err


def test_a_lock_of_a_living_job_is_not_waited_for_for_ever(task):
    task.start(action=HELD.replace("{until}", "99").replace("{code}", "75"), SICNN_APP_RETRY_SECONDS="0")
    assert task.end() == 75
    assert len(task.calls) == 13


@pytest.mark.parametrize("code", [1, 65, 70])
def test_other_failures_are_passed_on_at_once(task, code):
    assert task.run(action=f"echo broken >&2; exit {code}") == code
    assert len(task.calls) == 1
    assert task.err == "broken\n"


def test_a_signal_while_a_lock_is_waited_for_ends_the_waiting(task):
    task.start(action=HELD.replace("{until}", "99").replace("{code}", "75"), SICNN_APP_RETRY_SECONDS="60")
    assert task.process.stdout.readline().startswith("tries again in 60 s")
    task.send(signal.SIGUSR1)
    assert task.end() == 75
    assert task.calls[-1] == ["scontrol", "requeue", "68_1"]


def test_the_script_knows_what_the_app_says_of_a_lock():
    phrase = re.search(r'grep -q "(.+?)" "\$said"', SCRIPT.read_text())[1]
    # tests/test_errors_page.py holds that page against the messages in the code.
    assert f"`…: {phrase}" in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
