"""Checkpoints of a training on disk: written whole, read without pickle."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sicnn_app.files import open_regular, why_not_private
from sicnn_app.system.locks.folders import opened

MAGIC = b"sicnn-app checkpoint 1\n"
"""First bytes of every file; a SHA-256 of the rest follows, because torch verifies no checksum."""

DIGEST_SIZE = hashlib.sha256().digest_size


class Untrusted(Exception):
    """Somebody else may have made a file, or it is none; says why in words."""


def read_state(path: Path, key: str) -> dict[str, Any] | None:
    """The state in a file of :func:`write_state`; None for one that is absent, damaged or of another key.

    Only tensors and plain values are read; code in a file is never run. The maps are what a state makes of
    them, so only this user can have written it. Of the folder nothing is asked: whoever may rename files in
    it can put there no other state than one that this user wrote, and of that the key tells.

    Raises Untrusted when the file is a link, no regular file, another user's or open to changes by one, or
    not of this app.
    """
    import torch

    stream = _opened(path)
    if stream is None:
        return None
    try:
        with stream:
            digest, body = stream.read(DIGEST_SIZE), stream.read()
    except OSError:
        return None
    if digest != hashlib.sha256(body).digest():
        return None
    try:
        found = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    except Exception:  # A foreign file with a right digest can make the reader raise anything.
        return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    state = found.get("state")
    return state if isinstance(state, dict) else None


def is_state(path: Path) -> bool:
    """True for a file of this user that begins as :func:`write_state` lets it begin."""
    with suppress(Untrusted):
        stream = _opened(path)
        if stream is not None:
            stream.close()
            return True
    return False


def _opened(path: Path) -> BinaryIO | None:
    """A file of this user and app, read to the end of its first bytes; None when it is absent."""
    try:
        with ExitStack() as stack, opened(path.parent) as folder:
            stream = os.fdopen(open_regular(path.name, follow=False, dir_fd=folder), "rb")
            stack.enter_context(stream)
            reason = why_not_private(os.fstat(stream.fileno()), folder)
            # Before the rest, which may be anything and of any size.
            if reason is None and stream.read(len(MAGIC)) != MAGIC:
                reason = "no file of sicnn-app"
            if reason is not None:
                raise Untrusted(reason)
            stack.pop_all()
            return stream
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Untrusted(error.strerror or str(error)) from error


def write_state(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write tensors and plain values so that the file is complete or not there; raises OSError.

    Only this user can read the file. A process that is killed meanwhile leaves ``<name>.*.tmp`` beside it.
    """
    import torch

    # Through memory, because only Python's own writing reports a full disk as an OSError.
    body = io.BytesIO()
    torch.save({"key": key, "state": state}, body)
    # A name of its own for every write: a signal may interrupt one and flush in the meantime.
    name = f"{path.name}.{secrets.token_hex(8)}.tmp"
    with opened(path.parent) as folder:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(MAGIC + hashlib.sha256(body.getbuffer()).digest())
                stream.write(body.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise


class TrainingCheckpoint:
    """The last state of one training that lies on disk, for another process to go on from.

    The folder of the file exists. The key tells what the state belongs to: a file of another is ignored.
    Warnings say, at most once each, that an earlier state is not trusted, and that the state could not be
    written: a training never stops for that.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.warnings: list[str] = []
        self._told = False

    def load(self) -> dict[str, Any] | None:
        """The state of an earlier, interrupted process; None when there is none that fits.

        A file that is damaged, cut short, foreign or of another key is as good as none, and so is one that
        somebody else may have written, with a warning. What killed processes left half written is removed.
        """
        self._remove_temporary_files()
        try:
            return read_state(self.path, self.key)
        except Untrusted as reason:
            self.warnings.append(f"{self.path}: not used ({reason}): the training starts anew")
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write tensors and plain values in the place of the state before, which stays when that fails."""
        try:
            write_state(self.path, self.key, state)
        except (OSError, MemoryError) as error:
            if not self._told:
                self._told = True
                reason = getattr(error, "strerror", None) or str(error) or "out of memory"
                self.warnings.append(
                    f"{self.path}: the training cannot be saved ({reason}): if interrupted, it starts anew"
                )

    def remove(self) -> None:
        """Forget the state: the training is complete."""
        with suppress(OSError), opened(self.path.parent) as folder:
            os.unlink(self.path.name, dir_fd=folder)
        self._remove_temporary_files()

    def _remove_temporary_files(self) -> None:
        with suppress(OSError), opened(self.path.parent) as folder:
            for name in os.listdir(folder):
                if name.startswith(f"{self.path.name}.") and name.endswith(".tmp"):
                    os.unlink(name, dir_fd=folder)
