"""Names of the reports and of the files of the group level; light enough to import before all else."""

from __future__ import annotations

from pathlib import Path

GROUP_UNIT = "group"
"""What is locked, and recorded, while the group is written."""

TABLE = "group_ivim"
REPEATABILITY = "group_repeatability"
PAGE = "group.html"


def session_name(subject: str, session: str | None) -> str:
    """``sub-X`` or ``sub-X_ses-Y``, from labels without prefix."""
    return f"sub-{subject}" if session is None else f"sub-{subject}_ses-{session}"


def report_path(output_dir: Path, subject: str, session: str | None) -> Path:
    """Where the report of a subject or session lies."""
    return output_dir / f"{session_name(subject, session)}.html"


def report_unit(subject: str, session: str | None) -> str:
    """What is locked, and recorded, while a report is written."""
    return f"report-{session_name(subject, session)}"


def group_outputs(output_dir: Path) -> list[Path]:
    """Files that :func:`sicnn_app.group.write.write_group` writes, in order."""
    tables = [f"{stem}.{ending}" for stem in (TABLE, REPEATABILITY) for ending in ("tsv", "json")]
    return [output_dir / name for name in (*tables, PAGE)]
