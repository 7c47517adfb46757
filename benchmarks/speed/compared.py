"""A small run and the conventional fit, now and before a change, in turn on the same machine.

    git worktree add --detach BEFORE COMMIT
    python -m benchmarks.speed.compared --before BEFORE --out docs/speed

The whole app at its defaults on a simulated abdomen of 64 x 64 x 8 voxels, with a comparison of every image,
bit for bit; and least squares on twelve slices of one of 128 x 128 x 24, plain and weighted as with
``--method lsq``, on one thread; ivim-mri's segmented fit of the same signals takes its turn, in an
environment that is made when it is not there. Medians of ``--repeats`` turns: about eight minutes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

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
from benchmarks.peers.environments import ENVIRONMENTS, environment_of
from benchmarks.peers.fits import fit_peer
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

PEER = "ivim-mri-seg"


def simulated(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A dataset of one abdomen at SNR 20."""
    words = ["--preset", "abdomen", "--shape", *map(str, shape), "--snr", "20"]
    if simulate([str(folder), *words]):
        raise SystemExit("the dataset could not be simulated")
    return folder


def middle_slices(dataset: Path) -> SimpleNamespace:
    """Twelve slices of a dataset of one volume per b-value."""
    (image,) = dataset.glob("sub-*/dwi/*_dwi.nii.gz")
    bvals = np.loadtxt(image.with_name(image.name.replace(".nii.gz", ".bval")))
    values = nib.load(image).get_fdata(dtype=np.float32)[:, :, 6:18]
    mask = values[..., 0] > 0.15 * np.percentile(values[..., 0], 99)
    sigma = float(np.median(values[mask][:, 0])) / 20
    return SimpleNamespace(
        signals=values, mask=mask, bvals=bvals, sigma=sigma, noise=np.full(bvals.size, sigma)
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the version before")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="folder of the peers'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    given = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, problem = simulated(folder / "small", (64, 64, 8)), folder / "problem.npz"
        slices = middle_slices(simulated(folder / "medium", (128, 128, 24)))
        inside = slices.signals[slices.mask].astype(np.float64)
        relative = inside / inside[:, :1]
        held = {"image": slices.signals, "mask": slices.mask, "bvals": slices.bvals, "noise": slices.noise}
        np.savez(problem, **held, signals=relative)
        peer = environment_of(PEER, given.environments)
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
            told = fit_peer(peer, PEER, slices, slices.mask, 0)
            row = "ivim-mri's segmented fit (ms of the processor per 1,000 voxels)"
            found.setdefault((row, "now"), []).append(1e6 * told.seconds / told.voxels)
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
    source = provenance(command_line().replace(str(given.before), "BEFORE"))
    count, named = len(images["before"]), ", ".join(others) or "none"
    page = f"{source}\n\nOf {count} images not the same in every bit: {named}.\n\n"
    page += f"The residual of least squares is more than 0.1 % higher than before in {worse}.\n\n"
    page += f"{markdown(columns, rows)}\n"
    write_tables(given.out, "compared", page, comma_separated(columns, rows))
    print(page)


if __name__ == "__main__":
    main()
