"""The ``sicnn-simulate`` command: phantoms as BIDS datasets, and what a protocol can tell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sicnn_app import __version__
from sicnn_app.cli.arguments import Parser, hyphenated
from sicnn_app.cli.main import INTERRUPTED
from sicnn_app.errors import InternalError, SicnnAppError, UsageError
from sicnn_app.files import from_here
from sicnn_app.formats import printable
from sicnn_app.options import given_path
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, SNR_DEFINITION, Protocol
from sicnn_app.phantoms.dataset import GENERATOR, SimulationSettings, write_dataset
from sicnn_app.phantoms.disturbances import UNDISTURBED, Disturbances
from sicnn_app.phantoms.phantom import DEFAULT_SHAPE, PLAIN
from sicnn_app.phantoms.tissues import VALUES
from sicnn_app.phantoms.truths import ANATOMIES, Truth
from sicnn_app.system.caches import private_caches
from sicnn_app.system.streams import complain, outlive_streams
from sicnn_app.system.surroundings import restart_with_docstrings, undisturbed

TRUTH = tuple(field.name for field in fields(Truth))
DISTURBANCES = tuple(field.name for field in fields(Disturbances))

DATASET_ONLY = (
    "subjects",
    "sessions",
    "between_subject_variation",
    "inherit_bval",
    *TRUTH,
    *DISTURBANCES,
)
"""Options that say nothing about an assessment."""

NAMED_ALWAYS_OR_NEVER = ("out_bids", "assess", "preset", "snr", "overwrite", "verbose")
"""Options of which the command in the README does not depend on whether they are as usual."""


def _bval(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no b-value; OUT_BIDS comes before --bvals") from None


def build_parser() -> Parser:
    """Build the parser of ``sicnn-simulate``; every default stands in its help."""
    shapes = ", ".join(f"{name} {' '.join(map(str, shape))}" for name, shape in DEFAULT_SHAPE.items())
    schemes = "; ".join(f"{name} {' '.join(map(str, bvals))}" for name, bvals in DEFAULT_BVALS.items())
    parser = Parser(
        prog=GENERATOR,
        allow_abbrev=False,
        description="Write a simulated IVIM dataset in BIDS, with the true maps in derivatives/truth; or, "
        "with --assess, tell what to expect of a protocol. The same command gives the same files.",
    )

    def number(flag: str, default: float, metavar: str | None, text: str) -> None:
        text += " (default: %(default)g)"
        parser.add_argument(flag, type=type(default), default=default, metavar=metavar, help=text)

    parser.add_argument(
        "out_bids",
        metavar="OUT_BIDS",
        type=given_path,
        nargs="?",
        help="folder of the dataset, missing or empty; with --assess the folder of its table and chart, "
        "which may be left out",
    )
    parser.add_argument(
        "--assess",
        action="store_true",
        help="write no dataset: print the precision of F, D and D* to expect in every tissue, from "
        "Cramer-Rao bounds and a short simulation, and better b-values for as many volumes; takes about a "
        "minute (default: write a dataset)",
    )
    parser.add_argument("--preset", choices=tuple(DEFAULT_SHAPE), required=True, help="anatomy (required)")
    number("--snr", 20.0, None, f"SNR: {SNR_DEFINITION}; inf: no noise")
    parser.add_argument(
        "--bvals", type=_bval, nargs="+", metavar="B", help=f"b-values, s/mm^2 (default: {schemes})"
    )
    number("--repeats", 1, "N", "volumes per b > 0 and direction")
    parser.add_argument(
        "--b0-repeats", type=int, metavar="N", help="volumes per b = 0 (default: as --repeats)"
    )
    number("--directions", 1, "N", "directions per b > 0; they differ in their noise only")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help=f"voxels per axis (default: {shapes}; smaller with --assess)",
    )
    number("--subjects", 1, "N", "subjects")
    number("--sessions", 0, "N", "sessions per subject, same body, other noise; 0: no session level")
    number("--texture", 0.1, "SHARE", "relative standard deviation of F, D, D* and S0 within a tissue")
    number(
        "--between-subject-variation",
        0.05,
        "SHARE",
        "relative standard deviation of a subject's tissue values around the literature's; 0: none",
    )
    parser.add_argument(
        "--anatomy",
        choices=tuple(ANATOMIES),
        default=PLAIN.anatomy,
        help="organs as drawn, the same for every seed; organs of random place, size, shape and values; or "
        "continuous fields (default: %(default)s)",
    )
    parser.add_argument(
        "--values",
        choices=tuple(VALUES),
        default=PLAIN.values,
        help="of tissues and fields: from the literature; drawn anew for every seed; the same with F of 0.02 "
        "to 0.05 and D* of 0.003 to 0.013 mm^2/s; or, in the brain, with F falling from deep grey matter "
        "over cortex to white matter (default: %(default)s)",
    )
    number("--correlation-length", PLAIN.correlation_length, "VOXELS", "of continuous fields: to 1/e")
    number("--deformation", PLAIN.deformation, "CM", "standard deviation of how far the anatomy is moved")
    number("--partial-volume", PLAIN.partial_volume, "N", "parts of a voxel along each axis; 1: none")
    number("--shading", PLAIN.shading, "SHARE", "S0 from 1 + SHARE to 1 - SHARE times across the image")
    parser.add_argument(
        "--equal-s0", action="store_true", help="the same mean S0 in all tissues (default: one of each)"
    )
    number("--lesions", PLAIN.lesions, "N", "small lesions with unusual F, D and D*")
    parser.add_argument(
        "--lesion-voxels",
        type=int,
        nargs=2,
        default=PLAIN.lesion_voxels,
        metavar=("MIN", "MAX"),
        help="voxels of a lesion (default: {} {})".format(*PLAIN.lesion_voxels),
    )
    number(
        "--pulsation",
        UNDISTURBED.pulsation,
        "SHARE",
        "standard deviation over volumes of the signal of tissue; three times as much of blood",
    )
    number("--losses", UNDISTURBED.losses, "N", "regions per volume above b = 0 that lose signal, on average")
    number("--g-factor", UNDISTURBED.g_factor, "G", "noise in the middle of the image, relative to its edge")
    number("--random-seed", 0, "SEED", "seed")
    parser.add_argument(
        "--inherit-bval",
        action="store_true",
        help="one dwi.bval, dwi.bvec and dwi.json at the top of the dataset (default: beside every image)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help=f"replace a dataset of {GENERATOR}, not other derivatives (default: refuse)",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="-v lists the files, -vv shows tracebacks (default: neither)",
    )
    parser.add_argument("--version", action="version", version=f"{GENERATOR} {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``sicnn-simulate``, by default with the arguments of the process; returns its exit code.

    0 written, 64 usage, 73 the output cannot be written, 70 a bug, 130 interrupted.
    """
    if argv is None:
        restart_with_docstrings()
    outlive_streams()
    arguments = [hyphenated(word) for word in (sys.argv[1:] if argv is None else argv)]
    verbose = "-vv" in arguments
    try:
        parser = build_parser()
        options = parser.read(arguments)
        verbose = options.verbose >= 2
        settings = _settings(options)
        if options.assess:
            _refuse_for_assessment(options, parser)
            if options.out_bids is not None:
                with from_here():
                    options.out_bids = options.out_bids.absolute()
            # It imports matplotlib, which reads settings and looks for its cache at once.
            with undisturbed(dask=False), TemporaryDirectory() as caches, private_caches(Path(caches)):
                files = _assess(options, settings)
        else:
            if options.out_bids is None:
                raise UsageError("OUT_BIDS, the folder of the dataset, is needed unless --assess is given")
            command = _command(options, parser)
            files = write_dataset(options.out_bids, settings, command=command, overwrite=options.overwrite)
    except KeyboardInterrupt:
        complain(f"{GENERATOR}: interrupted")
        return INTERRUPTED
    except Exception as error:
        message, code = str(error), InternalError.exit_code
        if isinstance(error, SicnnAppError):
            code = error.exit_code
        else:
            message = f"internal error ({type(error).__name__}: {error}); -vv shows where"
        complain(f"{GENERATOR}: error: {message}", error if verbose else None)
        return code
    if options.verbose:
        print("\n".join(map(printable, files)))
    if files:
        size = sum(path.stat().st_size for path in files) / 1024
        print(f"{printable(options.out_bids)}: {len(files)} files, {size:.0f} kB")
    return 0


