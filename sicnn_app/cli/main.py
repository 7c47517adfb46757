"""A command line to an exit code: signals, and errors as one line; ``--help`` never imports torch."""

from __future__ import annotations

import re
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from sicnn_app.cli.arguments import PROGRAM, parse
from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.system.caches import limit_library_threads
from sicnn_app.system.streams import complain, outlive_streams
from sicnn_app.system.surroundings import loading, restart_with_docstrings, undisturbed

INTERRUPTED = 130

GO_ON = "finished runs are kept, the same command goes on"

RAISE_AGAIN = 0.05
"""Seconds after which a stop is raised again that was lost where Python throws exceptions away."""


class Stopped(BaseException):
    """Raised in the main thread by a signal; no handler for ordinary errors may swallow it.

    Also for SIGINT: Python ends a process by that signal, whatever code it returns, when a
    ``KeyboardInterrupt`` has passed through code that a library runs from a string.
    """

    latest: weakref.ref[Stopped] | None = None
    """The last one raised, dead when something swallowed it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        Stopped.latest = weakref.ref(self)


def _stop(number: int, _: object) -> None:
    if Stopped.latest is None or Stopped.latest() is None:
        raise Stopped(number)
    # A second SIGTERM must not break off the cleaning up; a second Ctrl-C is meant to.
    if number == signal.SIGINT:
        raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into :class:`Stopped`; one that is ignored, as below nohup, stays so."""
    show_unraisable = sys.unraisablehook

    def raise_again(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            show_unraisable(unraisable)
            return
        number = unraisable.exc_value.number

        def stop(*_: object) -> NoReturn:
            raise Stopped(number)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    previous = {number: signal.getsignal(number) for number in numbers}
    sys.unraisablehook = raise_again
    for number in numbers[:2]:
        if previous[number] is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        sys.unraisablehook = show_unraisable
        for number, handler in previous.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``sicnn-app``; errors become one line and the exit code of the contract, which is returned.

    The arguments come without the program's name; by default they are those of the process.
    """
    if argv is None:
        restart_with_docstrings()
    outlive_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = any(re.fullmatch(r"-v{2,}", token) for token in arguments) or arguments.count("-v") > 1
    try:
        with stoppable():
            settings = parse(arguments).with_absolute_paths()
            with undisturbed(dask=settings.resources.dask_scheduler is not None):
                limit_library_threads(settings.resources.omp_nthreads)
                with loading():
                    from sicnn_app.pipeline import dispatch as workflow
                    from sicnn_app.system.console import Console

                return workflow.run(settings, Console(settings.verbosity))
    except SicnnAppError as error:
        return _fail(error, show_traceback)
    except (Stopped, KeyboardInterrupt) as stop:
        if isinstance(stop, Stopped) and stop.number == signal.SIGTERM:
            return _fail(TryAgainError(f"stopped by SIGTERM: {GO_ON}"), show_traceback)
        complain(f"{PROGRAM}: interrupted: {GO_ON}")
        return INTERRUPTED
    except Exception as error:
        text = f"internal error ({one_line(error)}): repeat with -vv and report what it prints"
        return _fail(InternalError(text), show_traceback)


def _fail(error: SicnnAppError, show_traceback: bool) -> int:
    complain(f"{PROGRAM}: {error}", sys.exception() if show_traceback else None)
    return error.exit_code
