"""Runs to maps and reports, one after the other or as tasks; a failed run never stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sicnn_app import __version__
from sicnn_app.bids.discover import Discovery
from sicnn_app.derivatives.sidecar import DatasetRoots
from sicnn_app.formats import natural_key
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.forecast import Schedule
from sicnn_app.pipeline.one_run import Job, forget_run, process_run
from sicnn_app.pipeline.overview import tell_results
from sicnn_app.pipeline.planned import (
    finished_runs,
    grouped,
    is_reported,
    require_free_runs,
)
from sicnn_app.pipeline.reports import write_report
from sicnn_app.pipeline.study.groups import Study
from sicnn_app.pipeline.study.training import StudyNetworks
from sicnn_app.pipeline.tasks.part import Outcome, Part, PartResult, counted
from sicnn_app.pipeline.workplace import at_work, caught, code_of, output_and_log
from sicnn_app.settings import ResourceSettings, Settings
from sicnn_app.system.cgroups import below_memory_limit, memory_limit
from sicnn_app.system.console import Console
from sicnn_app.system.locks.shared import HeldElsewhere
from sicnn_app.system.surroundings import loading


def process(settings: Settings, discovery: Discovery, study: Study, console: Console) -> int:
    """Process every run, write every report as soon as it is complete, and say how it went."""
    settings, device = begin(settings, console)
    fingerprints = study.fingerprints(settings, discovery.runs)
    finished = finished_runs(settings, discovery.runs, fingerprints)
    require_free_runs(settings, [item for item in discovery.runs if item.name not in finished])
    everything = [*discovery.runs, *(item for item, _ in discovery.problems)]
    part = Part(
        settings,
        study,
        tuple(sorted(everything, key=lambda item: natural_key(item.name))),
        fingerprints,
        finished,
        {item.name: error for item, error in discovery.problems},
    )
    with at_work(settings, console), output_and_log(settings, console, part.runs) as log:
        job = Job(part, console, device, log, StudyNetworks(study, settings, console, device))
        outcomes = process_in_tasks(job) if settings.resources.in_tasks else process_sessions(job)
        return summarise(outcomes, job)


def process_part(part: Part, console: Console) -> PartResult:
    """Process some of the runs of a call, in a process that was started for them."""
    settings, device = begin(part.settings, console)
    part = replace(part, settings=settings)
    with at_work(settings, console), output_and_log(settings, console, part.runs) as log:
        job = Job(part, console, device, log, StudyNetworks(part.study, settings, console, device))
        outcomes = train_networks(job) if part.networks_only else process_sessions(job)
        return PartResult(tuple(outcomes), log)


def begin(settings: Settings, console: Console) -> tuple[Settings, str]:
    """Settings with the memory that this process, and all that it starts here, may use; and the device.

    Raises DeviceError where there is none, and TryAgainError where the memory is too little for any work.
    """
    title = f"sicnn-app {__version__}: {settings.estimation.method}"
    address = settings.resources.dask_scheduler
    if address is not None:
        # Memory and devices are those of the workers.
        console.line(f"{title} on the workers of {address}")
        return settings, "cpu"
    resources = below_memory_limit(settings.resources, memory_limit())
    # Loaded when there is room for it.
    with loading():
        from sicnn_app.system.device import choose_device, limit_threads

    device, reason = choose_device(resources.device)
    limit_threads(resources.omp_nthreads)
    console.line(f"{title} on {device} ({reason})")
    if resources.mem_from != ResourceSettings.mem_from:
        console.line(f"memory: {resources.mem:.3g} GB, for {resources.mem_from}")
    return replace(settings, resources=resources), device


def process_in_tasks(job: Job) -> list[Outcome]:
    """Process participants as tasks, but here those with nothing to do, for whom no process need start."""
    from sicnn_app.pipeline.tasks.participants import process_participants
    from sicnn_app.system.device import visible_devices

    part, resources = job.part, job.settings.resources
    waiting = {item.subject for item in part.runs if item.name not in part.finished}
    outcomes = process_sessions(
        replace(job, part=part.of([item for item in part.runs if item.subject not in waiting]))
    )
    crashed = any(outcome.error for outcome in outcomes)
    if not waiting or (crashed and job.settings.stop_on_first_crash):
        return outcomes
    # A number that was named is meant for all, and so is what a worker elsewhere sees.
    named = resources.device not in ("auto", "cuda") or resources.dask_scheduler is not None
    outcomes += process_participants(
        part.of([item for item in part.runs if item.subject in waiting]),
        job.console,
        devices=() if named else visible_devices(),
        done=len({item.subject for item in part.runs} - waiting),
    )
    job.networks.forget_finished(outcomes)
    return sorted(outcomes, key=lambda outcome: natural_key(outcome.run.name))


def process_sessions(job: Job) -> list[Outcome]:
    """Process all runs in this process."""
    outcomes: list[Outcome] = []
    waiting = [
        item for item in job.part.runs if item.name not in job.part.finished | job.part.problems.keys()
    ]
    job = replace(job, schedule=Schedule.of(waiting, job.settings))
    for session in grouped(job.part.runs, "subject", "session").values():
        outcomes += process_session(session, job)
        if job.settings.stop_on_first_crash and any(outcome.error for outcome in outcomes):
            break
    job.networks.forget_finished(outcomes)
    return outcomes


def process_session(runs: Sequence[DwiRun], job: Job) -> list[Outcome]:
    """Process the runs of a session and write its report; without that none of them counts as done."""
    outcomes: list[Outcome] = []
    for item in runs:
        outcomes.append(attempt(item, job))
        if job.settings.stop_on_first_crash and outcomes[-1].error:
            break
    # A run that another process has is that one's to report on.
    mine = [outcome for outcome in outcomes if not isinstance(outcome.error, HeldElsewhere)]
    skipped = [outcome.run for outcome in mine if outcome.status == "skipped"]
    if len(skipped) == len(mine) and all(is_reported(item, job.settings.output_dir) for item in skipped):
        return outcomes
    subject, session = runs[0].subject, runs[0].session
    # A page is handed on, and the names of folders can be those of people.
    roots = DatasetRoots.of(job.settings.bids_dir, job.settings.inputs.derivatives)
    errors = [f"{item.run.name}: {roots.portable(str(item.error))}" for item in mine if item.error]
    error = caught(lambda: write_report(job.settings, subject, session, job.console, errors), job.log)
    if error is None:
        return outcomes
    job.console.error(f"the report of {runs[0].name}: {error}", error)
    return [item if item.error else Outcome(item.run, "failed", error) for item in outcomes]


def attempt(item: DwiRun, job: Job) -> Outcome:
    """Process one run; an error becomes an outcome instead of ending the others."""
    if item.name in job.part.finished:
        forget_run(item, job.settings)
        job.console.line(f"{item.name}: skipped, finished before with the same settings")
        return Outcome(item, "skipped")
    done: list[bool] = []
    job.schedule.begin(item.name)
    error = job.part.problems.get(item.name) or caught(lambda: done.append(process_run(item, job)), job.log)
    job.schedule.end(item.name)
    if error is not None:
        job.console.error(f"{item.name}: {error}", error)
        return Outcome(item, "failed", error)
    if not done[0]:
        job.console.line(f"{item.name}: skipped, another process finished it meanwhile")
    return Outcome(item, "done" if done[0] else "skipped")


def train_networks(job: Job) -> list[Outcome]:
    """Train the networks that runs start from; gives the runs for which that failed."""
    errors = ((item, caught(partial(job.networks.start_of, item), job.log)) for item in job.part.runs)
    return [Outcome(item, "failed", error) for item, error in errors if error is not None]


def summarise(outcomes: Sequence[Outcome], job: Job) -> int:
    """Say how the runs came out and how many were written, skipped and failed; gives the exit code."""
    tell_results(outcomes, job.settings.output_dir, job.console)
    job.console.line(f"runs: {counted(outcomes)}; log: {job.log}")
    errors = {item.run.name: item.error for item in outcomes if item.error is not None}
    for name, error in errors.items():
        job.console.line(f"failed: {name}: {error}")
    alone = len(errors) == len(outcomes) or job.settings.stop_on_first_crash
    return code_of(list(errors.values()), all_failed=alone)
