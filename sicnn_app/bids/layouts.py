"""Segmentations as other programs lay them out: a row per layout, and what of a folder is of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sicnn_app.bids.associate import IMAGE_EXTENSIONS, LABEL, applies
from sicnn_app.bids.derivative_datasets import SEGMENTATION_ENTITIES, own_space
from sicnn_app.bids.images import MGH_EXTENSIONS
from sicnn_app.bids.label_names import read_label_table
from sicnn_app.bids.text_files import unreadable

RECOGNISED = (
    "BIDS (sub-<label>/dwi/..._dseg.nii.gz), TotalSegmentator (sub-<label>/liver.nii.gz ..., or one "
    "sub-<label>.nii.gz), FreeSurfer and FastSurfer (sub-<label>/mri/aseg.mgz ...) and SynthSeg "
    "(sub-<label>..._synthseg.nii.gz)"
)
"""What segmentations are recognised by, for messages."""

EXTENSIONS = (*IMAGE_EXTENSIONS, *MGH_EXTENSIONS)

DATATYPES = ("anat", "dwi")
"""Folders of a participant or session in which files named for it are looked for."""

OF_A_SESSION = ("sub", "ses")

IN_ANATOMY = (None, "T1w")
"""``space`` labels of maps over which what was made of an anatomical image of the session can lie."""

FREESURFER_LABELS = frozenset({"aseg", "aparcaseg", "synthseg"})
"""Labels of ``desc`` or ``seg`` under which others write FreeSurfer's indices."""

_ENTITY = re.compile(rf"([0-9A-Za-z]+)-({LABEL.pattern})")

_STRUCTURE = re.compile(r"[A-Za-z][0-9A-Za-z_+-]*")
"""Name of an image of one structure, as ``kidney_left``."""

_WHOLE = ("", "seg", "dseg", "segmentation", "segmentations")
"""What an image of all structures is called besides what it is of."""

_TEMPLATE = re.compile(r"MNI|ICBM|fs|OASIS|NKI|PNC|UNC|Talairach", re.IGNORECASE)
"""Starts of the ``space`` labels of templates, in which no participant lies."""


@dataclass(frozen=True)
class Unit:
    """A folder or image that is named for a participant, or for a session or image of one.

    Attributes
    ----------
    entities : dict of str to str
        In its name and the names of the folders it lies in.
    rest : str
        Of its name, without extension: ``T1w_synthseg`` of ``sub-01_T1w_synthseg.nii.gz``.
    """

    path: Path
    entities: dict[str, str]
    rest: str

    @property
    def is_image(self) -> bool:
        """True when its name is that of an image."""
        return self.path.name.endswith(EXTENSIONS)


@dataclass(frozen=True)
class Layout:
    """How a program lays out its segmentations.

    Attributes
    ----------
    find : callable
        Of what lies in a :class:`Unit`, or it is, to the files of a segmentation by what its name has besides
        that of the dataset.
    from_freesurfer : bool
        Indices are those of FreeSurfer's colour table, and the image is made of an anatomical one.
    masks : bool
        The files are one mask per structure.
    """

    program: str
    find: Callable[[Unit], dict[str, tuple[Path, ...]]]
    from_freesurfer: bool = False
    masks: bool = False


@dataclass(frozen=True)
class LaidOut:
    """Files that are one segmentation, in the order of their names, and what says of which run it is."""

    program: str
    label: str
    files: tuple[Path, ...]
    entities: dict[str, str]
    from_freesurfer: bool = False
    masks: bool = False

    @property
    def path(self) -> Path:
        """The image, or the folder of several."""
        return self.files[0].parent if self.masks else self.files[0]

    @property
    def anatomical(self) -> bool:
        """True when it was made of an anatomical image, in whose space it lies."""
        return self.program != BIDS and (self.from_freesurfer or self.files[0].parent.name == "anat")

    @property
    def source(self) -> dict[str, str]:
        """Entities that have to be its run's: of an anatomical image participant and session alone."""
        return {
            key: label
            for key, label in self.entities.items()
            if (key in OF_A_SESSION if self.anatomical else key not in SEGMENTATION_ENTITIES)
        }

    @property
    def space(self) -> str | None:
        """As of :func:`sicnn_app.bids.derivative_datasets.own_space`."""
        return own_space(self.entities)

    def can_lie_in(self, space: str | None) -> bool:
        """True unless the names of both say that it lies in another space than a run."""
        if self.space == space:
            return True
        if self.anatomical:
            return self.space in IN_ANATOMY and space in IN_ANATOMY
        return not _TEMPLATE.match(self.space or "")


BIDS = "BIDS"
"""Stands for the program of what has a name of BIDS where that is looked for."""


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(end) for end in EXTENSIONS if path.name.endswith(end)), path.name)


def _split(stem: str) -> tuple[dict[str, str], str]:
    """Entities at the start of a name, and its rest; FreeSurfer puts a template behind ``.long.``."""
    parts = stem.partition(".long.")[0].split("_")
    entities = {}
    while parts and (entity := _ENTITY.fullmatch(parts[0])):
        entities[entity[1]] = entity[2]
        del parts[0]
    return entities, "_".join(parts)


def _first(*patterns: str) -> Callable[[Unit], dict[str, tuple[Path, ...]]]:
    """The first file that a folder has of these, as ``aseg`` or ``aparcaseg``."""

    def find(unit: Unit) -> dict[str, tuple[Path, ...]]:
        if unit.is_image:
            return {}
        path = next((path for pattern in patterns for path in sorted(unit.path.glob(pattern))), None)
        if path is None:
            return {}
        return {"aparcaseg" if path.name.startswith("aparc") else "aseg": (path,)}

    return find


