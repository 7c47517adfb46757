"""Settings as rows: default, flag, limits and words of each, and how the words of a flag become its value."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app.errors import UsageError


@dataclass(frozen=True)
class Limit:
    """Bounds of a value.

    Attributes
    ----------
    words : str
        End of "--FLAG must be"; a pair of braces stands for the value.
    holds : callable
    """

    words: str
    holds: Callable[[Any], bool]

    def __contains__(self, value: Any) -> bool:
        return self.holds(value)


AT_LEAST_0 = Limit("0 or more, not {}", lambda value: value >= 0)
AT_LEAST_1 = Limit("at least 1, not {}", lambda value: value >= 1)
SHARE = Limit("at least 0 and below 1, not {:g}", lambda value: 0 <= value < 1)
POSITIVE = Limit("a number above 0, not {:g}", lambda value: math.isfinite(value) and value > 0)


_METAVARS: dict[Any, str] = {int: "N", float: "X"}


@dataclass(frozen=True)
class Option:
    """A setting, in one row: parser, checks and methods text are made from it.

    Attributes
    ----------
    default : object
        False makes a flag without a value; a setting whose default is None may be left open.
    help : str
        ``{default}`` stands for the default, which the help ends with where it says nothing of it. Without
        help there is no flag.
    allowed : collection of str, or Limit
        All values there are, or what a value has to be; nothing: any value.
    metavar : str, optional
    flags : tuple of str
        Where they are not the name of the setting with hyphens.
    reads : callable, optional
        A word of the command line to the value; by the kind of the default where it is not given.
    several : bool
        The flag takes several words.
    words : str
        Name of a setting without a flag in messages, where it is not that of the field.
    in_text : int, optional
        Place among the settings that the methods text names.
    """

    default: Any = None
    help: str = ""
    allowed: Collection[str] | Limit = ()
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    reads: Callable[[str], Any] | None = None
    several: bool = False
    words: str = ""
    in_text: int | None = None

    def flags_of(self, name: str) -> tuple[str, ...]:
        """The flags of a setting of this name."""
        return self.flags or (f"--{name.replace('_', '-')}",)

    def key(self, name: str) -> str:
        """How parser, configuration file and records call it: the first long flag, with underscores."""
        flag = next(flag for flag in self.flags_of(name) if flag.startswith("--"))
        return flag.removeprefix("--").replace("-", "_")

    def keywords(self) -> dict[str, Any]:
        """Keywords for argparse."""
        text = self.help.format(default=self.default)
        if self.default is False:
            return {"action": "store_true", "help": text}
        if "(default" not in text and self.default is not None:
            default = f"{self.default:g}" if isinstance(self.default, float) else self.default
            text += f" (default: {default})"
        if self.allowed and not isinstance(self.allowed, Limit):
            return {"choices": tuple(self.allowed), "help": text}
        reads = self.reads or (str if self.default is None else type(self.default))
        several = {"nargs": "+", "action": "extend"} if self.several else {}
        return {"type": reads, "metavar": self.metavar or _METAVARS.get(reads), **several, "help": text}

    def refusal(self, name: str) -> str:
        """The message on a value that is not allowed; a pair of braces stands for the value."""
        if isinstance(self.allowed, Limit):
            limit = self.allowed.words
        else:
            limit = f"one of {', '.join(self.allowed)}, not {{!r}}"
        if self.help:
            return f"--{self.key(name).replace('_', '-')} must be {limit}"
        return f"the {self.words or name.replace('_', ' ')} must be {limit.partition(', not')[0]}"

    def check(self, name: str, value: Any) -> None:
        """Hold a value against what is allowed.

        Raises
        ------
        UsageError
            For a wrong one.
        ValueError
            The same where no flag leads to the setting: a mistake in code.
        """
        if not self.allowed or (value is None and self.default is None) or value in self.allowed:
            return
        message = self.refusal(name).format(value)
        raise UsageError(message) if self.help else ValueError(message)


def row(help: str = "", allowed: Collection[str] | Limit = (), **others: Any) -> dict[str, Option]:
    """Metadata of a field of a dataclass; the default is that of the field."""
    return {"option": Option(None, help, allowed, **others)}


def label_of(prefix: str) -> Callable[[str], str]:
    """Reader of BIDS labels, with or without the prefix of their entity."""

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
