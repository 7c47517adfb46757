"""The verdict on a run as the QC table and its sidecar hold it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sicnn_app.derivatives.sidecar import method_name, plain
from sicnn_app.ivim.adequacy import Adequacy, judge
from sicnn_app.ivim.adequacy_inputs import TYPICAL, VERDICTS, Evidence
from sicnn_app.ivim.checks import CHECKS
from sicnn_app.ivim.run import RunResult
from sicnn_app.ivim.series import MAX_LOW_BVAL

_TISSUES = "; ".join(f"{anatomy}: {tissue.name}" for anatomy, tissue in TYPICAL.items())

_NUMBERS: dict[str, dict[str, str]] = {
    "snr_b0_averaged": {
        "LongName": "Signal-to-noise ratio at the lowest b-value after averaging",
        "Description": "Median signal inside the mask at the lowest b-value over the noise of its average",
    },
    "snr_highest_b_averaged": {
        "LongName": "Signal-to-noise ratio at the highest b-value after averaging",
        "Description": "Median signal inside the mask at the highest b-value over the noise of its average",
    },
    "snr_averaged": {
        "LongName": "Signal-to-noise ratio after averaging",
        "Description": "Median signal inside the mask at the lowest b-value over the root mean square of the "
        "noise of all averages",
    },
    "low_b_values": {
        "LongName": "Low b-values",
        "Description": f"b-values above 0 and up to {MAX_LOW_BVAL:g} s/mm^2",
    },
    "high_b_values": {
        "LongName": "High b-values",
        "Description": f"b-values above {MAX_LOW_BVAL:g} s/mm^2",
    },
    **{
        f"bound_{label}": {
            "LongName": f"Cramer-Rao bound of {symbol}",
            "Description": f"Smallest standard deviation of {symbol} from one voxel alone, relative to its "
            f"value, in typical tissue ({_TISSUES}) with the noise of this run; n/a where the b-values do "
            "not determine it",
        }
        for label, symbol in (("f", "F"), ("d", "D"), ("dstar", "D*"))
    },
    "framewise_displacement_mean": {
        "LongName": "Mean framewise displacement",
        "Description": "Mean over the volumes; n/a when motion was not corrected",
        "Units": "mm",
    },
    "framewise_displacement_max": {
        "LongName": "Largest framewise displacement",
        "Description": "Largest over the volumes; n/a when motion was not corrected",
        "Units": "mm",
    },
}


def adequacy_of(result: RunResult, *, conventional_at_bound: float | None) -> Adequacy:
    """Judge a finished run.

    Parameters
    ----------
    result : RunResult
    conventional_at_bound : float or None
        Share of voxels in which the conventional fit has a parameter at a bound; None without such a fit.
    """
    averaged = result.averaged
    voxels = int(averaged.mask.sum())
    return judge(
        Evidence(
            anatomy=result.anatomy,
            method=method_name(result),
            bvals=averaged.bvals,
            signal=np.median(averaged.signals[averaged.mask], axis=0)
            if voxels
            else np.zeros(averaged.bvals.size),
            sigma=averaged.sigma,
            sigma_per_bval=averaged.sigma_per_bval,
            at_bound=result.flag_counts.get("parameter_at_bound", 0) / voxels if voxels else None,
            conventional_at_bound=conventional_at_bound,
            displacements=_displacements(result),
            voxel_edge=float(np.linalg.norm(result.series.affine[:3, :3], axis=0).min()),
            preprocessed=result.run.preprocessed,
        )
    )


def _displacements(result: RunResult) -> np.ndarray | None:
    if not result.motion:
        return None
    return np.array([row.get("framewise_displacement") for row in result.motion], dtype=np.float64)


def adequacy_columns() -> dict[str, dict[str, Any]]:
    """``LongName``, ``Description`` and ``Levels`` of the columns of :func:`adequacy_row`."""
    levels = dict(
        zip(
            VERDICTS,
            (
                "Suffices",
                "Suffices for some questions",
                "Does not suffice",
                "Nothing was measured that tells",
            ),
            strict=True,
        )
    )
    verdicts = {"adequacy": ("Adequacy", "Verdict on the run")}
    verdicts |= {
        f"adequacy_{key}": (f"Adequacy: {key.replace('_', ' ')}", f"Verdict of the check {key}, see Adequacy")
        for key in CHECKS
    }
    return _NUMBERS | {
        name: {"LongName": title, "Description": description, "Levels": levels}
        for name, (title, description) in verdicts.items()
    }


def adequacy_row(adequacy: Adequacy) -> dict[str, Any]:
    """The numbers and the verdicts of all checks."""
    row: dict[str, Any] = {}
    for check in adequacy.checks.values():
        row |= check.numbers
    return row | {
        "adequacy": adequacy.verdict,
        **{f"adequacy_{key}": check.verdict for key, check in adequacy.checks.items()},
    }


def adequacy_sidecar(adequacy: Adequacy) -> dict[str, Any]:
    """The verdict with the words of every check, for the sidecar of the QC table and the report."""
    return plain(
        {
            "Verdict": adequacy.verdict,
            "Sentence": adequacy.sentence,
            "Checks": [
                {
                    "Name": check.name,
                    "Value": check.value,
                    "Verdict": check.verdict,
                    "Meaning": check.meaning,
                    "Numbers": check.numbers,
                }
                for check in adequacy.checks.values()
            ],
        }
    )
