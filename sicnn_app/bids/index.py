"""The images of a dataset: pybids finds them, their names decide which of them are runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sicnn_app.bids.associate import IMAGE_EXTENSIONS, LABEL, parse_name
from sicnn_app.bids.derivative_datasets import PREPROCESSED
from sicnn_app.bids.select import Selection
from sicnn_app.bids.text_files import can_be_entered, unreadable
from sicnn_app.errors import MissingInputError, NoRunsError, NotBidsError, OutputError, UsageError
from sicnn_app.formats import natural_key, printable

NO_MAGNITUDE = ("phase", "real", "imag")

LABELS_ARE = "labels hold letters, digits and + only"

MAX_NAMED = 5
"""Folders named in one warning."""

_NO_TEXT = re.compile("[\ud800-\udfff]")
"""Bytes of a name that are no UTF-8, as Python holds them; pybids cannot store them."""


@dataclass(frozen=True)
class Images:
    """Images of the participants that were asked for, which are given by their labels.

    Attributes
    ----------
    closed : list of (Path, dict of str to str)
        Folders that may not be read, and the entities of what would be in them.
    warnings : list of str
        What was ignored because of its name.
    chosen : list of (Path, dict of str to str)
        Images to be runs, and their entities, in natural order.
    raw : list of dict of str to str
        Entities of every raw image, chosen or not.
    skipped : list of (name, reason)
        Images that were asked for but are no magnitude or no raw images.
    """

    participants: list[str]
    closed: list[tuple[Path, dict[str, str]]]
    warnings: list[str]
    chosen: list[tuple[Path, dict[str, str]]] = field(default_factory=list)
    raw: list[dict[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def find_images(bids_dir: Path, selection: Selection, *, database_dir: Path | None) -> Images:
    """Find the DWI images of the participants that were asked for, and choose among them by name.

    ``bids_dir`` is absolute, ``database_dir`` the folder of a pybids database to use or make. Raises as
    :func:`sicnn_app.bids.discover.discover`, and UsageError for a path that is no UTF-8.
    """
    participants, warnings = _participants(bids_dir, selection)
    warnings += _names_without_text(bids_dir, participants)
    images = Images(participants, _closed_folders(bids_dir, participants, selection), warnings)
    found, stale = _index(bids_dir, participants, database_dir, [folder for folder, _ in images.closed])
    warnings += stale
    for path in sorted(found, key=lambda path: natural_key(path.name)):
        name = parse_name(path.name)
        if name is None:
            warnings.append(f"{printable(path)} is ignored: its name is not BIDS ({LABELS_ARE})")
            continue
        folders = [f"{key}-{name.entities[key]}" for key in ("sub", "ses") if key in name.entities]
        if path.relative_to(bids_dir).parts[:-2] != tuple(folders):
            warnings.append(
                f"{printable(path)} is ignored: its folders tell another subject or session than its name"
            )
            continue
        images.raw.append(name.entities)
        if not selection.accepts(name):
            continue
        part, desc = name.entities.get("part"), name.entities.get("desc", PREPROCESSED)
        if part in NO_MAGNITUDE:
            images.skipped.append((path.name, f"part-{part} is no magnitude image"))
        elif desc != PREPROCESSED:
            images.skipped.append((path.name, f"desc-{desc} is neither raw nor desc-{PREPROCESSED}"))
        else:
            images.chosen.append((path, name.entities))
    return images


def _participants(bids_dir: Path, selection: Selection) -> tuple[list[str], list[str]]:
    """Labels of the ``sub-*`` folders that were asked for, and warnings on folders that are ignored."""
    if not bids_dir.is_dir():
        raise MissingInputError(f"the dataset {bids_dir} does not exist")
    try:
        folders = [path.name for path in bids_dir.iterdir() if path.name.startswith("sub-") and path.is_dir()]
    except OSError as error:
        raise unreadable(bids_dir, error) from None
    labels = [name.removeprefix("sub-") for name in folders]
    present = [label for label in labels if LABEL.fullmatch(label)]
    others = sorted(f"sub-{label}" for label in labels if not LABEL.fullmatch(label))
    named = ", ".join(map(printable, others[:MAX_NAMED])) + (", ..." if len(others) > MAX_NAMED else "")
    ignored = f"names of {len(others)} participant folders are not BIDS ({LABELS_ARE}): {named}"
    if not present:
        raise NoRunsError(f"{bids_dir}: {ignored}" if others else f"{bids_dir} has no sub-* folder")
    requested = selection.labels.get("sub")
    chosen = [label for label in present if requested is None or label in requested]
    if not chosen:
        some = " ".join(sorted(present, key=natural_key)[:10])
        raise NoRunsError(f"{selection.describe()}: no such participant in {bids_dir}, which has {some}")
    return chosen, [f"ignored: {ignored}"] if others and requested is None else []


def _names_without_text(bids_dir: Path, participants: Iterable[str]) -> list[str]:
    """Warnings on images that pybids cannot index, because their names are no UTF-8."""
    if _NO_TEXT.search(str(bids_dir)):
        raise UsageError(
            f"the path {printable(bids_dir)} is not UTF-8, which pybids needs: "
            "rename the folder, or give a link to it with another name"
        )
    return [
        f"{printable(path)} is ignored: its name is not UTF-8"
        for label in participants
        for pattern in ("dwi/*_dwi.nii*", "ses-*/dwi/*_dwi.nii*")
        for path in sorted((bids_dir / f"sub-{label}").glob(pattern))
        if _NO_TEXT.search(str(path))
    ]


def _closed_folders(
    bids_dir: Path, participants: Iterable[str], selection: Selection
) -> list[tuple[Path, dict[str, str]]]:
    """Folders asked for that may not be read, with their entities: pybids gives up at the first."""
    closed = []
    sessions = selection.labels.get("ses")
    waiting = [(bids_dir / f"sub-{label}", {"sub": label}) for label in participants]
    for folder, entities in waiting:
        if not can_be_entered(folder):
            closed.append((folder, entities))
        elif folder.name != "dwi":
            inner = [(folder / "dwi", entities)]
            if "ses" not in entities:
                labels = [path.name.removeprefix("ses-") for path in folder.glob("ses-*")]
                inner += [
                    (folder / f"ses-{label}", {**entities, "ses": label})
                    for label in labels
                    if LABEL.fullmatch(label) and (sessions is None or label in sessions)
                ]
            # The list that is gone through grows by it.
            waiting += [(path, inside) for path, inside in inner if path.is_dir()]
    return closed


def _index(
    bids_dir: Path, participants: Iterable[str], database_dir: Path | None, closed: Sequence[Path]
) -> tuple[list[Path], list[str]]:
    """Images with the suffix ``dwi`` in the ``dwi`` folders of participants, and warnings.

    A database is made for all participants, because later calls may ask for others.
    """
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    labels = LABEL.pattern if database_dir else "|".join(map(re.escape, participants))
    text = "[^/\ud800-\udfff]+"
    extensions = "|".join(map(re.escape, IMAGE_EXTENSIONS))
    wanted = rf"/sub-({labels})(/ses-{text})?(/dwi(/{text}({extensions}))?)?"
    # Not entering the other folders, and images alone, is what makes indexing fast, and keeps link loops out.
    ignored = [re.compile(rf"^(?!{wanted}\Z)")]
    ignored += [re.compile(rf"^/{re.escape(path.relative_to(bids_dir).as_posix())}(/|\Z)") for path in closed]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignored)
    warnings: list[str] = []
    try:
        layout = BIDSLayout(bids_dir, validate=False, database_path=database_dir, indexer=indexer)
        same_dataset = Path(layout.root) == bids_dir
        if database_dir and same_dataset and not set(participants) <= set(layout.get_subjects()):
            # It may be that of another program, which finds more in it than is indexed here.
            layout = BIDSLayout(bids_dir, validate=False, indexer=indexer)
            warnings.append(
                f"the pybids database in {printable(database_dir)} lacks participants and is neither used "
                "nor changed: remove it to have it made anew"
            )
        found = [Path(name) for name in layout.get(return_type="filename", suffix="dwi", scope="self")]
    except (SQLAlchemyError, OSError) as error:
        if database_dir is None:
            raise
        raise OutputError(
            f"the pybids database in {database_dir} cannot be used ({error}): name another folder"
        ) from None
    except (AttributeError, TypeError, RecursionError) as error:
        # pybids takes any JSON for a description; a list, say, makes it fail like this.
        raise NotBidsError(
            f"{bids_dir}/dataset_description.json confuses pybids ({error}): correct it"
        ) from None
    if Path(layout.root) != bids_dir:
        raise UsageError(f"the pybids database in {database_dir} is of {layout.root}, not of {bids_dir}")
    pattern = re.compile(rf"/sub-({'|'.join(map(re.escape, participants))})(/ses-[^/]+)?/dwi/[^/]+")
    images = [
        path
        for path in found
        if path.name.endswith(IMAGE_EXTENSIONS)
        and pattern.fullmatch(f"/{path.relative_to(bids_dir).as_posix()}")
    ]
    return images, warnings
