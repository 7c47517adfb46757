"""Regions of a run: segmentations in other derivative datasets, with the names in their lookup tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sicnn_app.bids.associate import Associator, image_stem, parse_name
from sicnn_app.bids.derivative_datasets import find_segmentations, own_space
from sicnn_app.bids.images import open_image
from sicnn_app.bids.label_names import FREESURFER, read_colour_table, read_label_table, read_lookup
from sicnn_app.bids.layouts import BIDS, FREESURFER_LABELS, RECOGNISED, LaidOut, Tree
from sicnn_app.bids.masks import load_labels, load_masks
from sicnn_app.bids.text_files import Boundary
from sicnn_app.errors import DataError
from sicnn_app.ivim.regions import Regions

MAX_REGIONS = 5000
"""Of one segmentation; the finest atlases have a thousand, and each region is a row of every run."""

COLOUR_TABLE = "FreeSurferColorLUT.txt"


@dataclass(frozen=True)
class Segmentation:
    """A segmentation of a run.

    Attributes
    ----------
    name : str
        The same for all runs: the dataset's name in ``-d``, and what tells its segmentations apart, as
        ``rois:organs``.
    path : Path
        The image, or the folder of ``masks``.
    lookup : Path or None
        Names of its regions, a ``*_dseg.tsv`` or a colour table of FreeSurfer.
    program : str
        That it is laid out as by.
    from_freesurfer : bool
        Without a lookup its indices are those of FreeSurfer.
    masks : tuple of Path
        One per region, named for it; empty for a single image.
    """

    name: str
    path: Path
    lookup: Path | None
    program: str = BIDS
    from_freesurfer: bool = False
    masks: tuple[Path, ...] = ()

    @property
    def described(self) -> str:
        """Words for the log: its name, and whose layout was recognised."""
        return f"{self.name}, recognised as laid out by {self.program}: {self.path}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images."""
        return self.masks or (self.path,)

    def names(self) -> dict[int, str]:
        """Names of its regions by their indices; raises as :func:`sicnn_app.bids.label_names.read_lookup`."""
        if self.masks:
            return {index: image_stem(path) for index, path in enumerate(self.masks, start=1)}
        if self.lookup is not None and self.lookup.name == COLOUR_TABLE:
            return {**FREESURFER, **read_colour_table(self.lookup)}
        if self.lookup is not None:
            return read_lookup(self.lookup)
        return (read_label_table(self.path) or {}) if not self.from_freesurfer else FREESURFER

    def labels(self, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
        """Indices of its regions in the voxels of an image, shape (X, Y, Z), int32, and warnings.

        Raises as :func:`sicnn_app.bids.masks.load_labels`.
        """
        if self.masks:
            return load_masks(self.masks, affine, shape=shape)
        return load_labels(self.path, affine, shape=shape)


@dataclass(frozen=True)
class _Dataset:
    """A dataset by its name in ``-d``, with what lists its folders."""

    name: str
    root: Path

    @cached_property
    def associator(self) -> Associator:
        return Associator(self.root, "dseg")

    @cached_property
    def tree(self) -> Tree:
        return Tree(self.root)

    def candidates(self, entities: dict[str, str]) -> dict[str, list[LaidOut]]:
        """What may be a segmentation of a run, by its name."""
        found: dict[str, list[LaidOut]] = {}
        for file in find_segmentations(self.root, entities):
            labels = [file.name.entities[key] for key in ("seg", "desc") if key in file.name.entities]
            known = not FREESURFER_LABELS.isdisjoint(labels)
            laid = LaidOut(BIDS, ":".join(labels), (file.path,), file.name.entities, known)
            found.setdefault(laid.label, []).append(laid)
        for laid in self.tree.of(entities):
            found.setdefault(laid.label, []).append(laid)
        return {":".join(filter(None, (self.name, label))): files for label, files in found.items()}

    def lookup(self, found: LaidOut) -> Path | None:
        """The lookup table that applies to a segmentation; raises DataError where two do."""
        named = None if found.masks else parse_name(found.path.name)
        table = None if named is None else self.associator.nearest(found.path, named.entities, ".tsv")
        if table is None and found.from_freesurfer:
            table = next(filter(os.path.lexists, [self.root / COLOUR_TABLE]), None)
        return table


class Segmentations:
    """Finds the segmentations of runs in datasets by their names in ``-d``; lists each folder once."""

    def __init__(self, datasets: Mapping[str, Path]) -> None:
        self._datasets = [_Dataset(name, Path(os.path.abspath(root))) for name, root in datasets.items()]
        self._boundary = Boundary(dataset.root for dataset in self._datasets)

    def of(self, entities: dict[str, str]) -> tuple[list[Segmentation], list[str]]:
        """Segmentations of a run, and warnings on those that are left out, or between which nothing decides.

        Of several with one name the file that names most of the run's entities counts, then the one of its
        own ``space``. Raises DataError for a folder that cannot be read or has two lookup tables that apply.
        """
        found: list[Segmentation] = []
        warnings: list[str] = []
        space = own_space(entities)
        for dataset in self._datasets:
            for name, candidates in dataset.candidates(entities).items():
                files = [file for file in candidates if file.can_lie_in(space)]
                if not files:
                    warnings.append(
                        f"{candidates[0].path} is left out: it lies in the space "
                        f"{candidates[0].space or 'of its anatomical image'}, and the run in "
                        f"{space or 'its own'}; give the segmentation in the space of the run"
                    )
                    continue
                most = max(len(file.source) for file in files)
                best = [file for file in files if len(file.source) == most]
                best = [file for file in best if file.space == space] or best
                if len(best) > 1:
                    both = " and ".join(str(file.path) for file in best[:2])
                    warnings.append(f"{both} are both the segmentation {name}: the first is used")
                chosen = best[0]
                lookup = dataset.lookup(chosen)
                if lookup is not None and lookup.is_symlink() and self._boundary.target_outside(lookup):
                    # Its words become names in tables: a list of patients has such columns, too.
                    warnings.append(f"{lookup} is left out: it is a link out of its dataset; copy the table")
                    lookup = None
                found.append(
                    Segmentation(
                        name,
                        chosen.path,
                        lookup,
                        chosen.program,
                        chosen.from_freesurfer,
                        chosen.files if chosen.masks else (),
                    )
                )
        return found, warnings


def unrecognised(datasets: Mapping[str, Path], runs: Sequence[dict[str, str]]) -> list[str]:
    """A warning per dataset that holds no segmentation of any of the runs, which are given by their entities.

    One with a folder that cannot be read is none of them: the run that it is of will tell.
    """

    def holds(dataset: _Dataset) -> bool:
        try:
            return any(dataset.candidates(entities) for entities in runs)
        except DataError:
            return True

    return [
        f"nothing of the chosen runs is recognised in the derivative dataset {name} ({root}): segmentations "
        f"are looked for as of {RECOGNISED}; give the folder that holds those of the participants"
        for name, root in datasets.items()
        if not holds(_Dataset(name, Path(os.path.abspath(root))))
    ]


def load_regions(segmentation: Segmentation, image: Path, mask: np.ndarray) -> tuple[Regions, list[str]]:
    """Regions of a segmentation in the voxels of the map ``image``, and warnings.

    A region without a name is called by its index. Indices that share a name are one region. Regions outside
    the mask, shape (X, Y, Z), bool, are among them.

    Raises
    ------
    MissingInputError
        A file is not there, or its content is not fetched.
    DataError
        A file cannot be read, or the segmentation is not discrete, or has more than :data:`MAX_REGIONS`.
    """
    labels, warnings = segmentation.labels(open_image(image).affine, mask.shape)
    found = segmentation.names()
    indices, counts = np.unique(labels, return_counts=True)
    if indices.size > MAX_REGIONS:
        raise DataError(
            f"{segmentation.path} has {indices.size:,} regions, more than {MAX_REGIONS:,}: give a discrete "
            "segmentation"
        )
    names: dict[str, int] = {}
    positions = [
        names.setdefault(found.get(index, str(index)), len(names)) if index else -1
        for index in indices.tolist()
    ]
    sizes = np.zeros(len(names), dtype=int)
    np.add.at(sizes, [position for position in positions if position >= 0], counts[indices != 0])
    inside = np.array(positions, dtype=int)[np.searchsorted(indices, labels[mask])]
    codes: list[list[int]] = [[] for _ in names]
    for index, position in zip(indices.tolist(), positions, strict=True):
        if position >= 0:
            codes[position].append(int(index))
    return Regions(tuple(names), inside, sizes, tuple(map(tuple, codes))), warnings
