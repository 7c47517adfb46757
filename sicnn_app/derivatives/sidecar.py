"""JSON sidecars of the images a run writes; pure functions of the result."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app.bids.derivative_datasets import mask_label
from sicnn_app.derivatives.names import CONVENTIONAL, SERIES, SPREAD, mask_ending, output_path
from sicnn_app.derivatives.personal import harmless
from sicnn_app.derivatives.provenance import device_name, software_versions
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import MapSpec
from sicnn_app.ivim.run import RunResult
from sicnn_app.methods import METHODS

RAW_DATASET = "raw"
"""Name of the input dataset in ``DatasetLinks`` and BIDS URIs."""

IVIM_URL = "https://doi.org/10.1148/radiology.168.2.3393671"
IVIM_TERM_URL = "https://en.wikipedia.org/wiki/Intravoxel_incoherent_motion"
IVIM_DESCRIPTION = (
    "Intravoxel incoherent motion (IVIM), bi-exponential: S(b) = S0 (F exp(-b D*) + (1 - F) exp(-b D)); "
    "D* is the full second exponent"
)
_LE_BIHAN = f"Le Bihan et al., Radiology 1988;168:497-505, {IVIM_URL}"

SPATIAL_REFERENCE = re.compile(r"orig|bids:[\w-]*:[\w./+-]+")
"""The part of a ``SpatialReference`` that is taken over: no other place, whose path can name a person."""


@dataclass(frozen=True)
class DatasetRoots:
    """Folders of the datasets that outputs refer to, by the names used in BIDS URIs."""

    roots: Mapping[str, Path]

    @classmethod
    def of(cls, bids_dir: Path, dataset_links: Mapping[str, Path]) -> DatasetRoots:
        """The input dataset as ``raw`` and every linked derivative dataset."""
        return cls({**dataset_links, RAW_DATASET: Path(bids_dir)})

    def _deepest_first(self) -> list[tuple[str, Path]]:
        absolute = [(name, Path(os.path.abspath(root))) for name, root in self.roots.items()]
        return sorted(absolute, key=lambda item: (-len(item[1].parts), item[0]))

    def uri(self, path: Path) -> str:
        """``bids:<name>:<path>``, or the bare file name when no dataset holds ``path``.

        The file itself is not resolved: an annexed file is a link out of its folder.
        """
        path = Path(os.path.abspath(path))
        spellings = (path, path.parent.resolve() / path.name)
        for name, root in self._deepest_first():
            for candidate, folder in zip(spellings, (root, root.resolve()), strict=True):
                if candidate.is_relative_to(folder):
                    return f"bids:{name}:{candidate.relative_to(folder).as_posix()}"
        return path.name

    def portable(self, text: str) -> str:
        """``text`` with the folders of datasets replaced by their BIDS URIs."""
        for name, root in self._deepest_first():
            for folder in {root, root.resolve()}:
                # The folder itself, too, but none whose name goes on.
                text = re.sub(rf"{re.escape(str(folder))}({os.sep}|(?=[\s:,;)'\"]|$))", f"bids:{name}:", text)
        return text


def plain(value: Any) -> Any:
    """``value`` as JSON types: arrays to lists, paths to file names, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.name
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def method_name(result: RunResult) -> str:
    """Estimation method the result was asked for."""
    return str(result.settings.get("method") or result.estimate.parameters.get("method") or "")


def signal_to_noise(result: RunResult) -> list[float]:
    """Median signal inside the mask over the noise of one volume, per b-value; NaN without noise."""
    averaged = result.averaged
    if not averaged.sigma > 0 or not averaged.mask.any():
        return [float("nan")] * averaged.bvals.size
    return [float(value) for value in np.median(averaged.signals[averaged.mask], axis=0) / averaged.sigma]


def _source_images(result: RunResult, roots: DatasetRoots) -> list[str]:
    files = [file for part in result.run.parts for file in (part.image, part.bval, part.bvec)]
    return [roots.uri(file) for file in files if file is not None]


def sources(result: RunResult, roots: DatasetRoots) -> list[str]:
    """BIDS URIs of the files the result was computed from."""
    mask = [] if result.run.mask is None else [roots.uri(result.run.mask)]
    return _source_images(result, roots) + mask


def mask_source(result: RunResult, roots: DatasetRoots) -> str:
    """URI of the mask that was taken, or how it was made."""
    return roots.uri(result.run.mask) if result.run.mask else roots.portable(result.mask_source)


def provenance(result: RunResult) -> dict[str, Any]:
    """Versions, as the one string that BIDS allows under this key, and device."""
    return {
        "SoftwareVersions": ", ".join(f"{name} {number}" for name, number in software_versions().items()),
        "EstimatedOn": device_name(result.estimate.device),
    }


