"""The record of what the app has written into an output folder; nothing else there is replaced or removed.

One small JSON file per unit of work (a run, a report, the group, the dataset) below ``OUTPUT_DIR/.sicnn-app``
names every file with its size and SHA-256. Whatever has another content by now was written by another program
or a person, and is theirs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sicnn_app.errors import OutputError
from sicnn_app.files import (
    MAX_TEXT_BYTES,
    folder_below,
    open_regular,
    parse_json,
    sha256_of,
    status_of_new_file,
)

RECORDS = ".sicnn-app"
"""Folder of the records below the output."""

MAX_NAMED = 3
"""Files named in one message."""

Content = tuple[int, str]
"""Size in bytes and SHA-256 of a file."""


class WrittenRecord:
    """Files that the app has written for one unit of work.

    A record is trusted when it is a regular file of this user, of the owner of the output folder or of root;
    that of another user, where several share the folder, speaks for files of that user only: nobody can pass
    off somebody's files as written by the app.

    Parameters
    ----------
    output_dir : Path
    unit : str
        ``run-<name>``, ``report-<name>``, ``group`` or ``dataset``; whoever writes for it holds its lock.
    """

    def __init__(self, output_dir: Path, unit: str) -> None:
        self.output_dir = Path(output_dir)
        self.path = self.output_dir / RECORDS / f"{unit}.json"
        self._only_of: int | None = None
        self._known = self._read()

    def _read(self) -> dict[str, list[Content]]:
        try:
            with os.fdopen(open_regular(self.path, follow=False), "rb") as stream:
                writer = os.fstat(stream.fileno()).st_uid
                files = parse_json(stream.read(MAX_TEXT_BYTES))["Files"]
            if writer not in (os.geteuid(), 0, self.output_dir.stat().st_uid):
                self._only_of = writer
            return {
                name: [(int(size), str(digest)) for size, digest in contents]
                for name, contents in files.items()
                if not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return {}

    def _name(self, path: Path) -> str:
        return Path(path).relative_to(self.output_dir).as_posix()

    def _may_be_ours(self, path: Path) -> bool:
        """True when a file is recorded, by its size alone: reading thousands of images takes hours."""
        try:
            if self._only_of not in (None, path.lstat().st_uid):
                return False
            return path.stat().st_size in {size for size, _ in self._known.get(self._name(path), ())}
        except OSError:
            return False

    def is_ours(self, path: Path) -> bool:
        """True when a file is as the app wrote it."""
        try:
            return self._may_be_ours(path) and content_of(path) in self._known[self._name(path)]
        except OSError:
            return False

    def foreign(self, targets: Iterable[Path]) -> list[Path]:
        """Files under names to be written that the app has no record of, as far as names and sizes tell.

        Raises OutputError when a folder on the way to one of them is a link, or a file, or this user may not
        write there.
        """
        if not os.path.isdir(self.output_dir):
            return []
        targets = list(targets)
        for folder in dict.fromkeys([self.path.parent, *(target.parent for target in targets)]):
            try:
                with suppress(FileNotFoundError), folder_below(self.output_dir, folder):
                    pass
            except NotADirectoryError as error:
                raise OutputError(
                    f"{error.filename} is {error.strerror}: put a folder there, or name another output folder"
                ) from error
            except OSError as error:
                raise OutputError(
                    f"{folder} cannot be reached ({error.strerror}): change the permissions of the folders "
                    "that it is in, or name another output folder"
                ) from error
            _require_writable(folder)
        there = filter(os.path.lexists, targets)
        return [path for path in there if not (self._may_be_ours(path) and _may_go(path))]

    def ours(self, targets: Iterable[Path]) -> list[Path]:
        """Every file that is as the app wrote it; none of them, nor of ``targets``, is anybody else's.

        Raises OutputError when one of ``targets`` exists and is not as the app wrote it, or this user may not
        write everywhere: half of the files would go before that shows.
        """
        known = (self.output_dir / name for name in self._known)
        found = [path for path in known if self.is_ours(path) and _may_go(path)]
        require_free([target for target in filter(os.path.lexists, targets) if target not in found])
        for folder in dict.fromkeys(path.parent for path in (*found, *targets)):
            _require_writable(folder)
        return found

    def make_folder(self) -> None:
        """Make the folder of the records, for all who may write into the output folder; raises OSError."""
        with folder_below(self.output_dir, self.output_dir) as output, suppress(FileExistsError):
            os.mkdir(RECORDS, dir_fd=output)
            made = os.open(RECORDS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=output)
            try:
                # They could put another one in its place: a narrower mode protects nothing.
                with suppress(OSError):
                    os.fchmod(made, stat.S_IMODE(os.fstat(output).st_mode))
            finally:
                os.close(made)

    def announce(self, staged: Mapping[Path, Content]) -> dict[str, Any]:
        """Content of the record while ``staged`` replace what it names: a killed process leaves either."""
        for target, content in staged.items():
            self._known.setdefault(self._name(target), []).append(content)
        return self._content()

    def settle(self, staged: Mapping[Path, Content]) -> dict[str, Any]:
        """Content of the record when ``staged`` are in their places."""
        self._known = {self._name(target): [content] for target, content in staged.items()}
        return self._content()

    def _content(self) -> dict[str, Any]:
        return {
            "Description": "Files as sicnn-app wrote them, size in bytes and SHA-256: it changes no others",
            "Files": self._known,
        }


def _require_writable(folder: Path) -> None:
    """Make sure that this user may write into a folder, or where it would be made; raises OutputError."""
    while not os.path.lexists(folder):
        folder = folder.parent
    # Asked first, which costs less than to try; but the answer ignores what a process may do besides.
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            status_of_new_file(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror}): make the folder writable or name another "
            "output folder"
        ) from error


def _may_go(path: Path) -> bool:
    """True when this user may replace a file: in a folder with the sticky bit only its owner may."""
    user = os.geteuid()
    try:
        folder = path.parent.stat()
        return not folder.st_mode & stat.S_ISVTX or user in (0, folder.st_uid, path.lstat().st_uid)
    except OSError:
        return False


def require_free(foreign: list[Path]) -> None:
    """Refuse to touch what somebody else has written; raises OutputError."""
    if foreign:
        names = ", ".join(map(str, foreign[:MAX_NAMED]))
        more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        raise OutputError(
            f"{names}{more}: not as this app wrote it, or not written by it ({RECORDS} keeps the record), so "
            "never replaced: name another output folder, or move it away"
        )


def content_of(path: Path) -> Content:
    """Size and SHA-256 of a file; raises OSError."""
    return path.stat().st_size, sha256_of(path)


def remove(path: Path, output_dir: Path) -> None:
    """Remove a file below the output, through no link; raises OSError."""
    with suppress(FileNotFoundError), folder_below(output_dir, path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)