def _structures(unit: Unit) -> dict[str, Path]:
    """Images in a folder that are named for nothing but what they show, by that."""
    found: dict[str, Path] = {}
    for pattern in () if unit.is_image else ("segmentations/*.nii*", "*.nii*"):
        for path in sorted(unit.path.glob(pattern)):
            stem = _stem(path)
            if stem != path.name and _STRUCTURE.fullmatch(stem) and not _split(stem)[0]:
                found.setdefault(stem, path)
    return found


def _multi_label(unit: Unit) -> dict[str, tuple[Path, ...]]:
    """Images whose header names labels, and those that are called as one of all structures."""
    candidates = {unit.rest: unit.path} if unit.is_image else _structures(unit)
    kinds = [unit.entities[key] for key in ("seg", "desc") if unit.is_image and key in unit.entities]
    return {
        ":".join([*kinds, *([] if name in _WHOLE else [name])]): (path,)
        for name, path in candidates.items()
        if "synthseg" not in name.lower()
        and (read_label_table(path) is not None or (name in _WHOLE and not kinds and name != "dseg"))
    }


def _masks(unit: Unit) -> dict[str, tuple[Path, ...]]:
    # An image whose header names labels is of the other layout.
    found = [
        path
        for name, path in sorted(_structures(unit).items())
        if name not in _WHOLE and "synthseg" not in name.lower() and read_label_table(path) is None
    ]
    return {"": tuple(found)} if found else {}


def _synthseg(unit: Unit) -> dict[str, tuple[Path, ...]]:
    if unit.is_image:
        return {"synthseg": (unit.path,)} if "synthseg" in unit.rest.lower() else {}
    found = [
        path
        for place in ("", "mri/")
        for path in sorted(unit.path.glob(f"{place}*[sS]ynth[sS]eg*"))
        if path.name.endswith(EXTENSIONS) and not _split(_stem(path))[0]
    ]
    return {"synthseg": (found[0],)} if found else {}


def _fmriprep(unit: Unit) -> dict[str, tuple[Path, ...]]:
    desc = unit.entities.get("desc")
    known = unit.is_image and unit.rest == "dseg" and desc in FREESURFER_LABELS
    return {str(desc): (unit.path,)} if known else {}


_FASTSURFER_CORTEX = [f"mri/aparc.DKTatlas+aseg.{kind}.mgz" for kind in ("mapped", "deep.withCC", "deep")]

LAYOUTS: tuple[Layout, ...] = (
    Layout("TotalSegmentator", _masks, masks=True),
    Layout("FreeSurfer", _first("mri/aseg.mgz"), from_freesurfer=True),
    Layout("FastSurfer", _first("mri/aseg.auto.mgz", "mri/aseg.auto_noCCseg.mgz"), from_freesurfer=True),
    Layout("FreeSurfer", _first("mri/aparc+aseg.mgz"), from_freesurfer=True),
    Layout("FastSurfer", _first(*_FASTSURFER_CORTEX), from_freesurfer=True),
    Layout("SynthSeg", _synthseg, from_freesurfer=True),
    Layout("fMRIPrep", _fmriprep, from_freesurfer=True),
    Layout("TotalSegmentator", _multi_label),
)
"""Of one label the first row that a unit has counts."""


class Tree:
    """Folders of a dataset, each listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, list[Path]] = {}

    def _listing(self, folder: Path) -> list[Path]:
        """Raises DataError for a folder that cannot be read."""
        if folder not in self._listings:
            try:
                self._listings[folder] = sorted(folder.iterdir())
            except FileNotFoundError:
                self._listings[folder] = []
            except OSError as error:
                raise unreadable(folder, error) from None
        return self._listings[folder]

    def units(self, subject: str) -> Iterator[Unit]:
        """What is named for a participant or lies in its folder, with its sessions and datatypes."""
        waiting: list[tuple[Path, dict[str, str]]] = [(self.root, {})]
        for folder, around in waiting:
            for path in self._listing(folder):
                if not around and not path.name.startswith(f"sub-{subject}"):
                    continue
                inside = around if path.name in DATATYPES else {}
                entities, rest = _split(_stem(path))
                unit = Unit(path, {**around, **entities}, "" if inside else rest)
                if not (entities or inside) or unit.entities.get("sub") != subject:
                    continue
                if not unit.is_image and not path.is_dir():
                    continue
                yield unit
                # The list that is gone through grows by it.
                if not unit.is_image and not rest and set(unit.entities) <= set(OF_A_SESSION):
                    if unit.entities != around:
                        waiting.append((path, unit.entities))
                elif inside:
                    waiting.append((path, inside))

    def of(self, entities: dict[str, str]) -> list[LaidOut]:
        """What :data:`LAYOUTS` find of a run, by its entities; raises DataError as for a folder."""
        found = []
        for unit in self.units(entities["sub"]):
            # Such a name in these places is of BIDS, and found as that.
            if unit.rest == "dseg" and unit.path.parent.name != "anat":
                continue
            labels: set[str] = set()
            for layout in LAYOUTS:
                for name, files in layout.find(unit).items():
                    # Of folders of several images of a session.
                    image = "" if unit.is_image else unit.rest
                    label = ":".join(filter(None, (image, name)))
                    laid = LaidOut(
                        layout.program, label, files, unit.entities, layout.from_freesurfer, layout.masks
                    )
                    if label not in labels and applies(laid.source, entities):
                        found.append(laid)
                        labels.add(label)
        return found
