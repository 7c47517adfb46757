"""The computations behind :mod:`benchmarks.speed.stages`, one cell each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.accuracy.refinement import prepared_of
from benchmarks.common.clocks import MEASURES, timed
from benchmarks.common.metrics import LABELS, map_errors
from benchmarks.common.scenarios import Measurement, Scenario, measure
from benchmarks.peers.fits import Environment, fit_peer, stratified_sample, within_bounds
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.preprocess.denoise import correct
from sicnn_app.settings import Bounds, ResourceSettings

SIZES = {"small": (64, 64, 8), "medium": (128, 128, 24), "large": (192, 192, 40)}

OWN = ("help", "app", "lsq", "ensemble")


@dataclass(frozen=True)
class Competitor:
    """A fit beside the app's own runs.

    Attributes
    ----------
    peer : str
        Key of :data:`benchmarks.peers.fits.PEERS`.
    sample : int or None
        Voxels of the sample; None: the whole mask.
    denoised : bool
        Whether it is given the signals after MP-PCA.
    """

    peer: str
    sample: int | None
    denoised: bool = False


AS_MEASURED = {
    "dipy-trr": Competitor("dipy-trr", 2000),
    "dipy-varpro": Competitor("dipy-varpro", 200),
    "ivim-mri-seg": Competitor("ivim-mri-seg", 2000),
    "ivim-mri-bayes": Competitor("ivim-mri-bayes", 2000),
    "ivimnet": Competitor("ivimnet", None),
}

COMPETITORS = {
    **AS_MEASURED,
    "mppca+lsq": Competitor("lsq", None, denoised=True),
    **{f"mppca+{name}": replace(fit, denoised=True) for name, fit in AS_MEASURED.items()},
}
"""Name to fit; whoever compares gives all the same preprocessing."""

STEM = "sub-01_dwi"

START = "import"
"""Stage that also gets what no clock inside the process sees: the start of the interpreter, and its end."""

CLOSE = 1.001
"""Residual sums of squares up to this ratio to dipy's count as equally good."""


@dataclass(frozen=True)
class Cell:
    """One computation.

    Attributes
    ----------
    size : str
        Key of :data:`SIZES`; empty for what has no image.
    arm : str
        Of :data:`OWN` or :data:`COMPETITORS`.
    members : int
        Of the ensemble.
    repeat : int
    """

    size: str
    arm: str
    members: int = 1
    repeat: int = 0

    def __str__(self) -> str:
        members = f" of {self.members}" if self.arm == "ensemble" else ""
        return f"{self.arm}{members}, {self.size or 'no image'}, repeat {self.repeat}"


class FailedRun(Exception):
    """A process of the app that did not end well; the message says why."""


