"""The process of a part: ``python -m sicnn_app.cli.task ANSWER PARENT``, the part on its standard input.

ANSWER is an open file for the result, PARENT the process number of the worker.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from sicnn_app.cli.main import GO_ON, Stopped, stoppable
from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.system.helpers import die_with
from sicnn_app.system.streams import outlive_streams
from sicnn_app.system.surroundings import undisturbed


def main() -> None:
    """Do the part and answer; a process ends with it."""
    answer, parent = int(sys.argv[1]), int(sys.argv[2])
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
