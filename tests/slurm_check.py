"""The array on a real Slurm: six participants, one task stopped at its limit, one killed, all queued again.

    python tests/slurm_check.py > docs/hpc-checks.md

writes what was measured as a page; tests/hpc/test_slurm.py holds the same numbers against what is promised.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local_slurm import local_slurm, missing, version

ROOT = Path(__file__).resolve().parents[1]
SUBMIT = ROOT / "hpc" / "submit"
SCRIPT = ROOT / "hpc" / "slurm_array.sh"

PARTICIPANTS = 6
SHAPE = ("40", "32", "3")
LONGEST = 900.0
"""Seconds that anything here may take."""

STOPPED, KILLED = "01", "06"
"""Participants whose tasks are disturbed; the second one is in the second array."""

ARRAY = 4
"""Tasks of one array at most, so that six participants need two."""


PAGE = """\
# Slurm, checked

    python tests/slurm_check.py > docs/hpc-checks.md

makes this page. It sets up a Slurm of one node ({version}; `tests/local_slurm.py`) and submits {participants}
simulated participants with `hpc/submit --cpus-per-task 1 --at-once 2 --group`. Slurm takes at most {array}
tasks per array here, so they become two arrays. HOME is not set. One task gets, in the middle of its
training, the signal that Slurm sends before a time limit (`scancel --signal=USR1 --batch`). The app of
another one gets SIGKILL, as by a kernel that is short of memory, and the task then `scontrol requeue`. The
images are compared byte by byte with those of one local call with `--omp-nthreads 1`.

| participant | what was done | restarts | epochs done when it resumed | state | identical images |
|---|---|---|---|---|---|
{rows}

Images that the local call did not write: {others}. Participants in the table of the level `group`, which was
submitted with the arrays: {grouped}. `hpc/submit` called again says: {left}. The local call took
{local:.0f} s, Slurm with two tasks at a time {slurm:.0f} s, on two cores that other jobs may have used too.
Slurm's delay of two minutes before a task that was queued again starts is cut to fifteen seconds.
"""


@dataclass(frozen=True)
class Task:
    """What became of one task.

    Attributes
    ----------
    participant : str
    restarts : int
        How often Slurm started it again.
    state : str
        At the end, in Slurm's words.
    resumed : int or None
        Epochs that were done when its training continued from a checkpoint; None: it never did.
    identical : int
        Images of the output that are those of the local run to the last bit.
    images : int
        Images that the local run wrote.
    """

    participant: str
    restarts: int
    state: str
    resumed: int | None
    identical: int
    images: int


@dataclass(frozen=True)
class Outcome:
    """What became of all.

    Attributes
    ----------
    tasks : list of Task
    others : int
        Images in the output that the local run did not write.
    grouped : int
        Participants in the table of the level group, which was submitted with the arrays.
    left : str
        What the helper says when it is called again.
    local_seconds, slurm_seconds : float
    """

    tasks: list[Task]
    others: int
    grouped: int
    left: str
    local_seconds: float
    slurm_seconds: float


class Cluster:
    """A Slurm and the commands to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def call(self, *words: str | Path) -> str:
        """What a command says; raises with its words when it fails."""
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=self.environment)
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def field(self, job: str, name: str) -> str:
        """One field of what ``scontrol show job`` tells."""
        return re.search(rf"\b{name}=(\S*)", self.call("scontrol", "show", "job", job))[1]

    def stop(self, job: str) -> None:
        """Send a task what Slurm sends near its time limit.

        It may be queued again before ``scancel`` has its answer, which then reports an error.
        """
        words = ["scancel", "--signal=USR1", "--batch", job]
        subprocess.run(words, capture_output=True, env=self.environment, check=False)

    def restart_now(self, job: str) -> None:
        """Start a task that is queued again after fifteen seconds instead of Slurm's two minutes.

        Without any delay the node may still refuse it, as a job that was already killed.
        """
        wait_until(lambda: self.field(job, "Restarts") != "0", f"{job} to be queued again")
        wait_until(lambda: self.field(job, "JobState") == "PENDING", f"{job} to wait")
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+15")
        wait_until(lambda: self.field(job, "JobState") != "PENDING", f"{job} to start again")

    def wait_for_all(self) -> None:
        wait_until(lambda: not self.call("squeue", "--noheader").strip(), "all jobs to end")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something; raises TimeoutError when it takes too long."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {LONGEST:.0f} s for {what}")
        time.sleep(0.1)


def environment() -> dict[str, str]:
    """Variables with which the app of this checkout runs, and no HOME, as batch systems may have none."""
    changed = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    changed.pop("HOME", None)
    return changed


