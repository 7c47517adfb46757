"""Checkpoints: what is read back, what is never read, when it is written, what a failure does."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.system.checkpoints import MAGIC, TrainingCheckpoint

STATE = {
    "weights": {"a": torch.arange(40.0).reshape(5, 8), "b": torch.tensor(3, dtype=torch.int64)},
    "generator": torch.Generator().manual_seed(5).get_state(),
    "history": [{"epochs": 3, "loss": 0.1 + 0.2, "none": None, "nan": float("nan")}],
    "text": "é",
}


def assert_is_state(found) -> None:
    assert found.keys() == STATE.keys() and found["text"] == "é"
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert found["weights"]["b"].dtype == torch.int64
    assert torch.equal(found["generator"], STATE["generator"])
    assert repr(found["history"]) == repr(STATE["history"])


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "training.checkpoint"
    TrainingCheckpoint(path, "key").save(STATE)
    return path


def test_another_process_reads_what_was_offered(written):
    assert_is_state(TrainingCheckpoint(written, "key").load())
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_nothing_there_is_nothing(tmp_path):
    assert TrainingCheckpoint(tmp_path / "none", "key").load() is None
    assert TrainingCheckpoint(tmp_path / "no folder" / "none", "key").load() is None
    assert TrainingCheckpoint(tmp_path, "key").load() is None


def test_another_key_is_ignored(written):
    assert TrainingCheckpoint(written, "other key").load() is None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "c"
    TrainingCheckpoint(path, "key").save(STATE)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "replace"]))
    position = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[position] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        content = content[:position]
    elif kind == "add":
        content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        content = bytearray(data.draw(st.binary(max_size=300)))
    path.write_bytes(content)
    assert TrainingCheckpoint(path, "key").load() is None


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def archive(pickled: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        writer.writestr("archive/data.pkl", pickled)
        writer.writestr("archive/version", "3\n")
        writer.writestr("archive/byteorder", "little")
    return stream.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_code_in_a_file_is_never_run(tmp_path, kind, wrapped):
    canary = tmp_path / "canary"
    pickled = pickle.dumps({"key": "key", "state": Payload(str(canary))}, protocol=2)
    body = archive(pickled) if kind == "zip" else pickled
    head = MAGIC + hashlib.sha256(body).digest() if wrapped else b""
    path = tmp_path / "c"
    path.write_bytes(head + body)
    assert TrainingCheckpoint(path, "key").load() is None
    assert not canary.exists()
    pickle.loads(pickled)
    assert canary.exists(), "the payload is harmless: the test proves nothing"


@pytest.mark.parametrize("content", [[1], {"state": {}}, {"key": "key", "state": 5}, {"key": "key"}])
def test_a_file_of_another_layout_is_ignored(tmp_path, content):
    stream = io.BytesIO()
    torch.save(content, stream)
    path = tmp_path / "c"
    path.write_bytes(MAGIC + hashlib.sha256(stream.getvalue()).digest() + stream.getvalue())
    assert TrainingCheckpoint(path, "key").load() is None


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    path = tmp_path / "c"
    saver = TrainingCheckpoint(path, "key")
    saver.save({"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        saver.save({"epoch": 2})
        saver.save({"epoch": 3})
    (warning,) = saver.warnings
    assert str(path) in warning and "No space left" in warning
    assert TrainingCheckpoint(path, "key").load() == {"epoch": 1}, "the older state stays"
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    saver.save({"epoch": 4})
    assert TrainingCheckpoint(path, "key").load() == {"epoch": 4}


def test_a_folder_that_is_gone_stops_nothing(tmp_path):
    saver = TrainingCheckpoint(tmp_path / "gone" / "c", "key")
    saver.save({"epoch": 1})
    assert len(saver.warnings) == 1
    saver.remove()


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_signal_in_the_middle_of_a_write_leaves_a_whole_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "c"
    saver = TrainingCheckpoint(path, "key")
    saver.save({"epoch": 1})

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            saver.save({"epoch": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    assert TrainingCheckpoint(path, "key").load() == {"epoch": 1}
    saver.save({"epoch": 2})
    assert TrainingCheckpoint(path, "key").load() == {"epoch": 2}


def test_removing_leaves_nothing(tmp_path):
    path, other = tmp_path / "c", tmp_path / "c2.x.tmp"
    other.touch()
    (tmp_path / "c.abc.tmp").touch()
    saver = TrainingCheckpoint(path, "key")
    saver.save({"epoch": 1})
    saver.remove()
    saver.remove()
    assert list(tmp_path.iterdir()) == [other]


def test_what_a_killed_process_left_half_written_goes(written):
    (written.parent / f"{written.name}.q1.tmp").write_bytes(b"half")
    assert_is_state(TrainingCheckpoint(written, "key").load())
    assert [path.name for path in written.parent.iterdir()] == [written.name]
