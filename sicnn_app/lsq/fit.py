"""Bounded bi-exponential least squares for tensors of voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sicnn_app.lsq.levenberg_marquardt import descend, minimise
from sicnn_app.lsq.starts import grid_starts, limits, segmented_start
from sicnn_app.settings import Bounds

DEFAULT_BOUNDS = Bounds()

MAX_ITERATIONS = 500
"""Steps per voxel after the rounds that choose its start: noisy voxels need tens, nearly equal exponents
without noise hundreds."""

ROUNDS = ((3, 2), (1, 1))
"""(Steps, starts of each voxel that go on). On 48000 simulated voxels (8 and 16 b-values, SNR 10 to 50)
0.08 % end more than 0.1 % above the residual of all starts carried to the end. They are taken in single
precision: the steps that follow forget what that rounds off."""

LARGEST = 1e6
"""Of normalised signals in the rounds, far beyond any S0: their squares must be finite."""

CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**23}
"""Signals fitted at once: some tens of MB for each thread of the CPU, or some GB of a GPU."""

PARTS = 8
"""Of a chunk, that take turns to find their starts, since several of every voxel must fit into a cache. The
steps that follow are of the whole, since few voxels need many of them."""


class LsqFit(NamedTuple):
    """Fitted parameters of V voxels, float64, on the device of the signals.

    Attributes
    ----------
    f, d, dstar, s0 : Tensor, shape (V,)
        Fraction, mm^2/s, mm^2/s, relative to the normaliser; inside the bounds.
    rss : Tensor, shape (V,)
        Residual sum of squares over b of the normalised signals, weighted where there are weights.
    converged : Tensor, shape (V,), bool
    iterations : Tensor, shape (V,), int64
        Steps tried from the start that won, counting those of the rounds in full.
    """

    f: Tensor
    d: Tensor
    dstar: Tensor
    s0: Tensor
    rss: Tensor
    converged: Tensor
    iterations: Tensor


def fit_biexponential(
    normalised: Tensor,
    bvals: Tensor,
    bounds: Bounds = DEFAULT_BOUNDS,
    *,
    weights: Tensor | None = None,
    chunk_share: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> LsqFit:
    """Fit F, D, D* and S0 to every voxel by bounded least squares.

    A segmented fit and the best points of a grid start the full bi-exponential fit; the lowest
    residual wins. Voxels do not influence each other, and all but the choice of the start is in float64. On
    the CPU as many chunks are fitted at once as torch has threads, with the same bits for any number of them.

    Parameters
    ----------
    normalised : Tensor, shape (V, B), finite, relative to the signal at the lowest b-value
    bvals : Tensor, shape (B,), s/mm^2
        At least two distinct values.
    weights : Tensor, shape (V, B), optional
        Of the squared residuals, about 1 on average; the starts are found without them.
    chunk_share : float
        Of the usual number of voxels fitted at once; below 1 where memory is short.
    progress : callable (voxels done, voxels in all), optional

    References
    ----------
    Le Bihan et al., Radiology 1988;168:497-505 (model); More, Lect Notes Math 1978;630:105-116
    (Levenberg-Marquardt).
    """
    y, b = normalised.detach().double(), bvals.to(normalised.device, torch.float64)
    elements = int(chunk_share * CHUNK_ELEMENTS.get(y.device.type, CHUNK_ELEMENTS["cpu"]))
    size = max(1, elements // len(b))
    signals = torch.split(y, size)
    weighed = [None] * len(signals) if weights is None else torch.split(weights.to(y), size)
    chunks = list(zip(signals, weighed, strict=True))
    parts, done = [], 0
    for part in _fitted(chunks, partial(_fit_chunk, b=b, bounds=bounds, part=max(1, size // PARTS))):
        parts.append(part)
        done += len(part.f)
        if progress is not None:
            progress(done, len(y))
    return LsqFit(*map(torch.cat, zip(*parts, strict=True)))


Chunk = tuple[Tensor, Tensor | None]
"""Signals and their weights."""


def _fitted(chunks: Sequence[Chunk], fit_chunk: Callable[[Chunk], LsqFit]) -> Iterator[LsqFit]:
    """Fits of all chunks in their order.

    Chunks side by side and not the operations within one: these are so short that threads would wait for one
    another most of the time.
    """
    threads = min(torch.get_num_threads(), len(chunks))
    with one_thread():
        if chunks[0][0].device.type != "cpu" or threads == 1:
            yield from map(fit_chunk, chunks)
            return
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(fit_chunk, chunks)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context whose operations take one thread each, where several would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        # What a thread sets for itself is also what threads made later begin with.
        torch.set_num_threads(before)


def _fit_chunk(chunk: Chunk, b: Tensor, bounds: Bounds, part: int) -> LsqFit:
    y, weights = (None if values is None else values.T.contiguous() for values in chunk)
    lower, upper = (limit[:, None] for limit in limits(bounds, y))
    signals = y.split(part, dim=1)
    weighed = [None] * len(signals) if weights is None else weights.split(part, dim=1)
    starts = [_best_start(*one, b, bounds) for one in zip(signals, weighed, strict=True)]
    start = torch.cat(starts, dim=1).to(y).clamp(lower, upper)
    final = minimise(y, b, start, lower, upper, max_iterations=MAX_ITERATIONS, weights=weights)
    s0, f, d, dstar = final.parameters
    iterations = final.iterations + sum(steps for steps, _ in ROUNDS)
    return LsqFit(f, d, dstar, s0, final.rss, final.converged, iterations)


def _best_start(y: Tensor, weights: Tensor | None, b: Tensor, bounds: Bounds) -> Tensor:
    """Where the best start of every voxel has led to after the rounds, shape (4, V), float32.

    Which one that is shows in single precision. Signals and weights have the shape (B, V).
    """
    y, b = y.clamp(-LARGEST, LARGEST).float(), b.float()
    lower, upper = (limit[:, None] for limit in limits(bounds, y))
    points = torch.cat((segmented_start(y.T, b, bounds)[None], grid_starts(y.T, b, bounds))).movedim(2, 0)
    for steps, survivors in ROUNDS:
        start, rough = points.reshape(4, -1), None if weights is None else weights.float()
        places, rss = descend(y, b, start, lower, upper, steps=steps, weights=rough)
        ranks = rss.view(points.shape[1:]).argsort(dim=0, stable=True)[:survivors]
        points = torch.take_along_dim(places.view(points.shape), ranks[None], dim=1)
    return points[:, 0]
