"""Which files belong to an image: names, and the BIDS inheritance principle.

pybids 0.22 compares only the entities two files share, so that an image without a .bval
of its own is given another run's; here a candidate's entities must all be the image's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app.bids.text_files import read_json, unreadable
from sicnn_app.errors import DataError, MissingInputError
from sicnn_app.ivim.run import SourceImage

ENTITY_ORDER = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir",
    "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording",
    "chunk", "seg", "res", "den", "label", "desc",
)  # fmt: skip
"""Short entity keys in the order of the BIDS specification 1.11.1."""

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
EXTENSIONS = (*IMAGE_EXTENSIONS, ".bval", ".bvec", ".json", ".tsv")

LABEL = re.compile(r"[0-9A-Za-z+]+")
"""Characters that BIDS allows in a label. Names of outputs are made of labels: no other one gets that far."""

_ENTITY = re.compile(rf"([0-9A-Za-z]+)-({LABEL.pattern})")
_SUFFIX = re.compile(r"[0-9A-Za-z]+")


@dataclass(frozen=True)
class BidsName:
    """A parsed file name: entities in BIDS order, suffix and extension."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> BidsName | None:
    """Parse a BIDS file name; None when it is no such name.

    Labels stay as they are written: ``run-1`` and ``run-01`` are two runs. They hold letters,
    digits and plus signs only, as :data:`LABEL` tells.

    Examples
    --------
    >>> parse_name("sub-01_run-01_acq-a_dwi.nii.gz").entities
    {'sub': '01', 'acq': 'a', 'run': '01'}
    >>> parse_name("notes.txt") is None, parse_name("sub-01_acq-a.b_dwi.nii.gz") is None
    (True, True)
    """
    extension = next((known for known in EXTENSIONS if name.endswith(known)), None)
    if extension is None:
        return None
    *pairs, suffix = name.removesuffix(extension).split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        entity = _ENTITY.fullmatch(pair)
        if entity is None or entity[1] in entities:
            return None
        entities[entity[1]] = entity[2]
    if not _SUFFIX.fullmatch(suffix):
        return None
    # Unknown entities come last, in the order given.
    order = dict.fromkeys((*ENTITY_ORDER, *entities))
    return BidsName({key: entities[key] for key in order if key in entities}, suffix, extension)


def applies(candidate: dict[str, str], entities: dict[str, str]) -> bool:
    """True when every entity of ``candidate`` is one of ``entities``, with an equal label."""
    return candidate.items() <= entities.items()


def _both(paths: list[Path]) -> str:
    return f"{' and '.join(path.name for path in paths)} in {paths[0].parent}"


class Associator:
    """Finds the .bval, .bvec, .json and .tsv of images of one dataset; lists each folder once.

    The root of the dataset is the last folder in which inherited files are looked for; the suffix is that of
    the images, and so of the files that belong to them.
    """

    def __init__(self, root: Path, suffix: str = "dwi") -> None:
        self.root = root
        self.suffix = suffix
        self._listings: dict[Path, list[tuple[Path, BidsName]]] = {}

    def _listing(self, folder: Path) -> list[tuple[Path, BidsName]]:
        if folder not in self._listings:
            try:
                paths = sorted(folder.iterdir())
            except OSError as error:
                raise unreadable(folder, error) from None
            self._listings[folder] = [
                (path, name)
                for path in paths
                if (name := parse_name(path.name)) and name.suffix == self.suffix
            ]
        return self._listings[folder]

    def _candidates(self, image: Path, entities: dict[str, str], extension: str) -> list[list[Path]]:
        """Files that apply, one list per folder that has any, nearest folder first."""
        folders = [image.parent, *image.parent.parents]
        found = []
        for folder in folders[: folders.index(self.root) + 1]:
            fitting = [
                (len(name.entities), path)
                for path, name in self._listing(folder)
                if name.extension == extension and applies(name.entities, entities)
            ]
            if fitting:
                found.append([path for _, path in sorted(fitting)])
        return found

    def nearest(self, image: Path, entities: dict[str, str], extension: str) -> Path | None:
        """The file of an extension that applies to an image, None without one.

        Raises DataError when two in one folder apply and none has the image's own name.
        """
        nearest = next(iter(self._candidates(image, entities, extension)), [])
        own = image.parent / f"{image_stem(image)}{extension}"
        if own in nearest:
            return own
        if len(nearest) > 1:
            raise DataError(f"{image}: {_both(nearest)} both apply to it: keep one of them")
        return nearest[0] if nearest else None

    def associate(self, image: Path, entities: dict[str, str], warnings: list[str]) -> SourceImage:
        """An image below ``root`` with its gradient table and metadata; raises as :meth:`nearest`."""
        bval = self.nearest(image, entities, ".bval")
        bvec = self.nearest(image, entities, ".bvec")
        return SourceImage(image, bval, bvec, *self.metadata(image, entities, warnings))

    def metadata(
        self, image: Path, entities: dict[str, str], warnings: list[str]
    ) -> tuple[tuple[Path, ...], dict[str, Any]]:
        """Sidecars that apply to an image, farthest first, and what they say together.

        ``warnings`` gets a line per sidecar that is overridden, or of which not all can be read.
        """
        sidecars: list[Path] = []
        metadata: dict[str, Any] = {}
        for level in reversed(self._candidates(image, entities, ".json")):
            if len(level) > 1:
                warnings.append(f"{_both(level)} both apply to {image.name}: the last one overrides")
            for path in level:
                content = _read_sidecar(path, warnings)
                if content is not None:
                    sidecars.append(path)
                    metadata.update(content)
        return tuple(sidecars), metadata


def _read_sidecar(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    """Content of a sidecar; None when it is left out."""
    try:
        return read_json(path)
    except (DataError, MissingInputError) as error:
        problem = error
    try:
        # Most often one name in another encoding.
        content = read_json(path, errors="replace")
    except (DataError, MissingInputError):
        warnings.append(
            f"a sidecar is left out, anatomy and motion correction are chosen without it: {problem}"
        )
        return None
    warnings.append(f"{problem}; these letters are replaced, and the rest is used")
    return content


def image_stem(image: Path) -> str:
    """File name of an image without its extension."""
    return next(image.name.removesuffix(known) for known in IMAGE_EXTENSIONS if image.name.endswith(known))
