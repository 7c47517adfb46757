"""Measurements of the judgement of volumes in an order for the eye, and slices of those in question."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.carpet import MOST_PICTURES, NOWHERE, Carpet, Suspect
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.blocks import Blocks

OF_A_REGION = 0.25
"""Share of the voxels of a block from which on it counts to a region; organs are seldom cut along blocks."""

MOST_REGIONS = 10
"""Told apart: those that lost most signal, then the largest."""

OTHERS = "other regions"

FARTHEST = 1.0
"""Logarithm of a block's ratio that counts for how far a volume is off; one block alone shall not decide."""


def carpet_of(
    series: DwiSeries,
    blocks: Blocks,
    ratios: np.ndarray,
    lost: np.ndarray,
    in_question: np.ndarray,
    regions: tuple[np.ndarray, Mapping[int, str]] | None,
) -> Carpet:
    """Order blocks by region or slice, and cut slices out of the volumes in question.

    Parameters
    ----------
    series : DwiSeries
        With the b-values as they are used.
    ratios : ndarray, shape (K, N)
        Signals of blocks over what is expected; NaN where a volume was not judged.
    lost : ndarray, shape (K, N), bool
        Blocks that fell out.
    in_question : ndarray, shape (N,), bool
    regions : (ndarray, shape (X, Y, Z), int; mapping of int to str), or None
    """
    of_block, names = _slices(blocks) if regions is None else _regions(blocks, lost, *regions)
    order = np.argsort(of_block, kind="stable")
    counts = np.bincount(of_block, minlength=len(names)).tolist()
    far = np.minimum(np.abs(np.log(np.maximum(np.nan_to_num(ratios, nan=1.0), 1e-3))), FARTHEST)
    off = np.where(in_question, np.sqrt(np.mean(far**2, axis=0)) + lost.mean(axis=0), -1.0)
    chosen = np.sort(np.argsort(-off, kind="stable")[: min(MOST_PICTURES, int(in_question.sum()))])
    return Carpet(
        ratios=ratios[order].astype(np.float32),
        grouped_by="slice" if regions is None else "region",
        groups={name: count for name, count in zip(names, counts, strict=True) if count},
        suspects=tuple(
            _suspect(series, blocks.labels, int(i), far[:, i], lost[:, i], in_question) for i in chosen
        ),
    )


def _slices(blocks: Blocks) -> tuple[np.ndarray, list[str]]:
    """Group of every block, shape (K,), and the names of the groups."""
    found, of_block = np.unique(blocks.slices, return_inverse=True)
    return of_block.ravel(), [str(index) for index in found]


def _regions(
    blocks: Blocks, lost: np.ndarray, segmentation: np.ndarray, given: Mapping[int, str]
) -> tuple[np.ndarray, list[str]]:
    """Groups as in :func:`_slices`: each block with the region that most of its voxels in regions lie in."""
    inside = (blocks.labels >= 0) & (segmentation > 0)
    codes, position = np.unique(segmentation[inside].astype(int), return_inverse=True)
    names = list(dict.fromkeys(given.get(code, str(code)) for code in codes.tolist()))
    of_code = np.array([names.index(given.get(code, str(code))) for code in codes.tolist()], dtype=int)
    voxels = np.zeros((blocks.sizes.size, max(len(names), 1)), dtype=int)
    np.add.at(voxels, (blocks.labels[inside], of_code[position.ravel()]), 1)
    of_block = np.where(voxels.max(axis=1) >= OF_A_REGION * blocks.sizes, voxels.argmax(axis=1), len(names))
    members = [of_block == region for region in range(len(names))]
    worst = [lost[member].mean(axis=0).max() if member.any() else 0.0 for member in members]
    rank = sorted(range(len(names)), key=lambda region: (-worst[region], -members[region].sum()))
    kept = sorted(rank[:MOST_REGIONS])
    place = np.full(len(names) + 1, len(kept))
    place[kept] = np.arange(len(kept))
    place[-1] = len(kept) + 1
    return place[of_block], [*(names[region] for region in kept), OTHERS, NOWHERE]


def _suspect(
    series: DwiSeries, labels: np.ndarray, i: int, far: np.ndarray, lost: np.ndarray, in_question: np.ndarray
) -> Suspect:
    """The slice of a volume with most of what it lost, or else where it is furthest off."""
    weight = np.where(labels >= 0, (lost.astype(float) if lost.any() else far)[labels], 0.0)
    k = int(weight.sum(axis=(0, 1)).argmax())
    others = _others(series.bvals, i, in_question)
    slices = [np.nan_to_num(np.array(series.signals[:, :, k, other])) for other in others]
    plane = labels[:, :, k]
    return Suspect(
        volume=int(series.source_volumes[i]),
        bval=float(series.bvals[i]),
        slice_index=k,
        image=np.nan_to_num(np.array(series.signals[:, :, k, i])),
        reference=np.median(slices, axis=0),
        fallen=(plane >= 0) & lost[plane],
        others=tuple(series.source_volumes[others].tolist()),
        other_bval=float(np.median(series.bvals[others])),
    )


def _others(bvals: np.ndarray, i: int, in_question: np.ndarray) -> np.ndarray:
    """Volumes to hold one against: of its b-value, as far as possible none in question; or the nearest."""
    _, index = group_bvalues(bvals)
    peers = np.flatnonzero((index == index[i]) & (np.arange(bvals.size) != i))
    if peers.size:
        sound = peers[~in_question[peers]]
        return sound if sound.size else peers
    apart = np.abs(bvals - bvals[i]) + np.where(in_question, np.ptp(bvals), 0.0)
    apart[i] = np.inf
    return np.array([np.argmin(apart)])
