"""One fit of given signals, by a worker in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.arms import Estimable
from benchmarks.common.metrics import LABELS
from sicnn_app.ivim.series import Evidence
from sicnn_app.settings import Bounds

WORKER = Path(__file__).with_name("worker.py")

APP = Path(__file__).with_name("app.py")
"""Worker of the app's own methods."""

LEAST_VOXELS = 5
"""Of a tissue in a sample; all of a smaller one."""

TYPICAL = {"f": 0.15, "d": 1.3e-3, "dstar": 0.03}
"""In place of values that are not finite; mm^2/s."""

ROUNDING = 1e-6
"""Of a bound's interval: maps in float32 may miss a bound by that."""

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)

LIMIT = 1800.0
"""Seconds after which a fit is given up."""


@dataclass(frozen=True)
class Peer:
    """A fit to compare.

    Attributes
    ----------
    needs : tuple of str
        Distributions that have to be installed.
    environment : str or None
        Name of its list of requirements; None: the environment of the app.
    voxelwise : bool
        Whether a voxel is fitted by its own signals alone, so that any voxels may be left out.
    slow : bool
        Whether only a sample is fitted; voxelwise ones.
    quick : bool
        Whether a quick run has it.
    noise : bool
        Whether it is told the noise, and the signals before denoising.
    worker : Path
        Script that fits.
    """

    needs: tuple[str, ...]
    environment: str | None = None
    voxelwise: bool = False
    slow: bool = False
    quick: bool = True
    noise: bool = False
    worker: Path = WORKER


PEERS = {
    "lsq": Peer(("sicnn-app",), noise=True, worker=APP),
    "si-cnn": Peer(("sicnn-app",), noise=True, worker=APP),
    "cnn": Peer(("sicnn-app",), quick=False, noise=True, worker=APP),
    "dipy-trr": Peer(("dipy",), "dipy", voxelwise=True),
    "dipy-trr-200": Peer(("dipy",), "dipy", voxelwise=True, quick=False),
    "dipy-varpro": Peer(("dipy", "cvxpy"), "dipy", voxelwise=True, slow=True, quick=False),
    "ivim-mri-seg": Peer(("ivim-mri",), "ivim-mri", voxelwise=True),
    "ivim-mri-bayes": Peer(("ivim-mri",), "ivim-mri", voxelwise=True),
    "ivim-mri-spatial": Peer(("ivim-mri",), "ivim-mri", quick=False),
    "ivimnet": Peer(("IVIMNET", "torch"), "ivimnet"),
    "ivimnet-patient": Peer(("IVIMNET", "torch"), "ivimnet", quick=False),
    "super-ivim-dc": Peer(("super-ivim-dc", "torch"), "super-ivim-dc", quick=False, noise=True),
}
"""Name to fit; si-cnn before cnn, which takes over its number of epochs."""

OWN = tuple(name for name, peer in PEERS.items() if peer.environment is None)

PUBLISHED = tuple(name for name in PEERS if name not in OWN)


class PeerError(Exception):
    """A fit that could not be run; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What a fit runs in.

    Attributes
    ----------
    python : Path
        Interpreter.
    versions : dict of str to str or None
        Of Python and of what the fit needs.
    size : float
        GB of the files that were installed.
    requirements : str
        List of all that was installed; empty for the environment of the app.
    """

    python: Path
    versions: dict[str, str | None]
    size: float
    requirements: str = ""


@dataclass(frozen=True)
class Fit:
    """Maps of a fit, and what they cost.

    Attributes
    ----------
    maps : dict of str to ndarray, shape (X, Y, Z)
        F fraction, D and D* in mm^2/s; NaN outside of the fitted voxels.
    seconds : float
        Processor time without imports: other work on the machine does not count.
    training : float
        The same of a training that none of the signals were used for, done once per b-values.
    memory : float
        Highest of the process, GB, imports included.
    voxels : int
        Fitted ones.
    epochs : int
        Of a network of the app, or steps of its fit; 0 for others.
    """

    maps: dict[str, np.ndarray]
    seconds: float
    training: float
    memory: float
    voxels: int
    epochs: int


