"""The helper that makes the list from a dataset and submits it to a stand-in for sbatch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from app_runs import QUICK, ROOT, App, add_run, dataset, leave_out_figures

SUBMIT = ROOT / "hpc" / "submit"

SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$@" > {folder}/sbatch-$(ls {folder} | grep -c '^sbatch-')
echo "$(( $(ls {folder} | grep -c '^sbatch-') + 100 ));cluster"
"""

SCONTROL = """#!/usr/bin/env bash
echo "MaxArraySize            = {size}"
"""


class Submission:
    """A call of the helper, and what it submitted."""

    def __init__(self, folder: Path, *arguments: str | Path, max_array_size: int = 1001) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        for path in folder.glob("sbatch-*"):
            path.unlink()
        for name, text in (
            ("sbatch", SBATCH.format(folder=folder)),
            ("scontrol", SCONTROL.format(size=max_array_size)),
            ("sicnn-app", ""),
        ):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        done = subprocess.run(
            [sys.executable, SUBMIT, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.jobs = [path.read_text().splitlines() for path in sorted(folder.glob("sbatch-*"))]

    @property
    def lists(self) -> list[list[str]]:
        """Lines of every list that was written."""
        paths = sorted((self.folder / "sicnn-app-slurm").glob("list-*.txt"))
        return [path.read_text().splitlines() for path in paths]


@pytest.fixture
def two_sessions(tmp_path):
    made = dataset(tmp_path / "bids", "sub-02_ses-a", "sub-02_ses-b", "sub-10", "sub-1")
    (made.root / "sub-03" / "anat").mkdir(parents=True)
    return made


def test_every_participant_with_diffusion_is_a_task(two_sessions, tmp_path):
    done = Submission(tmp_path, two_sessions.root, "out")
    assert done.code == 0, done.err
    assert done.lists == [["1", "02", "10"]]
    (job,) = done.jobs
    assert "--array=1-3" in job
    script = job.index(str(ROOT / "hpc" / "slurm_array.sh"))
    assert job[script + 1 :] == [
        "--program", str(tmp_path / "bin" / "sicnn-app"), "--offset", "0",
        str(tmp_path / "sicnn-app-slurm" / "list-001.txt"), str(two_sessions.root), str(tmp_path / "out"),
    ]  # fmt: skip


def test_every_session_can_be_a_task(two_sessions, tmp_path):
    assert Submission(tmp_path, two_sessions.root, "out", "--by", "session").lists == [
        ["1", "02 a", "02 b", "10"]
    ]


def test_finished_participants_are_left_out(two_sessions, tmp_path, capsys, monkeypatch):
    leave_out_figures(monkeypatch)
    out = tmp_path / "out"
    assert App(capsys)(two_sessions, out, *QUICK, "--participant-label", "1", "02").code == 0
    by_session = (two_sessions.root, "out", "--by", "session")
    assert Submission(tmp_path, *by_session).lists[-1] == ["10"]
    assert Submission(tmp_path, *by_session, "--all").lists[-1] == ["1", "02 a", "02 b", "10"]
    assert Submission(tmp_path, *by_session, "--", "--overwrite").lists[-1] == ["1", "02 a", "02 b", "10"]
    next((out / "sub-02" / "ses-b").rglob("*_param-d_dwimap.nii.gz")).unlink()
    assert Submission(tmp_path, *by_session).lists[-1] == ["02 b", "10"]
    (out / "sub-1.html").unlink()
    assert Submission(tmp_path, *by_session).lists[-1] == ["1", "02 b", "10"]
    add_run(two_sessions, "sub-02_ses-a_run-2")
    assert Submission(tmp_path, two_sessions.root, "out").lists[-1] == ["1", "02", "10"]
    only = Submission(tmp_path, two_sessions.root, "out", "--participant-label", "sub-10", "1")
    assert only.lists[-1] == ["1", "10"]


def test_nothing_is_submitted_when_nothing_is_left(tmp_path, capsys, monkeypatch):
    leave_out_figures(monkeypatch)
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert App(capsys)(made, out, *QUICK).code == 0
    done = Submission(tmp_path, made.root, out)
    assert (done.code, done.jobs) == (0, [])
    assert "nothing is left" in done.out


def test_images_that_the_app_ignores_make_no_task(tmp_path):
    made = dataset(tmp_path / "bids", "sub-01")
    for name in ("sub-02_part-phase", "sub-03_desc-denoised"):
        add_run(made, name)
    assert Submission(tmp_path, made.root, "out").lists == [["01"]]


def test_content_that_was_not_fetched_makes_a_task(tmp_path):
    made = dataset(tmp_path / "bids", "sub-01")
    image = next(made.root.rglob("*_dwi.nii.gz"))
    image.unlink()
    image.symlink_to(tmp_path / "annex" / "nowhere")
    assert Submission(tmp_path, made.root, "out").lists == [["01"]]


def test_more_tasks_than_an_array_may_have_become_several(tmp_path):
    made = dataset(tmp_path / "bids", *(f"sub-{number}" for number in range(1, 6)))
    done = Submission(tmp_path, made.root, "out", "--at-once", "2", "--group", max_array_size=3)
    assert done.code == 0, done.err
    arrays = [word for job in done.jobs for word in job if word.startswith("--array")]
    assert arrays == ["--array=1-2%2", "--array=1-2%2", "--array=1-1%2"]
    assert [job[job.index("--offset") + 1] for job in done.jobs[:3]] == ["0", "2", "4"]
    waits = [[word for word in job if word.startswith("--dependency")] for job in done.jobs]
    after = ["101", "102", "101:102:103"]
    assert waits == [[], *([f"--dependency=afterany:{jobs}"] for jobs in after)]
    assert "--group" in done.jobs[3]


def test_what_a_task_may_use_is_passed_on(tmp_path):
    made = dataset(tmp_path / "bids")
    asked = ("--gpus", "1", "--mem", "8G", "--time", "2:00:00", "--cpus-per-task", "4", "--sbatch=--qos=long")
    (job,) = Submission(tmp_path, made.root, "out", *asked, "--", "--ensemble", "5").jobs
    for word in ("--gres=gpu:1", "--mem=8G", "--time=2:00:00", "--cpus-per-task=4", "--qos=long"):
        assert word in job
    assert job[-2:] == ["--ensemble", "5"]


def test_a_container_needs_no_program(tmp_path):
    made = dataset(tmp_path / "bids")
    (tmp_path / "app.sif").touch()
    (job,) = Submission(tmp_path, made.root, "out", "--image", "app.sif", "--bind", "masks").jobs
    start = job.index("--image")
    assert job[start : start + 4] == ["--image", str(tmp_path / "app.sif"), "--bind", str(tmp_path / "masks")]
    assert "--program" not in job


def test_a_dry_run_submits_and_writes_nothing(two_sessions, tmp_path):
    done = Submission(tmp_path, two_sessions.root, "out", "--dry-run", "--group")
    assert done.code == 0, done.err
    assert (done.jobs, done.lists) == ([], [])
    assert done.out.splitlines()[:3] == ["1", "02", "10"]
    assert done.out.count("sbatch --parsable") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "out"), "is no folder"),
        (("bids", "out", "--participant-label", "77"), "has no folder sub-77"),
        (("bids", "out", "--program", "no-such-program"), "is not found"),
        (("bids", "a:b", "--image", "bids/dataset_description.json"), "cannot bind"),
        (("bids", "out", "--image", "app.sif"), "app.sif does not exist"),
    ],
)
def test_what_cannot_be_submitted_is_said(tmp_path, arguments, said):
    dataset(tmp_path / "bids")
    done = Submission(tmp_path, *arguments)
    assert done.code != 0
    assert said in done.err
    assert done.jobs == []


def pipe(marker: Path) -> None:
    os.mkfifo(marker)


def endless(marker: Path) -> None:
    marker.symlink_to("/dev/zero")


def huge(marker: Path) -> None:
    with marker.open("wb") as stream:
        stream.truncate(1 << 40)


def deep(marker: Path) -> None:
    marker.write_text("[" * 1_000_000)


def elsewhere(marker: Path) -> None:
    marker.write_text('{"Outputs": ["/etc/hostname", "../../../bids/dataset_description.json"]}')


def other_types(marker: Path) -> None:
    marker.write_text('{"Outputs": {"sub-01_desc-ivim_qc.json": 1}}')


@pytest.mark.parametrize("plant", [pipe, endless, huge, deep, elsewhere, other_types])
def test_a_marker_that_the_app_did_not_write_does_not_count_and_does_not_stop_the_helper(tmp_path, plant):
    made = dataset(tmp_path / "bids")
    folder = tmp_path / "out" / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    (tmp_path / "out" / "sub-01.html").touch()
    plant(folder / "sub-01_desc-ivim_qc.json")
    done = Submission(tmp_path, made.root, "out")
    assert done.code == 0, done.err
    assert done.lists == [["01"]]
