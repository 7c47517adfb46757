"""The network of a study in the work directory, where all jobs find it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sicnn_app.system.checkpoints import is_state, read_state, write_state

if TYPE_CHECKING:
    from sicnn_app.sicnn.study_network import StudyNetwork


_NAME = re.compile(r"study-[0-9a-f]{8}-[0-9a-f]{8}\.pt")


def network_path(work_dir: Path, key: str) -> Path:
    """File of the network with this key, a hash in hexadecimal digits."""
    return work_dir / f"study-{key[:8]}-{key[8:16]}.pt"


def lock_path(path: Path) -> Path:
    """Folder that whoever trains the network of this file has to lock."""
    return path.with_suffix("")


def read_network(path: Path, key: str) -> StudyNetwork | None:
    """The network in a file; None for one that is absent, damaged or of another key.

    Raises
    ------
    Untrusted
        Somebody else may have written it.
    """
    from sicnn_app.sicnn.study_network import StudyNetwork

    state = read_state(path, key)
    try:
        return None if state is None else StudyNetwork.from_state(state)
    except (KeyError, TypeError):
        return None


def write_network(path: Path, key: str, network: StudyNetwork, *, scratch: Path) -> None:
    """Write the file so that it is complete or not there; raises OSError.

    Parameters
    ----------
    path : Path
    key : str
    network : StudyNetwork
    scratch : Path
        Folder of this process on the same file system, where a kill leaves what is unfinished.
    """
    unfinished = scratch / path.name
    write_state(unfinished, key, network.state())
    unfinished.replace(path)


def remove_network(path: Path) -> None:
    """Remove the file when it is one of this app and user; anything else under its name stays."""
    if is_state(path):
        with suppress(OSError):
            path.unlink()


def remove_networks(work_dir: Path) -> None:
    """Remove all networks of this user from a work directory, which may be absent."""
    with suppress(OSError):
        for path in work_dir.iterdir():
            if _NAME.fullmatch(path.name):
                remove_network(path)
