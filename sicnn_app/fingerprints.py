"""Which outputs belong to which settings and source files, so that nothing is mixed or done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sicnn_app import __version__
from sicnn_app.bids.marker import marker_path, recorded_fingerprint
from sicnn_app.errors import UsageError
from sicnn_app.ivim.run import DwiRun
from sicnn_app.preprocess.anatomy import choose_anatomy
from sicnn_app.settings import Settings


def fingerprint_all(settings: Settings, runs: Sequence[DwiRun]) -> dict[str, str]:
    """Fingerprint of every run: settings that change a map, source files, minor version of the app."""
    common = {
        "settings": settings.changing_maps(),
        "version": __version__.rsplit(".", 1)[0],
        "bvals_file": hash_file(settings.inputs.bvals),
    }
    fingerprints = {}
    for item in runs:
        files = [hash_file(path) for part in item.parts for path in (part.image, part.bval, part.bvec)]
        anatomy, _ = choose_anatomy(settings.preprocessing.anatomy, item.metadata)
        content = {**common, "files": files, "mask": hash_file(item.mask), "anatomy": anatomy}
        fingerprints[item.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return fingerprints


def hash_file(path: Path | None) -> str | None:
    """SHA-256 of a file; None for no file or one that cannot be read, which loading will report."""
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


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
        names = ", ".join(item.name for item in other[:3]) + (" ..." if len(other) > 3 else "")
        raise UsageError(
            f"{settings.output_dir} holds outputs of other settings or other source files for {names}: "
            "choose another output folder, or --overwrite them"
        )
    return finished


def is_reported(item: DwiRun, output_dir: Path) -> bool:
    """Whether the report of a finished run was put in its place after the run was."""
    from sicnn_app.report.html import report_path

    try:
        report = report_path(output_dir, item.subject, item.session).stat()
        return report.st_ctime_ns >= marker_path(output_dir, item).stat().st_ctime_ns
    except OSError:
        return False
