"""One unit of work: the source images of a run, and everything that came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.ivim.carpet import Carpet
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.regions import MeasuredRegions
from sicnn_app.ivim.series import AveragedSignals, DwiSeries

TIMES = {"EchoTime": "echo time", "BigDelta": "BigDelta", "SmallDelta": "SmallDelta"}
"""Times of an acquisition on which F, D and D* depend, s, by their keys in sidecars, and their names."""


@dataclass(frozen=True)
class SourceImage:
    """One DWI image file and the files associated with it by inheritance.

    Attributes
    ----------
    sidecars : tuple of Path
        JSON sidecars that apply, farthest first; later ones override earlier ones.
    metadata : dict
        The merged sidecars.
    """

    image: Path
    bval: Path | None
    bvec: Path | None
    sidecars: tuple[Path, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DwiRun:
    """One run to process; several source images when runs are combined.

    Attributes
    ----------
    entities : dict of str to str
        Short BIDS entity keys (``sub``, ``ses``, ``acq``, ``dir``, ``run``, ``part`` ...) in
        BIDS order to their labels as written in the file name (``run-01`` stays ``01``).
        For combined runs the entities they share.
    mask : Path or None
        Mask found in a derivative dataset.
    preprocessed : bool
        The image is a ``desc-preproc_dwi`` of a derivative dataset.
    """

    entities: dict[str, str]
    parts: tuple[SourceImage, ...]
    mask: Path | None = None
    preprocessed: bool = False

    @property
    def name(self) -> str:
        """The stem ``<src>`` of every output, for example ``sub-01_ses-1_acq-T70``."""
        return "_".join(f"{key}-{label}" for key, label in self.entities.items())

    @property
    def subject(self) -> str:
        """Label of the participant, without ``sub-``."""
        return self.entities["sub"]

    @property
    def session(self) -> str | None:
        """Label of the session, without ``ses-``; None for a dataset without sessions."""
        return self.entities.get("ses")

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the first source image."""
        return self.parts[0].metadata

    @property
    def times(self) -> dict[str, float]:
        """Those of :data:`TIMES` that the first source image states, s."""
        stated = {key: self.metadata.get(key) for key in TIMES}
        return {
            key: float(value)
            for key, value in stated.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        }


@dataclass(frozen=True)
class RunResult:
    """Everything a finished run writes.

    Attributes
    ----------
    header : nibabel header
        Header of the (first) source image: geometry is copied from it.
    series : DwiSeries
        The preprocessed 4-D series before averaging.
    flags : ndarray, shape (X, Y, Z), uint8
        Codes of :data:`sicnn_app.ivim.flags.FLAGS`; 0 where nothing is flagged.
    flag_counts : dict of str to int
        Voxels for which each reason holds, also where an earlier reason is shown.
    anatomy : str
        ``brain`` or ``body``.
    anatomy_source, mask_source : str
        What decided it, in words; how the mask was made, or the path of the file it came from.
    steps : list of dict
        Preprocessing steps in order: ``{"Name": str, "Description": str, ...numbers}``.
    warnings : list of str
        What was assumed or left out, one line each.
    settings : dict
        Every flag that can change a map, as resolved; JSON-serialisable.
    fingerprint : str
        Hash over the settings, the source files and the app's minor version.
    volumes : list of dict
        One row per volume of the source image, see
        :meth:`sicnn_app.preprocess.judgement.JudgedVolume.row`.
    motion : list of dict, or None
        One row per volume of ``series``, see :class:`sicnn_app.preprocess.motion.correct`;
        None when motion was not corrected.
    conventional : Estimate or None
        Least squares over the same signals, to compare with; its ``predicted`` is empty. None for least
        squares itself, and where the memory did not suffice.
    before_after : list of BeforeAfter
        What each correction that changed anything did to one slice.
    carpet : Carpet or None
        All volumes of the source image against what is expected of them; None when none could be judged.
    regions : list of MeasuredRegions
        One per segmentation of ``-d`` that could be read.
    peak_memory : float or None
        Highest resident memory of the process so far, GB (10^9 bytes).
    """

    run: DwiRun
    header: Any
    series: DwiSeries
    averaged: AveragedSignals
    estimate: Estimate
    flags: np.ndarray
    flag_counts: dict[str, int]
    anatomy: str
    anatomy_source: str
    mask_source: str
    steps: list[dict[str, Any]]
    warnings: list[str]
    settings: dict[str, Any]
    fingerprint: str
    volumes: list[dict[str, Any]] = field(default_factory=list)
    motion: list[dict[str, Any]] | None = None
    conventional: Estimate | None = None
    before_after: list[BeforeAfter] = field(default_factory=list)
    carpet: Carpet | None = None
    regions: list[MeasuredRegions] = field(default_factory=list)
    peak_memory: float | None = None
