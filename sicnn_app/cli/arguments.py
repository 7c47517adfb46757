"""Command line and configuration file to settings."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sicnn_app import __version__
from sicnn_app.errors import MissingInputError, UsageError
from sicnn_app.files import open_regular, parse_json
from sicnn_app.methods import METHODS
from sicnn_app.settings import (
    ANATOMIES,
    COMBINE,
    NETWORK_INPUTS,
    PRESETS,
    REPORT_LEVELS,
    TRAINING_SCOPES,
    UPDATE_RULES,
    EstimationSettings,
    InputSettings,
    PreprocessingSettings,
    ResourceSettings,
    SelectionSettings,
    Settings,
    Threshold,
    preset_settings,
)
from sicnn_app.steps import step_options

PROGRAM = "sicnn-app"

LEVELS = ("participant", "group")

ENDING_FLAGS = ("-h", "--help", "--version")
"""Flags with which the parser itself prints something and ends."""

MAX_FILE_BYTES = 1 << 20
"""Whatever a flag names that is larger is no configuration or filter file, and may never end."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are :class:`UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of ending the process."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def _label(prefix: str):
    def strip(text: str) -> str:
        label = text.removeprefix(prefix)
        if not re.fullmatch(r"[0-9A-Za-z+]+", label):
            raise argparse.ArgumentTypeError(f"{text!r} is no BIDS label: letters, digits and + only")
        return label

    return strip


