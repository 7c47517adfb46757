"""The Dask cluster of a call: one in this process, or the one of a scheduler that is there."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sicnn_app.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 30.0
"""Seconds in which a scheduler must answer."""

UNUSED_PORT = "127.0.0.1:0"
"""Dask always opens a web server; this one has no pages and cannot be reached from another machine."""

NO_PAGES = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


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
        It is no address.
    """
    with _silence(), _local(workers) if address is None else _existing(address) as client:
        yield client


@contextmanager
def _silence() -> Iterator[None]:
    """Without Dask's own lines: what matters comes back with the tasks, whose content its warnings print."""
    import distributed  # noqa: F401  (it sets the levels of its loggers)

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

    try:
        client = Client(address, timeout=TIMEOUT)
    except OSError as error:
        raise DeviceError(
            f"--dask-scheduler: no scheduler answers at {address} ({error}): check that it runs and can be "
            "reached from here"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"--dask-scheduler: {address} is no address ({error}): write it as tcp://HOST:PORT"
        ) from None
    with client:
        yield client
