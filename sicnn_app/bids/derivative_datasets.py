"""Files that other datasets hold of a run: preprocessed images, masks and segmentations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sicnn_app.bids.associate import IMAGE_EXTENSIONS, BidsName, applies, parse_name
from sicnn_app.bids.select import Selection
from sicnn_app.bids.text_files import can_be_entered, require_content, unreadable
from sicnn_app.errors import MissingInputError, UsageError
from sicnn_app.ivim.run import DwiRun

NATIVE_SPACES = ("orig", "native", "dwi")
"""``space`` labels that mean the grid of the source image."""

TARGET_ENTITIES = ("space", "res", "desc")
"""Entities of a derivative that say how it was made, not which run it was made from."""

SEGMENTATION_ENTITIES = (*TARGET_ENTITIES, "seg")
"""The same of a segmentation, whose ``seg`` names the atlas."""

PREPROCESSED = "preproc"
"""The ``desc`` label of images that stand in for the raw ones."""

PREFERRED_MASKS = ("brain", "body")


@dataclass(frozen=True)
class DerivativeFile:
    """An image of a derivative dataset, its name, and those of its entities that are its run's."""

    dataset: Path
    path: Path
    name: BidsName
    source: dict[str, str]

    @property
    def space(self) -> str | None:
        """Label of its ``space``, as of :func:`own_space`."""
        return own_space(self.name.entities)

    @property
    def desc(self) -> str | None:
        """Label of its ``desc``."""
        return self.name.entities.get("desc")


def own_space(entities: dict[str, str]) -> str | None:
    """Label of the ``space`` of an image; None on the grid of the source image."""
    space = entities.get("space")
    return None if space in NATIVE_SPACES else space


def require_derivatives(datasets: dict[str, Path]) -> None:
    """Make sure that every derivative dataset of the command line is a folder; raises MissingInputError."""
    for name, path in datasets.items():
        if not os.path.isdir(path):
            reason = "is not a folder" if os.path.lexists(path) else "does not exist"
            raise MissingInputError(f"the derivative dataset {name} {reason}: check {path}")


def _images(
    dataset: Path, folder: Path, *patterns: str, made: Sequence[str] = TARGET_ENTITIES
) -> Iterator[DerivativeFile]:
    """Images with BIDS names in a folder of a derivative dataset; ``made`` are not entities of their runs."""
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        name = parse_name(path.name)
        if name is not None and name.extension in IMAGE_EXTENSIONS:
            source = {key: label for key, label in name.entities.items() if key not in made}
            yield DerivativeFile(dataset, path, name, source)


def _derivative_files(
    datasets: Iterable[Path], entities: dict[str, str], suffix: str, made: Sequence[str] = TARGET_ENTITIES
) -> list[DerivativeFile]:
    """Images of a suffix in the datasets' folders of the same subject and session that fit ``entities``."""
    found: list[DerivativeFile] = []
    for root in datasets:
        folder = root / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        for place in (folder, folder / "dwi"):
            if os.path.isdir(place) and not can_be_entered(place):
                raise unreadable(place)
        # Other datatypes have other grids: a brain mask of anat/ is no mask of the DWI.
        images = _images(root, folder, f"*_{suffix}.nii*", f"dwi/*_{suffix}.nii*", made=made)
        found += [file for file in images if "sub" in file.source and applies(file.source, entities)]
    return found


def _names(files: Sequence[DerivativeFile]) -> str:
    return ", ".join(str(file.path) for file in files)


def find_preprocessed(datasets: Iterable[Path], entities: dict[str, str]) -> DerivativeFile | None:
    """The ``*_desc-preproc_dwi`` made from the raw run with these entities, or None.

    Raises UsageError when several match, and DataError for a folder that cannot be read.
    """
    files = [file for file in _derivative_files(datasets, entities, "dwi") if file.desc == PREPROCESSED]
    if len(files) > 1:
        raise UsageError(f"several preprocessed images match: {_names(files)}. Leave one out with -d")
    return files[0] if files else None


def unused_preprocessed(
    datasets: Iterable[Path],
    participants: Iterable[str],
    raw: Sequence[dict[str, str]],
    selection: Selection,
) -> list[Path]:
    """Preprocessed images that were asked for but stand in for no run, because the raw one is not there.

    ``participants`` are the labels that were asked for, ``raw`` the entities of all raw images of these
    participants, chosen or not.
    """
    unused = []
    for root in datasets:
        for label in participants:
            pattern = f"dwi/*_desc-{PREPROCESSED}_dwi.nii*"
            for file in _images(root, root / f"sub-{label}", pattern, f"ses-*/{pattern}"):
                has_raw = any(applies(file.source, entities) for entities in raw)
                if selection.accepts(file.name) and not has_raw:
                    unused.append(file.path)
    return unused


def find_mask(datasets: Iterable[Path], entities: dict[str, str], *, desc: str | None) -> Path | None:
    """The mask made for the run with these entities and on its grid, or None.

    Without the one ``desc`` label that is wanted a single ``brain`` or ``body`` mask is preferred.

    Raises
    ------
    UsageError
        Several match and nothing decides between them.
    MissingInputError
        The content of the mask is not fetched.
    """
    files = [
        file
        for file in _derivative_files(datasets, entities, "mask")
        if file.space == own_space(entities) and desc in (None, file.desc)
    ]
    most = max((len(file.source) for file in files), default=0)
    if desc is None:
        files = [file for file in files if file.desc in PREFERRED_MASKS] or files
    files = [file for file in files if len(file.source) == most] or files
    if not files:
        return None
    if len(files) > 1:
        raise UsageError(f"several masks match: {_names(files)}. Choose with --mask-desc")
    require_content(files[0].path)
    return files[0].path


def holds_images(dataset: Path, entities: dict[str, str]) -> bool:
    """True when a dataset has a mask or a DWI of a run; raises DataError for a folder that cannot be read."""
    return any(_derivative_files([dataset], entities, suffix) for suffix in ("mask", "dwi"))


def mask_label(run: DwiRun, anatomy: str) -> str:
    """``desc`` of the mask that is written for a run: that of the mask given, else ``anatomy``."""
    given = parse_name(run.mask.name) if run.mask else None
    return given.entities.get("desc", anatomy) if given else anatomy


def find_segmentations(dataset: Path, entities: dict[str, str]) -> list[DerivativeFile]:
    """Every ``*_dseg`` of a run in one derivative dataset, those that name more of the run's entities first.

    Raises DataError for a folder of the dataset that cannot be read.
    """
    files = _derivative_files([dataset], entities, "dseg", SEGMENTATION_ENTITIES)
    return sorted(files, key=lambda file: -len(file.source))
