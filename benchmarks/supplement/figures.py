"""Figures 1 to 6 of the supplement, drawn from computed results."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from benchmarks.common.methods import METHODS
from benchmarks.common.metrics import LABELS
from benchmarks.common.scenarios import measure
from benchmarks.supplement.groups import LEAST_IN_GROUP, epoch_groups
from benchmarks.supplement.jobs import EDGES
from benchmarks.supplement.plan import MAPS_SNR, SLICE, SNR, Plan
from sicnn_app.report.quantities import Quantity, shown_quantities
from sicnn_app.report.style import BLUE, INK, LIGHT_BLUE, MUTED, ORANGE, colour_scale, plain_style
from sicnn_app.settings import EstimationSettings

Found = dict[Any, dict[str, Any]]

QUANTITIES = {quantity.spec.label: quantity for quantity in shown_quantities("body")}

STYLES = {
    "lsq": {"color": MUTED, "linestyle": ":", "marker": "x", "label": "least squares"},
    "cnn": {"color": ORANGE, "linestyle": "--", "marker": "s", "label": "CNN"},
    "di-cnn": {"color": LIGHT_BLUE, "linestyle": "-.", "marker": "^", "label": "DI-CNN"},
    "si-cnn": {"color": BLUE, "linestyle": "-", "marker": "o", "label": "SI-CNN"},
}
"""Of every method; lines and markers tell them apart without colour."""

EPOCH_STYLES = ((ORANGE, "s"), (LIGHT_BLUE, "^"), (MUTED, "D"), (BLUE, "o"))
"""Colour and marker of the epochs of Figure 2, in their order."""


def figure_1(plan: Plan, found: Found) -> Figure:
    """Mean Noise and mean Recon Error over epochs."""
    figure, (axes,) = _figure(1, (6.2, 3.8))
    runs = list(found.values())
    epochs = [row["epoch"] for row in runs[0]["epochs"]]
    q_p = [[row["q_p"] for row in run["epochs"]] for run in runs]
    q_n = [[run["q_n"]] * len(epochs) for run in runs]
    _band(axes, epochs, q_n, color=ORANGE, linestyle="--", label="mean Noise, Q_n")
    _band(axes, epochs, q_p, color=BLUE, marker="o", markersize=3, label="mean Recon Error, Q_p")
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("relative to the signal at b = 0")
    axes.legend()
    return figure


def figure_2(plan: Plan, found: Found) -> Figure:
    """Mean Noise and mean Recon Error by Fitting Error interval, at several epochs."""
    figure, (axes,) = _figure(1, (8.4, 4.2))
    runs = list(found.values())
    middles = (np.array(EDGES[:-1]) + np.array(EDGES[1:])) / 2
    for (name, groups), (color, marker) in zip(epoch_groups(plan, runs), EPOCH_STYLES, strict=True):
        enough = np.mean([group["count"] for group in groups], axis=0) >= LEAST_IN_GROUP
        shown = middles[enough]
        for quantity, line, word in (("noise", "--", "Noise"), ("recon_error", "-", "Recon Error")):
            values = np.array([group[quantity] for group in groups], dtype=float)[:, enough]
            look = {"color": color, "marker": marker, "markersize": 4, "linestyle": line}
            _band(axes, shown, values, label=f"{word}, {name}", **look)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"Fitting Error, intervals [a, b) of {EDGES[1]:g}")
    axes.set_ylabel("mean, relative to the signal at b = 0")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def figure_3(plan: Plan, found: Found) -> Figure:
    """RMSE of F, D, D* and of the training signals over data iterations."""
    runs = [run["iterations"] for run in found.values()]
    stop = float(np.median([default_stop(run, plan.settings) for run in runs]))
    figure, axes = _figure(4, (11.5, 3.2))
    panels = [(f"rmse_{label}", _rmse_label(QUANTITIES[label]), QUANTITIES[label].factor) for label in LABELS]
    panels.append(("rmse_signals", "RMSE of training signals", 1.0))
    for place, (name, label, factor) in zip(axes, panels, strict=True):
        rows = factor * np.array([[row[name] for row in run] for run in runs])
        place.axvline(stop, color=MUTED, linestyle=":", label="default stops (median)")
        _band(place, np.arange(rows.shape[1]), rows, color=BLUE, marker="o", markersize=3)
        place.set_ylim(bottom=0)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_xlabel("data iteration")
        place.set_ylabel(label)
    axes[0].legend()
    return figure


def default_stop(iterations: Sequence[dict], settings: EstimationSettings) -> int:
    """Data iteration after which the settings would have stopped."""
    for number, row in enumerate(iterations):
        if row["change"] < settings.lambda_.value or number == settings.max_iterations:
            return number
    return len(iterations) - 1


def figure_4(plan: Plan, found: Found) -> Figure:
    """Training and validation loss over epochs, of the plain network and of SI-CNN."""
    figure, axes = _figure(2, (10, 3.8))
    for place, method in zip(axes, ("cnn", "si-cnn"), strict=True):
        runs = [run for (one, _), run in found.items() if one == method]
        for name, look in (
            ("losses", {"color": BLUE, "linestyle": "-", "label": "training"}),
            ("validation_losses", {"color": ORANGE, "linestyle": "--", "label": "validation"}),
        ):
            epochs, values = over_epochs([run[name] for run in runs])
            _band(place, epochs, values, **look)
        place.set_yscale("log")
        _plain_numbers(place.yaxis)
        place.set_title(STYLES[method]["label"], fontsize=10)
        place.set_xlabel("epoch, over all data iterations")
        place.set_ylabel("loss")
        place.legend()
    return figure


def over_epochs(curves: Iterable[Sequence[Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Loss curves of several seeds on one axis.

    Parameters
    ----------
    curves : iterable of sequences of (data iteration, epoch, loss)

    Returns
    -------
    epochs : ndarray, shape (E,)
        Those that at least half of the seeds have.
    values : ndarray, shape (seeds, E)
        NaN where a seed has stopped.
    """
    found = [{int(epoch): loss for _, epoch, loss in curve} for curve in curves]
    every = sorted(set().union(*found))
    shared = [epoch for epoch in every if 2 * sum(epoch in curve for curve in found) >= len(found)]
    values = [[curve.get(epoch, np.nan) for epoch in shared] for curve in found]
    return np.array(shared), np.array(values)


