"""How time and memory grow with voxels, slices, b-values and the size of an ensemble, at fixed work.

    python -m benchmarks.scaling.growth --out docs/speed

One of them is varied at a time, on the simulated abdomen. The network is trained for a fixed number of epochs
(method ``cnn``), so that no stop decides how much is done; the neighbour search runs once; the fit is that of
all voxels. Every measurement has a process of its own: processor time is the lowest of several, after a
warm-up on a small image, and memory the peak besides what the process held before, so it counts neither the
libraries nor the signals themselves.

The exponent is the slope of a line through the logarithms, by least squares, with its standard error: 1 is
linear, and up to 1.1 is called so. A line through the memory itself tells what does not grow (a batch and its
gradients) from what does, in copies of the signals. About six minutes on two cores; a stopped benchmark goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.common.arms import estimated
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.clocks import code_digest, device_name, peak_of, timed
from benchmarks.common.pieces import pieces_of
from benchmarks.common.scenarios import Measurement
from sicnn_app.errors import DeviceError
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.phantoms.acquire import acquire, noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings
from sicnn_app.system.device import choose_device, limit_threads

WORKS = ("training", "neighbour search", "lsq")

EXPONENT_LIMIT = 1.1
"""Up to here a growth is called linear."""

SNR = 20.0

HIGHEST_BVAL = 600.0
"""s/mm^2; the b-values lie between 0 and this at equal distances."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes
    ----------
    work : str
        Of :data:`WORKS`.
    side : int
        Voxels along X and Y.
    slices, bvals, members : int
    """

    work: str
    side: int = 64
    slices: int = 8
    bvals: int = 12
    members: int = 1


AXES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "side": (WORKS, (32, 48, 64, 96, 128, 192)),
    "slices": (WORKS, (2, 4, 8, 16, 32)),
    "bvals": (WORKS, (6, 12, 24, 48)),
    "members": (("training",), (1, 2, 5, 10)),
}
"""What is varied, of which works, and the values."""

TITLES = {"side": "voxels", "slices": "slices", "bvals": "b-values", "members": "networks"}


class Line(NamedTuple):
    """A straight line through points; ``error`` is the standard error of ``slope``."""

    slope: float
    error: float
    intercept: float


def line_through(x: Iterable[float], y: Iterable[float]) -> Line:
    """Ordinary least squares.

    Parameters
    ----------
    x, y : sequence of float
        At least three points.
    """
    x, y = np.asarray(list(x), dtype=float), np.asarray(list(y), dtype=float)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    rest = y - intercept - slope * x
    return Line(slope, float(np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred))), intercept)


def exponent(x: Iterable[float], y: Iterable[float]) -> Line:
    """The line through the logarithms: its slope is the exponent of growth."""
    return line_through(np.log(list(x)), np.log(list(y)))


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
        run = partial(estimated, measured, settings, device=device)
    elif point.work == "lsq":
        run = partial(estimate_lsq, measured.signals, measured.mask, measured.bvals, device=device)
    else:
        pieces = pieces_of(measured, EstimationSettings(), device)
        run = partial(pieces.search, *pieces.predict())
    return Ready(run, int(measured.mask.sum()), point.members * measured.signals.nbytes)


def measure_point(point: Point, device: str, epochs: int, times: int) -> dict[str, float]:
    """Worker: processor seconds (on CUDA wall-clock seconds), peak memory and voxels of one point."""
    # One thread: what threads cost when they wait for one another is no growth.
    limit_threads(1)
    prepared(replace(point, side=16, slices=1), device, epochs).run()
    ready = prepared(point, device, epochs)
    host, held = peak_of(ready.run)
    column = 1 if device == "cpu" else 0
    seconds = min(timed(ready.run, device)[column] for _ in range(times))
    return {
        "seconds": seconds,
        "host_gb": host,
        "device_gb": held,
        "signals_gb": ready.signal_bytes / 1e9,
        "voxels": ready.voxels,
    }


_name = lru_cache(device_name)
_digest = lru_cache(code_digest)


def measured(point: Point, cells: Cells, device: str, epochs: int, times: int) -> dict[str, Any]:
    """One point, measured in a process of its own unless the cells have it."""
    asked = {"point": asdict(point), "device": device, "epochs": epochs, "times": times}

    def compute() -> dict[str, Any]:
        print(point, file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.scaling.growth", "--point", json.dumps(asked)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    spec = {**asked, "benchmark": "scaling", "name": _name(device), "torch": torch.__version__}
    return cells.get({**spec, "code": _digest()}, compute)


def size_of(axis: str, value: int, found: dict[str, Any]) -> float:
    """What the growth is counted in: voxels of the mask for the side of the image, else the value itself."""
    return found["voxels"] if axis == "side" else value


def growth(axis: str, points: list[tuple[int, dict[str, Any]]], memory: str) -> list[str]:
    """One row of the table: exponents and what the memory is made of."""
    sizes = [size_of(axis, value, found) for value, found in points]
    time = exponent(sizes, [found["seconds"] for _, found in points])
    peaks = [max(found[memory], 1e-6) for _, found in points]
    grown = exponent(sizes, peaks)
    copies = line_through([found["signals_gb"] for _, found in points], peaks)
    verdicts = ["met" if line.slope <= EXPONENT_LIMIT else "MISSED" for line in (time, grown)]
    return [
        f"{min(sizes):,} to {max(sizes):,}",
        f"{time.slope:.2f} ± {time.error:.2f}",
        f"{grown.slope:.2f} ± {grown.error:.2f}",
        f"{copies.intercept:.3f}",
        f"{copies.slope:.1f} ± {copies.error:.1f}",
        *verdicts,
    ]


COLUMNS = (
    *("work", "varied", "range", "exponent of time", "exponent of memory"),
    *("memory that does not grow (GB)", "copies of the signals", "linear time", "linear memory"),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    parser.add_argument("--most", type=int, help="leave out values above this")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="measurements, the lowest of which counts")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        asked = options.point
        point = Point(**asked.pop("point"))
        print(json.dumps(measure_point(point, **asked)))
        return
    if options.out is None:
        parser.error("--out is needed")
    try:
        options.device, _ = choose_device(options.device)
    except DeviceError as error:
        raise SystemExit(str(error)) from error
    cells = Cells(options.out / "cells.jsonl")
    rows, plain = [], []
    for axis in options.axes:
        works, values = AXES[axis]
        values = [value for value in values if options.most is None or value <= options.most]
        for work in works:
            points = [
                (
                    value,
                    measured(
                        Point(work, **{axis: value}), cells, options.device, options.epochs, options.times
                    ),
                )
                for value in values
            ]
            memory = "host_gb" if options.device == "cpu" else "device_gb"
            rows.append([work, TITLES[axis], *growth(axis, points, memory)])
            plain += [[work, axis, value, *found.values()] for value, found in points]
    source = provenance(command_line(), device=_name(options.device))
    text = "\n\n".join(
        [
            "# Scaling",
            f"Made by {source}, one thread, {options.epochs} epochs.",
            markdown(COLUMNS, rows) + "\n",
        ]
    )
    stem = "scaling" if options.device == "cpu" else "scaling_cuda"
    columns = ("work", "varied", "value", "seconds", "host_gb", "device_gb", "signals_gb", "voxels")
    write_tables(options.out, stem, text, comma_separated(columns, plain))
    print(text)


if __name__ == "__main__":
    main()
