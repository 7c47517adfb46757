"""The Dask cluster of a scheduler that is there: its workers process the participants."""

from __future__ import annotations

import asyncio
import logging
import pkgutil
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future as Awaited
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from sicnn_app import __version__
from sicnn_app.errors import DeviceError, TryAgainError, UsageError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.pipeline.tasks.processes import RETRIES, children, readable, run_in_child
from sicnn_app.system.console import Console

if TYPE_CHECKING:
    from distributed import Client, Future

    from sicnn_app.pipeline.tasks.participants import Workers

TIMEOUT = 30.0
"""Seconds in which a scheduler must answer."""

VERSION = "sicnn_app:__version__"
"""Where the version of the app is found."""

AHEAD = 1000
"""Parts that the scheduler knows at a time: enough for as many workers, and little for it to hold."""

AHEAD_OF_STUDY = 2
"""The same for each participant at work where parts are large, because they hold all runs of a study."""

RUNNING = "running"
"""State of a client that has its scheduler."""


@contextmanager
def dask_workers(address: str, console: Console) -> Iterator[Workers]:
    """Context with the workers of the scheduler at an address.

    Raises DeviceError when no scheduler answers there, and UsageError when Dask is not installed, it is no
    address, or the scheduler or a worker has no app, or another version.
    """
    with _silence(), _client(address) as client:
        if not client.scheduler_info()["workers"]:
            console.line(f"{address} has no workers yet: waiting for them")
        yield partial(process_on_workers, client)


@contextmanager
def _silence() -> Iterator[None]:
    """Without Dask's own lines: what matters comes back with the tasks, whose content its warnings print."""
    try:
        import distributed  # noqa: F401  (it sets the levels of its loggers)
    except ImportError:
        raise UsageError(
            "--dask-scheduler needs Dask, which is not installed here: pip install 'sicnn-app[dask]', or the "
            "container, which has it"
        ) from None
    except ValueError as error:
        raise UsageError(f"Dask cannot read its settings ({one_line(error)}): correct them") from None

    with ExitStack() as stack:
        for name in ("distributed", "distributed.client"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


@contextmanager
def _client(address: str) -> Iterator[Client]:
    from distributed import Client

    connected: Awaited[Client] = Awaited()

    def connect() -> None:
        try:
            connected.set_result(Client(address, timeout=TIMEOUT))
        except BaseException as error:
            connected.set_exception(error)

    # Dask waits for ever for what takes a connection and says nothing, or says something else.
    threading.Thread(target=connect, daemon=True).start()
    try:
        client = connected.result(timeout=1.5 * TIMEOUT)
    except (OSError, MemoryError) as error:
        said = f" ({one_line(error)})" if str(error) else ""
        raise DeviceError(
            f"--dask-scheduler: no scheduler answers at {address}{said}: check that it runs and can be "
            "reached from here"
        ) from None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--dask-scheduler: {address} cannot be used ({one_line(error)}): write it as tcp://HOST:PORT; "
            "tls:// needs Dask's settings of TLS"
        ) from None
    with client:
        _require_same_app(client, address)
        yield client


def _require_same_app(client: Client, address: str) -> None:
    """Refuse a cluster that could not even read a task: what has another app would end, or wait for ever."""
    versions = dict(client.run(pkgutil.resolve_name, VERSION, on_error="return"))
    try:
        versions[address] = client.run_on_scheduler(pkgutil.resolve_name, VERSION)
    except ImportError as error:
        versions[address] = error
    for where, version in versions.items():
        if version != __version__:
            has = f"version {version} of the app" if isinstance(version, str) else "no sicnn-app"
            raise UsageError(
                f"--dask-scheduler: {where} has {has}, and this is {__version__}: start scheduler and "
                "workers from one installation or image"
            )


def process_on_workers(
    client: Client, parts: Sequence[Part]
) -> Generator[tuple[Part, PartResult], None, None]:
    """Process parts in child processes of the workers, see :data:`.participants.Workers`."""
    from distributed import as_completed

    call = uuid.uuid4().hex
    options = {"call": call, "version": __version__}
    waiting = iter(parts)
    submitted: dict[Future, Part] = {}
    completed = as_completed()

    def submit() -> None:
        ahead = AHEAD
        if parts and parts[0].study.groups:
            ahead = AHEAD_OF_STUDY * max(1, sum(client.nthreads().values()))
        for part in islice(waiting, max(0, ahead - len(submitted))):
            future = client.submit(run_on_worker, part, **options, pure=False, retries=RETRIES)
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
            client.run(stop_on_worker, call, on_error="ignore")


def run_on_worker(part: Part, *, call: str, version: str) -> PartResult:
    """Task: process a part in a child of this worker; UsageError where the worker has another version."""
    if version != __version__:
        raise UsageError(
            f"--dask-scheduler: a worker has version {__version__} of the app, not {version}: start all from "
            "one installation or image"
        )
    return run_in_child(part, call=call)


async def stop_on_worker(call: str) -> None:
    """Task: stop the processes of a call, while the worker goes on answering."""
    await asyncio.to_thread(children.stop, call)


def _result(future: Future) -> PartResult:
    """The result of a task that has ended, whatever ended it."""
    from distributed import KilledWorker

    if future.status == "cancelled":
        return PartResult(error=_scheduler_ended())
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        error = TryAgainError(
            "its Dask worker died again and again, often for want of memory: give workers more, see --mem"
        )
    return PartResult(error=readable(error))


def _scheduler_ended() -> TryAgainError:
    return TryAgainError("the Dask scheduler has ended: finished runs are kept, start it again")
