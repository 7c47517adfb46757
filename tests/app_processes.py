"""The app in processes of its own that are watched, stopped and killed while they work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app_runs import Call, environment

from sicnn_app.derivatives.written import RECORDS

RUNNER = """
import sys
{prelude}
from sicnn_app.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

NO_FIGURES = """
from sicnn_app.report import before_after, html
from sicnn_app.report.pictures import RunPictures
html.draw_run = lambda run: RunPictures()
before_after.draw_steps = lambda result: {}
"""
"""Prelude: drawing takes most of the time and has tests of its own."""

TOGETHER = """
import scipy.ndimage, scipy.optimize, torch
from sicnn_app.pipeline import one_run as processing
from sicnn_app.pipeline import dispatch as workflow
from sicnn_app.report import html
print("ready", flush=True)
sys.stdin.readline()
"""
"""Prelude: everything is imported, then the process waits for a line."""

SHORT = {"FIRST_PERIOD_STEPS": 64, "PERIOD_STEPS": 32}
"""Optimiser steps where the app takes hundreds; the same in the processes and in that of the tests."""

SLOWLY = f"""
import time
from sicnn_app.derivatives import atomic
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.train import Trainer
for name, value in {SHORT!r}.items():
    setattr(iterate, name, value)
def slow(function, seconds):
    def slowly(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return slowly
Trainer.train_epoch = slow(Trainer.train_epoch, 0.03)
atomic.StagedFiles.add_bytes = slow(atomic.StagedFiles.add_bytes, 0.02)
atomic._rename = slow(atomic._rename, 0.01)
"""
"""Prelude: steps between which a test looks and kills."""

TIMEOUT = 540.0
"""Seconds after which what is waited for will not come: many times what it takes, less than a test may."""


@contextmanager
def started(*argv: str | Path, prelude: str = "") -> Iterator[subprocess.Popen]:
    """A process that runs the app; it is killed at the end if it still lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(prelude=prelude), *map(str, argv)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen) -> Call:
    """Wait for the end."""
    out, err = process.communicate(timeout=TIMEOUT)
    return Call(process.returncode, out, err)


def run(*argv: str | Path, prelude: str = "") -> Call:
    """Run the app to its end."""
    with started(*argv, prelude=prelude) as process:
        return finish(process)


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Wait for something that the process, or a thread, does; an error when the process ends without."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process: subprocess.Popen) -> None:
    """Kill it so that it cannot clean up."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def derivatives(out: Path) -> dict[str, bytes]:
    """Content of every file that the same call must write again byte by byte."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] not in ("logs", ".work", RECORDS)
    }


def results(out: Path) -> dict[str, bytes]:
    """Maps, masks, series and their sidecars; quality tables tell of memory, which differs."""
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.glob("sub-*/dwi/*")
        if "_qc." not in path.name
    }
    assert len(found) > 10
    return found


def remains(out: Path) -> list[str]:
    """What lies in the output that is not meant to: whatever is hidden but ``.bidsignore`` and the record."""
    return sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.name.startswith(".") and path.name not in (".bidsignore", RECORDS)
    )


TRAINING = """
import json, re, sys
from pathlib import Path
import numpy as np
import torch
from sicnn_app.settings import EstimationSettings, NetworkSettings, Threshold
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.estimate import estimate

def kilobytes(key):
    return int(re.search(rf"^{key}:\\s+(\\d+)", Path("/proc/self/status").read_text(), re.M)[1])

iterate.FIRST_PERIOD_STEPS = iterate.PERIOD_STEPS = 1
iterate.MIN_EPOCHS = 2
iterate.MAX_FIRST_PERIODS = iterate.MAX_PERIODS = 1
torch.set_num_threads(1)
shape, count, options = json.loads(sys.argv[1])
options["network"] = NetworkSettings(**options.get("network", {}))
bvals = np.linspace(0, 800, count)
signals = np.empty((*shape, count), np.float32)
rng = np.random.default_rng(0)
for index, b in enumerate(bvals):
    noise = rng.standard_normal(tuple(shape), dtype=np.float32)
    signals[..., index] = 500 * np.exp(-b * 0.001) + 20 * noise
before = kilobytes("VmRSS")
estimate(
    np.abs(signals, out=signals), np.ones(shape, bool), bvals, noise=np.full(count, 20.0),
    settings=EstimationSettings(max_iterations=1, lambda_=Threshold(0.0, "absolute"), **options),
)
print(1024 * (kilobytes("VmHWM") - before))
"""
"""A short training on noisy signals; prints by how many bytes its memory grew at most."""


def peak_of_training(shape: tuple[int, int, int], count: int, **options: Any) -> int:
    """Bytes that a training of ``count`` b-values takes at most, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, json.dumps([shape, count, options])],
        check=True,
        capture_output=True,
        text=True,
        # How many arenas threads open, and what lies idle in them, depends on what else the machine does.
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    return int(done.stdout)
