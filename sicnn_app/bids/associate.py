"""Which files belong to an image: the BIDS inheritance principle, and masks of other datasets.

pybids 0.22 compares only the entities two files share, so that an image without a .bval
of its own is given another run's; here a candidate's entities must all be the image's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sicnn_app.errors import DataError, MissingInputError, SicnnAppError, UsageError
from sicnn_app.ivim.run import SourceImage

ENTITY_ORDER = (
    "sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir",
    "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording",
    "chunk", "seg", "res", "den", "label", "desc",
)  # fmt: skip
"""Short entity keys in the order of the BIDS specification 1.11.1."""

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
EXTENSIONS = (*IMAGE_EXTENSIONS, ".bval", ".bvec", ".json")

NATIVE_SPACES = ("orig", "native", "dwi")
"""``space`` labels that mean the grid of the source image."""

TARGET_ENTITIES = ("space", "res", "desc")
"""Entities of a derivative that say how it was made, not which run it was made from."""

ANNEX_POINTER = b"/annex/objects/"
"""Start of the text git-annex leaves in place of an unlocked file that was not fetched."""

PREFERRED_MASKS = ("brain", "body")


@dataclass(frozen=True)
class BidsName:
    """A parsed file name: entities in BIDS order, suffix and extension."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> BidsName | None:
    """Parse a BIDS file name; None when it is no such name.

    Labels stay as they are written: ``run-1`` and ``run-01`` are two runs.

    Examples
    --------
    >>> parse_name("sub-01_run-01_acq-a_dwi.nii.gz").entities
    {'sub': '01', 'acq': 'a', 'run': '01'}
    >>> parse_name("notes.txt") is None
    True
    """
    extension = next((known for known in EXTENSIONS if name.endswith(known)), None)
    if extension is None:
        return None
    *pairs, suffix = name.removesuffix(extension).split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not (key and dash and label) or key in entities:
            return None
        entities[key] = label
    if not suffix or "-" in suffix:
        return None
    return BidsName(in_bids_order(entities), suffix, extension)


def in_bids_order(entities: dict[str, str]) -> dict[str, str]:
    """Entities sorted as in the specification; unknown ones last, in the order given."""
    rank = {key: position for position, key in enumerate(ENTITY_ORDER)}
    return dict(sorted(entities.items(), key=lambda item: rank.get(item[0], len(rank))))


def applies(candidate: dict[str, str], entities: dict[str, str]) -> bool:
    """Whether every entity of ``candidate`` is one of ``entities``, with an equal label."""
    return candidate.items() <= entities.items()


def require_content(path: Path) -> None:
    """Raise MissingInputError when a file is absent or is annexed content that was not fetched.

    An annexed file is a dangling link, or (unlocked) a small text pointing into the annex.
    """
    not_fetched = f"the content of {path} is not here: fetch it with `datalad get {path}`"
    try:
        if path.is_symlink() and not path.exists():
            raise MissingInputError(not_fetched)
        if not path.is_file():
            raise MissingInputError(f"{path} does not exist")
        with path.open("rb") as stream:
            start = stream.read(len(ANNEX_POINTER))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if start == ANNEX_POINTER:
        raise MissingInputError(not_fetched)


def _both(paths: list[Path]) -> str:
    return f"{' and '.join(path.name for path in paths)} in {paths[0].parent}"


