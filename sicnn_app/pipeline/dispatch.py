"""Everything a call can ask for."""

from __future__ import annotations

import os
from pathlib import Path

from sicnn_app.bids.discover import discover
from sicnn_app.bids.validate import check_dataset
from sicnn_app.errors import UsageError
from sicnn_app.pipeline.overview import show_plan
from sicnn_app.pipeline.participant_level import process
from sicnn_app.pipeline.reports import process_group, rebuild_reports, write_boilerplate
from sicnn_app.pipeline.study.groups import find_study
from sicnn_app.settings import Settings
from sicnn_app.system.console import Console


def run(settings: Settings, console: Console) -> int:
    """Do what the command line asked for, and give the exit code of the contract.

    Raises a SicnnAppError when nothing can be processed at all; its ``exit_code`` is the process's.
    """
    settings = settings.with_real_work_dir()
    if settings.analysis_level == "group":
        check_output_place(settings)
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
    study.tell(console)
    if settings.dry_run:
        return show_plan(settings, discovery, study, console)
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
