"""What it costs how long threads spin while they wait for one another, on a quiet and on a busy machine.

    python -m benchmarks.speed.waiting_threads --out docs/speed

An epoch of training with 4 and with 16 tiles per step, with as many threads as there are cores, alone and
beside as many other busy processes. Each way runs in a process of its own, since OpenMP reads once how to
wait. Times are relative to one thread under the same conditions. Three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.common.cells import (
    WAITING,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.scenarios import measure
from benchmarks.speed.epoch_variants import SCENARIO, Variant, start
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.system.caches import SPINS

BUSY = "x = 0\nwhile True:\n    x += 1\n"
"""A process that always wants a core."""

ROUNDS = 5


WAYS: dict[str, dict[str, str]] = {
    "default of OpenMP": {},
    "as the app sets it": {"GOMP_SPINCOUNT": SPINS},
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
}
"""Environment variables of each way to wait."""


def seconds(tiles: int, threads: int) -> float:
    """Median time of an epoch in this process; the first one, which warms up, does not count."""
    torch.set_num_threads(threads)
    measured = measure(SCENARIO)
    data, _ = training_data(
        measured.signals, Box.around(measured.mask), measured.sigma, measured.sigma_per_bval
    )
    bvals = torch.tensor(measured.bvals, dtype=torch.float32)
    timed = start(Variant(batch_size=tiles, threads=threads), data, bvals, torch.device("cpu"))
    timed.epoch(data)
    return statistics.median(timed.epoch(data)[0] for _ in range(ROUNDS))


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


def apart(tiles: int, threads: int, variables: dict[str, str]) -> float:
    """:func:`seconds` in a process whose OpenMP waits as the variables say."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    environment |= {"OMP_NUM_THREADS": str(threads), **variables}
    call = [sys.executable, "-m", "benchmarks.speed.waiting_threads", "--tiles", str(tiles)]
    printed = subprocess.run(
        [*call, "--threads", str(threads)], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(printed)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, help="folder of the table; it is printed in any case")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tiles", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiles:
        print(json.dumps(seconds(options.tiles, options.threads)))
        return
    rows = []
    for tiles in (4, 16):
        for others in (0, options.threads):
            with busy(others):
                alone = apart(tiles, 1, {})
                ratios = [apart(tiles, options.threads, variables) / alone for variables in WAYS.values()]
            rows.append([tiles, others, *(f"{ratio:.2f}" for ratio in ratios)])
    columns = ["tiles per step", "other busy processes", *WAYS]
    text = f"Made by {provenance(command_line())}.\n\n"
    text += f"{options.threads} threads, time relative to one.\n\n" + markdown(columns, rows) + "\n"
    print(text)
    if options.out is not None:
        write_tables(options.out, "waiting_threads", text, comma_separated(columns, rows))


if __name__ == "__main__":
    main()