def figure_5(plan: Plan, found: Found) -> Figure:
    """RMSE of F, D and D* over SNR, by method."""
    figure, axes = _figure(3, (10.5, 3.9))
    seeds = sorted({seed for _, seed in found})
    for place, label in zip(axes, LABELS, strict=True):
        quantity = QUANTITIES[label]
        for method in METHODS:
            errors = [
                [found[snr, seed][method][f"rmse_{label}"] * quantity.factor for snr in plan.snrs]
                for seed in seeds
            ]
            _band(place, plan.snrs, errors, markersize=4.5, **STYLES[method])
        place.set(xscale="log", yscale="log", xlabel="SNR", ylabel=_rmse_label(quantity))
        place.set_xticks(plan.snrs, [f"{snr:g}" for snr in plan.snrs], fontsize=8)
        place.xaxis.set_minor_locator(NullLocator())
        _plain_numbers(place.yaxis)
    axes[0].legend()
    return figure


def figure_6(plan: Plan, found: Found) -> Figure:
    """Maps of one slice by every method, and the truth."""
    ((seed, result),) = found.items()
    measured = measure(plan.scenario(MAPS_SNR, seed))
    inside = measured.mask[:, :, SLICE]
    columns = [(STYLES[method]["label"], result[method]["maps"]) for method in METHODS]
    true = {label: getattr(measured.phantom, label)[:, :, SLICE][inside] for label in LABELS}
    columns.append(("truth", true))
    figure = Figure(figsize=(11, 6.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(LABELS), len(columns))
    for line, label in zip(rows, LABELS, strict=True):
        quantity = QUANTITIES[label]
        for place, (title, maps) in zip(line, columns, strict=True):
            image = np.full(inside.shape, np.nan)
            image[inside] = np.asarray(maps[label]) * quantity.factor
            low, high = quantity.limits(image)
            scale = colour_scale(low, high, logarithmic=quantity.logarithmic)
            shown = place.imshow(
                image.T, origin="lower", norm=scale, cmap=quantity.cmap, interpolation="nearest"
            )
            place.set(xticks=[], yticks=[], facecolor="black")
            place.grid(False)
            if label == LABELS[0]:
                place.set_title(title, fontsize=10)
        figure.colorbar(shown, ax=line, label=f"{quantity.spec.symbol} ({quantity.unit})")
    return figure


FIGURES: dict[str, Callable[[Plan, Found], Figure]] = {
    "figure-1": figure_1,
    "figure-2": figure_2,
    "figure-3": figure_3,
    "figure-4": figure_4,
    "figure-5": figure_5,
    "figure-6": figure_6,
}

CAPTIONS = {
    "figure-1": f"Mean Noise and mean Recon Error over the epochs of the plain network, SNR {SNR:g}",
    "figure-2": f"Mean Noise and mean Recon Error by Fitting Error, plain network, SNR {SNR:g}",
    "figure-3": f"RMSE of F, D, D* and of the training signals over data iterations, SI-CNN, SNR {SNR:g}",
    "figure-4": f"Training and validation loss, SNR {SNR:g}",
    "figure-5": "RMSE of F, D and D* by method over SNR",
    "figure-6": f"Parameter maps by method, and the truth, SNR {MAPS_SNR:g}",
}


def draw(item: str, plan: Plan, found: Found, origin: str, folder: Path) -> list[Path]:
    """Write one figure as PNG and SVG.

    Parameters
    ----------
    origin : str
        Command, version, device and date; written below the figure and into the files.
    """
    count = len({key[-1] if isinstance(key, tuple) else key for key in found})
    seeds = "1 seed" if count == 1 else f"{count} seeds, mean ± SD"
    with plain_style():
        figure = FIGURES[item](plan, found)
        letters = int(figure.get_figwidth() * 10)
        figure.suptitle(textwrap.fill(f"{CAPTIONS[item]} ({seeds})", letters), fontsize=11)
        origin = origin.replace("`", "")
        figure.supxlabel(textwrap.fill(origin, 2 * letters), fontsize=5.5, color=MUTED)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{item}.{ending}" for ending in ("png", "svg")]
        figure.savefig(paths[0], dpi=150, metadata={"Description": origin, "Software": None})
        figure.savefig(paths[1], metadata={"Description": origin, "Date": None, "Creator": None})
    return paths


def _figure(panels: int, size: tuple[float, float]) -> tuple[Figure, Sequence]:
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _band(axes, x: Sequence[float], rows: Sequence[Sequence[float]], **look) -> None:
    """Mean over seeds as a line and one standard deviation to both sides; ``rows``: shape (seeds, len(x))."""
    values = np.asarray(rows, dtype=float)
    mean = np.nanmean(values, axis=0)
    axes.plot(x, mean, **look)
    several = (~np.isnan(values)).sum(axis=0) > 1
    if several.any():
        spread = np.nanstd(values[:, several], axis=0, ddof=1)
        low, high = mean[several] - spread, mean[several] + spread
        color = look.get("color", INK)
        axes.fill_between(np.asarray(x)[several], low, high, color=color, alpha=0.2, linewidth=0)


def _plain_numbers(axis) -> None:
    """1, 2, 5, 10 ... on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def _rmse_label(quantity: Quantity) -> str:
    return f"RMSE of {quantity.spec.symbol} ({quantity.unit})"
