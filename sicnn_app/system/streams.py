"""Standard streams that may go away, be full or never have been there: saying never costs doing."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from sicnn_app.formats import printable, printable_traceback

if TYPE_CHECKING:
    from typing_extensions import Buffer

STANDARD = (0, 1, 2)
"""Descriptors of standard input, output and error."""


class _Lasting(io.FileIO):
    """A descriptor to write to that is silent, and no error, from when nothing can be written to it."""

    def write(self, data: Buffer) -> int:
        try:
            while (written := super().write(data)) is None:
                # Whoever has the descriptor with us does not want to wait; we must not lose lines.
                select.select((), (self,), ())
        except OSError:
            # Whatever is still in a buffer, here or in a library, finds its way out at the end.
            _lead_nowhere(self.fileno())
            return memoryview(data).nbytes
        return written


def outlive_streams() -> None:
    """Let this process go on when its terminal, pipe or file is gone or full: the log has it all.

    Streams that somebody put in place of those of the process stay.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            # The next file to be opened would get the number, and with it what libraries print.
            _lead_nowhere(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr)


def complain(text: str, cause: BaseException | None = None) -> None:
    """A line on stderr, below the traceback of its cause where that is wanted."""
    if cause is not None:
        print(printable_traceback(cause), file=sys.stderr)
    print(printable(text), file=sys.stderr)


def _lasting(stream: TextIO | None) -> TextIO | None:
    if stream is None:
        return None
    with suppress(OSError):
        stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    # A locale may lack the letters of a path; that is no reason to stop.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors="backslashreplace", line_buffering=True
    )


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
