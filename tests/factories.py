"""Synthetic runs for tests: a small BIDS dataset on disk and the result of processing it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.ivim.flags import doubts, flag_voxels
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.own_signals import objections
from sicnn_app.ivim.run import DwiRun, RunResult, SourceImage
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps

BVALS = (0.0, 10.0, 50.0, 100.0, 400.0, 800.0)
SIGMA = 20.0
BOUNDS = {"f": (0.0, 1.0), "d": (0.0, 0.005), "dstar": (0.005, 0.2), "s0": (0.5, 1.5)}


def oblique_affine(zooms: tuple[float, float, float] = (2.0, 2.5, 4.0)) -> np.ndarray:
    """Affine, shape (4, 4), mm, of a grid rotated about two axes."""
    a, b = np.deg2rad(20.0), np.deg2rad(-11.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(zooms)
    affine[:3, 3] = (-11.0, 23.5, 7.25)
    return affine


def source_header(
    shape: tuple[int, int, int, int],
    *,
    affine: np.ndarray | None = None,
    sform_code: int = 1,
    qform_code: int = 1,
    repetition_time: float = 3.5,
    dtype: type = np.int16,
) -> nib.Nifti1Header:
    """Header of a scanner-like DWI file; codes of 0 leave that transform unset."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    affine = oblique_affine() if affine is None else affine
    header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), repetition_time))
    header.set_xyzt_units("mm", "sec")
    if qform_code:
        header.set_qform(affine, code=qform_code)
    if sform_code:
        header.set_sform(affine, code=sform_code)
    return header


def write_source(
    bids_dir: Path,
    entities: dict[str, str],
    data: np.ndarray,
    bvals: np.ndarray,
    *,
    bvecs: np.ndarray | None = None,
    header: nib.Nifti1Header | None = None,
    metadata: dict | None = None,
) -> SourceImage:
    """Write one DWI image with its .bval, .json (and .bvec) below ``bids_dir``.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z, N)
    bvals : ndarray, shape (N,), s/mm^2
    bvecs : ndarray, shape (N, 3), or None
    """
    folder = bids_dir / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    folder /= "dwi"
    folder.mkdir(parents=True, exist_ok=True)
    description = bids_dir / "dataset_description.json"
    if not description.exists():
        description.write_text(json.dumps({"Name": "test", "BIDSVersion": "1.11.1", "License": "CC0"}))
    stem = folder / ("_".join(f"{key}-{label}" for key, label in entities.items()) + "_dwi")
    metadata = {"EchoTime": 0.07, "RepetitionTime": 3.5} if metadata is None else metadata
    header = source_header(data.shape) if header is None else header
    image, bval, sidecar = (stem.with_name(stem.name + end) for end in (".nii.gz", ".bval", ".json"))
    nib.Nifti1Image(data.astype(header.get_data_dtype()), None, header).to_filename(image)
    np.savetxt(bval, bvals[None], fmt="%g")
    sidecar.write_text(json.dumps(metadata))
    bvec = None
    if bvecs is not None:
        bvec = stem.with_name(stem.name + ".bvec")
        np.savetxt(bvec, bvecs.T, fmt="%.6f")
    return SourceImage(image=image, bval=bval, bvec=bvec, sidecars=(sidecar,), metadata=metadata)


