"""Output folder -> everything a report shows of each run; files that are missing or broken are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app.bids.associate import LABEL, parse_name
from sicnn_app.derivatives.facts import Facts, in_words
from sicnn_app.derivatives.measured import MeasuredSignals, measure_signals
from sicnn_app.derivatives.outputs import read_output_json, read_output_table
from sicnn_app.derivatives.run_files import Files, read_picture, read_volumes
from sicnn_app.formats import natural_key
from sicnn_app.ivim.before_after import step_picture_name
from sicnn_app.ivim.body_parts import ANATOMIES
from sicnn_app.ivim.flags import FLAGS, NEGLIGIBLE_F
from sicnn_app.ivim.parameters import PARAMETERS, SPECS, TISSUE_LABELS, all_maps
from sicnn_app.ivim.run import DwiRun
from sicnn_app.steps import STEPS

_OUTPUT_NAME = re.compile(
    r"(?P<run>.+)_(model-ivim_param-[a-z0-9]+(_desc-[a-z0-9]+)?_dwimap|desc-ivimflags_dseg"
    r"|desc-(ivim|training|motion)_qc)\.(nii\.gz|json|tsv)"
)
"""Outputs that tell of a run; preprocessed series and masks are also written by other programs."""

_BESIDE = ((PARAMETERS, "lsq", "of least squares"), (TISSUE_LABELS, "std", "standard deviation"))
"""Maps besides the main ones: of what, with which ``desc``, and how problems name them."""

MAX_PROGRAMS = 100
"""Whose versions are shown."""

UNNAMED_FLAG = 255
"""Code of what is no flag of ours."""


@dataclass(frozen=True)
class RunDerivatives:
    """What one run left on disk.

    Attributes
    ----------
    name : str
        The stem ``<src>``.
    maps : dict of str to ndarray, shape (X, Y, Z)
        The parameter maps found, by label.
    spread : dict of str to ndarray, shape (X, Y, Z)
        The standard deviations over an ensemble found, by the label of the map; empty for one network.
    conventional : dict of str to ndarray, shape (X, Y, Z)
        The maps of the conventional fit found, by label; empty when there is none to compare with.
    mask : ndarray, shape (X, Y, Z), bool, or None
        Voxels where the maps are finite; the written mask when there is no map.
    mask_label : str or None
        ``desc`` of the written mask.
    flags : ndarray, shape (X, Y, Z), int, or None
    affine : ndarray, shape (4, 4), or None
        None when the header states no orientation.
    zooms : tuple of float
        Voxel size in mm.
    measured : MeasuredSignals or None
    sidecar, qc, training : dict
        The JSON files of the F map, of the QC and of the training.
    qc_row : dict
        First row of the QC table.
    history : list of dict
        One row per data iteration.
    motion : list of dict
        One row per volume; empty when motion was not corrected.
    step_pictures : dict of str to bytes
        PNG of every correction that was drawn when the run was processed, by its label.
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
    step_pictures: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def inside(self, label: str) -> np.ndarray:
        """Values of a map at the voxels of the mask, shape (M,), float64."""
        return self.maps[label][self.mask].astype(np.float64)

    @property
    def flagged(self) -> np.ndarray:
        """Which voxels of the mask carry a flag, shape (M,), bool; none when the flags are missing."""
        return np.zeros(int(self.mask.sum()), dtype=bool) if self.flags is None else self.flags[self.mask] > 0

    def meaningful(self, label: str) -> np.ndarray:
        """Voxels of the mask over which a map is summarised, shape (M,), bool: D* needs some perfusion."""
        needs_perfusion = any(spec.needs_perfusion for spec in all_maps() if spec.label == label)
        if not needs_perfusion or "f" not in self.maps:
            return np.ones(int(self.mask.sum()), dtype=bool)
        return self.inside("f") >= NEGLIGIBLE_F

    @property
    def has_voxels(self) -> bool:
        """Whether there is anything to show."""
        return self.mask is not None and bool(self.mask.any())

    @property
    def anatomy(self) -> str | None:
        """What the data were treated as, one of :data:`ANATOMIES`; None when nothing tells."""
        told = (self.parameters.get("Anatomy"), self.mask_label)
        return next((name for name in told if name in ANATOMIES), None)

    @property
    def parameters(self) -> dict[str, Any]:
        """``Model.Parameters`` of the F map."""
        model = self.sidecar.get("Model")
        parameters = model.get("Parameters") if isinstance(model, dict) else None
        return parameters if isinstance(parameters, dict) else {}

    @property
    def software(self) -> dict[str, str]:
        """``SoftwareVersions`` of the F map, by name."""
        return software_of(self.sidecar)