def given_path(text: str) -> Path:
    """A path from the command line; ``~`` is the home folder also where no shell has replaced it.

    Raises
    ------
    argparse.ArgumentTypeError
        There is no path, or nobody whose home folder it names.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty or holds a zero byte")
    path = os.path.expanduser(text)
    if path.startswith("~") and not os.path.lexists(path):
        raise argparse.ArgumentTypeError(
            f"the home folder {text!r} begins with is not known: write it in full"
        )
    return Path(path)


def _threshold(text: str) -> Threshold | None:
    try:
        return None if text == "auto" else Threshold.parse(text)
    except UsageError as error:
        # argparse names the flag.
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser(*, positionals: bool = True) -> argparse.ArgumentParser:
    """Build the parser; every default stands in its help.

    Parameters
    ----------
    positionals : bool
        Without them the parser reads what a ``--config-file`` may hold.
    """
    estimation, preprocessing = EstimationSettings(), PreprocessingSettings()
    resources, selection = ResourceSettings(), SelectionSettings()
    parser = Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        add_help=positionals,
        argument_default=argparse.SUPPRESS,
        description="BIDS-App: maps of the perfusion fraction F, the diffusion coefficient D and the "
        "pseudo-diffusion coefficient D* from IVIM MRI, by SI-CNN (reconstructed from the paper's "
        "supplement).",
        epilog="Underscores may stand for the hyphens inside a flag. Exit codes: 0 done, 1 some runs failed, "
        "16 not a BIDS dataset, 18 no DWI run, 64 usage, 65 bad data, 66 no such input, 69 no such device, "
        "70 internal error, 73 cannot write, 75 try again, 130 interrupted.",
    )
    if positionals:
        parser.add_argument("bids_dir", type=given_path, metavar="BIDS_DIR", help="the BIDS dataset")
        parser.add_argument(
            "output_dir", type=given_path, metavar="OUTPUT_DIR", help="folder of the derivatives"
        )
        parser.add_argument(
            "analysis_level",
            choices=LEVELS,
            help="participant: process runs; group: gather what OUTPUT_DIR holds in tables and a page, "
            "without opening BIDS_DIR",
        )

    group = parser.add_argument_group("selection")
    for flags, prefix, what in (
        (("--participant-label",), "sub-", "participants"),
        (("--session-id", "--session-label"), "ses-", "sessions"),
        (("--acquisition-label",), "acq-", "acquisitions (acq-)"),
        (("--run-label",), "run-", "runs (run-)"),
    ):
        group.add_argument(
            *flags,
            nargs="+",
            action="extend",
            type=_label(prefix),
            metavar="LABEL",
            help=f"{what} to process (default: all)",
        )
    group.add_argument(
        "--bids-filter-file",
        type=given_path,
        metavar="JSON",
        help='entities of the runs to process, as {"dwi": {"acquisition": "ivim"}}; unknown keys are ignored',
    )
    group.add_argument(
        "--skip-bids-validation", action="store_true", help="a missing dataset_description.json is a warning"
    )
    group.add_argument(
        "--bids-database-dir",
        type=given_path,
        metavar="DIR",
        help="keep the pybids index there (default: in memory)",
    )
    group.add_argument(
        "--combine",
        choices=COMBINE,
        help=f"merge runs that differ in this entity only (default: {selection.combine})",
    )

    group = parser.add_argument_group("inputs")
    group.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        action="extend",
        metavar="[NAME=]PATH",
        help="derivative datasets whose masks and preprocessed images are used; at the level group their "
        "segmentations, as regions (default: none)",
    )
    group.add_argument("--mask-desc", metavar="LABEL", help="desc- of the mask to take when several match")
    group.add_argument("--bvals", type=given_path, metavar="FILE", help="b-values for images without a .bval")

    group = parser.add_argument_group("preprocessing")
    group.add_argument(
        "--anatomy",
        choices=ANATOMIES,
        help=f"which mask to make; auto reads BodyPart of the sidecar (default: {preprocessing.anatomy})",
    )
    for name, option in step_options().items():
        group.add_argument(f"--{name.replace('_', '-')}", **option.keywords())
    group.add_argument(
        "--ignore-bvals",
        nargs="+",
        action="extend",
        type=float,
        metavar="B",
        help="b-values to leave out, s/mm^2 (default: none)",
    )
    group.add_argument(
        "--max-bval",
        type=float,
        metavar="B",
        help="highest b-value used, s/mm^2; above it the bi-exponential model breaks "
        f"(default: {preprocessing.max_bval:g})",
    )

    group = parser.add_argument_group("estimation")
    group.add_argument("--method", choices=list(METHODS), help=f"(default: {estimation.method})")
    group.add_argument(
        "--preset",
        choices=PRESETS,
        help="supplement: the logged hyperparameters; supplement-table: those of the logged table over SNR; "
        f"flags given besides override it (default: {estimation.preset})",
    )
    group.add_argument(
        "--fitting-threshold",
        type=_threshold,
        metavar="T",
        help="fitting error above which a training signal is rewritten: 0.03, 2.5sigma or auto "
        f"(default: auto, {estimation.fitting_threshold})",
    )
    group.add_argument(
        "--neighbour-threshold",
        type=_threshold,
        metavar="T",
        help="largest difference of predicted curves below which voxels are similar: 0.02, 1sigma or auto "
        f"(default: auto, {estimation.neighbour_threshold})",
    )
    group.add_argument(
        "--neighbour-radius",
        type=int,
        metavar="N",
        help=f"half width of the search window, voxels (default: {estimation.neighbour_radius})",
    )
    group.add_argument(
        "--update-rule",
        choices=UPDATE_RULES,
        help="what a signal is replaced with "
        "(default: observed-neighbours for si-cnn, own-prediction for di-cnn)",
    )
    group.add_argument(
        "--network-input",
        choices=NETWORK_INPUTS,
        help=f"signals the network sees after the first rewriting (default: {estimation.network_input})",
    )
    group.add_argument(
        "--rician",
        action="store_true",
        help="reckon with the noise floor of magnitude images: take it off the means of similar voxels, "
        "or, where none are averaged, predict it (default: ignore it)",
    )
    for flag, kind, value, what in (
        (
            "--lambda",
            float,
            estimation.lambda_,
            "relative change of the training signals that ends the iterations",
        ),
        ("--delta", float, estimation.delta, "relative improvement of the loss that ends a training"),
        ("--max-iterations", int, estimation.max_iterations, "most data iterations"),
        ("--learning-rate", float, estimation.learning_rate, "of the optimiser Adam"),
        ("--batch-size", int, estimation.batch_size, "tiles per optimiser step"),
        ("--dropout", float, estimation.dropout, "share of activations dropped in training"),
        ("--random-seed", int, estimation.random_seed, "the same seed gives the same maps"),
    ):
        group.add_argument(
            flag, type=kind, metavar="N" if kind is int else "X", help=f"{what} (default: {value:g})"
        )
    group.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="total epochs of --method cnn; give those of an si-cnn run to compare the two "
        "(default: as many as si-cnn takes when every training converges at once)",
    )

    group.add_argument(
        "--ensemble",
        type=int,
        metavar="N",
        help="networks trained side by side, each with a seed and noise of its own: their means become the "
        f"maps, and their standard deviations are written too (default: {estimation.ensemble})",
    )
    group.add_argument(
        "--training-scope",
        choices=TRAINING_SCOPES,
        help="study: first one network for all runs of the dataset with the same b-values, whatever labels "
        f"choose participants and sessions, then refined for each run (default: {estimation.training_scope})",
    )

    group = parser.add_argument_group("resources")
    group.add_argument(
        "--device",
        help="auto, cpu, cuda or cuda:N; auto takes a GPU when there is one and says so "
        f"(default: {resources.device})",
    )
    group.add_argument(
        "--nprocs",
        type=int,
        metavar="N",
        help="participants at work at the same time, each in a process of its own, and several GPUs in turn "
        f"(default: {resources.nprocs})",
    )
    group.add_argument(
        "--dask-scheduler",
        metavar="ADDRESS",
        help="let the workers of this Dask scheduler, such as tcp://10.0.0.1:8786, process the participants; "
        "they need the same paths and the same version. Whoever can connect to it can run programs there and "
        "here: use tls:// or a network of your own (default: this machine)",
    )
    group.add_argument(
        "--omp-nthreads",
        type=int,
        metavar="N",
        help="CPU threads of one participant; another number may change the last bits of a map "
        f"(default: {resources.omp_nthreads})",
    )
    group.add_argument(
        "--mem",
        type=float,
        metavar="GB",
        help="memory to stay below: large series are streamed from disk; shared out evenly by --nprocs, per "
        "participant with --dask-scheduler (default: what the container or job may use, if that is limited)",
    )
    group.add_argument(
        "-w",
        "--work-dir",
        type=given_path,
        metavar="DIR",
        help="folder for locks, checkpoints and caches; everybody who writes into one output should "
        "name the same (default: OUTPUT_DIR/.work)",
    )

    group = parser.add_argument_group("run")
    group.add_argument(
        "--config-file", type=given_path, metavar="TOML", help="flags as keys; the command line overrides"
    )
    for flag, what in (
        ("--dry-run", "print what would be processed and written, then stop"),
        ("--reports-only", "write the reports anew from the derivatives"),
        ("--boilerplate-only", "write CITATION.md, print the methods text, then stop"),
        ("--stop-on-first-crash", "stop at the first run that fails (default: go on with the others)"),
        ("--overwrite", "replace outputs, also those of other settings (default: keep them)"),
        ("--clean-workdir", "first remove what earlier calls left in the work directory, also checkpoints"),
    ):
        group.add_argument(flag, action="store_true", help=what)
    group.add_argument(
        "--report-level",
        choices=REPORT_LEVELS,
        help="full adds a page per run that shows the signals and fits of any voxel (default: default)",
    )
    group.add_argument("-v", dest="verbosity", action="count", help="say more; -vv shows tracebacks")
    if positionals:
        parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def parse(argv: Sequence[str]) -> Settings:
    """Read the command line and the configuration file.

    Parameters
    ----------
    argv : sequence of str

    Returns
    -------
    Settings

    Raises
    ------
    UsageError
        Unknown flag or value, contradictory options, a file that does not parse.
    MissingInputError
        A file named by a flag is not there.
    """
    argv = [hyphenated(token) for token in argv]
    try:
        given = vars(build_parser().parse_args(argv))
    except UsageError as error:
        if (reordered := _folders_first(argv)) is None or not _is_understood(reordered):
            raise
        raise UsageError(
            f"{error}: BIDS_DIR, OUTPUT_DIR and the level come first, a flag of several values takes all "
            "that follows it"
        ) from None
    if "config_file" in given:
        given = {**_read_config(given["config_file"]), **given}
    return _to_settings(given)


def hyphenated(token: str) -> str:
    """Spell a long flag with hyphens; its value and other words stay as they are."""
    if not token.startswith("--"):
        return token
    flag, equals, value = token.partition("=")
    return flag.replace("_", "-") + equals + value


def _folders_first(argv: Sequence[str]) -> list[str] | None:
    """The same with the folders and the level at the front, where no flag can take them for its values."""
    if not any(token in LEVELS for token in argv):
        argv = [*argv, LEVELS[0]]
    first_flag = next((place for place, token in enumerate(argv) if token.startswith("-")), len(argv))
    end = max(place for place, token in enumerate(argv) if token in LEVELS) + 1
    taken = end - 3 + first_flag
    if not first_flag < taken:
        return None
    return [*argv[:first_flag], *argv[taken:end], *argv[first_flag:taken], *argv[end:]]


def _is_understood(argv: Sequence[str]) -> bool:
    try:
        build_parser().parse_args([token for token in argv if token not in ENDING_FLAGS])
    except UsageError:
        return False
    return True


def _read_text(path: Path, flag: str) -> str:
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"{flag}: {path} has more than {MAX_FILE_BYTES >> 20} MB: give another file")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise MissingInputError(f"{flag}: {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag}: {path} cannot be read ({error})") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(_read_text(path, "--config-file"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"--config-file: {path} is not valid TOML ({reason})") from None
    argv: list[str] = []
    for key, value in content.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            argv += [flag] if value else []
        else:
            argv += [flag, *(str(item) for item in (value if isinstance(value, list) else [value]))]
    try:
        return vars(build_parser(positionals=False).parse_args(argv))
    except UsageError as error:
        raise UsageError(f"--config-file {path}: {error}") from None


def _read_filters(path: Path) -> dict:
    try:
        content = parse_json(_read_text(path, "--bids-filter-file"))
    except ValueError as error:
        raise UsageError(f"--bids-filter-file: {path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"--bids-filter-file: {path} must hold a JSON object")
    return content


def _read_derivatives(items: Sequence[str]) -> dict[str, Path]:
    datasets: dict[str, Path] = {}
    for item in items:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)=(.+)", item)
        try:
            path = given_path(match[2] if match else item)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--derivatives: {error}") from None
        # The name becomes part of BIDS URIs, which take no space and no letter beyond ASCII.
        folder = os.path.basename(os.path.realpath(path))
        name = match[1] if match else re.sub(r"[^A-Za-z0-9._-]+", "-", folder) or "derivative"
        if name in datasets:
            raise UsageError(f"--derivatives: two datasets are named {name!r}: name them as NAME=PATH")
        datasets[name] = path
    return datasets


def _to_settings(given: dict[str, Any]) -> Settings:
    def take(*names: str, **renamed: str) -> dict[str, Any]:
        pairs = {**{name: name for name in names}, **renamed}
        return {field: given[name] for field, name in pairs.items() if name in given}

    def labels(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(given.get(name, ())))

    estimation = preset_settings(given.get("preset", "default"))
    estimation |= take(
        "method",
        "preset",
        "neighbour_radius",
        "update_rule",
        "network_input",
        "rician",
        "delta",
        "max_iterations",
        "learning_rate",
        "batch_size",
        "dropout",
        "random_seed",
        "epochs",
        "ensemble",
        "training_scope",
        lambda_="lambda",
    )
    for name in ("fitting_threshold", "neighbour_threshold"):
        if given.get(name) is not None:
            estimation[name] = given[name]
        elif name in given:
            estimation.pop(name, None)
    options = set(step_options())
    own = options.intersection(PreprocessingSettings.__dataclass_fields__)
    inputs = take("mask_desc", "bvals")
    if "bvals" in inputs and not os.path.lexists(inputs["bvals"]):
        raise MissingInputError(f"--bvals: {inputs['bvals']} does not exist")
    return Settings(
        **take(
            "bids_dir",
            "output_dir",
            "analysis_level",
            "dry_run",
            "reports_only",
            "report_level",
            "boilerplate_only",
        ),
        **take("stop_on_first_crash", "overwrite", "clean_workdir", "verbosity"),
        selection=SelectionSettings(
            participant_label=labels("participant_label"),
            session_id=labels("session_id"),
            acquisition_label=labels("acquisition_label"),
            run_label=labels("run_label"),
            bids_filters=_read_filters(given["bids_filter_file"]) if "bids_filter_file" in given else {},
            **take("skip_bids_validation", "bids_database_dir", "combine"),
        ),
        inputs=InputSettings(derivatives=_read_derivatives(given.get("derivatives", ())), **inputs),
        preprocessing=PreprocessingSettings(
            **take("anatomy", "max_bval", *own),
            ignore_bvals=tuple(given.get("ignore_bvals", ())),
            added=take(*options.difference(own)),
        ),
        estimation=EstimationSettings(**estimation),
        resources=ResourceSettings(
            **take("device", "nprocs", "dask_scheduler", "omp_nthreads", "mem", "work_dir")
        ),
    )
