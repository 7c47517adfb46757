"""An assessment on the terminal, and the files it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sicnn_app import __version__
from sicnn_app.assess.expectation import Assessment, Expectation
from sicnn_app.assess.trial import COMPARED, NAMES
from sicnn_app.derivatives.atomic import StagedFiles, make_folder, scratch_folder
from sicnn_app.derivatives.written import WrittenRecord, require_free
from sicnn_app.errors import OutputError, UsageError
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.phantoms.acquire import SNR_DEFINITION
from sicnn_app.phantoms.dataset import GENERATOR
from sicnn_app.system.console import Console

UNIT = "assessment"
"""Name of the record of what was written."""

FILES = ("assess.tsv", "assess.json", "assess.svg")

MOST_SHOWN = 1000
"""Per cent of the true value; more says no more than that."""

_ERRORS = {
    "rmse": ("root_mean_square", "Root mean square of the errors"),
    "bias": ("mean", "Mean of the errors"),
}

COLUMNS = {
    "tissue": "Tissue of the phantom",
    "parameter": "f: perfusion fraction; d, dstar: diffusion and pseudo-diffusion, mm^2/s",
    "true_value": "Value of the literature that the phantom is made of",
    "voxels": "Voxels of the tissue in the simulation",
    "bound": "Cramer-Rao bound: smallest standard deviation of an unbiased estimate from one voxel, Gaussian "
    "noise; n/a where the b-values do not determine the parameter",
    "bound_suggested": "The same with the b-values suggested",
    **{
        f"{method.replace('-', '_')}_{name}": f"{title} of {NAMES[method]} in the simulation"
        for method in COMPARED
        for name, (_, title) in _ERRORS.items()
    },
}
"""Columns of ``assess.tsv``; numbers in the unit of the parameter."""


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot take the files, before any long work; it is made if missing.

    Raises
    ------
    UsageError
        When an earlier assessment lies there and may not be replaced.
    OutputError
        When it is a file or cannot be made, or holds a file of somebody else under a name of an assessment.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder for the assessment")
    paths = [folder / name for name in FILES]
    if not overwrite and any(path.exists() for path in paths):
        raise UsageError(f"{folder}: holds an assessment; name another folder or give --overwrite")
    make_folder(folder)
    require_free(WrittenRecord(folder, UNIT).foreign(paths))


def write_assessment(folder: Path, assessment: Assessment) -> list[Path]:
    """Write table, description and chart; raises OutputError."""
    from sicnn_app.assess.figure import expectation_chart

    contents = (
        tsv_bytes(list(COLUMNS), [_row(row) for row in assessment.expectations]),
        json_bytes(_description(assessment)),
        expectation_chart(assessment),
    )
    with scratch_folder(folder) as scratch:
        staged = StagedFiles(scratch)
        for name, content in zip(FILES, contents, strict=True):
            staged.add_bytes(folder / name, content)
        return staged.publish(WrittenRecord(folder, UNIT))


def show_assessment(console: Console, assessment: Assessment) -> None:
    """Print the table, and what is suggested."""
    settings = assessment.settings
    console.line(
        f"{settings.preset}, SNR {settings.snr:g} per volume, {assessment.bvals.size} volumes, "
        f"b x volumes: {counted(assessment.bvals)}"
    )
    errors = [f"error of {NAMES[method]}" for method in COMPARED]
    console.table(
        "Standard deviations and errors in % of the true value",
        ("tissue", "map", "true value", "bound", *errors, "bound, suggested b"),
        [_cells(row) for row in assessment.expectations],
    )
    console.line("bound: Cramer-Rao, the least that one voxel allows without neighbours (Gaussian noise)")
    console.line(
        "error: root mean square over the voxels of one simulated phantom, one seed; below the bound where "
        "neighbours, or the limits of the parameters, hold the estimate"
    )
    if assessment.typical_suggested >= assessment.typical * 0.995:
        console.line("better b-values for the same number of volumes: none were found")
        return
    console.line(f"better b-values for the same number of volumes: {counted(assessment.suggested)}")
    gains = {SPECS[parameter].symbol: assessment.gain(parameter) for parameter in TISSUE_LABELS}
    found = ", ".join(f"{symbol} x {gain:.2f}" for symbol, gain in gains.items() if np.isfinite(gain))
    if found:
        console.line(f"the bounds would change by (geometric mean over the tissues): {found}")


def counted(bvals: np.ndarray) -> str:
    """b-values with their numbers of volumes.

    Examples
    --------
    >>> counted(np.array([0.0, 0.0, 50.0]))
    '0x2 50x1'
    """
    return " ".join(f"{b:g}x{n}" for b, n in zip(*np.unique(bvals, return_counts=True), strict=True))


def _row(row: Expectation) -> dict[str, Any]:
    return vars(row) | {
        f"{method.replace('-', '_')}_{name}": getattr(errors, attribute)
        for method, errors in row.errors.items()
        for name, (attribute, _) in _ERRORS.items()
    }


def _cells(row: Expectation) -> list[str]:
    spec = SPECS[row.parameter]
    unit = " %" if spec.shown_unit == "%" else "e-3 mm^2/s"
    errors = [row.errors[method].root_mean_square for method in COMPARED]
    return [
        row.tissue.replace("_", " "),
        spec.symbol,
        f"{spec.factor * row.true_value:.3g}{unit}",
        *(_share(value, row.true_value) for value in (row.bound, *errors, row.bound_suggested)),
    ]


def _share(value: float, true_value: float) -> str:
    if np.isnan(value):
        return "no voxels"
    share = 100 * value / true_value
    return f"{share:.0f} %" if share <= MOST_SHOWN else f"above {MOST_SHOWN} %"


def _description(assessment: Assessment) -> dict[str, Any]:
    settings = assessment.settings
    return {
        "Description": "Precision of F, D and D* to be expected from a protocol",
        **{name: {"Description": text} for name, text in COLUMNS.items()},
        "Preset": settings.preset,
        "SNR": settings.snr,
        "SNRDefinition": SNR_DEFINITION,
        **_volumes(assessment.bvals),
        "Directions": settings.protocol.directions,
        "Shape": list(settings.shape),
        "Texture": settings.texture,
        "RandomSeed": settings.seed,
        "Suggestion": {
            **_volumes(assessment.suggested),
            "Criterion": "Geometric mean over the tissues and over F, D and D* of the bound relative to the "
            "true value",
            "CriterionBefore": _finite(assessment.typical),
            "CriterionAfter": _finite(assessment.typical_suggested),
            "GainPerParameter": {label: _finite(assessment.gain(label)) for label in TISSUE_LABELS},
        },
        "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
    }


def _volumes(bvals: np.ndarray) -> dict[str, list[float]]:
    values, counts = np.unique(bvals, return_counts=True)
    return {"BValues": values.tolist(), "Volumes": counts.tolist()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
