"""How much faster a study is done by several participants at a time, and whether its maps stay the same.

    python -m benchmarks.scaling.participants --out docs/scaling

Processes a simulated study once per number of participants at a time, always on the same cores and with one
CPU thread per participant. Every image is compared, bit for bit, with that of the first number.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import nibabel as nib

from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.processes import measured
from sicnn_app.cli.simulate import main as simulate

COLUMNS = (
    "participants",
    "at a time",
    "wall time (s)",
    "CPU time (s)",
    "peak memory (GB)",
    "speed",
    "input (MB)",
    "output files",
    "output (MB)",
    "images",
)


def images_of(out: Path) -> dict[str, str]:
    """Digest of the values of every image, by its path below the output."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(
            nib.load(path).dataobj.get_unscaled().tobytes()
        ).hexdigest()
        for path in out.glob("sub-*/**/*.nii.gz")
    }


def files_of(root: Path, pattern: str) -> list[Path]:
    return [path for path in root.glob(pattern) if path.is_file()]


def megabytes(paths: list[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:.3g}"


def make_study(root: Path, subjects: int, shape: list[int]) -> None:
    """Simulate a study of subjects that differ."""
    options = ["--preset", "abdomen", "--snr", "30", "--subjects", str(subjects)]
    options += ["--between-subject-variation", "0.1", "--shape", *map(str, shape)]
    if simulate([str(root), *options]):
        raise SystemExit("the study could not be simulated")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=[48, 36, 3])
    parser.add_argument("--nprocs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--method", default="si-cnn")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    given = parser.parse_args()
    options = ("--device", "cpu", "--omp-nthreads", "1", "--method", given.method)
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        make_study(study, given.subjects, given.shape)
        for number in given.nprocs:
            out = Path(folder) / str(number)
            cost = measured(
                [
                    *(sys.executable, "-m", "sicnn_app", str(study), str(out), "participant"),
                    *(*options, "--nprocs", str(number)),
                ]
            )
            images = images_of(out)
            first = first or (cost, images)
            read, written = files_of(study, "sub-*/**/*"), files_of(out, "**/*")
            rows.append(
                [
                    *(str(given.subjects), str(number), f"{cost.wall:.0f}", f"{cost.cpu:.0f}"),
                    *(f"{cost.memory:.2f}", f"{first[0].wall / cost.wall:.2f}", megabytes(read)),
                    *(str(len(written)), megabytes(written)),
                    "the same" if images == first[1] else "other",
                ]
            )
            print(rows[-1], flush=True)
    write_tables(
        given.out,
        "participants",
        f"{provenance(command_line())}\n\n{markdown(COLUMNS, rows)}\n",
        comma_separated(COLUMNS, rows),
    )


if __name__ == "__main__":
    main()
