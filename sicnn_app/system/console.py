"""Signs of life while the app works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path
from textwrap import indent

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sicnn_app.files import folder_below
from sicnn_app.formats import printable, printable_traceback, rough_time

EARLY_LINES = 10_000
"""Lines kept for the log before there is one: nothing is written before everything was checked."""

PLAIN_WIDTH = 200
"""Columns of tables that go to a file or a pipe, where nothing can be widened later."""

HEARTBEAT = 60.0
"""Seconds after which a stage that goes on is told again."""

ProgressCallback = Callable[[str, int, int], None]

LOG_ATTEMPTS = 10_000
"""How often another name is tried for a log."""


class _LogFormat(logging.Formatter):
    """A line for each thing said; those of a traceback are indented, so that they pass for no such line."""

    def formatException(self, ei: tuple) -> str:
        return indent(printable_traceback(ei[1]), "    ")


class LogFile(logging.StreamHandler):
    """The log of one call; a disk that is full ends neither the work nor in a traceback.

    By default there may be no such file yet. Raises OSError when it cannot be opened.
    """

    def __init__(self, path: Path, *, mode: str = "x") -> None:
        super().__init__(path.open(mode, encoding="utf-8", errors="backslashreplace"))
        self.path = path
        self.setFormatter(_LogFormat("%(asctime)s %(levelname)s %(message)s"))

    @classmethod
    def create(cls, folder: Path) -> LogFile:
        """A new log, named by the time, in a folder that is made where it is missing and is no link."""
        moment = datetime.now(UTC)
        with folder_below(folder.parent, folder, create=True):
            # Two processes may start within the same microsecond, or with a clock that stands still.
            for later in range(LOG_ATTEMPTS):
                stamp = moment + timedelta(microseconds=later)
                with suppress(FileExistsError):
                    return cls(folder / f"sicnn-app_{stamp:%Y%m%dT%H%M%S%f}.log")
        raise FileExistsError(errno.EEXIST, "all names of logs are taken", str(folder))

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line; whatever the maps need from the disk reports it on its own."""

    def close(self) -> None:
        """Close the file, also on a disk that takes nothing any more."""
        with suppress(OSError):
            self.stream.close()
        super().close()


# Without emoji codes and highlights, because paths may look like them.
_Stream = partial(RichConsole, highlight=False, soft_wrap=True, emoji=False)


class Console:
    """Lines for people on stdout, warnings and errors on stderr, and all of them in the log.

    Verbosity is the number of ``-v``; from 1 on every data iteration is a line where there is no terminal.
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
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
        self._log.info("%s", printable(text))

    def line(self, text: str) -> None:
        """A line on stdout."""
        self.note(text)
        self._out.print(_shown(text))

    def detail(self, text: str) -> None:
        """A line that shows with ``-v`` and always stands in the log."""
        self.note(text)
        if self.verbosity:
            self._out.print(_shown(text))

    def warning(self, text: str) -> None:
        """A warning on stderr."""
        self._log.warning("%s", printable(text))
        self._err.print(Text.assemble(("warning:", "yellow"), " ", _shown(text)))

    def error(self, text: str, cause: BaseException) -> None:
        """An error on stderr; its traceback goes to the log, and with ``-vv`` to stderr too."""
        self._log.error("%s", printable(text), exc_info=cause)
        if self.verbosity > 1:
            print(printable_traceback(cause), file=sys.stderr)
        self._err.print(Text.assemble(("error:", "red"), " ", _shown(text)))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout, and its rows in the log."""
        for row in rows:
            self.note(f"{title}: {', '.join(row)}")
        table = Table(title=_shown(title), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(_shown, row))
        self._out.print(table)

    @contextmanager
    def progress(self, name: str, left: Callable[[], str] = str) -> Iterator[ProgressCallback]:
        """Yield a callback ``(text, done, total)`` for the long work on one run.

        Where nothing is done yet the text is a line of its own: it tells which stage begins. Without a
        terminal a line every :data:`HEARTBEAT` seconds tells that the stage goes on.

        Parameters
        ----------
        left : callable
            Says how long everything still takes; empty where that is not known.
        """
        bar: Progress | None = None
        stage, latest, began = "", "", time.monotonic()

        def with_rest(text: str) -> str:
            return ", ".join(filter(None, (f"{name}: {text}", left())))

        def show(text: str, done: int, total: int) -> None:
            nonlocal stage, latest, began
            if done:
                latest = f"{text} ({done} of at most {total})"
                say = self.detail if bar is None else self.note
                say(f"{name}: {latest}")
            else:
                stage, latest, began = text, "", time.monotonic()
                self.line(with_rest(text))
            if bar is not None:
                rest = left()
                bar.update(task, completed=done, total=total, text=printable(text), rest=rest)

        def beat() -> None:
            if stage or latest:
                so_far = f"for {rough_time(time.monotonic() - began)}"
                self.line(with_rest(", ".join(filter(None, (f"still at {stage or name}", so_far, latest)))))

        if not self._out.is_terminal:
            with _every(HEARTBEAT, beat):
                yield show
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
        )
        with Progress(*columns, console=self._out, transient=True) as shown:
            bar, task = shown, shown.add_task(printable(name), total=None, text="", rest="")
            yield show


@contextmanager
def _every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Context during which an action is repeated beside the work."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            action()

    # Nothing waits for one that is stuck, as in writing to a pipe that nobody reads.
    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _shown(text: str) -> Text:
    """Text for a terminal: no markup, and none of the codes that a terminal obeys."""
    return Text(printable(text))
