"""The image under test: how it is run, and what its runs must leave behind."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "bids_examples"
EXPECTED = Path(__file__).with_name("expected")

USER = 1234
"""A number that no account of the image has."""

LOCKED = (
    "--rm",
    "--read-only",
    "--network=none",
    f"--user={USER}:{USER}",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--shm-size=64m",
)
"""The conditions of every run. HOME is then ``/``, which cannot be written."""


class Image:
    """The image under test and the example datasets, with `docker run` made short.

    Parameters
    ----------
    name : str
        The image; it exists.
    target : str
        Stage of the Dockerfile that it was built from.
    scratch : Path
        Folder for outputs, which any user may enter.
    writes_expected : bool
        Whether lists of expected outputs are made from what runs write, instead of being compared with it.
    """

    def __init__(self, name: str, target: str, scratch: Path, *, writes_expected: bool = False) -> None:
        self.name = name
        self.target = target
        self.scratch = scratch
        self.writes_expected = writes_expected
        self._made: dict[tuple[str, ...], Path] = {}

    @cached_property
    def description(self) -> dict:
        """What `docker image inspect` says."""
        inspected = subprocess.run(
            ["docker", "image", "inspect", self.name], capture_output=True, text=True, check=False
        )
        require(inspected.returncode == 0, inspected.stderr.strip())
        return json.loads(inspected.stdout)[0]

    @property
    def size(self) -> str:
        """Size of the image without compression."""
        return f"{self.description['Size'] / 1e9:.2f} GB"

    @property
    def program(self) -> str:
        """Path of the app inside the image."""
        return self.description["Config"]["Entrypoint"][0]

    def output_folder(self, name: str) -> Path:
        """Return a new empty folder that any user may write."""
        folder = self.scratch / name
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    def command(
        self,
        *arguments: str,
        bids: Path | None = None,
        out: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> list[str]:
        """A `docker run` under the strictest conditions; ``bids`` is mounted read-only."""
        mounts = [f"--volume={bids}:/bids:ro"] if bids else []
        mounts += [f"--volume={out}:/out"] if out else []
        return ["docker", "run", *LOCKED, *mounts, *options, self.name, *arguments]

    def run(self, *arguments: str, **conditions) -> subprocess.CompletedProcess[str]:
        """Run :meth:`command` to its end."""
        return subprocess.run(
            self.command(*arguments, **conditions),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def example(self, dataset: str, *options: str) -> Path:
        """Outputs of an example dataset, complete and checked; made once and shared by the checks."""
        call = (dataset, *options)
        if call not in self._made:
            method = options[options.index("--method") + 1] if "--method" in options else "si-cnn"
            out = self.output_folder(f"example-{len(self._made)}")
            process = self.run("/bids", "/out", "participant", *options, bids=EXAMPLES / dataset, out=out)
            require_exit(process, 0)
            self.require_outputs(out, f"{dataset}_{method}")
            self._made[call] = out
        return self._made[call]

    def require_outputs(self, out: Path, name: str) -> None:
        """:func:`require_outputs`, or the list made anew."""
        if self.writes_expected:
            expected_path(name).write_text("".join(f"{line}\n" for line in written(out)), encoding="utf-8")
        require_outputs(out, name)


def expected_path(name: str) -> Path:
    """The list of the files that a call must write."""
    return EXPECTED / f"{name}.txt"


def written(out: Path) -> list[str]:
    """Files below a folder."""
    return sorted({stable_name(path.relative_to(out)) for path in out.rglob("*") if path.is_file()})


def require_outputs(out: Path, name: str, *, owner: int = USER) -> None:
    """Raise unless the files are those of a list, have content and are the user's."""
    expected = expected_path(name)
    require(expected.is_file(), f"{expected.relative_to(ROOT)} is missing: make it with --write-expected")
    require_same("files written", written(out), expected.read_text(encoding="utf-8").splitlines())
    everything = sorted(out.rglob("*"))
    empty = [path.name for path in everything if path.is_file() and not path.stat().st_size]
    require(not empty, f"empty: {', '.join(empty)}")
    hidden = [path.name for path in everything if path.is_dir() and path.name.startswith(".")]
    left = [name for name in hidden if name != ".sicnn-app"]
    require(not left, f"left over: {', '.join(left)}")
    foreign = [str(path) for path in everything if {path.stat().st_uid, path.stat().st_gid} != {owner}]
    require(not foreign, f"not owned by {owner}:{owner}: {', '.join(foreign)}")


def stable_name(path: Path) -> str:
    """A relative path; the time in the name of a log is left out."""
    return re.sub(r"_\d{8}T\d+\.log$", "_TIME.log", path.as_posix())


def maps(out: Path) -> dict[str, str]:
    """Checksum of every map below a folder, by its relative path."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*_dwimap.nii.gz"))
    }


def require_same_maps(out: Path, reference: Path) -> None:
    """Raise unless both outputs hold the same maps, bit for bit."""
    found, wanted = maps(out), maps(reference)
    require(bool(wanted), f"{reference} holds no map")
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    require(not different, f"other maps than without this condition: {', '.join(different)}")


def require(condition: bool, message: str) -> None:
    """Raise AssertionError, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def require_same(what: str, found: list[str], wanted: list[str]) -> None:
    """Raise unless two lists have the same members; says which are missing and which too many."""
    missing, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    require(not missing and not more, f"{what}: missing {missing}, not expected {more}")


def require_exit(process: subprocess.CompletedProcess[str], *codes: int) -> None:
    """Raise unless the process ended with one of the codes, and without a traceback."""
    tail = "\n".join((process.stdout + process.stderr).splitlines()[-15:])
    wanted = " or ".join(map(str, codes))
    require(process.returncode in codes, f"exit code {process.returncode} instead of {wanted}:\n{tail}")
    require("Traceback" not in process.stderr, f"a traceback reached the user:\n{tail}")


def require_text(process: subprocess.CompletedProcess[str], text: str) -> None:
    """Raise unless the process said something."""
    said = process.stdout + process.stderr
    require(text in said, f"{text!r} was not said:\n" + "\n".join(said.splitlines()[-15:]))


def timed(image: Image, *arguments: str, **conditions) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the image; how it ended and the seconds it took, the start of the container included."""
    started = time.monotonic()
    process = image.run(*arguments, **conditions)
    return process, time.monotonic() - started


def package_version() -> str:
    """Return the version the source tree states."""
    source = (ROOT / "sicnn_app" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)