def software_of(sidecar: dict[str, Any]) -> dict[str, str]:
    """``SoftwareVersions`` of a sidecar, by name."""
    versions = sidecar.get("SoftwareVersions")
    if isinstance(versions, str):
        pairs = (entry.strip().rpartition(" ") for entry in versions.split(","))
        found = {name: version for name, _, version in pairs if name}
    else:
        found = versions if isinstance(versions, dict) else {}
    return {name: in_words(version) for name, version in islice(found.items(), MAX_PROGRAMS)}


def reported_sessions(output_dir: Path) -> list[tuple[str, str | None]]:
    """Subject and session labels of the runs of :func:`run_names`, in natural order; session None without."""
    found: set[tuple[str, str | None]] = set()
    for pattern in ("sub-*/dwi", "sub-*/ses-*/dwi"):
        for folder in output_dir.glob(pattern):
            labels = [part.partition("-")[2] for part in folder.relative_to(output_dir).parts[:-1]]
            subject, session = labels[0], labels[1] if len(labels) > 1 else None
            if all(map(LABEL.fullmatch, labels)) and run_names(output_dir, subject, session):
                found.add((subject, session))
    return sorted(found, key=lambda pair: [natural_key(label or "") for label in pair])


def run_names(output_dir: Path, subject: str, session: str | None) -> list[str]:
    """Stems of the runs of which maps, flags or a table are on disk, in natural order."""
    folder = _dwi_folder(output_dir, subject, session)
    matches = (_OUTPUT_NAME.fullmatch(path.name) for path in folder.glob(f"sub-{subject}*"))
    names = {match["run"] for match in matches if match}
    return sorted((name for name in names if _belongs(name, subject, session)), key=natural_key)


def _belongs(name: str, subject: str, session: str | None) -> bool:
    """Whether the outputs of a run of this name lie in the folder of this subject and session."""
    parsed = parse_name(f"{name}_dwi.nii.gz")
    if parsed is None:
        return False
    run = DwiRun(parsed.entities, parts=())
    return (run.name, run.subject, run.session) == (name, subject, session)


