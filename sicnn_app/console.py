"""What the user sees while the app works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

EARLY_LINES = 10_000
"""Lines kept for the log before there is one: nothing is written before everything was checked."""

PLAIN_WIDTH = 200
"""Columns of tables that go to a file or a pipe, where nothing can be widened later."""

ProgressCallback = Callable[[str, int, int], None]


class LogFile(logging.FileHandler):
    """The log of one call; a disk that is full ends neither the work nor in a traceback."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line; whatever the maps need from the disk reports it on its own."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Stream(RichConsole):
    """Console without emoji codes and highlights, because paths may look like them."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, width=width)

    def show(self, content: Text | Table) -> None:
        try:
            self.print(content)
        except BrokenPipeError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on silently when the reader of a pipe left: the log has it all."""
        self.quiet = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, self.file.fileno())
        os.close(silence)


class Console:
    """Lines for people on stdout, warnings and errors on stderr, and all of them in the log.

    Parameters
    ----------
    verbosity : int
        Number of ``-v``; from 1 on every data iteration is a line where there is no terminal.
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        # A locale may lack the letters of a path; that is no reason to stop.
        with suppress(AttributeError):
            sys.stdout.reconfigure(errors="backslashreplace")
        self._out, self._err = _Stream(), _Stream(stderr=True)
        if not self._out.is_terminal:
            self._out = _Stream(width=PLAIN_WIDTH)
        # A logger of its own: that of the logging module would print warnings a second time.
        self._log = logging.Logger("sicnn_app", logging.DEBUG)
        self._early = MemoryHandler(EARLY_LINES, flushLevel=logging.CRITICAL + 1)
        self._log.addHandler(self._early)

    @contextmanager
    def log_to(self, handler: LogFile) -> Iterator[None]:
        """Write everything said into a file, beginning with what was said before."""
        self._early.setTarget(handler)
        self._early.flush()
        self._log.removeHandler(self._early)
        self._log.addHandler(handler)
        try:
            yield
        finally:
            self._log.removeHandler(handler)
            self._log.addHandler(self._early)
            handler.close()

    def note(self, text: str) -> None:
        """A line for the log only."""
        self._log.info("%s", text)

    def line(self, text: str) -> None:
        """A line on stdout."""
        self._log.info("%s", text)
        self._out.show(Text(text))

    def detail(self, text: str) -> None:
        """A line that shows with ``-v`` and always stands in the log."""
        self._log.info("%s", text)
        if self.verbosity:
            self._out.show(Text(text))

    def warning(self, text: str) -> None:
        """A warning on stderr."""
        self._log.warning("%s", text)
        self._err.show(Text.assemble(("warning:", "yellow"), " ", text))

    def error(self, text: str, cause: BaseException) -> None:
        """An error on stderr; its traceback goes to the log, and with ``-vv`` to stderr too."""
        self._log.error("%s", text, exc_info=cause)
        if self.verbosity > 1:
            traceback.print_exception(cause)
        self._err.show(Text.assemble(("error:", "red"), " ", text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout."""
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.show(table)

    @contextmanager
    def progress(self, name: str) -> Iterator[ProgressCallback]:
        """Yield a callback ``(text, done, total)`` for the long work on one run.

        Where nothing is done yet the text is a line of its own: it tells what begins.
        """

        def detail(text: str, done: int, total: int) -> None:
            if done:
                self.detail(f"{name}: {text} ({done} of at most {total})")
            else:
                self.line(f"{name}: {text}")

        if not self._out.is_terminal:
            yield detail
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._out, transient=True) as progress:
            task = progress.add_task(name, total=None, text="")

            def show(text: str, done: int, total: int) -> None:
                if done:
                    self._log.info("%s: %s (%d of at most %d)", name, text, done, total)
                else:
                    self.line(f"{name}: {text}")
                progress.update(task, completed=done, total=total, text=text)

            yield show
