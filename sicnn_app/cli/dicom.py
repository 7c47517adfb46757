"""The ``sicnn-dicom`` command: F, D and D* of an output as Parametric Map objects of DICOM."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sicnn_app import __version__
from sicnn_app.cli.arguments import Parser, hyphenated
from sicnn_app.cli.main import INTERRUPTED
from sicnn_app.errors import (
    InternalError,
    MissingInputError,
    NoRunsError,
    SicnnAppError,
    UsageError,
    one_line,
)
from sicnn_app.files import from_here
from sicnn_app.options import given_path
from sicnn_app.settings import label_of
from sicnn_app.system.streams import complain, outlive_streams
from sicnn_app.system.surroundings import restart_with_docstrings, undisturbed

PROGRAM = "sicnn-dicom"


def _source(text: str) -> tuple[str | None, Path]:
    """``[RUN=]DIR``."""
    named = re.fullmatch(r"(sub-[^=/]+)=(.*)", text)
    return (None, given_path(text)) if named is None else (named[1], given_path(named[2]))


def _patient(text: str) -> tuple[str, str]:
    label, equals, patient = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=ID, such as 01=PAT0042")
    return label_of("sub-")(label), patient.strip()


def build_parser() -> Parser:
    """Build the parser of ``sicnn-dicom``."""
    parser = Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Write F, D and D* of every run of an output of sicnn-app as DICOM Parametric Map "
        "objects, below OUT/dicom. Patient, study and place come from the series that the run was acquired "
        "in: one with another PatientID, grid or b-values is refused.",
        epilog="Exit codes: 0 done, 1 some runs failed, 18 no maps, 64 usage, 65 no series fits, 66 no such "
        "folder, 70 internal error, 73 cannot write, 75 try again, 130 interrupted.",
    )
    parser.add_argument("out", metavar="OUT", type=given_path, help="the output folder of sicnn-app")
    parser.add_argument(
        "--source",
        metavar="[RUN=]DIR",
        type=_source,
        nargs="+",
        required=True,
        help="folders with the DICOM files that the dataset was converted from, of any depth; with the name "
        "of a run, sub-01_run-1=DIR, for that run alone, and runs without a folder are left out (required)",
    )
    parser.add_argument(
        "--participant-label",
        metavar="LABEL",
        type=label_of("sub-"),
        nargs="+",
        help="participants (default: all)",
    )
    parser.add_argument(
        "--session-id", metavar="LABEL", type=label_of("ses-"), nargs="+", help="sessions (default: all)"
    )
    parser.add_argument(
        "--patient-id",
        metavar="LABEL=ID",
        type=_patient,
        nargs="+",
        default=[],
        help="PatientID of a participant whose label it is not (default: it has to be the label, but for "
        "case and signs that no label can hold)",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="-vv shows tracebacks")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``sicnn-dicom``, by default with the arguments of the process; returns its exit code."""
    if argv is None:
        restart_with_docstrings()
    outlive_streams()
    arguments = [hyphenated(word) for word in (sys.argv[1:] if argv is None else argv)]
    verbose = "-vv" in arguments
    try:
        options = build_parser().read(arguments)
        verbose = options.verbose >= 2
        with from_here():
            options.out = options.out.absolute()
            options.source = [(run, folder.absolute()) for run, folder in options.source]
        with undisturbed(dask=False):
            return _export(options, verbose)
    except KeyboardInterrupt:
        complain(f"{PROGRAM}: interrupted")
        return INTERRUPTED
    except SicnnAppError as error:
        return _fail(error, verbose)
    except Exception as error:
        text = f"internal error ({one_line(error)}): repeat with -vv and report what it prints"
        return _fail(InternalError(text), verbose)


def _fail(error: SicnnAppError, verbose: bool) -> int:
    complain(f"{PROGRAM}: error: {error}", sys.exception() if verbose else None)
    return error.exit_code


def _export(options: argparse.Namespace, verbose: bool) -> int:
    from sicnn_app.dicom.export import export_run, runs_of
    from sicnn_app.dicom.series import read_series, require_highdicom
    from sicnn_app.pipeline.workplace import code_of
    from sicnn_app.system.console import Console

    require_highdicom()
    out, named = options.out, {run for run, _ in options.source if run is not None}
    if not out.is_dir():
        raise MissingInputError(f"{out} does not exist: name the output folder of sicnn-app")
    there = runs_of(out)
    if unknown := sorted(named - there.keys()):
        raise UsageError(
            f"--source: no run of {out} is called {unknown[0]}: it holds {', '.join(there) or 'none'}"
        )
    for_all = [folder for run, folder in options.source if run is None]
    runs = [
        run
        for run in there.values()
        if (not options.participant_label or run.subject in options.participant_label)
        and (not options.session_id or run.session in options.session_id)
        and (for_all or run.name in named)
    ]
    if not runs:
        raise NoRunsError(f"{out} holds no maps to write that were asked for: process the dataset first")
    series_of_all = read_series(for_all)
    console, errors = Console(), []
    for run in runs:
        own = [folder for name, folder in options.source if name == run.name]
        try:
            series, files = export_run(
                out, run, read_series(own) if own else series_of_all, dict(options.patient_id)
            )
        except SicnnAppError as error:
            errors.append(error)
            _fail(error, verbose)
            continue
        console.line(f"{run.name}: {len(files)} objects in {files[0].parent}, from {series.name}")
    return code_of(errors, all_failed=len(errors) == len(runs))


if __name__ == "__main__":
    sys.exit(main())
