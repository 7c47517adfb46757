"""Output folder -> everything a report shows of each run; files that are missing or broken are left out."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from sicnn_app.formats import natural_key
from sicnn_app.ivim.before_after import CORRECTIONS, step_picture_name
from sicnn_app.ivim.bvalues import bvalue_tolerance, group_bvalues
from sicnn_app.ivim.comparison import COMPARED
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.maps import MAPS, SPREAD_LABELS
from sicnn_app.report.display import placement

_OUTPUT_NAME = re.compile(
    r"(?P<run>.+)_(model-ivim_param-[a-z0-9]+(_desc-[a-z0-9]+)?_dwimap|desc-ivimflags_dseg|desc-preproc_dwi"
    r"|desc-(brain|body)_mask|desc-(ivim|training|motion)_qc)\.(nii\.gz|json|tsv|bval|bvec)"
)
_BESIDE = ((COMPARED, "lsq", "of least squares"), (SPREAD_LABELS, "std", "standard deviation"))
"""Maps besides the main ones: of what, with which ``desc``, and how problems name them."""
ANATOMIES = ("brain", "body")
_READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError)


@dataclass(frozen=True)
class MeasuredSignals:
    """The preprocessed series, averaged per nominal b-value.

    Attributes
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    volumes : ndarray, shape (B,), int, volumes averaged
    in_mask : ndarray, shape (B, M), float32, arithmetic means of the M voxels of the mask
    baseline : ndarray, shape (X, Y, Z), float32, mean of the volumes of the lowest b-value
    slices : ndarray, shape (B, X, Y), float32, the slice ``slice_index`` at every b-value
    slice_index : int
    """

    bvals: np.ndarray
    volumes: np.ndarray
    in_mask: np.ndarray
    baseline: np.ndarray
    slices: np.ndarray
    slice_index: int


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
        if label != "dstar" or "f" not in self.maps:
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
        return {name: version for name, _, version in pairs if name}
    return versions if isinstance(versions, dict) else {}


def reported_sessions(output_dir: Path) -> list[tuple[str, str | None]]:
    """Subject and session labels of which any output is on disk, in natural order; session None without."""
    found: set[tuple[str, str | None]] = set()
    for pattern in ("sub-*/dwi", "sub-*/ses-*/dwi"):
        for folder in output_dir.glob(pattern):
            labels = [part.partition("-")[2] for part in folder.relative_to(output_dir).parts[:-1]]
            subject, session = labels[0], labels[1] if len(labels) > 1 else None
            if run_names(output_dir, subject, session):
                found.add((subject, session))
    return sorted(found, key=lambda pair: [natural_key(label or "") for label in pair])


def run_names(output_dir: Path, subject: str, session: str | None) -> list[str]:
    """Stems of the runs of which any output is on disk, in natural order."""
    folder = _dwi_folder(output_dir, subject, session)
    matches = (_OUTPUT_NAME.fullmatch(path.name) for path in folder.glob(f"sub-{subject}*"))
    return sorted({match["run"] for match in matches if match}, key=natural_key)


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
    problems: list[str] = []

    def beside(ending: str) -> Path:
        return stem.with_name(stem.name + ending)

    volumes = {
        spec.label: _volume(beside(f"_model-ivim_param-{spec.label}_dwimap.nii.gz"), problems)
        for spec in MAPS
    }
    volumes |= {
        f"{label} {words}": _volume(beside(f"_model-ivim_param-{label}_desc-{desc}_dwimap.nii.gz"), problems)
        for labels, desc, words in _BESIDE
        if conventional or desc != "lsq"
        for label in labels
    }
    qc = _json(beside("_desc-ivim_qc.json"), problems)
    labels = _mask_labels(name, qc)
    volumes |= {f"{label} mask": _volume(beside(f"_desc-{label}_mask.nii.gz"), problems) for label in labels}
    volumes["flags"] = _volume(beside("_desc-ivimflags_dseg.nii.gz"), problems)
    found = {label: volume for label, volume in volumes.items() if volume is not None}
    shape = next(iter(found.values())).data.shape if found else None
    for label in [label for label, volume in found.items() if volume.data.shape != shape]:
        problems.append(f"the image {label} has another shape than the others of {name}")
        del found[label]

    maps = {spec.label: found[spec.label].data for spec in MAPS if spec.label in found}
    mask_label = next((label for label in labels if f"{label} mask" in found), None)
    mask = None
    if maps:
        mask = np.all([np.isfinite(data) for data in maps.values()], axis=0)
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
        flags=found["flags"].data.astype(int) if "flags" in found else None,
        affine=geometry.affine if geometry else None,
        zooms=geometry.zooms if geometry else (1.0, 1.0, 1.0),
        sidecar=_json(beside("_model-ivim_param-f_dwimap.json"), problems),
        qc=qc,
        training=_json(beside("_desc-training_qc.json"), problems),
        qc_row=next(iter(_table(beside("_desc-ivim_qc.tsv"), problems)), {}),
        history=_table(beside("_desc-training_qc.tsv"), problems),
        motion=_table(beside("_desc-motion_qc.tsv"), problems),
        problems=problems,
    )
    if not run.has_voxels or not series:
        return run
    measured = _measure(beside("_desc-preproc_dwi"), mask, run.parameters.get("BValuesUsed"), problems)
    figures = output_dir / f"sub-{subject}" / "figures"
    return replace(run, measured=measured, step_pictures=_step_pictures(figures, name, problems))


def _mask_labels(name: str, qc: dict[str, Any]) -> list[str]:
    """Labels that the mask of a run may have, the one first that its list of outputs names."""
    named = rf"'{re.escape(name)}_desc-([0-9A-Za-z+]+)_mask\.nii\.gz'"
    return list(dict.fromkeys([*re.findall(named, str(qc.get("Outputs"))), *ANATOMIES]))


def app_version(output_dir: Path) -> str | None:
    """Version of the app that wrote ``dataset_description.json``."""
    description = _json(output_dir / "dataset_description.json", [])
    generated = description.get("GeneratedBy")
    first = generated[0] if isinstance(generated, list) and generated else {}
    return first.get("Version") if isinstance(first, dict) else None


def _dwi_folder(output_dir: Path, subject: str, session: str | None) -> Path:
    folder = output_dir / f"sub-{subject}"
    return (folder if session is None else folder / f"ses-{session}") / "dwi"


@dataclass(frozen=True)
class _Volume:
    data: np.ndarray
    affine: np.ndarray | None
    zooms: tuple[float, float, float]


def _volume(path: Path, problems: list[str]) -> _Volume | None:
    if not path.is_file():
        return None
    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except _READ_ERRORS as error:
        problems.append(_unreadable(path, error))
        return None
    affine, zooms = placement(image.header)
    return _Volume(data.reshape((*data.shape, 1, 1, 1)[:3]), affine, zooms)


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(_unreadable(path, error))
        return {}
    return content if isinstance(content, dict) else {}


def _table(path: Path, problems: list[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [dict(row) for row in csv.DictReader(file, delimiter="\t")]
    except (OSError, ValueError, csv.Error) as error:
        problems.append(_unreadable(path, error))
        return []


def _step_pictures(folder: Path, name: str, problems: list[str]) -> dict[str, bytes]:
    pictures = {}
    for label in CORRECTIONS:
        path = folder / step_picture_name(name, label)
        if not path.is_file():
            continue
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                picture.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            problems.append(_unreadable(path, error))
        else:
            pictures[label] = content
    return pictures


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path.name} cannot be read: {' '.join(str(error).split()) or type(error).__name__}".replace(
        f"{path.parent}/", ""
    )


def _measure(stem: Path, mask: np.ndarray, used: Any, problems: list[str]) -> MeasuredSignals | None:
    image_path, bval_path = stem.with_name(f"{stem.name}.nii.gz"), stem.with_name(f"{stem.name}.bval")
    if not image_path.is_file() or not bval_path.is_file():
        return None
    try:
        # Held open so that a compressed series read volume by volume is decompressed once.
        series = nib.load(image_path, keep_file_open=True)
        bvals = np.array(bval_path.read_text(encoding="utf-8").split(), dtype=float)
        if series.shape[:3] != mask.shape or bvals.shape != series.shape[3:] or not np.isfinite(bvals).all():
            problems.append(f"{image_path.name} does not fit its b-values or the maps")
            return None
        nominal, index = group_bvalues(bvals)
        wanted = _used(nominal, used)
        slice_index = int(np.argmax(mask.sum(axis=(0, 1))))
        counts = np.zeros(nominal.size, dtype=int)
        in_mask = np.zeros((nominal.size, int(mask.sum())), dtype=np.float32)
        slices = np.zeros((nominal.size, *mask.shape[:2]), dtype=np.float32)
        baseline = np.zeros(mask.shape, dtype=np.float32)
        for position in np.flatnonzero(wanted[index]):
            volume = np.nan_to_num(np.asarray(series.dataobj[..., position], dtype=np.float32))
            group = index[position]
            counts[group] += 1
            in_mask[group] += volume[mask]
            slices[group] += volume[..., slice_index]
            if group == np.argmax(wanted):
                baseline += volume
    except _READ_ERRORS as error:
        problems.append(_unreadable(image_path, error))
        return None
    counts = counts[wanted]
    return MeasuredSignals(
        bvals=nominal[wanted],
        volumes=counts,
        in_mask=in_mask[wanted] / counts[:, None],
        baseline=baseline / counts[0],
        slices=slices[wanted] / counts[:, None, None],
        slice_index=slice_index,
    )


def _used(nominal: np.ndarray, used: Any) -> np.ndarray:
    """Which nominal b-values the estimation used; all of them when the sidecar does not say."""
    if not isinstance(used, list) or not used:
        return np.ones(nominal.size, dtype=bool)
    distance = np.abs(nominal[:, None] - np.asarray(used, dtype=float)).min(axis=1)
    near = distance <= bvalue_tolerance(nominal)
    return near if near.any() else np.ones(nominal.size, dtype=bool)
