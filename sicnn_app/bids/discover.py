"""A dataset and what was asked for, to the runs to process."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sicnn_app.bids.associate import Associator, image_stem
from sicnn_app.bids.combine import require_one_acquisition
from sicnn_app.bids.derivative_datasets import (
    PREPROCESSED,
    find_mask,
    find_preprocessed,
    holds_images,
    require_derivatives,
    unused_preprocessed,
)
from sicnn_app.bids.gradients import part_bvals
from sicnn_app.bids.images import open_image, volume_count
from sicnn_app.bids.index import find_images
from sicnn_app.bids.segmentations import unrecognised
from sicnn_app.bids.select import Selection
from sicnn_app.bids.text_files import Boundary, require_content, unreadable
from sicnn_app.errors import DataError, MissingInputError, NoRunsError, SicnnAppError, UsageError
from sicnn_app.formats import natural_key, printable
from sicnn_app.ivim.bvalues import group_bvalues, other_unit, wanted_bvalues
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import MIN_DISTINCT_BVALS
from sicnn_app.settings import InputSettings, PreprocessingSettings, SelectionSettings

NO_MASK = "none"
"""Value of ``--mask-desc`` with which no mask of the derivative datasets is taken."""

COMBINED_ENTITY = {"acquisition": "acq", "run": "run", "direction": "dir"}
"""Entity in which runs may differ to be combined, per value of ``--combine``."""


@dataclass(frozen=True)
class Discovery:
    """Runs of a selection.

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


def _run_of(entities: dict[str, str], source: SourceImage) -> DwiRun:
    """Run of an image; outputs say on their own what was made of it, so its ``desc`` is not kept."""
    kept = {key: label for key, label in entities.items() if key != "desc"}
    return DwiRun(kept, (source,), preprocessed=entities.get("desc") == PREPROCESSED)


class _Collector:
    """Turns images into runs and remembers what is wrong with which image."""

    def __init__(self, bids_dir: Path, derivatives: Collection[Path]) -> None:
        self.derivatives = derivatives
        self.associators = {root: Associator(root) for root in (bids_dir, *derivatives)}
        self.bids_dir = bids_dir
        self.errors: dict[Path, SicnnAppError] = {}
        self.warnings: list[str] = []

    def run(self, path: Path, entities: dict[str, str]) -> DwiRun:
        """Run of an image, or of the preprocessed image made from it."""
        try:
            own = self.associators[self.bids_dir]
            derived = find_preprocessed(self.derivatives, entities)
            if derived is None:
                return _run_of(entities, own.associate(path, entities, self.warnings))
            labels = derived.name.entities
            source = self.associators[derived.dataset].associate(derived.path, labels, self.warnings)
            # Derivatives seldom repeat what the scanner said, such as the body part.
            _, raw = own.metadata(path, entities, self.warnings)
            # An axis of the raw image, whose order the preprocessing may have changed.
            raw.pop("SliceEncodingDirection", None)
            return _run_of(labels, replace(source, metadata={**raw, **source.metadata}))
        except SicnnAppError as error:
            self.errors[path] = error
            return _run_of(entities, SourceImage(path, None, None))

    def require_readable(self, run: DwiRun, *, has_bvals_file: bool) -> None:
        """Raise what keeps a run from being loaded, as far as can be told without opening its images."""
        for source in run.parts:
            if source.image in self.errors:
                raise self.errors[source.image]
            require_content(source.image)
            if source.bval is not None:
                require_content(source.bval)
            elif not has_bvals_file:
                raise MissingInputError(
                    f"{source.image} has no .bval: "
                    f"add {image_stem(source.image)}.bval beside it, or give --bvals FILE"
                )


def _combine(runs: Iterable[DwiRun], entity: str) -> list[DwiRun]:
    """Merge the runs whose entities differ in one entity only."""
    groups: dict[tuple[tuple[str, str], ...], list[DwiRun]] = defaultdict(list)
    for run in runs:
        groups[tuple(item for item in run.entities.items() if item[0] != entity)].append(run)
    combined = []
    for shared, members in groups.items():
        parts = tuple(part for run in members for part in run.parts)
        combined.append(
            members[0] if len(members) == 1 else replace(members[0], entities=dict(shared), parts=parts)
        )
    return combined


