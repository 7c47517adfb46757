"""Deformable registration of single volumes within the slice: measured halves, simulated breathing.

    python -m benchmarks.accuracy.deformable
    python -m benchmarks.accuracy.deformable --arms none cc "cc own" "cc groupwise" ssd --denoising mppca

What was tried and left out of the app. Every image is moved by a smooth field of at most 6 voxels towards
what the other images of its slice let expect, in the place of the app's motion correction: after the
denoising. Fields are kept where they lower the local difference enough, less their mean over the volumes.

- ``cc``, ``ssd``: dipy's symmetric diffeomorphic registration by cross-correlation or squared differences
- ``flow``: local least squares (Lucas and Kanade) with a Gaussian prior of displacements
- ``own``: towards the median of the b-value instead of a smooth decay
- ``groupwise``: three times, towards what the moved images let expect
- ``of others``: the fields of other volumes, a control that shows what interpolation alone does

Halves and their numbers: :mod:`benchmarks.accuracy.averages`. Breathing: an abdomen, every volume moved by a
field of its own, random and smooth (Gaussian of 12 voxels), the largest displacement uniform from 0 to so
many voxels; displacement 0 is what the option costs where nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric, SSDMetric
from scipy.ndimage import gaussian_filter, map_coordinates

from benchmarks.accuracy.averages import Agreement, fitted, foreground, measured_halves
from benchmarks.common.cells import parser_of
from benchmarks.common.halves import DATA, RUNS, require_files
from benchmarks.common.metrics import errors_of
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, noise_sigma
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.correction import Corrected, find_slice_axis
from sicnn_app.preprocess.expected import FLUCTUATION, DecayPrior, expect
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS

APP = ("none", "rigid")
DEFAULT_ARMS = (*APP, "cc", "flow", "flow groupwise", "flow of others")
ARMS = (*DEFAULT_ARMS, "cc own", "cc groupwise", "ssd", "ssd groupwise", "flow own")
DENOISING = ("none", "mppca")

BLUR, STIFFNESS, MOST = 1.0, 5.0, 6.0
"""Voxels: Gaussians of images and fields, and the largest displacement."""

PRIOR = 2.0
"""Voxels: standard deviation of displacements before anything is seen."""

LEAST_GAIN = 0.45
"""Of the logarithm of the local mean square difference. With 0.2 noise is registered: where nothing moved the
error of F grew by 10 to 20 %."""

GROUPWISE_ROUNDS = 3


def correct(
    series: DwiSeries, *, kind: str, settings: PreprocessingSettings, progress: Any = None
) -> Corrected:
    """As :class:`sicnn_app.steps.Correction` does; ``kind`` is the arm."""
    across = find_slice_axis(series.signals.shape[:3], series.slice_axis)
    slices = np.moveaxis(series.signals.astype(np.float64), across, 0)
    done = np.stack([aligned(images, series.bvals, kind) for images in slices])
    signals = np.moveaxis(done, 0, across).astype(series.signals.dtype)
    return Corrected(replace(series, signals=signals), {"Description": kind})


def aligned(images: np.ndarray, bvals: np.ndarray, arm: str) -> np.ndarray:
    """Images of one slice, shape (X, Y, N), in their mean position."""
    volumes = range(bvals.size)
    blurred = gaussian_filter(images, (BLUR, BLUR, 0))
    now = blurred
    for _ in range(GROUPWISE_ROUNDS if "groupwise" in arm else 1):
        targets = medians(now, bvals) if "own" in arm else decays(now, bvals)
        fields = np.stack([field_of(targets[..., n], blurred[..., n], arm) for n in volumes])
        fields -= fields.mean(axis=0)
        now = np.stack([moved(blurred[..., n], fields[n], order=1) for n in volumes], axis=-1)
    if "others" in arm:
        fields = np.roll(fields, bvals.size // 5, axis=0)
    return np.stack([moved(images[..., n], fields[n], order=3) for n in volumes], axis=-1)


def medians(images: np.ndarray, bvals: np.ndarray) -> np.ndarray:
    """Median of the b-value of every image, shape (X, Y, N)."""
    _, group = group_bvalues(bvals)
    return np.stack([np.median(images[..., group == own], axis=-1) for own in group], axis=-1)


def decays(images: np.ndarray, bvals: np.ndarray) -> np.ndarray:
    """What the other images let expect of every image, shape (X, Y, N)."""
    low = images[..., group_bvalues(bvals)[1] == 0].mean(axis=-1)
    inside = low > 0.02 * np.percentile(low, 99)
    level = low[inside][:, None]
    noise = 1.48 / np.sqrt(2) * np.median(np.abs(np.diff(images[inside], axis=-1)))
    variance = np.broadcast_to((noise / level) ** 2 + FLUCTUATION**2, images[inside].shape)
    prior = DecayPrior.of_table(bvals, None, "body")
    found = expect(images[inside] / level, variance, np.ones(variance.shape, dtype=bool), prior)
    result = images.copy()
    result[inside] = np.maximum(found.levels, 0) * level
    return result


def field_of(target: np.ndarray, image: np.ndarray, arm: str) -> np.ndarray:
    """Displacements to where the image shows what the target has, shape (X, Y, 2), voxels."""
    if "flow" in arm:
        field = flow(target, image)
    else:
        field = diffeomorphic(target, image, CCMetric(2) if "cc" in arm else SSDMetric(2))
    size = np.linalg.norm(field, axis=-1, keepdims=True)
    field = field * MOST * np.tanh(size / MOST) / np.maximum(size, 1e-9)
    wide = partial(gaussian_filter, sigma=1.5 * STIFFNESS)
    before, after = (wide(np.square(target - one)) for one in (image, moved(image, field, order=1)))
    kept = before > np.exp(LEAST_GAIN) * after
    return field * gaussian_filter(kept.astype(np.float64), 3.0)[..., None]


def diffeomorphic(target: np.ndarray, image: np.ndarray, metric: Any) -> np.ndarray:
    """The field of dipy, as smooth as organs move, and away from edges that of the edges around."""
    registration = SymmetricDiffeomorphicRegistration(metric=metric, level_iters=[20, 20, 10])
    registration.verbosity = 0
    scale = np.percentile(target, 99)
    field = registration.optimize(target / scale, image / scale).get_forward_field().astype(np.float64)
    slopes = np.square(np.gradient(target)).sum(axis=0)[..., None]
    edges = slopes / (slopes + np.percentile(slopes, 75)) + 1e-3
    smooth = partial(gaussian_filter, sigma=(STIFFNESS, STIFFNESS, 0))
    return smooth(edges * field) / smooth(edges)


def flow(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Local least squares, from coarse to fine; where noise hides what moved, nothing moves."""
    x, y = np.gradient(target)
    field = np.zeros((*target.shape, 2))
    for width in STIFFNESS * np.array([2, 1.4, 1, 1, 1, 1]):
        local = partial(gaussian_filter, sigma=width)
        missed = target - moved(image, field, order=1)
        # Neighbours are alike: a window holds fewer numbers than voxels.
        certainty = 0.5 * (width / BLUR) ** 2 / (local(missed**2) + 1e-9 * target.max() ** 2)
        missed += x * field[..., 0] + y * field[..., 1]
        xx, yy = (certainty * local(slope**2) + PRIOR**-2 for slope in (x, y))
        xy, right_x, right_y = (certainty * local(product) for product in (x * y, x * missed, y * missed))
        found = np.stack([yy * right_x - xy * right_y, xx * right_y - xy * right_x], axis=-1)
        field = gaussian_filter(found / (xx * yy - xy**2)[..., None], (2, 2, 0)).clip(-MOST, MOST)
    return field


