"""Surroundings that libraries find: none of their settings, whoever left some there.

A notebook, a scheduler or a container leaves much in the environment, and libraries read that, their files in
HOME and those in the current folder when they are imported. Maps and reports must not depend on it, and no
import may fail by it.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

NO_HOME = os.devnull
"""HOME in which nothing can exist, be read or be written: to everybody it is no folder."""

SETTINGS = re.compile(
    "MPLBACKEND|MATPLOTLIBRC|SOURCE_DATE_EPOCH|TORCH_(LOGS|LOGS_OUT|TRACE)"
    "|(BIDS_SCHEMA|BIDSSCHEMATOOLS|DIPY|FSSPEC|JOBLIB|LOKY|NETWORKX|NILEARN|NUMBA|NUMEXPR|NUMPY|PANDAS)_.*"
    "|(PYBIDS|SCIPY|SKLEARN|SYMPY|TQDM)_.*"
    "|(TORCH_COMPILE|TORCHDYNAMO|TORCHINDUCTOR)_.*"
)
"""Variables by which libraries are set up for other programs. How torch, its threads and its devices work is
for a user to say, but neither what torch writes about itself nor its compiler, which the app does not use."""

DASK_SETTINGS = re.compile("DASK_.*")
"""The same of Dask, which the app uses within one process unless it is given a scheduler."""


@contextmanager
def undisturbed(*, dask: bool) -> Iterator[None]:
    """Context in which libraries are imported and work; as before at the end.

    Relative paths lose their meaning in it. With ``dask`` Dask keeps its settings, also those of HOME.
    """
    folder = None
    with suppress(FileNotFoundError):
        folder = os.getcwd()  # noqa: PTH109 (compared with text of the environment)
    with environment(_without_settings(os.environ, folder, dask=dask)):
        try:
            os.chdir("/")
            yield
        finally:
            if folder is not None:
                with suppress(OSError):
                    os.chdir(folder)


@contextmanager
def loading() -> Iterator[None]:
    """Context in which large libraries are imported.

    Nothing they make is garbage, and looking for some takes as long as a quarter of the import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def restart_with_docstrings() -> None:
    """Start this process again where Python drops docstrings (``-OO``): libraries compute with theirs."""
    if sys.flags.optimize < 2:
        return
    given = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    # Letters that take no value may stand together, as in "python -OOm sicnn_app".
    kept = [
        re.sub("O", "", word) if re.fullmatch("-[bBdEiIOPqRsSuvx]+[mc]?", word) else word for word in given
    ]
    if kept != given or "PYTHONOPTIMIZE" in os.environ:
        options = [word for word in kept if word != "-"]
        os.environ.pop("PYTHONOPTIMIZE", None)
        os.execv(sys.executable, [sys.executable, *options, *sys.argv[1:]])


def _without_settings(variables: Mapping[str, str], folder: str | None, *, dask: bool) -> dict[str, str]:
    kept = {
        name: value
        for name, value in variables.items()
        if not SETTINGS.fullmatch(name) and (dask or not DASK_SETTINGS.fullmatch(name))
    }
    if dask:
        kept.setdefault("DASK_CONFIG", os.path.expanduser("~/.config/dask"))
    if folder is not None and kept.get("PYTHONPATH"):
        # Processes that are started here find the same modules.
        entries = kept["PYTHONPATH"].split(os.pathsep)
        kept["PYTHONPATH"] = os.pathsep.join(os.path.join(folder, entry) for entry in entries)
    return kept | {"HOME": NO_HOME}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Context with these environment variables and no others; as before at the end."""
    before = dict(os.environ)
    try:
        _replace_environment(variables)
        yield
    finally:
        _replace_environment(before)


def _replace_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
