"""A discovery to the table of a dry run; only headers and .bval files are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicnn_app.bids.discover import Discovery
from sicnn_app.bids.gradients import part_bvals
from sicnn_app.bids.images import open_image, volume_count
from sicnn_app.errors import SicnnAppError
from sicnn_app.formats import natural_key
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.run import DwiRun


@dataclass(frozen=True)
class RunRow:
    """One line of the dry-run table; empty text where nothing is known."""

    name: str
    shape: str = ""
    volumes: str = ""
    bvals: str = ""
    mask: str = ""
    outputs: str = ""
    note: str = ""


def _row(run: DwiRun, bvals_file: Path | None, note: str = "") -> RunRow:
    shape = volumes = bvals = ""
    try:
        opened = [open_image(source.image) for source in run.parts]
        shape = " x ".join(str(size) for size in opened[0].shape[:3])
        counts = [volume_count(image) for image in opened]
        volumes = str(sum(counts))
        tables, shared_out = part_bvals(run.parts, counts, bvals_file)
        note = note or "; ".join(shared_out)
        nominal, index = group_bvalues(np.concatenate(tables))
        bvals = " ".join(f"{b:g}x{n}" for b, n in zip(nominal, np.bincount(index), strict=True))
    except (SicnnAppError, ValueError) as error:
        note = note or str(error)
    mask = str(run.mask) if run.mask else "made by the app"
    session = f"ses-{run.session}/" if run.session else ""
    return RunRow(run.name, shape, volumes, bvals, mask, f"sub-{run.subject}/{session}dwi/{run.name}", note)


def describe(discovery: Discovery, *, bvals_file: Path | None = None) -> list[RunRow]:
    """Rows of the dry-run table: runs, runs with a problem and skipped images, in natural order.

    ``bvals_file`` has the b-values of images without a .bval.
    """
    rows = [_row(run, bvals_file) for run in discovery.runs]
    rows += [_row(run, bvals_file, str(error)) for run, error in discovery.problems]
    rows += [RunRow(name, note=f"skipped: {reason}") for name, reason in discovery.skipped]
    return sorted(rows, key=lambda row: natural_key(row.name))
