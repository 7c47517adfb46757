"""Reports and methods texts from the derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sicnn_app.derivatives import provenance
from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.names import report_path, report_unit
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import NoRunsError
from sicnn_app.pipeline.planned import require_free_reports
from sicnn_app.pipeline.workplace import at_work, caught, code_of, output_and_log, prepare_folder
from sicnn_app.settings import Settings
from sicnn_app.system.console import Console
from sicnn_app.system.locks.shared import locked_folder, shared_folder

REPORT_WAIT = 600.0
"""Seconds to wait for other processes that write the same report; each takes a few."""


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


def rebuild_reports(settings: Settings, console: Console) -> int:
    """Write all reports anew from the derivatives; the dataset is never opened."""
    from sicnn_app.derivatives.names import reported_sessions

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


def write_boilerplate(settings: Settings, console: Console) -> int:
    """Write ``CITATION.md`` and print the methods text of these settings."""
    from sicnn_app.report.methods import methods_text

    with at_work(settings, console):
        prepare_folder(settings)
    for text in methods_text(settings.changing_maps(), provenance.software_versions()).split("\n"):
        console.line(text)
    return 0
