"""All volumes of a series against what is expected of them, kept until pictures are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_PICTURES = 6
"""Volumes in question that are drawn; the others are named."""

OTHER_UNIT = 20.0
"""Times as bright or dark; a map among the images would be all black or leave the others so."""

NOWHERE = "elsewhere"
"""Group of the blocks that lie in no region."""


@dataclass(frozen=True)
class Suspect:
    """One slice of a volume in question beside what it should look like.

    Attributes
    ----------
    volume : int
        Counted from 0 in the source image.
    bval : float, s/mm^2
    slice_index : int
        Along the third array axis.
    image, reference : ndarray, shape (X, Y), units of the source image
        The reference is the median of the others.
    fallen : ndarray, shape (X, Y), bool
        What lost signal.
    others : tuple of int
        Volumes of the reference: of the same b-value, or the one nearest in b where there is no other.
    other_bval : float, s/mm^2
    """

    volume: int
    bval: float
    slice_index: int
    image: np.ndarray
    reference: np.ndarray
    fallen: np.ndarray
    others: tuple[int, ...]
    other_bval: float

    @property
    def one_scale(self) -> bool:
        """Both can be shown in one grey scale: at one b-value, and in one unit as far as brightness tells."""
        bright, usual = (float(np.percentile(image, 99)) for image in (self.image, self.reference))
        one_unit = not bright > 0 or not usual > 0 or 1 / OTHER_UNIT < bright / usual < OTHER_UNIT
        return self.bval == self.other_bval and one_unit


@dataclass(frozen=True)
class Carpet:
    """Blocks of tissue by volumes.

    Attributes
    ----------
    ratios : ndarray, shape (K, N), float32
        Signal over what all other volumes let expect; NaN for volumes that were not judged. Blocks lie
        group by group, volumes as in the source image.
    grouped_by : str
        ``region`` of a segmentation, or ``slice``.
    groups : dict of str to int
        Blocks of every group, in their order.
    suspects : tuple of Suspect
        At most :data:`MOST_PICTURES`, those that are furthest from what is expected, as in the source image.
    """

    ratios: np.ndarray
    grouped_by: str
    groups: dict[str, int]
    suspects: tuple[Suspect, ...]
