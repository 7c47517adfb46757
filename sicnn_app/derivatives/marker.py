"""The completion marker of a run: what it was made with, and which files belong to it.

It is the sidecar of the quality table, written after all other files of the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app.bids.text_files import read_json
from sicnn_app.derivatives.names import MARKER, output_path
from sicnn_app.derivatives.outputs import own_file
from sicnn_app.errors import DataError, SicnnAppError
from sicnn_app.ivim.run import DwiRun


@dataclass(frozen=True)
class Marker:
    """Completion marker of a run.

    Attributes
    ----------
    content : dict
        The whole sidecar of the QC table.
    outputs : tuple of Path
        Files that belong to it, sorted.
    """

    path: Path
    content: dict[str, Any]
    fingerprint: str
    outputs: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """True when no output is missing."""
        return all(os.path.isfile(path) for path in self.outputs)


def marker_path(output_dir: Path, run: DwiRun) -> Path:
    """Where the completion marker of a run lies."""
    return output_path(run, output_dir, MARKER)


def read_marker(output_dir: Path, run: DwiRun) -> Marker:
    """Completion marker of a run.

    Raises
    ------
    MissingInputError
        There is none.
    DataError
        It cannot be read, or names no fingerprint, or no outputs, or others than those of its run.
    """
    path = marker_path(output_dir, run)
    content = read_json(own_file(path, output_dir))
    fingerprint, outputs = content.get("Fingerprint"), content.get("Outputs")
    # A name with a folder in it would lead anywhere.
    if not (isinstance(fingerprint, str) and isinstance(outputs, list) and outputs) or not all(
        isinstance(name, str) and os.path.basename(name) == name and name.startswith(f"{run.name}_")
        for name in outputs
    ):
        raise DataError(
            f"{path} does not name the fingerprint and the outputs of its run: process it again with "
            "--overwrite"
        )
    return Marker(path, content, fingerprint, tuple(path.with_name(name) for name in sorted(set(outputs))))


def recorded_fingerprint(output_dir: Path, run: DwiRun) -> tuple[str | None, bool]:
    """Fingerprint in the completion marker of a run, if there is one, and whether no output is missing."""
    try:
        marker = read_marker(output_dir, run)
    except SicnnAppError:
        return None, False
    return marker.fingerprint, marker.complete
