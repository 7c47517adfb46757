"""What libraries find around them: none of their settings, whoever left some there.

A notebook, a scheduler or a container leaves much in the environment, and libraries read that, their files in
HOME and those in the current folder when they are imported. Maps and reports must not depend on it, and no
import may fail by it.
"""

from __future__ import annotations

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

    Relative paths lose their meaning in it.

    Parameters
    ----------
    dask : bool
        Whether Dask keeps its settings, also those of HOME.
    """
    before = dict(os.environ)
    folder = None
    with suppress(FileNotFoundError):
        folder = os.getcwd()  # noqa: PTH109 (compared with text of the environment)
    try:
        _replace_environment(_without_settings(before, folder, dask=dask))
        os.chdir("/")
        yield
    finally:
        _replace_environment(before)
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)


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
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
        os.execve(sys.executable, [sys.executable, *options, *sys.argv[1:]], environment)


def _without_settings(environment: Mapping[str, str], folder: str | None, *, dask: bool) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if not SETTINGS.fullmatch(name)}
    if dask:
        kept.setdefault("DASK_CONFIG", os.path.expanduser("~/.config/dask"))
    else:
        kept = {name: value for name, value in kept.items() if not DASK_SETTINGS.fullmatch(name)}
    if folder is not None and kept.get("PYTHONPATH"):
        # Processes that are started here find the same modules.
        entries = kept["PYTHONPATH"].split(os.pathsep)
        kept["PYTHONPATH"] = os.pathsep.join(os.path.join(folder, entry) for entry in entries)
    return kept | {"HOME": NO_HOME}


def _replace_environment(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
