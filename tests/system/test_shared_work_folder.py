"""A work directory that others can write into: what lies in it is not lost, trusted or waited for."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from app_runs import QUICK, App, command, dataset, environment, files, leave_out_figures
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.pipeline.study.training import remove_networks
from sicnn_app.system.checkpoints import TrainingCheckpoint, write_state
from sicnn_app.system.locks.folders import MADE_FILE
from sicnn_app.system.locks.leftovers import remove_leftovers
from sicnn_app.system.locks.mark import STALE, _boot_id, holder_of, look
from sicnn_app.system.locks.owned import OWNER_FILE, owned_folder
from sicnn_app.system.locks.shared import LOCK_FILE, HeldElsewhere, locked_folder, shared_folder

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")

NETWORK = "study-0123abcd-0123abcd.pt"


@pytest.fixture
def app(capsys, monkeypatch):
    leave_out_figures(monkeypatch)
    return App(capsys)


@pytest.fixture
def victim(tmp_path) -> Path:
    """A folder of the user with files that nobody may lose."""
    folder = tmp_path / "victim"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(autouse=True)
def nothing_is_lost(victim):
    """Whatever a test does, the user's folder is as it was at its end."""
    before = files(victim)
    assert before
    yield
    assert files(victim) == before


def mark(**changes) -> str:
    """What a process of this machine that is no more wrote into its mark."""
    content = {
        "host": "here",
        "pid": 4711,
        "since": "2026-01-01T00:00:00+00:00",
        "kernel": _boot_id(),
        "device": os.stat("/tmp").st_dev,
        "token": "theirs",
    }
    return json.dumps(content | changes)


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "absent")


def loop(path: Path, victim: Path) -> None:
    path.symlink_to(path.name)


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        # The name of a socket may not be long.
        bound.bind(f"/proc/self/fd/{(folder := os.open(path.parent, os.O_RDONLY))}/{path.name}")
        os.close(folder)


def file(path: Path, victim: Path) -> None:
    path.write_text("a file")


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim / "notes.txt")


def users_folder(path: Path, victim: Path) -> None:
    shutil.copytree(victim, path)


def device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FOLDERS = [link, dangling_link, loop, pipe, unix_socket, file]
NO_FILES = [link, dangling_link, loop, pipe, unix_socket, device, users_folder]
names = pytest.mark.parametrize


# folders


@names("plant", NO_FOLDERS)
def test_a_work_directory_that_is_no_folder_is_refused_before_anything_is_done(app, tmp_path, victim, plant):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    out.mkdir()
    plant(out / ".work", victim)
    call = app.quick(made, out, "--clean-workdir")
    assert call.code == 73
    assert f"{out / '.work'}: is a link or no folder" in call.err
    assert os.listdir(out) == [".work"]


@names("plant", [*NO_FOLDERS, users_folder])
@names("what", ["run-sub-01", "dataset", "report-sub-01"])
def test_what_lies_under_a_name_that_the_app_computes_is_neither_used_nor_emptied(
    app, tmp_path, victim, plant, what
):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    place = shared_folder(out / ".work", what, out)
    place.parent.mkdir(parents=True)
    plant(place, victim)
    before = files(place) if place.is_dir() else {}
    call = app.quick(made, out, "--clean-workdir")
    assert call.code == 73
    assert f"{place}: " in call.err and "--work-dir" in call.err
    assert os.path.lexists(place)
    assert before == (files(place) if place.is_dir() else {})


@as_root
@names("change", ["owner", "mode"])
def test_a_folder_that_somebody_else_may_have_filled_is_not_emptied(app, tmp_path, victim, change):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    place = shared_folder(out / ".work", "run-sub-01", out)
    with pytest.raises(KeyboardInterrupt), locked_folder(place, keep=["training.pt"]):
        (place / "training.pt").write_text("42")
        raise KeyboardInterrupt
    if change == "owner":
        os.chown(place, NOBODY, -1)
    else:
        place.chmod(0o775)
    for options in ((), ("--clean-workdir",)):
        call = app.quick(made, out, *options)
        assert call.code == 73
        assert ("belongs to another user" if change == "owner" else "other users may change it") in call.err
        assert (place / "training.pt").read_text() == "42"