def _add_mask(run: DwiRun, inputs: InputSettings, warnings: list[str]) -> DwiRun:
    if inputs.mask_desc == NO_MASK:
        return run
    desc = None if inputs.mask_desc is None else inputs.mask_desc.removeprefix("desc-")
    mask = find_mask(inputs.derivatives.values(), run.entities, desc=desc)
    if mask is not None:
        open_image(mask)
    elif desc is not None or not run.preprocessed:
        wanted = "mask" if desc is None else f"mask with desc-{desc}"
        warnings.append(f"{run.name}: no {wanted} of it in {', '.join(inputs.derivatives)}; one is made")
    return replace(run, mask=mask)


def _unrecognised(runs: Iterable[DwiRun], datasets: Mapping[str, Path]) -> list[str]:
    """A warning per dataset of ``-d`` that holds nothing of any of the runs that could be used."""
    entities = [run.entities for run in runs]

    def holds(root: Path) -> bool:
        try:
            return any(holds_images(root, one) for one in entities)
        except DataError:
            return True

    return unrecognised({name: root for name, root in datasets.items() if not holds(root)}, entities)


def _links_out(runs: Iterable[DwiRun], roots: Iterable[Path]) -> list[str]:
    """A warning when files of the runs really lie outside of the datasets that were named."""
    boundary = Boundary(roots)
    files = [
        path
        for run in runs
        for part in run.parts
        for path in (part.image, part.bval, part.bvec, *part.sidecars, run.mask)
        if path is not None
    ]
    found = [(path, target) for path in dict.fromkeys(files) if (target := boundary.target_outside(path))]
    if not found:
        return []
    shown, outside = map(printable, found[0])
    return [
        f"{len(found)} files lie outside of the datasets, behind links, as {shown} at {outside}: "
        "they are used; check that this is meant"
    ]


def _mixed_times(runs: Iterable[DwiRun]) -> list[str]:
    """A warning per participant and time of the acquisition in which the runs differ."""
    stated: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    for run in runs:
        for key, seconds in run.times.items():
            stated[run.subject, key].setdefault(seconds, run.name)
    return [
        f"runs of sub-{subject} differ in {key}: "
        + ", ".join(f"{seconds:g} s in {name}" for seconds, name in sorted(values.items()))
        + "; F, D and D* depend on it: do not take means over these runs"
        for (subject, key), values in stated.items()
        if len(values) > 1
    ]


def _no_ivim_run(
    run: DwiRun, bvals_file: Path | None, steps: PreprocessingSettings
) -> tuple[bool, str | None]:
    """True for a usable run, and why a sound one is no IVIM run. Raises SicnnAppError."""
    volumes = [volume_count(open_image(source.image)) for source in run.parts]
    if sum(volumes) == 1:
        return False, "it has one volume"
    bvals = np.concatenate(part_bvals(run.parts, volumes, bvals_file)[0])
    if bvals.size != sum(volumes) or other_unit(bvals) is not None:
        return False, None
    nominal, _ = group_bvalues(bvals)
    wanted = wanted_bvalues(nominal, max_bval=steps.max_bval, ignore_bvals=steps.ignore_bvals)
    if (distinct := int(wanted.sum())) < MIN_DISTINCT_BVALS:
        # A multi-shell run beside the IVIM run has few b-values below the limit of the model.
        left_out = "" if wanted.all() else f" up to {steps.max_bval:g} s/mm^2 that are not ignored"
        return False, f"it has {distinct} distinct b-values{left_out}"
    return True, None


def _require_inputs(inputs: InputSettings) -> None:
    require_derivatives(inputs.derivatives)
    if inputs.bvals is not None:
        try:
            require_content(inputs.bvals)
        except SicnnAppError as error:
            raise type(error)(f"--bvals: {error}") from None
    if inputs.mask_desc is not None and not inputs.derivatives:
        raise UsageError("--mask-desc chooses among the masks of -d: give -d as well")


