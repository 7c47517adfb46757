"""Write files so that a final name never carries half a file.

Files are written below ``OUTPUT_DIR/.work`` (same file system, and all that may remain after a kill),
flushed to disk and then renamed. The same content always becomes the same bytes.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib

from sicnn_app.derivatives.written import WrittenRecord, content_of, remove
from sicnn_app.errors import OutputError
from sicnn_app.files import folder_below
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.system.locks.owned import owned_folder
from sicnn_app.system.memory import release

if TYPE_CHECKING:
    from typing_extensions import Buffer

WORK_FOLDER = ".work"
"""Folder below the output that holds whatever is not finished."""

COMPRESSION_LEVEL = 1
"""Float noise hardly compresses; higher levels take several times longer for a few per cent."""

_ADVICE = {
    errno.ENOSPC: "no space left on the device: free space or name another output folder",
    errno.EDQUOT: "the disk quota is used up: free space or name another output folder",
    errno.EROFS: "the file system is read-only: name another output folder",
    errno.EACCES: "permission denied: make the folder writable or name another output folder",
    errno.EPERM: "not permitted: make the folder writable or name another output folder",
}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an ``OutputError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents; raises OutputError."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def scratch_folder(output_dir: Path) -> Iterator[Path]:
    """A private folder below ``output_dir/.work``, removed at the end with its parent when empty.

    Raises OutputError when it cannot be created.
    """
    work = Path(output_dir) / WORK_FOLDER
    with ExitStack() as stack:
        with output_errors(work):
            folder = stack.enter_context(owned_folder(work, "write"))
        yield folder


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(temporary: Path, target: Path, root: Path) -> None:
    """Put a file that is safely on disk in its place, through no link below ``root``."""
    with output_errors(target):
        _sync(temporary)
        with folder_below(root, target.parent, create=True) as folder:
            try:
                os.replace(temporary, target.name, dst_dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_beside(temporary, target.name, folder)
        # Some network file systems cannot flush a folder; the files themselves are safe.
        with suppress(OSError):
            _sync(target.parent)


def _copy_beside(temporary: Path, name: str, folder: int) -> None:
    """The same into a folder of another disk, where only what lies beside the place can be renamed."""
    beside = f".{uuid.uuid4().hex}"
    try:
        opener = partial(os.open, mode=0o666, dir_fd=folder)
        with temporary.open("rb") as source, open(beside, "xb", opener=opener) as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise


def save_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, which is a temporary path: nothing is there, not even a link."""
    with path.open("xb") as stream:
        stream.write(content)


class _Releasing(gzip.GzipFile):
    """A stream that gives up the memory of ``values``, which are being written, volume by volume."""

    values: Any

    def write(self, content: Buffer) -> int:
        release(self.values)
        return super().write(content)


def save_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write ``image`` to ``path`` (.nii.gz), which is a temporary path.

    The gzip header carries neither time nor name, so equal images are equal files.
    """
    with (
        path.open("xb") as file,
        _Releasing("", "wb", COMPRESSION_LEVEL, fileobj=file, mtime=0) as stream,
    ):
        stream.values = image.dataobj
        image.to_stream(stream)


def write_bytes(target: Path, content: bytes, output_dir: Path) -> None:
    """Write a file below ``output_dir`` at once; an existing one stays as it was when that fails.

    Its folder is created. Raises OutputError, naming ``target``, when the file system refuses.
    """
    with scratch_folder(output_dir) as folder:
        temporary = folder / target.name
        with output_errors(target):
            save_bytes(temporary, content)
        _rename(temporary, target, Path(output_dir))


class StagedFiles:
    """Files of one unit of work: written completely to a private folder, then renamed together.

    A full disk is met before any final name changes, so earlier outputs survive it. The private folder is on
    the file system of the targets, see :func:`scratch_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staged: list[tuple[Path, Path]] = []

    @property
    def targets(self) -> list[Path]:
        """Final names in the order in which they were added."""
        return [target for _, target in self._staged]

    def _add(self, target: Path) -> Path:
        # Without the name, which may be as long as the file system allows already.
        temporary = self._folder / f"{len(self._staged)}{''.join(target.suffixes)}"
        self._staged.append((temporary, target))
        return temporary

    def add_file(self, temporary: Path, target: Path) -> None:
        """Stage for ``target`` a file that lies complete in the private folder."""
        self._staged.append((temporary, target))

    def add_bytes(self, target: Path, content: bytes) -> None:
        """Stage ``content`` for ``target``; raises OutputError."""
        with output_errors(target):
            save_bytes(self._add(target), content)

    def add_json(self, target: Path, content: Any) -> None:
        """Stage JSON for ``target``; raises OutputError, or ValueError for NaN."""
        self.add_bytes(target, json_bytes(content))

    def add_tsv(self, target: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Stage tab-separated values for ``target``; raises OutputError."""
        self.add_bytes(target, tsv_bytes(columns, rows))

    def add_nifti(self, target: Path, image: nib.Nifti1Image) -> None:
        """Stage an image for ``target``; raises OutputError."""
        with output_errors(target):
            save_nifti(self._add(target), image)

    def publish(self, record: WrittenRecord) -> list[Path]:
        """Rename every staged file to its final name, the last one last.

        They replace whatever the app wrote for the same unit of work before, as ``record`` names it.

        Raises
        ------
        OutputError
            The file system refuses; or a file under one of the final names is not as the app wrote it, and
            nothing has changed.
        """
        with output_errors(record.path):
            record.make_folder()
            staged = {target: content_of(temporary) for temporary, target in self._staged}
        earlier = record.ours(self.targets)
        # Before any final name changes: a process that is killed meanwhile leaves only files on record.
        write_bytes(record.path, json_bytes(record.announce(staged)), record.output_dir)
        for target in reversed(earlier):
            with output_errors(target):
                remove(target, record.output_dir)
        for temporary, target in self._staged:
            _rename(temporary, target, record.output_dir)
        write_bytes(record.path, json_bytes(record.settle(staged)), record.output_dir)
        return self.targets
