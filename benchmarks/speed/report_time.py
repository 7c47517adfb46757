"""How long the report of a subject takes, and how large it becomes.

    python -m benchmarks.speed.report_time --data ../shared/data/ivim-abdomen --participant 01

Processes one participant with a short training (the pictures do not depend on how good the maps are), an
ensemble of two, unringing and motion correction, so that every section is there; then makes its report anew,
in processes of their own, and prints medians. Seconds are those of this machine; the share is that of the
whole call with an ordinary training, which is timed once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common.cells import command_line, markdown, parser_of, provenance

SECTIONS = ("--ensemble", "2", "--max-iterations", "1", "--unring", "--motion-correction", "rigid")


def seconds(*options: str) -> float:
    """Wall-clock time of one call of the app in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sicnn_app", *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--participant", default="01")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    chosen = ("participant", "--participant-label", options.participant, "--device", "cpu")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        seconds(options.data, folder, *chosen, *SECTIONS)
        start_up = statistics.median(seconds("--version") for _ in range(options.repeats))
        for level in ("default", "full"):
            call = (options.data, folder, *chosen, "--reports-only", "--report-level", level)
            taken = statistics.median(seconds(*call) for _ in range(options.repeats))
            size = sum(path.stat().st_size for path in Path(folder).glob("sub-*.html")) / 1e6
            rows.append([level, f"{taken:.1f}", f"{taken - start_up:.1f}", f"{size:.2f}"])
    with tempfile.TemporaryDirectory() as folder:
        whole = seconds(options.data, folder, *chosen)
    for row in rows:
        row.append(f"{100 * float(row[2]) / whole:.0f} %")
    print(provenance(command_line()), end="\n\n")
    columns = ["level", "seconds", "without start-up", "page (MB)", "of a whole call"]
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
