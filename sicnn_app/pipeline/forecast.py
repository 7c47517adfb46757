"""What runs will take, told from headers alone: memory, the time of one core, and how much of it is left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sicnn_app.bids.load import series_size
from sicnn_app.errors import SicnnAppError
from sicnn_app.formats import rough_time
from sicnn_app.ivim.run import DwiRun
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings
from sicnn_app.steps import STEPS, Situation
from sicnn_app.system.memory import GB, MemoryPlan, plan_memory

LOADED = 420_000_000
"""Bytes that the program holds when the work on a run begins."""

NETWORK_BYTES = 100_000_000
"""What the training of a network takes besides."""

RUN_SECONDS, VOXEL_SECONDS = 7.0, 7.3e-6
"""Of a core, for a run (start and report) and for each of its voxels in each volume: reading, judging, MP-PCA
and least squares. These and the next ones were fitted to calls of the app on simulated data of 13,312 to
319,488 voxels and 12 to 64 volumes on one core of an AMD EPYC, and are off by a quarter at most there."""

MOTION_SECONDS = 8e-6
"""For each voxel in each volume, where motion is corrected."""

TRAINING_SECONDS, FEW_VOXELS, TRAINING_VOXEL_SECONDS = 28.0, 40_000, 9.5e-5
"""Of a training, which sees few voxels more often: less below so many, and at least so much for each."""


@dataclass(frozen=True)
class Forecast:
    """What the processing of a run is expected to take.

    Attributes
    ----------
    steps : tuple of str
        Names of the corrections that will be made.
    seconds : float
        Of one core, with the settings that decide on how long a training goes on at their defaults.
    memory : int
        Bytes at most.
    """

    steps: tuple[str, ...]
    seconds: float
    memory: int

    @property
    def words(self) -> str:
        """Time and memory, as "about 2 min, up to 0.9 GB"."""
        return f"about {rough_time(self.seconds)}, up to {self.memory / GB:.1f} GB"


def plan_run(
    shape: tuple[int, int, int, int],
    bvals: int,
    anatomy: str,
    item: DwiRun,
    settings: Settings,
    *,
    resident: int,
    estimation: int = 0,
) -> MemoryPlan:
    """Where the series of a run lies and who helps, see :func:`sicnn_app.system.memory.plan_memory`.

    Raises TryAgainError when ``--mem`` is too low for it.
    """
    steps = settings.preprocessing
    denoising, _ = STEPS["denoising"].wanted(steps, Situation(anatomy, item.preprocessed, shape[3]))
    return plan_memory(
        shape,
        bvals=bvals,
        limit=settings.resources.mem,
        limit_from=settings.resources.mem_from,
        resident=resident,
        estimation=estimation,
        denoise=denoising,
        corrections=sum(step.asked(steps) for label, step in STEPS.items() if label != "denoising"),
        helpers=min(settings.resources.omp_nthreads, len(os.sched_getaffinity(0))) - 1,
    )


def forecast(item: DwiRun, settings: Settings) -> Forecast:
    """What a run will take; raises what will keep it from being processed, as far as headers tell."""
    shape, bvals = series_size(item, bvals_file=settings.inputs.bvals)
    anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    situation = Situation(anatomy, item.preprocessed, shape[3], shape[:3])
    done = {
        label: step.name
        for label, step in STEPS.items()
        if step.wanted(settings.preprocessing, situation)[0] != "none"
    }
    voxels, trains = math.prod(shape[:3]), settings.estimation.described.trains
    training = max(
        TRAINING_SECONDS * min(1.0, math.sqrt(voxels / FEW_VOXELS)), TRAINING_VOXEL_SECONDS * voxels
    )
    each = VOXEL_SECONDS + MOTION_SECONDS * ("motioncorrection" in done)
    return Forecast(
        tuple(done.values()),
        RUN_SECONDS + each * math.prod(shape) + trains * settings.estimation.ensemble * training,
        plan_run(shape, bvals, anatomy, item, settings, resident=LOADED).needed + trains * NETWORK_BYTES,
    )


class Schedule:
    """The runs that a process works on: which of them is at work, and about how long all still take.

    The forecast of those to come is corrected by how long those that have ended took here. ``expected`` has
    the seconds of every run, by its name, in their order.
    """

    def __init__(self, expected: Mapping[str, float] | None = None) -> None:
        self._expected = dict(expected or {})
        self._ended: dict[str, float] = {}
        self._current = ""
        self._began = 0.0

    @classmethod
    def of(cls, runs: Iterable[DwiRun], settings: Settings) -> Schedule:
        """The schedule of runs; one that cannot be forecast ends at once, and is expected to."""
        expected = {}
        for item in runs:
            expected[item.name] = 0.0
            with suppress(SicnnAppError):
                expected[item.name] = forecast(item, settings).seconds
        return cls(expected)

    def begin(self, name: str) -> None:
        """Note that the work on a run begins."""
        self._current, self._began = name, time.monotonic()

    def end(self, name: str) -> None:
        """Note that the work on a run has ended."""
        self._ended[name] = time.monotonic() - self._began
        self._current = ""

    def title(self, name: str) -> str:
        """Name of a run with its place among several."""
        if name not in self._expected or len(self._expected) == 1:
            return name
        return f"{name} (run {list(self._expected).index(name) + 1} of {len(self._expected)})"

    def left(self) -> str:
        """About how long all runs still take, in words; empty where nothing is known or nothing left."""
        forecast_of_ended = sum(self._expected.get(name, 0.0) for name in self._ended)
        pace = sum(self._ended.values()) / forecast_of_ended if forecast_of_ended else 1.0
        waiting = {name: pace * s for name, s in self._expected.items() if name not in self._ended}
        own = waiting.pop(self._current, 0.0)
        seconds = sum(waiting.values()) + max(0.0, own - (time.monotonic() - self._began))
        return f"about {rough_time(seconds)} left" if seconds > 0 else ""
