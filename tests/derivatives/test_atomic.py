from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.derivatives import atomic
from sicnn_app.derivatives.written import WrittenRecord
from sicnn_app.errors import OutputError
from sicnn_app.formats import json_bytes, tsv_bytes


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_is_all_that_is_left(tmp_path: Path):
    target = tmp_path / "sub-01" / "dwi" / "sub-01_dwi.bval"
    for content in (b"0 1", b"0 1 2"):
        atomic.write_bytes(target, content, tmp_path)
        assert target.read_bytes() == content
        assert files_below(tmp_path) == ["sub-01", "sub-01/dwi", "sub-01/dwi/sub-01_dwi.bval"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_is_an_output_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.txt"
    target.write_text("old")
    monkeypatch.setattr(atomic.os, call, full)
    with pytest.raises(OutputError, match=r"a\.txt.*no space left.*free space") as caught:
        atomic.write_bytes(target, b"new", tmp_path)
    assert caught.value.exit_code == 73
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert files_below(tmp_path) == ["a.txt"]


def test_folder_that_may_not_be_written_is_an_output_error():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(OutputError, match=r"permission denied.*name another output folder"):
            atomic.write_bytes(folder / "sub-01" / "a.txt", b"new", folder)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_file_in_the_place_of_a_folder_is_an_output_error(tmp_path: Path):
    (tmp_path / "sub-01").write_text("a file")
    with pytest.raises(OutputError, match="sub-01"):
        atomic.write_bytes(tmp_path / "sub-01" / "a.txt", b"new", tmp_path)


def test_work_folder_of_another_job_survives(tmp_path: Path):
    other = tmp_path / atomic.WORK_FOLDER / "another-job"
    other.mkdir(parents=True)
    atomic.write_bytes(tmp_path / "a.txt", b"new", tmp_path)
    assert other.is_dir()
    assert files_below(tmp_path / atomic.WORK_FOLDER) == ["another-job"]


def test_images_survive_and_equal_images_are_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    data[0] = np.nan
    image = nib.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0]))
    first, second = tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"
    atomic.save_nifti(first, image)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    atomic.save_nifti(second, image)
    assert first.read_bytes() == second.read_bytes()
    np.testing.assert_array_equal(nib.load(first).get_fdata(dtype=np.float32), data)
    content = first.read_bytes()
    assert content[4:8] == bytes(4), "the time in the gzip header"
    assert len(gzip.decompress(content)) == 352 + data.nbytes


def test_json_refuses_what_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        json_bytes({"value": float("nan")})
    assert json.loads(json_bytes({"unit": "µm", "values": [1, 2.5]})) == {"unit": "µm", "values": [1, 2.5]}


def test_tsv_cells():
    row = {
        "a": None,
        "b": float("nan"),
        "c": np.float32(0.1),
        "d": np.int64(3),
        "e": True,
        "f": "",
        "g": "x\ty\n",
    }
    header, cells = tsv_bytes([*row, "absent"], [row]).decode().splitlines()
    assert header.split("\t") == [*"abcdefg", "absent"]
    assert cells.split("\t") == ["n/a", "n/a", "0.1", "3", "true", "n/a", "x y", "n/a"]


@given(rows=st.lists(st.tuples(st.floats(), st.text(max_size=20)), max_size=5))
def test_tsv_always_has_one_line_per_row_and_every_cell(rows: list[tuple[float, str]]):
    content = tsv_bytes(("number", "text"), [dict(zip(("number", "text"), row, strict=True)) for row in rows])
    table = list(csv.reader(io.StringIO(content.decode()), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(table) == len(rows) + 1
    assert all(len(line) == 2 and all(line) for line in table)
    for (number, _), (cell, _) in zip(rows, table[1:], strict=True):
        assert (cell == "n/a") == (not np.isfinite(number))
        assert cell == "n/a" or float(cell) == pytest.approx(number, rel=1e-7)


def test_staged_files_get_their_names_only_at_the_end(tmp_path: Path):
    with atomic.scratch_folder(tmp_path) as folder:
        staged = atomic.StagedFiles(folder)
        staged.add_bytes(tmp_path / "one" / "same.txt", b"1")
        staged.add_bytes(tmp_path / "two" / "same.txt", b"2")
        assert not (tmp_path / "one").exists()
        targets = staged.publish(WrittenRecord(tmp_path, "run-test"))
    assert [target.read_bytes() for target in targets] == [b"1", b"2"]
    assert [name for name in files_below(tmp_path) if not name.startswith(".")] == [
        "one", "one/same.txt", "two", "two/same.txt",
    ]  # fmt: skip
