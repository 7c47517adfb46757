"""Regions of a run: segmentations in other derivative datasets, with the names in their lookup tables."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicnn_app.bids.associate import Associator, parse_name
from sicnn_app.bids.content import read_text, shorten
from sicnn_app.bids.derivatives import DerivativeFile, find_segmentations
from sicnn_app.bids.images import open_image
from sicnn_app.bids.masks import load_labels
from sicnn_app.errors import DataError


@dataclass(frozen=True)
class Segmentation:
    """A segmentation of a run.

    Attributes
    ----------
    name : str
        The same for all runs: the dataset's name in ``-d``, and what tells its segmentations apart, as
        ``rois:organs``.
    path : Path
    lookup : Path or None
        Table of the names of its regions.
    """

    name: str
    path: Path
    lookup: Path | None


class Segmentations:
    """Finds the segmentations of runs; lists each folder once.

    Parameters
    ----------
    datasets : mapping of str to Path
        Derivative datasets by their names in ``-d``.
    """

    def __init__(self, datasets: Mapping[str, Path]) -> None:
        self._datasets = {name: Path(os.path.abspath(root)) for name, root in datasets.items()}
        self._associators = {name: Associator(root, "dseg") for name, root in self._datasets.items()}

    def of(self, entities: dict[str, str]) -> tuple[list[Segmentation], list[str]]:
        """Segmentations of a run, and warnings on those between which nothing decides.

        Of several with one name the file that names most of the run's entities counts, then the one of its
        own ``space``.

        Parameters
        ----------
        entities : dict of str to str
            Entities of the run.

        Raises
        ------
        DataError
            A folder cannot be read, or two lookup tables of one folder apply.
        """
        found: list[Segmentation] = []
        warnings: list[str] = []
        for dataset, root in self._datasets.items():
            candidates: dict[str, list[DerivativeFile]] = {}
            for file in find_segmentations(root, entities):
                candidates.setdefault(_segmentation_name(dataset, file.path), []).append(file)
            for name, files in candidates.items():
                best = [file for file in files if len(file.source) == len(files[0].source)]
                best = [file for file in best if file.space == entities.get("space")] or best
                if len(best) > 1:
                    both = " and ".join(str(file.path) for file in best[:2])
                    warnings.append(f"{both} are both the segmentation {name}: the first is used")
                found.append(Segmentation(name, best[0].path, self._lookup(dataset, best[0].path)))
        return found, warnings

    def _lookup(self, dataset: str, path: Path) -> Path | None:
        return self._associators[dataset].nearest(path, parse_name(path.name).entities, ".tsv")


def _segmentation_name(dataset: str, path: Path) -> str:
    entities = parse_name(path.name).entities
    parts = [entities[key] for key in ("seg", "desc") if key in entities]
    return ":".join([dataset, *parts])


def read_lookup(path: Path) -> dict[int, str]:
    """Names of the regions of a segmentation by their indices.

    Parameters
    ----------
    path : Path
        A ``*_dseg.tsv`` of BIDS derivatives, with the columns ``index`` and ``name``.

    Raises
    ------
    MissingInputError
        The file is not there, or its content is not fetched.
    DataError
        It cannot be read, lacks a column, or holds an index that is no whole number.
    """
    text = io.StringIO(read_text(path), newline=None)
    table = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        columns, rows = table.fieldnames or (), list(table)
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}): write it as tab-separated text") from None
    if missing := [column for column in ("index", "name") if column not in columns]:
        raise DataError(f"{path} has no column {' and no column '.join(missing)}: add what BIDS asks for")
    names = {}
    for row in rows:
        try:
            names[int(row["index"])] = (row["name"] or "").strip()
        except (TypeError, ValueError):
            index = shorten(str(row["index"]))
            raise DataError(f"{path} holds the index {index!r}: indices are whole numbers") from None
    return {index: name for index, name in names.items() if name}


def load_regions(
    segmentation: Segmentation, image: Path, shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Voxels of every region of a segmentation on the grid of a map.

    Parameters
    ----------
    segmentation : Segmentation
    image : Path
        The map.
    shape : tuple of int
        Its spatial shape (X, Y, Z).

    Returns
    -------
    regions : dict of str to ndarray, shape (X, Y, Z), bool
        By name, in the order of their indices; a region without a name is called by its index. Indices
        that share a name are one region.
    warnings : list of str

    Raises
    ------
    MissingInputError
        A file is not there, or its content is not fetched.
    DataError
        A file cannot be read, the segmentation is not discrete, or it lies on another grid.
    """
    labels, warnings = load_labels(segmentation.path, open_image(image).affine, shape=shape)
    names = {} if segmentation.lookup is None else read_lookup(segmentation.lookup)
    regions: dict[str, np.ndarray] = {}
    for index in np.unique(labels[labels > 0]).tolist():
        name = names.get(index, str(index))
        regions[name] = regions.get(name, False) | (labels == index)
    return regions, warnings
