"""Derivatives on disk -> one self-contained HTML page per subject or session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sicnn_app import __version__
from sicnn_app.derivatives.collect import RunDerivatives, app_version, collect_run
from sicnn_app.derivatives.facts import MISSING
from sicnn_app.derivatives.names import figures_folder, report_path, run_names
from sicnn_app.derivatives.ratings import MAX_NOTE, MAX_REVIEWER, RATINGS, REASONS
from sicnn_app.errors import SicnnAppError
from sicnn_app.report.adequacy import shown_adequacy
from sicnn_app.report.answers.lines import answer
from sicnn_app.report.carpet import undrawn_words
from sicnn_app.report.clusters import cluster_files, cluster_rows, cluster_words
from sicnn_app.report.comparison import comparison_rows, floor_words, method_of
from sicnn_app.report.numbers import number_files
from sicnn_app.report.page import render_page
from sicnn_app.report.pictures import draw_run
from sicnn_app.report.regions import region_rows, region_words
from sicnn_app.report.spread import faded_words, spread_rows, spread_words
from sicnn_app.report.subject import answers_of
from sicnn_app.report.tables import tabulate_run
from sicnn_app.report.voxels import MAX_BYTES, voxel_page


def run_anchor(name: str) -> str:
    """Identifier of a run's section in its report."""
    return f"run-{name}"


def write_plainly(path: Path, content: bytes) -> None:
    """Write a file and make the folder for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def build_report(
    output_dir: Path,
    subject: str,
    session: str | None,
    *,
    errors: Sequence[str] = (),
    large_pages: bool = False,
    write_bytes: Callable[[Path, bytes], object] = write_plainly,
) -> Path:
    """Write the report of one subject or session from what is on disk.

    The same derivatives give the same bytes: the page names no date, host or folder.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset written by the app.
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    errors : sequence of str
        Runs that failed and why, one line each.
    large_pages : bool
        Also write pages of single voxels that are larger than :data:`sicnn_app.report.voxels.MAX_BYTES`.
    write_bytes : callable
        Takes every file of the report, the page last; the caller passes one that leaves no half-written file.

    Returns
    -------
    Path
        ``<output_dir>/sub-<subject>[_ses-<session>].html``.

    Raises
    ------
    Exception
        What went wrong with the first run that could not be shown; the page, without it, is written.
    """
    path, folder = report_path(output_dir, subject, session), figures_folder(output_dir, subject)
    version = app_version(output_dir)
    runs: list[dict] = []
    failed: dict[str, Exception] = {}
    for run_name in run_names(output_dir, subject, session):
        try:
            run = collect_run(output_dir, subject, session, run_name)
            version = version or run.software.get("sicnn-app") or run.software.get("sicnn_app")
            runs.append(_show_run(run, path, folder, version or __version__, large_pages, write_bytes))
        except SicnnAppError:
            raise
        except Exception as error:
            # The other runs can still be shown.
            failed[run_name] = error
    unshown = [f"{run}: cannot be shown ({type(error).__name__})" for run, error in failed.items()]
    page = render_page(
        "report.html.j2",
        styles=("report.css", "subject.css"),
        scripts=("subject.js",),
        title=path.stem.replace("_", " "),
        subject=subject,
        session=session,
        version=version or __version__,
        errors=[*errors, *unshown],
        runs=runs,
        summary_rows=[run["summary"] for run in runs],
        answers=answer([run["answers"] for run in runs]),
        ratings=RATINGS,
        reasons=REASONS,
        max_note=MAX_NOTE,
        max_reviewer=MAX_REVIEWER,
    )
    write_bytes(path, page)
    if failed:
        raise next(iter(failed.values()))
    return path


def _show_run(
    run: RunDerivatives,
    report: Path,
    folder: Path,
    version: str,
    large_pages: bool,
    write_bytes: Callable[[Path, bytes], object],
) -> dict:
    """Write the figures of a run into a folder; gives what its part of the report says."""
    name = run.name
    pictures = draw_run(run)
    address = f"../../{report.name}#{run_anchor(name)}"
    voxels = voxel_page(run, report=address, version=version, tissue=pictures.tissue)
    size = len(voxels[1]) if voxels else 0
    if size > MAX_BYTES and not large_pages:
        voxels = None
    files = [(picture.file_name, picture.content) for picture in pictures.drawn]
    files += [*cluster_files(run, pictures.tissue), *number_files(run), *([voxels] if voxels else [])]
    for file_name, content in files:
        write_bytes(folder / file_name, content)
    tables = tabulate_run(run)
    # The rest of a run's name says enough in a list below the subject's own heading.
    title = name.removeprefix(report.stem).lstrip("_").replace("_", " ") or name
    context = {
        "name": name,
        "title": title,
        "anchor": run_anchor(name),
        **tables,
        "summary": {"Run": title if title != MISSING else name, **tables["summary"]},
        "voxels": (folder / voxels[0]).relative_to(report.parent).as_posix() if voxels else None,
        "voxels_left_out": f"{size / 1e6:.0f} MB" if size and not voxels else None,
        "adequacy": shown_adequacy(run.qc),
        "pictures": pictures,
        "undrawn_words": undrawn_words(run, pictures.volumes),
        "region_rows": region_rows(run),
        "region_words": region_words(run),
        "cluster_rows": cluster_rows(run, pictures.tissue),
        "cluster_words": cluster_words(),
        "own_method": method_of(run),
        "spread_rows": spread_rows(run),
        "spread_words": spread_words(run),
        "comparison_rows": comparison_rows(run),
        "floor_words": floor_words(run),
        "faded_words": faded_words(run),
        "answers": answers_of(run, title if title != MISSING else name, pictures.tissue),
    }
    sections = (
        ("maps", "Maps", pictures.maps),
        ("regions", "Regions", context["region_rows"]),
        ("clusters", "Tissue clusters", context["cluster_rows"]),
        ("rate", "Rate", True),
        ("warnings", "Warnings", context["warnings"]),
        ("adequacy", "Adequacy", context["adequacy"]),
        ("done", "What was done", True),
        ("flags", "Flags", context["flag_rows"]),
        ("others", "Other maps", pictures.others or context["statistics"]),
        ("regiondecays", "Region signals", pictures.regions),
        ("spread", "How sure", context["spread_rows"]),
        ("comparison", "Against the conventional fit", context["comparison_rows"]),
        ("steps", "Corrections", pictures.steps),
        ("motion", "Motion", pictures.motion),
        ("volumes", "Volumes", context["volume_words"]),
        ("signals", "Signals", pictures.signals or context["bvalue_rows"]),
        ("training", "Training", pictures.training or context["history_rows"]),
        ("methods", "Methods text", True),
        ("settings", "Settings", True),
    )
    return {**context, "sections": [(anchor, words) for anchor, words, shown in sections if shown]}
