"""All participants of a call as tasks: one each, and before them one for the networks of a study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

from sicnn_app.formats import rough_time
from sicnn_app.pipeline.tasks.part import Outcome, Part, PartResult, counted
from sicnn_app.pipeline.tasks.processes import fork_server, process_here
from sicnn_app.settings import ResourceSettings
from sicnn_app.system.console import Console
from sicnn_app.system.locks.mark import STALE
from sicnn_app.system.memory import GB, resident_memory

Workers = Callable[[Sequence[Part]], Generator[tuple[Part, PartResult], None, None]]
"""Process parts, in processes of this machine or of a cluster, and yield each with its result as soon as that
is there. Whoever stops iterating closes the generator: the processes then end after a checkpoint."""

TAKE_OVER = STALE + 60.0
"""Seconds after which a worker on another machine has taken over from one that died."""


def process_participants(
    part: Part, console: Console, *, devices: Sequence[str] = (), done: int = 0
) -> list[Outcome]:
    """Process each participant in a process of its own, several at a time.

    The console gets a line per participant; what their processes say stands in their logs. Outcomes come in
    the order of the runs; with ``stop_on_first_crash`` there are none of participants that were stopped.

    Parameters
    ----------
    part : Part
        Runs of all these participants; its settings say how many are at work at a time, and where.
    devices : sequence of str
        CUDA devices that the processes on this machine take in turn.
    done : int
        Participants that were dealt with before, to be counted.
    """
    resources = part.settings.resources
    share = resources.of_one_task(taken=resident_memory() / GB)
    one = replace(part.settings, clean_workdir=False, resources=share)
    part = replace(part, settings=one, lock_wait=0.0 if resources.dask_scheduler is None else TAKE_OVER)
    at_a_time = min(resources.nprocs, len(part.by_participant()))
    with _workers(resources, at_a_time, devices, console) as workers:
        part = _with_networks(workers, part, console)
        return _process(workers, part.by_participant(), console, done)


@contextmanager
def _workers(
    resources: ResourceSettings, at_a_time: int, devices: Sequence[str], console: Console
) -> Iterator[Workers]:
    if resources.dask_scheduler is not None:
        from sicnn_app.pipeline.tasks.dask_workers import dask_workers

        with dask_workers(resources.dask_scheduler, console) as workers:
            yield workers
        return
    console.line(f"participants at a time: {at_a_time}, each in a process of its own")
    threads, available = resources.omp_nthreads, len(os.sched_getaffinity(0))
    if at_a_time * threads > available:
        console.warning(
            f"{at_a_time} participants at a time with --omp-nthreads {threads} share {available} CPUs: fewer "
            "of either may be faster"
        )
    with fork_server(threads) as server:
        yield partial(process_here, at_a_time=at_a_time, devices=devices, server=server)


def _process(workers: Workers, parts: Sequence[Part], console: Console, done: int) -> list[Outcome]:
    found: dict[str, Outcome] = {}
    total, began = done + len(parts), time.monotonic()
    with closing(workers(parts)) as results:
        for number, (part, result) in enumerate(results, start=done + 1):
            outcomes = part.outcomes(result)
            for outcome in outcomes:
                if outcome.error is not None:
                    console.error(f"{outcome.run.name}: {outcome.error}", outcome.error)
            found |= {outcome.run.name: outcome for outcome in outcomes}
            subject = f"sub-{part.runs[0].subject}"
            console.note(f"{subject}: log: {result.log}")
            left = (time.monotonic() - began) / (number - done) * (total - number)
            rest = f", about {rough_time(left)} left" if number < total else ""
            console.line(f"{subject}: {counted(outcomes)} ({number} of {total} participants{rest})")
            if part.settings.stop_on_first_crash and any(outcome.error for outcome in outcomes):
                break
    return [found[item.name] for part in parts for item in part.runs if item.name in found]


def _with_networks(workers: Workers, part: Part, console: Console) -> Part:
    """Train the networks of a study first, in one task; what fails there fails the runs that need them."""
    shared = {item.name for group in part.study.groups for item in group.runs}
    waiting = [
        item
        for item in part.runs
        if item.name in shared and item.name not in part.finished and item.name not in part.problems
    ]
    if not waiting:
        return part
    console.line("study network: trained, or found, before the participants")
    ((networks, result),) = workers([part.of(waiting, networks_only=True)])
    errors = {outcome.run.name: outcome.error for outcome in networks.outcomes(result) if outcome.error}
    return replace(part, problems={**part.problems, **errors})
