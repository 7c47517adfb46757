"""Output folder -> everything a report shows of each run; files that are missing or broken are left out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app.bids.geometry import placement
from sicnn_app.bids.text_files import read_json, read_table
from sicnn_app.derivatives.facts import Facts, in_words
from sicnn_app.derivatives.names import (
    AVERAGED,
    CONVENTIONAL,
    MOTION,
    QUALITY,
    REGION_CODES,
    REGIONS,
    SERIES,
    SPREAD,
    TRAINING,
    VOLUMES,
    dwi_folder,
    kept_pictures_of,
    map_ending,
    mask_ending,
    mask_labels,
)
from sicnn_app.derivatives.names import FLAGS as FLAG_CODES
from sicnn_app.derivatives.outputs import Files, MeasuredSignals, measure_signals, read_picture, read_volumes
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F, left_out
from sicnn_app.ivim.parameters import PARAMETERS, SPECS, TISSUE_LABELS, all_maps

MAX_PROGRAMS = 100
"""Whose versions are shown."""

UNNAMED_FLAG = 255
"""Code of what is no flag of ours."""


@dataclass(frozen=True)
class RunDerivatives:
    """Outputs of one run as they are on disk.

    Attributes
    ----------
    name : str
        The stem ``<src>``.
    maps, spread, conventional : dict of str to ndarray, shape (X, Y, Z)
        The parameter maps found, their standard deviations, and the maps of the conventional
        fit to compare with, by the label of the map.
    mask : ndarray, shape (X, Y, Z), bool, or None
        Voxels where the maps are finite; the written mask when there is no map.
    mask_label : str or None
        ``desc`` of the written mask.
    flags : ndarray, shape (X, Y, Z), int, or None
    affine : ndarray, shape (4, 4), or None
        None when the header states no orientation.
    zooms : tuple of float
        Voxel size in mm.
    sidecar, qc, training : dict
        The JSON files of the F map, of the QC and of the training.
    qc_row : dict
        First row of the QC table.
    history : list of dict
        One row per data iteration.
    motion : list of dict
        One row per volume; empty when motion was not corrected.
    volumes : list of dict
        What was found in every volume of the source image.
    regions : list of dict
        One row per region of a segmentation.
    region_codes : ndarray, shape (X, Y, Z), or None
        Row of ``regions``, from 1, that a voxel belongs to; 0: none.
    region_signals : dict
        The JSON file of that table.
    kept_pictures : dict of str to bytes
        PNG that were drawn when the run was processed, by label, see
        :func:`sicnn_app.derivatives.names.kept_pictures_of`.
    problems : list of str
        Files that are there but cannot be read.
    """

    name: str
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    spread: dict[str, np.ndarray] = field(default_factory=dict)
    conventional: dict[str, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    mask_label: str | None = None
    flags: np.ndarray | None = None
    affine: np.ndarray | None = None
    zooms: tuple[float, float, float] = (1.0, 1.0, 1.0)
    measured: MeasuredSignals | None = None
    sidecar: dict[str, Any] = field(default_factory=dict)
    qc: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    qc_row: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)
    motion: list[dict[str, str]] = field(default_factory=list)
    volumes: list[dict[str, str]] = field(default_factory=list)
    regions: list[dict[str, str]] = field(default_factory=list)
    region_codes: np.ndarray | None = None
    region_signals: dict[str, Any] = field(default_factory=dict)
    kept_pictures: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def inside(self, label: str) -> np.ndarray:
        """Values of a map at the voxels of the mask, shape (M,), float64."""
        return self.maps[label][self.mask].astype(np.float64)

    @property
    def flagged(self) -> np.ndarray:
        """Voxels of the mask that statistics leave out, shape (M,), bool; none when the flags are missing."""
        count = int(self.mask.sum())
        return np.zeros(count, dtype=bool) if self.flags is None else left_out(self.flags[self.mask])

    def meaningful(self, label: str) -> np.ndarray:
        """Voxels of the mask over which a map is summarised, shape (M,), bool: D* needs some perfusion."""
        needs_perfusion = any(spec.needs_perfusion for spec in all_maps() if spec.label == label)
        if not needs_perfusion or "f" not in self.maps:
            return np.ones(int(self.mask.sum()), dtype=bool)
        return self.inside("f") >= NEGLIGIBLE_F

    @property
    def has_voxels(self) -> bool:
        """True when there is anything to show."""
        return self.mask is not None and bool(self.mask.any())

    @property
    def anatomy(self) -> str | None:
        """One of :data:`ANATOMIES`, as which the data were treated; None when nothing tells."""
        told = (self.parameters.get("Anatomy"), self.mask_label)
        return next((name for name in told if name in ANATOMIES), None)

    @property
    def parameters(self) -> dict[str, Any]:
        """``Model.Parameters`` of the F map."""
        match self.sidecar.get("Model"):
            case {"Parameters": dict(parameters)}:
                return parameters
        return {}

    @property
    def software(self) -> dict[str, str]:
        """``SoftwareVersions`` of the F map, by name."""
        return software_of(self.sidecar)


def software_of(sidecar: dict[str, Any]) -> dict[str, str]:
    """``SoftwareVersions`` of a sidecar, by name."""
    found = sidecar.get("SoftwareVersions")
    if isinstance(found, str):
        pairs = (entry.strip().rpartition(" ") for entry in found.split(","))
        found = {name: version for name, _, version in pairs if name}
    elif not isinstance(found, dict):
        return {}
    return {name: in_words(version) for name, version in islice(found.items(), MAX_PROGRAMS)}


def collect_run(
    output_dir: Path,
    subject: str,
    session: str | None,
    name: str,
    *,
    series: bool = True,
    conventional: bool = True,
) -> RunDerivatives:
    """Read the outputs of one run; fields of files that are missing or unreadable stay empty.

    Parameters
    ----------
    subject, session : str, str or None
        Labels without ``sub-``/``ses-``.
    name : str
        One of :func:`sicnn_app.derivatives.names.run_names`.
    series : bool
        Also read the preprocessed series, the one large file, its averages, and the pictures drawn with the
        run; without it ``measured`` is None.
    conventional : bool
        Also read the maps of the conventional fit; without them ``conventional`` is empty.
    """
    folder = dwi_folder(output_dir, subject, session)
    files = Files(output_dir)

    def beside(ending: str) -> Path:
        return folder / f"{name}_{ending}"

    def table(ending: str) -> list[dict[str, str]]:
        return files.get(read_table, beside(f"{ending}.tsv"), [])

    def sidecar(ending: str) -> dict[str, Any]:
        return files.get(read_json, beside(f"{ending}.json"), {})

    qc = sidecar(QUALITY)
    # The label that its list of outputs names first.
    labels = dict.fromkeys([*mask_labels(name, str(qc.get("Outputs"))), *ANATOMIES])
    # Kind, label and ending of an image, by what problems call it.
    images: dict[str, tuple[str | None, str, str]] = {}
    for desc, words, keys in (
        (None, "", [spec.label for spec in all_maps()]),
        (CONVENTIONAL, " of least squares", PARAMETERS if conventional else ()),
        (SPREAD, " standard deviation", TISSUE_LABELS),
    ):
        images |= {f"{key}{words}": (desc, key, map_ending(key, desc)) for key in keys}
    images |= {f"{label} mask": ("mask", label, mask_ending(label)) for label in labels}
    images["flags"] = (FLAG_CODES, "flags", FLAG_CODES)
    images["regions"] = (REGION_CODES, "regions", REGION_CODES)
    paths = {words: beside(f"{ending}.nii.gz") for words, (_, _, ending) in images.items()}
    volumes, header = read_volumes(files, paths, name)
    found: dict[str | None, dict[str, np.ndarray]] = defaultdict(dict)
    for words, volume in volumes.items():
        kind, label, _ = images[words]
        found[kind][label] = volume
    maps, masks, flags = found[None], found["mask"], found[FLAG_CODES].get("flags")
    mask = None
    if maps:
        mask = np.all([np.isfinite(data) for label, data in maps.items() if label in SPECS], axis=0)
    elif masks:
        mask = next(iter(masks.values())) > 0
    affine, zooms = (None, (1.0, 1.0, 1.0)) if header is None else placement(header)

    run = RunDerivatives(
        name=name,
        maps=maps,
        spread=found[SPREAD],
        conventional=found[CONVENTIONAL],
        mask=mask,
        mask_label=next(iter(masks), None),
        flags=None if flags is None else _codes(flags),
        affine=affine,
        zooms=zooms,
        sidecar=sidecar(map_ending("f")),
        qc=qc,
        training=sidecar(TRAINING),
        qc_row=next(iter(table(QUALITY)), {}),
        history=table(TRAINING),
        motion=table(MOTION),
        volumes=table(VOLUMES),
        regions=table(REGIONS),
        region_codes=found[REGION_CODES].get("regions"),
        region_signals=sidecar(REGIONS),
        problems=files.problems,
    )
    if not run.has_voxels or not series:
        return run
    used, repeats = (Facts(run.parameters).numbers(name) for name in ("BValuesUsed", "BValueRepeats"))
    measured = measure_signals(files, beside(AVERAGED), beside(SERIES), mask, used, repeats)
    pictures = {
        label: content
        for label, path in kept_pictures_of(name, output_dir, subject).items()
        if (content := files.get(read_picture, path, None)) is not None
    }
    return replace(run, measured=measured, kept_pictures=pictures)


def app_version(output_dir: Path) -> str | None:
    """Version of the app that wrote ``dataset_description.json``."""
    path = output_dir / "dataset_description.json"
    description: dict[str, Any] = Files(output_dir).get(read_json, path, {})
    match description.get("GeneratedBy"):
        case [{"Version": str(version)}, *_]:
            return version
    return None


def _codes(flags: np.ndarray) -> np.ndarray:
    """Flags as whole numbers; what is none counts as a flag that has no name."""
    known = np.isin(flags, [0, *(spec.code for spec in FLAGS)])
    return np.where(known, flags, UNNAMED_FLAG).astype(int)
