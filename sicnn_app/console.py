"""What the user sees while the app works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

LOGGER = logging.getLogger("sicnn_app")

PLAIN_WIDTH = 200
"""Columns of tables that go to a file or a pipe, where nothing can be widened later."""

ProgressCallback = Callable[[str, int, int], None]


class Console:
    """Lines for people on stdout, warnings and errors on stderr, and all of them in the log.

    Parameters
    ----------
    verbosity : int
        Number of ``-v``; from 1 on every data iteration is a line where there is no terminal.
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out = RichConsole(highlight=False, soft_wrap=True, width=PLAIN_WIDTH)

    def line(self, text: str) -> None:
        LOGGER.info(text)
        self._out.print(escape(text))

    def detail(self, text: str) -> None:
        """A line that shows with ``-v`` and always stands in the log."""
        LOGGER.info(text)
        if self.verbosity:
            self._out.print(escape(text))

    def warning(self, text: str) -> None:
        LOGGER.warning(text)
        self._err.print(f"[yellow]warning:[/] {escape(text)}")

    def error(self, text: str) -> None:
        LOGGER.error(text)
        self._err.print(f"[red]error:[/] {escape(text)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._out.print(table)

    @contextmanager
    def progress(self, name: str) -> Iterator[ProgressCallback]:
        """Yield a callback ``(text, done, total)`` for the long work on one run."""
        if not self._out.is_terminal:
            yield lambda text, done, total: self.detail(f"{name}: {text} ({done} of at most {total})")
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._out, transient=True) as progress:
            task = progress.add_task(escape(name), total=None, text="")

            def show(text: str, done: int, total: int) -> None:
                LOGGER.info("%s: %s (%d of at most %d)", name, text, done, total)
                progress.update(task, completed=done, total=total, text=escape(text))

            yield show
