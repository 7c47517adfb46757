"""Datasets made in a moment, and ways of calling the app on them: in this process and in one of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_datasets import Dataset

from sicnn_app.cli.main import main
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.report import before_after, carpet, html
from sicnn_app.report.pictures import RunPictures

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "bids_examples"
BVALS = (0.0, 0.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0)
TRUTH = {"f": 0.2, "d": 0.0012, "dstar": 0.04, "s0": 1000.0}
SIGMA = 10.0

QUICK = ("--method", "lsq", "--device", "cpu", "--omp-nthreads", "1")
"""The method without training: a run takes a fraction of a second."""

TINY_TRAINING = ("--device", "cpu", "--omp-nthreads", "1", "--max-iterations", "1", "--delta", "0.99")
"""SI-CNN through all its steps, though not to any result worth having."""

TWO_ITERATIONS = ("--lambda", "0")
"""Besides, where the state of a training is looked for: it is saved when a second data iteration begins."""


def body(
    shape: tuple[int, ...] = (12, 10, 2), *, bvals: tuple[float, ...] = BVALS, seed: int = 0
) -> np.ndarray:
    """A block of uniform tissue in air, shape (X, Y, Z, N), float32, with noise of :data:`SIGMA`."""
    tissue = np.zeros(shape)
    tissue[2:-2, 2:-2] = 1.0
    maps = [np.full(shape, TRUTH[name]) for name in ("f", "d", "dstar")]
    signals = ivim_signal_maps(np.array(bvals), *maps, TRUTH["s0"] * tissue)
    noise = np.random.default_rng(seed).normal(scale=SIGMA, size=(2, *signals.shape))
    return np.hypot(signals + noise[0], noise[1]).astype(np.float32)


def dataset(root: Path, *names: str, shape: tuple[int, ...] = (12, 10, 2)) -> Dataset:
    """Dataset with one run of :func:`body` per name such as ``sub-01_ses-1_acq-a``; other noise in each."""
    made = Dataset(root)
    for seed, name in enumerate(names or ("sub-01",)):
        add_run(made, name, data=body(shape, seed=seed))
    return made


def add_run(
    made: Dataset, name: str, *, data: np.ndarray | None = None, bvals: tuple[float, ...] | None = BVALS
) -> Path:
    """Add a run to a dataset; returns its image."""
    folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    return made.image("/".join([*folders, "dwi", f"{name}_dwi"]), data=body() if data is None else data,
                      bvals=bvals)  # fmt: skip


def add_mask(root: Path, name: str, mask: np.ndarray) -> Path:
    """Write a mask of the run ``name`` into a derivative dataset; returns the dataset."""
    made = Dataset(root, kind="derivative")
    path = root / name.split("_")[0] / "dwi" / f"{name}_desc-body_mask.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.diag([2.0, 2.0, 4.0, 1.0])), path)
    return made.root


def leave_out_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the app draw nothing: that takes most of the time and has tests of its own."""
    monkeypatch.setattr(html, "draw_run", lambda run: RunPictures())
    monkeypatch.setattr(before_after, "draw_steps", lambda result: {})
    monkeypatch.setattr(carpet, "draw_volumes", lambda result: {})


@dataclass(frozen=True)
class Call:
    """How a call of the app ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class App:
    """Calls the app in this process and reads what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, bids: Path | Dataset, out: Path, *options: str | Path) -> Call:
        root = bids.root if isinstance(bids, Dataset) else bids
        return self.raw(root, out, "participant", *options)

    def quick(self, bids: Path | Dataset, out: Path, *options: str | Path) -> Call:
        """The least-squares method on the CPU."""
        return self(bids, out, *QUICK, *options)

    def raw(self, *argv: str | Path) -> Call:
        self._capsys.readouterr()
        code = main([str(word) for word in argv])
        said = self._capsys.readouterr()
        return Call(code, said.out, said.err)


def command(*argv: str | Path) -> list[str]:
    """The command line of the real entry point."""
    return [sys.executable, "-m", "sicnn_app", *map(str, argv)]


def as_user(number: int) -> list[str]:
    """Start of a command line that makes root another user, who may read everything."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root cannot become another user without setpriv")
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", *may_read]


def environment(**changes: str | None) -> dict[str, str]:
    """Environment in which the package of this checkout is found; None removes a variable."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    merged: dict[str, str | None] = {**os.environ, "PYTHONPATH": paths, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def execute(*argv: str | Path, env: dict[str, str] | None = None, **options) -> Call:
    """Call the real entry point in a process of its own."""
    done = subprocess.run(
        command(*argv),
        capture_output=True,
        text=True,
        check=False,
        env=environment() if env is None else env,
        **options,
    )
    return Call(done.returncode, done.stdout, done.stderr)


def files(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder by its relative path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def stamps(root: Path) -> dict[str, int]:
    """Modification time of every file below a folder, logs aside, in ns."""
    return {
        path.relative_to(root).as_posix(): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "logs"
    }


def values(out: Path, stem: str, label: str) -> np.ndarray:
    """A map, shape (X, Y, Z); ``stem`` names the run from the output folder, ``sub-01/dwi/sub-01``."""
    return np.asarray(nib.load(out / f"{stem}_model-ivim_param-{label}_dwimap.nii.gz").dataobj)