def moved(image: np.ndarray, field: np.ndarray, *, order: int) -> np.ndarray:
    """What the image shows where a field leads; splines stay within its range."""
    if not field.any():
        return image
    places = np.indices(image.shape) + np.moveaxis(field, -1, 0)
    return map_coordinates(image, places, order=order, mode="nearest").clip(image.min(), image.max())


def prepared(series: DwiSeries, mask: np.ndarray, arm: str, denoise: str) -> AveragedSignals:
    """Signals and noise as the app prepares them, with the arm as its motion correction."""
    settings = PreprocessingSettings(
        average="robust", denoise=denoise, motion_correction=arm if arm in APP else "auto"
    )
    row = STEPS["motioncorrection"]
    if arm not in APP:
        row = replace(row, module="benchmarks.accuracy.deformable", wanted=lambda *_: (arm, arm))
    with patch.dict(STEPS, motioncorrection=row):
        return prepare(series, anatomy="body", external_mask=mask, settings=settings).averaged


def halves_table(data: Path, arms: Sequence[str], denoising: Sequence[str]) -> None:
    """Print wCV and the difference to single volumes of every arm."""
    runs = list(measured_halves(data))
    print(
        "| denoising | motion correction | wCV F | wCV D | wCV D* | difference to single volumes |\n"
        "|---|---|---|---|---|---|"
    )
    for denoise in denoising:
        for arm in arms:
            found = Agreement()
            for halves, organs in runs:
                lows = [half.signals[..., half.bvals == 0].mean(axis=-1) for half in halves]
                signals = [prepared(half, foreground(half) | organs, arm, denoise) for half in halves]
                inside = organs & signals[0].mask & signals[1].mask
                # The same for every arm, unlike the averages of what was moved.
                level = np.mean(lows, axis=0)[inside]
                found.add([fitted(one).maps for one in signals], halves, inside, level)
            print(f"| {denoise} | {arm} | {' | '.join(found.numbers)} |", flush=True)


