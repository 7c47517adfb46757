"""Parts to their results, on the workers of a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from sicnn_app import __version__
from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.pipeline.tasks.worker import ChildKilledError, run_in_child, stop_children

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 1000
"""Parts that the scheduler knows at a time: enough for as many workers, and little for it to hold."""

AHEAD_OF_STUDY = 2
"""The same for each participant at work where parts are large, because they hold all runs of a study."""

RUNNING = "running"
"""State of a client that has its scheduler."""

RETRIES = 2
"""How often a part whose process died is tried again. The deaths of workers are counted by the scheduler."""


def process_parts(
    client: Client, parts: Sequence[Part], *, devices: Sequence[str] = ()
) -> Generator[tuple[Part, PartResult], None, None]:
    """Process parts on the workers of a cluster, and yield each with its result as soon as that is there.

    Whoever stops iterating closes the generator: the processes then end after a checkpoint.

    Parameters
    ----------
    client : distributed.Client
    parts : sequence of Part
    devices : sequence of str
        See :func:`sicnn_app.pipeline.tasks.worker.run_in_child`.
    """
    from distributed import as_completed

    call = uuid.uuid4().hex
    options = {"call": call, "version": __version__, "devices": devices}
    waiting = iter(parts)
    submitted: dict[Future, Part] = {}
    completed = as_completed()

    def submit() -> None:
        ahead = AHEAD
        if parts and parts[0].study.groups:
            ahead = AHEAD_OF_STUDY * max(1, sum(client.nthreads().values()))
        for part in islice(waiting, max(0, ahead - len(submitted))):
            future = client.submit(run_in_child, part, **options, pure=False, retries=RETRIES)
            submitted[future] = part
            completed.add(future)

    try:
        submit()
        for future in completed:
            part = submitted.pop(future)
            if client.status == RUNNING:
                submit()
            yield part, _result(future)
        for part in waiting:
            yield part, PartResult(error=_scheduler_ended())
    finally:
        # Workers end with their scheduler, and what they started ends with them.
        if submitted and client.status == RUNNING:
            client.cancel(list(submitted), force=True)
            client.run(stop_children, call, on_error="ignore")


def _result(future: Future) -> PartResult:
    """The result of a task that has ended, whatever ended it."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        return PartResult(error=_scheduler_ended())
    error = future.exception()
    if error is None:
        return future.result()
    return PartResult(error=error if isinstance(error, SicnnAppError) else _readable(error, KilledWorker))


def _scheduler_ended() -> TryAgainError:
    return TryAgainError("the Dask scheduler has ended: finished runs are kept, start it again")


def _readable(error: BaseException, killed_worker: type[Exception]) -> SicnnAppError:
    if isinstance(error, killed_worker):
        return TryAgainError(
            "its Dask worker died again and again, often for want of memory: give workers more, see --mem"
        )
    if isinstance(error, ChildKilledError):
        return TryAgainError(
            f"its process was killed {RETRIES + 1} times, by {error}, often for want of memory: try again "
            "with a lower --nprocs or --mem"
        )
    wrapped = InternalError(f"internal error ({one_line(error)}): please report it")
    wrapped.__cause__ = error
    return wrapped
