"""Names of the reports; light enough to import before caches have their places."""

from __future__ import annotations

from pathlib import Path


def session_name(subject: str, session: str | None) -> str:
    """``sub-X`` or ``sub-X_ses-Y``, from labels without prefix."""
    return f"sub-{subject}" if session is None else f"sub-{subject}_ses-{session}"


def report_path(output_dir: Path, subject: str, session: str | None) -> Path:
    """Where the report of a subject or session lies."""
    return output_dir / f"{session_name(subject, session)}.html"


def report_unit(subject: str, session: str | None) -> str:
    """What is locked, and recorded, while a report is written."""
    return f"report-{session_name(subject, session)}"
