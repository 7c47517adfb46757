"""Benchmarks of scaling: what processes cost, and the arithmetic of the estimate."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.common.processes import measured
from benchmarks.scaling import estimate as scaling_estimate

WORK = """
import subprocess, sys, time
held = bytearray(100_000_000)
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
started = time.process_time()
while time.process_time() - started < 0.4:
    pass
time.sleep(0.5)
"""


def test_the_cost_of_a_process_holds_that_of_its_children():
    alone, both = (measured([sys.executable, "-c", WORK, *more]) for more in ((), (WORK,)))
    assert 0.3 < alone.cpu < both.cpu
    assert alone.cpu + 0.3 < both.cpu
    assert 0.1 < alone.memory < 0.2 < both.memory


def test_a_process_that_fails_has_no_cost():
    with pytest.raises(subprocess.CalledProcessError):
        measured([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_estimate_multiplies_what_one_participant_takes(tmp_path, monkeypatch):
    (tmp_path / "index.csv").write_text(
        "participants,call,selected,wall time (s),CPU time (s),peak memory (GB)\n"
        "1000,discovery,10,1,1,0.1\n"
        "1000,discovery,all,4,3,0.1\n"
        "11000,discovery,all,40,33,0.2\n"
    )
    (tmp_path / "participants.csv").write_text(
        "participants,at a time,wall time (s),CPU time (s),peak memory (GB),speed,input (MB),output files,"
        "output (MB),images\n"
        "20,1,800,720,1,1,200,1060,100,the same\n"
        "20,2,500,760,2,1.6,200,1060,100,the same\n"
    )
    monkeypatch.setattr(scaling_estimate, "hash_rate", lambda: 100.0)
    found = {line[0]: line[2:] for line in scaling_estimate.estimate(tmp_path)}
    assert found == {
        "finding the runs, CPU": ["0.003 s", "0.05 min", "5 min"],
        "finding the runs, memory": ["10 kB", "0.01 GB", "1 GB"],
        "SHA-256 of the input": ["0.1 s", "1.67 min", "167 min"],
        "processing, CPU": ["36 s", "10 h", "1,000 h"],
        "a process of its own, CPU": ["2 s", "0.556 h", "55.6 h"],
        "all, 2 at a time": ["25 s", "6.94 h", "694 h"],
        "output files": ["53 files", "53,000 files", "5,300,000 files"],
        "output size": ["5 MB", "5 GB", "500 GB"],
    }
