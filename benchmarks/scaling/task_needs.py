"""What a task on a cluster needs for one participant: memory, and processor time with one thread.

    python -m benchmarks.scaling.task_needs --out docs/task-needs.md

Simulated abdomens of several sizes go through the whole app in processes of their own. Processor time and not
that of a clock, because it depends little on what else the machine does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.cells import parser_of

SIZES = {
    "a few slices": ("64", "52", "4"),
    "a pancreas": ("96", "80", "12"),
    "a whole abdomen": ("128", "104", "24"),
}
METHODS = ("si-cnn", "lsq")


PAGE = """\
# What a task needs

    python -m benchmarks.scaling.task_needs --out docs/task-needs.md

makes this page: one simulated abdomen (12 b-values) per row through the whole app, reports included, with
`--omp-nthreads 1` and without `--mem`. A task with a core for itself takes as long as its processor time.

| what | size | voxels in the mask | method | processor minutes | memory (GB) |
|---|---|---|---|---|---|
{rows}
"""


@dataclass(frozen=True)
class Need:
    """What one call took.

    Attributes
    ----------
    voxels : int
        In the mask.
    minutes : float
        Processor time, with one thread.
    gigabytes : float
        Most memory in use at once, 10^9 bytes.
    """

    voxels: int
    minutes: float
    gigabytes: float


def measure(bids: Path, out: Path, method: str) -> Need:
    """Process a dataset of one participant.

    Raises
    ------
    SystemExit
        When the app fails.
    """
    words = [bids, out, "participant", "--method", method, "--omp-nthreads", "1", "--device", "cpu"]
    log = out.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "sicnn_app", *map(str, words)], stdout=stream, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(log.read_text())
    (table,) = out.rglob("*_desc-ivim_qc.tsv")
    names, row = (line.split("\t") for line in table.read_text().splitlines())
    voxels = int(dict(zip(names, row, strict=True))["voxels"])
    return Need(voxels, (used.ru_utime + used.ru_stime) / 60, used.ru_maxrss * 1024 / 1e9)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    given = parser.parse_args()
    rows = []
    for name, shape in SIZES.items():
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                bids = Path(folder) / "bids"
                simulate = [sys.executable, "-m", "sicnn_app.cli.simulate", str(bids)]
                subprocess.run([*simulate, "--preset", "abdomen", "--shape", *shape], check=True)
                need = measure(bids, Path(folder) / "out", method)
            rows.append(
                f"| {name} | {' x '.join(shape)} x 12 | {need.voxels:,} | {method} | "
                f"{need.minutes:.1f} | {need.gigabytes:.2f} |"
            )
            print(rows[-1], flush=True)
    given.out.write_text(PAGE.format(rows="\n".join(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
