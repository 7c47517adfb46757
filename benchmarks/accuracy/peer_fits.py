"""Worker of :mod:`benchmarks.accuracy.peers`: a published IVIM fit, run by the peers' own Python.

    PYTHON benchmarks/accuracy/peer_fits.py versions
    PYTHON benchmarks/accuracy/peer_fits.py METHOD problem.npz result.npz

The problem holds ``signals`` (shape (V, B)), ``bvals`` (shape (B,), s/mm^2), ``bounds`` (shape (4, 2): F, D
and D* in mm^2/s, S0 relative to the signal at the lowest b-value) and ``seed``; the result ``f``, ``d``,
``dstar`` (shape (V,)), as the peer returned them, and ``seconds`` of the processor, without imports.
It imports nothing of the app, whose dependencies the environment does not have.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np

DISTRIBUTIONS = ("dipy", "cvxpy", "ivim-mri", "IVIMNET", "torch", "numpy", "scipy")

TYPICAL_S0 = 1000.0
"""What normalised signals are multiplied by for dipy, whose default steps expect an S0 of that size."""

ROW = 100
"""Voxels per image row in files for ivim-mri; NIfTI has no axis longer than 32,767."""


def dipy_trust_region(
    signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int, **options: float
) -> tuple:
    """dipy's two-stage trust region at its defaults, or other ``options``, within all the bounds."""
    f, d, dstar, s0 = bounds
    lower, upper = np.array([TYPICAL_S0 * s0, f, dstar, d]).T.tolist()
    return _dipy(signals, bvals, fit_method="trr", bounds=(lower, upper), **options)


def dipy_trust_region_split_200(
    signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int
) -> tuple:
    """The same, but the start of D is fitted from b = 200 s/mm^2 on, where ivim-mri begins too.

    From dipy's 400 on, the schemes here have two or three b-values, and most fits never leave a bad start.
    """
    return dipy_trust_region(signals, bvals, bounds, seed, split_b_D=200.0)


def dipy_variable_projection(signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int) -> tuple:
    """dipy's variable projection at its defaults; its S0 and its first search have no bounds to set.

    That search is fixed to D* in 0.005..0.01 and D in 0.0001..0.001 mm^2/s.
    """
    np.random.seed(seed)
    f, d, dstar, _ = bounds
    lower, upper = np.array([f, dstar, d]).T.tolist()
    return _dipy(signals, bvals, fit_method="VarPro", bounds=(lower, upper))


def _dipy(signals: np.ndarray, bvals: np.ndarray, **options) -> tuple:
    from dipy.core.gradients import gradient_table
    from dipy.reconst.ivim import IvimModel

    bvecs = np.tile([1.0, 0.0, 0.0], (len(bvals), 1))
    bvecs[bvals == 0] = 0
    table = gradient_table(bvals, bvecs=bvecs, b0_threshold=0)
    model = IvimModel(table, **options)
    signals = TYPICAL_S0 * signals / signals[:, [bvals.argmin()]]
    found = np.full((len(signals), 3), np.nan)
    start = time.process_time()
    for row, signal in zip(found, signals, strict=True):
        try:
            fit = model.fit(signal)
            row[:] = fit.perfusion_fraction, fit.D, fit.D_star
        except Exception:
            # Whatever a solver raises in one voxel, the others are fitted; this one stays NaN and is counted.
            continue
    return *found.T, time.process_time() - start


def ivim_mri_segmented(signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int) -> tuple:
    """ivim-mri's segmented fit at its defaults: D within 0..0.003, D* within 0.003..0.1 mm^2/s, fixed."""
    from ivim.fit import seg

    return _ivim_mri(signals, bvals, seg)


def ivim_mri_bayesian(signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int) -> tuple:
    """ivim-mri's posterior means at its defaults: D within 0..0.003, D* within 0..1 mm^2/s, fixed.

    Its D* is what exceeds the diffusion of blood, which is added here.
    """
    from ivim.constants import Db
    from ivim.fit import bayes

    np.random.seed(seed)
    f, d, dstar, seconds = _ivim_mri(signals, bvals, bayes)
    return f, d, dstar + Db, seconds


