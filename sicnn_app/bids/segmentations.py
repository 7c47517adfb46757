"""Regions of a run: segmentations in other derivative datasets, with the names in their lookup tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicnn_app.bids.associate import Associator
from sicnn_app.bids.derivative_datasets import DerivativeFile, find_segmentations
from sicnn_app.bids.images import open_image
from sicnn_app.bids.masks import load_labels
from sicnn_app.bids.text_files import Boundary, read_table
from sicnn_app.errors import DataError
from sicnn_app.formats import NOT_AVAILABLE, printable, shorten
from sicnn_app.ivim.regions import Regions

MAX_REGIONS = 5000
"""Of one segmentation; the finest atlases have a thousand, and each region is a row of every run."""

MAX_NAME = 200
"""Letters of the name of a region."""


@dataclass(frozen=True)
class Segmentation:
    """A segmentation of a run, and the table of the names of its regions.

    Its own name is the same for all runs: the dataset's name in ``-d``, and what tells its segmentations
    apart, as ``rois:organs``.
    """

    name: str
    path: Path
    lookup: Path | None


class Segmentations:
    """Finds the segmentations of runs in datasets by their names in ``-d``; lists each folder once."""

    def __init__(self, datasets: Mapping[str, Path]) -> None:
        self._datasets = {name: Path(os.path.abspath(root)) for name, root in datasets.items()}
        self._associators = {name: Associator(root, "dseg") for name, root in self._datasets.items()}
        self._boundary = Boundary(self._datasets.values())

    def of(self, entities: dict[str, str]) -> tuple[list[Segmentation], list[str]]:
        """Segmentations of a run, and warnings on those between which nothing decides.

        Of several with one name the file that names most of the run's entities counts, then the one of its
        own ``space``. Raises DataError for a folder that cannot be read or has two lookup tables that apply.
        """
        found: list[Segmentation] = []
        warnings: list[str] = []
        for dataset, root in self._datasets.items():
            candidates: dict[str, list[DerivativeFile]] = {}
            for file in find_segmentations(root, entities):
                labels = file.name.entities
                parts = [labels[key] for key in ("seg", "desc") if key in labels]
                candidates.setdefault(":".join([dataset, *parts]), []).append(file)
            for name, files in candidates.items():
                best = [file for file in files if len(file.source) == len(files[0].source)]
                best = [file for file in best if file.space == entities.get("space")] or best
                if len(best) > 1:
                    both = " and ".join(str(file.path) for file in best[:2])
                    warnings.append(f"{both} are both the segmentation {name}: the first is used")
                lookup = self._associators[dataset].nearest(best[0].path, best[0].name.entities, ".tsv")
                if lookup is not None and lookup.is_symlink() and self._boundary.target_outside(lookup):
                    # Its words become names in tables: a list of patients has such columns, too.
                    warnings.append(f"{lookup} is left out: it is a link out of its dataset; copy the table")
                    lookup = None
                found.append(Segmentation(name, best[0].path, lookup))
        return found, warnings


def read_lookup(path: Path) -> dict[int, str]:
    """Names of the regions in a ``*_dseg.tsv``, with the columns ``index`` and ``name``, by their indices.

    White space in a name becomes single spaces, so that names that look alike are one; letters that cannot be
    seen become escapes. An index whose name is empty or ``n/a`` is left out.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, lacks a column, or holds an index that is no whole number.
    """
    names = {}
    for number, row in enumerate(read_table(path, ("index", "name")), start=2):
        try:
            name = printable(" ".join(row.get("name", "").split()))
            names[int(row.get("index", ""))] = shorten(name, MAX_NAME)
        except ValueError:
            raise DataError(f"{path} holds no index in line {number}: indices are whole numbers") from None
    return {index: name for index, name in names.items() if name not in ("", NOT_AVAILABLE)}


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
    labels, warnings = load_labels(segmentation.path, open_image(image).affine, shape=mask.shape)
    found = {} if segmentation.lookup is None else read_lookup(segmentation.lookup)
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