def discover(
    bids_dir: Path,
    selection: SelectionSettings,
    inputs: InputSettings,
    preprocessing: PreprocessingSettings | None = None,
) -> Discovery:
    """Find the runs to process; what is wrong with one run is returned, not raised.

    b-values that ``preprocessing`` will leave out do not make an IVIM run.

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
    images = find_images(bids_dir, chosen, database_dir=selection.bids_database_dir)
    unused = unused_preprocessed(inputs.derivatives.values(), images.participants, images.raw, chosen)
    if not images.chosen and not images.closed:
        asked = f" ({chosen.describe()})" if chosen.describe() else ""
        hint = ": to process preprocessed images alone, give their dataset as BIDS_DIR" if unused else ""
        raise NoRunsError(f"{bids_dir} holds no DWI run that was asked for{asked}{hint}")
    collector = _Collector(bids_dir, inputs.derivatives.values())
    collector.warnings += [
        *chosen.warnings,
        *chosen.unmatched(entities for _, entities in images.chosen),
        *images.warnings,
        *(f"{path} is not used: {bids_dir} has no DWI run that it was made from" for path in unused),
    ]
    # Several raw runs can have become one preprocessed image.
    found = [collector.run(*image) for image in images.chosen]
    runs = list({run.parts[0].image: run for run in found}.values())
    if selection.combine != "none":
        runs = _combine(runs, COMBINED_ENTITY[selection.combine])

    problems: dict[str, SicnnAppError] = {}
    named: dict[str, DwiRun] = {}
    for run in runs:
        try:
            if run.name in named:
                other = named[run.name].parts[0].image
                raise DataError(
                    f"{other} and {run.parts[0].image} are both the run {run.name}: keep one of them"
                )
            collector.require_readable(run, has_bvals_file=inputs.bvals is not None)
            require_one_acquisition(run.parts)
            if inputs.derivatives:
                run = _add_mask(run, inputs, collector.warnings)
        except SicnnAppError as error:
            problems[run.name] = error
        named[run.name] = run
    for folder, entities in images.closed:
        run = DwiRun(entities, (SourceImage(folder, None, None),))
        named[run.name] = run
        problems[run.name] = unreadable(folder)
    wants_mask = inputs.mask_desc not in (None, NO_MASK)
    if wants_mask and not any(run.mask for run in named.values()) and not problems:
        raise MissingInputError(
            f"no mask with desc-{inputs.mask_desc} of the chosen runs in {', '.join(inputs.derivatives)}"
        )
    if inputs.bvals is not None and all(part.bval for run in named.values() for part in run.parts):
        collector.warnings.append(f"--bvals {inputs.bvals} is not used: every image has a .bval of its own")

    usable: set[str] = set()
    no_ivim_runs: dict[str, str] = {}
    for name, run in named.items():
        try:
            is_usable, reason = _no_ivim_run(run, inputs.bvals, preprocessing or PreprocessingSettings())
        except SicnnAppError as error:
            problems.setdefault(name, error)
            continue
        if is_usable and name not in problems:
            usable.add(run.subject)
        elif reason is not None:
            no_ivim_runs[name] = f"{reason}, and the participant has other runs"
    for name, reason in no_ivim_runs.items():
        if named[name].subject in usable:
            images.skipped.append((name, reason))
            problems.pop(name, None)
            del named[name]
    collector.warnings += _unrecognised(named.values(), inputs.derivatives)
    collector.warnings += _mixed_times(named.values())
    collector.warnings += _links_out(named.values(), collector.associators)
    ordered = sorted(named, key=natural_key)
    return Discovery(
        runs=tuple(named[name] for name in ordered if name not in problems),
        # One sidecar can serve many runs.
        warnings=tuple(dict.fromkeys(collector.warnings)),
        skipped=tuple(images.skipped),
        problems=tuple((named[name], problems[name]) for name in ordered if name in problems),
    )
