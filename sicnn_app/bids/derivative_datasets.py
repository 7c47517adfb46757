"""What other datasets hold of a run: preprocessed images, masks and segmentations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sicnn_app.bids.associate import IMAGE_EXTENSIONS, applies, parse_name
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
    """A file of a derivative dataset: entities of its name, and which of them are those of its run."""

    dataset: Path
    path: Path
    entities: dict[str, str]
    source: dict[str, str]

    @property
    def space(self) -> str | None:
        """Label of its ``space``, see :func:`own_space`."""
        return own_space(self.entities)

    @property
    def desc(self) -> str | None:
        """Label of its ``desc``."""
        return self.entities.get("desc")


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


def _source_entities(entities: dict[str, str], made: Sequence[str]) -> dict[str, str]:
    return {key: label for key, label in entities.items() if key not in made}


def _derivative_files(
    datasets: Iterable[Path], entities: dict[str, str], suffix: str, made: Sequence[str] = TARGET_ENTITIES
) -> list[DerivativeFile]:
    """Images of a suffix in the datasets' folders of the same subject and session that fit ``entities``."""
    found = []
    for root in datasets:
        folder = root / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        for place in (folder, folder / "dwi"):
            if os.path.isdir(place) and not can_be_entered(place):
                raise unreadable(place)
        # Other datatypes have other grids: a brain mask of anat/ is no mask of the DWI.
        for path in sorted([*folder.glob(f"*_{suffix}.nii*"), *folder.glob(f"dwi/*_{suffix}.nii*")]):
            name = parse_name(path.name)
            if name is None or name.suffix != suffix or name.extension not in IMAGE_EXTENSIONS:
                continue
            source = _source_entities(name.entities, made)
            if "sub" in source and applies(source, entities):
                found.append(DerivativeFile(root, path, name.entities, source))
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

    Parameters
    ----------
    datasets : iterable of Path
        Derivative datasets.
    participants : iterable of str
        Labels of the participants that were asked for.
    raw : sequence of dict of str to str
        Entities of all raw images of these participants, chosen or not.
    selection : Selection
    """
    unused = []
    for root in datasets:
        for label in participants:
            folder = root / f"sub-{label}"
            pattern = f"dwi/*_desc-{PREPROCESSED}_dwi.nii*"
            for path in sorted([*folder.glob(pattern), *folder.glob(f"ses-*/{pattern}")]):
                name = parse_name(path.name)
                if name is None or name.extension not in IMAGE_EXTENSIONS or not selection.accepts(name):
                    continue
                source = _source_entities(name.entities, TARGET_ENTITIES)
                if not any(applies(source, entities) for entities in raw):
                    unused.append(path)
    return unused


def find_mask(datasets: Iterable[Path], entities: dict[str, str], *, desc: str | None) -> Path | None:
    """The mask made for a run and on its grid, or None.

    Parameters
    ----------
    datasets : iterable of Path
        Derivative datasets.
    entities : dict of str to str
        Entities of the run, its ``space`` among them.
    desc : str or None
        The one ``desc`` label wanted. Without it a single ``brain`` or ``body`` mask is preferred.

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