class Associator:
    """Finds the .bval, .bvec and .json of images of one dataset; lists each folder once.

    Parameters
    ----------
    root : Path
        Root of the dataset: the last folder in which inherited files are looked for.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, list[tuple[Path, BidsName]]] = {}

    def _listing(self, folder: Path) -> list[tuple[Path, BidsName]]:
        if folder not in self._listings:
            try:
                names = [(path, parse_name(path.name)) for path in sorted(folder.iterdir())]
            except OSError as error:
                raise DataError(
                    f"{folder} cannot be read ({error.strerror}): check its permissions"
                ) from None
            self._listings[folder] = [(path, name) for path, name in names if name and name.suffix == "dwi"]
        return self._listings[folder]

    def _candidates(self, image: Path, entities: dict[str, str], extension: str) -> list[list[Path]]:
        """Files that apply, one list per folder that has any, nearest folder first."""
        folders = [image.parent, *image.parent.parents]
        folders = folders[: folders.index(self.root) + 1]
        found = []
        for folder in folders:
            fitting = [
                (len(name.entities), path)
                for path, name in self._listing(folder)
                if name.extension == extension and applies(name.entities, entities)
            ]
            if fitting:
                found.append([path for _, path in sorted(fitting)])
        return found

    def _nearest(self, image: Path, entities: dict[str, str], extension: str) -> Path | None:
        candidates = self._candidates(image, entities, extension)
        if not candidates:
            return None
        own = image.parent / f"{image_stem(image)}{extension}"
        if own in candidates[0]:
            return own
        if len(candidates[0]) > 1:
            raise DataError(f"{image}: {_both(candidates[0])} both apply to it: keep one of them")
        return candidates[0][0]

    def associate(self, image: Path, entities: dict[str, str]) -> tuple[SourceImage, list[str]]:
        """Associate an image with its gradient table and metadata.

        Parameters
        ----------
        image : Path
            Below ``root``.
        entities : dict of str to str
            Entities of the image.

        Returns
        -------
        source : SourceImage
        warnings : list of str
            Sidecars that were left out, one line each.

        Raises
        ------
        DataError
            Two .bval, or two .bvec, in one folder apply and none has the image's own name.
        """
        bval = self._nearest(image, entities, ".bval")
        bvec = self._nearest(image, entities, ".bvec")
        sidecars: list[Path] = []
        metadata: dict[str, Any] = {}
        warnings = []
        for level in reversed(self._candidates(image, entities, ".json")):
            if len(level) > 1:
                warnings.append(f"{_both(level)} both apply to {image.name}: the last one overrides")
            for path in level:
                try:
                    content = json.loads(path.read_text(encoding="utf-8-sig"))
                    if not isinstance(content, dict):
                        raise ValueError("no JSON object")
                except (OSError, ValueError) as error:
                    warnings.append(f"{path} is left out: it cannot be read as JSON ({error})")
                    continue
                sidecars.append(path)
                metadata.update(content)
        return SourceImage(image, bval, bvec, tuple(sidecars), metadata), warnings


@dataclass(frozen=True)
class DerivativeFile:
    """A file of a derivative dataset: its name's source entities, and how it was made."""

    dataset: Path
    path: Path
    source: dict[str, str]
    space: str | None
    desc: str | None


def _derivative_files(
    datasets: dict[str, Path], entities: dict[str, str], suffix: str
) -> list[DerivativeFile]:
    """Images of a suffix in the datasets' folders of the same subject and session that fit ``entities``."""
    found = []
    for root in datasets.values():
        folder = root / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        # Other datatypes have other grids: a brain mask of anat/ is no mask of the DWI.
        for path in sorted([*folder.glob(f"*_{suffix}.nii*"), *folder.glob(f"dwi/*_{suffix}.nii*")]):
            name = parse_name(path.name)
            if name is None or name.suffix != suffix or name.extension not in IMAGE_EXTENSIONS:
                continue
            source = {key: label for key, label in name.entities.items() if key not in TARGET_ENTITIES}
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
    files = [file for file in _derivative_files(datasets, entities, "dwi") if file.desc == "preproc"]
    if len(files) > 1:
        raise UsageError(f"several preprocessed images match: {_names(files)}. Leave one out with -d")
    return files[0] if files else None


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


def source_error(source: SourceImage, *, has_bvals_file: bool) -> SicnnAppError | None:
    """What keeps an image from being read, judged without opening it; None when nothing does.

    Parameters
    ----------
    source : SourceImage
    has_bvals_file : bool
        b-values are given on the command line for images without a .bval.
    """
    try:
        require_content(source.image)
        if source.bval is not None:
            require_content(source.bval)
    except SicnnAppError as error:
        return error
    if source.bval is None and not has_bvals_file:
        return MissingInputError(
            f"{source.image} has no .bval: "
            f"add {image_stem(source.image)}.bval beside it, or give --bvals FILE"
        )
    return None


def image_stem(image: Path) -> str:
    """File name of an image without its extension."""
    return next(image.name.removesuffix(known) for known in IMAGE_EXTENSIONS if image.name.endswith(known))