def make_result(
    tmp_path: Path,
    *,
    entities: dict[str, str] | None = None,
    shape: tuple[int, int, int] = (9, 8, 3),
    bvals: tuple[float, ...] = BVALS,
    repeats: int = 2,
    with_bvecs: bool = True,
    anatomy: str = "body",
    header: nib.Nifti1Header | None = None,
    mask: Path | None = None,
    preprocessed: bool = False,
    method: str = "si-cnn",
    iterations: int = 3,
    ensemble: bool = False,
    comparison: bool = False,
    seed: int = 0,
) -> RunResult:
    """A finished run with random but consistent numbers; its source files exist in ``tmp_path/bids``.

    Parameters
    ----------
    tmp_path : Path
        Folder that gets (or has) the dataset ``bids``.
    entities : dict, optional
        Short entity keys in BIDS order; ``{"sub": "01"}`` by default.
    shape : tuple of int
        Spatial shape.
    bvals : tuple of float
        Distinct b-values, s/mm^2, each measured ``repeats`` times.
    header : nibabel header, optional
        Header of the source image; an oblique one by default.
    mask : Path, optional
        Mask from a derivative dataset.
    ensemble : bool
        Add the standard deviation of f, d and dstar over an ensemble.
    comparison : bool
        Add a conventional fit: the maps, each value up to a fifth larger or smaller.
    """
    rng = np.random.default_rng(seed)
    entities = {"sub": "01"} if entities is None else entities
    volume_bvals = np.repeat(np.asarray(bvals, dtype=np.float64), repeats)
    bvecs = None
    if with_bvecs:
        bvecs = rng.normal(size=(volume_bvals.size, 3))
        bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
        bvecs[volume_bvals == 0] = 0.0
    header = source_header((*shape, volume_bvals.size)) if header is None else header

    inside = np.zeros(shape, dtype=bool)
    inside[1:-1, 1:-1] = True
    truth = {
        "f": rng.uniform(0.0, 0.4, shape),
        "d": rng.uniform(0.0005, 0.003, shape),
        "dstar": rng.uniform(0.01, 0.1, shape),
        "s0": rng.uniform(400.0, 800.0, shape),
    }
    predicted = np.where(inside[..., None], ivim_signal_maps(np.asarray(bvals), **truth), 0.0)
    noisy = np.repeat(predicted, repeats, axis=3)
    noisy = noisy + rng.normal(0.0, SIGMA, noisy.shape)
    averaged = np.where(inside[..., None], noisy.reshape(*shape, len(bvals), repeats).mean(axis=4), 0.0)
    residual = np.sqrt(np.mean((averaged - predicted) ** 2, axis=3)) / truth["s0"]
    maps = {**truth, "rmse": residual}
    if ensemble:
        largest = {"f": 0.01, "d": 1e-4, "dstar": 0.01}
        maps |= {f"{label}_std": rng.uniform(0.0, most, shape) for label, most in largest.items()}
    maps = {label: np.where(inside, values, np.nan).astype(np.float32) for label, values in maps.items()}
    neighbours = np.where(inside, rng.integers(1, 20, shape), 0)

    noise = np.where(inside[..., None], SIGMA / np.sqrt(repeats), 0.0) * np.ones(len(bvals), np.float32)
    against = objections(averaged, noise, np.asarray(bvals), maps, inside)
    reasons = doubts(maps, inside, BOUNDS, SIGMA, against, neighbours, averaged[..., 0])
    flags, flag_counts = flag_voxels(reasons)
    source = write_source(tmp_path / "bids", entities, noisy, volume_bvals, bvecs=bvecs, header=header)
    history = [
        {
            "data_iteration": k,
            "epochs": 10 + k,
            "training_loss": 0.01 / (k + 1),
            "noisy_loss": 0.012 / (k + 1),
            "training_signal_change": 0.1 / (k + 1),
            "replaced_fraction": 0.3 / (k + 1),
            "mean_neighbours": 7.5,
            "fitting_error": 0.02,
            "learning_rate": 1e-3,
        }
        for k in range(iterations)
    ]
    losses = [(k, e, 0.01 / (1 + e + 10 * k)) for k in range(iterations) for e in range(10 + k)]
    estimate = Estimate(
        maps=maps,
        predicted=predicted.astype(np.float32),
        history=history,
        parameters={
            "method": method,
            "bounds": {label: list(interval) for label, interval in BOUNDS.items()},
            "data_iterations": iterations - 1,
            "stop_reason": "the relative change of the training signals fell below lambda",
            "random_seed": seed,
        },
        algorithm="Random numbers of a test",
        losses=losses,
        neighbour_count=neighbours,
    )
    conventional = None
    if comparison:
        other = np.random.default_rng(seed + 1)
        conventional = replace(
            estimate,
            maps={
                label: (values * other.uniform(0.8, 1.2, shape)).astype(np.float32)
                for label, values in maps.items()
            },
            parameters={"method": "lsq", "bounds": estimate.parameters["bounds"]},
            algorithm="Least squares of a test",
        )
    return RunResult(
        run=DwiRun(entities=entities, parts=(source,), mask=mask, preprocessed=preprocessed),
        header=header,
        series=DwiSeries(
            signals=noisy.astype(np.float32),
            bvals=volume_bvals,
            bvecs=bvecs,
            affine=header.get_best_affine(),
        ),
        averaged=AveragedSignals(
            signals=averaged.astype(np.float32),
            bvals=np.asarray(bvals, dtype=np.float64),
            mask=inside,
            repeats=np.full(len(bvals), repeats),
            directions=np.full(len(bvals), repeats if with_bvecs else 1),
            sigma=SIGMA,
            noise=noise,
            sigma_method="difference of repeats",
        ),
        estimate=estimate,
        flags=flags,
        flag_counts=flag_counts,
        anatomy=anatomy,
        anatomy_source="BodyPart ABDOMEN",
        mask_source=str(mask) if mask else "threshold of the image at the lowest b-value",
        steps=[{"Name": "denoise", "Description": "MP-PCA denoising", "PatchRadius": 2}],
        warnings=["sub-01_dwi.bvec is missing: all volumes of one b-value count as repeats"],
        settings={"method": method, "anatomy": anatomy, "max_bval": 1000.0, "random_seed": seed},
        fingerprint="a" * 64,
        conventional=conventional,
    )
