"""The works whose growth :mod:`benchmarks.speed_scaling` measures, of any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.arms import estimated
from benchmarks.pieces import pieces_of
from benchmarks.scenarios import Measurement
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings

if TYPE_CHECKING:
    from benchmarks.speed_scaling import Point

SNR = 20.0

HIGHEST_BVAL = 600.0
"""s/mm^2; the b-values lie between 0 and this at equal distances."""


class Ready(NamedTuple):
    """A work that only has to be started."""

    run: Callable[[], object]
    voxels: int
    signal_bytes: int
    """Of all members of an ensemble."""


def measurement(side: int, slices: int, bvals: int) -> Measurement:
    """A simulated abdomen of any size with any number of b-values."""
    phantom = make_phantom("abdomen", (side, side, slices))
    values = np.linspace(0.0, HIGHEST_BVAL, bvals)
    signals = acquire(phantom, values, snr=SNR).astype(np.float32)
    sigma = noise_sigma(phantom, SNR)
    mask = phantom.mask & (signals[..., 0] > 0)
    return Measurement(phantom, signals, signals, mask, values, sigma, np.full(bvals, sigma))


def prepared(point: Point, device: str, epochs: int) -> Ready:
    """All that a work needs, so that only the work itself is measured."""
    measured = measurement(point.side, point.slices, point.bvals)
    settings = EstimationSettings(method="cnn", epochs=epochs, ensemble=point.members)
    if point.work == "training":
        run = partial(estimated, measured, measured.signals, settings, device=device)
    elif point.work == "lsq":
        run = partial(estimate_lsq, measured.signals, measured.mask, measured.bvals, device=device)
    else:
        pieces = pieces_of(measured, EstimationSettings(), device)
        run = partial(pieces.search, *pieces.predict())
    return Ready(run, int(measured.mask.sum()), point.members * measured.signals.nbytes)
