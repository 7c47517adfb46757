"""Presence of a file's content, and small text files, of which never more is read than one can be."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sicnn_app.bids.unpacked import note_read
from sicnn_app.errors import DataError, MissingInputError
from sicnn_app.files import MAX_TEXT_BYTES, open_regular, parse_json, read_regular
from sicnn_app.formats import shorten

MAX_CELLS = 1_000_000
"""Of a table; 100,000 volumes with ten columns have as many."""

ANNEX_POINTER = b"/annex/objects/"
"""Start of the text git-annex leaves in place of an unlocked file that was not fetched."""


def unreadable(path: Path, error: OSError | None = None) -> DataError:
    """Error for a file or folder that is there but may not be read."""
    reason = f" ({error.strerror})" if error else ""
    return DataError(f"{path} cannot be read{reason}: check its permissions")


def can_be_entered(folder: Path) -> bool:
    """True where a folder can be listed and its files be reached.

    Tried, not asked for: ``os.access`` goes by the user alone and ignores what a process may do besides.
    """
    try:
        with os.scandir(folder):
            os.stat(os.path.join(folder, os.curdir))
    except OSError:
        return False
    return True


def require_content(path: Path) -> None:
    """Check that a file can be read.

    An annexed file is a dangling link, or (unlocked) a small text pointing into the annex.

    Raises
    ------
    MissingInputError
        It does not exist, is a folder, pipe or device, or is annexed content that was not fetched.
    DataError
        It may not be read.
    """
    not_fetched = f"the content of {path} is not here: fetch it with `datalad get {path}`"
    try:
        if path.is_symlink() and not path.exists():
            raise MissingInputError(not_fetched)
        if not path.exists():
            raise MissingInputError(f"{path} does not exist: check the name and the container's mounts")
        if not path.is_file():
            # Opening a pipe waits for somebody who writes, and a device may never end.
            raise MissingInputError(f"{path} is no file but a folder, pipe or device: put a file there")
        with os.fdopen(open_regular(path), "rb") as stream:
            start = stream.read(len(ANNEX_POINTER))
    except OSError as error:
        raise unreadable(path, error) from None
    if start == ANNEX_POINTER:
        raise MissingInputError(not_fetched)


class Boundary:
    """Tells which files of datasets are, or lie behind, links that leave them.

    ``roots`` are the folders of all datasets that were named, which may themselves be links.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._real = cache(os.path.realpath)

    def target_outside(self, path: Path) -> Path | None:
        """Where a file really lies, when that is in none of the datasets nor in an annex they belong to."""
        target = Path(self._real(path.parent), path.name)
        if target.is_symlink():
            target = Path(os.path.realpath(target))
        if any(target.is_relative_to(root) for root in self._roots):
            return None
        # Content in the annex of a dataset that one of these is part of.
        repository, found, content = str(target).partition("/.git/")
        part = any(root.is_relative_to(repository or "/") for root in self._roots)
        return None if found and part and "annex/objects/" in content else target


def read_bytes(path: Path) -> bytes:
    """Content of a small file.

    Raises as :func:`require_content`, and DataError above :data:`sicnn_app.files.MAX_TEXT_BYTES`.
    """
    require_content(path)
    try:
        content = read_regular(path)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DataError(
                f"{path} has more than {MAX_TEXT_BYTES >> 20} MB, too much for what it is: replace it"
            ) from None
        raise DataError(f"{path} cannot be read ({error.strerror}): copy it again") from None
    note_read(path, hashlib.sha256(content).hexdigest())
    return content


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Text of a small UTF-8 file, with or without a byte order mark.

    ``errors`` says what becomes of bytes that are no UTF-8, as for ``bytes.decode``. Raises as
    :func:`read_bytes`, and DataError when it is no text.
    """
    try:
        return read_bytes(path).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text (byte {error.start}): save it as plain text in UTF-8"
        ) from None


def read_json(path: Path, *, errors: str = "strict") -> dict[str, Any]:
    """Object in a small JSON file.

    Raises as :func:`read_text`, and DataError when it is not valid JSON or holds anything but one object.
    """
    text = read_text(path, errors=errors)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({shorten(str(error), 100)}): correct it") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object: correct it")
    return content


def read_table(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a small table: tab-separated text with a header line.

    A row has its cells by column. What a short row lacks is not in it, and cells beyond the header are left
    out. Raises as :func:`read_text`, and DataError for a table that lacks a required column or names one
    twice, or has more than :data:`MAX_CELLS` cells, or one that is too long.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=None), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        columns = next(lines, [])
        if missing := [column for column in required if column not in columns]:
            raise DataError(f"{path} has no column {' and no column '.join(missing)}: add what BIDS asks for")
        if len(set(columns)) < len(columns):
            raise csv.Error("two columns have the same name")
        rows: list[dict[str, str]] = []
        for cells in filter(None, lines):
            rows.append(dict(zip(columns, cells, strict=False)))
            if len(rows) * len(columns) > MAX_CELLS:
                raise csv.Error(f"more than {MAX_CELLS:,} cells")
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}): write it as tab-separated text") from None
    return rows
