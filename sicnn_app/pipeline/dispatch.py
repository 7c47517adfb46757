"""Settings to outcomes: discover, prepare, estimate, write and report, one run after the other.

The only place where a failed run is caught; one bad run never stops the others.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sicnn_app import __version__
from sicnn_app.bids.derivative_datasets import mask_label, require_derivatives
from sicnn_app.bids.describe import describe
from sicnn_app.bids.discover import Discovery, discover
from sicnn_app.bids.select import Selection
from sicnn_app.bids.validate import check_dataset
from sicnn_app.derivatives import provenance
from sicnn_app.derivatives.atomic import WORK_FOLDER, StagedFiles, make_folder, output_errors, scratch_folder
from sicnn_app.derivatives.dataset import prepare_output
from sicnn_app.derivatives.names import report_path, report_unit
from sicnn_app.derivatives.sidecar import DatasetRoots
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import (
    InternalError,
    NoRunsError,
    OutputError,
    SicnnAppError,
    TryAgainError,
    UsageError,
    one_line,
)
from sicnn_app.formats import natural_key
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.fingerprints import finished_runs, is_reported
from sicnn_app.pipeline.one_run import RunContext, forget_run, process_run
from sicnn_app.pipeline.planned import planned_outputs, require_free_reports, require_free_runs
from sicnn_app.pipeline.study.groups import Study, describe_study, find_study
from sicnn_app.pipeline.study.network_file import remove_networks
from sicnn_app.pipeline.study.training import StudyNetworks
from sicnn_app.pipeline.tasks.part import Outcome, Part, PartResult
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import ResourceSettings, Settings
from sicnn_app.system.caches import private_caches
from sicnn_app.system.cgroups import below_memory_limit, memory_limit
from sicnn_app.system.console import Console, LogFile
from sicnn_app.system.locks.folders import require_folder
from sicnn_app.system.locks.leftovers import remove_leftovers
from sicnn_app.system.locks.owned import owned_folder
from sicnn_app.system.locks.shared import HeldElsewhere, locked_folder, shared_folder

SOME_FAILED = 1

REPORT_WAIT = 600.0
"""Seconds to wait for other processes that write the same report; each takes a few."""

GROUP_WAIT = 3600.0
"""Seconds to wait for another process that gathers the group: it leaves little to do."""

MAX_WARNINGS = 20
"""Warnings of one kind on the terminal; the log has all."""


@dataclass(frozen=True)
class Job:
    """What the runs of one process share.

    Attributes
    ----------
    part : Part
        The runs, and what is known of them.
    console : Console
    device : str
        ``cpu`` or ``cuda:N``.
    log : Path
    networks : StudyNetworks
        What the trainings start from.
    """

    part: Part
    console: Console
    device: str
    log: Path
    networks: StudyNetworks

    @property
    def settings(self) -> Settings:
        """Those of the part."""
        return self.part.settings


def run(settings: Settings, console: Console) -> int:
    """Do what the command line asked for.

    Parameters
    ----------
    settings : Settings
    console : Console

    Returns
    -------
    int
        Exit code of the contract.

    Raises
    ------
    SicnnAppError
        When nothing can be processed at all; its ``exit_code`` is the process's.
    """
    settings = settings.with_real_work_dir()
    if settings.analysis_level == "group":
        return process_group(settings, console)
    if settings.reports_only:
        return rebuild_reports(settings, console)
    for text in check_dataset(settings.bids_dir, skip=settings.selection.skip_bids_validation):
        console.warning(text)
    check_output_place(settings)
    discovery = discover(settings.bids_dir, settings.selection, settings.inputs, settings.preprocessing)
    for text in discovery.warnings:
        console.warning(text)
    for name, reason in discovery.skipped:
        console.line(f"{name}: skipped, {reason}")
    if settings.boilerplate_only:
        return write_boilerplate(settings, console)
    study = find_study(settings, discovery)
    for name, error in study.left_out:
        console.warning(f"study network: trained without {name}: {error}")
    for text in describe_study(study):
        console.line(text)
    if settings.dry_run:
        show_plan(settings, discovery, console)
        return 0
    return process(settings, discovery, study, console)


def check_output_place(settings: Settings) -> None:
    """Refuse whatever is written when it would end up among the raw data, or those of ``-d``."""
    # Group never opens the dataset, and any folder may be named for it.
    raw = () if settings.analysis_level == "group" else (settings.bids_dir,)
    for dataset in (*raw, *settings.inputs.derivatives.values()):
        # Path.resolve raises for a loop of links, through which the output is created, and refused, later.
        source = Path(os.path.realpath(dataset))
        for name, folder in (
            ("the output", settings.output_dir),
            ("--work-dir", settings.work_dir),
            ("--bids-database-dir", settings.selection.bids_database_dir),
        ):
            place = Path(os.path.realpath(folder or os.sep))
            if place.is_relative_to(source) and source / "derivatives" not in place.parents:
                raise UsageError(
                    f"{name} {folder} lies inside the dataset {dataset}: choose a folder outside of it, "
                    f"or below {dataset / 'derivatives'}"
                )


def show_plan(settings: Settings, discovery: Discovery, console: Console) -> None:
    """Print what would be processed and written."""
    rows = describe(discovery, bvals_file=settings.inputs.bvals)
    console.table(
        "Runs",
        ("run", "voxels", "volumes", "b-values (s/mm^2) x volumes", "mask", "note"),
        [(row.name, row.shape, row.volumes, row.bvals, row.mask, row.note) for row in rows],
    )
    warn_if_refused(partial(require_free_runs, settings, discovery.runs), console)
    for item in discovery.runs:
        anatomy, reason = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
        console.line(f"{item.name}: {settings.estimation.method}, {anatomy} ({reason}); would write")
        for path in planned_outputs(item, settings):
            console.line(f"  {path}")


def warn_if_refused(check: Callable[[], None], console: Console) -> None:
    """Say in a dry run what would end the call."""
    try:
        check()
    except OutputError as error:
        console.warning(f"the call would be refused: {error}")


def process(settings: Settings, discovery: Discovery, study: Study, console: Console) -> int:
    """Process every run, write every report as soon as it is complete, and say how it went."""
    settings = within_memory_limit(settings)
    device = begin(settings, console)
    fingerprints = study.fingerprints(settings, discovery.runs)
    finished = finished_runs(settings, discovery.runs, fingerprints)
    done = frozenset(item.name for item in finished)
    require_free_runs(settings, [item for item in discovery.runs if item.name not in done])
    everything = [*discovery.runs, *(item for item, _ in discovery.problems)]
    part = Part(
        settings,
        study,
        tuple(sorted(everything, key=lambda item: natural_key(item.name))),
        fingerprints,
        done,
        {item.name: error for item, error in discovery.problems},
    )
    with at_work(settings, console), output_and_log(settings, console, part.runs) as log:
        job = Job(part, console, device, log, StudyNetworks(study, settings, console, device))
        outcomes = process_in_tasks(job) if settings.resources.in_tasks else process_sessions(job)
        return summarise(outcomes, job)


def within_memory_limit(settings: Settings) -> Settings:
    """The same with the memory that this process, and all that it starts here, may use."""
    if settings.resources.dask_scheduler is not None:
        # The memory is that of the workers.
        return settings
    return replace(settings, resources=below_memory_limit(settings.resources, memory_limit()))


def begin(settings: Settings, console: Console) -> str:
    """The device to work on; raises DeviceError where there is none."""
    from sicnn_app.system.device import choose_device, limit_threads

    address = settings.resources.dask_scheduler
    if address is not None:
        # The devices are those of the workers.
        console.line(f"sicnn-app {__version__}: {settings.estimation.method} on the workers of {address}")
        return "cpu"
    device, reason = choose_device(settings.resources.device)
    limit_threads(settings.resources.omp_nthreads)
    console.line(f"sicnn-app {__version__}: {settings.estimation.method} on {device} ({reason})")
    if settings.resources.mem_from != ResourceSettings.mem_from:
        console.line(f"memory: {settings.resources.mem:.3g} GB, for {settings.resources.mem_from}")
    return device


def process_part(part: Part, console: Console) -> PartResult:
    """Process some of the runs of a call, in a process that was started for them."""
    settings = within_memory_limit(part.settings)
    part = replace(part, settings=settings)
    device = begin(settings, console)
    with at_work(settings, console), output_and_log(settings, console, part.runs) as log:
        job = Job(part, console, device, log, StudyNetworks(part.study, settings, console, device))
        outcomes = train_networks(job) if part.networks_only else process_sessions(job)
        return PartResult(tuple(outcomes), log)


def process_sessions(job: Job) -> list[Outcome]:
    """Process all runs in this process."""
    outcomes: list[Outcome] = []
    for session in by_session(job.part.runs):
        outcomes += process_session(session, job)
        if job.settings.stop_on_first_crash and any(outcome.error for outcome in outcomes):
            break
    job.networks.forget_finished([outcome.run.name for outcome in outcomes if outcome.status == "done"])
    return outcomes


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
    job.networks.forget_finished([outcome.run.name for outcome in outcomes if outcome.status == "done"])
    return sorted(outcomes, key=lambda outcome: natural_key(outcome.run.name))


def train_networks(job: Job) -> list[Outcome]:
    """Train the networks that runs start from; gives the runs for which that failed."""
    outcomes = []
    for item in job.part.runs:
        error = caught(partial(job.networks.start_of, item), job.log)
        if error is not None:
            outcomes.append(Outcome(item, "failed", error))
    return outcomes


def by_session(runs: Sequence[DwiRun]) -> list[list[DwiRun]]:
    """Runs that share a report, in the order of the runs."""
    sessions: dict[tuple[str, str | None], list[DwiRun]] = defaultdict(list)
    for item in runs:
        sessions[item.subject, item.session].append(item)
    return list(sessions.values())


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

    def work() -> None:
        start = partial(job.networks.start_of, item)
        fingerprint = job.part.fingerprints[item.name]
        own = job.part.study.own_fingerprint(item.name, fingerprint)
        context = RunContext(
            job.settings, job.console, job.device, fingerprint, own, start, lock_wait=job.part.lock_wait
        )
        done.append(process_run(item, context))

    error = job.part.problems.get(item.name) or caught(work, job.log)
    if error is not None:
        job.console.error(f"{item.name}: {error}", error)
        return Outcome(item, "failed", error)
    if not done[0]:
        job.console.line(f"{item.name}: skipped, another process finished it meanwhile")
    return Outcome(item, "done" if done[0] else "skipped")


def caught(action: Callable[[], object], log: Path) -> SicnnAppError | None:
    """Do something and return the error it ends with, as one a user can act on; None for success."""
    try:
        action()
    except SicnnAppError as error:
        return error
    except Exception as error:
        from sicnn_app.system.device import is_out_of_memory

        wrapped: SicnnAppError = InternalError(
            f"internal error ({one_line(error)}): please report it with {log}"
        )
        if is_out_of_memory(error):
            wrapped = TryAgainError("out of memory: try again on a machine with more")
        wrapped.__cause__ = error
        return wrapped
    return None


def prepare_folder(settings: Settings, runs: Sequence[DwiRun] = ()) -> None:
    """Create the output dataset and what stands at its top."""
    from sicnn_app.report.methods import citation_markdown

    prepare_output(
        settings.output_dir,
        None if settings.analysis_level == "group" else settings.bids_dir,
        settings.inputs.derivatives,
        citation=citation_markdown(),
        work_dir=settings.work_dir,
        masks={mask_label(item, ANATOMIES[0]) for item in runs if item.mask},
    )


@contextmanager
def at_work(settings: Settings, console: Console) -> Iterator[None]:
    """Context with caches in the work directory, from which the remains of killed processes go first."""
    folders = {settings.work_dir, settings.output_dir / WORK_FOLDER}
    for folder in folders:
        require_folder(folder)
    for folder in folders:
        if settings.clean_workdir:
            remove_networks(folder)
        for text in remove_leftovers(folder, checkpoints=settings.clean_workdir):
            console.warning(text)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(settings.work_dir, "caches"))
            stack.enter_context(private_caches(folder))
        except OSError as error:
            raise OutputError(
                f"{settings.work_dir}: cannot be created ({error.strerror}): choose a writable output or "
                "--work-dir"
            ) from error
        yield


@contextmanager
def output_and_log(settings: Settings, console: Console, runs: Sequence[DwiRun] = ()) -> Iterator[Path]:
    """Context in which everything said goes into a file of its own below ``logs/`` of the output."""
    if settings.reports_only or settings.analysis_level == "group":
        # Its description tells who made what is there; nothing may come of this call.
        make_folder(settings.output_dir)
    else:
        prepare_folder(settings, runs)
    folder = settings.output_dir / "logs"
    with output_errors(folder):
        try:
            handler = LogFile.create(folder)
        except OSError as error:
            if not os.access(settings.output_dir, os.W_OK):
                raise
            console.warning(f"{folder}: no log can be written there ({error.strerror})")
            handler = LogFile(Path(os.devnull), mode="a")
    with console.log_to(handler):
        console.note(f"software: {provenance.software_versions()}")
        yield handler.path


def write_report(
    settings: Settings, subject: str, session: str | None, console: Console, errors: Sequence[str] = ()
) -> None:
    """Write one report from the derivatives; processes that do so at the same time wait for one another."""
    from sicnn_app.report.html import build_report

    unit = report_unit(subject, session)
    with (
        locked_folder(shared_folder(settings.work_dir, unit, settings.output_dir), wait=REPORT_WAIT),
        scratch_folder(settings.output_dir) as folder,
    ):
        staged = StagedFiles(folder)
        path, failure = report_path(settings.output_dir, subject, session), None
        try:
            build_report(
                settings.output_dir,
                subject,
                session,
                errors=errors,
                interactive=settings.report_level == "full",
                write_bytes=staged.add_bytes,
            )
        except Exception as error:
            if path not in staged.targets:
                raise
            # The page is there, without the runs that could not be shown.
            failure = error
        staged.publish(WrittenRecord(settings.output_dir, unit))
    if failure is not None:
        raise failure
    console.line(f"report: {path}")


def summarise(outcomes: Sequence[Outcome], job: Job) -> int:
    """Say how many runs were written, skipped and failed, and which exit code that makes."""
    count = {
        status: sum(item.status == status for item in outcomes) for status in ("done", "skipped", "failed")
    }
    job.console.line(
        f"runs: {count['done']} written, {count['skipped']} skipped, {count['failed']} failed; log: {job.log}"
    )
    for item in outcomes:
        if item.error is not None:
            job.console.line(f"failed: {item.run.name}: {item.error}")
    alone = count["failed"] == len(outcomes) or job.settings.stop_on_first_crash
    return code_of([item.error for item in outcomes if item.error is not None], all_failed=alone)


def rebuild_reports(settings: Settings, console: Console) -> int:
    """Write all reports anew from the derivatives; the dataset is never opened."""
    from sicnn_app.derivatives.collect import reported_sessions

    subjects, sessions = settings.selection.participant_label, settings.selection.session_id
    found = [
        (subject, session)
        for subject, session in reported_sessions(settings.output_dir)
        if (not subjects or subject in subjects) and (not sessions or session in sessions)
    ]
    if not found:
        raise NoRunsError(
            f"{settings.output_dir} holds no maps to report on that were asked for: process the dataset first"
        )
    require_free_reports(settings.output_dir, found)
    errors = []
    with at_work(settings, console), output_and_log(settings, console) as log:
        for subject, session in found:
            error = caught(partial(write_report, settings, subject, session, console), log)
            if error is not None:
                name = report_path(settings.output_dir, subject, session).name
                console.error(f"{name}: {error}", error)
                errors.append(error)
    return code_of(errors, all_failed=len(errors) == len(found))


def code_of(errors: Sequence[SicnnAppError], *, all_failed: bool) -> int:
    """Exit code of a call in which something failed; that of the errors where all failed for one reason."""
    codes = {error.exit_code for error in errors}
    return 0 if not codes else codes.pop() if len(codes) == 1 and all_failed else SOME_FAILED


def process_group(settings: Settings, console: Console) -> int:
    """Gather all runs of the output in tables and a page; the dataset is never opened."""
    from sicnn_app.derivatives.names import GROUP_UNIT, group_outputs
    from sicnn_app.group.gather import find_runs

    check_output_place(settings)
    selection = Selection.build(settings.selection)
    require_derivatives(settings.inputs.derivatives)
    chosen = find_runs(settings.output_dir, selection)
    runs = chosen.runs
    if not runs:
        raise NoRunsError(
            f"{settings.output_dir} holds no maps to gather that were asked for: process the dataset first"
        )
    for text in (*selection.warnings, *selection.unmatched(run.entities for run in runs)):
        console.warning(text)
    targets = group_outputs(settings.output_dir)
    foreign = WrittenRecord(settings.output_dir, GROUP_UNIT).foreign(targets)
    if settings.dry_run:
        warn_if_refused(partial(require_free, foreign), console)
        console.line(f"{len(runs)} runs would be gathered:")
        for path in (*(run.name for run in runs), "would write", *targets):
            console.line(f"  {path}")
        return 0
    require_free(foreign)
    with at_work(settings, console), output_and_log(settings, console) as log:
        # It imports matplotlib, which looks for its cache at once.
        from sicnn_app.group.write import write_group

        place = shared_folder(settings.work_dir, GROUP_UNIT, settings.output_dir)
        with console.progress("group") as progress, locked_folder(place, wait=GROUP_WAIT):
            gathered = write_group(
                settings.output_dir,
                chosen,
                settings.inputs.derivatives,
                reuse=not settings.overwrite,
                stop=settings.stop_on_first_crash,
                prepare=partial(prepare_folder, settings),
                caught=partial(caught, log=log),
                progress=progress,
            )
        warnings = [text for item in gathered.runs for text in item.warnings]
        for text in warnings[:MAX_WARNINGS]:
            console.warning(text)
        if len(warnings) > MAX_WARNINGS:
            console.warning(f"{len(warnings) - MAX_WARNINGS} more segmentations: group_ivim.json names them")
        for _, error in gathered.left_out:
            console.error(f"left out: {error}", error)
        console.line(
            f"runs: {len(gathered.runs)} gathered, {gathered.reused} of them unchanged, "
            f"{len(gathered.left_out)} left out; log: {log}"
        )
        console.line(
            f"report: {targets[-1]}"
            if gathered.runs
            else "nothing is written, since no run can be used: files of an earlier call stay as they are"
        )
    return code_of([error for _, error in gathered.left_out], all_failed=not gathered.runs)


def write_boilerplate(settings: Settings, console: Console) -> int:
    """Write ``CITATION.md`` and print the methods text of these settings."""
    from sicnn_app.report.methods import methods_text

    with at_work(settings, console):
        prepare_folder(settings)
    for text in methods_text(settings.changing_maps(), provenance.software_versions()).split("\n"):
        console.line(text)
    return 0
