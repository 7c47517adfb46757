"""Environments of the published fits, made from pinned lists, kept and used again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.peers.fits import PEERS, Environment, PeerError, versions_in

ENVIRONMENTS = Path("out/environments")
"""Where they lie unless asked for elsewhere."""

REQUIREMENTS = Path(__file__).with_name("requirements")


def environment_of(peer: str, folder: Path) -> Environment:
    """The environment of a fit, made in ``folder`` unless it is there; the app's methods run in this one.

    Raises
    ------
    PeerError
        When it cannot be made, or lacks what the fit needs.
    """
    fit = PEERS[peer]
    requirements = ""
    if fit.environment is None:
        python, size = Path(sys.executable), _size_of_distributions(fit.needs)
    else:
        listed, place = REQUIREMENTS / f"{fit.environment}.txt", folder / fit.environment
        python, size = _made(listed, place), _size_of_files(place)
        requirements = listed.read_text(encoding="utf-8")
    versions = versions_in(python, peer)
    missing = [name for name in fit.needs if versions[name] is None]
    if missing:
        raise PeerError(f"{' and '.join(missing)} not installed in {python}")
    return Environment(python, versions, size, requirements)


def environments_of(peers: Iterable[str], folder: Path) -> tuple[dict[str, Environment], list[str]]:
    """Environments of all fits that can be run, and a line for every one that cannot."""
    usable, lines = {}, []
    for peer in peers:
        try:
            usable[peer] = environment_of(peer, folder)
        except PeerError as error:
            lines.append(f"{peer}: left out, {error}")
    return usable, lines


def _made(requirements: Path, place: Path) -> Path:
    """Interpreter of an environment with these requirements.

    A copy of the list is written when all of it is installed: an environment without it, or with another
    one, is made anew.
    """
    python, stamp = place / "bin" / "python", place / "requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    print(f"making {place}", file=sys.stderr, flush=True)
    if uv := shutil.which("uv"):
        _run(uv, "venv", "--quiet", "--python", sys.executable, place)
        _run(uv, "pip", "install", "--quiet", "--python", python, "--requirement", requirements)
    else:
        _run(sys.executable, "-m", "venv", place)
        _run(python, "-m", "pip", "install", "--quiet", "--requirement", requirements)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        # Where packages are looked for says nothing to whoever reads the table elsewhere.
        raise PeerError(f"not installed: {re.sub(r'[^ ]+://[^ ]+', '...', errors[-1].strip())}")


def _size_of_files(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def _size_of_distributions(names: Iterable[str]) -> float:
    """GB of distributions of this environment, and of all they need, but none of what else is in it."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop().lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted.append(needed.name)
    paths = [Path(file.locate()) for one in found.values() for file in one.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e9
