"""The network of a study in the work directory, where all jobs find it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sicnn_app.checkpoints import read_state, write_state

if TYPE_CHECKING:
    from sicnn_app.sicnn.study_network import StudyNetwork


def network_path(work_dir: Path, key: str) -> Path:
    """File of the network with this key, a hash in hexadecimal digits."""
    return work_dir / f"study-{key[:8]}-{key[8:16]}.pt"


def lock_path(path: Path) -> Path:
    """Folder that whoever trains the network of this file has to lock."""
    return path.with_suffix("")


def read_network(path: Path, key: str) -> StudyNetwork | None:
    """The network in a file; None for one that is absent, damaged, foreign or of another key."""
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
    os.replace(unfinished, path)
