"""The array on a real Slurm of one node, which tests/local_slurm.py sets up."""

from __future__ import annotations

import pytest
from local_slurm import local_slurm, missing
from slurm_check import KILLED, PARTICIPANTS, SCRIPT, STOPPED, Cluster, check_array

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=f"no Slurm here: {missing()}"),
]

NEVER_DONE = """#!/usr/bin/env bash
trap 'echo checkpoint; exit 75' TERM
sleep 600 & wait
"""


def test_tasks_that_are_stopped_or_killed_end_with_the_maps_of_a_local_run(tmp_path):
    outcome = check_array(tmp_path)
    assert [task.state for task in outcome.tasks] == ["COMPLETED"] * PARTICIPANTS, outcome
    assert all(task.identical == task.images > 0 for task in outcome.tasks), outcome
    assert outcome.others == 0
    restarted = {task.participant: task for task in outcome.tasks if task.restarts}
    assert set(restarted) == {STOPPED, KILLED}
    assert all(task.resumed > 0 for task in restarted.values())
    assert outcome.grouped == PARTICIPANTS
    assert outcome.left == "nothing is left to process"


def test_at_its_time_limit_a_task_goes_back_into_the_queue(tmp_path):
    program, listed, log = tmp_path / "app", tmp_path / "list.txt", tmp_path / "log"
    program.write_text(NEVER_DONE)
    program.chmod(0o755)
    listed.write_text("01\n")
    with local_slurm() as found:
        cluster = Cluster(found)
        limits = ("--time=1", "--signal=B:USR1@50", "--mem=100M", f"--output={log}")
        job = cluster.call(
            "sbatch", "--parsable", "--array=1", *limits, SCRIPT,
            "--program", program, listed, tmp_path, tmp_path / "out",
        ).strip()  # fmt: skip
        cluster.restart_now(f"{job}_1")
        cluster.call("scancel", job)
        cluster.wait_for_all()
    assert "checkpoint\ntime limit: the task goes back into the queue" in log.read_text()
