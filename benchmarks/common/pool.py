"""Computes jobs in several processes and keeps their results; the parent alone writes the cells file."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from benchmarks.common.cells import Cells


@dataclass(frozen=True)
class Job:
    """One computation; everything that decides its result is in its fields.

    Subclasses may name another ``benchmark`` in whose name results are kept.
    """

    benchmark: ClassVar[str] = "supplement"

    def spec(self) -> dict[str, Any]:
        """The key of the result in the cells file."""
        return {"benchmark": self.benchmark, "job": repr(self), "torch": torch.__version__}

    def compute(self) -> dict[str, Any]:
        raise NotImplementedError


Results = dict[Job, dict[str, Any]]


def computed(jobs: Iterable[Job], cells: Cells, workers: int) -> Results:
    """Results of all jobs, computed where the cells have none.

    Parameters
    ----------
    jobs : iterable of Job
        May hold the same one several times.
    cells : Cells
    workers : int
        Processes, each with one thread; 1 computes in this process.
    """
    wanted = list(dict.fromkeys(jobs))
    missing = [job for job in wanted if not cells.has(job.spec())]
    print(f"{len(wanted)} computations, {len(wanted) - len(missing)} of them done before", file=sys.stderr)
    progress = Progress(missing, workers)
    for job, result, seconds in _in_any_order(missing, workers):
        cells.get(job.spec(), _already(result))
        progress.report(job, seconds)
    return {job: cells.get(job.spec(), _never) for job in wanted}


class Progress:
    """Lines with an estimate of the hours left, from the mean time of the jobs of every kind so far."""

    def __init__(self, jobs: list[Job], workers: int) -> None:
        self.left = list(jobs)
        self.total = len(jobs)
        self.workers = workers
        self.times: dict[str, list[float]] = {}

    def report(self, job: Job, seconds: float) -> None:
        self.left.remove(job)
        self.times.setdefault(type(job).__name__, []).append(seconds)
        every = [one for times in self.times.values() for one in times]
        means = {kind: sum(times) / len(times) for kind, times in self.times.items()}
        other = sum(every) / len(every)
        hours = sum(means.get(type(one).__name__, other) for one in self.left) / self.workers / 3600
        print(
            f"{self.total - len(self.left)} of {self.total}: {_short(job)}, {seconds:.0f} s; "
            f"about {hours:.2f} hours left",
            file=sys.stderr,
            flush=True,
        )


def _in_any_order(jobs: list[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any], float]]:
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for job in jobs:
                yield job, *_run(job)
        finally:
            torch.set_num_threads(threads)
        return
    # Forked processes inherit the thread pools of torch in a state that may lock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        pending = {pool.submit(_run, job): job for job in jobs}
        try:
            for done in as_completed(pending):
                yield pending[done], *done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run(job: Job) -> tuple[dict[str, Any], float]:
    begin = time.perf_counter()
    return job.compute(), time.perf_counter() - begin


def _already(result: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: result


def _never() -> dict[str, Any]:
    raise AssertionError("a result is missing")


def _short(job: Job) -> str:
    where = getattr(job, "scenario", job)
    return f"{type(job).__name__}, SNR {where.snr:g}, seed {where.seed}"
