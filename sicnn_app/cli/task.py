"""The process of a part: ``python -m sicnn_app.cli.task ANSWER PARENT``, the part on its standard input.

ANSWER is an open file for the result, PARENT the process number of the worker. Such processes are also forked
from ``python -m sicnn_app.cli.task serve SOCKET PARENT``, which has loaded all that they need.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence

from sicnn_app.cli.main import GO_ON, Stopped, stoppable
from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.pipeline.tasks.processes import SERVE, load_everything
from sicnn_app.system.fork_server import serve
from sicnn_app.system.helpers import die_with
from sicnn_app.system.streams import outlive_streams
from sicnn_app.system.surroundings import loading, undisturbed


def main() -> None:
    """Do the part and answer, or fork processes that do; a process ends with it."""
    if sys.argv[1] == SERVE:
        serve_forks(int(sys.argv[2]), int(sys.argv[3]))
    else:
        answer_part(int(sys.argv[1]), int(sys.argv[2]))


def serve_forks(requests: int, parent: int) -> None:
    """Load what parts need and fork a process for every one; they get a CUDA device, or no text."""
    die_with(parent)
    server = os.getpid()

    def work(device: str, files: Sequence[int]) -> None:
        given, answer, said = files
        os.dup2(given, sys.stdin.fileno())
        os.dup2(said, sys.stderr.fileno())
        if device:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        answer_part(answer, server)

    with undisturbed(dask=False), loading():
        load_everything()
        # Pages that the collector wrote to would be no longer shared with the forks.
        gc.freeze()
    serve(socket.socket(fileno=requests), work)


def answer_part(answer: int, parent: int) -> None:
    """Do the part on the standard input and write its result to an open file."""
    # It would hold the lock of its run, and a worker that takes over could not work on it.
    die_with(parent)
    # A worker may ignore signals, and what is ignored stays so in its children.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outlive_streams()
    with undisturbed(dask=False):
        result = process(pickle.load(sys.stdin.buffer))
    with os.fdopen(answer, "wb") as stream:
        pickle.dump(result, stream)


def process(part: Part) -> PartResult:
    """Process a part; whatever ends that early becomes the error of the result."""
    try:
        with stoppable():
            from sicnn_app.pipeline.participant_level import process_part
            from sicnn_app.system.console import Console

            return process_part(part, Console(part.settings.verbosity))
    except SicnnAppError as error:
        return PartResult(error=error)
    except (Stopped, KeyboardInterrupt):
        return PartResult(error=TryAgainError(f"stopped by SIGTERM: {GO_ON}"), stopped=True)
    except Exception as error:
        text = f"internal error ({one_line(error)}): repeat with --nprocs 1 -vv and report what it prints"
        return PartResult(error=InternalError(text))


if __name__ == "__main__":
    main()
