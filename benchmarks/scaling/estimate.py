"""What 1,000 and 100,000 participants take, reckoned from the tables of the two other benchmarks of scaling.

    python -m benchmarks.scaling.estimate --out docs/scaling

Reads ``participants.csv`` and ``index.csv`` in that folder, and measures how fast this machine computes the
SHA-256 of files. Everything is taken to grow with the number of participants; the table shows the arithmetic.
"""

from __future__ import annotations

import csv
import hashlib
import time
from pathlib import Path

from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)

STUDIES = (1_000, 100_000)
COLUMNS = ("what", "measured", "per participant", *(f"{number:,} participants" for number in STUDIES))
HASHED = 1 << 28
"""Bytes whose SHA-256 is timed."""


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def hash_rate() -> float:
    """MB of SHA-256 per second, of memory: a slow disk comes on top."""
    content = bytes(HASHED)
    started = time.perf_counter()
    hashlib.sha256(content)
    return HASHED / 1e6 / (time.perf_counter() - started)


def row(what: str, measured: str, each: float, unit: str, scale: float = 1.0) -> list[str]:
    """One quantity: each participant's share times the number of participants, in a larger unit."""
    totals = (f"{figure(each * number / scale)} {unit.split()[-1]}" for number in STUDIES)
    return [what, measured, f"{figure(each)} {unit.split()[0]}", *totals]


def figure(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def per_participant(rows: list[dict[str, str]], column: str) -> tuple[float, str]:
    """Growth of a column of the discovery of all participants, from the first row to the last."""
    found = [item for item in rows if item["call"] == "discovery" and item["selected"] == "all"]
    low, high = found[0], found[-1]
    count = int(high["participants"]) - int(low["participants"])
    return (
        (float(high[column]) - float(low[column])) / count,
        f"({high[column]} - {low[column]}) / ({high['participants']} - {low['participants']})",
    )


def estimate(folder: Path) -> list[list[str]]:
    """Rows of the table."""
    index, study = read(folder / "index.csv"), read(folder / "participants.csv")
    one, many = study[0], study[-1]
    count, rate = int(one["participants"]), hash_rate()

    def share(item: dict[str, str], column: str) -> tuple[float, str]:
        return float(item[column]) / count, f"{item[column]} / {count}"

    start = (float(many["CPU time (s)"]) - float(one["CPU time (s)"])) / count
    seconds, seconds_text = per_participant(index, "CPU time (s)")
    memory, memory_text = per_participant(index, "peak memory (GB)")
    work, work_text = share(one, "CPU time (s)")
    wall, wall_text = share(many, "wall time (s)")
    size, size_text = share(one, "input (MB)")
    files, files_text = share(one, "output files")
    output, output_text = share(one, "output (MB)")
    return [
        row("finding the runs, CPU", seconds_text, seconds, "s min", 60),
        row("finding the runs, memory", memory_text, memory * 1e6, "kB GB", 1e6),
        row("SHA-256 of the input", f"{size_text} MB at {rate:.0f} MB/s", size / rate, "s min", 60),
        row("processing, CPU", work_text, work, "s h", 3600),
        row("a process of its own, CPU", f"({many['CPU time (s)']} - {one['CPU time (s)']}) / {count}", start,
            "s h", 3600),
        row(f"all, {many['at a time']} at a time", wall_text, wall, "s h", 3600),
        row("output files", files_text, files, "files files"),
        row("output size", output_text, output, "MB GB", 1e3),
    ]  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    folder = parser.parse_args().out
    rows = estimate(folder)
    text = f"{provenance(command_line())}\n\n{markdown(COLUMNS, rows)}\n"
    write_tables(folder, "estimate", text, comma_separated(COLUMNS, rows))
    print(text)


if __name__ == "__main__":
    main()
