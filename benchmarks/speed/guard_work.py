"""Works of the app that :mod:`benchmarks.speed.guard` watches, beside plain computations of their kind.

A reference uses none of the app's code: where the machine is slow, both are.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.common.pieces import Pieces, fit_voxels, normalised_signals, pieces_of
from benchmarks.common.scenarios import Measurement, Scenario, measure
from sicnn_app.settings import EstimationSettings

SHAPE = (64, 60, 2)

FITTED = 1500
"""Voxels."""

Run = Callable[[], object]


class Pair(NamedTuple):
    """A work of the app and its reference, ready to be started; each takes tens of milliseconds."""

    work: Run
    reference: Run


@lru_cache(maxsize=1)
def _measured() -> Measurement:
    return measure(Scenario(20.0, 0, shape=SHAPE))


@lru_cache(maxsize=1)
def _pieces() -> Pieces:
    return pieces_of(_measured(), EstimationSettings())


def training() -> Pair:
    """One epoch, beside convolutions of its kind forwards and backwards."""
    layers = nn.Sequential(nn.Conv2d(12, 32, 3, padding=1), nn.ELU(), nn.Conv2d(32, 32, 3, padding=1))
    images = torch.rand(2, 12, 56, 56)

    def reference() -> None:
        for _ in range(4):
            layers.zero_grad(set_to_none=True)
            layers(images).square().mean().backward()

    return Pair(_pieces().epoch, reference)


def neighbour_search() -> Pair:
    """One rewriting, beside shifted differences of float32 arrays."""
    pieces = _pieces()
    curves = torch.rand(2, 12, 56, 56)

    def reference() -> None:
        for shift in range(1, 31):
            squared = (curves[..., shift:] - curves[..., :-shift]).square().mean(dim=1, keepdim=True)
            (squared * curves[..., shift:]).sum()

    return Pair(partial(pieces.search, *pieces.predict()), reference)


def least_squares() -> Pair:
    """The fit of some voxels, beside exponentials, sums and small linear systems in float64."""
    signals, bvals = normalised_signals(_measured())
    signals = signals[:: len(signals) // FITTED][:FITTED]
    generator = torch.Generator().manual_seed(0)
    root = torch.rand(FITTED, 4, 4, generator=generator, dtype=torch.float64)
    matrices = root @ root.mT + torch.eye(4, dtype=torch.float64)

    def reference() -> None:
        for _ in range(20):
            decays = torch.exp(-0.001 * signals * bvals)
            right = decays[:, :4] * decays.square().sum(dim=1, keepdim=True)
            torch.linalg.solve_ex(matrices, right)
            torch.linalg.cholesky_ex(matrices)

    return Pair(partial(fit_voxels, signals, bvals), reference)


def report_picture() -> Pair:
    """Maps of six slices as a picture of the report, beside a plain figure of as many pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from sicnn_app.report.display import Display
    from sicnn_app.report.mosaic import mosaic

    tiles = list(np.random.default_rng(0).random((6, 96, 80, 3)))
    display = Display(False, False, False, (slice(None), slice(None)), tuple(range(6)), 1.0, None, None)
    colours = np.linspace(0.0, 1.0, 64)[:, None].repeat(3, axis=1)

    def reference() -> None:
        figure = Figure(figsize=(5.0, 4.0), dpi=240)
        FigureCanvasAgg(figure)
        figure.add_axes((0, 0, 1, 1)).imshow(tiles[0])
        figure.savefig(io.BytesIO(), format="png")

    return Pair(partial(mosaic, tiles, display, labels=list("123456"), colours=colours), reference)


PAIRS: dict[str, Callable[[], Pair]] = {
    "training epoch": training,
    "neighbour search": neighbour_search,
    "least squares": least_squares,
    "report picture": report_picture,
}