def breathing_series(
    most: float, snr: float, seed: int, *, volumes: int, shape: tuple[int, int, int]
) -> tuple[DwiSeries, Phantom]:
    """An abdomen with so many volumes at every b-value, moved by up to so many voxels, and its truth."""
    phantom = make_phantom("abdomen", shape, seed=seed)
    bvals = np.repeat(DEFAULT_BVALS["abdomen"], volumes).astype(np.float64)
    signals = ivim_signal_maps(bvals, phantom.f, phantom.d, phantom.dstar, phantom.s0)
    rng = np.random.default_rng([seed, volumes])
    noise = rng.normal(scale=noise_sigma(phantom, snr), size=(2, *signals.shape))
    for n in range(bvals.size):
        field = gaussian_filter(rng.standard_normal((*shape[:2], 2)), (12, 12, 0), mode="wrap")
        field *= rng.uniform(0, most) / np.linalg.norm(field, axis=-1).max()
        for z in range(shape[2]):
            signals[:, :, z, n] = moved(signals[:, :, z, n], field, order=3)
    signals = np.hypot(signals + noise[0], noise[1]).astype(np.float32)
    return DwiSeries(signals, bvals, None, phantom.affine), phantom


def breathing_table(
    arms: Sequence[str],
    denoising: Sequence[str],
    motion: Sequence[float],
    snrs: Sequence[float],
    seeds: Sequence[int],
    **sizes: Any,
) -> None:
    """Print root mean square errors of every arm."""
    print(
        "| displacement | SNR | denoising | motion correction | RMSE F | RMSE D (1e-4) | RMSE D* (1e-3) |\n"
        "|---|---|---|---|---|---|---|"
    )
    for most in motion:
        for snr in snrs:
            made = [breathing_series(most, snr, seed, **sizes) for seed in seeds]
            for denoise in denoising:
                for arm in arms:
                    each = []
                    for series, phantom in made:
                        signals = prepared(series, phantom.mask, arm, denoise)
                        each.append(errors_of(phantom, signals.mask, fitted(signals).maps))
                    f, d, dstar = np.sqrt(np.mean(np.square(each), axis=0))
                    numbers = f"{f:.4f} | {1e4 * d:.2f} | {1e3 * dstar:.1f}"
                    print(f"| {most:g} | {snr:g} | {denoise} | {arm} | {numbers} |", flush=True)


def main() -> None:
    parser = parser_of(__doc__)
    parts = ("halves", "breathing")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS)
    parser.add_argument("--denoising", nargs="+", choices=DENOISING, default=DENOISING)
    parser.add_argument("--motion", type=float, nargs="+", default=(0.0, 2.0, 4.0), help="voxels")
    parser.add_argument("--snr", type=float, nargs="+", default=(10.0, 20.0, 40.0))
    parser.add_argument("--volumes", type=int, default=3, help="per b-value")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 80, 1))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if "halves" in options.parts:
        require_files(options.data, RUNS)
        halves_table(options.data, options.arms, options.denoising)
        print()
    if "breathing" in options.parts:
        breathing_table(
            options.arms,
            options.denoising,
            options.motion,
            options.snr,
            options.seeds,
            volumes=options.volumes,
            shape=tuple(options.shape),
        )


if __name__ == "__main__":
    main()
