"""Averaged signals of one run -> maps, by voxelwise least squares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.lsq.fit import CHUNK_ELEMENTS, DEFAULT_BOUNDS, MAX_ITERATIONS, LsqFit, fit_biexponential
from sicnn_app.lsq.misfit import signal_weights
from sicnn_app.lsq.starts import split_bval
from sicnn_app.methods import LEAST_SQUARES
from sicnn_app.settings import Bounds, EstimationSettings
from sicnn_app.system.device import first_that_fits

ALGORITHM = (
    "Bounded nonlinear least squares per voxel: a segmented fit and a grid over D and D* as starts, then "
    "Levenberg-Marquardt on the full bi-exponential"
)

WEIGHTS = "inverse variance: noise, and what the averages of a region are off the bi-exponential by"

CHUNK_SHARES = (1.0, 0.125, 0.015625)
"""Of the usual number of voxels fitted at once: what is tried before a device counts as too small."""

PREDICTED_AT_ONCE = 2**15
"""Voxels."""

FIXED_BYTES = 30_000_000
"""Libraries that the fit loads, and the starts of a part."""

CHUNK_VOXEL_BYTES = 1_300
"""Per voxel of those that a thread fits at once: exponentials, gradients and Hessians."""

FITTED_BYTES = 26
"""Per voxel of the mask and b-value: signals and weights in float64, the prediction, and what the allocator
keeps."""

VOXEL_BYTES = 120
"""Per voxel of the mask: parameters, residuals and counts in float64, and their parts before joining."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Attempt:
    """One way to fit: where, and the share of the usual number of voxels at once."""

    device: str
    share: float

    def __str__(self) -> str:
        return f"{self.share:.3g} of the usual number of voxels at once"


def estimate(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    noise: np.ndarray,
    volumes: np.ndarray | None = None,
    settings: EstimationSettings,
    device: str = "cpu",
    progress: Progress | None = None,
    fall_back: bool = False,
    memory_limit: int | None = None,
    **_of_trainings: object,
) -> Estimate:
    """:func:`estimate_lsq` behind the interface :class:`sicnn_app.methods.Estimator`.

    Its checkpoint, start and resampling are not used: nothing is trained. When the device runs out of
    memory, fewer voxels are fitted at once and then, with ``fall_back``, the CPU takes over.

    Raises
    ------
    TryAgainError
        When the memory does not suffice for any of that, or ``memory_limit`` (bytes besides what the process
        holds) not for the fit.
    """
    needed = needed_bytes(mask.shape, len(bvals), settings, voxels=int(mask.sum()))
    if memory_limit is not None and needed > memory_limit:
        raise TryAgainError(
            f"the fit takes about {needed / 1e9:.2g} GB of memory, and {max(memory_limit, 0) / 1e9:.2g} are "
            "left for it: allow more (--mem, or the limit of the container or job)"
        )
    devices = [device, "cpu"] if fall_back and torch.device(device).type == "cuda" else [device]

    fit = partial(
        estimate_lsq,
        signals,
        mask,
        bvals,
        noise=noise,
        volumes=volumes,
        bounds=settings.bounds,
        progress=progress,
    )
    found, _, given_up = first_that_fits(
        (Attempt(where, share) for where in devices for share in CHUNK_SHARES),
        lambda way, _: fit(device=way.device, chunk_share=way.share),
        _no_memory,
    )
    return replace(found, parameters={**found.parameters, "out_of_memory": given_up})


def _no_memory(way: Attempt) -> str:
    advice = "use a machine with more" if way.device == "cpu" else "free it, or use --device cpu or auto"
    return f"{way.device} ran out of memory even with few voxels at once: {advice}"


