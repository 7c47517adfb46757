"""The public door of SI-CNN: signals, mask and b-values in; maps, history and predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.normalise import normalise
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.iterate import IterationResult, iterate
from sicnn_app.sicnn.loss import noise_free_model, rician_model, voxel_weights
from sicnn_app.sicnn.neighbours import crop_to_mask
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig
from sicnn_app.sicnn.train import EMA_DECAY, TILE_SIZE, Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening

NORMALISED_LIMITS = (-1.0, 3.0)
"""Normalised signals beyond these are noise over noise (S0 is fitted within 0.5..1.5) and are clipped."""

VOXELS_PER_THREAD = 8192
"""Of an optimiser step: with less to share, CPU threads wait for one another more than they compute."""

ALGORITHM = {
    "observed-neighbours": "SI-CNN, reconstructed from the supplement: unsupervised convolutional network "
    "whose training signals of large fitting error are replaced by the mean observed signal of similar "
    "neighbours",
    "predicted-neighbours": "SI-CNN, reconstructed from the supplement: unsupervised convolutional network "
    "whose training signals of large fitting error are replaced by the mean predicted signal of similar "
    "neighbours",
    "own-prediction": "DI-CNN, reconstructed from the supplement: unsupervised convolutional network "
    "whose training signals of large fitting error are replaced by its own predictions",
    None: "Unsupervised convolutional network without rewriting of training signals",
}
"""One sentence per update rule."""


@dataclass(frozen=True)
class Box:
    """The part of the volume that the network sees: slices with mask voxels, cut to their bounding box."""

    mask: np.ndarray
    slices: torch.Tensor
    x: slice
    y: slice

    @classmethod
    def around(cls, mask: np.ndarray) -> Box:
        return cls(mask, *crop_to_mask(torch.from_numpy(mask).permute(2, 0, 1)))

    def cut(self, values: np.ndarray, device: torch.device) -> torch.Tensor:
        """(X, Y, Z, ...) -> (slices, box X, box Y, ...) on the device."""
        moved = torch.from_numpy(np.ascontiguousarray(values)).movedim(2, 0)
        return moved[self.slices][:, self.x, self.y].to(device)

    def put_back(self, values: torch.Tensor, outside: float, dtype: type) -> np.ndarray:
        """(slices, box X, box Y, ...) -> (X, Y, Z, ...) with ``outside`` wherever the mask is not."""
        volume = np.full(self.mask.shape + tuple(values.shape[3:]), outside, dtype=dtype)
        part = values.cpu().numpy().astype(dtype)
        for index, z in enumerate(self.slices.tolist()):
            volume[self.x, self.y, z] = part[index]
        volume[~self.mask] = outside
        return volume


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
    Bit-identical for one seed on one CPU model with one number of threads; steps of fewer than 16384
    voxels, the default, use one thread whatever the limit. On CUDA the
    convolution gradients may be summed in another order.
    """
    sigma_per_bval = np.asarray(sigma_per_bval, dtype=np.float64)
    # Noise-free signals have a ratio of 0 / 0 below; the smallest number makes it 0.
    sigma = max(float(sigma_per_bval.max() if sigma is None else sigma), np.finfo(np.float32).tiny)
    where = torch.device(device)
    try:
        box = Box.around(mask)
        data, scale = _training_data(signals, box, sigma, where)
        b = torch.tensor(bvals, dtype=torch.float32, device=where)
        config = NetworkConfig(n_bvals=len(bvals), dropout=settings.dropout, bounds=settings.bounds)
        with _reproducible(where, settings.random_seed):
            trainer = Trainer(
                network=IvimNetwork(config).to(where, memory_format=torch.channels_last),
                whitening=Whitening.of(data.signals, data.weight),
                forward_model=rician_model(b) if settings.rician else noise_free_model(b),
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                generator=torch.Generator().manual_seed(settings.random_seed),
            )
            ratio = torch.tensor(sigma_per_bval / sigma, dtype=torch.float32, device=where)
            with _threads(data.mask.numel() // trainer.steps_per_epoch(data) // VOXELS_PER_THREAD):
                result = iterate(trainer, data, b, ratio, settings, progress)
    except torch.OutOfMemoryError as error:
        raise TryAgainError(
            f"{device} ran out of memory: lower --batch-size, free the device, or use --device cpu"
        ) from error
    count = result.neighbour_count
    return Estimate(
        maps={
            label: box.put_back(values, np.nan, np.float32)
            for label, values in _maps(result, data, scale).items()
        },
        predicted=box.put_back((result.predicted * scale[:, None]).movedim(1, -1), 0.0, np.float32),
        history=result.history,
        losses=result.losses,
        neighbour_count=None if count is None else box.put_back(count, 0, np.int32),
        parameters=_describe(result, config, settings),
        algorithm=ALGORITHM[settings.resolved_update_rule],
        device=device,
    )


def _training_data(
    signals: np.ndarray, box: Box, sigma: float, device: torch.device
) -> tuple[TrainingData, torch.Tensor]:
    """What the network sees, and the normaliser in source units, shape (slices, box X, box Y)."""
    normalised, normaliser = normalise(signals, box.mask)
    scale = box.cut(normaliser, device)
    usable = scale > 0
    return TrainingData(
        signals=box.cut(normalised, device).movedim(-1, 1).clamp(*NORMALISED_LIMITS).contiguous(),
        mask=box.cut(box.mask, device),
        normaliser=scale / scale[usable].mean(),
        sigma=torch.where(usable, sigma / torch.where(usable, scale, 1.0), 0.0),
        weight=voxel_weights(scale),
    ), scale


def _maps(result: IterationResult, data: TrainingData, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    f, d, dstar, s0 = result.parameters
    rmse = (result.predicted - data.signals).square().mean(dim=1).sqrt() / s0
    return {"f": f, "d": d, "dstar": dstar, "s0": s0 * scale, "rmse": rmse}


@contextmanager
def _reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seeded generators and, on the CPU, deterministic algorithms; both as before afterwards."""
    on_cuda = device.type == "cuda"
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        else:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)


@contextmanager
def _threads(most: int) -> Iterator[None]:
    """At most so many CPU threads, at least one; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, most)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _describe(result: IterationResult, config: NetworkConfig, settings: EstimationSettings) -> dict:
    rewriting = settings.resolved_update_rule is not None
    similar = settings.method == "si-cnn"
    return {
        "method": settings.method,
        "preset": settings.preset,
        "update_rule": settings.resolved_update_rule,
        "fitting_threshold": str(settings.fitting_threshold) if rewriting else None,
        "neighbour_threshold": str(settings.neighbour_threshold) if similar else None,
        "neighbour_radius": settings.neighbour_radius if similar else None,
        "network_input": settings.network_input if rewriting else None,
        "rician_model": settings.rician,
        "lambda": settings.lambda_ if rewriting else None,
        "delta": settings.delta if rewriting else None,
        "max_iterations": settings.max_iterations,
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "tile_size": TILE_SIZE,
        "dropout": settings.dropout,
        "network_width": config.width,
        "network_depth": config.depth,
        "kernel_size": config.kernel_size,
        "weight_average_decay": EMA_DECAY,
        "normaliser": "signal at the lowest b-value",
        "random_seed": settings.random_seed,
        "bounds": {name: list(interval) for name, interval in asdict(settings.bounds).items()},
        "data_iterations": len(result.history) - 1,
        "epochs": sum(row["epochs"] for row in result.history),
        "stop_reason": result.stop_reason,
    }
