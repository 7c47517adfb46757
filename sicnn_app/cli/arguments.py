"""Command line and configuration file to settings."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from sicnn_app import __version__
from sicnn_app.errors import MissingInputError, UsageError
from sicnn_app.files import open_regular, parse_json
from sicnn_app.options import given_path
from sicnn_app.settings import (
    EstimationSettings,
    InputSettings,
    PreprocessingSettings,
    ResourceSettings,
    SelectionSettings,
    Settings,
    options_of,
    preset_settings,
)

PROGRAM = "sicnn-app"

LEVELS = ("participant", "group")

GROUPS: dict[str, type] = {
    "selection": SelectionSettings,
    "inputs": InputSettings,
    "preprocessing": PreprocessingSettings,
    "estimation": EstimationSettings,
    "resources": ResourceSettings,
    "run": Settings,
}
"""The groups of flags, each made from the rows of a class of settings."""

ENDING_FLAGS = ("-h", "--help", "--version")
"""Flags with which the parser itself prints something and ends."""

MAX_FILE_BYTES = 1 << 20
"""A file named by a flag that is larger is no configuration or filter file, and may never end."""


LIKE = 0.75
"""How much a flag must be like one that was meant, by ``difflib``; far-off suggestions mislead."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are :class:`UsageError`."""

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse words; the complaint about a mistyped flag names the one that is most like it."""
        try:
            return self.parse_args(argv)
        except UsageError as error:
            raise UsageError(f"{error}{self._meant(argv)}") from None

    def _meant(self, argv: Sequence[str]) -> str:
        known = self._option_string_actions
        meant = {}
        for flag in (token.partition("=")[0] for token in argv if re.match(r"--?[a-z][a-z-]", token)):
            if flag not in known:
                for found in get_close_matches(f"--{flag.lstrip('-')}", known, n=1, cutoff=LIKE):
                    meant[flag] = found
        return "".join(f"; did you mean {found} instead of {flag}?" for flag, found in meant.items())

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of ending the process."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser(*, positionals: bool = True) -> Parser:
    """Build the parser; every default stands in its help.

    Parameters
    ----------
    positionals : bool
        Without them the parser reads what a ``--config-file`` may hold.
    """
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

    for title, kind in GROUPS.items():
        group = parser.add_argument_group(title)
        if kind is Settings:
            group.add_argument(
                "--config-file",
                type=given_path,
                metavar="TOML",
                help="flags as keys; the command line overrides",
            )
        for name, option in options_of(kind).items():
            if option.help:
                group.add_argument(*option.flags_of(name), **option.keywords())
    group.add_argument("-v", dest="verbosity", action="count", help="say more; -vv shows tracebacks")
    if positionals:
        parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def parse(argv: Sequence[str]) -> Settings:
    """Read the command line and the configuration file.

    Raises
    ------
    UsageError
        Unknown flag or value, contradictory options, a file that does not parse.
    MissingInputError
        A file named by a flag is not there.
    """
    argv = [hyphenated(token) for token in argv]
    try:
        given = vars(build_parser().read(argv))
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
        if value is not False:
            words = value if isinstance(value, list) else [] if value is True else [value]
            argv += [f"--{key.replace('_', '-')}", *map(str, words)]
    try:
        return vars(build_parser(positionals=False).read(argv))
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
    def chosen(kind: type) -> dict[str, Any]:
        keys = {name: option.key(name) for name, option in options_of(kind).items()}
        return {name: given[key] for name, key in keys.items() if key in given}

    selection: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value
        for name, value in chosen(SelectionSettings).items()
    }
    if "bids_filters" in selection:
        selection["bids_filters"] = _read_filters(selection["bids_filters"])
    inputs = chosen(InputSettings)
    if "bvals" in inputs and not os.path.lexists(inputs["bvals"]):
        raise MissingInputError(f"--bvals: {inputs['bvals']} does not exist")
    inputs["derivatives"] = _read_derivatives(inputs.get("derivatives", ()))
    preprocessing = chosen(PreprocessingSettings)
    preprocessing["ignore_bvals"] = tuple(preprocessing.get("ignore_bvals", ()))
    added = preprocessing.keys() - PreprocessingSettings.__dataclass_fields__
    preprocessing["added"] = {name: preprocessing.pop(name) for name in added}
    # A threshold of "auto" is None here, and takes back what the preset says.
    estimation = preset_settings(given.get("preset", "default")) | chosen(EstimationSettings)
    without_rows = ("bids_dir", "output_dir", "analysis_level", "verbosity")
    return Settings(
        **chosen(Settings),
        **{name: given[name] for name in without_rows if name in given},
        selection=SelectionSettings(**selection),
        inputs=InputSettings(**inputs),
        preprocessing=PreprocessingSettings(**preprocessing),
        estimation=EstimationSettings(
            **{name: value for name, value in estimation.items() if value is not None}
        ),
        resources=ResourceSettings(**chosen(ResourceSettings)),
    )
