"""Settings to outcomes: discover, prepare, estimate, write and report, one run after the other.

The only place where a failed run is caught; one bad run never stops the others.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sicnn_app import __version__, record
from sicnn_app.bids.atomic import WORK_FOLDER, output_errors, write_bytes
from sicnn_app.bids.dataset import prepare_output
from sicnn_app.bids.describe import describe
from sicnn_app.bids.discover import Discovery, discover, natural_key
from sicnn_app.bids.load import load_mask, load_run
from sicnn_app.bids.validate import check_dataset
from sicnn_app.bids.write import expected_outputs, recorded_fingerprint, write_run
from sicnn_app.caches import clean_work_folder, private_caches
from sicnn_app.console import Console, LogFile
from sicnn_app.errors import (
    InternalError,
    NoRunsError,
    SicnnAppError,
    TryAgainError,
    UsageError,
    one_line,
)
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.run import DwiRun, RunResult
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings

ESTIMATORS = {
    "si-cnn": "sicnn_app.sicnn.estimate",
    "di-cnn": "sicnn_app.sicnn.estimate",
    "cnn": "sicnn_app.sicnn.estimate",
    "lsq": "sicnn_app.lsq.estimate",
}
"""Module of every method; each has ``estimate`` with one signature, and is loaded on use."""

SOME_FAILED = 1


@dataclass(frozen=True)
class Outcome:
    """What became of one run: ``done``, ``skipped`` or ``failed``, with the error of a failed one."""

    run: DwiRun
    status: str
    error: SicnnAppError | None = None


@dataclass(frozen=True)
class Job:
    """What all runs of one call share.

    Attributes
    ----------
    settings : Settings
    console : Console
    device : str
        ``cpu`` or ``cuda:N``.
    log : Path
    fingerprints : dict of str to str
        Of every run that can be loaded, by its name.
    finished : list of DwiRun
        Runs whose outputs are there already.
    problems : dict of str to SicnnAppError
        What keeps a run from being loaded, by its name.
    """

    settings: Settings
    console: Console
    device: str
    log: Path
    fingerprints: dict[str, str]
    finished: list[DwiRun]
    problems: dict[str, SicnnAppError]


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
    if settings.reports_only:
        return rebuild_reports(settings, console)
    for text in check_dataset(settings.bids_dir, skip=settings.selection.skip_bids_validation):
        console.warning(text)
    check_output_place(settings)
    discovery = discover(settings.bids_dir, settings.selection, settings.inputs)
    for text in discovery.warnings:
        console.warning(text)
    for name, reason in discovery.skipped:
        console.line(f"{name}: skipped, {reason}")
    if settings.dry_run:
        show_plan(settings, discovery, console)
        return 0
    if settings.boilerplate_only:
        return write_boilerplate(settings, console)
    return process(settings, discovery, console)


def check_output_place(settings: Settings) -> None:
    """Refuse an output that would end up among the raw data."""
    source, output = settings.bids_dir.resolve(), settings.output_dir.resolve()
    if output.is_relative_to(source) and source / "derivatives" not in output.parents:
        raise UsageError(
            f"the output {settings.output_dir} lies inside the dataset: choose a folder outside of it, "
            f"or below {settings.bids_dir / 'derivatives'}"
        )


def show_plan(settings: Settings, discovery: Discovery, console: Console) -> None:
    """Print what would be processed and written."""
    rows = describe(discovery, bvals_file=settings.inputs.bvals)
    console.table(
        "Runs",
        ("run", "voxels", "volumes", "b-values (s/mm^2) x volumes", "mask", "note"),
        [(row.name, row.shape, row.volumes, row.bvals, row.mask, row.note) for row in rows],
    )
    for item in discovery.runs:
        anatomy, reason = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
        console.line(f"{item.name}: {settings.estimation.method}, {anatomy} ({reason}); would write")
        for path in expected_outputs(item, settings.output_dir, anatomy=anatomy):
            console.line(f"  {path}")


def process(settings: Settings, discovery: Discovery, console: Console) -> int:
    """Process every run, write every report as soon as it is complete, and say how it went."""
    from sicnn_app.device import choose_device, limit_threads

    device, reason = choose_device(settings.resources.device)
    limit_threads(settings.resources.omp_nthreads)
    console.line(f"sicnn-app {__version__}: {settings.estimation.method} on {device} ({reason})")
    fingerprints = fingerprint_all(settings, discovery.runs)
    finished = finished_runs(settings, discovery.runs, fingerprints)
    if settings.clean_workdir:
        for folder in {settings.work_dir, settings.output_dir / WORK_FOLDER}:
            clean_work_folder(folder)
    with private_caches(settings.work_dir), output_and_log(settings, console) as log:
        problems = {item.name: error for item, error in discovery.problems}
        job = Job(settings, console, device, log, fingerprints, finished, problems)
        outcomes: list[Outcome] = []
        for session in by_session([*discovery.runs, *(item for item, _ in discovery.problems)]):
            outcomes += process_session(session, job)
            if settings.stop_on_first_crash and any(outcome.error for outcome in outcomes):
                break
        return summarise(outcomes, job)


def by_session(runs: Sequence[DwiRun]) -> list[list[DwiRun]]:
    """Runs that share a report, in natural order."""
    sessions: dict[tuple[str, str | None], list[DwiRun]] = defaultdict(list)
    for item in sorted(runs, key=lambda item: natural_key(item.name)):
        sessions[item.subject, item.session].append(item)
    return list(sessions.values())


def process_session(runs: Sequence[DwiRun], job: Job) -> list[Outcome]:
    """Process the runs of a session and write its report; without that none of them counts as done."""
    from sicnn_app.report.html import report_path

    outcomes: list[Outcome] = []
    for item in runs:
        outcomes.append(attempt(item, job))
        if job.settings.stop_on_first_crash and outcomes[-1].error:
            break
    subject, session = runs[0].subject, runs[0].session
    complete = report_path(job.settings.output_dir, subject, session).exists()
    if complete and all(outcome.status == "skipped" for outcome in outcomes):
        return outcomes
    errors = [f"{outcome.run.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    error = caught(lambda: write_report(job.settings, subject, session, job.console, errors), job.log)
    if error is None:
        return outcomes
    job.console.error(f"the report of {runs[0].name}: {error}", error)
    return [item if item.error else Outcome(item.run, "failed", error) for item in outcomes]


def attempt(item: DwiRun, job: Job) -> Outcome:
    """Process one run; an error becomes an outcome instead of ending the others."""
    if item in job.finished:
        job.console.line(f"{item.name}: skipped, finished before with the same settings")
        return Outcome(item, "skipped")
    error = job.problems.get(item.name) or caught(lambda: process_run(item, job), job.log)
    if error is None:
        return Outcome(item, "done")
    job.console.error(f"{item.name}: {error}", error)
    return Outcome(item, "failed", error)


def caught(action: Callable[[], object], log: Path) -> SicnnAppError | None:
    """Do something and return the error it ends with, as one a user can act on; None for success."""
    try:
        action()
    except SicnnAppError as error:
        return error
    except MemoryError as error:
        wrapped: SicnnAppError = TryAgainError("out of memory: try again on a machine with more")
        wrapped.__cause__ = error
        return wrapped
    except Exception as error:
        wrapped = InternalError(f"internal error ({one_line(error)}): please report it with {log}")
        wrapped.__cause__ = error
        return wrapped
    return None


def process_run(item: DwiRun, job: Job) -> None:
    """Load, prepare, estimate and write one run."""
    from sicnn_app.device import describe_device
    from sicnn_app.ivim.flags import flag_voxels
    from sicnn_app.preprocess.steps import prepare

    settings, console = job.settings, job.console
    anatomy, anatomy_source = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    loaded = load_run(item, bvals_file=settings.inputs.bvals)
    external_mask, mask_warnings = (
        (None, []) if item.mask is None else load_mask(item.mask, loaded.series.affine)
    )
    prepared = prepare(
        loaded.series, anatomy=anatomy, external_mask=external_mask, settings=settings.preprocessing
    )
    averaged = prepared.averaged
    console.line(
        f"{item.name}: {int(averaged.mask.sum())} voxels ({anatomy}), {len(prepared.series.bvals)} volumes, "
        f"{len(averaged.bvals)} b-values, noise {averaged.sigma:.3g}"
    )
    warnings = [*loaded.warnings, *mask_warnings, *prepared.warnings]
    for text in warnings:
        console.warning(f"{item.name}: {text}")
    with console.progress(item.name) as progress:
        estimate: Estimate = load_estimator(settings.estimation.method)(
            averaged.signals,
            averaged.mask,
            averaged.bvals,
            sigma_per_bval=averaged.sigma_per_bval,
            sigma=averaged.sigma,
            settings=settings.estimation,
            device=job.device,
            progress=progress,
        )
    estimate = replace(estimate, device=describe_device(job.device))
    flags, flag_counts = flag_voxels(
        estimate.maps,
        averaged.mask,
        vars(settings.estimation.bounds),
        averaged.sigma,
        averaged.sigma_per_bval,
        estimate.neighbour_count,
        averaged.signals[..., 0],
    )
    result = RunResult(
        run=item,
        header=loaded.header,
        series=prepared.series,
        averaged=averaged,
        estimate=estimate,
        flags=flags,
        flag_counts=flag_counts,
        anatomy=anatomy,
        anatomy_source=anatomy_source,
        mask_source=prepared.mask_method if item.mask is None else str(item.mask),
        steps=prepared.steps,
        warnings=warnings,
        settings={**settings.changing_maps(), "bvals_file": settings.inputs.bvals},
        fingerprint=job.fingerprints[item.name],
    )
    write_run(
        result, settings.output_dir, bids_dir=settings.bids_dir, dataset_links=settings.inputs.derivatives
    )
    console.line(f"{item.name}: written")


def load_estimator(method: str) -> Callable[..., Estimate]:
    """The ``estimate`` function of a method."""
    return importlib.import_module(ESTIMATORS[method]).estimate


def fingerprint_all(settings: Settings, runs: Sequence[DwiRun]) -> dict[str, str]:
    """Fingerprint of every run: settings that change a map, source files, minor version of the app."""
    common = {
        "settings": settings.changing_maps(),
        "version": __version__.rsplit(".", 1)[0],
        "bvals_file": hash_file(settings.inputs.bvals),
    }
    fingerprints = {}
    for item in runs:
        files = [hash_file(path) for part in item.parts for path in (part.image, part.bval, part.bvec)]
        anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
        content = {**common, "files": files, "mask": hash_file(item.mask), "anatomy": anatomy}
        fingerprints[item.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return fingerprints


def hash_file(path: Path | None) -> str | None:
    """SHA-256 of a file; None for no file or one that cannot be read, which loading will report."""
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def finished_runs(settings: Settings, runs: Sequence[DwiRun], fingerprints: dict[str, str]) -> list[DwiRun]:
    """Runs that need no work; refuses, before any run starts, to mix outputs of different settings."""
    finished, other = [], []
    for item in runs:
        found, complete = recorded_fingerprint(settings.output_dir, item)
        if found is None or settings.overwrite:
            continue
        if found != fingerprints[item.name]:
            other.append(item)
        elif complete:
            finished.append(item)
    if other:
        names = ", ".join(item.name for item in other[:3]) + (" ..." if len(other) > 3 else "")
        raise UsageError(
            f"{settings.output_dir} holds outputs of other settings or other source files for {names}: "
            "choose another output folder, or --overwrite them"
        )
    return finished


def prepare_folder(settings: Settings) -> None:
    """Create the output dataset and what stands at its top."""
    from sicnn_app.report.methods import citation_markdown

    prepare_output(
        settings.output_dir, settings.bids_dir, settings.inputs.derivatives, citation=citation_markdown()
    )


@contextmanager
def output_and_log(settings: Settings, console: Console) -> Iterator[Path]:
    """Context in which everything said goes into a file of its own below ``logs/`` of the output."""
    prepare_folder(settings)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = settings.output_dir / "logs" / f"sicnn-app_{moment}.log"
    with output_errors(path):
        handler = LogFile(path)
    with console.log_to(handler):
        console.note(f"software: {record.software_versions()}")
        yield path


def write_report(
    settings: Settings, subject: str, session: str | None, console: Console, errors: Sequence[str] = ()
) -> None:
    """Write one report from the derivatives."""
    from sicnn_app.report.html import build_report

    path = build_report(
        settings.output_dir,
        subject,
        session,
        errors=errors,
        interactive=settings.report_level == "full",
        write_bytes=lambda target, content: write_bytes(target, content, output_dir=settings.output_dir),
    )
    console.line(f"report: {path}")


def summarise(outcomes: Sequence[Outcome], job: Job) -> int:
    """Say how many runs were written, skipped and failed, and which exit code that makes."""
    count = {
        status: sum(item.status == status for item in outcomes) for status in ("done", "skipped", "failed")
    }
    job.console.line(
        f"runs: {count['done']} written, {count['skipped']} skipped, {count['failed']} failed; log: {job.log}"
    )
    codes = {item.error.exit_code for item in outcomes if item.error is not None}
    if not codes:
        return 0
    for item in outcomes:
        if item.error is not None:
            job.console.line(f"failed: {item.run.name}: {item.error}")
    alone = len(codes) == 1 and (count["failed"] == len(outcomes) or job.settings.stop_on_first_crash)
    return codes.pop() if alone else SOME_FAILED


def rebuild_reports(settings: Settings, console: Console) -> int:
    """Write all reports anew from the derivatives; the dataset is never opened."""
    from sicnn_app.report.collect import reported_sessions

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
    errors = []
    with private_caches(settings.work_dir):
        for subject, session in found:
            try:
                write_report(settings, subject, session, console)
            except SicnnAppError as error:
                console.error(str(error))
                errors.append(error)
    codes = {error.exit_code for error in errors}
    return 0 if not errors else codes.pop() if len(codes) == 1 and len(errors) == len(found) else SOME_FAILED


def write_boilerplate(settings: Settings, console: Console) -> int:
    """Write ``CITATION.md`` and print the methods text of these settings."""
    from sicnn_app.report.methods import methods_text

    with private_caches(settings.work_dir):
        prepare_folder(settings)
    console.line(methods_text(settings.changing_maps(), record.software_versions()))
    return 0
