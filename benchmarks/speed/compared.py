"""A small run and the conventional fit, now and before a change, in turn on the same machine.

    git worktree add --detach BEFORE COMMIT
    python -m benchmarks.speed.compared --before BEFORE --python PYTHON --out docs/speed

The whole app at its defaults on a simulated abdomen of 64 x 64 x 8 voxels, with a comparison of every image,
bit for bit; and least squares on twelve slices of one of 128 x 128 x 24, plain and weighted as with
``--method lsq``, on one thread. With ``--python``, the interpreter of the peers, ivim-mri's segmented fit of
the same signals takes its turn. Medians of ``--repeats`` turns: about eight minutes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
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
from benchmarks.scaling.participants import images_of
from sicnn_app.cli.simulate import main as simulate

HERE = Path(__file__).parents[2]

LEAST_SQUARES = """
import json, sys, time
import numpy as np, torch
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.lsq.fit import fit_biexponential
torch.set_num_threads(1)
held = np.load(sys.argv[1])
signals, mask, bvals, noise = (held[name] for name in ("image", "mask", "bvals", "noise"))
part = slice(0, 40)
estimate_lsq(signals[part], mask[part], bvals, noise=noise)
found = {}
for name, known in (("plain", None), ("weighted", noise)):
    start = time.process_time()
    estimate_lsq(signals, mask, bvals, noise=known)
    found[name] = 1e6 * (time.process_time() - start) / mask.sum()
print(json.dumps(found))
np.save(sys.argv[2], fit_biexponential(*(torch.from_numpy(held[name]) for name in ("signals", "bvals"))).rss)
"""
"""Processor time (ms) per 1,000 voxels and residuals, of whichever version is imported."""

BOUNDS = ((0.0, 1.0), (0.0, 0.005), (0.005, 0.2), (0.5, 1.5))
"""Of F, D, D* and S0, in the form of :mod:`benchmarks.accuracy.peer_fits`, which ivim-mri cannot be given."""


def simulated(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A dataset of one abdomen at SNR 20."""
    words = ["--preset", "abdomen", "--shape", *map(str, shape), "--snr", "20"]
    if simulate([str(folder), *words]):
        raise SystemExit("the dataset could not be simulated")
    return folder


def make_problem(dataset: Path, path: Path) -> None:
    """Twelve slices as an image with its mask, and as signals for the peers."""
    (image,) = dataset.glob("sub-*/dwi/*_dwi.nii.gz")
    bvals = np.loadtxt(image.with_name(image.name.replace(".nii.gz", ".bval")))
    values = nib.load(image).get_fdata(dtype=np.float32)[:, :, 6:18]
    mask = values[..., 0] > 0.15 * np.percentile(values[..., 0], 99)
    signals = values[mask].astype(np.float64)
    noise = np.full(bvals.size, np.median(values[mask][:, 0]) / 20)
    np.savez(
        path,
        image=values,
        mask=mask,
        bvals=bvals,
        noise=noise,
        signals=signals / signals[:, :1],
        bounds=BOUNDS,
        seed=0,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the version before")
    parser.add_argument("--python", type=Path, help="interpreter of the peers' environment")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    given = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, problem = simulated(folder / "small", (64, 64, 8)), folder / "problem.npz"
        make_problem(simulated(folder / "medium", (128, 128, 24)), problem)
        images = {}
        for turn in range(given.repeats):
            for version, checkout in (("before", given.before.resolve()), ("now", HERE)):
                out = folder / f"{version}{turn}"
                python = ["env", f"PYTHONPATH={checkout}", sys.executable]
                app = [*python, "-m", "sicnn_app", str(small), str(out), "participant"]
                cost = measured(app, cwd=checkout)
                found.setdefault(("whole app, processor time (s)", version), []).append(cost.cpu)
                found.setdefault(("whole app, wall-clock time (s)", version), []).append(cost.wall)
                images[version] = images_of(out)
                fit = [*python, "-c", LEAST_SQUARES, str(problem), str(folder / f"{version}.npy")]
                told = subprocess.run(fit, check=True, capture_output=True, cwd=checkout)
                for way, value in json.loads(told.stdout).items():
                    row = f"least squares, {way} (ms of the processor per 1,000 voxels)"
                    found.setdefault((row, version), []).append(value)
            if given.python is not None:
                peer, result = HERE / "benchmarks" / "accuracy" / "peer_fits.py", folder / "result.npz"
                single = ["env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", str(given.python)]
                words = [*single, str(peer), "ivim-mri-seg", str(problem), str(result)]
                subprocess.run(words, check=True, cwd=folder)
                told = np.load(result)
                row = "ivim-mri's segmented fit (ms of the processor per 1,000 voxels)"
                found.setdefault((row, "now"), []).append(1e6 * float(told["seconds"] / told["voxels"]))
        before, now = (np.load(folder / f"{version}.npy") for version in ("before", "now"))
    medians = {key: statistics.median(values) for key, values in found.items()}
    worse = f"{100 * np.mean(now > 1.001 * before):.3f} % of {before.size} voxels"
    rows = []
    for what in dict.fromkeys(row for row, _ in medians):
        before, now = medians.get((what, "before")), medians[what, "now"]
        rows.append(
            [what, f"{before:.3g}" if before else "", f"{now:.3g}", f"{now / before:.2f}" if before else ""]
        )
    others = sorted(name for name, bits in images["before"].items() if images["now"].get(name) != bits)
    columns = ("what", "before", "now", "now to before")
    source = provenance(command_line(given.python).replace(str(given.before), "BEFORE"))
    count, named = len(images["before"]), ", ".join(others) or "none"
    page = f"{source}\n\nOf {count} images not the same in every bit: {named}.\n\n"
    page += f"The residual of least squares is more than 0.1 % higher than before in {worse}.\n\n"
    page += f"{markdown(columns, rows)}\n"
    write_tables(given.out, "compared", page, comma_separated(columns, rows))
    print(page)


if __name__ == "__main__":
    main()