def ivim_mri_spatial(
    signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int, mask: np.ndarray
) -> tuple:
    """The same with its prior that four neighbours in the slice are alike."""
    from ivim.constants import Db
    from ivim.fit import bayes

    np.random.seed(seed)
    f, d, dstar, seconds = _ivim_mri(signals, bvals, bayes, mask, spatial_prior=True)
    return f, d, dstar + Db, seconds


def _ivim_mri(
    signals: np.ndarray, bvals: np.ndarray, fit, mask: np.ndarray | None = None, **options: bool
) -> tuple:
    import nibabel as nib

    if mask is None:
        mask = np.arange(-(-len(signals) // ROW) * ROW).reshape(ROW, -1, 1) < len(signals)
    image = np.ones((*mask.shape, len(bvals)))
    image[mask] = signals
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "image.nii.gz")
        nib.save(nib.Nifti1Image(mask.astype(np.float64), np.eye(4)), folder / "roi.nii.gz")
        np.savetxt(folder / "image.bval", bvals[None])
        start = time.process_time()
        fit(
            f"{folder}/image.nii.gz",
            f"{folder}/image.bval",
            "diffusive",
            roi_file=f"{folder}/roi.nii.gz",
            outbase=f"{folder}/map",
            **options,
        )
        seconds = time.process_time() - start
        maps = [nib.load(folder / f"map_{label}.nii.gz").get_fdata() for label in ("f", "D", "Dstar")]
    return *(values[mask] for values in maps), seconds


def ivimnet_optim(
    signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int, *, patient: bool = False
) -> tuple:
    """IVIM-NET optim at the settings of its package, trained on these voxels until it stops by itself.

    Its outputs are D, D* and the amplitudes of the two compartments: F and S0 are bounded through the largest
    amplitudes. It stops after 10 epochs without improvement, which are 5,000 steps when an epoch has all of
    its 500; with fewer voxels the epochs are shorter. ``patient`` waits for as many steps, not epochs.
    """
    import torch
    from IVIMNET import deep

    np.random.seed(seed)
    torch.manual_seed(seed)
    f, d, dstar, s0 = bounds
    network, training = deep.net_pars("optim"), deep.train_pars("optim")
    network.cons_min = [d[0], f[0], dstar[0], 0.0]
    network.cons_max = [d[1], f[1], dstar[1], s0[1]]
    if patient:
        steps = int(training.split * len(signals)) // training.batch_size
        training.patience = round(training.patience * max(1.0, training.maxit / max(steps, 1)))
    settings = SimpleNamespace(
        net_pars=network, train_pars=training, sim=deep.sim(), fit=deep.lsqfit(), fig=False, save_name="optim"
    )
    start = time.process_time()
    trained = deep.learn_IVIM(signals, bvals, settings)
    found_d, found_f, found_dstar, _ = deep.predict_IVIM(signals, bvals, trained, settings)
    return found_f, found_d, found_dstar, time.process_time() - start


def ivimnet_patient(signals: np.ndarray, bvals: np.ndarray, bounds: np.ndarray, seed: int) -> tuple:
    """IVIM-NET optim that is given the steps its settings were made for; 1,000 epochs are its limit."""
    return ivimnet_optim(signals, bvals, bounds, seed, patient=True)


FITS = {
    "dipy-trr": dipy_trust_region,
    "dipy-trr-200": dipy_trust_region_split_200,
    "dipy-varpro": dipy_variable_projection,
    "ivim-mri-seg": ivim_mri_segmented,
    "ivim-mri-bayes": ivim_mri_bayesian,
    "ivim-mri-spatial": ivim_mri_spatial,
    "ivimnet": ivimnet_optim,
    "ivimnet-patient": ivimnet_patient,
}


def versions() -> dict[str, str | None]:
    """Installed version of every distribution in use; None for those that are missing."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    if sys.argv[1:] == ["versions"]:
        print(json.dumps(versions()))
        return
    method, problem, result = sys.argv[1:]
    warnings.simplefilter("ignore")
    with np.load(problem) as held:
        signals, bvals, bounds = (held[name].astype(np.float64) for name in ("signals", "bvals", "bounds"))
        seed = int(held["seed"])
        place = {"mask": held["mask"]} if method == "ivim-mri-spatial" else {}
    f, d, dstar, seconds = FITS[method](signals, bvals, bounds, seed, **place)
    np.savez(result, f=f, d=d, dstar=dstar, seconds=seconds, voxels=len(signals))


if __name__ == "__main__":
    main()
