"""What a call would write, and whether files of somebody else are in the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from sicnn_app.derivatives.names import (
    expected_outputs,
    figures_folder,
    report_path,
    report_unit,
    run_unit,
    step_pictures_of,
)
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.ivim.run import DwiRun
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings
from sicnn_app.steps import STEPS, Situation


def planned_outputs(item: DwiRun, settings: Settings) -> list[Path]:
    """Derivatives that the call writes for a run, the completion marker last."""
    anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    situation = Situation(anatomy, item.preprocessed)
    motion_correction, _ = STEPS["motioncorrection"].wanted(settings.preprocessing, situation)
    return expected_outputs(
        item,
        settings.output_dir,
        anatomy=anatomy,
        method=settings.estimation.method,
        ensemble=settings.estimation.ensemble > 1,
        comparison=settings.estimation.described.trains,
        motion=motion_correction != "none",
    )


def require_free_runs(settings: Settings, runs: Sequence[DwiRun]) -> None:
    """Make sure, before anything is computed, that whatever runs and their reports replace is the app's own.

    Raises
    ------
    OutputError
        Somebody else's file has the name of an output, or a folder on the way to it is a link.
    """
    foreign = []
    sessions: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for item in runs:
        pictures = step_pictures_of(item.name, settings.output_dir, item.subject).values()
        record = WrittenRecord(settings.output_dir, run_unit(item.name))
        foreign += record.foreign([*planned_outputs(item, settings), *pictures])
        sessions[item.subject, item.session].append(item.name)
    require_free([*foreign, *_foreign_reports(settings.output_dir, sessions.items())])


def require_free_reports(output_dir: Path, sessions: Iterable[tuple[str, str | None]]) -> None:
    """The same for reports that are written anew; raises OutputError."""
    require_free(_foreign_reports(output_dir, ((session, ()) for session in sessions)))


def _foreign_reports(
    output_dir: Path, sessions: Iterable[tuple[tuple[str, str | None], Sequence[str]]]
) -> list[Path]:
    """Files in the way of reports; which pictures a report of new runs will have is not known yet."""
    foreign = []
    for (subject, session), names in sessions:
        pictures = [
            path
            for path in figures_folder(output_dir, subject).glob("*_desc-*_dwi.*")
            # Those of the steps are recorded with their run.
            if path.name.partition("_desc-")[0] in names and "_desc-step" not in path.name
        ]
        record = WrittenRecord(output_dir, report_unit(subject, session))
        foreign += record.foreign([report_path(output_dir, subject, session), *sorted(pictures)])
    return foreign
