"""Worker of :mod:`benchmarks.peers`: one IVIM fit, in the environment and the process of its own.

    PYTHON benchmarks/peers/worker.py versions NAME ...
    PYTHON benchmarks/peers/worker.py METHOD problem.npz result.npz

What the problem holds is said by :func:`benchmarks.peers.fits.fit_peer`. The result has ``f``, ``d`` and
``dstar`` (shape (V,)) as the fit returned them, ``seconds`` of the processor without imports, those of a
``training`` that needs none of these signals, ``epochs`` of a network of the app, and the highest ``memory``
of the process, GB. Environments here do not have the app, whose methods are in ``app.py``.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np

TYPICAL_S0 = 1000.0
"""What normalised signals are multiplied by for dipy, whose default steps expect an S0 of that size."""

ROW = 100
"""Voxels per image row in files for ivim-mri; NIfTI has no axis longer than 32,767."""

SNRS = (10, 20, 50, 100)
"""Signal-to-noise ratios that a network is trained for on simulations: the nearest of them is taken."""


def dipy_trust_region(problem: SimpleNamespace, **options: float) -> dict:
    """dipy's two-stage trust region at its defaults, or other ``options``, within all the bounds."""
    f, d, dstar, s0 = problem.bounds
    lower, upper = np.array([TYPICAL_S0 * s0, f, dstar, d]).T.tolist()
    return _dipy(problem, fit_method="trr", bounds=(lower, upper), **options)


def dipy_trust_region_split_200(problem: SimpleNamespace) -> dict:
    """The same, but the start of D is fitted from b = 200 s/mm^2 on, where ivim-mri begins too.

    From dipy's 400 on, the schemes here have two or three b-values, and most fits never leave a bad start.
    """
    return dipy_trust_region(problem, split_b_D=200.0)


def dipy_variable_projection(problem: SimpleNamespace) -> dict:
    """dipy's variable projection at its defaults; its S0 and its first search have no bounds to set.

    That search is fixed to D* in 0.005..0.01 and D in 0.0001..0.001 mm^2/s.
    """
    f, d, dstar, _ = problem.bounds
    lower, upper = np.array([f, dstar, d]).T.tolist()
    return _dipy(problem, fit_method="VarPro", bounds=(lower, upper))


def _dipy(problem: SimpleNamespace, **options) -> dict:
    from dipy.core.gradients import gradient_table
    from dipy.reconst.ivim import IvimModel

    bvals = problem.bvals
    bvecs = np.tile([1.0, 0.0, 0.0], (len(bvals), 1))
    bvecs[bvals == 0] = 0
    table = gradient_table(bvals, bvecs=bvecs, b0_threshold=0)
    model = IvimModel(table, **options)
    signals = TYPICAL_S0 * problem.signals / problem.signals[:, [bvals.argmin()]]
    found = np.full((len(signals), 3), np.nan)
    start = time.process_time()
    for row, signal in zip(found, signals, strict=True):
        try:
            fit = model.fit(signal)
            row[:] = fit.perfusion_fraction, fit.D, fit.D_star
        except Exception:
            # Whatever a solver raises in one voxel, the others are fitted; this one stays NaN and is counted.
            continue
    return {"seconds": time.process_time() - start, **dict(zip(("f", "d", "dstar"), found.T, strict=True))}


def ivim_mri_segmented(problem: SimpleNamespace) -> dict:
    """ivim-mri's segmented fit at its defaults: D within 0..0.003, D* within 0.003..0.1 mm^2/s, fixed."""
    from ivim.fit import seg

    return _ivim_mri(problem, seg)


def ivim_mri_bayesian(problem: SimpleNamespace, **options: bool) -> dict:
    """ivim-mri's posterior means at its defaults: D within 0..0.003, D* within 0..1 mm^2/s, fixed.

    Its D* is what exceeds the diffusion of blood, which is added here.
    """
    from ivim.constants import Db
    from ivim.fit import bayes

    found = _ivim_mri(problem, bayes, **options)
    return {**found, "dstar": found["dstar"] + Db}


def ivim_mri_spatial(problem: SimpleNamespace) -> dict:
    """The same with its prior that four neighbours in the slice are alike."""
    return ivim_mri_bayesian(problem, spatial_prior=True)


