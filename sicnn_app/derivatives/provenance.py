"""Package versions, processor and container that a result was made with."""

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
    pairs = (entry.partition(",") for entry in entries)
    urls = {label.strip().lower(): url.strip() for label, _, url in pairs}
    return next((urls[label] for label in ("source", "repository", "homepage") if label in urls), None)


def container(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> dict[str, str] | None:
    """Describe the container this process runs in, as BIDS ``GeneratedBy.Container``.

    ``Type`` (``apptainer``, ``podman`` or ``docker``) and, where known, ``Tag``; None outside a container. In
    ``root`` container engines leave their marks.
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
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """``device`` with the processor's model when it is the bare word ``cpu``.

    Bit-identical maps are promised for one CPU model only, so a result has to name it.
    """
    return f"cpu {cpu_name()}" if device == "cpu" else device
