"""The memory that a container or a job of a scheduler may use, which the kernel enforces by killing.

``psutil`` and the standard library tell the memory of the machine only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sicnn_app.errors import TryAgainError
from sicnn_app.settings import ResourceSettings
from sicnn_app.system.memory import GB

PLANNED_SHARE = 0.85
"""Share of a limit that is planned with: needs are estimates, which measured peaks pass by up to 15 %, and
beyond the limit there is no message but the end of the process."""

LEAST_LIMIT = 500_000_000
"""Bytes below which the kernel may end the process before it could say that nothing has room. Measured with
``docker run --memory``: PyTorch for the CPU is loaded in 315 MB and not in 210 MB, PyTorch for CUDA in 524 MB
and not in 419 MB. No run fits into less with either."""

VERSION_1 = "memory.limit_in_bytes"
VERSION_2 = "memory.max"


def below_memory_limit(resources: ResourceSettings, limit: int | None) -> ResourceSettings:
    """Resources that stay below a limit of the system, whatever ``--mem`` allows.

    ``mem`` is lowered to :data:`PLANNED_SHARE` of the limit, in bytes of :func:`memory_limit`, and
    ``mem_from`` says so, where that is lower. Raises TryAgainError when the limit has no room for the program
    itself, see :data:`LEAST_LIMIT`.
    """
    if limit is None:
        return resources
    if limit < LEAST_LIMIT:
        raise TryAgainError(
            f"the memory limit of this container or job ({limit / GB:.2g} GB) has no room for the program "
            "itself: allow 1 GB or more"
        )
    planned = PLANNED_SHARE * limit / GB
    if resources.mem is not None and resources.mem <= planned:
        return resources
    reason = f"the memory limit of this container or job ({limit / GB:.3g} GB)"
    return replace(resources, mem=planned, mem_from=reason)


def memory_limit(process: Path = Path("/proc/self")) -> int | None:
    """Memory that the control groups of a process allow it and everything else in them, bytes.

    ``cgroup`` and ``mountinfo`` of the process are read, see cgroups(7) and proc(5). It is the lowest limit
    of the group and of all groups above it that can be seen; None without a limit below the memory of the
    machine, and where the system does not tell.
    """
    limits = []
    for path in _limit_files(process):
        # The file may be missing, or say "max".
        with suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((limit for limit in limits if limit < machine), default=None)


def _limit_files(process: Path) -> Iterator[Path]:
    """Files that may hold a limit, of either version of control groups; both may be mounted at once."""
    with suppress(OSError, ValueError):
        groups = {}
        for line in (process / "cgroup").read_text(errors="surrogateescape").splitlines():
            # As in "4:memory:/docker/9f".
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                groups[VERSION_1] = path
            elif number == "0" and not controllers:
                groups[VERSION_2] = path
        for line in (process / "mountinfo").read_text(errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            # Spaces, tabs, line breaks and backslashes stand in octal there.
            root, mount = (
                re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), part)
                for part in before.split(" ")[3:5]
            )
            kind, *_, options = after.split(" ")
            version_1 = kind == "cgroup" and "memory" in options.split(",")
            name = VERSION_1 if version_1 else VERSION_2
            if name in groups and (version_1 or kind == "cgroup2"):
                yield from (folder / name for folder in _upwards(groups[name], root, Path(mount)))


def _upwards(group: str, root: str, mount: Path) -> list[Path]:
    """Folders of a group and of those above it; the top alone when the group lies outside of the mount."""
    path, top = PurePosixPath(group), PurePosixPath(root)
    if not path.is_relative_to(top) or ".." in path.parts:
        return [mount]
    inside = path.relative_to(top)
    return [mount / parent for parent in (inside, *inside.parents)]