def write_bids(measured: Measurement, folder: Path) -> None:
    """A dataset of one run of the abdomen, as floating-point numbers."""
    place = folder / "sub-01" / "dwi"
    place.mkdir(parents=True)
    description = {"Name": "Simulated abdomen", "BIDSVersion": "1.11.1", "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    nib.save(nib.Nifti1Image(measured.signals, measured.phantom.affine), place / f"{STEM}.nii.gz")
    (place / f"{STEM}.bval").write_text(" ".join(f"{b:g}" for b in measured.bvals), encoding="utf-8")
    (place / f"{STEM}.json").write_text(json.dumps({"BodyPart": "ABDOMEN"}), encoding="utf-8")


def process(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process of this Python with the threads of the app.

    Raises
    ------
    FailedRun
        With the last line of its complaint.
    """
    threads = str(ResourceSettings().omp_nthreads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = {**os.environ, **dict.fromkeys(names, threads), "PYTHONPATH": paths}
    with tempfile.TemporaryFile() as complaint:
        start = time.perf_counter()
        started = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=complaint, env=surroundings
        )
        _, status, usage = os.wait4(started.pid, 0)
        wall = time.perf_counter() - start
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            complaint.seek(0)
            lines = complaint.read().decode(errors="replace").strip().splitlines()
            raise FailedRun((lines or [f"exit code {started.returncode}"])[-1])
    return wall, usage.ru_utime + usage.ru_stime


def whole(stages: dict[str, dict[str, float]]) -> dict[str, float]:
    """Sums of the times and peaks of the memory of all stages."""
    return {
        measure: (sum if measure in ("wall", "cpu") else max)(row[measure] for row in stages.values())
        for measure in MEASURES
    }


def run_app(scenario: Scenario, device: str, options: tuple[str, ...]) -> dict[str, Any]:
    """The app on a dataset of one run: times and memory of all stages, and the errors of the maps."""
    measured = measure(scenario)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bids(measured, folder / "bids")
        arguments = [str(folder / "bids"), str(folder / "out"), "participant", "--device", device, *options]
        seed = ["--random-seed", str(scenario.seed)]
        result = folder / "result.json"
        wall, cpu = process(["-m", "benchmarks.speed.stage_worker", "app", str(result), *arguments, *seed])
        found = json.loads(result.read_text(encoding="utf-8"))
        inside = whole(found["stages"])
        found["stages"][START]["wall"] += wall - inside["wall"]
        found["stages"][START]["cpu"] += cpu - inside["cpu"]
        return {**found, **_map_errors(measured, folder / "out")}


def _map_errors(measured: Measurement, out: Path) -> dict[str, Any]:
    """Errors of written maps where both the app and the truth have tissue, and the share of the latter."""
    place = out / "sub-01" / "dwi"
    maps = {
        label: np.asanyarray(nib.load(place / f"sub-01_model-ivim_param-{label}_dwimap.nii.gz").dataobj)
        for label in LABELS
    }
    covered = measured.mask & np.isfinite(maps["f"])
    return {
        "errors": map_errors(measured.phantom, covered, maps),
        "covered": float(covered.sum() / measured.mask.sum()),
    }


def run_estimator(scenario: Scenario, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The estimator alone in a process of its own, warm on a CUDA device."""
    with tempfile.TemporaryDirectory() as name:
        result = Path(name, "result.json")
        chosen = json.dumps({**settings, "random_seed": scenario.seed})
        given = [device, json.dumps(asdict(scenario)), chosen]
        process(["-m", "benchmarks.speed.stage_worker", "estimate", str(result), *given])
        return json.loads(result.read_text(encoding="utf-8"))


def run_help() -> dict[str, Any]:
    """From the start of the interpreter to the end of ``--help``."""
    wall, cpu = process(["-m", "sicnn_app", "--help"])
    return {"stages": {START: {**dict.fromkeys(MEASURES, 0.0), "wall": wall, "cpu": cpu}}}


@lru_cache(maxsize=1)
def denoised(scenario: Scenario) -> tuple[AveragedSignals, float]:
    """Signals after MP-PCA, prepared as the app does, and the processor seconds of MP-PCA alone."""
    measured = measure(scenario)
    series = DwiSeries(measured.signals, measured.bvals, None, measured.phantom.affine)
    _, seconds = timed(lambda: correct(series, kind="mppca"))
    prepared = prepared_of(series, measured.mask, "mppca", anatomy="body", average="arithmetic")
    return prepared.averaged, seconds


def run_competitor(scenario: Scenario, environment: Environment, competitor: Competitor) -> dict[str, Any]:
    """A fit on a sample with every tissue in proportion, or on the whole mask.

    Returns
    -------
    dict
        Processor seconds on one thread, with the voxels' share of those of MP-PCA where it comes first,
        fitted voxels, voxels of the mask, errors in the fitted voxels, share outside of the bounds, and for
        dipy's trust region of the signals as measured how the app's least squares compare.
    """
    measured = measure(scenario)
    given, seconds = denoised(scenario) if competitor.denoised else (measured, 0.0)
    others = {"volumes": given.repeats} if isinstance(given, AveragedSignals) else {}
    voxels = given.mask
    if competitor.sample is not None:
        voxels = stratified_sample(measured.phantom.labels, voxels, competitor.sample, scenario.seed)
    fit = fit_peer(environment, competitor.peer, given, voxels, scenario.seed, **others)
    maps, outside = within_bounds(fit.maps)
    mask = int(given.mask.sum())
    found = {
        "cpu": fit.seconds + seconds * fit.voxels / mask,
        "voxels": fit.voxels,
        "mask": mask,
        "errors": map_errors(measured.phantom, given.mask, maps, only=voxels),
        "outside": float(outside[voxels].mean()),
    }
    if competitor == COMPETITORS["dipy-trr"]:
        found["residuals"] = compare_residuals(
            measured.signals[voxels], measured.bvals, _at(maps, voxels), outside[voxels]
        )
    return found


def _at(maps: dict[str, np.ndarray], voxels: np.ndarray) -> dict[str, np.ndarray]:
    return {label: values[voxels].astype(np.float64) for label, values in maps.items()}


def compare_residuals(
    signals: np.ndarray, bvals: np.ndarray, theirs: dict[str, np.ndarray], outside: np.ndarray
) -> dict[str, float]:
    """Residual sums of squares of the app's least squares against those of another fit.

    Parameters
    ----------
    signals : ndarray, shape (V, B)
        Above 0 at the lowest b-value.
    bvals : ndarray, shape (B,), s/mm^2
    theirs : dict of str to ndarray, shape (V,)
        F, D and D* (mm^2/s) of the other fit, inside the bounds; it gets the best S0 within the bounds.
    outside : ndarray, shape (V,), bool
        Where the other fit had left the bounds and was brought back into them.

    Returns
    -------
    dict of str to float
        ``inside``, the share of voxels in which the other fit kept the bounds by itself; ``as_good``, the
        share of these in which the app's residual is at most 0.1 % above the other's;
        ``as_good_everywhere``, the same of all voxels.
    """
    everywhere = np.ones((len(signals), 1, 1), dtype=bool)
    own = estimate_lsq(signals[:, None, None], everywhere, bvals).maps
    mine = ivim_signal_maps(bvals, **{label: own[label][:, 0, 0] for label in ("f", "d", "dstar", "s0")})
    shapes = ivim_signal_maps(bvals, **{label: theirs[label] for label in LABELS})
    scale = (signals * shapes).sum(axis=1) / np.square(shapes).sum(axis=1)
    normaliser = signals[:, bvals.argmin()].astype(np.float64)
    scale = np.clip(scale, *(limit * normaliser for limit in Bounds().s0))
    good = _residual(mine, signals) <= CLOSE * _residual(scale[:, None] * shapes, signals)
    return {
        "inside": float((~outside).mean()),
        "as_good": float(good[~outside].mean()) if (~outside).any() else float("nan"),
        "as_good_everywhere": float(good.mean()),
    }


def _residual(predicted: np.ndarray, signals: np.ndarray) -> np.ndarray:
    return np.square(predicted - signals.astype(np.float64)).sum(axis=1)
