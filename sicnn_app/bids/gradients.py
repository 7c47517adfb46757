"""A run's gradient table: b-values and directions as their files state them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sicnn_app.bids.text_files import read_text
from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.run import SourceImage

NO_DIRECTION_BVAL = 50.0
"""s/mm^2; at or below it a zero direction is normal and not worth a warning."""


def bvals_path(source: SourceImage, bvals_file: Path | None) -> Path | None:
    """The file an image's b-values come from: its own .bval before the one of the command line."""
    return source.bval or bvals_file


def part_bvals(
    parts: Sequence[SourceImage], volumes: Sequence[int], bvals_file: Path | None
) -> tuple[list[np.ndarray], list[str]]:
    """b-values of every image of a run.

    A table for several images may hold the b-values of each of them, or, where it has as many as they have
    volumes together, those of one image after the other: trace images often come as one file per b-value.
    Raises as :func:`read_bvals`, and DataError for an image without b-values.

    Parameters
    ----------
    volumes : sequence of int
        Volumes of each image.
    bvals_file : Path or None
        b-values for images without a .bval.

    Returns
    -------
    bvals : list of ndarray, shape (N,), float64, s/mm^2
        As many as the file has, which need not be the number of volumes.
    warnings : list of str
        Which image got what, where a table was shared out.
    """
    sharing: dict[Path, list[int]] = {}
    for position, source in enumerate(parts):
        path = bvals_path(source, bvals_file)
        if path is None:
            raise DataError(f"{source.image} has no .bval")
        sharing.setdefault(path, []).append(position)
    found: dict[int, np.ndarray] = {}
    warnings = []
    for path, positions in sharing.items():
        table = read_bvals(path)
        shares = [table] * len(positions)
        ends = np.cumsum([volumes[position] for position in positions])
        if ends[-1] == table.size and len(positions) > 1:
            shares = np.split(table, ends[:-1])
            given = [
                f"{parts[position].image.name}: {', '.join(f'{b:g}' for b in bvals)}"
                for position, bvals in zip(positions, shares, strict=True)
            ]
            warnings.append(f"b-values of {path.name} by image, s/mm^2: {'; '.join(given)}")
        found.update(zip(positions, shares, strict=True))
    return [found[position] for position in range(len(parts))], warnings


def _numbers(path: Path) -> list[list[float]]:
    """Numbers of a table, row by row; what else stands in it is never quoted: a link can lead to any file."""
    rows: list[list[float]] = []
    for line, row in enumerate(read_text(path).splitlines(), start=1):
        rows.append([])
        for place, word in enumerate(row.split(), start=1):
            try:
                # Only Python takes 1_0 for a number.
                rows[-1].append(float(word if "_" not in word else "no number"))
            except ValueError:
                raise DataError(
                    f"{path} holds no number in line {line}, word {place}: write numbers only"
                ) from None
    return rows


def read_bvals(path: Path) -> np.ndarray:
    """Numbers in one row or one column of a .bval file, shape (N,), float64, s/mm^2.

    Raises
    ------
    MissingInputError
        The file is not there.
    DataError
        It is empty, or holds words, negative, infinite or NaN values.
    """
    bvals = np.array([value for row in _numbers(path) for value in row])
    if bvals.size == 0:
        raise DataError(f"{path} is empty: write one b-value in s/mm^2 per volume")
    bad = bvals[~(np.isfinite(bvals) & (bvals >= 0))]
    if bad.size:
        raise DataError(f"{path} holds the b-value {bad[0]:g}: b-values are numbers of 0 or more, in s/mm^2")
    return bvals


def read_bvecs(path: Path, bvals: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """Read a .bvec file, 3 rows or 3 columns; IVIM can do without, so nothing in it is an error.

    Returns
    -------
    bvecs : ndarray, shape (N, 3), or None
        None when the file does not fit; 3 x 3 values are taken as rows. NaN becomes 0.
    warnings : list of str
    """
    if path.exists() and not path.is_file():
        return None, [f"{path} is left out: it is no file; only |b| is used"]
    try:
        table = np.array([row for row in _numbers(path) if row], dtype=np.float64)
    except (DataError, ValueError):
        return None, [f"{path} is left out: it is no table of numbers; only |b| is used"]
    warnings = []
    if table.shape == (3, bvals.size):
        table = table.T
    elif table.shape == (bvals.size, 3):
        warnings.append(f"{path} has 3 columns, not 3 rows: each line is read as one direction")
    else:
        shape = " x ".join(str(size) for size in table.shape)
        return None, [f"{path} is left out: {shape} values for {bvals.size} volumes; only |b| is used"]
    finite = np.all(np.isfinite(table), axis=1)
    table = np.where(finite[:, None], table, 0.0)
    lost = int(np.sum((~table.any(axis=1)) & (bvals > NO_DIRECTION_BVAL)))
    if lost:
        warnings.append(f"{path}: {lost} volumes above b = {NO_DIRECTION_BVAL:g} have no direction")
    return table, warnings


def bvals_in_words(bvals: np.ndarray) -> list[str]:
    """Every nominal b-value by the numbers that are taken for it, ascending.

    Examples
    --------
    >>> bvals_in_words(np.array([0.0, 995.0, 1005.0, 50.0]))
    ['0', '50', '995-1005']
    """
    nominal, index = group_bvalues(bvals)
    groups = [np.unique(bvals[index == position]) for position in range(nominal.size)]
    return [f"{b[0]:g}" if b.size == 1 else f"{b[0]:g}-{b[-1]:g}" for b in groups]


def merged_bvals(bvals: np.ndarray) -> list[str]:
    """A warning that names the b-values taken as one, when there are any."""
    pairs = zip(bvals_in_words(bvals), group_bvalues(bvals)[0], strict=True)
    merged = [f"{words} as {b:g}" for words, b in pairs if "-" in words]
    return [f"b-values close to each other are taken as one: {', '.join(merged)} s/mm^2"] if merged else []
