#!/usr/bin/env python3
"""Run the flattened image as a plain user, without a daemon, as Apptainer does.

    run_unprivileged_checks.py --image NAME [--report FILE]

Apptainer itself is not in Debian. What it does to an image is done here with programs that are: all layers
flattened into one tree (``docker export``) that is read-only, a user of the host without any privilege, the
host's HOME and /tmp inside, the host's environment or none. Charliecloud (``ch-run``) and bubblewrap
(``bwrap``) run it. Needs those two, ``docker`` with the image, about 2 GB of disk, and nothing but the
standard library; started by root it becomes a user without an account for every run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from checks import count_failed, page, run_checks
from conditions import QUICK, STOP_AFTER
from image import EXAMPLES, USER, Image, maps, require, require_exit, require_outputs, require_same_maps

NEEDED = {"ch-run": "charliecloud", "bwrap": "bubblewrap", "docker": "docker.io"}
"""Programs, and the packages of Debian that bring them."""

PAGE = """\
Apptainer is not in Debian, so its conditions are made with programs that are: the image flattened into a
read-only tree, run without a daemon and without privileges by Charliecloud (`ch-run`) and bubblewrap
(`bwrap`), with the host's HOME, which holds a broken NumPy and broken settings of matplotlib."""

OWNER = os.getuid() or USER
"""Who the app runs as."""


class Tree:
    """The flattened image, and a user's HOME on the host.

    Parameters
    ----------
    image : Image
    scratch : Path
        Folder that every user may enter.
    """

    def __init__(self, image: Image, scratch: Path) -> None:
        self.image = image
        self.scratch = scratch
        self.root = scratch / "tree"
        self.home = self.folder("home")
        self._flatten()
        self._fill_home()

    def _flatten(self) -> None:
        self.root.mkdir()
        created = subprocess.run(
            ["docker", "create", self.image.name], capture_output=True, text=True, check=True
        )
        container = created.stdout.strip()
        try:
            export = subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE)
            tar = ["tar", "--extract", "--no-same-owner", f"--directory={self.root}", "--exclude=dev/*"]
            subprocess.run(tar, stdin=export.stdout, check=True)
            require(export.wait() == 0, "docker export failed")
        finally:
            subprocess.run(["docker", "rm", container], capture_output=True, check=False)
        # Places to mount at, which Apptainer lays over the image.
        for name in ("bids", "out", "home", "host-home"):
            (self.root / name).mkdir(exist_ok=True)

    def _fill_home(self) -> None:
        broken = {
            ".local/lib/python3.11/site-packages/numpy/__init__.py": "raise ImportError('a host')\n",
            ".config/matplotlib/matplotlibrc": "figure.dpi: none of your business\n",
        }
        for name, text in broken.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.home.chmod(0o700)
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, OWNER, OWNER)

    def folder(self, name: str) -> Path:
        """A new empty folder of the user."""
        path = self.scratch / name
        path.mkdir()
        os.chown(path, OWNER, OWNER)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets; Apptainer keeps it, `docker export` does not."""
        return dict(entry.split("=", 1) for entry in self.image.description["Config"]["Env"])

    def charliecloud(self, *arguments: str, bids: Path, out: Path, **environment: str) -> list[str]:
        """The app by ``ch-run``, with HOME and /tmp of the host."""
        names = self.environment | environment
        settings = [f"--set-env={name}={value}" for name, value in names.items()]
        binds = [f"--bind={bids}:/bids", f"--bind={out}:/out", f"--bind={self.home}:/host-home"]
        home = "--set-env=HOME=/host-home"
        return ["ch-run", *settings, home, *binds, str(self.root), "--", self.image.program, *arguments]

    def bubblewrap(self, *arguments: str, bids: Path, out: Path, home: str = "/host-home") -> list[str]:
        """The app by ``bwrap``: no network, no environment but that of the image, input read-only."""
        mounts = ["--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev"]
        mounts += ["--ro-bind", str(bids), "/bids", "--bind", str(out), "/out"]
        mounts += ["--bind", str(self.home), "/host-home", "--bind", "/tmp", "/tmp"]
        names = {**self.environment, "HOME": home}
        settings = [word for name, value in names.items() for word in ("--setenv", name, value)]
        return ["bwrap", *mounts, "--unshare-all", "--clearenv", *settings, self.image.program, *arguments]

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command as the user, with the given environment and no other."""
        user = {} if os.getuid() else {"user": OWNER, "group": OWNER, "extra_groups": []}
        names: Mapping[str, str] = {"PATH": os.environ["PATH"], "USER": "researcher", **environment}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=names,
            cwd=self.home,
            **user,
        )

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """:meth:`start` and wait."""
        process = self.start(command, **environment)
        said, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, said, "")


