"""Surroundings of the work of a call: the output, its log, caches, and what an error ends."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sicnn_app.bids.derivative_datasets import mask_label
from sicnn_app.derivatives import provenance
from sicnn_app.derivatives.atomic import WORK_FOLDER, make_folder, output_errors
from sicnn_app.derivatives.dataset import prepare_output
from sicnn_app.errors import InternalError, OutputError, SicnnAppError, TryAgainError, one_line
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.study.training import remove_networks
from sicnn_app.settings import Settings
from sicnn_app.system.caches import private_caches
from sicnn_app.system.console import Console, LogFile
from sicnn_app.system.locks.folders import require_folder
from sicnn_app.system.locks.leftovers import remove_leftovers
from sicnn_app.system.locks.owned import owned_folder

SOME_FAILED = 1
"""Exit code of a call in which not everything failed, or not for one kind of reason."""


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
    """Context with caches in the work directory, from which the remains of killed processes go first.

    What is loaded by then is not looked through for garbage in it: that would be a twentieth of a short call.
    """
    folders = {settings.work_dir, settings.output_dir / WORK_FOLDER}
    for folder in folders:
        require_folder(folder)
    for folder in folders:
        if settings.clean_workdir:
            remove_networks(folder)
        for text in remove_leftovers(folder, checkpoints=settings.clean_workdir):
            console.warning(text)
    with ExitStack() as stack:
        gc.freeze()
        stack.callback(gc.unfreeze)
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


def caught(action: Callable[[], object], log: Path) -> SicnnAppError | None:
    """Do something and return the error it ends with, as one a user can act on; None for success."""
    try:
        action()
    except SicnnAppError as error:
        return error
    except Exception as error:
        from sicnn_app.system.device import is_out_of_memory

        wrapped = (
            TryAgainError("out of memory: try again on a machine with more")
            if is_out_of_memory(error)
            else InternalError(f"internal error ({one_line(error)}): please report it with {log}")
        )
        wrapped.__cause__ = error
        return wrapped
    return None


def code_of(errors: Sequence[SicnnAppError], *, all_failed: bool) -> int:
    """Exit code of a call in which something failed; that of the errors where all failed for one reason."""
    codes = {error.exit_code for error in errors}
    return 0 if not codes else codes.pop() if len(codes) == 1 and all_failed else SOME_FAILED
