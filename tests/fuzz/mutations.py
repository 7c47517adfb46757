"""A seed to a damaged run: a small valid one, some of whose bytes, header fields or words are others."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from app_runs import BVALS, body

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
SHAPES = ((6, 7, 1), (6, 6, 2), (7, 6, 3))
TYPES = (np.float32, np.int16, np.uint16, np.float64)
METADATA = {"BodyPart": "ABDOMEN", "EchoTime": 0.07, "RepetitionTime": 3.5, "Manufacturer": "Maker"}

HEADER_SIZE = 348
VOXELS = 352
"""Byte at which the voxels of a single file without extensions start."""

HARMLESS = (
    "descrip",
    "aux_file",
    "db_name",
    "intent_name",
    "cal_max",
    "cal_min",
    "toffset",
    "glmax",
    "extents",
)
"""Header fields that change nothing whatever they hold."""

FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-6, 1e6, 3e38, -3e38, np.inf, -np.inf, np.nan)
SIZES = (0, 1, 2, 3, 5, 7, 8, 9, 255, 256, 32767, -1, -8, -32768)
CODES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1, 7777)
FIELDS: dict[str, tuple] = {
    "sizeof_hdr": (0, 348, 540, -1, 2**31 - 1),
    "dim": SIZES,
    "datatype": CODES,
    "bitpix": (0, 1, 8, 16, 24, 32, 64, 128, -8),
    "vox_offset": (*FLOATS, 351.0, 352.5, 368.0, 1e15),
    "scl_slope": FLOATS,
    "scl_inter": FLOATS,
    "qform_code": (0, 1, 2, 3, 4, 5, -1, 999),
    "sform_code": (0, 1, 2, 3, 4, 5, -1, 999),
    "quatern_b": FLOATS,
    "quatern_d": FLOATS,
    "qoffset_x": FLOATS,
    "srow_x": FLOATS,
    "srow_z": FLOATS,
    "pixdim": FLOATS,
    "xyzt_units": (0, 1, 2, 3, 8, 16, 24, 255),
    "magic": (b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"n+1"),
    "intent_code": (0, 1005, 1007, 2003, -1),
    "dim_info": (0, 57, 255),
}
"""Values, odd and plain, per header field; of an array one element or all of them are set."""

WORDS = (
    "nan", "inf", "-inf", "1e999", "-1", "-0", "0", "1e-320", "1e308", "0x10", "1_0", "½", "٣", "ten", "--5",
    "+5", "5.", ".5", "5,5", "5;", "9" * 400, "1" * 5000, "\x00", "\ufeff", "\x1b[31m", "<b>", "#", "800",
    "200.0001", "199.9999",
)  # fmt: skip
BREAKS = (" ", "\n", "\t", "\r", "\r\n", "  ", "\x0b", "\u2003", ",", "")
KEYS = (
    "BodyPart", "BodyPartExamined", "EchoTime", "RepetitionTime", "Manufacturer", "PatientName",
    "SkullStripped", "MagneticFieldStrength", "SoftwareVersions", "", "\x00", "</script>",
)  # fmt: skip
TEXTS = (
    "null", "true", "[]", "{}", "0", "-1", "1e999", "NaN", "-Infinity", "9" * 5000, '""', '"BRAIN"', '"head"',
    '"\\ud800"', '"\\u0000"', '"a\\nb"', '"\\u001b[2J"', '"<script>alert(1)</script>"', '["ABDOMEN"]',
    '{"a": {"b": [1, {}]}}', "[" * 3000 + "]" * 3000, '"' + "x" * 100_000 + '"', "1.7976931348623157e308",
)  # fmt: skip


@dataclass
class Damaged:
    """One damaged run.

    Attributes
    ----------
    seed : int
    files : dict of str to bytes
        Content by ending: ``.nii`` or ``.nii.gz``, ``.bval``, ``.bvec``, ``.json``.
    done : list of str
        What was changed.
    harmless : bool
        Nothing that matters was changed: the maps must be those of the same run undamaged.
    """

    seed: int
    files: dict[str, bytes]
    done: list[str] = field(default_factory=list)
    harmless: bool = False

    @property
    def image(self) -> str:
        """Ending of the image."""
        return ".nii.gz" if ".nii.gz" in self.files else ".nii"

    def write(self, root: Path, name: str) -> None:
        """Write the files as the run ``name`` of a dataset."""
        folder = root / name / "dwi"
        folder.mkdir(parents=True)
        for ending, content in self.files.items():
            (folder / f"{name}_dwi{ending}").write_bytes(content)


def valid(rng: np.random.Generator, seed: int) -> Damaged:
    """A run without any fault: shape, type, compression and which optional files it has are drawn."""
    kind = TYPES[rng.integers(len(TYPES))]
    image = nib.Nifti1Image(body(SHAPES[rng.integers(len(SHAPES))], seed=seed % 5).astype(kind), AFFINE)
    image.header["scl_slope"], image.header["scl_inter"] = 1, 0
    content = image.to_bytes()
    compressed = bool(rng.integers(2))
    files = {
        ".nii.gz" if compressed else ".nii": gzip.compress(content, 1, mtime=0) if compressed else content
    }
    files[".bval"] = " ".join(f"{b:g}" for b in BVALS).encode()
    vectors = np.where(np.array(BVALS) > 0, np.eye(3)[:, :1], 0)
    files[".bvec"] = "\n".join(" ".join(f"{x:g}" for x in row) for row in vectors).encode()
    files[".json"] = json.dumps(METADATA).encode()
    return Damaged(seed, files)


def undamaged(seed: int) -> Damaged:
    """The run of a seed before it was damaged."""
    return valid(generator(seed), seed)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([20, 24, seed])


def damage(seed: int) -> Damaged:
    """The damaged run of a seed: always the same."""
    rng = generator(seed)
    made = valid(rng, seed)
    kinds: list[tuple[float, Callable[[np.random.Generator, Damaged], None]]] = [
        (0.12, change_image_bytes),
        (0.12, change_unpacked_bytes),
        (0.30, change_header),
        (0.06, change_voxels),
        (0.04, change_nothing_that_matters),
        (0.16, change_words),
        (0.06, change_text_bytes),
        (0.14, change_metadata),
    ]
    weights = np.array([weight for weight, _ in kinds])
    for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 4))):
        kinds[rng.choice(len(kinds), p=weights / weights.sum())][1](rng, made)
    made.harmless = all(text.startswith("harmless") for text in made.done)
    return made


def pick(rng: np.random.Generator, values: tuple | list):
    return values[rng.integers(len(values))]


def changed_bytes(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """Content with a few bytes changed anywhere, and how."""
    data = bytearray(content)
    size = max(len(data), 1)
    start, length = int(rng.integers(size)), int(2 ** rng.uniform(0, np.log2(size) + 0.1))
    how = pick(
        rng, ("flip", "flip", "set", "truncate", "insert", "delete", "repeat", "zero", "append", "swap")
    )
    if how == "flip":
        for position in rng.integers(size, size=pick(rng, (1, 1, 2, 16))):
            if data:
                data[position] ^= 1 << int(rng.integers(8))
    elif how == "set":
        data[start : start + 1] = bytes([pick(rng, (0, 1, 127, 128, 255))])
    elif how == "truncate":
        del data[start:]
    elif how == "insert":
        data[start:start] = rng.bytes(length)
    elif how == "delete":
        del data[start : start + length]
    elif how == "repeat":
        data[start:start] = data[start : start + length] * pick(rng, (1, 3))
    elif how == "zero":
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif how == "append":
        data += rng.bytes(length)
    else:
        half = len(data) // 2
        data = data[half:] + data[:half]
    return bytes(data), f"{how} at {start} of {len(content)}"


def change_image_bytes(rng: np.random.Generator, made: Damaged) -> None:
    """Bytes of the file as it lies on disk."""
    made.files[made.image], how = changed_bytes(rng, made.files[made.image])
    made.done.append(f"{made.image}: {how}")


def change_text_bytes(rng: np.random.Generator, made: Damaged) -> None:
    """Bytes of a text file."""
    ending = pick(rng, (".bval", ".bvec", ".json"))
    made.files[ending], how = changed_bytes(rng, made.files[ending])
    made.done.append(f"{ending}: {how}")


def unpacked(made: Damaged) -> bytearray:
    content = made.files[made.image]
    if made.image == ".nii":
        return bytearray(content)
    try:
        return bytearray(gzip.decompress(content))
    except (OSError, EOFError, ValueError, struct.error):
        return bytearray(content)
    except Exception as error:
        if type(error).__module__ == "zlib":
            return bytearray(content)
        raise


def pack(rng: np.random.Generator, made: Damaged, content: bytes | bytearray) -> None:
    if made.image == ".nii":
        made.files[".nii"] = bytes(content)
    else:
        made.files[".nii.gz"] = gzip.compress(bytes(content), pick(rng, (0, 1, 9)), mtime=0)


def change_unpacked_bytes(rng: np.random.Generator, made: Damaged) -> None:
    """Bytes of the image before compression, half of the time of its header."""
    content = unpacked(made)
    if rng.integers(2):
        header, how = changed_bytes(rng, bytes(content[:VOXELS]))
        content = bytearray(header) + content[VOXELS:]
    else:
        changed, how = changed_bytes(rng, bytes(content))
        content = bytearray(changed)
    pack(rng, made, content)
    made.done.append(f"image: {how}")


def change_header(rng: np.random.Generator, made: Damaged) -> None:
    """One to three fields of the header, its byte order, or the extensions behind it."""
    content = unpacked(made)
    if len(content) < VOXELS:
        return change_image_bytes(rng, made)
    header = np.ndarray((), nib.nifti1.header_dtype, buffer=content)
    how = rng.random()
    if how < 0.05:
        content[:HEADER_SIZE] = header.byteswap().tobytes()
        made.done.append("header: byte order")
    elif how < 0.12:
        size = pick(rng, (0, 1, 8, 16, 17, -16, 2**31 - 1, len(content)))
        extension = struct.pack("<4Bii", 1, 0, 0, 0, size, pick(rng, (0, 2, 4, 6, 32, 44, -1)))
        content[HEADER_SIZE:VOXELS] = extension
        made.done.append(f"header: extension of {size} bytes")
    else:
        for _ in range(pick(rng, (1, 1, 2, 3))):
            name = pick(rng, ("dim", "pixdim", *FIELDS))
            value = pick(rng, FIELDS[name])
            element = int(rng.integers(header[name].size)) if header[name].shape else None
            if element is None or rng.random() < 0.1:
                header[name] = value
            else:
                header[name][element] = value
            made.done.append(f"header: {name}{'' if element is None else f'[{element}]'} = {value!r}")
    pack(rng, made, content)
    return None


def change_voxels(rng: np.random.Generator, made: Damaged) -> None:
    """Values that no scanner writes, in some voxels or whole volumes, of a float32 image."""
    shape = pick(rng, SHAPES)
    data = body(shape)
    value = pick(rng, (*FLOATS, 1e-38, 1e20, -5.0))
    where = pick(rng, ("voxels", "volume", "slice", "column", "most"))
    if where == "voxels":
        data[rng.random(data.shape) < 0.2] = value
    elif where == "volume":
        data[..., rng.integers(data.shape[3])] = value
    elif where == "slice":
        data[:, :, rng.integers(shape[2])] = value
    elif where == "column":
        data[rng.integers(shape[0])] = value
    else:
        data[rng.random(shape) < 0.97] = value
    with np.errstate(over="ignore", invalid="ignore"):
        data = data * np.float32(pick(rng, (1.0, 1.0, 1e-30, 1e30)))
    pack(rng, made, nib.Nifti1Image(data, AFFINE).to_bytes())
    made.done.append(f"voxels: {value!r} in {where}")


def change_nothing_that_matters(rng: np.random.Generator, made: Damaged) -> None:
    """A header field nobody reads."""
    content = unpacked(made)
    if len(content) < VOXELS:
        return change_image_bytes(rng, made)
    header = np.ndarray((), nib.nifti1.header_dtype, buffer=content)
    name = pick(rng, HARMLESS)
    header[name] = np.frombuffer(rng.bytes(header[name].nbytes), dtype=header[name].dtype)[0]
    pack(rng, made, content)
    made.done.append(f"harmless: header {name}")
    return None


def change_words(rng: np.random.Generator, made: Damaged) -> None:
    """Words, order, separators or encoding of a gradient table."""
    ending = pick(rng, (".bval", ".bval", ".bvec"))
    text = made.files[ending].decode("utf-8", "replace")
    rows = [row.split() for row in text.splitlines()] or [[]]
    how = pick(
        rng, ("word", "word", "word", "drop", "add", "turn", "order", "break", "encoding", "ends", "scale")
    )
    row = pick(rng, rows)
    if how == "word" and row:
        row[rng.integers(len(row))] = pick(rng, WORDS)
    elif how == "drop" and row:
        del row[rng.integers(len(row))]
    elif how == "add":
        row.extend([pick(rng, WORDS)] * pick(rng, (1, 2, 3000)))
    elif how == "turn" and len({len(row) for row in rows}) == 1:
        rows = [list(column) for column in zip(*rows, strict=True)]
    elif how == "order":
        rng.shuffle(row)
    elif how == "scale":
        factor = pick(rng, (0.0, 1e-3, 1e3, 1e30, -1.0))
        rows = [[f"{number(word) * factor:g}" for word in row] for row in rows]
    between = pick(rng, BREAKS) if how == "break" else " "
    text = pick(rng, ("\n", "\n", "\r", "\n\n")).join(between.join(row) for row in rows)
    if how == "ends":
        text = (
            pick(rng, ("\ufeff", "\n", "# b\n", "\x00")) + text + pick(rng, ("\n", "\x1a", "\x00", " \n \n"))
        )
    encoding = pick(rng, ("utf-16", "utf-32", "utf-8-sig")) if how == "encoding" else "utf-8"
    made.files[ending] = text.encode(encoding)
    made.done.append(f"{ending}: {how}")


def number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 1.0


def change_metadata(rng: np.random.Generator, made: Damaged) -> None:
    """Keys and values of the sidecar, or its encoding."""
    how = pick(rng, ("value", "value", "value", "whole", "twice", "encoding", "comment"))
    key, value = pick(rng, KEYS), pick(rng, TEXTS)
    entries = [f"{json.dumps(name)}: {json.dumps(content)}" for name, content in METADATA.items()]
    entries.append(f"{json.dumps(key)}: {value}")
    if how == "twice":
        entries *= 2
    text = value if how == "whole" else "{" + ", ".join(entries) + "}"
    if how == "comment":
        text = pick(rng, ("// a\n", "/* a */", ",")) + text
    encoding = pick(rng, ("utf-16", "utf-8-sig", "utf-32")) if how == "encoding" else "utf-8"
    made.files[".json"] = text.encode(encoding)
    made.done.append(f".json: {how}, {key!r}: {value[:40]}")