def needed_bytes(
    shape: tuple[int, int, int], n_bvals: int, _settings: EstimationSettings, *, voxels: int | None = None
) -> int:
    """Host memory, bytes, that :func:`estimate` takes besides its arguments for a volume of this shape.

    ``voxels`` are those in the mask, by default all. Measured peaks lie between 0.65 and 1.15 times this.
    """
    everywhere = math.prod(shape)
    voxels = everywhere if voxels is None else voxels
    return (
        FIXED_BYTES
        + CHUNK_VOXEL_BYTES * min(voxels, torch.get_num_threads() * CHUNK_ELEMENTS["cpu"] // n_bvals)
        + FITTED_BYTES * voxels * n_bvals
        + VOXEL_BYTES * voxels
        + np.dtype(np.float32).itemsize * everywhere * (n_bvals + len(MAPS))
    )


def estimate_lsq(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    noise: np.ndarray | None = None,
    volumes: np.ndarray | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    device: str = "cpu",
    chunk_share: float = 1.0,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate F, D, D* and S0 of every voxel by itself.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), units of the source image
        Finite inside ``mask``, and above 0 there at the lowest b-value.
    bvals : ndarray, shape (B,), s/mm^2
        At least two distinct ones; for four unknowns at least four.
    noise : ndarray, shape (X, Y, Z, B) or (B,), optional
        Standard deviation of the signals from the truth; with it they are weighed, see
        :func:`sicnn_app.lsq.misfit.signal_weights`.
    volumes : ndarray, shape (B,), optional
        As for :meth:`sicnn_app.methods.Estimator.estimate`.
    chunk_share : float
        Of the usual number of voxels fitted at once.
    progress : callable (text, voxels done, voxels in all), optional

    Returns
    -------
    Estimate
        Its ``history`` has one row; ``iterations`` is the largest number of steps a voxel took.
    """
    y = torch.from_numpy(signals[mask]).to(device, torch.float64)
    b = torch.as_tensor(np.asarray(bvals, dtype=np.float64), device=device)
    normaliser = y[:, b.argmin()].clone()
    y /= normaliser[:, None]
    report = None if progress is None else lambda done, total: progress("least-squares fit", done, total)
    weights = None
    if noise is not None:
        weights = signal_weights(signals, mask, b.cpu(), np.asarray(noise), volumes, bounds)
    fit = fit_biexponential(y, b, bounds, weights=weights, chunk_share=chunk_share, progress=report)
    s0 = fit.s0 * normaliser
    predicted = _predicted(b, fit, s0)
    rss = fit.rss if weights is None else _squares(y, predicted, normaliser)
    weighed = "none" if weights is None else WEIGHTS
    del y, weights
    rmse = (rss / len(b)).sqrt() / fit.s0
    values = {"f": fit.f, "d": fit.d, "dstar": fit.dstar, "s0": s0, "rmse": rmse}
    voxels = len(s0)
    failed = int((~fit.converged).sum())
    stop_reason = f"iteration limit reached in {failed} of {voxels} voxels" if failed else "converged"
    iterations = int(fit.iterations.max())
    return Estimate(
        maps={label: _into_volume(value, mask, np.nan) for label, value in values.items()},
        predicted=_into_volume(predicted, mask, 0.0),
        history=[
            {
                "data_iteration": 0,
                "iterations": iterations,
                "training_loss": rss.mean().item() / len(b),
                "not_converged_voxels": failed,
            }
        ],
        parameters={
            "method": LEAST_SQUARES,
            "bounds": {name: list(interval) for name, interval in asdict(bounds).items()},
            "b_value_weights": weighed,
            "normaliser": "signal at the lowest b-value",
            "split_b_value": split_bval(b),
            "max_iterations": MAX_ITERATIONS,
            "iterations_done": iterations,
            "iterations_mean": fit.iterations.double().mean().item(),
            "not_converged_share": failed / voxels,
            "stop_reason": stop_reason,
        },
        algorithm=ALGORITHM,
        device=device,
    )


def _predicted(bvals: Tensor, fit: LsqFit, s0: Tensor) -> Tensor:
    """Predicted signals, shape (V, B), float32; voxels in parts, because float64 takes several copies."""
    parts = zip(
        *(torch.split(values, PREDICTED_AT_ONCE) for values in (fit.f, fit.d, fit.dstar, s0)), strict=True
    )
    return torch.cat(
        [_float32(ivim_signal_torch(bvals, *(values[:, None] for values in part))) for part in parts]
    )


def _squares(signals: Tensor, predicted: Tensor, normaliser: Tensor) -> Tensor:
    """Residual sum of squares of normalised signals, shape (V,), float64; voxels in parts."""
    parts = zip(
        *(torch.split(one, PREDICTED_AT_ONCE) for one in (signals, predicted, normaliser)), strict=True
    )
    return torch.cat([(y - found / level[:, None]).square().sum(dim=1) for y, found, level in parts])


def _float32(values: Tensor) -> Tensor:
    largest = torch.finfo(torch.float32).max
    return values.clamp(-largest, largest).float()


def _into_volume(values: Tensor, mask: np.ndarray, outside: float) -> np.ndarray:
    """``values`` (shape (V,) or (V, B)) at the voxels of ``mask``, ``outside`` elsewhere; finite float32."""
    volume = np.full(mask.shape + tuple(values.shape[1:]), outside, dtype=np.float32)
    volume[mask] = _float32(values).cpu().numpy()
    return volume
