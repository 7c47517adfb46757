"""The page and the table of single results of :mod:`benchmarks.speed.stages`."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.common.cells import comma_separated, markdown
from benchmarks.common.clocks import MEASURES
from benchmarks.common.metrics import FORMS, LABELS, NAMES, SCALES
from benchmarks.speed.stage_cells import COMPETITORS, SIZES
from benchmarks.speed.stage_targets import Found, estimation, middle, per_voxel, results, verdicts

RMSE = tuple(f"rmse_{label}" for label in LABELS)

ERROR_COLUMNS = tuple(f"RMSE {name}" for name in NAMES.values())


def errors_of(result: dict[str, Any]) -> list[str]:
    """Root mean square errors as tables write them."""
    return [format(SCALES[label] * result["errors"][f"rmse_{label}"], FORMS[label]) for label in LABELS]


def page(found: Found, device: str, source: str, notes: list[str]) -> str:
    """The Markdown page of all that was measured.

    Parameters
    ----------
    found : dict of Cell to dict
    device : str
        Seconds are written only of a CUDA device.
    source : str
        What made it.
    notes : list of str
        What was left out or failed.
    """
    parts = ["# Speed", f"Made by {source}.", *(f"- {note}" for note in notes)]
    parts += ["## Targets", markdown(("target", "found", "limit", "verdict"), verdicts(found, device))]
    for size, shape in SIZES.items():
        tables = [
            stage_table(found, size, device, arm) for arm in ("app", "lsq") if results(found, size, arm)
        ]
        others = (iteration_table(found, size), method_table(found, size), ensemble_table(found, size))
        tables += [table for table in others if table]
        title = f"## {size}: {'x'.join(map(str, shape))}, 12 b-values"
        parts += [title, *(tables or ["Not measured."])]
    return "\n\n".join(parts) + "\n"


def stage_table(found: Found, size: str, device: str, arm: str) -> str:
    """Shares of time and peaks of memory of every stage: medians over repeats."""
    runs = results(found, size, arm)
    total = {measure: middle(found, size, arm, measure) for measure in MEASURES}
    names = list(dict.fromkeys(name for run in runs for name in run["stages"]))
    rows = []
    for name in sorted(names, key=lambda name: -_stage(runs, name, "wall")):
        wall, cpu, host, held = (_stage(runs, name, measure) for measure in MEASURES)
        seconds = [f"{wall:.2f}"] if device != "cpu" else []
        shares = [f"{100 * wall / total['wall']:.1f}", f"{100 * cpu / total['cpu']:.1f}"]
        rows.append([name, *seconds, *shares, f"{host:.2f}", f"{held:.2f}"])
    seconds = [f"{total['wall']:.2f}"] if device != "cpu" else []
    rows.append(["whole", *seconds, "100", "100", f"{total['host']:.2f}", f"{total['device']:.2f}"])
    columns = [
        "stage",
        *(["seconds"] if device != "cpu" else []),
        "wall-clock time (%)",
        "processor time (%)",
        "host peak (GB)",
        "device peak (GB)",
    ]
    title = "The app at its defaults" if arm == "app" else "The app with `--method lsq`"
    return f"{title}: {len(runs)} run{'s' if len(runs) > 1 else ''}.\n\n{markdown(columns, rows)}"


def _stage(runs: list[dict[str, Any]], name: str, measure: str) -> float:
    return median(run["stages"].get(name, {measure: 0.0})[measure] for run in runs)


def iteration_table(found: Found, size: str) -> str | None:
    """Share of the estimation that every data iteration took, and its epochs."""
    runs = results(found, size, "app")
    if not runs or not runs[0]["iteration_seconds"]:
        return None
    epochs = runs[0]["epochs"]
    # A training that ran out of memory had begun before.
    seconds = runs[0]["iteration_seconds"][-len(epochs) :]
    rows = [
        [number, done, f"{100 * taken / sum(seconds):.1f}"]
        for number, (done, taken) in enumerate(zip(epochs, seconds, strict=True))
    ]
    columns = ("data iteration", "epochs", "time of the estimation (%)")
    return f"Data iterations of the first run.\n\n{markdown(columns, rows)}"


def method_table(found: Found, size: str) -> str | None:
    """The app and published fits side by side: times per voxel as ratios, errors beside them."""
    reference, app = per_voxel(found, size, "dipy-trr"), middle(found, size, "app", "cpu")
    rows = []
    for arm, label in (("app", "app, whole"), ("lsq", "app --method lsq, whole")):
        runs = results(found, size, arm)
        if runs:
            taken = middle(found, size, arm, "cpu")
            ratios = _ratios(taken, taken, runs[0]["voxels"], reference, app)
            rows.append([label, *ratios, *errors_of(runs[0])])
    runs = results(found, size, "lsq")
    if runs:
        taken = estimation(found, size, "lsq", "cpu")
        row = ["lsq, the fit alone", *_ratios(taken, taken, runs[0]["voxels"], reference, app)]
        rows.append([*row, *errors_of(runs[0])])
    for name in COMPETITORS:
        for fit in results(found, size, name):
            mask, voxels = fit["mask"], fit["voxels"]
            cells = _ratios(fit["cpu"] * mask / voxels, fit["cpu"], voxels, reference, app)
            if voxels < mask:
                cells[-1] += " (extrapolated)" if cells[-1] else ""
            rows.append([name, *cells, *errors_of(fit)])
    if not rows:
        return None
    columns = ("method", "voxels", "per voxel, to dipy-trr", "whole mask, to the whole app", *ERROR_COLUMNS)
    text = (
        "Processor time, and errors in the voxels named. The app denoises first; other fits run on one "
        "thread and are given the signals as measured, or after MP-PCA (`mppca+`), whose time is counted."
    )
    return f"{text}\n\n{markdown(columns, rows)}"


def _ratios(
    mask_seconds: float, seconds: float, voxels: int, reference: float | None, app: float | None
) -> list[str]:
    return [
        f"{voxels:,}",
        f"{seconds / voxels / reference:.3g}" if reference else "",
        f"{mask_seconds / app:.3g}" if app else "",
    ]


def ensemble_table(found: Found, size: str) -> str | None:
    """What an ensemble takes, as ratios to a single network."""
    sizes = sorted({cell.members for cell in found if (cell.size, cell.arm) == (size, "ensemble")})
    rows = []
    for members in sizes:
        runs = results(found, size, "ensemble", members)
        memory = [max(_stage(runs, name, kind) for name in runs[0]["stages"]) for kind in ("host", "device")]
        ratios = []
        for kind in ("wall", "cpu"):
            one = estimation(found, size, "ensemble", kind)
            ratios.append(f"{estimation(found, size, 'ensemble', kind, members) / one:.2f}" if one else "")
        epochs = sum(runs[0]["epochs"])
        rows.append([members, *ratios, epochs, *(f"{value:.2f}" for value in memory), *errors_of(runs[0])])
    if not rows:
        return None
    columns = (
        *("members", "wall-clock time, to one", "processor time, to one", "epochs"),
        *("host peak (GB)", "device peak (GB)", *ERROR_COLUMNS),
    )
    text = "The estimator alone, given the signals as measured and the true noise."
    return f"{text}\n\n{markdown(columns, rows)}"


def records(found: Found) -> str:
    """Every single result as comma-separated values: seconds, GB, fractions and mm^2/s."""
    rows = []
    for cell, result in found.items():
        head = [cell.size, "x".join(map(str, SIZES.get(cell.size, ()))), cell.arm, cell.members, cell.repeat]
        errors = [result.get("errors", {}).get(name, "") for name in RMSE]
        if "stages" not in result:
            rows.append([*head, "fit", "", result["cpu"], "", "", result["voxels"], result["mask"], *errors])
            continue
        numbers = [result.get("voxels", "")] * 2
        rows += [
            [*head, name, *(row[measure] for measure in MEASURES), *numbers, *errors]
            for name, row in result["stages"].items()
        ]
        rows += [
            [*head, f"data iteration {number}", seconds, "", "", "", *numbers, *[""] * len(RMSE)]
            for number, seconds in enumerate(result.get("iteration_seconds", ()))
        ]
    columns = (
        *("size", "shape", "arm", "members", "repeat", "stage"),
        *("wall_seconds", "cpu_seconds", "host_gb", "device_gb", "voxels", "mask", *RMSE),
    )
    return comma_separated(columns, rows)