def check_charliecloud(tree: Tree) -> None:
    """ch-run, the default method, HOME and /tmp of the host: the maps of Docker; HOME stays as it was."""
    before = sorted(tree.home.rglob("*"))
    out = tree.folder("charliecloud")
    command = tree.charliecloud("/bids", "/out", "participant", bids=EXAMPLES / "abdomen", out=out)
    require_exit(tree.run(command), 0)
    require_outputs(out, "abdomen_si-cnn", owner=OWNER)
    require_same_maps(out, tree.image.example("abdomen"))
    require(sorted(tree.home.rglob("*")) == before, "something was written into HOME")


def check_charliecloud_host_environment(tree: Tree) -> None:
    """ch-run with the environment of a host: other language, threads and display, and a missing TMPDIR."""
    out = tree.folder("host-environment")
    host = {"LC_ALL": "de_DE.UTF-8", "MPLBACKEND": "TkAgg", "OMP_NUM_THREADS": "64"}
    call = {"bids": EXAMPLES / "abdomen", "out": out, "TMPDIR": "/nowhere"}
    command = tree.charliecloud("/bids", "/out", "participant", *QUICK, **call)
    require_exit(tree.run(command, **host), 0)
    require_outputs(out, "abdomen_lsq", owner=OWNER)
    require_same_maps(out, tree.image.example("abdomen", *QUICK))


def check_bubblewrap(tree: Tree) -> None:
    """bwrap, two sessions of a brain and their group, no environment, no network, input read-only."""
    out = tree.folder("bubblewrap")
    call = {"bids": EXAMPLES / "brain", "out": out}
    require_exit(tree.run(tree.bubblewrap("/bids", "/out", "participant", *QUICK, **call)), 0)
    require_outputs(out, "brain_lsq", owner=OWNER)
    require_same_maps(out, tree.image.example("brain", *QUICK))
    require_exit(tree.run(tree.bubblewrap("/bids", "/out", "group", **call)), 0)
    require_outputs(out, "brain_lsq_group", owner=OWNER)


def check_bubblewrap_without_home(tree: Tree) -> None:
    """bwrap with a HOME that does not exist in the image."""
    out = tree.folder("without-home")
    call = {"bids": EXAMPLES / "abdomen", "out": out, "home": "/nonexistent"}
    require_exit(tree.run(tree.bubblewrap("/bids", "/out", "participant", *QUICK, **call)), 0)
    require_outputs(out, "abdomen_lsq", owner=OWNER)


def check_stop_and_go_on(tree: Tree) -> None:
    """SIGTERM to ch-run, as a scheduler sends it, ends with 75; the same command goes on to the same maps."""
    out = tree.folder("stopped")
    call = {"bids": EXAMPLES / "abdomen", "out": out}
    process = tree.start(tree.charliecloud("/bids", "/out", "participant", "-v", **call))
    require(any(STOP_AFTER in line for line in process.stdout), "the run ended before its training began")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    require(process.returncode == 75, f"exit code {process.returncode} instead of 75:\n{said}")
    require(not maps(out), "a run that was stopped left maps under their final names")
    require_exit(tree.run(tree.charliecloud("/bids", "/out", "participant", **call)), 0)
    require_same_maps(out, tree.image.example("abdomen"))


CHECKS = (
    check_charliecloud,
    check_charliecloud_host_environment,
    check_bubblewrap,
    check_bubblewrap_without_home,
    check_stop_and_go_on,
)


def main() -> int:
    """Flatten the image, run the checks, print one line each; 0 when all passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", default="sicnn-app:check", help="image to flatten (sicnn-app:check)")
    parser.add_argument(
        "--target", choices=("cpu", "cuda"), default="cpu", help="stage it was built from (cpu)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the results as Markdown")
    arguments = parser.parse_args()
    missing = [f"{name} (package {package})" for name, package in NEEDED.items() if not shutil.which(name)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="sicnn-app-tree-", ignore_cleanup_errors=True) as scratch:
        Path(scratch).chmod(0o755)
        folder = Path(scratch)
        tree = Tree(Image(arguments.image, arguments.target, folder), folder)
        results = run_checks(tree, CHECKS)
    if arguments.report:
        command = "python tests/container/run_unprivileged_checks.py"
        facts = f"target `{arguments.target}`"
        text = page("Checks of the image without Docker", PAGE, command, facts, results)
        arguments.report.write_text(text, encoding="utf-8")
    return 1 if count_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
