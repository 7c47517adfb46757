"""What the app has no record of having written is never changed, replaced or removed, by any flag."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from app_runs import QUICK, App, as_user, command, dataset, environment, files, leave_out_figures
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.derivatives import atomic
from sicnn_app.derivatives.atomic import StagedFiles, scratch_folder
from sicnn_app.derivatives.written import RECORDS, WrittenRecord
from sicnn_app.errors import OutputError

MARKER = "sub-01/dwi/sub-01_desc-ivim_qc.json"
F_MAP = "sub-01/dwi/sub-01_model-ivim_param-f_dwimap.nii.gz"
EVERY_FLAG = ("--overwrite", "--clean-workdir", "--report-level", "full")

NAMES = [
    "sub-01.html",
    "sub-01/figures/sub-01_desc-fmap_dwi.png",
    "sub-01/figures/sub-01_desc-sampling_dwi.svg",
    "sub-01/figures/sub-01_desc-stepdenoising_dwi.png",
    "sub-01/dwi/sub-01_desc-preproc_dwi.nii.gz",
    "sub-01/dwi/sub-01_desc-preproc_dwi.bval",
    "sub-01/dwi/sub-01_desc-body_mask.json",
    F_MAP,
    MARKER,
]
"""Where another program, or a person, may have put a file."""


@pytest.fixture
def app(capsys):
    return App(capsys)


@pytest.fixture(autouse=True)
def reports_without_figures(monkeypatch):
    leave_out_figures(monkeypatch)


def put(path: Path, text: str = "of another program") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def written(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if not name.startswith("logs/")}


# Clashes


@pytest.mark.parametrize("flags", [(), EVERY_FLAG], ids=["no flag", "every flag"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_somebody_else_is_told_before_anything_is_done(app, tmp_path, name, flags):
    out = tmp_path / "out"
    put(out / name)
    before = files(out)
    call = app.quick(dataset(tmp_path / "bids"), out, *flags)
    assert call.code == 73, call.text
    assert f"{out / name}: not as this app wrote it" in call.err and "another output folder" in call.err
    assert files(out) == before


def test_the_outputs_of_another_program_stay_whole(app, tmp_path):
    raw = dataset(tmp_path / "bids")
    prep = tmp_path / "prep"
    described = {"Name": "prep", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    put(prep / "dataset_description.json", json.dumps(described))
    put(prep / "sub-01.html")
    put(prep / "sub-01/figures/sub-01_desc-sampling_dwi.svg")
    shutil.copytree(raw.root / "sub-01" / "dwi", prep / "sub-01" / "dwi")
    for path in list((prep / "sub-01" / "dwi").iterdir()):
        path.rename(path.with_name(path.name.replace("_dwi", "_desc-preproc_dwi")))
    before = files(prep)
    for flags in ((), EVERY_FLAG):
        assert app.quick(raw, prep, *flags).code == 73
        assert app.quick(raw, prep, "-d", prep, *flags).code == 64
        assert app.raw(raw.root, prep, "group", "-d", prep).code == 64
        assert app.raw(raw.root, prep, "group", *flags[:1]).code == 18
        assert app.raw(raw.root, prep, "participant", "--reports-only", *flags[:2]).code == 18
        assert files(prep) == before
        assert app.quick(raw, prep / "sub-01", "-d", prep, *flags).code == 64
        assert files(prep) == before


def test_the_clash_of_one_run_is_told_before_another_is_computed(app, tmp_path):
    out = tmp_path / "out"
    put(out / "sub-02.html")
    before = files(out)
    call = app.quick(dataset(tmp_path / "bids", "sub-01", "sub-02"), out)
    assert call.code == 73 and str(out / "sub-02.html") in call.err
    assert files(out) == before


def test_a_dry_run_tells_of_the_clash(app, tmp_path):
    put(tmp_path / "out" / "sub-01.html")
    call = app.quick(dataset(tmp_path / "bids"), tmp_path / "out", "--dry-run")
    assert call.code == 0 and "the call would be refused" in call.err and "sub-01.html" in call.err


@pytest.mark.parametrize("name", ["desc-preproc_dwi.nii.gz", "desc-brain_mask.nii.gz"])
def test_outputs_of_another_program_are_no_runs_to_gather_or_to_report_on(app, tmp_path, name):
    prep = tmp_path / "prep"
    put(prep / f"sub-01/dwi/sub-01_{name}")
    before = files(prep)
    for call in (
        app.raw(tmp_path, prep, "group"),
        app.raw(tmp_path, prep, "participant", "--reports-only"),
    ):
        assert call.code == 18 and "holds no maps" in call.err
    assert files(prep) == before


def test_a_group_without_a_run_that_can_be_used_leaves_the_description_as_it_is(app, tmp_path):
    put(tmp_path / F_MAP)
    described = {"Name": "maps", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    put(tmp_path / "dataset_description.json", json.dumps(described))
    before = written(tmp_path)
    call = app.raw(tmp_path, tmp_path, "group")
    assert call.code == 66 and "nothing is written" in call.out
    assert written(tmp_path) == before


def test_a_dry_run_of_the_group_tells_of_the_clash(app, tmp_path):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(raw, out).code == 0
    put(out / "group.html")
    call = app.raw(raw.root, out, "group", "--dry-run")
    assert call.code == 0 and "the call would be refused" in call.err and "group.html" in call.err


@pytest.mark.parametrize("name", ["sub-01.html", F_MAP, "group.html", "group_ivim.tsv"])
def test_what_a_person_changed_is_kept(app, tmp_path, name):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(raw, out).code == 0
    assert app.raw(raw.root, out, "group").code == 0
    put(out / name, "edited by hand")
    before = written(out)
    calls = [
        app.quick(raw, out, "--overwrite"),
        app.raw(raw.root, out, "participant", "--reports-only"),
        app.raw(raw.root, out, "group", "--overwrite"),
    ]
    refused = [call for call in calls if call.code == 73]
    assert refused and all(f"{out / name}: not as this app wrote it" in call.err for call in refused)
    assert (out / name).read_text() == "edited by hand"
    if not name.startswith("group"):
        assert calls[0].code == 73 and written(out)[F_MAP] == before[F_MAP]


def test_a_change_that_keeps_the_size_is_found_when_the_file_would_be_replaced(app, tmp_path):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(raw, out).code == 0
    path = out / F_MAP
    changed = path.read_bytes()[:-1] + b"?"
    path.write_bytes(changed)
    before = files(out / "sub-01" / "dwi")
    assert app.quick(raw, out, "--overwrite").code == 73
    assert files(out / "sub-01" / "dwi") == before


# Its own files


def test_its_own_files_are_replaced_and_those_beside_them_stay(app, tmp_path):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(raw, out, "--method", "cnn", "--max-iterations", "1").code == 0
    assert list(out.rglob("*desc-lsq*"))
    mine = [
        put(out / name, "mine")
        for name in (
            "sub-01/dwi/sub-01_desc-manual_mask.nii.gz",
            "sub-01/dwi/sub-01_desc-motion_qc.tsv",
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01_ses-1.html",
            "notes/group.html",
        )
    ]
    assert app.quick(raw, out, "--overwrite").code == 0
    assert not list(out.rglob("*desc-lsq*"))
    assert app.raw(raw.root, out, "group").code == 0
    assert app.raw(raw.root, out, "group").code == 0
    assert app.raw(raw.root, out, "participant", "--reports-only").code == 0
    assert {path.read_text() for path in mine} == {"mine"}


@pytest.mark.parametrize("step", range(0, 30, 4))
def test_files_of_a_killed_process_are_its_own_for_the_next(tmp_path, monkeypatch, step):
    """Wherever the renaming ends: the next process replaces what is there."""
    out = tmp_path / "out"
    out.mkdir()

    def publish(content: bytes) -> list[Path]:
        with scratch_folder(out) as folder:
            staged = StagedFiles(folder)
            for number in range(8):
                staged.add_bytes(out / "sub-01" / f"{number}.txt", content + bytes([number]))
            return staged.publish(WrittenRecord(out, "run-sub-01"))

    publish(b"first")
    calls = []

    def counted(function):
        def call(*args, **options):
            calls.append(args)
            if len(calls) > step:
                raise KeyboardInterrupt
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_rename", counted(atomic._rename))
        patch.setattr(atomic, "remove", counted(atomic.remove))
        try:
            publish(b"second")
        except KeyboardInterrupt:
            assert len(calls) == step + 1
    assert [path.read_bytes()[:-1] for path in publish(b"third")] == [b"third"] * 8


def test_outputs_below_a_mounted_disk_are_written(tmp_path):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    (out / "sub-01").mkdir(parents=True)
    words = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    mount = 'mount -t tmpfs -o size=20m none "$0"'
    if shutil.which("unshare") is None or subprocess.run([*words, mount, out], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    line = command(raw.root, out, "participant", *QUICK)
    script = [*words, f'{mount} && "$@" && find "$0"', out / "sub-01", *line]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert str(out / F_MAP) in done.stdout and str(out / MARKER) in done.stdout
    assert not [name for name in done.stdout.splitlines() if Path(name).name.startswith(".")]


# Links


@pytest.mark.parametrize("place", ["sub-01", "sub-01/dwi", "sub-01/figures", RECORDS])
def test_nothing_is_written_or_removed_through_a_link(app, tmp_path, place):
    raw, out, victim = dataset(tmp_path / "bids"), tmp_path / "out", tmp_path / "victim"
    put(victim / "sub-01_desc-fmap_dwi.png", "precious")
    put(victim / "run-sub-01.json", "precious")
    (out / place).parent.mkdir(parents=True)
    (out / place).symlink_to(victim)
    before = files(victim)
    for flags in ((), EVERY_FLAG):
        call = app.quick(raw, out, *flags)
        assert call.code == 73, call.text
        assert f"{out / place} is a link" in call.err and "another output folder" in call.err
    assert files(victim) == before
    assert [path.name for path in out.rglob("*") if path.is_file() and place not in path.as_posix()] == []


def test_a_link_to_the_output_folder_itself_is_the_users_word(app, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert app.quick(dataset(tmp_path / "bids"), tmp_path / "out").code == 0
    assert (tmp_path / "disk" / F_MAP).is_file()


def test_no_private_file_gets_into_the_files_at_the_top(app, tmp_path):
    private = put(tmp_path / "home" / "private.txt", "secret")
    for name in ("descriptions.tsv", ".bidsignore", "CITATION.md", "dataset_description.json"):
        out = tmp_path / f"out-{name}"
        out.mkdir()
        (out / name).symlink_to(private)
        call = app.quick(dataset(tmp_path / f"bids-{name}"), out)
        assert call.code in (0, 65), call.text
        assert not [path for path in out.rglob("*") if not path.is_symlink() and b"secret" in content(path)]
    assert private.read_text() == "secret"


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


# The files at the top


def test_the_files_at_the_top_are_merged_or_left(app, tmp_path):
    out = tmp_path / "out"
    described = {
        "Name": "Ours and theirs",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Prep", "Version": "1"}, "a note"],
        "Authors": ["A", "B"],
    }
    theirs = {
        "dataset_description.json": json.dumps(described).encode(),
        "README.md": b"read me\r\n",
        "CITATION.md": b"cite Prep",
        ".bidsignore": b"*.html\r\nsecret_\xff\xfe\n*_xyz",
        "descriptions.tsv": b"desc_id\tdescription\tnote\ndesc-preproc\tof Prep\tkept\n\tno label\tkept\n",
        "logs/CITATION.md": b"cite",
    }
    for name, text in theirs.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(text)
    raw = dataset(tmp_path / "bids")
    for flags in ((), EVERY_FLAG):
        assert app.quick(raw, out, *flags).code == 0
        now = files(out)
        assert all(now[name] == theirs[name] for name in ("README.md", "CITATION.md", "logs/CITATION.md"))
        assert all(now[name].startswith(theirs[name]) for name in (".bidsignore", "descriptions.tsv"))
        merged = json.loads(now["dataset_description.json"])
        assert {key: merged[key] for key in ("Name", "BIDSVersion", "Authors")} == {
            key: described[key] for key in ("Name", "BIDSVersion", "Authors")
        }
        assert merged["GeneratedBy"][0]["Name"] == "sicnn-app"
        assert merged["GeneratedBy"][1:] == described["GeneratedBy"]
    rows = [line.split("\t") for line in now["descriptions.tsv"].decode().splitlines()]
    assert {len(row) for row in rows} == {3}
    assert [row[0] for row in rows].count("desc-preproc") == 1 and ["desc-ivim"] in [row[:1] for row in rows]


def test_its_own_citation_is_brought_up_to_date(app, tmp_path, monkeypatch):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(raw, out).code == 0
    monkeypatch.setattr("sicnn_app.report.methods.citation_markdown", lambda: "cite the new version\n")
    assert app.quick(raw, out).code == 0
    assert (out / "CITATION.md").read_text() == "cite the new version\n"


# The record


anything = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
)


@given(anything)
def test_a_record_that_says_anything_lets_nothing_be_replaced(tmp_path_factory, value):
    out = tmp_path_factory.mktemp("out")
    theirs = put(out / "sub-01.html")
    put(out / RECORDS / "report-sub-01.json", json.dumps({"Files": value}))
    record = WrittenRecord(out, "report-sub-01")
    assert record.foreign([theirs]) == [theirs] and record.ours([]) == []


@pytest.mark.parametrize("name", ["../precious", "/precious", "sub-01/../../precious"])
def test_a_record_never_leads_out_of_the_output(tmp_path, name):
    precious = put(tmp_path / "precious")
    size, digest = atomic.content_of(precious)
    name = str(precious) if name.startswith("/") else name
    put(tmp_path / "out" / RECORDS / "run-sub-01.json", json.dumps({"Files": {name: [[size, digest]]}}))
    assert WrittenRecord(tmp_path / "out", "run-sub-01").ours([]) == []


def test_a_record_of_what_no_file_can_be_called_names_none(tmp_path):
    put(tmp_path / RECORDS / "run-sub-01.json", json.dumps({"Files": {"sub-01\0": [[1, "digest"]]}}))
    assert WrittenRecord(tmp_path, "run-sub-01").ours([]) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_a_folder_that_another_user_keeps_closed_is_named():
    out = Path(tempfile.mkdtemp())
    out.chmod(0o777)
    target = put(out / F_MAP)
    (out / "sub-01").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match=f"^{target.parent} cannot be reached"):
            WrittenRecord(out, "run-sub-01").foreign([target])
    finally:
        os.seteuid(0)
        shutil.rmtree(out)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_a_record_of_another_user_is_not_believed(app, tmp_path):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    theirs = put(out / "sub-01.html")
    size, digest = atomic.content_of(theirs)
    planted = put(
        out / RECORDS / "report-sub-01.json", json.dumps({"Files": {"sub-01.html": [[size, digest]]}})
    )
    os.chown(planted, 65534, 65534)
    assert app.quick(raw, out).code == 73
    assert theirs.read_text() == "of another program"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_a_record_of_another_user_speaks_for_their_files_only(tmp_path):
    out = tmp_path / "out"
    contents = {}
    for name in ("theirs.txt", "ours.txt"):
        path = put(out / name)
        contents[name] = [atomic.content_of(path)]
    record = put(out / RECORDS / "group.json", json.dumps({"Files": contents}))
    for path in (record, out / "theirs.txt"):
        os.chown(path, 65534, 65534)
    assert WrittenRecord(out, "group").ours([out / "theirs.txt"]) == [out / "theirs.txt"]
    assert WrittenRecord(out, "group").foreign([out / "theirs.txt", out / "ours.txt"]) == [out / "ours.txt"]


@pytest.fixture
def open_folder():
    """A folder that other users can reach; that of pytest is closed to them."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


