"""The Boutiques descriptor of the app, made from its parser.

    python -m hpc.make_boutiques

writes ``hpc/sicnn-app.boutiques.json`` (schema 0.5 of https://github.com/boutiques/boutiques). Defaults stand
in the descriptions only: a ``default-value`` would be put into every command, where it overrides a preset.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sicnn_app import __version__, errors
from sicnn_app.cli.arguments import PROGRAM, build_parser

TARGET = Path(__file__).parent / f"{PROGRAM}.boutiques.json"

EXISTING = ("BIDS_DIR", "FILE", "JSON", "TOML")
"""How the help calls what must exist before the call; other paths are strings to Boutiques."""

OUTSIDE_OF_CLASSES = {
    1: "Some runs failed; the others are complete.",
    130: "Interrupted, after a checkpoint.",
}
"""Exit codes that belong to no class of error."""


def described(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What the descriptor holds of a parser: everything but what prints a text and ends."""
    without = (argparse._HelpAction, argparse._VersionAction)
    return [action for action in parser._actions if not isinstance(action, without)]


def make_descriptor() -> dict[str, Any]:
    """The descriptor as Boutiques wants it."""
    parser = build_parser()
    actions = described(parser)
    return {
        "name": PROGRAM,
        "tool-version": __version__,
        "schema-version": "0.5",
        "author": "The sicnn-app developers",
        "description": parser.description,
        "command-line": " ".join([PROGRAM, *(_key(action) for action in actions)]),
        "inputs": [_input(action) for action in actions],
        "groups": list(_groups(parser)),
        "output-files": [
            {
                "id": "output",
                "name": "output",
                "description": "BIDS derivatives: maps, sidecars, reports, logs",
                "path-template": "[OUTPUT_DIR]",
                "optional": True,
            }
        ],
        "error-codes": _error_codes(),
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }


def _key(action: argparse.Action) -> str:
    return f"[{action.dest.upper()}]"


def _input(action: argparse.Action) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": action.help,
        "value-key": _key(action),
        "optional": bool(action.option_strings),
    }
    if action.option_strings:
        entry["command-line-flag"] = next(
            (flag for flag in action.option_strings if flag.startswith("--")), action.option_strings[0]
        )
    if action.nargs == 0:
        return entry | {"type": "Flag"}
    if action.nargs == "+":
        entry |= {"list": True, "min-list-entries": 1}
    if action.choices:
        return entry | {"type": "String", "value-choices": list(action.choices)}
    if action.type in (int, float):
        return entry | {"type": "Number", "integer": action.type is int}
    return entry | {"type": "File" if action.metavar in EXISTING else "String"}


def _groups(parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    flags = [action for action in described(parser) if action.option_strings]
    for group in parser._action_groups:
        members = [action.dest for action in group._group_actions if action in flags]
        if members:
            yield {"id": group.title, "name": group.title, "members": members}


def _error_codes() -> list[dict[str, Any]]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    texts = dict(OUTSIDE_OF_CLASSES)
    for kind in classes:
        if kind is not errors.SicnnAppError:
            texts[kind.exit_code] = kind.__doc__.splitlines()[0].replace("``", "")
    return [{"code": code, "description": texts[code]} for code in sorted(texts)]


def as_text(descriptor: dict[str, Any]) -> str:
    """The content of the file."""
    return json.dumps(descriptor, indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(as_text(make_descriptor()), encoding="utf-8")
