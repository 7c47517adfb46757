"""One job of BABS: its call, in a clone whose inputs are links into an annex, and the zip file it keeps."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from app_processes import NO_FIGURES, RUNNER
from app_runs import ROOT, App, Call, dataset, environment
from validator import validator_errors

from sicnn_app import __version__

VERSION = __version__.replace(".", "-")
"""As BABS wants it."""

CONFIGURATION = ROOT / "hpc" / "babs_sicnn-app.yaml"

SINGULARITY = """#!/usr/bin/env bash
# singularity run -B DIR ... IMAGE BIDS_DIR OUTPUT_DIR ...: the app itself stands in for the image.
while [ ! -e "$1" ] || [ -d "$1" ]; do shift; done
shift
env -i PATH="$PATH" PYTHONPATH={root} {python} {runner} "$@"
"""

JOB = """
set -e -u
subid="$1"
{session}
mkdir -p "$PWD/.git/tmp/wkdir" outputs/{name}
singularity run -B "$PWD" {singularity_args} containers/.datalad/environments/{name}/image \\
  "$PWD/inputs/data/BIDS" "$PWD/outputs/{name}" participant {filters} {app_args} \\
  --participant-label "$subid"
cd outputs
{python} -m zipfile -c "../{zip}.zip" {name}
cd ..
rm -rf outputs .git/tmp/wkdir
"""
"""What `babs init` (0.5.4) writes, but for the program that zips."""

FILTERS = {
    "fmap": {"datatype": "fmap"},
    "sbref": {"datatype": "func", "session": "b", "suffix": "sbref"},
    "flair": {"datatype": "anat", "session": "b", "suffix": "FLAIR"},
    "t1w": {"datatype": "anat", "session": "b", "suffix": "T1w"},
    "roi": {"datatype": "anat", "session": "b", "suffix": "roi"},
}
"""The file that BABS makes for one session; with names of images that are no concern of the app."""


@pytest.fixture
def clone(tmp_path) -> Path:
    """What a job has: one participant of the dataset, its content read-only in an annex."""
    root = tmp_path / "job" / "ds"
    bids = dataset(root / "inputs" / "data" / "BIDS", "sub-01_ses-a", "sub-01_ses-b").root
    for path in [path for path in bids.rglob("sub-*_*") if path.is_file()]:
        annex(path, bids)
    (root / "outputs").mkdir()
    return root


def annex(path: Path, bids: Path) -> Path:
    """Move a file into the annex of its dataset, as git-annex does; returns the place of its content."""
    key = "MD5E-" + hashlib.md5(path.read_bytes()).hexdigest() + "".join(path.suffixes)
    place = bids / ".git" / "annex" / "objects" / key[5:7] / key[7:9] / key / key
    if place.exists():
        # Files of the same content have one key.
        path.unlink()
    else:
        place.parent.mkdir(parents=True)
        path.rename(place)
        place.chmod(stat.S_IRUSR)
        place.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    path.symlink_to(os.path.relpath(place, path.parent))
    return place


def run_job(
    clone: Path, *, session: str | None = None, filters: dict | None = None, session_flag: bool = True
) -> Call:
    """Run the job of BABS in a clone, with the flags of the example configuration and a quick method."""
    yaml = pytest.importorskip("yaml")
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    given = configuration["bids_app_args"]
    assert given.pop("$SUBJECT_SELECTION_FLAG") == "--participant-label"
    assert given["-w"] == "$BABS_TMPDIR"
    given |= {"-w": '"$PWD/.git/tmp/wkdir"', "--omp-nthreads": "1", "--method": "lsq"}
    (name,) = configuration["zip_foldernames"]
    image = clone / "containers" / ".datalad" / "environments" / name / "image"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.touch()
    runner = clone.parent / "runner.py"
    runner.write_text(RUNNER.format(prelude=NO_FIGURES))
    program = clone.parent / "bin" / "singularity"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SINGULARITY.format(root=ROOT, python=sys.executable, runner=runner))
    program.chmod(0o755)
    if filters is not None:
        (clone / "ses-b_filter.json").write_text(json.dumps(filters))
    version = configuration["zip_foldernames"][name]
    text = JOB.format(
        name=name,
        python=sys.executable,
        session='sesid="$2"' if session else "",
        singularity_args=" ".join(configuration["singularity_args"]),
        filters='--bids-filter-file "$PWD/${sesid}_filter.json"' if filters is not None else "",
        app_args=" ".join(f"{flag} {value}" for flag, value in given.items())
        + (' --session-id "$sesid"' if session and session_flag else ""),
        zip="${subid}" + ("_${sesid}" if session else "") + f"_{name}-{version}",
    )
    done = subprocess.run(
        ["bash", "-c", text, "job", "sub-01", *([session] if session else [])],
        cwd=clone,
        capture_output=True,
        text=True,
        env=environment(PATH=f"{program.parent}:{os.environ['PATH']}"),
    )
    return Call(done.returncode, done.stdout, done.stderr)


def files_of(clone: Path) -> set[Path]:
    """All files and links."""
    return {path for path in clone.rglob("*") if path.is_symlink() or path.is_file()}


def unzipped(clone: Path, name: str, target: Path) -> Path:
    """The folder in a zip file of a job."""
    with zipfile.ZipFile(clone / name) as archive:
        archive.extractall(target)
    (folder,) = target.iterdir()
    return folder


def test_a_job_of_a_session_leaves_its_zip_file_and_nothing_else(clone, tmp_path):
    # Of another session the content is not even there.
    for path in clone.rglob("sub-01_ses-a_dwi.nii.gz"):
        path.unlink()
        path.symlink_to("../../../.git/annex/objects/nowhere")
    before = files_of(clone)
    done = run_job(clone, session="ses-b", filters=FILTERS)
    assert done.code == 0, done.text
    name = f"sub-01_ses-b_sicnn-app-{VERSION}.zip"
    assert {path.name for path in files_of(clone) - before} == {name, "image", "ses-b_filter.json"}
    out = unzipped(clone, name, tmp_path / "unzipped")
    assert out.name == "sicnn-app"
    assert [path.name for path in out.glob("*.html")] == ["sub-01_ses-b.html"]
    assert len(list(out.rglob("*_param-d_dwimap.nii.gz"))) == 1
    assert validator_errors(out) == set()


@pytest.mark.slow
def test_a_job_of_a_participant_has_all_sessions(clone, tmp_path):
    done = run_job(clone)
    assert done.code == 0, done.text
    out = unzipped(clone, f"sub-01_sicnn-app-{VERSION}.zip", tmp_path / "unzipped")
    assert {path.name for path in out.glob("*.html")} == {"sub-01_ses-a.html", "sub-01_ses-b.html"}


@pytest.mark.slow
def test_a_filter_file_alone_chooses_the_session(clone):
    (clone / "inputs" / "data" / "BIDS" / "sub-01" / "ses-a" / "dwi" / "sub-01_ses-a_dwi.bval").unlink()
    dwi = {"dwi": {"datatype": "dwi", "session": "b", "suffix": "dwi"}}
    done = run_job(clone, session="ses-b", filters={**FILTERS, **dwi}, session_flag=False)
    assert done.code == 0, done.text


@pytest.mark.slow
def test_zip_files_of_all_sessions_unzipped_into_one_folder_are_one_output(clone, tmp_path, capsys):
    for session in ("ses-a", "ses-b"):
        done = run_job(clone, session=session)
        assert done.code == 0, done.text
        out = unzipped(clone, f"sub-01_{session}_sicnn-app-{VERSION}.zip", tmp_path / "unzipped")
    assert App(capsys).raw(tmp_path / "no dataset", out, "group").code == 0
    assert len((out / "group_ivim.tsv").read_text().splitlines()) == 3
    assert validator_errors(out) == set()


@pytest.mark.slow
def test_content_that_was_not_fetched_ends_the_job_before_it_zips(clone):
    for link in clone.rglob("*_dwi.nii.gz"):
        if link.is_symlink():
            content = link.resolve()
            content.parent.chmod(stat.S_IRWXU)
            content.unlink()
    done = run_job(clone)
    assert done.code == 66, done.text
    assert "datalad get" in done.err
    assert not list(clone.glob("*.zip"))


def test_the_configuration_and_the_page_state_the_version_of_the_app():
    text = CONFIGURATION.read_text()
    assert f"for sicnn-app {__version__}," in text
    assert f'sicnn-app: "{VERSION}"' in text
    named = re.findall(r"sicnn-app-(\d+-\d+-\d+)", (ROOT / "docs" / "hpc.md").read_text())
    assert set(named) == {VERSION}
