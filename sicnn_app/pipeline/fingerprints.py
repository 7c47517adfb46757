"""Which outputs belong to which settings and source files, so that nothing is mixed or done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from sicnn_app import __version__
from sicnn_app.derivatives.marker import marker_path, recorded_fingerprint
from sicnn_app.derivatives.names import report_path
from sicnn_app.errors import TryAgainError, UsageError
from sicnn_app.files import hash_file
from sicnn_app.ivim.run import DwiRun
from sicnn_app.pipeline.planned import require_free_runs
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings


def fingerprint_all(settings: Settings, runs: Sequence[DwiRun]) -> dict[str, str]:
    """Fingerprint of every run: settings that change a map, source files, minor version of the app."""
    # Files above the participants belong to many runs.
    digest_of = cache(hash_file)
    return {item.name: _fingerprint(settings, item, digest_of) for item in runs}


def require_unchanged(settings: Settings, item: DwiRun, fingerprint: str, read: Mapping[Path, str]) -> None:
    """Make sure that what was read of a run is what its fingerprint was made of.

    Parameters
    ----------
    settings : Settings
    item : DwiRun
    fingerprint : str
        Of the run, by :func:`fingerprint_all`.
    read : mapping of Path to str
        Hashes of what was read, by :func:`sicnn_app.bids.unpacked.digests_of_reads`.

    Raises
    ------
    TryAgainError
        A file was replaced or changed meanwhile.
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
        "version": __version__.rsplit(".", 1)[0],
        "bvals_file": digest_of(settings.inputs.bvals),
        "files": [digest_of(path) for part in item.parts for path in (part.image, part.bval, part.bvec)],
        "mask": digest_of(item.mask),
        "anatomy": anatomy,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finished_runs(settings: Settings, runs: Sequence[DwiRun], fingerprints: dict[str, str]) -> list[DwiRun]:
    """Runs that need no work; refuses, before any run starts, to mix outputs of different settings."""
    finished, other = [], []
    for item in runs:
        found, complete = recorded_fingerprint(settings.output_dir, item)
        if found is None or settings.overwrite:
            continue
        if found != fingerprints[item.name]:
            other.append(item)
        elif complete:
            finished.append(item)
    if other:
        require_free_runs(settings, other)
        names = ", ".join(item.name for item in other[:3]) + (" ..." if len(other) > 3 else "")
        raise UsageError(
            f"{settings.output_dir} holds outputs of other settings or other source files for {names}: "
            "choose another output folder, or --overwrite them"
        )
    return finished


def is_reported(item: DwiRun, output_dir: Path) -> bool:
    """Whether the report of a finished run was put in its place after the run was."""
    try:
        report = report_path(output_dir, item.subject, item.session).stat()
        return report.st_ctime_ns >= marker_path(output_dir, item).stat().st_ctime_ns
    except OSError:
        return False