@contextmanager
def user(number: int) -> Iterator[None]:
    """Context in which this process acts for another user with the usual mask of permissions."""
    mask = os.umask(0o022)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.umask(mask)


def publish(out: Path, unit: str, content: bytes, *names: str) -> None:
    with scratch_folder(out) as folder:
        staged = StagedFiles(folder)
        for name in names:
            staged.add_bytes(out / name, content)
        staged.publish(WrittenRecord(out, unit))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=["open", "sticky"])
def test_users_share_a_folder_that_all_may_write(open_folder, mode):
    out = open_folder / "out"
    out.mkdir()
    out.chmod(mode)
    # What Python loads when it is first needed may lie where other users cannot read.
    publish(open_folder / "elsewhere", "group", b"loaded", "group.html")
    with user(4001):
        publish(out, "run-sub-01", b"first", "sub-01/a")
        publish(out, "group", b"first", "group.html")
    with user(4002):
        publish(out, "run-sub-02", b"second", "sub-02/a")
        group, run = WrittenRecord(out, "group"), WrittenRecord(out, "run-sub-01")
        assert group.foreign([out / "group.html"]) == ([] if mode == 0o777 else [out / "group.html"])
        if mode == 0o777:
            publish(out, "group", b"second", "group.html")
        with pytest.raises(OutputError, match="cannot be written"):
            publish(out, "run-sub-01", b"second", "sub-01/a")
        assert run.is_ours(out / "sub-01" / "a")
    assert (out / "group.html").read_bytes() == (b"second" if mode == 0o777 else b"first")
    assert (out / "sub-01" / "a").read_bytes() == b"first"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_nothing_goes_where_not_everything_can_be_replaced(open_folder):
    out, names = open_folder / "out", ("sub-01/figures/a", "sub-01.html")
    out.mkdir()
    out.chmod(0o777)
    publish(open_folder / "elsewhere", "group", b"loaded", "group.html")
    with user(4001):
        publish(out, "report-sub-01", b"first", *names)
    before = files(out)
    with user(4002), pytest.raises(OutputError, match=r"figures.*cannot be written"):
        publish(out, "report-sub-01", b"second", *names)
    assert files(out) == before
    with user(4001):
        publish(out, "report-sub-01", b"third", *names)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_a_folder_that_is_not_for_this_user_is_told_before_anything_is_done(open_folder):
    raw, out = dataset(open_folder / "bids"), open_folder / "out"
    (out / "sub-01").mkdir(parents=True)
    out.chmod(0o777)
    call = subprocess.run(
        [*as_user(4001), *command(raw.root, out, "participant", *QUICK)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment(),
    )
    assert call.returncode == 73 and f"{out / 'sub-01'}: cannot be written (Permission denied)" in call.stderr
    assert files(out) == {}


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_something_else_in_the_place_of_the_record_hangs_nothing(app, tmp_path, kind):
    raw, out = dataset(tmp_path / "bids"), tmp_path / "out"
    theirs = put(out / "sub-01.html")
    place = out / RECORDS / "report-sub-01.json"
    place.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    assert app.quick(raw, out).code == 73
    theirs.unlink()
    assert app.quick(raw, out).code == (0 if kind != "folder" else 73)
