"""What it costs that threads spin or sleep while they wait for one another, on a quiet and on a busy machine.

    python -m benchmarks.waiting_threads --out docs/speed

An epoch of training, and a least-squares fit, with as many threads as there are cores, alone and beside as
many other busy processes. Each way runs in a process of its own, since OpenMP reads its policy once. Times
are relative to one thread under the same conditions. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.cells import comma_separated, markdown, provenance

BUSY = "x = 0\nwhile True:\n    x += 1\n"
"""A process that always wants a core."""

ROUNDS = 3


def seconds(work: str, threads: int) -> float:
    """Median time of one piece of work in this process; the first one, which warms up, does not count.

    Parameters
    ----------
    work : {'training', 'least squares'}
    threads : int
    """
    from benchmarks.epoch_variants import SCENARIO, VARIANTS, start
    from benchmarks.scenarios import measure
    from sicnn_app.lsq.estimate import estimate_lsq
    from sicnn_app.sicnn.box import Box, training_data

    torch.set_num_threads(threads)
    measured = measure(SCENARIO)
    if work == "training":
        data, _ = training_data(measured.signals, Box.around(measured.mask), measured.sigma)
        bvals = torch.tensor(measured.bvals, dtype=torch.float32)
        trainer = start(VARIANTS["4 tiles per step"], data, bvals, torch.device("cpu")).trainer

        def once() -> None:
            trainer.train_epoch(data, data.signals, data.signals)

    else:

        def once() -> None:
            estimate_lsq(measured.signals, measured.mask, measured.bvals)

    once()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        once()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many other processes that always want a core."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def apart(work: str, threads: int, policy: str) -> float:
    """:func:`seconds` in a process whose OpenMP waits by ``policy``."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(threads)}
    if not policy:
        del environment["OMP_WAIT_POLICY"]
    call = [sys.executable, "-m", "benchmarks.waiting_threads", "--once", work, "--threads", str(threads)]
    printed = subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the table; it is printed in any case")
    parser.add_argument("--once", choices=("training", "least squares"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.once:
        print(json.dumps(seconds(options.once, options.threads)))
        return
    rows = []
    for work in ("training", "least squares"):
        for others in (0, options.threads):
            with busy(others):
                alone = apart(work, 1, "PASSIVE")
                ratios = [apart(work, options.threads, policy) / alone for policy in ("", "PASSIVE")]
            rows.append([work, others, *(f"{ratio:.2f}" for ratio in ratios)])
    columns = ["work", "other busy processes", "spinning (the default of OpenMP)", "sleeping"]
    text = f"Made by {provenance('python -m benchmarks.waiting_threads --out docs/speed')}.\n\n"
    text += f"{options.threads} threads, time relative to one.\n\n" + markdown(columns, rows) + "\n"
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "waiting_threads.md").write_text(text, encoding="utf-8")
        (options.out / "waiting_threads.csv").write_text(comma_separated(columns, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