def make_program(folder: Path) -> Path:
    """A command that runs the app of this checkout."""
    path = folder / "sicnn-app"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sicnn_app "$@"\n')
    path.chmod(0o755)
    return path


def images(out: Path) -> dict[str, str]:
    """Hash of every image of an output, by its path in it."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.nii.gz"))
    }


def disturb(cluster: Cluster, out: Path, arrays: list[str]) -> None:
    """Stop one task as Slurm does before its time limit and kill another, both while they train."""

    def checkpoint(participant: str) -> bool:
        return any(out.glob(f".work/run-sub-{participant}-*/training.pt"))

    stopped = f"{arrays[0]}_{int(STOPPED)}"
    wait_until(lambda: checkpoint(STOPPED), "the first checkpoint")
    cluster.stop(stopped)
    cluster.restart_now(stopped)
    killed = f"{arrays[1]}_{int(KILLED) - ARRAY}"
    wait_until(lambda: checkpoint(KILLED), "the checkpoint of the task to kill")
    # Its lock tells its number. ``scancel --signal=KILL`` would send SIGTERM first.
    (lock,) = out.glob(f".work/run-sub-{KILLED}-*/lock")
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: cluster.field(killed, "JobState") == "FAILED", "the killed task to end")
    cluster.call("scontrol", "requeue", killed)
    cluster.restart_now(killed)


def check_array(folder: Path) -> Outcome:
    """Run the check in an empty folder.

    Raises
    ------
    RuntimeError, TimeoutError
        Something that is not the app's result went wrong.
    """
    program, bids, logs = make_program(folder), folder / "bids", folder / "slurm"
    local, out = folder / "local", folder / "out"
    simulate = [sys.executable, "-m", "sicnn_app.cli.simulate", bids, "--preset", "abdomen"]
    simulate += ["--subjects", PARTICIPANTS, "--shape", *SHAPE]
    single = [program, bids, local, "participant", "--omp-nthreads", "1", "--device", "cpu"]
    started = time.monotonic()
    for command in (simulate, single):
        subprocess.run(list(map(str, command)), check=True, env=environment(), stdout=sys.stderr)
    local_seconds = time.monotonic() - started
    with local_slurm(max_array_size=ARRAY + 1) as found:
        cluster = Cluster({**environment(), **found, "PYTHONPATH": str(ROOT)})
        cluster.environment.pop("HOME", None)
        started = time.monotonic()
        words = [SUBMIT, bids, out, "--program", program, "--log-dir", logs]
        submitted = cluster.call(*words, "--cpus-per-task", "1", "--mem", "2G", "--at-once", "2", "--group")
        arrays = re.findall(r"^job (\d+)$", submitted, re.MULTILINE)[:-1]
        disturb(cluster, out, arrays)
        cluster.wait_for_all()
        slurm_seconds = time.monotonic() - started
        expected, made = images(local), images(out)
        tasks = []
        for index in range(PARTICIPANTS):
            name = f"{index + 1:02d}"
            job = f"{arrays[index // ARRAY]}_{index % ARRAY + 1}"
            said = (logs / f"{job}.log").read_text()
            resumed = re.search(r"resumed after (\d+) epochs", said)
            own = {path: digest for path, digest in expected.items() if path.startswith(f"sub-{name}/")}
            tasks.append(
                Task(
                    name,
                    int(cluster.field(job, "Restarts")),
                    cluster.field(job, "JobState"),
                    int(resumed[1]) if resumed else None,
                    sum(made.get(path) == digest for path, digest in own.items()),
                    len(own),
                )
            )
        left = cluster.call(*words, "--dry-run").strip()
    grouped = len((out / "group_ivim.tsv").read_text().splitlines()) - 1
    return Outcome(tasks, len(set(made) - set(expected)), grouped, left, local_seconds, slurm_seconds)


def page(outcome: Outcome) -> str:
    """The outcome in Markdown."""
    disturbed = {STOPPED: "stopped near its time limit", KILLED: "killed, then requeued"}
    rows = [
        f"| {task.participant} | {disturbed.get(task.participant, '')} | {task.restarts} | "
        f"{'' if task.resumed is None else task.resumed} | {task.state} | {task.identical} of {task.images} |"
        for task in outcome.tasks
    ]
    return PAGE.format(
        version=version(),
        participants=PARTICIPANTS,
        array=ARRAY,
        rows="\n".join(rows),
        others=outcome.others,
        grouped=outcome.grouped,
        left=outcome.left,
        local=outcome.local_seconds,
        slurm=outcome.slurm_seconds,
    )


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(f"no Slurm here: {reason}")
    with tempfile.TemporaryDirectory() as name:
        print(page(check_array(Path(name))), end="")