def _ivim_mri(problem: SimpleNamespace, fit, **options: bool) -> dict:
    import nibabel as nib

    mask = problem.mask
    if "spatial_prior" not in options:
        # Voxel by voxel: in rows, which has the images no larger than what is fitted.
        count = len(problem.signals)
        mask = np.arange(-(-count // ROW) * ROW).reshape(ROW, -1, 1) < count
    image = np.ones((*mask.shape, len(problem.bvals)))
    image[mask] = problem.signals
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "image.nii.gz")
        nib.save(nib.Nifti1Image(mask.astype(np.float64), np.eye(4)), folder / "roi.nii.gz")
        np.savetxt(folder / "image.bval", problem.bvals[None])
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
        names = {"f": "f", "d": "D", "dstar": "Dstar"}
        maps = {
            label: nib.load(folder / f"map_{name}.nii.gz").get_fdata()[mask] for label, name in names.items()
        }
    return {**maps, "seconds": seconds}


def ivimnet_optim(problem: SimpleNamespace, *, patient: bool = False) -> dict:
    """IVIM-NET optim at the settings of its package, trained on these voxels until it stops by itself.

    Its outputs are D, D* and the amplitudes of the two compartments: F and S0 are bounded through the largest
    amplitudes. It stops after 10 epochs without improvement, which are 5,000 steps when an epoch has all of
    its 500; with fewer voxels the epochs are shorter. ``patient`` waits for as many steps, not epochs.
    """
    import torch
    from IVIMNET import deep

    torch.manual_seed(problem.seed)
    signals, bvals = problem.signals, problem.bvals
    f, d, dstar, s0 = problem.bounds
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
    return {"f": found_f, "d": found_d, "dstar": found_dstar, "seconds": time.process_time() - start}


def ivimnet_patient(problem: SimpleNamespace) -> dict:
    """IVIM-NET optim that is given the steps its settings were made for; 1,000 epochs are its limit."""
    return ivimnet_optim(problem, patient=True)


def super_ivim_dc(problem: SimpleNamespace) -> dict:
    """SUPER-IVIM-DC at the settings of its package, trained on its own simulations for these b-values.

    It learns D in 0.0005..0.003, F in 0.05..0.55 and D* in 0.01..0.1 mm^2/s, fixed, at the one of
    :data:`SNRS` that is nearest to that of the signals before denoising. A network is trained once per
    b-values and SNR, and stays in the folder ``kept``. The package's inference leaves voxels out without
    saying which; here its network predicts them all.
    """
    import torch
    from super_ivim_dc.IVIMNET import deep
    from super_ivim_dc.source.hyperparams import hyperparams
    from super_ivim_dc.train import train

    torch.manual_seed(problem.seed)
    bvals = problem.bvals
    normalised = problem.signals / problem.signals[:, [bvals.argmin()]]
    before = "evidence_" if hasattr(problem, "evidence_signals") else ""
    level, noise = (getattr(problem, before + name)[:, bvals.argmin()] for name in ("signals", "noise"))
    snr = min(SNRS, key=lambda one: abs(np.log(one / np.median(level / noise))))
    folder = Path(problem.kept)
    stem = "_".join(["super-ivim-dc", str(snr), str(problem.seed), *(f"{b:g}" for b in bvals)])
    told = folder / f"{stem}.json"
    if not told.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        train(snr, bvals, ivimnet=False, super_ivim_dc_filename=stem, work_dir=str(folder))
        told.write_text(json.dumps({"training": time.process_time() - start}), encoding="utf-8")
    start = time.process_time()
    network = deep.Net(torch.tensor(bvals, dtype=torch.float32), hyperparams("sim").net_pars)
    network.load_state_dict(torch.load(folder / f"{stem}.pt"))
    network.eval()
    with torch.no_grad():
        _, d, f, dstar, _ = network(torch.tensor(normalised, dtype=torch.float32))
    maps = {"f": f, "d": d, "dstar": dstar}
    found = {label: values.numpy().ravel() for label, values in maps.items()}
    return {**found, "seconds": time.process_time() - start, **json.loads(told.read_text(encoding="utf-8"))}


FITS = {
    "dipy-trr": dipy_trust_region,
    "dipy-trr-200": dipy_trust_region_split_200,
    "dipy-varpro": dipy_variable_projection,
    "ivim-mri-seg": ivim_mri_segmented,
    "ivim-mri-bayes": ivim_mri_bayesian,
    "ivim-mri-spatial": ivim_mri_spatial,
    "ivimnet": ivimnet_optim,
    "ivimnet-patient": ivimnet_patient,
    "super-ivim-dc": super_ivim_dc,
}


def versions(names: list[str]) -> dict[str, str | None]:
    """Installed version of distributions; None for those that are missing."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def peak_memory() -> float:
    """Highest resident memory of this process so far, GB.

    What the system calls a process's maximum has that of its parent in it, where the kernel tells no better.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(fits: dict[str, Callable[[SimpleNamespace], dict]]) -> None:
    if sys.argv[1] == "versions":
        print(json.dumps(versions(sys.argv[2:])))
        return
    method, problem, result = sys.argv[1:]
    warnings.simplefilter("ignore")
    with np.load(problem) as held:
        # Numbers and words are arrays of no dimension there.
        given = SimpleNamespace(
            **{name: held[name] if held[name].ndim else held[name].item() for name in held}
        )
    np.random.seed(given.seed)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        found = fits[method](given)
    np.savez(result, **{"training": 0.0, "epochs": 0, "memory": peak_memory(), **found})


if __name__ == "__main__":
    main(FITS)
