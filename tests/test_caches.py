"""Where libraries may write, and what is left when a process ends or is killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from app_runs import environment

from sicnn_app.caches import (
    CACHE_VARIABLES,
    clean_work_folder,
    ensure_home,
    limit_library_threads,
    owned_folder,
    private_caches,
)
from sicnn_app.errors import OutputError

HOLDER = """
import sys
from pathlib import Path
from sicnn_app.caches import owned_folder
with owned_folder(Path(sys.argv[1]), "test") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder in ``tmp_path/work``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "work")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    process.folder = Path(process.stdout.readline().strip())
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_every_cache_lies_below_the_work_directory_and_goes_at_the_end(tmp_path):
    work = tmp_path / "out" / ".work"
    before = dict(os.environ)
    with private_caches(work) as folder:
        assert folder.parent == work
        for name, part in CACHE_VARIABLES.items():
            assert os.environ[name] == str(folder / part)
            assert (folder / part).is_dir()
        assert Path(tempfile.mkdtemp()).parent == folder / CACHE_VARIABLES["TMPDIR"]
    assert not work.exists()
    assert {name: os.environ.get(name) for name in CACHE_VARIABLES} == {
        name: before.get(name) for name in CACHE_VARIABLES
    }
    assert Path(tempfile.mkdtemp(dir=tmp_path)).exists()


def test_caches_are_absolute_also_when_the_output_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with private_caches(Path("out/.work")):
        assert all(Path(os.environ[name]).is_absolute() for name in CACHE_VARIABLES)


def test_caches_go_after_an_error_too(tmp_path):
    before = {name: os.environ.get(name) for name in CACHE_VARIABLES}
    with pytest.raises(ZeroDivisionError), private_caches(tmp_path / "work"):
        _ = 1 / 0
    assert not (tmp_path / "work").exists()
    assert {name: os.environ.get(name) for name in CACHE_VARIABLES} == before


def test_what_a_user_put_into_the_work_directory_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with private_caches(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_work_directory_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--work-dir"), private_caches(tmp_path / "file" / "work"):
        pass


def test_two_folders_of_one_process_are_two(tmp_path):
    with owned_folder(tmp_path / "work", "a") as first, owned_folder(tmp_path / "work", "a") as second:
        assert first != second
    assert not (tmp_path / "work").exists()


def test_cleaning_leaves_a_living_process_alone(tmp_path, holder):
    clean_work_folder(tmp_path / "work")
    assert holder.folder.is_dir()
    holder.communicate("")
    assert not (tmp_path / "work").exists()


def test_cleaning_removes_what_a_killed_process_left_and_nothing_else(tmp_path, holder):
    mine = tmp_path / "work" / "test-of-mine"
    mine.mkdir()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder.folder.is_dir()
    clean_work_folder(tmp_path / "work")
    assert [path for path in (tmp_path / "work").iterdir()] == [mine]


def test_cleaning_a_folder_that_is_not_there_is_no_error(tmp_path):
    clean_work_folder(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_home_gets_a_value_and_keeps_the_one_it_has(monkeypatch):
    monkeypatch.delenv("HOME")
    ensure_home()
    assert os.environ["HOME"] == "/"
    monkeypatch.setenv("HOME", "/somewhere")
    ensure_home()
    assert os.environ["HOME"] == "/somewhere"


def test_libraries_learn_the_number_of_threads(monkeypatch):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")
    limit_library_threads(3)
    assert [os.environ[name] for name in names] == ["3"] * 4