def fit_peer(
    environment: Environment,
    name: str,
    given: Estimable,
    voxels: np.ndarray,
    seed: int,
    *,
    evidence: Evidence | None = None,
    kept: Path | None = None,
    **others: Any,
) -> Fit:
    """A fit in a process of its own.

    Parameters
    ----------
    environment : Environment
    name : str
        Key of :data:`PEERS`.
    given : Estimable
        Signals, b-values and noise.
    voxels : ndarray, shape (X, Y, Z), bool
        Fitted ones.
    seed : int
    evidence : Evidence, optional
        Signals before denoising, which SI-CNN is refined with.
    kept : Path, optional
        Folder for what may be used again: results of published fits, by all that they were given, their
        environment and their worker; and networks for the same b-values.
    **others
        More of the problem for the app's methods: ``volumes`` (shape (B,)) averaged per b-value, ``epochs``
        of the plain network.

    Raises
    ------
    PeerError
        When the worker fails, or what it gives is no value of every parameter for every voxel.
    """
    peer = PEERS[name]
    problem: dict[str, Any] = {
        "signals": given.signals[voxels].astype(np.float64),
        "bvals": np.asarray(given.bvals, dtype=np.float64),
        "bounds": np.array(list(asdict(Bounds()).values())),
        "mask": voxels,
        "seed": seed,
    }
    if peer.noise:
        problem["noise"] = np.broadcast_to(given.noise, given.signals.shape)[voxels].astype(np.float64)
        problem.update(sigma=given.sigma, **others)
    if peer.noise and evidence is not None:
        shape = evidence.signals.shape
        problem["evidence_signals"] = evidence.signals[voxels]
        problem["evidence_noise"] = np.broadcast_to(evidence.noise, shape)[voxels]
        problem["left"], problem["left_in_shape"] = evidence.left, evidence.left_in_shape
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    count = int(voxels.sum())
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        paths = Path(folder, "problem.npz"), Path(folder, "result.npz")
        held = paths[1]
        if kept is not None and name not in OWN:
            held = kept / f"{name}-{_digest(problem, environment, peer.worker)}.npz"
        if held.exists():
            found = _result(held, count)
        else:
            np.savez(paths[0], **problem, **({} if kept is None else {"kept": str(kept)}))
            _run(environment.python, peer.worker, name, *paths)
            found = _result(paths[1], count)
            paths[1].replace(held)
    maps = {}
    for label in LABELS:
        maps[label] = np.full(voxels.shape, np.nan)
        maps[label][voxels] = found[label]
    seconds, training, memory, epochs = (
        float(found.get(key, np.nan)) for key in ("seconds", "training", "memory", "epochs")
    )
    return Fit(maps, seconds, training, memory, count, int(epochs))


def _digest(problem: dict[str, Any], environment: Environment, worker: Path) -> str:
    """Short hash of all that decides a published fit's result, the app's code by the signals only."""
    found = hashlib.sha256(worker.read_bytes())
    found.update(json.dumps([environment.versions, environment.requirements], sort_keys=True).encode())
    for name, value in sorted(problem.items()):
        array = np.ascontiguousarray(value)
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def _result(path: Path, count: int) -> dict[str, np.ndarray]:
    """What a worker wrote for so many voxels; raises PeerError."""
    try:
        with np.load(path) as held:
            found = {key: held[key].astype(np.float64) for key in held}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise PeerError(f"its result cannot be read: {error}") from error
    for label in LABELS:
        if label not in found or found[label].shape != (count,):
            shape = found[label].shape if label in found else "none"
            raise PeerError(f"{count} values of {label} were due, of shape {(count,)}, and {shape} came")
    return found


def versions_in(python: Path, name: str) -> dict[str, str | None]:
    """Versions of Python and of what a fit needs; raises PeerError."""
    return json.loads(_run(python, WORKER, "versions", *PEERS[name].needs))


def _run(*command: str | Path) -> str:
    """Output of a command on one thread; raises PeerError with the last line of its complaint."""
    surroundings = {**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    surroundings.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=surroundings, timeout=LIMIT
        )
    except OSError as error:
        raise PeerError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not done after {LIMIT:g} s") from error
    if done.returncode < 0:
        raise PeerError(f"ended by signal {-done.returncode}")
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


def within_bounds(maps: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps with every value inside the bounds, and where any was outside or not finite."""
    kept, outside = {}, np.zeros(maps["f"].shape, dtype=bool)
    for label in LABELS:
        lower, upper = getattr(Bounds(), label)
        values, margin = maps[label].astype(np.float64), ROUNDING * (upper - lower)
        usable = np.isfinite(values)
        outside |= ~usable | (values < lower - margin) | (values > upper + margin)
        kept[label] = np.where(usable, np.clip(values, lower, upper), TYPICAL[label])
    return kept, outside


def stratified_sample(strata: np.ndarray, mask: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Random voxels of the mask, every stratum in proportion.

    Parameters
    ----------
    strata : ndarray of int, shape (X, Y, Z)
    mask : ndarray, shape (X, Y, Z), bool
    count : int
        Voxels in all; the whole mask when it has fewer, more when every stratum's least are more.
    seed : int

    Returns
    -------
    ndarray, shape (X, Y, Z), bool
        At least :data:`LEAST_VOXELS` of every stratum; the largest one makes up for them.
    """
    if count >= mask.sum():
        return mask
    rng = np.random.default_rng(seed)
    codes, sizes = np.unique(strata[mask], return_counts=True)
    shares = np.round(sizes * count / sizes.sum()).astype(int)
    shares = np.minimum(np.maximum(shares, LEAST_VOXELS), sizes)
    shares[sizes.argmax()] = max(LEAST_VOXELS, shares[sizes.argmax()] + count - shares.sum())
    chosen = np.zeros(mask.shape, dtype=bool)
    for code, share in zip(codes, shares, strict=True):
        chosen.flat[rng.choice(np.flatnonzero(mask & (strata == code)), share, replace=False)] = True
    return chosen