def model(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """The ``Model`` object: equation, references and every number the estimation used."""
    averaged = result.averaged
    members = result.estimate.parameters.get("ensemble", 1)
    parameters = {
        **result.estimate.parameters,
        # Of BEP016: realisations that mean and standard deviation are of.
        **({"Samples": members} if members > 1 else {}),
        "BValuesUsed": averaged.bvals,
        "BValueRepeats": averaged.repeats,
        "BValueDirections": None if result.series.bvecs is None else averaged.directions,
        "NoiseSigma": averaged.sigma,
        "NoiseSigmaPerBValue": averaged.sigma_per_bval,
        "NoiseMethod": averaged.sigma_method,
        "SignalToNoiseRatioPerBValue": signal_to_noise(result),
        "Anatomy": result.anatomy,
        "AnatomySource": result.anatomy_source,
        "MaskLabel": mask_label(result.run, result.anatomy),
        "MaskSource": mask_source(result, roots),
        "PreprocessingSteps": result.steps,
    }
    method = METHODS.get(method_name(result))
    own = method.model if method else ""
    return {
        "Description": f"Intravoxel incoherent motion (IVIM), {own}" if own else IVIM_DESCRIPTION,
        "TermURL": IVIM_TERM_URL,
        "URL": IVIM_URL,
        "Parameters": portable_json(parameters, roots),
    }


def portable_json(content: Any, roots: DatasetRoots) -> Any:
    """``content`` as JSON types, with dataset folders in texts replaced by BIDS URIs."""
    if isinstance(content, Path):
        return roots.uri(content)
    if isinstance(content, str):
        return roots.portable(content)
    if isinstance(content, Mapping):
        return {str(key): portable_json(item, roots) for key, item in content.items()}
    if isinstance(content, list | tuple):
        return [portable_json(item, roots) for item in content]
    return plain(content)


def map_sidecar(
    result: RunResult, spec: MapSpec, roots: DatasetRoots, desc: str | None = None
) -> dict[str, Any]:
    """Sidecar of a parameter map, or of what its ``desc`` says."""
    description = f"{spec.description}. NaN outside the mask"
    if desc == SPREAD:
        description = f"{_spread_in_words(result, spec)}: {description}"
    if desc == CONVENTIONAL:
        fit = "Conventional least-squares fit of the same signals in the same voxels"
        description = f"{fit}, to compare with: {description}"
    return {
        "Description": description,
        "Sources": sources(result, roots),
        "SkullStripped": True,
        "Units": spec.unit,
        **_of_the_draft(spec, desc),
        **result.run.times,
        "Model": model(result, roots),
        "EstimationAlgorithm": result.estimate.algorithm,
        "EstimationReference": [_LE_BIHAN, *METHODS[method_name(result)].cited_as],
        **reference(result, roots),
        **provenance(result),
    }


def _of_the_draft(spec: MapSpec, desc: str | None) -> dict[str, Any]:
    """Fields of BEP016 for a parameter; ``BootstrapAxis`` is of realisations, which are not written."""
    return {
        **({"ParameterURL": IVIM_URL} if spec.of_tissue else {}),
        # Every estimate is held within these bounds.
        **({"NonNegativity": "constrained"} if spec.bounds is not None and desc != SPREAD else {}),
    }


def _spread_in_words(result: RunResult, spec: MapSpec) -> str:
    parameters = result.estimate.parameters
    if parameters.get("refinement") == "posterior":
        return "Standard deviation of the posterior: about 70 % of simulated true values lie within it"
    factor = parameters.get("ensemble_spread_factor", {}).get(spec.label)
    words = "Standard deviation over an ensemble of networks"
    if factor is None:
        return words
    return f"{words}, times {factor:g}: so that in simulations 68 % of the true values lie within it"


def flags_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of the segmentation that says why a voxel is not to be trusted."""
    return {
        "Description": "First reason, in the listed order, why a voxel is not to be trusted; "
        "0: no reason, or outside the mask",
        "Sources": sources(result, roots),
        "SkullStripped": True,
        "VoxelsPerReason": {spec.name: result.flag_counts.get(spec.name, 0) for spec in FLAGS},
        "description": {"LongName": "Reason", "Description": "Why the voxel is not to be trusted"},
        **reference(result, roots),
        **provenance(result),
    }


def mask_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of the mask inside which the maps hold numbers."""
    label = mask_label(result.run, result.anatomy)
    return {
        "Description": f"Voxels of the {label} mask with data at every b-value, where maps hold numbers",
        "Sources": sources(result, roots),
        "Type": "Brain" if label == "brain" else "ROI",
        "MaskSource": mask_source(result, roots),
        "AnatomySource": roots.portable(result.anatomy_source),
        **reference(result, roots),
        **provenance(result),
    }


def series_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of the preprocessed series: what the source's says of the acquisition, and what was done to it.

    ``SoftwareVersions`` stays the scanner's, which is what the key means beside acquisition metadata.
    """
    stripped = result.run.metadata.get("SkullStripped") if result.run.preprocessed else None
    return {
        **harmless(result.run.metadata),
        "Description": "Series after preprocessing, before averaging over repeats and directions",
        "Sources": _source_images(result, roots),
        "SkullStripped": bool(stripped),
        "PreprocessingSteps": portable_json(result.steps, roots),
        "SourceVolumes": plain(result.series.source_volumes),
        **reference(result, roots),
    }


def averaged_sidecar(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of the averaged signals, which are made from files of the run beside it."""
    averaged = result.averaged
    made_of = (SERIES, mask_ending(mask_label(result.run, result.anatomy)))
    files = [output_path(result.run, Path(), f"{ending}.nii.gz") for ending in made_of]
    return {
        "Description": "Signals that were fitted: one average of the preprocessed volumes per b-value; 0 "
        "outside the mask",
        "Sources": [f"bids::{file.as_posix()}" for file in files],
        "SkullStripped": True,
        "Average": averaged.average,
        "VolumesPerBValue": plain(averaged.repeats),
        "NoiseSigmaPerBValue": plain(averaged.sigma_per_bval),
        "PreprocessingSteps": portable_json(result.steps, roots),
        **reference(result, roots),
        **provenance(result),
    }


def reference(result: RunResult, roots: DatasetRoots) -> dict[str, Any]:
    """``SpatialReference``, which BIDS demands when the source's name has a ``space`` entity."""
    if "space" not in result.run.entities:
        return {}
    given = result.run.metadata.get("SpatialReference")
    stated = isinstance(given, str) and SPATIAL_REFERENCE.fullmatch(given)
    return {"SpatialReference": given if stated else roots.uri(result.run.parts[0].image)}
