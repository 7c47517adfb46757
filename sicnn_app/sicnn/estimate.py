"""The public door of SI-CNN: signals, mask and b-values in; maps, history and predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sicnn_app.ivim.maps import Estimate, Observation
from sicnn_app.ivim.resampling import Resample, add_noise
from sicnn_app.ivim.series import Evidence
from sicnn_app.settings import EstimationSettings
from sicnn_app.sicnn.cropping import Box, training_data
from sicnn_app.sicnn.ensemble import ensemble_data, ensemble_parameters, together
from sicnn_app.sicnn.iterate import IterationResult, Observe, Progress, Save, iterate
from sicnn_app.sicnn.loss import ForwardModel, bval_weights, held_out_patches, noise_free_model, rician_model
from sicnn_app.sicnn.memory_fallback import Attempt, needed_bytes, train_what_fits, within_limit
from sicnn_app.sicnn.network import NetworkConfig, Parameters
from sicnn_app.sicnn.refinement import refined_maps
from sicnn_app.sicnn.reproducible import reproducible, threads_for
from sicnn_app.sicnn.stacked_networks import build_network
from sicnn_app.sicnn.study_network import StudyNetwork, scope_parameters
from sicnn_app.sicnn.train import EMA_DECAY, Trainer, TrainingData
from sicnn_app.sicnn.whitening import Whitening
from sicnn_app.system.checkpoints import TrainingCheckpoint

__all__ = ["estimate", "needed_bytes"]

_REWRITING = (
    "{}, reconstructed from the supplement: unsupervised convolutional network whose training signals of "
    "large fitting error are replaced by {}"
)
ALGORITHM = {
    "observed-neighbours": _REWRITING.format("SI-CNN", "the mean observed signal of similar neighbours"),
    "predicted-neighbours": _REWRITING.format("SI-CNN", "the mean predicted signal of similar neighbours"),
    "own-prediction": _REWRITING.format("DI-CNN", "its own predictions"),
    None: "Unsupervised convolutional network without rewriting of training signals",
}
"""One sentence per update rule."""

LEAST_LEFT = 1e-3
"""Of noise; less was all of it."""


@dataclass(frozen=True)
class Problem:
    """Data and settings of an estimation, the same for every attempt.

    Tensors are on the CPU; ``sigma_ratio`` is the noise of the averaged signals relative to the largest.
    """

    data: TrainingData
    bvals: np.ndarray
    sigma_ratio: np.ndarray
    settings: EstimationSettings
    start: StudyNetwork | None

    def contents(self) -> Iterator[bytes | np.ndarray]:
        """All that decides the bits of the result, besides the settings."""
        yield from (values.numpy() for values in self.data)
        for array in (self.bvals, self.sigma_ratio):
            yield np.ascontiguousarray(array, dtype=np.float64)
        if self.start is not None:
            yield self.start.digest()


def estimate(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    noise: np.ndarray,
    volumes: np.ndarray | None = None,
    sigma: float | None = None,
    settings: EstimationSettings,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    fall_back: bool = False,
    memory_limit: int | None = None,
    start: StudyNetwork | None = None,
    resample: Resample | None = None,
    observe: Callable[[Observation], None] | None = None,
    evidence: Evidence | None = None,
) -> Estimate:
    """Train on one subject's own images and return the maps.

    What :meth:`sicnn_app.methods.Estimator.estimate` says of its parameters is not said again.

    Parameters
    ----------
    sigma : float, optional, source units
        By default the largest of ``noise``. Used by the Rician model.
    checkpoint : TrainingCheckpoint, optional
        Where an earlier process left the state of the same training, this one goes on from there, with
        bit for bit the result of one that was not interrupted. The caller removes it in the end.
    start : StudyNetwork, optional
        Has the whitening as well; by default it is that of these signals.
    resample : callable (numpy Generator), optional
        By default the signals with as much noise again.
    observe : callable, optional
        Sees what the training has come to after every data iteration, of ``cnn`` after the first epoch and
        every tenth; of an ensemble the means over its members. Not called again for what happened before an
        interruption.

    Returns
    -------
    Estimate
        Its ``device`` is where the training ended. Its ``parameters`` hold ``batch_size`` and ``tile_size``
        as used, and ``out_of_memory``: what was given up for want of memory, one line each.

    Raises
    ------
    TryAgainError
        When the memory is too small for the smallest batches and tiles.

    Notes
    -----
    Thresholds in sigma go by the stated noise, a mean over b-values. The more volumes there are, the more of
    what MP-PCA leaves looks like a change of D or F and moves predicted curves: too few voxels would be
    similar. A neighbour threshold of None is therefore as many times larger as ``evidence`` has more noise
    left in the shape of decays than over all b-values, where it has.

    Bit-identical for one seed on one CPU model with one number of threads; steps of fewer than 16384 voxels,
    the default, use one thread whatever the limit. On CUDA the convolution gradients may be summed in another
    order. Smaller batches or tiles change the numbers.
    """
    noise = np.asarray(noise)
    # Noise-free signals have a ratio of 0 / 0 below; the smallest number makes it 0.
    sigma = max(float(noise.max() if sigma is None else sigma), torch.finfo(torch.float32).tiny)
    if evidence is None:
        evidence = Evidence(signals, noise, "the same signals")
    if settings.neighbour_threshold is None:
        usual = settings.resolved_neighbour_threshold
        raised = usual.value * max(1.0, evidence.left_in_shape / max(evidence.left, LEAST_LEFT))
        settings = replace(settings, neighbour_threshold=replace(usual, value=round(raised, 3)))
    # A function of its own: what a training takes of memory is free again when the maps are refined.
    found = _by_networks(
        signals,
        mask,
        bvals,
        noise=noise,
        volumes=volumes,
        sigma=sigma,
        settings=settings,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        fall_back=fall_back,
        memory_limit=memory_limit,
        start=start,
        resample=resample,
        observe=observe,
    )
    left = {"noise_left_by_denoising": evidence.left, "noise_left_in_shape": evidence.left_in_shape}
    found = replace(found, parameters={**found.parameters, **left})
    if settings.resolved_refinement == "none":
        return found
    return refined_maps(
        found, signals, mask, bvals, noise, sigma, settings=settings, evidence=evidence, progress=progress
    )


def _by_networks(
    signals: np.ndarray,
    mask: np.ndarray,
    bvals: np.ndarray,
    *,
    noise: np.ndarray,
    volumes: np.ndarray | None,
    sigma: float,
    settings: EstimationSettings,
    device: str,
    progress: Progress | None,
    checkpoint: TrainingCheckpoint | None,
    fall_back: bool,
    memory_limit: int | None,
    start: StudyNetwork | None,
    resample: Resample | None,
    observe: Callable[[Observation], None] | None,
) -> Estimate:
    """What :func:`estimate` does but for the refinement."""
    box = Box.around(mask)
    first = within_limit(Attempt(device, settings.batch_size), box.shape, len(bvals), settings, memory_limit)
    measured, scale = training_data(signals, box, sigma, noise)
    data, scales = measured, scale
    if settings.ensemble > 1:
        resample = resample or partial(add_noise, signals, mask, noise)
        data, scales = ensemble_data(signals, box, sigma, noise, settings, resample)
    problem = Problem(data, np.asarray(bvals), _noise_ratio(noise, mask, volumes), settings, start)
    watch = observe and _in_volumes(observe, box, scales, settings.ensemble)
    result, used, given_up = train_what_fits(
        lambda way, save, saved: _train(problem, way, progress, save, saved, watch),
        problem.contents(),
        first=first,
        shape=box.shape,
        n_bvals=len(bvals),
        settings=settings,
        no_memory=partial(_no_memory, members=settings.ensemble),
        checkpoint=checkpoint,
        fall_back=fall_back,
        memory_limit=memory_limit,
        again=progress and (lambda way: progress(f"out of memory: again on {way.device}, {way}", 0, 1)),
    )
    forward_model = _forward_model(torch.tensor(problem.bvals, dtype=torch.float32), settings)
    maps, predicted, count, at_bound = together(
        result, scales, settings.ensemble, measured, scale, forward_model, settings.bounds
    )
    return Estimate(
        maps={label: box.put_back(values, np.nan, np.float32) for label, values in maps.items()},
        predicted=box.put_back(predicted.movedim(1, -1), 0.0, np.float32),
        history=result.history,
        losses=result.losses,
        validation_losses=result.validation_losses,
        neighbour_count=None if count is None else box.put_back(count, 0, np.int32),
        members_at_bound=None if at_bound is None else box.put_back(at_bound, False, bool),
        parameters={
            **_describe(result, used, given_up, settings),
            **scope_parameters(start),
            **ensemble_parameters(settings),
            "refinement": settings.resolved_refinement,
        },
        algorithm=ALGORITHM[settings.resolved_update_rule],
        device=used.device,
    )


def _noise_ratio(noise: np.ndarray, mask: np.ndarray, volumes: np.ndarray | None) -> np.ndarray:
    """Noise of the averaged signals by which b-values weigh, relative to the largest, shape (B,)."""
    variance = np.square(noise if noise.ndim == 1 else noise[mask], dtype=np.float64)
    per_bval = variance.reshape(-1, variance.shape[-1]).mean(axis=0)
    if volumes is not None:
        per_bval = (per_bval * volumes).mean() / volumes
    return np.sqrt(per_bval / max(per_bval.max(), np.finfo(np.float64).tiny))


def _no_memory(attempt: Attempt, members: int) -> str:
    advice = "use a machine with more memory"
    if torch.device(attempt.device).type == "cuda":
        advice = "free the device, choose another one, or use --device cpu or auto"
    if members > 1:
        advice = f"use a smaller --ensemble, or {advice}"
    return f"{attempt.device} ran out of memory even with {attempt}: {advice}"


def _train(
    problem: Problem,
    attempt: Attempt,
    progress: Progress | None,
    save: Save | None,
    saved: dict[str, Any] | None,
    observe: Observe | None,
) -> IterationResult:
    """One attempt from its begin, or from a saved state, to its end; the result lies on the CPU."""
    settings, where = problem.settings, torch.device(attempt.device)
    data = problem.data.to(where)
    bvals, ratio = (
        torch.tensor(values, dtype=torch.float32, device=where)
        for values in (problem.bvals, problem.sigma_ratio)
    )
    with reproducible(where, settings.random_seed):
        start, held_out = problem.start, None
        if settings.validation_share:
            patches = held_out_patches(data.mask, settings.validation_share, seed=settings.random_seed)
            held_out, data = data.weight * patches, data._replace(weight=data.weight * ~patches)
        whitening = Whitening.of(data.signals, data.weight) if start is None else start.whitening.to(where)
        weights = None if start is None else start.weights
        trainer = build_trainer(bvals, ratio, whitening, settings, attempt, weights, settings.ensemble)
        trainer.held_out = held_out
        if saved is not None and progress is not None:
            progress(f"resumed after {saved['trainer']['epochs_done']} epochs", 0, 1)
        with threads_for(data.mask.numel() // trainer.steps_per_epoch(data)):
            result = iterate(
                trainer, data, bvals, settings, progress, save=save, saved=saved, observe=observe
            )
    return result.to_cpu()


def _in_volumes(observe: Callable[[Observation], None], box: Box, scales: Tensor, members: int) -> Observe:
    """Hand on what happens in the box as volumes in source units, means over the members of an ensemble."""

    def mean(values: Tensor) -> Tensor:
        return torch.unflatten(values.cpu(), 0, (members, -1)).mean(dim=0)

    def hand_on(
        iteration: int, epochs: int, parameters: Parameters, predicted: Tensor, training_signals: Tensor
    ) -> None:
        maps = {**parameters._asdict(), "s0": parameters.s0.cpu() * scales}
        signals = (
            box.put_back(mean(values.cpu() * scales[:, None]).movedim(1, -1), 0.0, np.float32)
            for values in (predicted, training_signals)
        )
        volumes = {label: box.put_back(mean(values), np.nan, np.float32) for label, values in maps.items()}
        observe(Observation(iteration, epochs, volumes, *signals))

    return hand_on


def build_trainer(
    bvals: Tensor,
    sigma_ratio: Tensor,
    whitening: Whitening,
    settings: EstimationSettings,
    attempt: Attempt,
    weights: dict[str, Tensor] | None = None,
    members: int = 1,
) -> Trainer:
    """A trainer on the device of ``bvals``, with random weights from torch's generator or with given ones.

    ``sigma_ratio``, shape (B,), is the noise of every averaged signal relative to the largest. Given
    weights are those of one network; every member of an ensemble begins with them.
    """
    config = NetworkConfig(len(bvals), settings.network, settings.dropout, settings.bounds)
    network = build_network(config, members, weights).to(bvals.device)
    if members == 1:
        # Stacked weights have an axis too many for this layout.
        network = network.to(memory_format=torch.channels_last)
    return Trainer(
        network=network,
        whitening=whitening,
        forward_model=_forward_model(bvals, settings),
        learning_rate=settings.learning_rate,
        batch_size=attempt.batch_size,
        tile_size=attempt.tile_size,
        bval_weight=bval_weights(sigma_ratio, weigh=settings.weigh_bvals),
        generator=torch.Generator().manual_seed(settings.random_seed),
        members=members,
    )


def _forward_model(bvals: Tensor, settings: EstimationSettings) -> ForwardModel:
    return rician_model(bvals) if settings.predicts_floor else noise_free_model(bvals)


def _describe(
    result: IterationResult, attempt: Attempt, given_up: list[str], settings: EstimationSettings
) -> dict[str, Any]:
    rewriting = settings.resolved_update_rule is not None
    similar = settings.described.searches_neighbours
    return {
        "method": settings.method,
        "preset": settings.preset,
        "update_rule": settings.resolved_update_rule,
        "fitting_threshold": str(settings.fitting_threshold) if rewriting else None,
        "neighbour_threshold": str(settings.resolved_neighbour_threshold) if similar else None,
        "neighbour_radius": settings.neighbour_radius if similar else None,
        "similarity": asdict(settings.similarity) if similar else None,
        "network_input": settings.network_input if rewriting else None,
        "rician_model": settings.predicts_floor,
        "noise_floor_taken_off": settings.takes_floor_off_means,
        "bvals_weighted_by_inverse_variance": settings.weigh_bvals,
        "validation_share": settings.validation_share,
        "fitting_error_against": settings.fitting_error_against if rewriting else None,
        "rewrite_curves": settings.rewrite_curves if rewriting else None,
        "rewrite_at_random": settings.rewrite_at_random if rewriting else None,
        "restart_network": settings.restart_network if rewriting else None,
        "lambda": str(settings.lambda_) if rewriting else None,
        "delta": settings.delta if rewriting else None,
        "period_share": settings.period_share,
        "max_iterations": settings.max_iterations,
        "learning_rate": settings.learning_rate,
        "batch_size": attempt.batch_size,
        "tile_size": attempt.tile_size,
        "dropout": settings.dropout,
        "network_width": settings.network.width,
        "network_depth": settings.network.depth,
        "kernel_size": settings.network.kernel_size,
        "normalisation": settings.network.normalisation,
        "weight_average_decay": EMA_DECAY,
        "normaliser": "signal at the lowest b-value",
        "random_seed": settings.random_seed,
        "bounds": {name: list(interval) for name, interval in asdict(settings.bounds).items()},
        "data_iterations": len(result.history) - 1,
        "epochs": sum(row["epochs"] for row in result.history),
        "stop_reason": result.stop_reason,
        "out_of_memory": given_up,
    }
