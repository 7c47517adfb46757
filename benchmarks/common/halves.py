"""Measured abdomens whose runs are split into two independent halves of their volumes.

A half has every other volume at b = 0 and three of the six directions of every other b-value; no volume is in
both. Of the ten ways to split the directions that one is used, per run, whose organ-mean signals agree best
between the halves: there breathing weighs least.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

DATA = Path("../shared/data/ivim-abdomen")
RUNS = tuple(f"sub-{subject}_acq-{acq}" for subject in ("01", "02", "03") for acq in ("T70", "T100"))

ORGANS = {2: "liver", 3: "kidney", 4: "spleen", 1: "pancreas"}
"""Labels of the dataset's own segmentation."""

MIN_VOXELS = 5
"""Fewer make no organ."""


def files_of(data: Path, run: str) -> dict[str, Path]:
    """Image, b-values, mask and organs of a run."""
    subject = run.split("_")[0]
    image, rois = data / subject / "dwi" / f"{run}_dwi", data / "derivatives" / "rois" / subject / "dwi"
    return {
        "image": image.with_name(f"{image.name}.nii.gz"),
        "bvals": image.with_name(f"{image.name}.bval"),
        "mask": rois / f"{subject}_desc-body_mask.nii.gz",
        "organs": rois / f"{subject}_desc-organs_dseg.nii.gz",
    }


def require_files(data: Path, runs: Sequence[str]) -> None:
    """Exit with what is missing of the dataset."""
    if not data.is_dir():
        raise SystemExit(f"{data} is not a folder: give the abdominal dataset with --data")
    missing = [str(path) for run in runs for path in files_of(data, run).values() if not path.is_file()]
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing))
        raise SystemExit(f"missing in {data}:\n  {listed}\nchoose the runs that are there with --runs")


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def labels_of(data: Path, run: str, shape: tuple[int, ...]) -> np.ndarray:
    """Codes of the organs of a run, of the shape of its images; 0 elsewhere."""
    return values_of(files_of(data, run)["organs"]).reshape(shape).astype(int)


def direction_splits(directions: int) -> list[tuple[int, ...]]:
    """Every way to deal an even number of directions into two equal halves: those of the first half.

    The first half always has direction 0, so that no split comes twice: ten of six directions.
    """
    rest = range(1, directions)
    return [(0, *others) for others in itertools.combinations(rest, directions // 2 - 1)]


def direction_count(bvals: np.ndarray) -> int:
    """Volumes of every b-value above 0, shape (N,), s/mm^2; ValueError unless they are equally many and even.

    The k-th volume of a b-value is taken to have the k-th direction.
    """
    counts = np.unique(bvals[bvals > 0], return_counts=True)[1]
    if counts.size == 0 or np.ptp(counts) > 0 or counts[0] % 2:
        raise ValueError(f"expected equally many volumes, an even number, at every b > 0, not {counts}")
    return int(counts[0])


def volumes_of_halves(bvals: np.ndarray, first: Sequence[int]) -> np.ndarray:
    """Which volumes belong to which half of a run.

    Parameters
    ----------
    bvals : ndarray, shape (N,), s/mm^2
        In order of acquisition.
    first : sequence of int
        Directions of the first half; volumes at b = 0 go to the halves in turn.

    Returns
    -------
    ndarray, shape (2, N), bool
    """
    in_first = np.zeros(len(bvals), dtype=bool)
    for bval in np.unique(bvals):
        volumes = np.flatnonzero(bvals == bval)
        in_first[volumes[::2] if bval == 0 else volumes[list(first)]] = True
    return np.stack([in_first, ~in_first])


def disagreement(means: np.ndarray, bvals: np.ndarray, first: Sequence[int]) -> float:
    """Root mean square difference of mean signals between halves, over organs and b > 0.

    Parameters
    ----------
    means : ndarray, shape (organs, N)
        Mean signal of every organ in every volume.
    bvals : ndarray, shape (N,), s/mm^2
    first : sequence of int
        As for :func:`volumes_of_halves`.

    Returns
    -------
    float
        Relative to the mean signal of the organ at b = 0.
    """
    relative = means / means[:, bvals == 0].mean(axis=1, keepdims=True)
    one, other = volumes_of_halves(bvals, first)
    differences = [
        relative[:, one & (bvals == b)].mean(axis=1) - relative[:, other & (bvals == b)].mean(axis=1)
        for b in np.unique(bvals[bvals > 0])
    ]
    return float(root_mean_square(np.array(differences)))


def best_split(means: np.ndarray, bvals: np.ndarray) -> tuple[int, ...]:
    """The split of the directions whose mean signals agree best; arguments as for :func:`disagreement`."""
    splits = direction_splits(direction_count(bvals))
    return min(splits, key=lambda first: disagreement(means, bvals, first))


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def within_subject_cv(first: np.ndarray, second: np.ndarray) -> float:
    """Within-subject coefficient of variation from pairs.

    wCV = sqrt(mean((x1 - x2)^2 / 2)) / mean((x1 + x2) / 2): the root mean square of the standard deviations
    of the pairs over the mean of all values.

    Parameters
    ----------
    first, second : ndarray, shape (V,)
        The same voxels in both measurements.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return root_mean_square(first - second) / np.sqrt(2.0) / float(np.mean((first + second) / 2.0))


def contrast_ratio(medians: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Standard deviation over organs relative to that of the reference, root mean squares over the runs.

    Parameters
    ----------
    medians, reference : sequence of ndarray, one per run, shape (organs,)
        Two organs or more.
    """
    found, wanted = ([np.std(values, ddof=1) for values in runs] for runs in (medians, reference))
    return root_mean_square(np.array(found)) / root_mean_square(np.array(wanted))