def collect_run(
    output_dir: Path,
    subject: str,
    session: str | None,
    name: str,
    *,
    series: bool = True,
    conventional: bool = True,
) -> RunDerivatives:
    """Read the outputs of one run.

    Parameters
    ----------
    output_dir : Path
    subject, session : str, str or None
        Labels without ``sub-``/``ses-``.
    name : str
        One of :func:`run_names`.
    series : bool
        Also read the preprocessed series, the one large file, and the pictures of the steps; without it
        ``measured`` is None.
    conventional : bool
        Also read the maps of the conventional fit; without them ``conventional`` is empty.

    Returns
    -------
    RunDerivatives
        Fields of files that are missing or unreadable stay empty; unreadable ones are named in
        ``problems``.
    """
    stem = _dwi_folder(output_dir, subject, session) / name
    files = Files(output_dir)

    def beside(ending: str) -> Path:
        return stem.with_name(stem.name + ending)

    qc: dict[str, Any] = files.get(read_output_json, beside("_desc-ivim_qc.json"), {})
    labels = _mask_labels(name, qc)
    found = read_volumes(files, _image_paths(beside, labels, conventional=conventional), name)
    maps = {spec.label: found[spec.label].data for spec in all_maps() if spec.label in found}
    mask_label = next((label for label in labels if f"{label} mask" in found), None)
    mask = None
    if maps:
        mask = np.all([np.isfinite(data) for label, data in maps.items() if label in SPECS], axis=0)
    elif mask_label:
        mask = found[f"{mask_label} mask"].data > 0
    geometry = next(iter(found.values())) if found else None

    run = RunDerivatives(
        name=name,
        maps=maps,
        **{
            name: {label: found[f"{label} {words}"].data for label in labels if f"{label} {words}" in found}
            for name, (labels, _, words) in zip(("conventional", "spread"), _BESIDE, strict=True)
        },
        mask=mask,
        mask_label=mask_label,
        flags=_codes(found["flags"].data) if "flags" in found else None,
        affine=geometry.affine if geometry else None,
        zooms=geometry.zooms if geometry else (1.0, 1.0, 1.0),
        sidecar=files.get(read_output_json, beside("_model-ivim_param-f_dwimap.json"), {}),
        qc=qc,
        training=files.get(read_output_json, beside("_desc-training_qc.json"), {}),
        qc_row=next(iter(files.get(read_output_table, beside("_desc-ivim_qc.tsv"), [])), {}),
        history=files.get(read_output_table, beside("_desc-training_qc.tsv"), []),
        motion=files.get(read_output_table, beside("_desc-motion_qc.tsv"), []),
        problems=files.problems,
    )
    if not run.has_voxels or not series:
        return run
    used = Facts(run.parameters).numbers("BValuesUsed")
    measured = measure_signals(files, beside("_desc-preproc_dwi"), mask, used)
    figures = output_dir / f"sub-{subject}" / "figures"
    return replace(run, measured=measured, step_pictures=_step_pictures(files, figures, name))


def _mask_labels(name: str, qc: dict[str, Any]) -> list[str]:
    """Labels that the mask of a run may have, the one first that its list of outputs names."""
    named = rf"'{re.escape(name)}_desc-([0-9A-Za-z+]+)_mask\.nii\.gz'"
    return list(dict.fromkeys([*re.findall(named, str(qc.get("Outputs"))), *ANATOMIES]))


def app_version(output_dir: Path) -> str | None:
    """Version of the app that wrote ``dataset_description.json``."""
    description: dict[str, Any] = Files(output_dir).get(
        read_output_json, output_dir / "dataset_description.json", {}
    )
    generated = description.get("GeneratedBy")
    first = generated[0] if isinstance(generated, list) and generated else {}
    version = first.get("Version") if isinstance(first, dict) else None
    return version if isinstance(version, str) else None


def _dwi_folder(output_dir: Path, subject: str, session: str | None) -> Path:
    folder = output_dir / f"sub-{subject}"
    return (folder if session is None else folder / f"ses-{session}") / "dwi"


def _image_paths(
    beside: Callable[[str], Path], mask_labels: Sequence[str], *, conventional: bool
) -> dict[str, Path]:
    """Images of a run by the names that problems have for them."""
    maps = {spec.label: f"_model-ivim_param-{spec.label}_dwimap" for spec in all_maps()}
    others = {
        f"{label} {words}": f"_model-ivim_param-{label}_desc-{desc}_dwimap"
        for labels, desc, words in _BESIDE
        if conventional or desc != "lsq"
        for label in labels
    }
    masks = {f"{label} mask": f"_desc-{label}_mask" for label in mask_labels}
    endings = {**maps, **others, **masks, "flags": "_desc-ivimflags_dseg"}
    return {label: beside(f"{ending}.nii.gz") for label, ending in endings.items()}


def _codes(flags: np.ndarray) -> np.ndarray:
    """Flags as whole numbers; what is none counts as a flag that has no name."""
    known = np.isin(flags, [0, *(spec.code for spec in FLAGS)])
    return np.where(known, flags, UNNAMED_FLAG).astype(int)


def _step_pictures(files: Files, folder: Path, name: str) -> dict[str, bytes]:
    paths = {label: folder / step_picture_name(name, label) for label in STEPS}
    found = {label: files.get(read_picture, path, None) for label, path in paths.items()}
    return {label: content for label, content in found.items() if content is not None}
