"""Averaged signals of one run -> maps, by voxelwise least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.lsq.fit import DEFAULT_BOUNDS, MAX_ITERATIONS, fit_biexponential
from sicnn_app.lsq.starts import split_bval
from sicnn_app.settings import Bounds, EstimationSettings

ALGORITHM = (
    "Bounded nonlinear least squares per voxel: a segmented fit and a grid over D and D* as starts, then "
    "Levenberg-Marquardt on the full bi-exponential"
)


def estimate(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    sigma_per_bval: np.ndarray,
    sigma: float | None = None,
    settings: EstimationSettings,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Estimate:
    """:func:`estimate_lsq` behind the interface that all estimators share; the noise is not used."""
    try:
        return estimate_lsq(signals, mask, bvals, bounds=settings.bounds, device=device, progress=progress)
    except torch.OutOfMemoryError as error:
        raise TryAgainError(f"{device} ran out of memory: free the device or use --device cpu") from error


def estimate_lsq(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    bounds: Bounds = DEFAULT_BOUNDS,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Estimate:
    """Estimate F, D, D* and S0 of every voxel by itself.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), units of the source image
        Finite inside ``mask``, and above 0 there at the lowest b-value.
    mask : ndarray, shape (X, Y, Z), bool
    bvals : ndarray, shape (B,), s/mm^2
        One signal per b-value, at least two distinct ones; for four unknowns at least four.
    bounds : Bounds
        Closed intervals; S0 relative to the signal at the lowest b-value.
    device : str
        Torch device: ``cpu``, ``cuda`` or ``cuda:N``.
    progress : callable, optional
        Called with (what is done, voxels done, voxels in all).

    Returns
    -------
    Estimate
        Its ``history`` has one row; ``epochs`` is the largest number of steps a voxel took.
    """
    y = torch.from_numpy(signals[mask].astype(np.float64)).to(device)
    b = torch.as_tensor(np.asarray(bvals, dtype=np.float64), device=device)
    normaliser = y[:, b.argmin()]
    report = None if progress is None else lambda done, total: progress("least-squares fit", done, total)
    fit = fit_biexponential(y / normaliser[:, None], b, bounds, progress=report)
    s0 = fit.s0 * normaliser
    predicted = ivim_signal_torch(b, *(value[:, None] for value in (fit.f, fit.d, fit.dstar, s0)))
    rmse = (fit.rss / len(b)).sqrt() / fit.s0
    values = {"f": fit.f, "d": fit.d, "dstar": fit.dstar, "s0": s0, "rmse": rmse}
    failed = int((~fit.converged).sum())
    iterations = int(fit.iterations.max())
    return Estimate(
        maps={label: _into_volume(value, mask, np.nan) for label, value in values.items()},
        predicted=_into_volume(predicted, mask, 0.0),
        history=[
            {
                "data_iteration": 0,
                "epochs": iterations,
                "training_loss": fit.rss.mean().item() / len(b),
                "not_converged_voxels": failed,
            }
        ],
        parameters={
            "method": "lsq",
            "bounds": {name: list(interval) for name, interval in asdict(bounds).items()},
            "normaliser": "signal at the lowest b-value",
            "split_b_value": split_bval(b),
            "max_iterations": MAX_ITERATIONS,
            "iterations_done": iterations,
            "iterations_mean": fit.iterations.double().mean().item(),
            "not_converged_share": failed / len(y),
            "stop_reason": f"iteration limit reached in {failed} of {len(y)} voxels"
            if failed
            else "converged",
        },
        algorithm=ALGORITHM,
        device=device,
    )


def _into_volume(values: torch.Tensor, mask: np.ndarray, outside: float) -> np.ndarray:
    """``values`` (shape (V,) or (V, B)) at the voxels of ``mask``, ``outside`` elsewhere; finite float32."""
    volume = np.full(mask.shape + tuple(values.shape[1:]), outside, dtype=np.float32)
    largest = np.finfo(np.float32).max
    volume[mask] = values.clamp(-largest, largest).float().cpu().numpy()
    return volume
