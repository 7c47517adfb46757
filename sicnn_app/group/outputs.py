"""Names of the files of the group level; light enough to import before caches have their places."""

from __future__ import annotations

from pathlib import Path

GROUP_UNIT = "group"
"""What is locked, and recorded, while the group is written."""

TABLE = "group_ivim"
REPEATABILITY = "group_repeatability"
PAGE = "group.html"


def group_outputs(output_dir: Path) -> list[Path]:
    """Files that :func:`sicnn_app.group.level.write_group` writes, in order."""
    tables = [f"{stem}.{ending}" for stem in (TABLE, REPEATABILITY) for ending in ("tsv", "json")]
    return [output_dir / name for name in (*tables, PAGE)]
