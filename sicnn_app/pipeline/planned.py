"""Work and files of a call: fingerprints, finished runs, and files of others in the way."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from sicnn_app import __version__
from sicnn_app.bids.segmentations import Segmentations
from sicnn_app.derivatives import provenance
from sicnn_app.derivatives.collect import software_of
from sicnn_app.derivatives.marker import marker_path, read_marker, recorded_fingerprint
from sicnn_app.derivatives.names import (
    expected_outputs,
    figures_folder,
    kept_pictures_of,
    report_path,
    report_unit,
    run_unit,
)
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import SicnnAppError, TryAgainError, UsageError
from sicnn_app.files import hash_file
from sicnn_app.ivim.run import DwiRun
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings
from sicnn_app.steps import STEPS, Situation
from sicnn_app.system.console import Console


def grouped(runs: Iterable[DwiRun], *attributes: str) -> dict[Any, list[DwiRun]]:
    """Runs by the values of attributes that they share, in the order of the runs."""
    groups: dict[Any, list[DwiRun]] = defaultdict(list)
    for item in runs:
        groups[attrgetter(*attributes)(item)].append(item)
    return groups


def digest(content: Any) -> str:
    """SHA-256 of what can be written as JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def training_key(settings: Settings, device: str, **data: Any) -> str:
    """Digest of all that must be equal for a training to go on to the very same weights in another process.

    ``data`` tells what it trains on, and with which settings of the estimation.
    """
    from sicnn_app.system.device import describe_device

    machine = {
        "software": provenance.software_versions(),
        "device": provenance.device_name(describe_device(device)),
        "threads": settings.resources.omp_nthreads,
    }
    return digest(data | machine)


def fingerprint_all(settings: Settings, runs: Sequence[DwiRun]) -> dict[str, str]:
    """Fingerprint of every run: settings that change a map, source files, minor version of the app."""
    # Files above the participants belong to many runs.
    digest_of = cache(hash_file)
    return {item.name: _fingerprint(settings, item, digest_of) for item in runs}


def require_unchanged(settings: Settings, item: DwiRun, fingerprint: str, read: Mapping[Path, str]) -> None:
    """Make sure that what was read of a run is what its fingerprint was made of; raises TryAgainError.

    ``read`` holds hashes of what was read, by :func:`sicnn_app.bids.unpacked.digests_of_reads`.
    """

    def digest_of(path: Path | None) -> str | None:
        # A table that is no text, for one, is not read to its end.
        return read[path] if path is not None and path in read else hash_file(path)

    if _fingerprint(settings, item, digest_of) != fingerprint:
        names = ", ".join(part.image.name for part in item.parts)
        raise TryAgainError(
            f"{names}, its tables or its mask were changed while it was processed: repeat this command"
        )


def _fingerprint(settings: Settings, item: DwiRun, digest_of: Callable[[Path | None], str | None]) -> str:
    anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    content = {
        "settings": settings.changing_maps(),
        "version": minor_version(__version__),
        "bvals_file": digest_of(settings.inputs.bvals),
        "files": [digest_of(path) for part in item.parts for path in (part.image, part.bval, part.bvec)],
        "mask": digest_of(item.mask),
        "anatomy": anatomy,
    }
    return digest(content)


def minor_version(version: str) -> str:
    """What maps are the same within: 0.12 of 0.12.3."""
    return version.rsplit(".", 1)[0]


def finished_runs(
    settings: Settings, runs: Sequence[DwiRun], fingerprints: Mapping[str, str]
) -> frozenset[str]:
    """Names of runs that need no work; refuses, before any starts, to mix outputs of different settings."""
    finished, other = [], []
    for item in runs:
        found, complete = recorded_fingerprint(settings.output_dir, item)
        if found is None or settings.overwrite:
            continue
        if found != fingerprints[item.name]:
            other.append(item)
        elif complete:
            finished.append(item.name)
    if other:
        require_free_runs(settings, other)
        names = ", ".join(item.name for item in other[:3]) + (" ..." if len(other) > 3 else "")
        app = provenance.APP_NAME
        versions = {software_of(read_marker(settings.output_dir, item).content).get(app) for item in other}
        earlier = sorted(one for one in versions if one and minor_version(one) != minor_version(__version__))
        of = f"of {app} {', '.join(earlier)}" if earlier else "of other settings or other source files"
        raise UsageError(
            f"{settings.output_dir} holds outputs {of} for {names}: choose another output folder, or "
            "--overwrite them"
        )
    return frozenset(finished)


def is_reported(item: DwiRun, output_dir: Path) -> bool:
    """True when the report of a finished run was put in its place after the run was."""
    try:
        report = report_path(output_dir, item.subject, item.session).stat()
        return report.st_ctime_ns >= marker_path(output_dir, item).stat().st_ctime_ns
    except OSError:
        return False


def planned_outputs(item: DwiRun, settings: Settings) -> list[Path]:
    """Derivatives that the call writes for a run, the completion marker last."""
    anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
    situation = Situation(anatomy, item.preprocessed)
    motion_correction, _ = STEPS["motioncorrection"].wanted(settings.preprocessing, situation)
    return expected_outputs(
        item,
        settings.output_dir,
        anatomy=anatomy,
        method=settings.estimation.method,
        spread=settings.estimation.gives_spread,
        conventional=settings.estimation.described.trains,
        motion=motion_correction != "none",
        regions=_has_regions(item, settings),
    )


def _has_regions(item: DwiRun, settings: Settings) -> bool:
    """True when a dataset of ``-d`` has a segmentation of a run; it may still be one that cannot be read."""
    with suppress(SicnnAppError):
        return bool(Segmentations(settings.inputs.derivatives).of(item.entities)[0])
    return False


def require_free_runs(settings: Settings, runs: Sequence[DwiRun]) -> None:
    """Make sure, before anything is computed, that whatever runs and their reports replace is the app's own.

    Raises OutputError when somebody else's file has the name of an output, or a folder on the way is a link.
    """
    foreign = []
    for item in runs:
        pictures = kept_pictures_of(item.name, settings.output_dir, item.subject).values()
        record = WrittenRecord(settings.output_dir, run_unit(item.name))
        foreign += record.foreign([*planned_outputs(item, settings), *pictures])
    require_free([*foreign, *_foreign_reports(settings.output_dir, grouped(runs, "subject", "session"))])


def require_free_reports(output_dir: Path, sessions: Iterable[tuple[str, str | None]]) -> None:
    """The same for reports that are written anew; raises OutputError."""
    require_free(_foreign_reports(output_dir, dict.fromkeys(sessions, ())))


def warn_if_refused(check: Callable[[], None], console: Console) -> None:
    """Say in a dry run what would end the call."""
    try:
        check()
    except SicnnAppError as error:
        console.warning(f"the call would be refused: {error}")


def _foreign_reports(
    output_dir: Path, sessions: Mapping[tuple[str, str | None], Sequence[DwiRun]]
) -> list[Path]:
    """Files in the way of reports; which pictures a report of new runs will have is not known yet."""
    foreign = []
    for (subject, session), runs in sessions.items():
        names = {item.name for item in runs}
        pictures = [
            path
            for path in figures_folder(output_dir, subject).glob("*_desc-*_dwi.*")
            # Others are recorded with their run.
            if (run := path.name.partition("_desc-")[0]) in names
            and path not in kept_pictures_of(run, output_dir, subject).values()
        ]
        record = WrittenRecord(output_dir, report_unit(subject, session))
        foreign += record.foreign([report_path(output_dir, subject, session), *sorted(pictures)])
    return foreign
