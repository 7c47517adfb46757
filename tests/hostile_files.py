"""What somebody may have put in the place of an output."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

SECRET = "what only the owner may read"


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def as_link_to_itself(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def as_link_to_a_secret(path: Path) -> None:
    """A link to a valid file of the same kind outside of the output folder."""
    move_out(path, path.parents[3] / f"secret{''.join(path.suffixes)}")


def as_link_to_a_secret_annex(path: Path) -> None:
    """The same where somebody has annexed it."""
    key = f"MD5E-s1--0{''.join(path.suffixes)}"
    move_out(path, path.parents[3] / "private" / ".git" / "annex" / "objects" / "Xx" / "01" / key / key)


def move_out(path: Path, elsewhere: Path) -> None:
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, elsewhere)
    if path.suffix == ".json":
        elsewhere.write_text(json.dumps({**json.loads(elsewhere.read_text()), "Warnings": [SECRET]}))
    path.symlink_to(elsewhere)


def as_sparse(path: Path) -> None:
    """20 GB that take no room on the disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(20 << 30)


IN_PLACE: dict[str, Callable[[Path], None]] = {
    "a pipe": as_pipe,
    "a folder": as_folder,
    "a link to itself": as_link_to_itself,
    "a link to elsewhere": as_link_to_a_secret,
    "a link to an annex elsewhere": as_link_to_a_secret_annex,
    "20 GB": as_sparse,
}


def save(path: Path, values: np.ndarray) -> None:
    path.unlink(missing_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def save_bomb(path: Path, shape: tuple[int, ...]) -> None:
    """An image of zeros, float32, that is a thousand times smaller on the disk than in memory."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    member = 1 << 24
    count = -(-4 * int(np.prod(shape, dtype=object)) // member)
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + gzip.compress(bytes(member)) * count)


def png_bomb(side: int) -> bytes:
    """A black picture of ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(side + 1)) for _ in range(side)) + rows.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value, numbers that no float holds and halves of surrogates included."""
    numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, -1e308, 5e-324])
    texts = st.text(max_size=5) | st.sampled_from(["$x^{", "\ud800", "\0", "n/a", "1e999", "-5", "</script>"])
    leaves = st.none() | st.booleans() | numbers | texts
    return st.recursive(
        leaves,
        lambda items: st.lists(items, max_size=3) | st.dictionaries(texts, items, max_size=3),
        max_leaves=6,
    )


def places(content: Any, start: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value, as the keys that lead there."""
    yield start
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*start, key))


def replaced(content: Any, place: tuple, value: Any) -> Any:
    """The same JSON value with another one at a place."""
    if not place:
        return value
    copy = content.copy()
    copy[place[0]] = replaced(content[place[0]], place[1:], value)
    return copy
