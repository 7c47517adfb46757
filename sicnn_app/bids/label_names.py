"""Names of regions by their indices: of a NIfTI header, FreeSurfer's colour table, or a ``*_dseg.tsv``."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from sicnn_app.bids.images import NIFTI_MAGIC, READ_ERRORS
from sicnn_app.bids.text_files import read_table, read_text
from sicnn_app.bids.unpacked import Unpacked
from sicnn_app.errors import DataError
from sicnn_app.files import MAX_TEXT_BYTES
from sicnn_app.formats import NOT_AVAILABLE, printable, shorten

MAX_NAME = 200
"""Letters of the name of a region."""

_SIDES = {"Left": 0, "Right": 1}

_OF_BOTH_SIDES = {
    "Cerebral-White-Matter": (2, 41), "Cerebral-Cortex": (3, 42), "Lateral-Ventricle": (4, 43),
    "Inf-Lat-Vent": (5, 44), "Cerebellum-White-Matter": (7, 46), "Cerebellum-Cortex": (8, 47),
    "Thalamus": (10, 49), "Caudate": (11, 50), "Putamen": (12, 51), "Pallidum": (13, 52),
    "Hippocampus": (17, 53), "Amygdala": (18, 54), "Accumbens-area": (26, 58), "VentralDC": (28, 60),
    "vessel": (30, 62), "choroid-plexus": (31, 63), "WM-hypointensities": (78, 79),
    "non-WM-hypointensities": (81, 82),
}  # fmt: skip

_CORTEX = (
    "unknown", "bankssts", "caudalanteriorcingulate", "caudalmiddlefrontal", "corpuscallosum", "cuneus",
    "entorhinal", "fusiform", "inferiorparietal", "inferiortemporal", "isthmuscingulate", "lateraloccipital",
    "lateralorbitofrontal", "lingual", "medialorbitofrontal", "middletemporal", "parahippocampal",
    "paracentral", "parsopercularis", "parsorbitalis", "parstriangularis", "pericalcarine", "postcentral",
    "posteriorcingulate", "precentral", "precuneus", "rostralanteriorcingulate", "rostralmiddlefrontal",
    "superiorfrontal", "superiorparietal", "superiortemporal", "supramarginal", "frontalpole",
    "temporalpole", "transversetemporal", "insula",
)  # fmt: skip
"""Of the atlas of Desikan and Killiany, in the order of their numbers: ``1000`` plus it on the left."""

FREESURFER = {
    **{
        indices[position]: f"{side}-{name}"
        for name, indices in _OF_BOTH_SIDES.items()
        for side, position in _SIDES.items()
    },
    14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem", 24: "CSF", 72: "5th-Ventricle",
    77: "WM-hypointensities", 80: "non-WM-hypointensities", 85: "Optic-Chiasm", 192: "Corpus_Callosum",
    251: "CC_Posterior", 252: "CC_Mid_Posterior", 253: "CC_Central", 254: "CC_Mid_Anterior",
    255: "CC_Anterior",
    **{
        start + number: f"ctx-{side}-{name}"
        for start, side in ((1000, "lh"), (2000, "rh"))
        for number, name in enumerate(_CORTEX)
    },
}  # fmt: skip
"""What FreeSurfer 7's ``FreeSurferColorLUT.txt`` calls the regions of aseg, and of aparc+aseg besides."""


def named(pairs: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Names that can be shown, by their indices; what is empty or ``n/a`` is left out.

    White space in a name becomes single spaces, so that names that look alike are one; letters that cannot be
    seen become escapes.
    """
    cleaned = ((index, shorten(printable(" ".join(name.split())), MAX_NAME)) for index, name in pairs)
    return {index: name for index, name in cleaned if name not in ("", NOT_AVAILABLE)}


def read_lookup(path: Path) -> dict[int, str]:
    """Names of the regions in a ``*_dseg.tsv``, with the columns ``index`` and ``name``; see :func:`named`.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, lacks a column, or holds an index that is no whole number.
    """
    found = []
    for number, row in enumerate(read_table(path, ("index", "name")), start=2):
        try:
            found.append((int(row.get("index", "")), row.get("name", "")))
        except ValueError:
            raise DataError(f"{path} holds no index in line {number}: indices are whole numbers") from None
    return named(found)


def read_colour_table(path: Path) -> dict[int, str]:
    """Names in a ``FreeSurferColorLUT.txt``: lines of an index, a name and a colour; other lines are passed.

    Raises as :func:`sicnn_app.bids.text_files.read_text`.
    """
    cells = (line.split() for line in read_text(path, errors="replace").splitlines())
    return named((int(row[0]), row[1]) for row in cells if len(row) > 1 and row[0].isdecimal())


def read_label_table(path: Path) -> dict[int, str] | None:
    """Names in the header extension of a NIfTI image, in the XML of Caret, Workbench and TotalSegmentator.

    None for an image without such a table, or one that cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return _label_table(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _label_table(path: Path, _changed: int, _size: int) -> dict[int, str] | None:
    # Asked for again and again, and the first bytes of a mask unfold to most of it.
    try:
        for content in _extensions(path):
            # Entities, which may unfold to any size, are declared in a DOCTYPE; the form has none.
            if b"<CaretExtension" not in content or b"<!DOCTYPE" in content:
                continue
            volume = ElementTree.fromstring(content.strip(b"\0 \r\n\t")).find("VolumeInformation")
            labels = [] if volume is None else volume.findall("LabelTable/Label")
            if labels:
                return named((int(label.get("Key", "")), label.text or "") for label in labels)
    except (*READ_ERRORS, ElementTree.ParseError, struct.error):
        return None
    return None


def _extensions(path: Path) -> list[bytes]:
    """Content of the extensions of code 0 between header and voxels; none of what is no small NIfTI file.

    Others are not looked at: nibabel would make objects of what they say they are.
    """
    header = Unpacked(path).start(544)
    kind = next((kind for kind, (place, magic) in NIFTI_MAGIC.items() if header[place] in magic), None)
    if kind is None:
        return []
    size = kind.header_class.sizeof_hdr
    stated = kind.header_class(header[:size], check=False)
    end = int(stated.get_data_offset())
    if not size + 4 < end <= MAX_TEXT_BYTES or not header[size]:
        return []
    content, place, found = Unpacked(path).start(end)[:end], size + 4, []
    while place + 8 <= end:
        length, code = struct.unpack_from(f"{stated.endianness}2i", content, place)
        if length < 8:
            break
        if code == 0:
            found.append(content[place + 8 : place + length])
        place += length
    return found
