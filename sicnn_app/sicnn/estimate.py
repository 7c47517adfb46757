"""The public door of SI-CNN: signals, mask and b-values in; maps, history and predictions out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.normalise import normalise
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.iterate import IterationResult, iterate
from sicnn_app.sicnn.loss import noise_free_model, rician_model
from sicnn_app.sicnn.neighbours import crop_to_mask
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig
from sicnn_app.sicnn.train import EMA_DECAY, TILE_SIZE, Trainer, TrainingData

NORMALISED_LIMITS = (-1.0, 3.0)
"""Normalised signals beyond these are noise over noise (S0 is fitted within 0.5..1.5) and are clipped."""

ALGORITHM = {
    "si-cnn": "SI-CNN, reconstructed from the supplement: unsupervised convolutional network whose training "
    "signals of large fitting error are replaced by the mean observed signal of similar neighbours",
    "di-cnn": "DI-CNN, reconstructed from the supplement: unsupervised convolutional network whose training "
    "signals of large fitting error are replaced by its own predictions",
    "cnn": "Unsupervised convolutional network without rewriting of training signals",
}


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
    """Train on one subject's own images and return the maps.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B), source units
        Averaged signals; positive at the lowest b-value inside the mask.
    mask : ndarray, shape (X, Y, Z), bool
    bvals : ndarray, shape (B,), s/mm^2, ascending
    sigma_per_bval : ndarray, shape (B,), source units
        Noise standard deviation of every averaged signal.
    sigma : float, optional, source units
        Noise of a single volume; by default the largest of ``sigma_per_bval``. Used by the Rician model.
    settings : EstimationSettings
        ``method`` is one of si-cnn, di-cnn, cnn.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    progress : callable (text, done, total), optional

    Returns
    -------
    Estimate

    Raises
    ------
    TryAgainError
        When the device runs out of memory.

    Notes
    -----
    Bit-identical for one seed on one CPU model with one number of threads. On CUDA the
    convolution gradients may be summed in another order.
    """
    sigma = float(np.max(sigma_per_bval)) if sigma is None else sigma
    try:
        return _estimate(signals, mask, bvals, sigma_per_bval, sigma, settings, torch.device(device), progress)
    except torch.OutOfMemoryError as error:
        raise TryAgainError(
            f"{device} ran out of memory: lower --batch-size, free the device, or use --device cpu"
        ) from error


def _estimate(signals, mask, bvals, sigma_per_bval, sigma, settings, device, progress) -> Estimate:
    kept, box_x, box_y = crop_to_mask(torch.from_numpy(mask).permute(2, 0, 1))
    normalised, normaliser = normalise(signals, mask)

    def to_slices(values: np.ndarray) -> torch.Tensor:
        moved = torch.from_numpy(np.ascontiguousarray(values)).movedim(2, 0)[kept][:, box_x, box_y]
        return moved.to(device)

    inside = to_slices(mask)
    scale = to_slices(normaliser)
    relative_sigma = torch.where(inside, sigma / scale.clamp_min(1e-12), 0.0)
    data = TrainingData(
        signals=to_slices(normalised).movedim(-1, 1).clamp(*NORMALISED_LIMITS).contiguous(),
        mask=inside,
        normaliser=scale / scale[inside].mean(),
        sigma=relative_sigma,
        weight=_W(scale, inside),
    )
    b = torch.tensor(bvals, dtype=torch.float32, device=device)
    config = NetworkConfig(n_bvals=len(bvals), dropout=settings.dropout, bounds=settings.bounds)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.random_seed)
        trainer = Trainer(
            network=IvimNetwork(config).to(device, memory_format=torch.channels_last),
            forward_model=rician_model(b) if settings.rician else noise_free_model(b),
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            generator=torch.Generator().manual_seed(settings.random_seed),
        )
        ratio = torch.tensor(np.asarray(sigma_per_bval) / sigma, dtype=torch.float32, device=device)
        result = iterate(trainer, data, b, ratio, settings, progress)
    return _to_estimate(result, data, scale, mask, (kept, box_x, box_y), bvals, config, trainer, settings, device)


def _to_estimate(result, data, scale, mask, crop, bvals, config, trainer, settings, device) -> Estimate:
    kept, box_x, box_y = crop

    def to_volume(values: torch.Tensor, fill: float, dtype) -> np.ndarray:
        volume = np.full(mask.shape + tuple(values.shape[3:]), fill, dtype=dtype)
        part = values.cpu().numpy().astype(dtype)
        for index, z in enumerate(kept.tolist()):
            volume[box_x, box_y, z] = part[index]
        volume[~mask] = fill
        return volume

    parameters = result.parameters
    predicted = result.predicted
    residual = (predicted - data.signals).square().mean(dim=1).sqrt() / parameters.s0
    maps = {
        "f": parameters.f,
        "d": parameters.d,
        "dstar": parameters.dstar,
        "s0": parameters.s0 * scale,
        "rmse": residual,
    }
    count = result.neighbour_count
    return Estimate(
        maps={label: to_volume(values, np.nan, np.float32) for label, values in maps.items()},
        predicted=to_volume((predicted * scale[:, None]).movedim(1, -1), 0.0, np.float32),
        history=result.history,
        losses=result.losses,
        neighbour_count=None if count is None else to_volume(count, 0, np.int32),
        parameters=_describe(result, config, trainer, settings, bvals),
        algorithm=ALGORITHM[settings.method],
        device=str(device),
    )


def _describe(
    result: IterationResult,
    config: NetworkConfig,
    trainer: Trainer,
    settings: EstimationSettings,
    bvals: np.ndarray,
) -> dict:
    rewriting = settings.resolved_update_rule is not None
    return {
        "Method": settings.method,
        "Preset": settings.preset,
        "UpdateRule": settings.resolved_update_rule,
        "FittingThreshold": str(settings.fitting_threshold) if rewriting else None,
        "NeighbourThreshold": str(settings.neighbour_threshold) if settings.method == "si-cnn" else None,
        "NeighbourRadius": settings.neighbour_radius if settings.method == "si-cnn" else None,
        "NetworkInput": settings.network_input,
        "RicianModel": settings.rician,
        "Lambda": settings.lambda_,
        "Delta": settings.delta,
        "MaxIterations": settings.max_iterations,
        "LearningRate": settings.learning_rate,
        "BatchSize": settings.batch_size,
        "TileSize": TILE_SIZE,
        "Dropout": settings.dropout,
        "NetworkWidth": config.width,
        "NetworkDepth": config.depth,
        "KernelSize": config.kernel_size,
        "WeightAverageDecay": EMA_DECAY,
        "RandomSeed": settings.random_seed,
        "Bounds": {name: list(getattr(settings.bounds, name)) for name in ("f", "d", "dstar", "s0")},
        "DataIterations": len(result.history) - 1,
        "Epochs": trainer.epochs_done,
        "StopReason": result.stop_reason,
    }

import os
def _W(scale, inside):
    e=float(os.environ.get('WEXP','0'))
    top=torch.quantile(scale[inside].cpu(),0.9)
    w=(scale/top).clamp(0.05,2.0)**e*inside
    return w/w[inside].mean()
