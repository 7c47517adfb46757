"""Columns of the tables of the group level, with the words that describe them."""

from __future__ import annotations

from sicnn_app.derivatives.quality import group_columns, outlier_columns
from sicnn_app.group.statistics import FAR_OUTLIER_FENCE, MIN_RUNS, OUTLIER_FENCE
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import MAPS, all_maps

MASK_REGION = "mask"
"""The region that every run has."""

REGION_MEASURES = (*(f"{spec.label}_median" for spec in MAPS if spec.outlier), "flagged_share")
"""Columns of a region in which outliers are looked for; those of the run are named in its quality table."""

OUTLIER_RULE = (
    f"A value is an outlier when it lies more than {OUTLIER_FENCE:g} interquartile ranges below the lower or "
    f"above the upper quartile of its kind, and a far outlier beyond {FAR_OUTLIER_FENCE:g}. Of one kind are "
    "runs of the same anatomy, acquisition and method, in the same region. Kinds of fewer than "
    f"{MIN_RUNS} runs have no outliers."
)

_IDENTITY: dict[str, dict[str, str]] = {
    "participant_id": {"LongName": "Participant", "Description": "Participant of the run"},
    "session_id": {"LongName": "Session", "Description": "Session of the run"},
    "source": {"LongName": "Source run", "Description": "Entities of the source run"},
    "acquisition": {
        "LongName": "Acquisition",
        "Description": "Entities of the run besides participant, session and run number",
    },
    "method": {"LongName": "Method", "Description": "Estimation method"},
    "app_version": {"LongName": "Version", "Description": "Version of sicnn-app that made the maps"},
    "segmentation": {
        "LongName": "Segmentation",
        "Description": "Dataset of --derivatives and desc or seg label of the segmentation; n/a: the mask of "
        "the maps",
    },
    "region": {
        "LongName": "Region",
        "Description": f"Name of the region in the segmentation; {MASK_REGION}: all voxels of the maps",
    },
    "voxel_count": {
        "LongName": "Voxels",
        "Description": "Voxels of the region inside the mask of the maps: those that all statistics but that "
        "of D* are taken over",
    },
    "dstar_voxel_count": {
        "LongName": "Voxels of D*",
        "Description": f"Those of them with F of at least {NEGLIGIBLE_F:g}, which the statistics of D* are "
        "taken over",
    },
}

_MOTION: dict[str, dict[str, str]] = {
    f"framewise_displacement_{name}": {
        "LongName": f"{word} framewise displacement",
        "Description": f"{word} over the volumes of the motion that was corrected; n/a: none was",
        "Units": "mm",
    }
    for name, word in (("mean", "Mean"), ("max", "Largest"))
}

_STATISTICS = (
    ("median", "Median", "Median over the voxels of the region"),
    ("iqr", "Interquartile range", "Interquartile range over the voxels of the region"),
    ("std", "Standard deviation", "Standard deviation (n - 1) over the voxels of the region"),
)


def _map_columns() -> dict[str, dict[str, str]]:
    columns = {}
    for spec in all_maps():
        condition = f" with F of at least {NEGLIGIBLE_F:g}" if spec.needs_perfusion else ""
        for name, word, meaning in _STATISTICS:
            columns[f"{spec.label}_{name}"] = {
                "LongName": f"{word} of {spec.symbol}",
                "Description": f"{meaning}{condition}. {spec.description}",
                "Units": spec.unit,
            }
        if spec.of_tissue:
            columns[f"{spec.label}_ensemble_std_median"] = {
                "LongName": f"Median ensemble standard deviation of {spec.symbol}",
                "Description": f"Median over the voxels of the region{condition} of the standard deviation "
                f"of {spec.symbol} over an ensemble; n/a: there was none",
                "Units": spec.unit,
            }
    return columns


def run_measures() -> list[str]:
    """Columns that belong to the run and not to a region of it, in which outliers are looked for."""
    return [column.name for column in outlier_columns()]


def measured_columns() -> dict[str, dict[str, str]]:
    """``LongName``, ``Description`` and ``Units`` of the columns that one run alone decides."""
    return {
        **_IDENTITY,
        **_map_columns(),
        "flagged_share": {
            "LongName": "Share of flagged voxels",
            "Description": "Share of the voxels of the region with any reason not to trust them",
        },
        **{column.name: column.words() for column in group_columns()},
        **_MOTION,
    }


def table_columns() -> dict[str, dict[str, str]]:
    """Columns of ``group_ivim.tsv``, in its order: those of the run, then what all runs together decide."""
    return {
        **measured_columns(),
        "outliers": {
            "LongName": "Outliers",
            "Description": f"Columns of this row whose value is an outlier among the runs. {OUTLIER_RULE}",
        },
    }


def repeatability_columns() -> dict[str, dict[str, str]]:
    """Columns of ``group_repeatability.tsv``, in its order."""

    def column(title: str, meaning: str) -> dict[str, str]:
        return {"LongName": title, "Description": meaning}

    unit = "in the unit of the column units"
    return {
        "repeated": column("Repeated entity", "ses: sessions are compared; run: runs of one session are"),
        "acquisition": column("Acquisition", "Entities that the compared runs share besides the participant"),
        "anatomy": column("Anatomy", "Brain or body"),
        "method": column("Method", "Estimation method"),
        "segmentation": _IDENTITY["segmentation"],
        "region": _IDENTITY["region"],
        "parameter": column("Parameter", "Label of the map; its median over the region is what is compared"),
        "units": column("Units", "Unit of the parameter"),
        "participants": column("Participants", "Participants with two measurements or more"),
        "measurements": column("Measurements", "All measurements of these participants"),
        "mean": column("Mean", f"Mean of all measurements, {unit}"),
        "within_subject_sd": column(
            "Within-subject standard deviation",
            f"Square root of the mean square within participants (one-way analysis of variance), {unit}",
        ),
        "within_subject_cv": column(
            "Within-subject coefficient of variation", "Within-subject standard deviation over the mean"
        ),
        "repeatability_coefficient": column(
            "Repeatability coefficient",
            "1.96 sqrt(2) within-subject standard deviations: two measurements of one participant differ by "
            f"less in 95 % of cases (Bland and Altman, Lancet 1986;327:307-310), {unit}",
        ),
        "repeatability_coefficient_lower": column(
            "Repeatability coefficient, lower end", "Lower end of its 95 % confidence interval (chi-squared)"
        ),
        "repeatability_coefficient_upper": column(
            "Repeatability coefficient, upper end", "Upper end of its 95 % confidence interval (chi-squared)"
        ),
        "icc": column(
            "Intraclass correlation",
            "ICC(1,1), one-way random, single measurement (Shrout and Fleiss, Psychol Bull 1979;86:420-428)",
        ),
        "icc_lower": column("Intraclass correlation, lower end", "Lower end of its 95 % confidence interval"),
        "icc_upper": column("Intraclass correlation, upper end", "Upper end of its 95 % confidence interval"),
        "pairs": column("Pairs", "Participants whose first two measurements are compared below"),
        "bias": column("Bias", f"Mean of second less first measurement, {unit}"),
        "bias_lower": column("Bias, lower end", "Lower end of its 95 % confidence interval (Student's t)"),
        "bias_upper": column("Bias, upper end", "Upper end of its 95 % confidence interval (Student's t)"),
        "limits_lower": column(
            "Lower limit of agreement",
            f"Bias less 1.96 standard deviations of the differences (Bland and Altman 1986), {unit}",
        ),
        "limits_upper": column(
            "Upper limit of agreement", f"Bias plus 1.96 standard deviations of the differences, {unit}"
        ),
    }
