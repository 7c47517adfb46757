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


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def checkpoint(path, key: str = "key", **options) -> TrainingCheckpoint:
    """A checkpoint that writes whatever it is offered."""
    eager = {"clock": lambda: 0.0, "least_interval": 0.0, "first_write": 0.0, "snapshot_interval": 0.0}
    return TrainingCheckpoint(path, key, **{**eager, **options})


def assert_is_state(found) -> None:
    assert found.keys() == STATE.keys() and found["text"] == "é"
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert found["weights"]["b"].dtype == torch.int64
    assert torch.equal(found["generator"], STATE["generator"])
    assert repr(found["history"]) == repr(STATE["history"])


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "training.checkpoint"
    checkpoint(path).offer(lambda: STATE)
    return path


def test_another_process_reads_what_was_offered(written):
    assert_is_state(checkpoint(written).load())
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_nothing_there_is_nothing(tmp_path):
    assert checkpoint(tmp_path / "none").load() is None
    assert checkpoint(tmp_path / "no folder" / "none").load() is None
    assert checkpoint(tmp_path).load() is None


def test_another_key_is_ignored(written):
    assert checkpoint(written, "other key").load() is None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "c"
    checkpoint(path).offer(lambda: STATE)
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
    assert checkpoint(path).load() is None


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
    assert checkpoint(path).load() is None
    assert not canary.exists()
    pickle.loads(pickled)
    assert canary.exists(), "the payload is harmless: the test proves nothing"


@pytest.mark.parametrize("content", [[1], {"state": {}}, {"key": "key", "state": 5}, {"key": "key"}])
def test_a_file_of_another_layout_is_ignored(tmp_path, content):
    stream = io.BytesIO()
    torch.save(content, stream)
    path = tmp_path / "c"
    path.write_bytes(MAGIC + hashlib.sha256(stream.getvalue()).digest() + stream.getvalue())
    assert checkpoint(path).load() is None


def test_snapshots_are_rare_and_the_first_write_comes_after_seconds(tmp_path):
    clock, taken = Clock(), []
    path = tmp_path / "c"
    saver = TrainingCheckpoint(path, "key", clock=clock)
    written_at = None
    for _ in range(200):
        saver.offer(lambda: taken.append(clock.now) or {"t": clock.now})
        if written_at is None and path.exists():
            written_at = clock.now - 1000.0
        clock.now += 0.05
    assert 9 <= len(taken) <= 11
    assert 5.0 <= written_at <= 10.0
    assert saver.flush()
    assert TrainingCheckpoint(path, "key").load() == {"t": taken[-1]}


@settings(max_examples=20, deadline=None)
@given(snapshot=st.floats(0.0, 0.5), write=st.floats(0.0, 5.0), epoch=st.floats(0.01, 30.0))
def test_the_cost_is_at_most_two_percent_of_the_time(tmp_path_factory, snapshot, write, epoch):
    clock, spent = Clock(), []

    class Slow(TrainingCheckpoint):
        def _write(self, state):
            clock.now += write
            spent.append(write)

    def state():
        clock.now += snapshot
        spent.append(snapshot)
        return {}

    saver = Slow(tmp_path_factory.mktemp("slow") / "c", "key", clock=clock)
    while clock.now < 6000.0:
        clock.now += epoch
        saver.offer(state)
    # The last snapshot and the last write are paid for by the time after them.
    assert sum(spent) - snapshot - write <= 0.02 * (clock.now - 1000.0)
    assert len(spent) > 4


def test_the_newest_snapshot_is_written_at_the_end(tmp_path):
    path = tmp_path / "c"
    saver = TrainingCheckpoint(path, "key", snapshot_interval=0.0)
    assert not saver.flush()
    saver.offer(lambda: {"epoch": 1})
    assert not path.exists()
    assert saver.flush() and checkpoint(path).load() == {"epoch": 1}
    before = path.stat().st_mtime_ns
    assert saver.flush() and path.stat().st_mtime_ns == before


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    path = tmp_path / "c"
    saver = checkpoint(path)
    saver.offer(lambda: {"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        saver.offer(lambda: {"epoch": 2})
        saver.offer(lambda: {"epoch": 3})
        assert saver.flush() is False
    (warning,) = saver.warnings
    assert str(path) in warning and "No space left" in warning
    assert checkpoint(path).load() == {"epoch": 1}, "the older state stays"
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    assert saver.flush() and checkpoint(path).load() == {"epoch": 3}


def test_a_folder_that_is_gone_stops_nothing(tmp_path):
    saver = checkpoint(tmp_path / "gone" / "c")
    saver.offer(lambda: {"epoch": 1})
    assert not saver.flush() and len(saver.warnings) == 1
    saver.remove()


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_signal_in_the_middle_of_a_write_leaves_a_whole_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "c"
    saver = checkpoint(path)
    saver.offer(lambda: {"epoch": 1})

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            saver.offer(lambda: {"epoch": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["c"]
    assert checkpoint(path).load() == {"epoch": 1}
    assert saver.flush() and checkpoint(path).load() == {"epoch": 2}


def test_a_handler_may_flush_in_the_middle_of_a_write(tmp_path, monkeypatch):
    path, nested = tmp_path / "c", []
    saver = checkpoint(path)
    fsync = os.fsync

    def handler(descriptor):
        fsync(descriptor)
        if not nested:
            nested.append(True)
            assert saver.flush()

    monkeypatch.setattr(os, "fsync", handler)
    saver.offer(lambda: {"epoch": 1})
    assert nested and checkpoint(path).load() == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def test_an_interrupted_snapshot_leaves_the_one_before(tmp_path):
    saver = checkpoint(tmp_path / "c")
    saver.offer(lambda: {"epoch": 1})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saver.offer(interrupted)
    assert saver.flush() and checkpoint(tmp_path / "c").load() == {"epoch": 1}


def test_removing_leaves_nothing(tmp_path):
    path, other = tmp_path / "c", tmp_path / "c2.x.tmp"
    other.touch()
    (tmp_path / "c.abc.tmp").touch()
    saver = checkpoint(path)
    saver.offer(lambda: {"epoch": 1})
    saver.remove()
    saver.remove()
    assert list(tmp_path.iterdir()) == [other]
    assert not saver.flush()


def test_what_a_killed_process_left_half_written_goes(written):
    (written.parent / f"{written.name}.q1.tmp").write_bytes(b"half")
    assert_is_state(checkpoint(written).load())
    assert [path.name for path in written.parent.iterdir()] == [written.name]
