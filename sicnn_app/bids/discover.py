"""A dataset and what was asked for, to the runs to process."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sicnn_app.bids.associate import (
    IMAGE_EXTENSIONS,
    NATIVE_SPACES,
    Associator,
    find_mask,
    find_preprocessed,
    parse_name,
    source_error,
)
from sicnn_app.bids.load import bvals_path, open_image, read_bvals, volume_count
from sicnn_app.bids.select import Selection
from sicnn_app.errors import (
    DataError,
    MissingInputError,
    NoRunsError,
    NotBidsError,
    OutputError,
    SicnnAppError,
    UsageError,
)
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import MIN_DISTINCT_BVALS
from sicnn_app.settings import InputSettings, SelectionSettings

COMBINED_ENTITY = {"acquisition": "acq", "run": "run", "direction": "dir"}
"""Entity in which runs may differ to be combined, per value of ``--combine``."""

NO_MAGNITUDE = ("phase", "real", "imag")


@dataclass(frozen=True)
class Discovery:
    """What a selection holds.

    Attributes
    ----------
    runs : tuple of DwiRun
        To be processed, in natural order of their names.
    warnings : tuple of str
    skipped : tuple of (name, reason)
        Images that are no IVIM run.
    problems : tuple of (DwiRun, SicnnAppError)
        Runs that cannot be processed, and why; they are not in ``runs``.
    """

    runs: tuple[DwiRun, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    problems: tuple[tuple[DwiRun, SicnnAppError], ...] = ()


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key by which ``sub-2`` comes before ``sub-10``."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def _participants(bids_dir: Path, selection: Selection) -> list[str]:
    """Labels of the ``sub-*`` folders that were asked for."""
    if not bids_dir.is_dir():
        raise MissingInputError(f"the dataset {bids_dir} does not exist")
    try:
        folders = [path.name for path in bids_dir.iterdir() if path.name.startswith("sub-") and path.is_dir()]
    except OSError as error:
        raise DataError(f"{bids_dir} cannot be read ({error.strerror}): check its permissions") from None
    present = [name.removeprefix("sub-") for name in folders]
    if not present:
        raise NoRunsError(f"{bids_dir} has no sub-* folder")
    chosen = [label for label in present if label in selection.labels.get("sub", present)]
    if not chosen:
        some = " ".join(sorted(present, key=natural_key)[:10])
        raise NoRunsError(f"{selection.describe()}: no such participant in {bids_dir}, which has {some}")
    return chosen


def _index(bids_dir: Path, participants: Iterable[str], database_dir: Path | None) -> list[Path]:
    """Images with the suffix ``dwi`` in the ``dwi`` folders of participants.

    A database is made for all participants, because later calls may ask for others.
    """
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    labels = "[^/]+" if database_dir else "|".join(re.escape(label) for label in participants)
    wanted = rf"/sub-({labels})(/ses-[^/]+)?(/dwi(/[^/]+)?)?"
    # Not entering the other folders is what makes indexing fast, and keeps link loops out.
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[re.compile(rf"^(?!{wanted}$)")])
    try:
        layout = BIDSLayout(bids_dir, validate=False, database_path=database_dir, indexer=indexer)
        same_dataset = Path(layout.root) == bids_dir
        if database_dir and same_dataset and not set(participants) <= set(layout.get_subjects()):
            # Participants came after the database was made.
            layout = BIDSLayout(
                bids_dir, validate=False, database_path=database_dir, indexer=indexer, reset_database=True
            )
        found = [Path(name) for name in layout.get(return_type="filename", suffix="dwi", scope="self")]
    except (SQLAlchemyError, OSError) as error:
        if database_dir is None:
            raise
        raise OutputError(f"the pybids database in {database_dir} cannot be used ({error})") from None
    except (AttributeError, TypeError) as error:
        # pybids takes any JSON for a description; a list, say, makes it fail like this.
        raise NotBidsError(f"{bids_dir}/dataset_description.json confuses pybids ({error})") from None
    if Path(layout.root) != bids_dir:
        raise UsageError(f"the pybids database in {database_dir} is of {layout.root}, not of {bids_dir}")
    pattern = re.compile(
        rf"/sub-({'|'.join(re.escape(label) for label in participants)})(/ses-[^/]+)?/dwi/[^/]+"
    )
    return [
        path
        for path in found
        if path.name.endswith(IMAGE_EXTENSIONS)
        and pattern.fullmatch(f"/{path.relative_to(bids_dir).as_posix()}")
    ]


def _raw_images(
    bids_dir: Path, images: Iterable[Path], selection: Selection
) -> tuple[list[tuple[Path, dict[str, str]]], list[str], list[tuple[str, str]]]:
    """Chosen magnitude images with their entities, then warnings and skipped ones."""
    chosen, warnings, skipped = [], [], []
    for path in sorted(images, key=lambda path: natural_key(path.name)):
        name = parse_name(path.name)
        folders = [folder.partition("-") for folder in path.relative_to(bids_dir).parts[:-2]]
        if name is None:
            warnings.append(f"{path} is ignored: its name is not BIDS")
        elif {key: label for key, _, label in folders} != {
            key: label for key, label in name.entities.items() if key in ("sub", "ses")
        }:
            warnings.append(f"{path} is ignored: its folders tell another subject or session than its name")
        elif not selection.accepts(name):
            continue
        elif name.entities.get("part") in NO_MAGNITUDE:
            skipped.append((path.name, f"part-{name.entities['part']} is no magnitude image"))
        else:
            chosen.append((path, name.entities))
    return chosen, warnings, skipped


class _Collector:
    """Turns images into runs and remembers what is wrong with which image."""

    def __init__(self, bids_dir: Path, derivatives: dict[str, Path]) -> None:
        self.derivatives = derivatives
        self.associators = {root: Associator(root) for root in (bids_dir, *derivatives.values())}
        self.bids_dir = bids_dir
        self.errors: dict[Path, SicnnAppError] = {}
        self.warnings: list[str] = []

    def run(self, path: Path, entities: dict[str, str]) -> DwiRun:
        """Run of a raw image, or of the preprocessed image made from it."""
        try:
            derived = find_preprocessed(self.derivatives, entities)
            if derived is None:
                return DwiRun(entities, (self._source(self.bids_dir, path, entities),))
            own = parse_name(derived.path.name).entities  # type: ignore[union-attr]
            source = self._source(derived.dataset, derived.path, own)
            # Derivatives seldom repeat what the scanner said, such as the body part.
            raw = self._source(self.bids_dir, path, entities)
            source = replace(source, metadata={**raw.metadata, **source.metadata})
        except SicnnAppError as error:
            self.errors[path] = error
            return DwiRun(entities, (SourceImage(path, None, None),))
        kept = {key: label for key, label in own.items() if key != "desc"}
        return DwiRun(kept, (source,), preprocessed=True)

    def _source(self, root: Path, path: Path, entities: dict[str, str]) -> SourceImage:
        source, warnings = self.associators[root].associate(path, entities)
        self.warnings.extend(warnings)
        return source

    def error(self, run: DwiRun, *, has_bvals_file: bool) -> SicnnAppError | None:
        """What keeps a run from being loaded, as far as can be told without loading."""
        for source in run.parts:
            error = self.errors.get(source.image) or source_error(source, has_bvals_file=has_bvals_file)
            if error is not None:
                return error
        return None


def _combine(runs: Iterable[DwiRun], entity: str) -> list[DwiRun]:
    """Merge the runs whose entities differ in one entity only."""
    groups: dict[tuple[tuple[str, str], ...], list[DwiRun]] = defaultdict(list)
    for run in runs:
        groups[tuple(item for item in run.entities.items() if item[0] != entity)].append(run)
    return [
        members[0]
        if len(members) == 1
        else replace(
            members[0], entities=dict(shared), parts=tuple(part for run in members for part in run.parts)
        )
        for shared, members in groups.items()
    ]


def _add_mask(run: DwiRun, inputs: InputSettings, warnings: list[str]) -> DwiRun:
    space = run.entities.get("space")
    desc = None if inputs.mask_desc is None else inputs.mask_desc.removeprefix("desc-")
    mask = find_mask(
        inputs.derivatives, run.entities, space=None if space in NATIVE_SPACES else space, desc=desc
    )
    if mask is None and (desc is not None or not run.preprocessed):
        wanted = "mask" if desc is None else f"mask with desc-{desc}"
        warnings.append(f"{run.name}: no {wanted} of it in {', '.join(inputs.derivatives)}; one is made")
    return replace(run, mask=mask)


def _no_ivim_run(run: DwiRun, bvals_file: Path | None) -> tuple[bool, str | None]:
    """Whether a run is usable, and, if it is sound but no IVIM run, why."""
    try:
        volumes = sum(volume_count(open_image(source.image)) for source in run.parts)
        if volumes == 1:
            return False, "it has one volume"
        tables = [bvals_path(source, bvals_file) for source in run.parts]
        bvals = np.concatenate([read_bvals(table) for table in tables if table is not None] or [[]])
    except SicnnAppError:
        return False, None
    if bvals.size != volumes:
        return False, None
    distinct = group_bvalues(bvals)[0].size
    if distinct < MIN_DISTINCT_BVALS:
        return False, f"it has {distinct} distinct b-values"
    return True, None


def _require_inputs(inputs: InputSettings) -> None:
    for name, path in inputs.derivatives.items():
        if not path.is_dir():
            raise MissingInputError(f"the derivative dataset {name} does not exist: {path}")
    if inputs.bvals is not None and not inputs.bvals.is_file():
        raise MissingInputError(f"the file of --bvals does not exist: {inputs.bvals}")
    if inputs.mask_desc is not None and not inputs.derivatives:
        raise UsageError("--mask-desc chooses among the masks of -d: give -d as well")


def discover(bids_dir: Path, selection: SelectionSettings, inputs: InputSettings) -> Discovery:
    """Find the runs to process; what is wrong with one run is returned, not raised.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.
    selection : SelectionSettings
    inputs : InputSettings

    Returns
    -------
    Discovery

    Raises
    ------
    MissingInputError
        The dataset, a derivative dataset or the file of ``--bvals`` does not exist; no mask
        at all has the ``--mask-desc`` asked for.
    NoRunsError
        The selection holds no DWI run.
    DataError
        The folder of the dataset cannot be read.
    UsageError
        ``--bids-filter-file`` or ``--mask-desc`` contradict the rest, or the pybids
        database is of another dataset.
    OutputError
        The pybids database cannot be used.
    NotBidsError
        pybids cannot take the ``dataset_description.json``.
    """
    _require_inputs(inputs)
    bids_dir = Path(os.path.abspath(bids_dir))
    inputs = replace(
        inputs, derivatives={name: Path(os.path.abspath(root)) for name, root in inputs.derivatives.items()}
    )
    chosen = Selection.build(selection)
    participants = _participants(bids_dir, chosen)
    indexed = _index(bids_dir, participants, selection.bids_database_dir)
    images, warnings, skipped = _raw_images(bids_dir, indexed, chosen)
    if not images:
        asked = f" ({chosen.describe()})" if chosen.describe() else ""
        raise NoRunsError(f"{bids_dir} holds no DWI run that was asked for{asked}")
    warnings[:0] = [*chosen.warnings, *chosen.unmatched(entities for _, entities in images)]

    collector = _Collector(bids_dir, inputs.derivatives)
    # Several raw runs can have become one preprocessed image.
    runs = list({run.parts[0].image: run for run in (collector.run(*image) for image in images)}.values())
    if selection.combine != "none":
        runs = _combine(runs, COMBINED_ENTITY[selection.combine])

    problems: dict[str, tuple[DwiRun, SicnnAppError]] = {}
    named: dict[str, DwiRun] = {}
    for run in runs:
        error = collector.error(run, has_bvals_file=inputs.bvals is not None)
        if run.name in named:
            other = named[run.name].parts[0].image
            error = DataError(
                f"{other} and {run.parts[0].image} are both the run {run.name}: keep one of them"
            )
        elif error is None and inputs.derivatives:
            try:
                run = _add_mask(run, inputs, collector.warnings)
            except SicnnAppError as mask_error:
                error = mask_error
        named[run.name] = run
        if error is not None:
            problems[run.name] = (run, error)
    if inputs.mask_desc is not None and not any(run.mask for run in named.values()) and not problems:
        raise MissingInputError(
            f"no mask with desc-{inputs.mask_desc} of the chosen runs in {', '.join(inputs.derivatives)}"
        )
    if inputs.bvals is not None and all(part.bval for run in named.values() for part in run.parts):
        collector.warnings.append(f"--bvals {inputs.bvals} is not used: every image has a .bval of its own")

    states = {name: _no_ivim_run(run, inputs.bvals) for name, run in named.items()}
    usable = {run.subject for name, run in named.items() if states[name][0] and name not in problems}
    for name, run in list(named.items()):
        reason = states[name][1]
        if reason is not None and run.subject in usable:
            skipped.append((name, f"{reason}, and the participant has other runs"))
            del named[name]
            problems.pop(name, None)
    ordered = sorted(named, key=natural_key)
    return Discovery(
        runs=tuple(named[name] for name in ordered if name not in problems),
        warnings=tuple(warnings + collector.warnings),
        skipped=tuple(skipped),
        problems=tuple(problems[name] for name in ordered if name in problems),
    )
