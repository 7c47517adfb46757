"""How long it takes to find the runs of a large dataset, with and without a selection of participants.

    python -m benchmarks.scaling.index --participants 1000 10000 --out docs/scaling

Writes a dataset of that many participants. Images are small, but files and folders are as many as real
participants have: a diffusion run with b-values, directions and a sidecar, and a T1-weighted image. Each call
is a process of its own: its seconds include the start of Python, and its memory is its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.processes import measured

BVALS = (0, 10, 20, 50, 100, 200, 400, 800)
SELECTED = 10
COLUMNS = ("participants", "call", "selected", "wall time (s)", "CPU time (s)", "peak memory (GB)")

DISCOVER = """
import sys
from pathlib import Path
from sicnn_app.bids.discover import discover
from sicnn_app.settings import InputSettings, SelectionSettings
labels = tuple(sys.argv[2:])
found = discover(Path(sys.argv[1]), SelectionSettings(participant_label=labels), InputSettings())
assert len(found.runs) == (len(labels) or int(Path(sys.argv[1]).name)), found
"""


def make_dataset(root: Path, participants: int) -> None:
    """Write the dataset; its folder is named after the number of participants."""
    root.mkdir(parents=True)
    description = {"Name": "scale", "BIDSVersion": "1.11.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    series = np.arange(1, 4 * 4 * 2 * len(BVALS) + 1, dtype=np.int16).reshape(4, 4, 2, len(BVALS))
    run, t1w = (
        nib.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0])).to_bytes() for data in (series, series[..., 0])
    )
    files = {
        "dwi/{}_dwi.nii": run,
        "dwi/{}_dwi.bval": " ".join(map(str, BVALS)).encode(),
        "dwi/{}_dwi.bvec": "\n".join(" ".join(axis * len(BVALS)) for axis in "001").encode(),
        "dwi/{}_dwi.json": json.dumps({"BodyPartExamined": "ABDOMEN", "EchoTime": 0.06}).encode(),
        "anat/{}_T1w.nii": t1w,
        "anat/{}_T1w.json": json.dumps({"EchoTime": 0.003}).encode(),
    }
    for number in range(1, participants + 1):
        subject = label(number)
        for pattern, content in files.items():
            path = root / f"sub-{subject}" / pattern.format(f"sub-{subject}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def label(number: int) -> str:
    return f"{number:06d}"


def rows_of(root: Path, participants: int) -> list[list[str]]:
    """Measure discovery and dry run, of some participants and of all."""
    chosen = [label(number) for number in np.linspace(1, participants, SELECTED).astype(int)]
    rows = []
    for labels in (chosen, []):
        flags = ["--participant-label", *labels] if labels else []
        calls = {
            "discovery": [sys.executable, "-c", DISCOVER, str(root), *labels],
            "--dry-run": [
                *(sys.executable, "-m", "sicnn_app", str(root), str(root.parent / "out"), "participant"),
                *("--dry-run", *flags),
            ],
        }
        for name, command in calls.items():
            cost = measured(command)
            numbers = (f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.memory:.2f}")
            rows.append([str(participants), name, str(len(labels) or "all"), *numbers])
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for participants in given.participants:
            root = Path(folder) / str(participants)
            make_dataset(root, participants)
            rows += rows_of(root, participants)
            shutil.rmtree(root)
    write_tables(
        given.out,
        "index",
        f"{provenance(command_line())}\n\n{markdown(COLUMNS, rows)}\n",
        comma_separated(COLUMNS, rows),
    )


if __name__ == "__main__":
    main()
