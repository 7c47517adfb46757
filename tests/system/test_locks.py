"""Locks and private folders: one owner at a time, whatever becomes of the owners."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from app_processes import TIMEOUT, wait_until
from app_runs import environment

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.system.locks import mark as marks
from sicnn_app.system.locks.folders import MADE_FILE
from sicnn_app.system.locks.leftovers import remove_leftovers
from sicnn_app.system.locks.mark import NEW, STALE
from sicnn_app.system.locks.owned import OWNER_FILE, owned_folder
from sicnn_app.system.locks.shared import LOCK_FILE, HeldElsewhere, locked_folder, shared_folder

HOLDER = """
import sys
from pathlib import Path
from sicnn_app.system.locks.owned import owned_folder
from sicnn_app.system.locks.shared import locked_folder
kind, place = sys.argv[1], Path(sys.argv[2])
with locked_folder(place) if kind == "locked" else owned_folder(place, kind) as made:
    print(getattr(made, "folder", made), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(kind: str, place: Path):
    """Another process in a locked folder (kind ``locked``) or in a folder of its own below ``place``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        process.folder = Path(process.stdout.readline().strip())
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate("" if process.poll() is None else None)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def foreign(path: Path, *, minutes: float) -> None:
    """Make a mark look like one of another computer that was last touched so long ago."""
    content = {"host": "elsewhere", "pid": 4711, "since": "2026-01-01T00:00:00+00:00", "kernel": "another"}
    content |= {"device": 1, "token": "theirs"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    age(path, minutes)


def age(path: Path, minutes: float) -> None:
    moment = time.time() - 60 * minutes
    os.utime(path, (moment, moment))


def interrupted(folder: Path) -> None:
    """Leave a folder as a process does that was stopped and is to go on."""
    with pytest.raises(KeyboardInterrupt), locked_folder(folder, keep=["training.pt"]):
        (folder / "training.pt").write_text("42")
        raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path) -> Path:
    return shared_folder(tmp_path / "work", "run-sub-01", tmp_path / "out")


@pytest.fixture(params=["locks", "no locks", "no locks and no hard links"])
def file_system(request, monkeypatch) -> str:
    """What the file system offers."""

    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, "not supported")

    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    if request.param.endswith("links"):
        monkeypatch.setattr(os, "link", refuse)
    return request.param


# one after the other


def test_a_lock_leaves_nothing_behind(folder, tmp_path, file_system):
    with locked_folder(folder) as lock:
        assert lock.folder == folder
        assert lock.recovered is None
        (folder / "part").write_text("")
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_the_mark_tells_host_process_and_time(folder):
    before = time.time()
    with locked_folder(folder):
        mark = json.loads((folder / LOCK_FILE).read_text())
        assert mark["pid"] == os.getpid()
        assert mark["host"]
        assert before - 1 <= datetime.fromisoformat(mark["since"]).timestamp() <= time.time()


def test_a_second_one_is_told_who_has_it_and_disturbs_nothing(folder, file_system):
    with locked_folder(folder) as first:
        mark = json.loads((folder / LOCK_FILE).read_text())
        with pytest.raises(HeldElsewhere) as caught, locked_folder(folder):
            pass
        first.check()
        names = {path.name for path in folder.iterdir()}
        assert {name for name in names if not name.startswith("lock-new")} == {MADE_FILE, LOCK_FILE}
    assert caught.value.exit_code == 75
    assert f"host {mark['host']}, pid {mark['pid']}, since {mark['since']}" in str(caught.value)
    assert not folder.exists()


def test_who_waits_gets_it_as_soon_as_it_is_free(folder, file_system):
    entered, order = threading.Event(), []

    def second() -> None:
        entered.wait()
        with locked_folder(folder, wait=TIMEOUT):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked_folder(folder):
        entered.set()
        # Its mark lies beside the lock: it has looked, or is about to.
        wait_until(lambda: list(folder.glob(f"{LOCK_FILE}{NEW}*")))
        order.append("first")
    thread.join(TIMEOUT)
    assert order == ["first", "second"]
    assert not folder.parent.exists()


def test_many_at_once_work_one_after_the_other(folder):
    inside, most = Counter(), []

    def work(_: int) -> None:
        with locked_folder(folder, wait=TIMEOUT):
            inside["now"] += 1
            most.append(inside["now"])
            time.sleep(0.01)
            inside["now"] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert most == [1] * 24
    assert not folder.parent.exists()


def test_locks_of_other_runs_outputs_and_work_directories_are_others(tmp_path):
    places = [
        shared_folder(tmp_path / work, what, tmp_path / out)
        for work in ("w1", "w2")
        for what in ("run-sub-01", "run-sub-02")
        for out in ("a", "b")
    ]
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(locked_folder(place))
        assert len(set(places)) == 8
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    assert shared_folder(tmp_path, "x", tmp_path / "out") == shared_folder(tmp_path, "x", tmp_path / "link")


# what stays


def test_what_is_to_be_kept_outlives_a_stop_and_nothing_else_does(folder):
    with pytest.raises(KeyboardInterrupt), locked_folder(folder, keep=["state"]):
        (folder / "state").write_text("42")
        (folder / "scratch").mkdir()
        (folder / "scratch" / "part").write_text("")
        raise KeyboardInterrupt
    assert {path.name for path in folder.iterdir()} == {MADE_FILE, "state"}
    with locked_folder(folder, keep=["state"]):
        assert (folder / "state").read_text() == "42"
    assert not folder.parent.exists()


def test_an_error_keeps_nothing(folder):
    with pytest.raises(ZeroDivisionError), locked_folder(folder, keep=["state"]):
        (folder / "state").write_text("42")
        _ = 1 / 0
    assert not folder.parent.exists()


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--work-dir"), locked_folder(tmp_path / "file" / "run-x"):
        pass


# owners that are no more


def test_the_lock_of_a_killed_process_is_taken_over_at_once_with_what_it_kept(folder):
    with holding("locked", folder) as process:
        (folder / "state").write_text("42")
        (folder / "scratch").write_text("")
        kill(process)
        started = time.monotonic()
        with locked_folder(folder, keep=["state"]) as lock:
            assert time.monotonic() - started < STALE / 2
            assert f"pid {process.pid}" in lock.recovered
            assert {path.name for path in folder.iterdir()} == {MADE_FILE, LOCK_FILE, "state"}
    assert not folder.parent.exists()


def test_a_suspended_process_keeps_its_lock_for_ten_minutes_and_learns_that_it_lost_it(folder):
    with holding("locked", folder) as process:
        process.send_signal(signal.SIGSTOP)
        age(folder / LOCK_FILE, 9)
        with pytest.raises(HeldElsewhere), locked_folder(folder):
            pass
        age(folder / LOCK_FILE, 11)
        with locked_folder(folder) as lock:
            assert f"pid {process.pid}" in lock.recovered
            process.send_signal(signal.SIGCONT)
            process.communicate("")
            # The first owner ended meanwhile, and left the second one's lock alone.
            lock.check()
    assert not folder.parent.exists()


def test_who_lost_the_lock_may_not_go_on_and_removes_nothing(folder):
    with pytest.raises(TryAgainError, match="host elsewhere, pid 4711"), locked_folder(folder) as lock:
        lock.check()
        (folder / "state").write_text("theirs")
        foreign(folder / LOCK_FILE, minutes=0)
        lock.check()
    assert (folder / "state").read_text() == "theirs"
    assert (folder / LOCK_FILE).exists()


@pytest.mark.parametrize("minutes", [0, 9, 11])
def test_only_silence_tells_of_a_process_on_another_computer(folder, file_system, minutes):
    foreign(folder / LOCK_FILE, minutes=minutes)
    if minutes * 60 <= STALE:
        with pytest.raises(HeldElsewhere, match="host elsewhere, pid 4711"), locked_folder(folder):
            pass
        assert (folder / LOCK_FILE).exists()
    else:
        with locked_folder(folder) as lock:
            assert "host elsewhere" in lock.recovered
            assert "11 minutes" in lock.recovered
        assert not folder.exists()


def test_a_sign_of_life_is_given_again_and_again(folder, monkeypatch):
    monkeypatch.setattr(marks, "HEARTBEAT", 0.05)
    with locked_folder(folder):
        age(folder / LOCK_FILE, 9)
        wait_until(lambda: time.time() - (folder / LOCK_FILE).stat().st_mtime < 60)


@pytest.mark.parametrize(
    "content", ["{", "[" * 60_000, "[]", "9" * 5000, '{"host": {}, "pid": [], "token": NaN}', "\0", ""]
)
def test_a_mark_that_cannot_be_read_counts_as_held_until_it_is_old(folder, content):
    interrupted(folder)
    (folder / LOCK_FILE).write_text(content)
    with pytest.raises(HeldElsewhere, match="host unknown"), locked_folder(folder):
        pass
    age(folder / LOCK_FILE, 11)
    with locked_folder(folder) as lock:
        assert lock.recovered


@pytest.mark.parametrize("round_", range(3))
def test_of_many_that_recover_one_lock_only_one_wins(folder, file_system, round_):
    foreign(folder / LOCK_FILE, minutes=11)
    ready, done = threading.Barrier(6), threading.Event()

    def contend(_: int) -> str:
        ready.wait()
        try:
            with locked_folder(folder) as lock:
                done.wait(TIMEOUT)
                lock.check()
                return "won"
        except HeldElsewhere:
            return "held"

    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(contend, number) for number in range(6)]
        try:
            wait_until(lambda: sum(result.done() for result in results) >= 5)
        finally:
            done.set()
        assert sorted(result.result() for result in results) == ["held"] * 5 + ["won"]
    assert not folder.parent.exists()


# private folders


def test_a_private_folder_goes_at_the_end_with_its_empty_parent(tmp_path):
    work = tmp_path / "work"
    with owned_folder(work, "caches") as first, owned_folder(work, "caches") as second:
        assert first != second
        (first / "part").write_text("")
    assert not work.exists()
    with pytest.raises(ZeroDivisionError), owned_folder(work, "caches"):
        _ = 1 / 0
    assert not work.exists()


def test_cleaning_leaves_the_living_and_the_users_own_alone(tmp_path):
    work = tmp_path / "work"
    mine = [work / "test-of-mine", work / "run-of-mine"]
    with holding("caches", work) as private, holding("locked", work / "run-sub-01-0123abcd") as shared:
        for path in mine:
            path.mkdir()
        (work / "notes.txt").write_text("mine")
        assert remove_leftovers(work) == []
        assert private.folder.is_dir()
        assert (shared.folder / LOCK_FILE).exists()
    assert sorted(path.name for path in work.iterdir()) == ["notes.txt", "run-of-mine", "test-of-mine"]


def test_cleaning_removes_what_the_killed_left_but_for_their_checkpoints(tmp_path):
    work = tmp_path / "work"
    names = ["run-sub-01_run-1-0123abcd", "run-sub-02-0123abcd", "report-sub-01-0123abcd", "dataset-0123abcd"]
    with ExitStack() as stack:
        private = stack.enter_context(holding("write", work))
        shared = [stack.enter_context(holding("locked", work / name)) for name in names]
        (private.folder / "half.nii.gz").write_text("")
        (work / names[0] / "training.pt").write_text("42")
        for process in (private, *shared):
            kill(process)
    said = remove_leftovers(work)
    assert {path.relative_to(work).as_posix() for path in work.rglob("*")} == {
        names[0],
        f"{names[0]}/{MADE_FILE}",
        f"{names[0]}/training.pt",
    }
    assert len(said) == 4
    assert all(any(f"pid {process.pid}" in text for text in said) for process in shared)
    assert remove_leftovers(work) == []
    assert work.exists()
    assert remove_leftovers(work, checkpoints=True) == []
    assert not work.exists()


@pytest.mark.parametrize("minutes", [0, 11])
def test_private_folders_of_other_computers_go_when_they_are_silent(tmp_path, minutes):
    remains = tmp_path / "work" / "write-elsewhere-1-abcdefgh"
    foreign(remains / OWNER_FILE, minutes=minutes)
    remove_leftovers(tmp_path / "work")
    assert remains.exists() == (minutes * 60 <= STALE)


def test_private_folders_survive_cleaning_at_the_moment_they_are_made(tmp_path):
    work, ended = tmp_path / "work", threading.Event()

    def clean() -> None:
        while not ended.is_set():
            remove_leftovers(work)

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        for _ in range(100):
            with owned_folder(work, "caches") as folder:
                (folder / "part").write_text("")
                time.sleep(0.001)
                assert (folder / "part").exists()
    finally:
        ended.set()
        thread.join()


def test_cleaning_what_is_not_there_is_no_error(tmp_path):
    assert remove_leftovers(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_without_a_boot_id_nothing_is_taken_for_dead_at_once(folder, monkeypatch):
    with holding("locked", folder) as process:
        kill(process)
        monkeypatch.setattr(marks, "_boot_id", lambda: None)
        with pytest.raises(HeldElsewhere), locked_folder(folder):
            pass
