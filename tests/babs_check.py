"""BABS itself with the example configuration: a project from its start to its merged zip files.

    python tests/babs_check.py PROGRAMS > docs/babs-check.md

PROGRAMS is the folder of the programs of an environment that has BABS and DataLad, besides git-annex on the
PATH. The jobs run on the Slurm of tests/local_slurm.py; the app of this checkout stands in for the image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from local_slurm import local_slurm, missing

from sicnn_app import __version__

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "hpc" / "babs_sicnn-app.yaml"
CONTAINER = f"sicnn-app-{__version__.replace('.', '-')}"
LONGEST = 900.0

SINGULARITY = """#!/usr/bin/env bash
# The image is the first argument that is a file.
while [ ! -f "$1" ]; do shift; done
shift
exec env -i PATH="$PATH" PYTHONPATH={root} {python} -m sicnn_app "$@" --method lsq
"""

SEVEN_ZIP = """#!/usr/bin/env bash
exec {python} -m zipfile -c "$2" "$3"
"""

PAGE = """\
# BABS, checked

    python tests/babs_check.py PROGRAMS > docs/babs-check.md

makes this page; PROGRAMS is the folder of the programs of an environment with BABS, here {version}. A project
of the example configuration ([hpc/babs_sicnn-app.yaml](../hpc/babs_sicnn-app.yaml)) is made, submitted to a
Slurm of one node, and merged. The dataset is `bids_examples/brain` (one participant, two sessions) in DataLad
with text files in git. The app of the checkout, by least squares, stands in for the image.

| processing level | zip files after `babs merge` | maps of D in them |
|---|---|---|
{rows}
"""


class Project:
    """A folder in which BABS works, and the commands to it."""

    def __init__(self, folder: Path, programs: Path, slurm: dict[str, str]) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.environment = {
            **slurm,
            "PATH": f"{self.bin}:{programs}:{slurm['PATH']}",
            "HOME": str(folder),
        }
        self.bin.mkdir()
        for name, text in (("singularity", SINGULARITY), ("7z", SEVEN_ZIP)):
            (self.bin / name).write_text(text.format(root=ROOT, python=sys.executable))
            (self.bin / name).chmod(0o755)

    def call(self, *words: str | Path) -> str:
        """What a command says; raises with its words when it fails."""
        done = subprocess.run(
            list(map(str, words)), cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def prepare(self, level: str) -> Path:
        """Datasets of the data and of the container; returns the configuration, adapted where it says so."""
        for key, value in (("name", "nobody"), ("email", "nobody@example.org")):
            self.call("git", "config", "--global", f"user.{key}", value)
        shutil.copytree(
            ROOT / "bids_examples" / "brain",
            self.folder / "BIDS",
            ignore=shutil.ignore_patterns("derivatives"),
        )
        self.call("datalad", "create", "-f", "-c", "text2git", "BIDS")
        self.call("datalad", "save", "-d", "BIDS")
        self.call("datalad", "create", "containers")
        image = self.folder / "image.sif"
        image.write_text("a stand-in")
        self.call("datalad", "containers-add", "--dataset", "containers", "--url", image, CONTAINER)
        (self.folder / "scratch").mkdir()
        text = CONFIGURATION.read_text()
        for old, new in (
            ("/path/to/BIDS", f"{self.folder}/BIDS"),
            # A job of BABS has none of the variables of whoever submits it.
            ("source activate babs", f"export HOME={self.folder} PATH={self.environment['PATH']}"),
            ('job_compute_space: "/tmp"', f'job_compute_space: "{self.folder}/scratch"'),
            *([("# $SESSION_SELECTION_FLAG", "$SESSION_SELECTION_FLAG")] if level == "session" else []),
        ):
            if old not in text:
                raise RuntimeError(f"{CONFIGURATION} does not hold {old}")
            text = text.replace(old, new)
        path = self.folder / "configuration.yaml"
        path.write_text(text)
        return path

    def run(self, level: str) -> dict[str, list[str]]:
        """A whole project; gives the names in every zip file that was merged, by the name of the file."""
        configuration, project = self.prepare(level), self.folder / "project"
        options = {
            "--container_ds": self.folder / "containers",
            "--container_name": CONTAINER,
            "--container_config": configuration,
            "--processing_level": level,
            "--queue": "slurm",
        }
        self.call("babs", "init", project, *(word for pair in options.items() for word in pair))
        self.call("babs", "submit", project)
        deadline = time.monotonic() + LONGEST
        while self.call("squeue", "--noheader").strip():
            if time.monotonic() > deadline:
                raise TimeoutError(self.call("squeue"))
            time.sleep(1)
        try:
            self.call("babs", "merge", project)
        except RuntimeError as error:
            logs = (project / "analysis" / "logs").iterdir()
            raise RuntimeError("\n".join([str(error), *(path.read_text() for path in logs)])) from error
        self.call("datalad", "clone", f"ria+file://{project}/output_ria#~data", "merged")
        found = {}
        for path in sorted((self.folder / "merged").glob("*.zip")):
            self.call("datalad", "get", "-d", "merged", path)
            with zipfile.ZipFile(path) as archive:
                found[path.name] = archive.namelist()
        return found


def check(programs: Path, level: str) -> dict[str, list[str]]:
    """Run a project of one level in a folder of its own; see :meth:`Project.run`."""
    folder = Path(tempfile.mkdtemp(prefix="babs-"))
    try:
        with local_slurm() as slurm:
            return Project(folder, programs, slurm).run(level)
    finally:
        # An annex takes the right to write away.
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)
        shutil.rmtree(folder)


if __name__ == "__main__":
    if reason := missing():
        raise SystemExit(f"no Slurm here: {reason}")
    place = Path(sys.argv[1]).resolve()
    said = subprocess.run([place / "babs", "--version"], capture_output=True, text=True, check=True).stdout
    lines = []
    for processing_level in ("subject", "session"):
        archives = check(place, processing_level)
        maps = sum(name.endswith("_param-d_dwimap.nii.gz") for names in archives.values() for name in names)
        lines.append(f"| {processing_level} | {', '.join(f'`{name}`' for name in archives)} | {maps} |")
    version = re.search(r"\d+(\.\d+)+", said)[0]
    print(PAGE.format(version=version, rows="\n".join(lines)), end="")
