"""Results of single computations, kept on disk: a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app import __version__

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables of how threads wait for one another, which decide times."""


class Cells:
    """A file with one JSON object per finished computation.

    Parameters
    ----------
    path : Path
        Made when missing. A line that was cut short by a kill is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    cell = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self.found[_key(cell["spec"])] = cell["result"]

    def has(self, spec: dict[str, Any]) -> bool:
        """Whether the result of ``spec`` is in the file."""
        return _key(_with_version(spec)) in self.found

    def get(self, spec: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of ``spec``, computed and appended to the file unless it is there.

        Parameters
        ----------
        spec : dict
            Everything that decides the result; JSON-serialisable. The app's version is added to it.
        compute : callable
            Makes the result; JSON-serialisable.
        """
        spec = _with_version(spec)
        key = _key(spec)
        if key not in self.found:
            result = compute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({"spec": spec, "result": result}))
            self.found[key] = json.loads(json.dumps(result))
        return self.found[key]


def _with_version(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "version": __version__}


def _key(spec: dict[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


def spread(values: Iterable[float], form: str) -> str:
    """``mean ± SD`` of a few numbers; a single one stands alone."""
    values = np.array(list(values), dtype=float)
    text = format(values.mean(), form)
    return text if values.size == 1 else f"{text} ± {format(values.std(ddof=1), form)}"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def comma_separated(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same as comma-separated values."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()


def provenance(command: str, *, device: str | None = None) -> str:
    """One line that says what made a result: command, version, device, date."""
    return (
        f"`{command}`, version {__version__}, {device or cpu_name()}, {datetime.now(UTC).date().isoformat()}"
    )


def command_line() -> str:
    """The command that this process was started with, without the path of Python."""
    waiting = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    module = getattr(sys.modules["__main__"].__spec__, "name", "benchmarks").removesuffix(".__main__")
    return " ".join([*waiting, shlex.join(["python", "-m", module, *sys.argv[1:]])])


def parser_of(text: str) -> argparse.ArgumentParser:
    """Parser of a command whose help is the text of its module, as it stands there."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def write_tables(folder: Path, stem: str, page: str, records: str) -> None:
    """Write ``stem.md`` and ``stem.csv`` into a folder, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(page, encoding="utf-8")
    (folder / f"{stem}.csv").write_text(records, encoding="utf-8")


def cpu_name() -> str:
    """Model of the processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
