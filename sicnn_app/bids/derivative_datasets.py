"""What other datasets hold of a run: preprocessed images, masks and segmentations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sicnn_app.bids.associate import IMAGE_EXTENSIONS, applies, parse_name
from sicnn_app.bids.select import Selection
from sicnn_app.bids.text_files import can_be_entered, require_content
from sicnn_app.errors import DataError, MissingInputError, UsageError
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
    """A file of a derivative dataset: its name's source entities, and how it was made."""

    dataset: Path
    path: Path
    source: dict[str, str]
    space: str | None
    desc: str | None


def require_derivatives(datasets: dict[str, Path]) -> None:
    """Make sure that every derivative dataset of the command line is a folder; raises MissingInputError."""
    for name, path in datasets.items():
        if not os.path.isdir(path):
            reason = "is not a folder" if os.path.lexists(path) else "does not exist"
            raise MissingInputError(f"the derivative dataset {name} {reason}: check {path}")


def _source_entities(entities: dict[str, str], made: Sequence[str] = TARGET_ENTITIES) -> dict[str, str]:
    return {key: label for key, label in entities.items() if key not in made}


def _derivative_files(
    datasets: dict[str, Path],
    entities: dict[str, str],
    suffix: str,
    made: Sequence[str] = TARGET_ENTITIES,
) -> list[DerivativeFile]:
    """Images of a suffix in the datasets' folders of the same subject and session that fit ``entities``."""
    found = []
    for root in datasets.values():
        folder = root / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        for place in (folder, folder / "dwi"):
            if os.path.isdir(place) and not can_be_entered(place):
                raise DataError(f"{place} cannot be read: check its permissions")
        # Other datatypes have other grids: a brain mask of anat/ is no mask of the DWI.
        for path in sorted([*folder.glob(f"*_{suffix}.nii*"), *folder.glob(f"dwi/*_{suffix}.nii*")]):
            name = parse_name(path.name)
            if name is None or name.suffix != suffix or name.extension not in IMAGE_EXTENSIONS:
                continue
            source = _source_entities(name.entities, made)
            if "sub" in source and applies(source, entities):
                space = name.entities.get("space")
                space = None if space in NATIVE_SPACES else space
                found.append(DerivativeFile(root, path, source, space, name.entities.get("desc")))
    return found


def _names(files: Sequence[DerivativeFile]) -> str:
    return ", ".join(str(file.path) for file in files)


def find_preprocessed(datasets: dict[str, Path], entities: dict[str, str]) -> DerivativeFile | None:
    """The ``*_desc-preproc_dwi`` made from a run, or None.

    Parameters
    ----------
    datasets : dict of str to Path
        Derivative datasets by name.
    entities : dict of str to str
        Entities of the raw run.

    Raises
    ------
    UsageError
        Several match.
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
                source = _source_entities(name.entities)
                if not any(applies(source, entities) for entities in raw):
                    unused.append(path)
    return unused


def find_mask(
    datasets: dict[str, Path], entities: dict[str, str], *, space: str | None, desc: str | None
) -> Path | None:
    """The mask made for a run and on its grid, or None.

    Parameters
    ----------
    datasets : dict of str to Path
        Derivative datasets by name.
    entities : dict of str to str
        Entities of the run.
    space : str or None
        ``space`` label of the image; None in native space.
    desc : str or None
        The one ``desc`` label wanted. Without it a single ``brain`` or ``body`` mask is preferred.

    Raises
    ------
    UsageError
        Several match and nothing decides between them.
    MissingInputError
        The content of the mask is not fetched.
    """
    files = [file for file in _derivative_files(datasets, entities, "mask") if file.space == space]
    narrowings: list[Callable[[DerivativeFile], bool]] = []
    if desc is not None:
        files = [file for file in files if file.desc == desc]
    else:
        narrowings.append(lambda file: file.desc in PREFERRED_MASKS)
    most = max((len(file.source) for file in files), default=0)
    narrowings.append(lambda file: len(file.source) == most)
    for narrowing in narrowings:
        if len(files) > 1:
            files = [file for file in files if narrowing(file)] or files
    if not files:
        return None
    if len(files) > 1:
        raise UsageError(f"several masks match: {_names(files)}. Choose with --mask-desc")
    require_content(files[0].path)
    return files[0].path


def mask_label(run: DwiRun, anatomy: str) -> str:
    """``desc`` of the mask that is written for a run: that of the mask given, else what one is made of.

    Parameters
    ----------
    run : DwiRun
    anatomy : str
        ``brain`` or ``body``.
    """
    given = None if run.mask is None else parse_name(run.mask.name)
    return anatomy if given is None else given.entities.get("desc", anatomy)


def find_segmentations(dataset: Path, entities: dict[str, str]) -> list[DerivativeFile]:
    """Every ``*_dseg`` of a run in one derivative dataset, those that name more of the run's entities first.

    Parameters
    ----------
    dataset : Path
        Derivative dataset.
    entities : dict of str to str
        Entities of the run.

    Raises
    ------
    DataError
        A folder of the dataset cannot be read.
    """
    files = _derivative_files({"": dataset}, entities, "dseg", SEGMENTATION_ENTITIES)
    return sorted(files, key=lambda file: -len(file.source))
