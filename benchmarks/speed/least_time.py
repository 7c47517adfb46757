"""The least time that the arithmetic and the memory traffic of an estimation leave, and the distance to it.

    python -m benchmarks.speed.least_time --out docs/speed

Simulated abdomen with 12 b-values. Operations are counted while one epoch, one neighbour search and one
least-squares fit run (``benchmarks/speed/counted.py``); those of the convolutions and the least ones of the
search also come from formulas of the shapes. An operation is a multiplication, an addition, or an
exponential, which in truth takes several, and only operations on voxels of the mask count as needed: the
times are too low rather than too high.

Least bytes are those that must come from or go to memory when everything else stays in caches: signals,
training signals and what weighs them for every epoch, signals in and out for the search, signals and maps for
the fit. Bytes as written are what all calls read and write, as if there were no caches.

The peaks of this machine (matrix products, element-wise operations in a cache, copies) are measured in the
same run, with the threads of the app; those of an H200 are on its data sheet. The least time is that of all
arithmetic or that of all traffic at its peak, whichever is longer. The distance is the measured time over the
least one on the same machine. About two minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.common.cells import (
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    write_tables,
)
from benchmarks.common.clocks import device_name, timed
from benchmarks.common.pieces import Pieces, fit_voxels, normalised_signals, pieces_of
from benchmarks.common.scenarios import HELD_OUT_SEEDS, Scenario, measure
from benchmarks.speed.counted import Work, convolution_products, count, neighbour_operations, weights_of
from benchmarks.speed.peaks import H200, Peaks, measured_peaks
from benchmarks.speed.stage_cells import SIZES
from sicnn_app.errors import DeviceError
from sicnn_app.settings import EstimationSettings, ResourceSettings
from sicnn_app.system.device import choose_device, limit_threads

FLOAT32, FLOAT64 = 4, 8

FIT_SAMPLE = 2000
"""Voxels on which the operations of least squares are counted; they depend on the signals."""

WEIGHT_COPIES = 9
"""Numbers per weight that a step reads or writes: weight, two moments and average are read and written, and
the gradient is read."""


@dataclass(frozen=True)
class Stage:
    """What one stage does, and how long it took.

    Attributes
    ----------
    name : str
    work : Work
        As counted.
    formula : float
        Operations by formula: those of the convolutions, the least ones of the search, none of the fit.
    least_bytes : float
    seconds : float
    useful : float
        Share of the voxels it computes that lie in the mask; no operation elsewhere is needed.
    double : bool
        Whether it computes in float64.
    """

    name: str
    work: Work
    formula: float | None
    least_bytes: float
    seconds: float
    useful: float = 1.0
    double: bool = False

    def least_seconds(self, peaks: Peaks) -> float:
        """Time below which nothing can do what is needed of this stage."""
        needed = self.useful * self.work.products, self.useful * self.work.elements
        return peaks.least_seconds(*needed, self.least_bytes, double=self.double)


def epoch_stage(pieces: Pieces, times: int, device: str) -> Stage:
    """One epoch: forwards, backwards, optimiser and average of the weights."""
    signals, shape = pieces.data.signals, pieces.settings.network
    bvals = signals.shape[1]
    with pieces.as_in_an_estimation():
        pieces.epoch()
        seconds = _seconds(pieces.epoch, times, device)
        seen: list[int] = []
        hook = pieces.trainer.network.register_forward_pre_hook(
            lambda _, given: seen.append(given[0].numel() // bvals)
        )
        work = count(pieces.epoch)
        hook.remove()
    # Input and target, and mask, noise and weight of every voxel.
    moved = FLOAT32 * pieces.data.mask.numel() * (2 * bvals + 3)
    moved += FLOAT32 * WEIGHT_COPIES * weights_of(shape, bvals) * len(seen)
    formula = convolution_products(shape, bvals, sum(seen), training=True)
    useful = float(pieces.data.mask.sum()) / sum(seen)
    return Stage("training, one epoch", work, formula, moved, seconds, useful)


def search_stage(pieces: Pieces, times: int, device: str) -> Stage:
    """One rewriting of the training signals."""
    slices, bvals, *size = pieces.data.signals.shape
    with pieces.as_in_an_estimation():
        search = partial(pieces.search, *pieces.predict())
        search()
        seconds = _seconds(search, times, device)
        work = count(search)
    # Signals, predicted and training signals in, training signals out; five maps in, a count out.
    moved = FLOAT32 * pieces.data.mask.numel() * (4 * bvals + 6)
    formula = neighbour_operations(tuple(size), slices, pieces.settings.neighbour_radius, bvals)
    useful = float(pieces.data.mask.float().mean())
    return Stage("neighbour search, one data iteration", work, formula, moved, seconds, useful)


def fit_stage(signals: torch.Tensor, bvals: torch.Tensor, times: int, device: str) -> Stage:
    """Least squares of all voxels, counted on some of them."""
    voxels = len(signals)
    some = signals[:: max(1, voxels // FIT_SAMPLE)]
    fit = partial(fit_voxels, bvals=bvals)
    fit(some)
    seconds = _seconds(partial(fit, signals), times, device)
    counted, share = count(partial(fit, some)), voxels / len(some)
    work = Work(counted.products * share, counted.elements * share, counted.bytes * share, counted.calls)
    moved = FLOAT64 * voxels * (len(bvals) + 5)
    return Stage("least squares, all voxels", work, None, moved, seconds, double=True)


def _seconds(work: Callable[[], object], times: int, device: str) -> float:
    return median(timed(work, device)[0] for _ in range(times))


STAGE_COLUMNS = (
    *("stage", "products (GFLOP)", "other operations (G)", "by formula (GFLOP)", "in the mask (%)"),
    *("least bytes (MB)", "bytes as written (GB)", "kernel calls"),
)

TIME_COLUMNS = ("stage", "least time here (s)", "distance here", "least time on an H200 (ms)")

PEAK_COLUMNS = (
    *("machine", "products float32 (GFLOP/s)", "products float64 (GFLOP/s)"),
    *("element-wise float32 (G/s)", "element-wise float64 (G/s)", "memory (GB/s)"),
)


def page(stages: list[Stage], peaks: Peaks, source: str, title: str) -> str:
    """Markdown of what the stages do and how far they are from the least time."""
    work_rows = [
        [
            stage.name,
            f"{stage.work.products / 1e9:.3g}",
            f"{stage.work.elements / 1e9:.3g}",
            "" if stage.formula is None else f"{stage.formula / 1e9:.3g}",
            f"{100 * stage.useful:.0f}",
            f"{stage.least_bytes / 1e6:.3g}",
            f"{stage.work.bytes / 1e9:.3g}",
            stage.work.calls,
        ]
        for stage in stages
    ]
    time_rows = [
        [
            stage.name,
            f"{stage.least_seconds(peaks):.3g}",
            f"{stage.seconds / stage.least_seconds(peaks):.1f}",
            f"{1000 * stage.least_seconds(H200):.3g}",
        ]
        for stage in stages
    ]
    peak_rows = [
        [name, *(f"{value / 1e9:.4g}" for value in vars(rates).values())]
        for name, rates in (("this one, measured", peaks), ("H200, data sheet", H200))
    ]
    note = (
        "By formula: convolutions of the epoch, least operations of the search. The calls of the fit are "
        "those of one chunk of voxels. Product rates of the H200 are those of TF32 without sparsity."
    )
    return "\n\n".join(
        [
            "# Least time",
            f"Made by {source}. {title}",
            *(markdown(STAGE_COLUMNS, work_rows), note, markdown(TIME_COLUMNS, time_rows)),
            markdown(PEAK_COLUMNS, peak_rows) + "\n",
        ]
    )


def records(stages: list[Stage], peaks: Peaks) -> str:
    """The same numbers unrounded: operations, bytes, seconds, and operations or bytes per second."""
    columns = (
        *("stage", "products", "elements", "formula", "useful", "least_bytes", "bytes_as_written", "calls"),
        *("seconds", "least_seconds", "least_seconds_h200"),
        *vars(peaks),
    )
    rows = [
        [
            *(stage.name, stage.work.products, stage.work.elements, stage.formula, stage.useful),
            *(stage.least_bytes, stage.work.bytes, stage.work.calls, stage.seconds),
            *(stage.least_seconds(peaks), stage.least_seconds(H200), *vars(peaks).values()),
        ]
        for stage in stages
    ]
    return comma_separated(columns, rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=tuple(SIZES), default="medium")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--times", type=int, default=3, help="measurements, the median of which counts")
    options = parser.parse_args()
    try:
        device, _ = choose_device(options.device)
    except DeviceError as error:
        raise SystemExit(str(error)) from error
    limit_threads(ResourceSettings().omp_nthreads)
    peaks = measured_peaks(device)
    measured = measure(Scenario(20.0, HELD_OUT_SEEDS[0], shape=SIZES[options.size]))
    pieces = pieces_of(measured, EstimationSettings(), device)
    stages = [
        epoch_stage(pieces, options.times, device),
        search_stage(pieces, options.times, device),
        fit_stage(*normalised_signals(measured, device), options.times, device),
    ]
    shape = "x".join(map(str, measured.signals.shape))
    title = f"{shape}, {int(measured.mask.sum()):,} voxels in the mask."
    text = page(stages, peaks, provenance(command_line(), device=device_name(device)), title)
    stem = "least_time" if device == "cpu" else "least_time_cuda"
    write_tables(options.out, stem, text, records(stages, peaks))
    print(text)


if __name__ == "__main__":
    main()
