"""The memory limit of a container or job, read from trees of control groups as Linux shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from app_runs import App, dataset, environment
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.pipeline import participant_level as workflow
from sicnn_app.settings import ResourceSettings
from sicnn_app.system.cgroups import LEAST_LIMIT, PLANNED_SHARE, below_memory_limit, memory_limit

MB = 1_000_000
UNLIMITED_V1 = 0x7FFFFFFFFFFFF000
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

KINDS = {
    1: ("4:memory:{}", "cgroup cgroup rw,memory", "memory.limit_in_bytes"),
    2: ("0::{}", "cgroup2 cgroup2 rw,nsdelegate", "memory.max"),
}


@pytest.fixture
def app(capsys):
    return App(capsys)


def process(
    root: Path, version: int, group: str, mounted: str = "/", *, mount: str = "sys/fs/cgroup"
) -> tuple[Path, Path]:
    """The folder of a process in a made-up ``/proc``, and the folder where its groups are mounted."""
    line, kind, _ = KINDS[version]
    proc, top = root / "proc" / "self", root / mount
    proc.mkdir(parents=True)
    top.mkdir(parents=True)
    others = "9:name=systemd:/elsewhere\n3:cpu,cpuacct:/elsewhere\n"
    (proc / "cgroup").write_text(f"{others}{line.format(group)}\n")
    where = str(top).replace(" ", "\\040")
    (proc / "mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
        f"33 31 0:30 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"35 31 0:32 {mounted} {where} rw,nosuid shared:9 - {kind}\n"
    )
    return proc, top


def limit(folder: Path, version: int, value: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KINDS[version][2]).write_text(f"{value}\n")


both = pytest.mark.parametrize("version", [1, 2])


@both
def test_a_container_that_sees_its_group_as_the_top(tmp_path, version):
    # Docker without a namespace of its own shows the path on the host and mounts that very group.
    proc, top = process(tmp_path, version, "/docker/9f", mounted="/docker/9f")
    limit(top, version, 700 * MB)
    assert memory_limit(proc) == 700 * MB


@both
def test_a_container_with_a_namespace_of_its_own(tmp_path, version):
    proc, top = process(tmp_path, version, "/")
    limit(top, version, 700 * MB)
    assert memory_limit(proc) == 700 * MB


@both
def test_a_job_of_a_scheduler_is_held_by_the_groups_above_it_too(tmp_path, version):
    proc, top = process(tmp_path, version, "/slurm/job_7/step_0", mount="sys fs/cgroup")
    limit(top, version, "max" if version == 2 else UNLIMITED_V1)
    limit(top / "slurm/job_7", version, 600 * MB)
    limit(top / "slurm/job_7/step_0", version, 800 * MB)
    limit(top / "slurm/job_8", version, 1 * MB)
    assert memory_limit(proc) == 600 * MB


@both
def test_a_group_that_is_not_part_of_the_mount(tmp_path, version):
    proc, top = process(tmp_path, version, "/../../job", mounted="/")
    limit(top, version, 500 * MB)
    assert memory_limit(proc) == 500 * MB


@both
@pytest.mark.parametrize("value", [None, "max", UNLIMITED_V1, MACHINE, "no number"])
def test_no_limit_below_the_memory_of_the_machine(tmp_path, version, value):
    proc, top = process(tmp_path, version, "/job")
    if value is not None:
        limit(top / "job", version, value)
    assert memory_limit(proc) is None


@pytest.mark.parametrize("content", [None, "", "garbage", "0::"])
def test_a_system_that_does_not_tell(tmp_path, content):
    if content is not None:
        (tmp_path / "cgroup").write_text(content)
        (tmp_path / "mountinfo").write_text(content)
    assert memory_limit(tmp_path) is None


@given(
    mem=st.none() | st.floats(0.001, 1e4),
    limit=st.none() | st.integers(LEAST_LIMIT, 10**13),
)
def test_the_lower_of_the_flag_and_the_system_holds(mem, limit):
    asked = ResourceSettings(mem=mem)
    held = below_memory_limit(asked, limit)
    allowed = [value for value in (mem, limit and PLANNED_SHARE * limit / 1e9) if value is not None]
    assert held.mem == min(allowed, default=None)
    assert (held == asked) == (held.mem == mem)
    assert below_memory_limit(held, limit) == held


def test_a_run_that_the_limit_has_no_room_for_says_whose_limit_it_is(tmp_path, app, monkeypatch):
    monkeypatch.setattr(workflow, "memory_limit", lambda: 520 * MB)
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out")
    assert call.code == 75
    assert "the memory limit of this container or job (0.52 GB) allows 0.442: allow more" in call.text
    assert "--mem" not in call.err


def test_a_limit_without_room_for_the_program_is_said_before_anything_heavy_is_loaded(tmp_path):
    program = (
        "import sys\n"
        "from sicnn_app.pipeline import participant_level as workflow\n"
        "from sicnn_app.cli.main import main\n"
        "workflow.memory_limit = lambda: 100_000_000\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit('torch is loaded' if 'torch' in sys.modules else code)\n"
    )
    made = dataset(tmp_path / "bids")
    call = [sys.executable, "-c", program, str(made.root), str(tmp_path / "out"), "participant"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 75, done.stderr
    assert "(0.1 GB) has no room for the program itself" in done.stderr


def test_a_limit_with_room_for_the_run_is_named_and_changes_no_map(tmp_path, app, monkeypatch):
    made = dataset(tmp_path / "bids")
    assert app.quick(made, tmp_path / "free").code == 0
    monkeypatch.setattr(workflow, "memory_limit", lambda: 4000 * MB)
    call = app.quick(made, tmp_path / "limited")
    assert call.code == 0
    assert "memory: 3.4 GB, for the memory limit of this container or job (4 GB)" in call.out
    name = "sub-01/dwi/sub-01_model-ivim_param-d_dwimap.nii.gz"
    assert (tmp_path / "limited" / name).read_bytes() == (tmp_path / "free" / name).read_bytes()
