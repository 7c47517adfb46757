"""The Dask cluster of a call: one in this process, or the one of a scheduler that is there."""

from __future__ import annotations

import logging
import pkgutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sicnn_app import __version__
from sicnn_app.errors import DeviceError, UsageError, one_line

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 30.0
"""Seconds in which a scheduler must answer."""

VERSION = "sicnn_app:__version__"
"""Where the version of the app is found."""

UNUSED_PORT = "127.0.0.1:0"
"""Dask always opens a web server; this one has no pages and cannot be reached from another machine."""

NO_PAGES: dict[str, list[str]] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextmanager
def cluster_client(address: str | None, *, workers: int) -> Iterator[Client]:
    """Context with a client of the scheduler at ``address``, or of a cluster of this process.

    The workers of the latter are threads, since all they do is to start a process and wait for it. So none of
    them can be reached over the network: whoever reaches a Dask worker can run programs on it.

    Parameters
    ----------
    address : str or None
    workers : int
        Workers of the cluster of this process, each with one task at a time.

    Raises
    ------
    DeviceError
        No scheduler answers at the address.
    UsageError
        It is no address, or the scheduler or a worker has no app, or another version of it.
    """
    with _silence(), _local(workers) if address is None else _existing(address) as client:
        yield client


@contextmanager
def _silence() -> Iterator[None]:
    """Without Dask's own lines: what matters comes back with the tasks, whose content its warnings print."""
    try:
        import distributed  # noqa: F401  (it sets the levels of its loggers)
    except ValueError as error:
        raise UsageError(f"Dask cannot read its settings ({one_line(error)}): correct them") from None

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    import dask.config
    from distributed import Client, Scheduler, SpecCluster, Worker

    inside = {"protocol": "inproc://", "dashboard": False, "dashboard_address": UNUSED_PORT}
    # Limits of the memory are the processes' own business: the threads would count that of the app.
    worker = {"nthreads": 1, "memory_limit": 0, "local_directory": tempfile.gettempdir(), **inside}
    with dask.config.set(NO_PAGES), warnings.catch_warnings():
        # Without a network there is no address to give to the scheduler, and nobody who would ask for one.
        warnings.filterwarnings("ignore", "Couldn't detect a suitable IP", RuntimeWarning)
        cluster = SpecCluster(
            scheduler={"cls": Scheduler, "options": inside},
            workers={number: {"cls": Worker, "options": worker} for number in range(workers)},
        )
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    from distributed import Client

    connected: Future[Client] = Future()

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
