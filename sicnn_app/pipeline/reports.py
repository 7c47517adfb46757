"""Reports, methods texts and tables of all runs, from the derivatives: the dataset is never opened."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sicnn_app.bids.derivative_datasets import require_derivatives
from sicnn_app.bids.segmentations import unrecognised
from sicnn_app.bids.select import Selection
from sicnn_app.derivatives import names, provenance
from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import NoRunsError
from sicnn_app.pipeline.planned import require_free_reports, warn_if_refused
from sicnn_app.pipeline.workplace import at_work, caught, code_of, output_and_log, prepare_folder
from sicnn_app.settings import Settings
from sicnn_app.system.console import Console
from sicnn_app.system.locks.shared import locked_folder, shared_folder

REPORT_WAIT = 600.0
"""Seconds to wait for other processes that write the same report; each takes a few."""

GROUP_WAIT = 3600.0
"""Seconds to wait for another process that gathers the group: it leaves little to do."""

MAX_WARNINGS = 20
"""Warnings of one kind on the terminal; the log has all."""


def write_report(
    settings: Settings, subject: str, session: str | None, console: Console, errors: Sequence[str] = ()
) -> None:
    """Write one report; processes that do so at the same time wait for one another."""
    from sicnn_app.report.html import build_report

    unit = names.report_unit(subject, session)
    with (
        locked_folder(shared_folder(settings.work_dir, unit, settings.output_dir), wait=REPORT_WAIT),
        scratch_folder(settings.output_dir) as folder,
    ):
        staged = StagedFiles(folder)
        path, failure = names.report_path(settings.output_dir, subject, session), None
        try:
            build_report(
                settings.output_dir,
                subject,
                session,
                errors=errors,
                large_pages=settings.report_level == "full",
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


def rebuild_reports(settings: Settings, console: Console) -> int:
    """Write all reports anew."""
    subjects, sessions = settings.selection.participant_label, settings.selection.session_id
    found = [
        (subject, session)
        for subject, session in names.reported_sessions(settings.output_dir)
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
                name = names.report_path(settings.output_dir, subject, session).name
                console.error(f"{name}: {error}", error)
                errors.append(error)
    return code_of(errors, all_failed=len(errors) == len(found))


def write_boilerplate(settings: Settings, console: Console) -> int:
    """Write ``CITATION.md`` and print the methods text of these settings."""
    from sicnn_app.report.methods import methods_text

    with at_work(settings, console):
        prepare_folder(settings)
    for text in methods_text(settings.changing_maps(), provenance.software_versions()).split("\n"):
        console.line(text)
    return 0


def process_group(settings: Settings, console: Console) -> int:
    """Gather all runs of the output in tables and a page."""
    from sicnn_app.group.gather import find_runs
    from sicnn_app.group.ratings import read_ratings

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
    ratings = read_ratings(settings.inputs.ratings)
    if ratings.problems and settings.stop_on_first_crash:
        raise ratings.problems[0]
    for problem in ratings.problems:
        console.error(f"left out: {problem}", problem)
    if unmatched := ratings.unmatched([run.name for run in runs]):
        more = f" and {len(unmatched) - MAX_WARNINGS} more" if len(unmatched) > MAX_WARNINGS else ""
        console.warning(
            f"--ratings: rated, but not among these runs: {', '.join(unmatched[:MAX_WARNINGS])}{more}"
        )
    for text in unrecognised(settings.inputs.derivatives, [run.entities for run in runs]):
        console.warning(text)
    targets = names.group_outputs(settings.output_dir)
    foreign = WrittenRecord(settings.output_dir, names.GROUP_UNIT).foreign(targets)
    if settings.dry_run:
        warn_if_refused(partial(require_free, foreign), console)
        console.line(f"{len(runs)} runs would be gathered:")
        for path in (*(run.name for run in runs), "would write", *targets):
            console.line(f"  {path}")
        return code_of(ratings.problems, all_failed=False)
    require_free(foreign)
    with at_work(settings, console), output_and_log(settings, console) as log:
        # It imports matplotlib, which looks for its cache at once.
        from sicnn_app.group.write import write_group

        place = shared_folder(settings.work_dir, names.GROUP_UNIT, settings.output_dir)
        with console.progress("group") as progress, locked_folder(place, wait=GROUP_WAIT):
            gathered = write_group(
                settings.output_dir,
                chosen,
                settings.inputs.derivatives,
                ratings,
                reuse=not settings.overwrite,
                stop=settings.stop_on_first_crash,
                prepare=partial(prepare_folder, settings),
                caught=partial(caught, log=log),
                progress=progress,
            )
        for name, programs in gathered.recognised.items():
            console.line(f"regions of {name}, recognised as laid out by {', '.join(programs)}")
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
    errors = [*ratings.problems, *(error for _, error in gathered.left_out)]
    return code_of(errors, all_failed=not gathered.runs)
