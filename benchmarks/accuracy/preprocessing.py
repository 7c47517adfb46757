"""Every combination of preprocessing steps on measured data: if it runs, for how long, what it changes.

    python -m benchmarks.accuracy.preprocessing ../shared/data/ivim-abdomen --acquisition T70 --participant 02
    python -m benchmarks.accuracy.preprocessing ../shared/data/ivim-cord --acquisition ap

One call of the app per combination, in a process of its own, with least squares. Seconds include the start of
the program; F, D and D* are medians over the mask.
"""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common.cells import parser_of

DENOISING = ("none", "mppca", "patch2self")
UNRINGING = ((), ("--unring",))
MOTION = (("none",), ("rigid",), ("affine",), ("rigid", "--per-slice"), ("affine", "--per-slice"))
HEAD = (
    "run",
    "denoising",
    "unringing",
    "motion correction",
    "exit code",
    "seconds",
    "GB",
    "voxels",
    "noise",
    "SNR",
    "F",
    "D (1e-3)",
    "D* (1e-3)",
)


def numbers_of(table: Path) -> list[str]:
    """What one run's quality table says."""
    with table.open(encoding="utf-8") as stream:
        row = next(csv.DictReader(stream, delimiter="\t"))
    cells = [(row["voxels"], 1, "{:.0f}"), (row["sigma"], 1, "{:.3g}"), (row["snr_b0"], 1, "{:.1f}")]
    cells += [(row["f_median"], 1, "{:.3f}")]
    cells += [(row[f"{label}_median"], 1e3, "{:.3g}") for label in ("d", "dstar")]
    shown = [form.format(float(value) * factor) for value, factor, form in cells]
    return [f"{float(row['peak_memory']):.2f}", *shown]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--participant", default="01")
    parser.add_argument("--acquisition", required=True)
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |")
    print("|---" * len(HEAD) + "|", flush=True)
    for denoising, unringing, (motion, *within) in itertools.product(DENOISING, UNRINGING, MOTION):
        flags = ["--denoise", denoising, *unringing, "--motion-correction", motion, *within]
        selection = ["--participant-label", options.participant, "--acquisition-label", options.acquisition]
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "sicnn_app", options.dataset, folder, "participant"]
            started = time.perf_counter()
            done = subprocess.run(
                [*command, *selection, *flags, "--method", "lsq"], capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - started
            tables = sorted(Path(folder).rglob("*_desc-ivim_qc.tsv"))
            rest = numbers_of(tables[0]) if tables else [done.stderr.strip().splitlines()[-1]]
        name = f"sub-{options.participant}_acq-{options.acquisition}"
        named = [denoising, "yes" if unringing else "no", " ".join([motion, *within])]
        print(f"| {' | '.join([name, *named, str(done.returncode), f'{seconds:.1f}', *rest])} |", flush=True)


if __name__ == "__main__":
    main()