def test_a_link_that_the_user_names_is_followed(app, tmp_path, victim):
    work = tmp_path / "scratch"
    work.mkdir()
    (work / "mine").write_text("")
    (tmp_path / "link").symlink_to(work)
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(made, out, "-w", tmp_path / "link", "--clean-workdir").code == 0
    assert os.listdir(work) == ["mine"]
    (out / ".work").symlink_to(victim)
    assert app.quick(made, out, "-w", tmp_path / "link").code == 73


def test_cleaning_goes_by_marks_and_not_by_names(app, tmp_path, victim):
    work = tmp_path / "work"
    for name in ("study-liver-20240101", "run-sub-01-0123abcd", "caches-mine-1-abcdefgh", "group-0123abcd"):
        users_folder(work / name, victim)
    # Marks of the app, copied or of another kind, prove nothing where they are.
    (work / "run-sub-01-0123abcd" / MADE_FILE).write_text("sicnn-app made this folder: run-sub-02-0123abcd\n")
    (work / "caches-mine-1-abcdefgh" / OWNER_FILE).write_text("{}")
    (work / "study-liver-20240101" / "lock.txt").write_text("combination")
    (work / "run-empty-20240101").mkdir()
    (work / NETWORK).write_text("weights of mine")
    (work / NETWORK.replace("0", "1")).symlink_to(victim / "notes.txt")
    before = sorted(
        (path.relative_to(work), path.is_file() and path.read_bytes()) for path in work.rglob("*")
    )
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "-w", work, "--clean-workdir")
    assert call.code == 0, call.text
    after = sorted((path.relative_to(work), path.is_file() and path.read_bytes()) for path in work.rglob("*"))
    assert after == before
    assert (
        f"{work / 'study-liver-20240101'}: left as it is: holds files that sicnn-app has no record of"
        in call.err
    )


def test_what_an_earlier_version_left_goes_when_its_lock_tells_of_it(tmp_path):
    work = tmp_path / "work"
    place = work / "run-sub-01-0123abcd"
    place.mkdir(parents=True)
    (place / "part").write_text("")
    (place / LOCK_FILE).write_text(mark(kernel="another"))
    os.utime(place / LOCK_FILE, (0, 0))
    (said,) = remove_leftovers(work, checkpoints=True)
    assert "host here, pid 4711" in said
    assert not work.exists()


@as_root
def test_leftovers_of_another_user_stay(tmp_path):
    work = tmp_path / "work"
    owned, shared = work / "write-here-1-abcdefgh", work / "run-sub-01-0123abcd"
    for folder, name in ((owned, OWNER_FILE), (shared, LOCK_FILE)):
        folder.mkdir(parents=True)
        (folder / name).write_text(mark())
        os.utime(folder / name, (0, 0))
        os.chown(folder, NOBODY, -1)
    (said,) = remove_leftovers(work, checkpoints=True)
    assert said == f"{shared}: left as it is: belongs to another user (number {NOBODY})"
    assert (owned / OWNER_FILE).exists() and (shared / LOCK_FILE).exists()


@names("plant", [link, users_folder])
@names("kind", ["owned", "locked"])
def test_a_folder_that_is_swapped_meanwhile_is_not_followed(tmp_path, victim, kind, plant):
    place = tmp_path / "work" / "run-sub-01-0123abcd"
    with owned_folder(place.parent, "write") if kind == "owned" else locked_folder(place) as made:
        place = made if kind == "owned" else place
        (place / "part").write_text("")
        place.rename(tmp_path / "away")
        plant(place, victim)
        if kind == "locked":
            with pytest.raises(TryAgainError):
                made.check()
    assert files(place) == files(victim)


@names("plant", [link, users_folder])
def test_links_in_a_folder_of_the_app_are_removed_and_not_followed(tmp_path, victim, plant):
    with owned_folder(tmp_path / "work", "caches") as folder:
        plant(folder / "planted", victim)
        (folder / "deep").mkdir()
        plant(folder / "deep" / "planted", victim)
    with locked_folder(tmp_path / "work" / "run-sub-01-0123abcd") as lock:
        plant(lock.folder / "planted", victim)
    assert not (tmp_path / "work").exists()


