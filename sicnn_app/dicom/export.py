"""Maps of an output to files of DICOM below its folder ``dicom``, which leaves the maps without names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sicnn_app.bids.text_files import read_json
from sicnn_app.derivatives.atomic import WORK_FOLDER, StagedFiles, scratch_folder
from sicnn_app.derivatives.collect import RunDerivatives, collect_run
from sicnn_app.derivatives.facts import Facts
from sicnn_app.derivatives.names import (
    SERIES,
    dwi_folder,
    map_ending,
    reported_sessions,
    run_called,
    run_names,
)
from sicnn_app.derivatives.outputs import Files
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.dicom.match import Wanted, choose_series, on_grid
from sicnn_app.dicom.parametric_map import QUANTITIES, as_bytes, parametric_map
from sicnn_app.dicom.series import SourceSeries
from sicnn_app.errors import DataError
from sicnn_app.ivim.run import DwiRun
from sicnn_app.system.locks.shared import locked_folder, shared_folder

FOLDER = "dicom"
"""Below the output: apart from the maps, because DICOM names the patient and outputs are shared."""

WAIT = 600.0
"""Seconds to wait for another process that writes the same run."""


def runs_of(output_dir: Path) -> dict[str, DwiRun]:
    """Runs of which an output holds something, by name."""
    return {
        name: run
        for subject, session in reported_sessions(output_dir)
        for name in run_names(output_dir, subject, session)
        if (run := run_called(name)) is not None
    }


def dicom_paths(output_dir: Path, run: DwiRun) -> dict[str, Path]:
    """Files of a run by the labels of their maps."""
    folder = dwi_folder(output_dir / FOLDER, run.subject, run.session).parent
    return {label: folder / f"{run.name}_{map_ending(label)}.dcm" for label in QUANTITIES}


def export_run(
    output_dir: Path,
    run: DwiRun,
    source: tuple[list[SourceSeries], list[str]],
    patients: Mapping[str, str],
) -> tuple[SourceSeries, list[Path]]:
    """Write F, D and D* of a run.

    Parameters
    ----------
    source : tuple
        Series among which that of the run is, and why others cannot be used.
    patients : mapping of str to str
        ``PatientID`` of participants whose label it is not.

    Returns
    -------
    series : SourceSeries
        The series of the run.
    files : list of Path
        What was written.

    Raises
    ------
    DataError
        When maps are missing, or no series, or more than one, is the run's.
    OutputError
        When the file system refuses, or another's file has one of the names.
    TryAgainError
        When another process writes the same run.
    """
    unit = f"{FOLDER}-{run.name}"
    paths = dicom_paths(output_dir, run)
    require_free(WrittenRecord(output_dir, unit).foreign(paths.values()))
    found = collect_run(output_dir, run.subject, run.session, run.name, series=False, conventional=False)
    if missing := [label for label in QUANTITIES if label not in found.maps]:
        raise DataError(
            f"{run.name}: no map of {', '.join(missing)} that can be read lies in {output_dir}: process the "
            "run again"
        )
    wanted = _wanted(output_dir, run, found, patients.get(run.subject))
    series = choose_series(wanted, *source)
    with (
        locked_folder(shared_folder(output_dir / WORK_FOLDER, unit, output_dir), wait=WAIT),
        scratch_folder(output_dir) as scratch,
    ):
        staged = StagedFiles(scratch)
        for label, path in paths.items():
            values = on_grid(found.maps[label], found.affine, series)
            made = parametric_map(values, label, run.name, series, wanted.bvals)
            staged.add_bytes(path, as_bytes(made))
        return series, staged.publish(WrittenRecord(output_dir, unit))


def _wanted(output_dir: Path, run: DwiRun, found: RunDerivatives, patient: str | None) -> Wanted:
    sidecar = dwi_folder(output_dir, run.subject, run.session) / f"{run.name}_{SERIES}.json"
    number = Facts(Files(output_dir).get(read_json, sidecar, {})).number("SeriesNumber")
    return Wanted(
        run=run.name,
        subject=run.subject,
        affine=found.affine,
        shape=found.maps["f"].shape,
        bvals=Facts(found.parameters).numbers("BValuesUsed"),
        number=None if number is None else int(number),
        patient=patient,
    )
