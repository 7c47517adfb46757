"""All runs of an output in tables and a page."""

from __future__ import annotations

from functools import partial

from sicnn_app.bids.derivative_datasets import require_derivatives
from sicnn_app.bids.select import Selection
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import NoRunsError
from sicnn_app.pipeline.workplace import (
    at_work,
    caught,
    code_of,
    output_and_log,
    prepare_folder,
    warn_if_refused,
)
from sicnn_app.settings import Settings
from sicnn_app.system.console import Console
from sicnn_app.system.locks.shared import locked_folder, shared_folder

GROUP_WAIT = 3600.0
"""Seconds to wait for another process that gathers the group: it leaves little to do."""

MAX_WARNINGS = 20
"""Warnings of one kind on the terminal; the log has all."""


def process_group(settings: Settings, console: Console) -> int:
    """Gather all runs of the output in tables and a page; the dataset is never opened."""
    from sicnn_app.derivatives.names import GROUP_UNIT, group_outputs
    from sicnn_app.group.gather import find_runs

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
