"""Whether the outputs of a run fit: on the disk, and into the names that file systems allow."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sicnn_app.derivatives.names import expected_outputs
from sicnn_app.errors import DataError
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.parameters import PARAMETERS, TISSUE_LABELS, all_maps
from sicnn_app.ivim.run import DwiRun
from sicnn_app.system.memory import require_space

MAX_NAME = 255
"""Bytes that file systems allow in one file name."""

TEXT_BYTES = 5_000_000
"""Sidecars, tables and figures of one run, and its share in a report: about 1 MB."""


def estimated_size(
    shape: tuple[int, int, int, int], *, ensemble: bool = False, comparison: bool = False
) -> int:
    """Bytes that the outputs of a run take at most; float32 noise hardly compresses.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z, N) of the series.
    ensemble, comparison : bool
        Standard deviations over an ensemble, and maps of the conventional fit, are written.
    """
    voxels = int(np.prod(shape[:3], dtype=object))
    images = shape[3] + len(all_maps()) + len(TISSUE_LABELS) * ensemble + len(PARAMETERS) * comparison
    return voxels * (4 * images + 2) + TEXT_BYTES


def require_room(
    run: DwiRun,
    output_dir: Path,
    shape: tuple[int, int, int, int],
    *,
    ensemble: bool = False,
    comparison: bool = False,
    work: Iterable[tuple[Path, int]] = (),
) -> None:
    """Refuse, before any long work, a run whose outputs the file system could not take.

    Parameters
    ----------
    shape, ensemble, comparison
        See :func:`estimated_size`.
    work : iterable of (Path, int)
        Folders, and the bytes the run needs there besides.

    Raises
    ------
    OutputError
        When a disk has too little room.
    DataError
        When the name of an output would be too long.
    """
    outputs = expected_outputs(
        run, output_dir, anatomy=ANATOMIES[0], ensemble=ensemble, comparison=comparison
    )
    longest = max(len(os.fsencode(path.name)) for path in outputs)
    if longest > MAX_NAME:
        raise DataError(
            f"{run.name} is too long a name: those of its outputs would have {longest} characters "
            f"and {MAX_NAME} are possible; shorten a label"
        )
    size = estimated_size(shape, ensemble=ensemble, comparison=comparison)
    require_space([(Path(output_dir), size), *work])
