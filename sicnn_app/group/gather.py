"""Output folder to the rows of its runs; what did not change since the last table is taken from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sicnn_app import __version__
from sicnn_app.bids.segmentations import Segmentation, Segmentations, load_regions
from sicnn_app.bids.select import Selection
from sicnn_app.bids.text_files import read_bytes
from sicnn_app.derivatives.collect import collect_run, software_of
from sicnn_app.derivatives.marker import Marker, marker_path, read_marker
from sicnn_app.derivatives.names import (
    map_ending,
    output_path,
    reported_sessions,
    run_called,
    run_names,
    source_name,
)
from sicnn_app.derivatives.outputs import own_file
from sicnn_app.derivatives.sidecar import DatasetRoots
from sicnn_app.errors import (
    DataError,
    InternalError,
    MissingInputError,
    SicnnAppError,
    TryAgainError,
    complaint,
)
from sicnn_app.files import hash_file
from sicnn_app.formats import natural_key, tsv_bytes
from sicnn_app.group.columns import measured_columns, region_rows
from sicnn_app.group.table import Row, parse_table
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.regions import Regions
from sicnn_app.ivim.run import DwiRun


@dataclass(frozen=True)
class RunState:
    """Hash of all that the rows of a run are made from now, and what its marker says made its maps."""

    key: str
    settings: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class GatheredRun:
    """One run in the tables: a row per region, and warnings on segmentations, files named by BIDS URIs.

    The rows of a run that is ``reused`` were taken from the last table; ``recognised`` has the programs as
    by which its segmentations are laid out, by their names.
    """

    run: DwiRun
    state: RunState
    rows: list[Row]
    warnings: list[str]
    reused: bool = False
    recognised: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """All runs that were asked for, in natural order of their names; those without rows, and why."""

    runs: list[GatheredRun]
    left_out: list[tuple[DwiRun, SicnnAppError]]

    @property
    def recognised(self) -> dict[str, list[str]]:
        """Programs as by which segmentations are laid out, by the names of these."""
        found: dict[str, set[str]] = {}
        for run in self.runs:
            for name, program in run.recognised.items():
                found.setdefault(name, set()).add(program)
        return {name: sorted(found[name]) for name in sorted(found)}

    @property
    def reused(self) -> int:
        """Runs whose rows were taken from the last table."""
        return sum(run.reused for run in self.runs)


@dataclass(frozen=True)
class Earlier:
    """Rows of a run in the last table, the key they were made with, and the warnings then."""

    key: str
    rows: list[Row]
    warnings: list[str]


@dataclass(frozen=True)
class Chosen:
    """Runs that were asked for, in natural order of their names, and how many others the output has.

    ``by`` is what was asked for in the words of the command line; empty for everything.
    """

    runs: list[DwiRun]
    others: int
    by: str


def find_runs(output_dir: Path, selection: Selection) -> Chosen:
    """Runs of which maps, flags or tables are in the output, which may be absent, and that were asked for."""
    names = [
        name
        for subject, session in reported_sessions(output_dir)
        for name in run_names(output_dir, subject, session)
    ]
    runs = [run_called(name) for name in names if selection.accepts(source_name(name))]
    runs.sort(key=lambda run: natural_key(run.name))
    return Chosen(runs, len(names) - len(runs), selection.describe())


def gather(
    output_dir: Path,
    runs: Sequence[DwiRun],
    datasets: Mapping[str, Path],
    *,
    earlier: Mapping[str, Earlier],
    stop: bool,
    caught: Callable[[Callable[[], object]], SicnnAppError | None],
    progress: Callable[[str, int, int], None],
) -> Gathered:
    """Measure every run that is not in the last table, or not as it is now.

    Parameters
    ----------
    runs : sequence of DwiRun
        Those of :func:`find_runs`.
    datasets : mapping of str to Path
        Derivative datasets with segmentations, by name.
    earlier : mapping of str to Earlier
        By the name of the run.
    stop : bool
        Raise the first error instead of going on.
    caught : callable
        Does something and returns the error it ends with, whatever it is, as one a user can act on.

    Raises
    ------
    SicnnAppError
        With ``stop``: a run is incomplete, or cannot be read. Without it such runs are in ``left_out``.
    """
    segmentations, roots = Segmentations(datasets), DatasetRoots({**datasets, "": output_dir})
    gathered: list[GatheredRun] = []
    left_out = []

    def add(run: DwiRun) -> None:
        gathered.append(_gather_run(output_dir, run, segmentations, roots, earlier.get(run.name)))

    for position, run in enumerate(runs, start=1):
        error = caught(partial(add, run))
        if error is not None:
            if stop:
                raise error
            # Errors that nobody thought of do not name their run.
            name = f"{run.name}: " if isinstance(error, InternalError | TryAgainError) else ""
            told = type(error)(f"{name}{roots.portable(str(error))}")
            told.__cause__ = error.__cause__
            left_out.append((run, told))
        progress(run.name, position, len(runs))
    return Gathered(gathered, left_out)


def _gather_run(
    output_dir: Path, run: DwiRun, segmentations: Segmentations, roots: DatasetRoots, known: Earlier | None
) -> GatheredRun:
    try:
        found, warnings = segmentations.of(run.entities)
    except SicnnAppError as error:
        found, warnings = [], [f"its segmentations are left out: {error}"]
    ambiguous = [f"{run.name}: {roots.portable(text)}" for text in warnings]
    look = partial(_look, output_dir, run, found, ambiguous, roots)
    state = look()
    recognised = {item.name: item.program for item in found}
    if known is not None and known.key == state.key:
        return GatheredRun(run, state, known.rows, known.warnings, reused=True, recognised=recognised)
    rows, warnings = _measure(output_dir, run, found)
    if look() != state:
        raise MissingInputError(f"{run.name} changed while it was read: repeat this command")
    said = [*ambiguous, *map(roots.portable, warnings)]
    return GatheredRun(run, state, rows, said, recognised=recognised)


def _look(
    output_dir: Path,
    run: DwiRun,
    segmentations: Sequence[Segmentation],
    ambiguous: Sequence[str],
    roots: DatasetRoots,
) -> RunState:
    """Look at a run without opening an image: content of the small files, sizes of the images."""
    marker = _complete_marker(output_dir, run)
    content = {
        "version": __version__,
        "columns": list(measured_columns()),
        "marker": _hash(marker.path, output_dir),
        "table": _hash(marker.path.with_suffix(".tsv"), output_dir),
        "sizes": {path.name: _size(path) for path in marker.outputs},
        "segmentations": [
            [item.name, roots.uri(item.path), *map(hash_file, item.files), hash_file(item.lookup)]
            for item in segmentations
        ],
        "ambiguous": list(ambiguous),
    }
    settings = marker.content.get("Settings")
    return RunState(
        key=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        settings=settings if isinstance(settings, dict) else {},
        versions=software_of(marker.content),
    )


def _complete_marker(output_dir: Path, run: DwiRun) -> Marker:
    missing = "its completion marker"
    if os.path.lexists(marker_path(output_dir, run)):
        try:
            marker = read_marker(output_dir, run)
        except SicnnAppError as error:
            raise _unusable(run, complaint(error)) from None
        if marker.complete:
            return marker
        missing = "a file that its completion marker names"
    raise MissingInputError(f"{run.name} is incomplete, {missing} is missing: process it again")


def _hash(path: Path, output_dir: Path) -> str | None:
    """SHA-256 of a small output; None where there is none."""
    if not os.path.lexists(path):
        return None
    return hashlib.sha256(read_bytes(own_file(path, output_dir))).hexdigest()


def _size(path: Path) -> int:
    # It was there a moment ago, but another job may replace the run.
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _measure(
    output_dir: Path, run: DwiRun, segmentations: Sequence[Segmentation]
) -> tuple[list[Row], list[str]]:
    """Rows of a run, and warnings on segmentations that were left out of them.

    Raises
    ------
    DataError
        A file cannot be read, a map is missing or has another shape, or the maps hold no number.
    """
    found = collect_run(output_dir, run.subject, run.session, run.name, series=False)
    missing = [spec.label for spec in MAPS if spec.label not in found.maps]
    if found.problems:
        raise _unusable(run, "; ".join(found.problems))
    if missing:
        raise _unusable(run, f"no map of {', '.join(missing)}")
    if not found.has_voxels:
        raise _unusable(run, "its maps hold no number")
    image = output_path(run, output_dir, f"{map_ending('f')}.nii.gz")
    regions: dict[str, Regions] = {}
    warnings = []
    for segmentation in segmentations:
        try:
            regions[segmentation.name], said = load_regions(segmentation, image, found.mask)
        except SicnnAppError as error:
            said = [f"a segmentation is left out: {error}"]
        warnings += [f"{run.name}: {text}" for text in said]
    return parse_table(tsv_bytes(list(measured_columns()), region_rows(run, found, regions))), warnings


def _unusable(run: DwiRun, reason: str) -> DataError:
    return DataError(f"{run.name} cannot be used, {reason}: process it again with --overwrite")
