"""Settings to outcomes: discover, prepare, estimate, write and report, one run after the other.

The only place where a failed run is caught; one bad run never stops the others.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sicnn_app import __version__, record
from sicnn_app.bids.atomic import output_errors, write_bytes
from sicnn_app.bids.dataset import prepare_output
from sicnn_app.bids.describe import describe
from sicnn_app.bids.discover import Discovery, discover
from sicnn_app.bids.load import load_mask, load_run
from sicnn_app.bids.validate import check_dataset
from sicnn_app.bids.write import expected_outputs, finished_fingerprint, write_run
from sicnn_app.caches import FOLDER_PREFIX, private_caches
from sicnn_app.console import LOGGER, Console
from sicnn_app.errors import InternalError, NoRunsError, SicnnAppError, UsageError
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
    """Process every run, write the reports and say how it went."""
    from sicnn_app.device import choose_device, limit_threads

    device, reason = choose_device(settings.resources.device)
    limit_threads(settings.resources.omp_nthreads)
    console.line(f"sicnn-app {__version__}: {settings.estimation.method} on {device} ({reason})")
    fingerprints = fingerprint_all(settings, discovery.runs)
    finished = finished_runs(settings, discovery.runs, fingerprints)
    if settings.clean_workdir:
        clean_work_folder(settings.work_dir)
    prepare_folder(settings)
    with private_caches(settings.work_dir), log_file(settings) as log:
        outcomes = [failed(item, error, console) for item, error in discovery.problems]
        for item in discovery.runs:
            if settings.stop_on_first_crash and any(outcome.status == "failed" for outcome in outcomes):
                break
            if item in finished:
                console.line(f"{item.name}: skipped, finished before with the same settings")
                outcomes.append(Outcome(item, "skipped"))
                continue
            outcomes.append(attempt(item, settings, fingerprints[item.name], device, console))
        report_outcomes(settings, outcomes, console)
        return summarise(outcomes, settings, log, console)


def attempt(item: DwiRun, settings: Settings, fingerprint: str, device: str, console: Console) -> Outcome:
    """Process one run; an error becomes an outcome instead of ending the others."""
    try:
        process_run(item, settings, fingerprint, device, console)
    except SicnnAppError as error:
        return failed(item, error, console)
    except Exception as error:
        LOGGER.error("%s", traceback.format_exc())
        if settings.verbosity > 1:
            traceback.print_exc()
        text = f"internal error ({type(error).__name__}: {error}); please report it with the log"
        return failed(item, InternalError(text), console)
    return Outcome(item, "done")


def failed(item: DwiRun, error: SicnnAppError, console: Console) -> Outcome:
    """Say that a run failed."""
    console.error(f"{item.name}: {error}")
    LOGGER.debug("", exc_info=error)
    return Outcome(item, "failed", error)


def process_run(item: DwiRun, settings: Settings, fingerprint: str, device: str, console: Console) -> None:
    """Load, prepare, estimate and write one run."""
    from sicnn_app.device import describe_device
    from sicnn_app.ivim.flags import flag_voxels
    from sicnn_app.preprocess.steps import prepare

    anatomy, anatomy_source = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    loaded = load_run(item, bvals_file=settings.inputs.bvals)
    external_mask = None if item.mask is None else load_mask(item.mask)
    prepared = prepare(
        loaded.series, anatomy=anatomy, external_mask=external_mask, settings=settings.preprocessing
    )
    averaged = prepared.averaged
    console.line(
        f"{item.name}: {int(averaged.mask.sum())} voxels ({anatomy}), {len(prepared.series.bvals)} volumes, "
        f"{len(averaged.bvals)} b-values, noise {averaged.sigma:.3g}"
    )
    warnings = [*loaded.warnings, *prepared.warnings]
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
            device=device,
            progress=progress,
        )
    estimate = replace(estimate, device=describe_device(device))
    flags, flag_counts = flag_voxels(
        estimate.maps,
        averaged.mask,
        vars(settings.estimation.bounds),
        averaged.sigma,
        averaged.sigma_per_bval,
        estimate.neighbour_count,
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
        fingerprint=fingerprint,
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
        found = finished_fingerprint(settings.output_dir, item)
        if found is None or settings.overwrite:
            continue
        (finished if found == fingerprints[item.name] else other).append(item)
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


def clean_work_folder(work_dir: Path) -> None:
    """Remove what earlier calls left in the work directory, and nothing a user may have put there."""
    for pattern in (f"{FOLDER_PREFIX}*", "write-*"):
        for folder in work_dir.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


class log_file:
    """Context in which everything said goes into a file of its own below ``logs/``."""

    def __init__(self, settings: Settings) -> None:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self.path = settings.output_dir / "logs" / f"sicnn-app_{moment}.log"

    def __enter__(self) -> Path:
        with output_errors(self.path):
            self.handler = logging.FileHandler(self.path, encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.addHandler(self.handler)
        LOGGER.info("sicnn-app %s: %s", __version__, record.software_versions())
        return self.path

    def __exit__(self, *exception: object) -> None:
        LOGGER.removeHandler(self.handler)
        self.handler.close()


def report_outcomes(settings: Settings, outcomes: Sequence[Outcome], console: Console) -> None:
    """Write the report of every subject or session that has anything to show."""
    from sicnn_app.report.html import build_report

    for subject, session in dict.fromkeys((item.run.subject, item.run.session) for item in outcomes):
        here = [item for item in outcomes if (item.run.subject, item.run.session) == (subject, session)]
        if all(item.status == "skipped" for item in here):
            continue
        errors = [f"{item.run.name}: {item.error}" for item in here if item.status == "failed"]
        path = build_report(
            settings.output_dir,
            subject,
            session,
            errors=errors,
            write_bytes=lambda target, content: write_bytes(target, content, output_dir=settings.output_dir),
        )
        console.line(f"report: {path}")


def summarise(outcomes: Sequence[Outcome], settings: Settings, log: Path, console: Console) -> int:
    """Say how many runs were written, skipped and failed, and which exit code that makes."""
    count = {
        status: sum(item.status == status for item in outcomes) for status in ("done", "skipped", "failed")
    }
    console.line(
        f"{count['done']} runs written, {count['skipped']} skipped, {count['failed']} failed; log: {log}"
    )
    codes = {item.error.exit_code for item in outcomes if item.error is not None}
    if not codes:
        return 0
    for item in outcomes:
        if item.error is not None:
            console.line(f"failed: {item.run.name}: {item.error}")
    alone = len(codes) == 1 and (count["failed"] == len(outcomes) or settings.stop_on_first_crash)
    return codes.pop() if alone else SOME_FAILED


def rebuild_reports(settings: Settings, console: Console) -> int:
    """Write all reports anew from the derivatives; the dataset is never opened."""
    from sicnn_app.report.collect import reported_sessions
    from sicnn_app.report.html import build_report

    wanted = settings.selection.participant_label
    found = [
        (subject, session)
        for subject, session in reported_sessions(settings.output_dir)
        if not wanted or subject in wanted
    ]
    if not found:
        raise NoRunsError(f"{settings.output_dir} holds no maps to report on: process the dataset first")
    with private_caches(settings.work_dir):
        for subject, session in found:
            path = build_report(
                settings.output_dir,
                subject,
                session,
                write_bytes=lambda target, content: write_bytes(
                    target, content, output_dir=settings.output_dir
                ),
            )
            console.line(f"report: {path}")
    return 0


def write_boilerplate(settings: Settings, console: Console) -> int:
    """Write ``CITATION.md`` and print the methods text of these settings."""
    from sicnn_app.report.methods import methods_text

    prepare_folder(settings)
    console.line(methods_text(settings.changing_maps(), record.software_versions()))
    return 0
