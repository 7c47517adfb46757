"""What a result was made with: package versions, processor, container."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from sicnn_app import __version__

APP_NAME = "sicnn-app"

CONTAINER_TAG_VARIABLE = "SICNN_APP_CONTAINER_TAG"
"""Environment variable that our images set to their own tag."""

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "dipy", "scikit-learn", "pybids")


def software_versions() -> dict[str, str]:
    """Versions of the app, Python and every package that can change a number.

    Packages are not imported; one that is not installed is left out.

    Returns
    -------
    dict of str to str
    """
    return {APP_NAME: __version__, "python": platform.python_version(), **dict(_package_versions())}


@cache
def _package_versions() -> tuple[tuple[str, str], ...]:
    # Every sidecar asks, and each look-up reads a file.
    found = []
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append((package, metadata.version(package)))
    return tuple(found)


def code_url() -> str | None:
    """Address of the source code as the installed package states it; None when it states none."""
    try:
        entries = metadata.metadata(APP_NAME).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    urls = {}
    for entry in entries:
        label, _, url = entry.partition(",")
        urls[label.strip().lower()] = url.strip()
    return next((urls[label] for label in ("source", "repository", "homepage") if label in urls), None)


def container(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> dict[str, str] | None:
    """Describe the container this process runs in, as BIDS ``GeneratedBy.Container``.

    Parameters
    ----------
    environ : mapping, optional
        Environment; ``os.environ`` by default.
    root : Path
        Root of the file system, where container engines leave their marks.

    Returns
    -------
    dict of str to str, or None
        ``Type`` (``apptainer``, ``podman`` or ``docker``) and, where known, ``Tag``; None outside
        a container.
    """
    environ = os.environ if environ is None else environ
    tag = environ.get(CONTAINER_TAG_VARIABLE)
    if any(environ.get(name) for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")):
        kind = "apptainer"
    elif (root / "run" / ".containerenv").exists():
        kind = "podman"
    elif tag or (root / ".dockerenv").exists():
        kind = "docker"
    else:
        return None
    return {"Type": kind, "Tag": tag} if tag else {"Type": kind}


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor, or its architecture where the system does not tell."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """``device`` with the processor's model when it is the bare word ``cpu``.

    Bit-identical maps are promised for one CPU model only, so a result has to name it.
    """
    return f"cpu {cpu_name()}" if device == "cpu" else device