def test_users_who_share_a_work_directory_cannot_move_what_others_have_in_it(tmp_path):
    before = os.umask(0o002)
    try:
        with locked_folder(tmp_path / "work" / "run-sub-01-0123abcd") as lock:
            assert lock.folder.parent.stat().st_mode & stat.S_ISVTX
            assert not lock.folder.stat().st_mode & 0o022
            assert not (lock.folder / LOCK_FILE).stat().st_mode & 0o022
    finally:
        os.umask(before)


# locks


@names("plant", [*NO_FILES, hard_link])
@names("name", [LOCK_FILE, MADE_FILE])
def test_anything_in_the_place_of_a_mark_ends_the_wait(tmp_path, victim, name, plant):
    place = tmp_path / "work" / "run-sub-01-0123abcd"
    place.mkdir(parents=True)
    plant(place / name, victim)
    started = time.monotonic()
    with pytest.raises((OutputError, TryAgainError)) as caught, locked_folder(place):
        pass
    assert str(place) in str(caught.value)
    assert time.monotonic() - started < 20
    assert os.path.lexists(place / name)
    assert remove_leftovers(place.parent, checkpoints=True)
    assert os.path.lexists(place / name)


@names("plant", NO_FILES)
def test_anything_in_the_place_of_a_lock_of_ours_ends_the_wait(app, tmp_path, victim, plant):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    place = shared_folder(out / ".work", "run-sub-01", out)
    with pytest.raises(KeyboardInterrupt), locked_folder(place, keep=["training.pt"]):
        (place / "training.pt").write_text("42")
        raise KeyboardInterrupt
    plant(place / LOCK_FILE, victim)
    call = app.quick(made, out)
    assert call.code == 73
    assert f"{place}: cannot be locked (" in call.err
    assert (place / "training.pt").read_text() == "42"


@names("plant", NO_FILES)
def test_anything_in_the_place_of_the_mark_of_a_private_folder_stays(tmp_path, victim, plant):
    place = tmp_path / "work" / "write-here-1-abcdefgh"
    place.mkdir(parents=True)
    plant(place / OWNER_FILE, victim)
    assert remove_leftovers(place.parent, checkpoints=True) == []
    assert os.path.lexists(place / OWNER_FILE)


@as_root
@names(
    ("silent", "error", "said"),
    [(False, HeldElsewhere, "pid 4711"), (True, OutputError, "belongs to another user")],
)
def test_the_lock_of_another_user_is_told_and_never_taken(tmp_path, silent, error, said):
    place = tmp_path / "work" / "run-sub-01-0123abcd"
    place.mkdir(parents=True)
    (place / "theirs").write_text("42")
    (place / LOCK_FILE).write_text(mark(kernel="another"))
    if silent:
        os.utime(place / LOCK_FILE, (0, 0))
    os.chown(place, NOBODY, -1)
    with pytest.raises(error, match=said), locked_folder(place):
        pass
    assert sorted(path.name for path in place.iterdir()) == [LOCK_FILE, "theirs"]


def test_what_a_lock_says_is_shown_without_codes_and_in_short(tmp_path):
    place = tmp_path / "work" / "run-sub-01-0123abcd"
    with locked_folder(place):
        said = "evil\x1b[2J\u202e\n" + "x" * 5000
        (place / LOCK_FILE).write_text(mark(host=said, since=said, pid=True, kernel="another"))
        with pytest.raises(HeldElsewhere) as caught, locked_folder(place):
            pass
    text = str(caught.value)
    assert text.isprintable()
    assert "evil\\x1b[2J\\u202e" in text
    assert len(text) < 500 + len(str(place))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=6,
)
FIELDS = ("host", "pid", "since", "kernel", "device", "token")


