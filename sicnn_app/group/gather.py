"""Output folder to the rows of its runs; what did not change since the last table is taken from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app import __version__
from sicnn_app.bids.associate import parse_name
from sicnn_app.bids.content import read_json
from sicnn_app.bids.segmentations import Regions, Segmentation, Segmentations, load_regions
from sicnn_app.bids.select import Selection
from sicnn_app.bids.sidecar import DatasetRoots
from sicnn_app.bids.write import recorded_fingerprint, run_folder
from sicnn_app.errors import DataError, MissingInputError, SicnnAppError
from sicnn_app.fingerprints import hash_file
from sicnn_app.formats import natural_key, tsv_bytes
from sicnn_app.group.columns import measured_columns
from sicnn_app.group.measure import region_rows
from sicnn_app.group.table import Row, parse_table
from sicnn_app.ivim.maps import MAPS
from sicnn_app.ivim.run import DwiRun
from sicnn_app.report.collect import (
    RunDerivatives,
    collect_run,
    reported_sessions,
    run_names,
    software_of,
)


@dataclass(frozen=True)
class GatheredRun:
    """One run in the tables.

    Attributes
    ----------
    run : DwiRun
    key : str
        Hash of all that its rows were made from.
    rows : list of dict of str to str
        One per region, as they stand in the table.
    warnings : list of str
        Segmentations that were left out, files named by BIDS URIs.
    settings : dict
        What its maps were made with.
    versions : dict of str to str
        Software that made them, by name.
    """

    run: DwiRun
    key: str
    rows: list[Row]
    warnings: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Gathered:
    """All runs that were asked for.

    Attributes
    ----------
    runs : list of GatheredRun
        In natural order of their names.
    left_out : list of (DwiRun, SicnnAppError)
        Runs without rows, and why.
    reused : int
        Runs whose rows were taken from the last table.
    """

    runs: list[GatheredRun]
    left_out: list[tuple[DwiRun, SicnnAppError]]
    reused: int


@dataclass(frozen=True)
class Earlier:
    """Rows of a run in the last table, the key they were made with, and the warnings then."""

    key: str
    rows: list[Row]
    warnings: list[str]


@dataclass(frozen=True)
class Chosen:
    """Runs that were asked for.

    Attributes
    ----------
    runs : list of DwiRun
        In natural order of their names.
    others : int
        Runs of the output that were not asked for.
    by : str
        What was asked for in the words of the command line; empty for everything.
    """

    runs: list[DwiRun]
    others: int
    by: str


def find_runs(output_dir: Path, selection: Selection) -> Chosen:
    """Runs of which any output is on disk and that were asked for.

    Parameters
    ----------
    output_dir : Path
        Derivative dataset written by the app; it may be absent.
    selection : Selection
    """
    runs, others = [], 0
    for subject, session in reported_sessions(output_dir):
        for name in run_names(output_dir, subject, session):
            parsed = parse_name(f"{name}_dwi.nii.gz")
            if parsed is None:
                continue
            if selection.accepts(parsed):
                runs.append(DwiRun(parsed.entities, parts=()))
            else:
                others += 1
    return Chosen(sorted(runs, key=lambda run: natural_key(run.name)), others, selection.describe())


def gather(
    output_dir: Path,
    runs: Sequence[DwiRun],
    datasets: Mapping[str, Path],
    *,
    earlier: Mapping[str, Earlier],
    stop: bool,
    progress: Callable[[str, int, int], None],
) -> Gathered:
    """Measure every run that is not in the last table, or not as it is now.

    Parameters
    ----------
    output_dir : Path
    runs : sequence of DwiRun
        Those of :func:`find_runs`.
    datasets : mapping of str to Path
        Derivative datasets with segmentations, by name.
    earlier : mapping of str to Earlier
        By the name of the run.
    stop : bool
        Raise the first error instead of going on.
    progress : callable (text, done, total)

    Returns
    -------
    Gathered
        Runs that are incomplete or cannot be read are in ``left_out``.

    Raises
    ------
    MissingInputError, DataError
        With ``stop``: a run is incomplete, or cannot be read.
    """
    segmentations, roots = Segmentations(datasets), DatasetRoots({**datasets, "": output_dir})
    gathered, left_out, reused = [], [], 0
    for position, run in enumerate(runs, start=1):
        found, ambiguous = _find_segmentations(segmentations, run, roots)
        try:
            state = _look(output_dir, run, found, ambiguous, roots)
            known = earlier.get(run.name)
            if known is not None and known.key == state.key:
                rows, warnings = known.rows, known.warnings
                reused += 1
            else:
                rows, warnings = _measure(output_dir, run, found)
                warnings = [*ambiguous, *map(roots.portable, warnings)]
                if _look(output_dir, run, found, ambiguous, roots) != state:
                    raise MissingInputError(f"{run.name} changed while it was read: repeat this command")
            gathered.append(GatheredRun(run, state.key, rows, warnings, state.settings, state.versions))
        except SicnnAppError as error:
            if stop:
                raise
            left_out.append((run, type(error)(roots.portable(str(error)))))
        progress(run.name, position, len(runs))
    return Gathered(gathered, left_out, reused)


def _find_segmentations(
    segmentations: Segmentations, run: DwiRun, roots: DatasetRoots
) -> tuple[list[Segmentation], list[str]]:
    try:
        found, warnings = segmentations.of(run.entities)
    except SicnnAppError as error:
        found, warnings = [], [f"its segmentations are left out: {error}"]
    return found, [f"{run.name}: {roots.portable(text)}" for text in warnings]


@dataclass(frozen=True)
class _State:
    """What a run is now: hash of all that its rows are made from, and what its completion marker says."""

    key: str
    settings: dict[str, Any]
    versions: dict[str, str]


def _look(
    output_dir: Path,
    run: DwiRun,
    segmentations: Sequence[Segmentation],
    ambiguous: Sequence[str],
    roots: DatasetRoots,
) -> _State:
    """Look at a run without opening an image: content of the small files, sizes of the images."""
    fingerprint, complete = recorded_fingerprint(output_dir, run)
    if not complete:
        missing = "a file that its completion marker names" if fingerprint else "its completion marker"
        raise MissingInputError(f"{run.name} is incomplete, {missing} is missing: process it again")
    path = run_folder(run, output_dir) / f"{run.name}_desc-ivim_qc.json"
    marker = read_json(path)
    content = {
        "version": __version__,
        "columns": list(measured_columns()),
        "marker": hash_file(path),
        "table": hash_file(path.with_suffix(".tsv")),
        "sizes": {name: _size(path.with_name(name)) for name in sorted(marker["Outputs"])},
        "segmentations": [
            [item.name, roots.uri(item.path), hash_file(item.path), hash_file(item.lookup)]
            for item in segmentations
        ],
        "ambiguous": list(ambiguous),
    }
    settings = marker.get("Settings")
    return _State(
        key=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        settings=settings if isinstance(settings, dict) else {},
        versions=software_of(marker),
    )


def _size(path: Path) -> int:
    # It was there a moment ago, but another job may replace the run.
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _measure(
    output_dir: Path, run: DwiRun, segmentations: Sequence[Segmentation]
) -> tuple[list[Row], list[str]]:
    """Rows of a run, and warnings on segmentations that were left out of them."""
    found = _read_maps(output_dir, run)
    image = run_folder(run, output_dir) / f"{run.name}_model-ivim_param-f_dwimap.nii.gz"
    regions: dict[str, Regions] = {}
    warnings = []
    for segmentation in segmentations:
        try:
            regions[segmentation.name], said = load_regions(segmentation, image, found.mask)
        except SicnnAppError as error:
            warnings.append(f"{run.name}: a segmentation is left out: {error}")
            continue
        warnings += [f"{run.name}: {text}" for text in said]
    columns = list(measured_columns())
    rows = parse_table(tsv_bytes(columns, region_rows(run, found, regions)))
    return rows, warnings


def _read_maps(output_dir: Path, run: DwiRun) -> RunDerivatives:
    """The derivatives of a run, as far as the group uses them.

    Raises
    ------
    DataError
        A file cannot be read, a map is missing or has another shape, or the maps hold no number.
    """
    found = collect_run(output_dir, run.subject, run.session, run.name, series=False, conventional=False)
    problems = list(found.problems)
    if not problems and (missing := [spec.label for spec in MAPS if spec.label not in found.maps]):
        problems.append(f"no map of {', '.join(missing)}")
    if not problems and not found.has_voxels:
        problems.append("its maps hold no number")
    if problems:
        said = "; ".join(problems)
        raise DataError(f"{run.name} cannot be used, {said}: process it again with --overwrite")
    return found