def _refuse_for_assessment(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name in DATASET_ONLY:
        if getattr(options, name) != parser.get_default(name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is about a dataset, and --assess writes none: leave one of them out")


def _assess(options: argparse.Namespace, settings: SimulationSettings) -> list[Path]:
    from sicnn_app.assess.expectation import SHAPE, assess, require_assessable
    from sicnn_app.assess.output import check_folder, show_assessment, write_assessment
    from sicnn_app.settings import ResourceSettings
    from sicnn_app.system.console import Console
    from sicnn_app.system.device import limit_threads

    require_assessable(settings)
    if options.out_bids is not None:
        check_folder(options.out_bids, overwrite=options.overwrite)
    if options.shape is None:
        settings = replace(settings, shape=SHAPE[settings.preset])
    # The number of cores must not decide the sums.
    limit_threads(ResourceSettings().omp_nthreads)
    console = Console(options.verbose)
    with console.progress("assess") as progress:
        assessment = assess(settings, progress)
    show_assessment(console, assessment)
    return [] if options.out_bids is None else write_assessment(options.out_bids, assessment)


def _settings(options: argparse.Namespace) -> SimulationSettings:
    preset = options.preset
    options.lesion_voxels = tuple(options.lesion_voxels)
    return SimulationSettings(
        preset=preset,
        protocol=Protocol(
            bvals=tuple(options.bvals or map(float, DEFAULT_BVALS[preset])),
            repeats=options.repeats,
            b0_repeats=options.repeats if options.b0_repeats is None else options.b0_repeats,
            directions=options.directions,
        ),
        snr=options.snr,
        shape=tuple(options.shape or DEFAULT_SHAPE[preset]),
        subjects=options.subjects,
        sessions=options.sessions,
        seed=options.random_seed,
        texture=options.texture,
        subject_variation=options.between_subject_variation,
        inherit_bval=options.inherit_bval,
        truth=Truth(**{name: getattr(options, name) for name in TRUTH}),
        disturbances=Disturbances(**{name: getattr(options, name) for name in DISTURBANCES}),
    )


def _words(values: str | float | Sequence[float]) -> list[str]:
    if isinstance(values, str):
        return [values]
    each = values if isinstance(values, Sequence) else [values]
    return [str(value) if isinstance(value, int) else f"{value:.10g}" for value in each]


def _command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The shortest command line of this dataset; the folder is left open, files must not depend on it."""
    preset = options.preset
    usual = {"bvals": DEFAULT_BVALS[preset], "b0_repeats": options.repeats, "shape": DEFAULT_SHAPE[preset]}
    words = ["--preset", preset, "--snr", *_words(options.snr)]
    for name, chosen in vars(options).items():
        default = usual.get(name, parser.get_default(name))
        if name in NAMED_ALWAYS_OR_NEVER or chosen is None or _words(chosen) == _words(default):
            continue
        words += ["--" + name.replace("_", "-"), *([] if chosen is True else _words(chosen))]
    return " ".join([GENERATOR, "OUT_BIDS", *words])


if __name__ == "__main__":
    sys.exit(main())