@settings(max_examples=100)
@given(content=st.binary(max_size=80) | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_whatever_a_mark_holds_it_can_be_looked_at(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("marks")
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / LOCK_FILE).write_bytes(text)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with look(LOCK_FILE, descriptor) as seen:
            holder = holder_of(seen.content)
            assert holder.isprintable() and len(holder) < 300
            assert seen.locked is False and seen.silence < STALE
            # Nothing but a process of this kernel is known to have ended.
            assert not seen.dead
    finally:
        os.close(descriptor)


def test_a_lock_that_somebody_holds_for_ever_is_not_waited_for_without_end(tmp_path):
    place = tmp_path / "work" / "run-sub-01-0123abcd"
    place.mkdir(parents=True)
    (place / LOCK_FILE).write_text(mark())
    with (place / LOCK_FILE).open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(HeldElsewhere), locked_folder(place):
            pass


@as_root
def test_users_of_one_group_share_an_output_one_after_the_other(tmp_path):
    if shutil.which("setpriv") is None:
        pytest.skip("root cannot become another user without setpriv")
    made, out = dataset(tmp_path / "bids", "sub-01", "sub-02"), tmp_path / "out"
    out.mkdir()
    os.chown(out, -1, 5000)
    out.chmod(0o2775)
    for user, label in ((1001, "01"), (1002, "02")):
        become = ["setpriv", f"--reuid={user}", "--regid=5000", "--clear-groups"]
        become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        call = command(made.root, out, "participant", *QUICK, "--participant-label", label)
        done = subprocess.run(
            [*become, *call], capture_output=True, text=True, env=environment(), umask=0o002
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (out / ".work").exists()


# checkpoints and networks


STATE = {"weights": torch.arange(4.0)}


def saved(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_state(path, "key", STATE)
    return path


def by_another_user(path: Path, _: Path) -> None:
    os.chown(path, NOBODY, -1)


def writable_for_the_group(path: Path, _: Path) -> None:
    path.chmod(0o660)


def instead(plant: Callable) -> Callable:
    def replace(path: Path, victim: Path) -> None:
        path.rename(path.with_name("state"))
        plant(path, path.with_name("state") if plant is link else victim)

    replace.__name__ = plant.__name__
    return replace


UNTRUSTED = [writable_for_the_group, *map(instead, [*NO_FILES, hard_link, file])]
UNTRUSTED += [pytest.param(by_another_user, marks=as_root)]


def test_a_checkpoint_is_for_its_user_alone(tmp_path):
    before = os.umask(0)
    try:
        assert stat.S_IMODE(saved(tmp_path / "training.pt").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    checkpoint = TrainingCheckpoint(tmp_path / "training.pt", "key")
    assert torch.equal(checkpoint.load()["weights"], STATE["weights"])
    assert checkpoint.warnings == []


@names("change", UNTRUSTED)
def test_a_checkpoint_that_somebody_else_may_have_written_is_as_good_as_none(tmp_path, victim, change):
    path = saved(tmp_path / "work" / "training.pt")
    change(path, victim)
    checkpoint = TrainingCheckpoint(path, "key")
    assert checkpoint.load() is None
    (warning,) = checkpoint.warnings
    assert warning.startswith(f"{path}: not used (") and "starts anew" in warning


def test_a_checkpoint_is_not_written_or_removed_through_a_link(tmp_path, victim):
    work, theirs = tmp_path / "work", tmp_path / "theirs"
    for folder in (work, theirs):
        saved(folder / "training.pt")
    checkpoint = TrainingCheckpoint(work / "training.pt", "key")
    work.rename(tmp_path / "away")
    work.symlink_to(theirs)
    before = files(theirs)
    checkpoint.save({"weights": torch.zeros(4)})
    (warning,) = checkpoint.warnings
    assert "cannot be saved" in warning
    checkpoint.remove()
    assert files(theirs) == before


@names("change", UNTRUSTED)
def test_a_network_of_somebody_else_stays_where_it_is(tmp_path, victim, change):
    path = saved(tmp_path / "work" / NETWORK)
    change(path, victim)
    remove_networks(path.parent)
    assert os.path.lexists(path)


def test_a_network_of_the_user_goes_when_the_work_directory_is_cleaned(app, tmp_path):
    path = saved(tmp_path / "work" / NETWORK)
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "-w", path.parent, "--clean-workdir")
    assert call.code == 0
    assert not path.exists()


def test_a_checkpoint_is_private_where_the_file_system_knows_no_permissions(tmp_path, monkeypatch):
    path = saved(tmp_path / "training.pt")
    fstat = os.fstat

    def without_permissions(descriptor):
        status = list(fstat(descriptor))
        status[0] |= 0o777
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", without_permissions)
    assert TrainingCheckpoint(path, "key").load() is not None
