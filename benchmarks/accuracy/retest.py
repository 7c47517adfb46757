"""Test and retest on measured abdomens: every run is split into two independent halves of its volumes.

    python -m benchmarks.accuracy.retest --out out/retest
    python -m benchmarks.accuracy.retest --out out/retest --seeds 0 1 2 --data ../shared/data/ivim-abdomen

A half has every other volume at b = 0 and three of the six directions of every other b-value; no volume is in
both. Of the ten ways to split the directions that one is used, per run, whose organ-mean signals agree best
between the halves: there breathing weighs least. The halves are averaged, and their noise is estimated, by
the app's own preprocessing; with ``--denoise`` each is denoised (MP-PCA) by itself first, and predictions are
still held against signals that were not.

- wCV: voxelwise within-subject coefficient of variation, sqrt(mean((x1 - x2)^2 / 2)) / mean((x1 + x2) / 2)
  over the voxels of all runs.
- Cross-prediction: root mean square difference, over voxels and b, between the signals predicted from the
  maps of one half (F, D, D* and S0) and the averaged signals observed in the other, over the mean signal of
  both halves at b = 0; both directions together. Smooth maps have a low wCV whether they are right or not;
  wrong ones miss the signals of the other half.
- Organ medians, and how much F differs between organs, beside the least-squares fits of the mean signals of
  organs over all volumes of a run.

cnn has the epochs that si-cnn took on the same half. Both halves are trained with the same seed, as two runs
of the app are by default; ``--apart`` trains the second with another. Computed maps are kept in
``cells.jsonl`` and used again when version and settings agree: take a fresh folder after changes of the code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.accuracy import retest_statistics as statistics
from benchmarks.accuracy.roi_medians import MIN_VOXELS, ORGANS, mean_signal_fit, values_of
from benchmarks.common.arms import estimated
from benchmarks.common.cells import (
    Cells,
    comma_separated,
    command_line,
    markdown,
    parser_of,
    provenance,
    spread,
    write_tables,
)
from benchmarks.common.methods import epochs_of
from benchmarks.common.metrics import LABELS, NAMES, SCALES
from sicnn_app.bids.load import load_run
from sicnn_app.bids.masks import load_mask
from sicnn_app.ivim.run import DwiRun, SourceImage
from sicnn_app.ivim.series import AveragedSignals, DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import EstimationSettings, PreprocessingSettings

DATA = Path("../shared/data/ivim-abdomen")
RUNS = tuple(f"sub-{subject}_acq-{acq}" for subject in ("01", "02", "03") for acq in ("T70", "T100"))

SEEDS_APART = 1000
"""Added to the seed of the second half with ``--apart``."""

STORED_DIGITS = 6
"""Significant digits of the maps in the cells."""


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes
    ----------
    settings : EstimationSettings
    blurred : bool
        The averaged signals are blurred before the estimation.
    epochs_of : str or None
        Method whose number of epochs on the same half this one is trained for.
    """

    settings: EstimationSettings
    blurred: bool = False
    epochs_of: str | None = None

    @property
    def seeded(self) -> bool:
        """Whether the result depends on the seed."""
        return self.settings.method != "lsq"


METHODS = {
    "lsq": Method(EstimationSettings(method="lsq")),
    "blurred lsq": Method(EstimationSettings(method="lsq"), blurred=True),
    "cnn": Method(EstimationSettings(method="cnn"), epochs_of="si-cnn"),
    "si-cnn": Method(EstimationSettings(method="si-cnn")),
}

TARGETS: tuple[tuple[str, str, str, str, float], ...] = (
    ("wCV", "all organs", "f", "lsq", 0.45),
    ("wCV", "all organs", "d", "lsq", 0.55),
    ("wCV", "all organs", "dstar", "lsq", 0.30),
    ("wCV", "all organs", "f", "cnn", 1.0),
    ("wCV", "all organs", "d", "cnn", 1.0),
    ("wCV", "all organs", "dstar", "cnn", 1.0),
    ("prediction: cross", "all organs", "signal", "lsq", 0.90),
)
"""Measure, where, of what, relative to which method: the ratio that si-cnn must not exceed."""

LEAST_CONTRAST = 0.8
"""Of the F of organs, relative to the fits of their mean signals: what si-cnn must keep."""


@dataclass(frozen=True)
class Run:
    """A measured run, and its halves ready for the estimators.

    Attributes
    ----------
    name : str
    split : tuple of int
        Directions of the first half.
    disagreement : float
        Of the organ-mean signals of the halves, relative to b = 0.
    halves : tuple of two AveragedSignals
    mask : ndarray, shape (X, Y, Z), bool
        Voxels with data in both halves; V of them.
    observed : ndarray, shape (2, V, B), float64
        Averaged signals of the halves as acquired, never denoised: what predictions are held against.
    organs : dict of str to ndarray, shape (V,), bool
        Organs with at least :data:`MIN_VOXELS` voxels in the mask.
    boundary : ndarray, shape (V,), bool
        Voxels of organs with another label beside them.
    fits : dict of str to dict of str to float
        F, D and D* of the least-squares fit of every organ's mean signal over all volumes of the run.
    """

    name: str
    split: tuple[int, ...]
    disagreement: float
    halves: tuple[AveragedSignals, AveragedSignals]
    mask: np.ndarray
    observed: np.ndarray
    organs: dict[str, np.ndarray]
    boundary: np.ndarray
    fits: dict[str, dict[str, float]]

    @property
    def regions(self) -> dict[str, np.ndarray]:
        """Where statistics are taken, shape (V,), bool."""
        everywhere = np.any(list(self.organs.values()), axis=0)
        return {
            **self.organs,
            "all organs": everywhere,
            "their boundary": everywhere & self.boundary,
            "body mask": np.ones_like(everywhere),
        }


class Row(NamedTuple):
    """One number of the results; ``parameter`` is f, d, dstar or signal, ``where`` a region or run."""

    measure: str
    where: str
    parameter: str
    method: str
    seed: int
    value: float


class Results:
    """All numbers, by what they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._found: dict[tuple[str, str, str, str], list[float]] = {}
        for row in rows:
            self._found.setdefault(row[:4], []).append(row.value)

    def text(self, measure: str, where: str, parameter: str, method: str, form: str = ".3f") -> str:
        """Mean, and SD over seeds where there are several."""
        return spread(self._found[measure, where, parameter, method], form)

    def mean(self, measure: str, where: str, parameter: str, method: str) -> float:
        return float(np.mean(self._found[measure, where, parameter, method]))

    def ratio(self, measure: str, where: str, parameter: str, method: str, other: str = "lsq") -> float:
        return self.mean(measure, where, parameter, method) / self.mean(measure, where, parameter, other)


def files_of(data: Path, run: str) -> dict[str, Path]:
    """Image, b-values, mask and organs of a run."""
    subject = run.split("_")[0]
    image, rois = data / subject / "dwi" / f"{run}_dwi", data / "derivatives" / "rois" / subject / "dwi"
    return {
        "image": image.with_name(f"{image.name}.nii.gz"),
        "bvals": image.with_name(f"{image.name}.bval"),
        "mask": rois / f"{subject}_desc-body_mask.nii.gz",
        "organs": rois / f"{subject}_desc-organs_dseg.nii.gz",
    }


def require_files(data: Path, runs: Sequence[str]) -> None:
    """Exit with what is missing of the dataset."""
    if not data.is_dir():
        raise SystemExit(f"{data} is not a folder: give the abdominal dataset with --data")
    missing = [str(path) for run in runs for path in files_of(data, run).values() if not path.is_file()]
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing))
        raise SystemExit(f"missing in {data}:\n  {listed}\nchoose the runs that are there with --runs")


def read_run(data: Path, name: str, *, denoise: bool) -> Run:
    """Load a run and prepare its halves."""
    files = files_of(data, name)
    entities = dict(part.split("-", 1) for part in name.split("_"))
    series = load_run(
        DwiRun(entities, (SourceImage(files["image"], files["bvals"], None),)), bvals_file=None
    ).series
    mask, _ = load_mask(files["mask"], series.affine, shape=series.signals.shape[:3])
    labels = np.where(mask, values_of(files["organs"]).reshape(mask.shape), 0).astype(int)
    in_organs = {
        organ: labels == code for code, organ in ORGANS.items() if (labels == code).sum() >= MIN_VOXELS
    }
    signals = series.signals.astype(np.float64)
    means = np.array([signals[voxels].mean(axis=0) for voxels in in_organs.values()])
    split = statistics.best_split(means, series.bvals)
    parts = [series.select(keep) for keep in statistics.halves(series.bvals, split)]
    acquired = [prepare_half(part, mask, denoise=False) for part in parts]
    halves = [prepare_half(part, mask, denoise=True) for part in parts] if denoise else acquired
    both = np.all([half.mask for half in (*acquired, *halves)], axis=0)
    return Run(
        name=name,
        split=split,
        disagreement=statistics.disagreement(means, series.bvals, split),
        halves=(halves[0], halves[1]),
        mask=both,
        observed=np.stack([half.signals[both].astype(np.float64) for half in acquired]),
        organs={organ: voxels[both] for organ, voxels in in_organs.items()},
        boundary=statistics.at_boundary(labels)[both],
        fits={
            organ: dict(zip(LABELS, mean_signal_fit(signals, series.bvals, voxels & both), strict=True))
            for organ, voxels in in_organs.items()
        },
    )


def prepare_half(series: DwiSeries, mask: np.ndarray, *, denoise: bool) -> AveragedSignals:
    settings = PreprocessingSettings(denoise="mppca" if denoise else "none", motion_correction="none")
    return prepare(series, anatomy="body", external_mask=mask, settings=settings).averaged


class Estimates:
    """Maps of every run, method and seed, computed or taken from the cells."""

    def __init__(self, cells: Cells, *, data: str, denoise: bool, blur: float, apart: bool) -> None:
        self.cells = cells
        self.common = {"benchmark": "retest", "data": data, "denoise": denoise}
        self.blur = blur
        self.apart = apart

    def get(self, run: Run, name: str, seed: int) -> dict:
        """``epochs`` per half and, per label, values of both halves in the mask of the run."""
        method = METHODS[name]
        seeds = (seed, seed + SEEDS_APART if self.apart and method.seeded else seed)
        settings = [replace(method.settings, random_seed=one) for one in seeds]
        if method.epochs_of is not None:
            epochs = self.get(run, method.epochs_of, seed)["epochs"]
            settings = [replace(one, epochs=count) for one, count in zip(settings, epochs, strict=True)]
        spec = {
            **self.common,
            "run": run.name,
            "split": list(run.split),
            "blur": self.blur if method.blurred else 0.0,
            "settings": [repr(one) for one in settings],
        }

        def compute() -> dict:
            print(f"{run.name}: {name}, seed {seed}", file=sys.stderr, flush=True)
            return estimate_halves(run, settings, spec["blur"])

        return self.cells.get(spec, compute)


def estimate_halves(run: Run, settings: Sequence[EstimationSettings], blur: float) -> dict:
    """What :meth:`Estimates.get` returns; ``blur`` in voxels, 0 for none."""
    found: dict = {"epochs": [], **{label: [] for label in (*LABELS, "s0")}}
    for half, chosen in zip(run.halves, settings, strict=True):
        signals = statistics.blurred(half.signals, half.mask, blur) if blur else half.signals
        estimate = estimated(half, chosen, signals=signals)
        found["epochs"].append(epochs_of(estimate))
        for label in (*LABELS, "s0"):
            values = estimate.maps[label][run.mask].tolist()
            found[label].append([float(f"{value:.{STORED_DIGITS}g}") for value in values])
    return found


def pooled(parts: Sequence[np.ndarray], inside: Sequence[np.ndarray]) -> np.ndarray:
    """Voxels of all runs, shape (N, all V, ...), from one array of shape (N, V, ...) and region per run."""
    return np.concatenate([values[:, where] for values, where in zip(parts, inside, strict=True)], axis=1)


def regions_of(runs: Sequence[Run]) -> dict[str, list[np.ndarray]]:
    """Voxels of every region, shape (V,), bool, one array per run; empty where a run has none of it."""
    names = [*ORGANS.values(), *(name for name in runs[0].regions if name not in ORGANS.values())]
    found = {
        name: [run.regions.get(name, np.zeros(np.count_nonzero(run.mask), dtype=bool)) for run in runs]
        for name in names
    }
    return {name: inside for name, inside in found.items() if any(where.any() for where in inside)}


def agreement_rows(
    runs: Sequence[Run], maps: Sequence[dict[str, np.ndarray]]
) -> Iterator[tuple[str, str, str, float]]:
    """(measure, where, parameter, value): what one method and seed gets from one half, beside the other.

    Parameters
    ----------
    runs : sequence of Run
    maps : sequence of dict of str to ndarray, shape (2, V)
        F, D, D* and S0 of both halves of every run.
    """
    predicted = [
        ivim_signal_maps(run.halves[0].bvals, **found) for run, found in zip(runs, maps, strict=True)
    ]
    observed = [run.observed for run in runs]
    cross, noise, scatter = (
        [make(*pair) for pair in zip(values, observed, strict=True)]
        for make, values in (
            (statistics.cross_residuals, predicted),
            (statistics.scatter_residuals, observed),
            (statistics.scatter_residuals, predicted),
        )
    )
    for region, inside in regions_of(runs).items():
        for label in LABELS:
            pairs = pooled([found[label] for found in maps], inside)
            yield "wCV", region, label, statistics.within_subject_cv(*pairs)
        found = statistics.PredictionError.of(
            pooled(cross, inside),
            *(pooled([one[None] for one in values], inside) for values in (noise, scatter)),
        )
        for name, value in vars(found).items():
            yield f"prediction: {name}", region, "signal", value


def median_rows(
    runs: Sequence[Run], maps: Sequence[dict[str, np.ndarray]]
) -> Iterator[tuple[str, str, str, float]]:
    """(measure, where, parameter, value): organ medians of one method and seed, beside the mean-signal fits.

    The median is the mean of those of the halves; arguments as for :func:`agreement_rows`.
    """
    for label in LABELS:
        medians = [
            np.array([np.median(found[label][:, voxels], axis=1).mean() for voxels in run.organs.values()])
            for run, found in zip(runs, maps, strict=True)
        ]
        fits = [np.array([fit[label] for fit in run.fits.values()]) for run in runs]
        for run, values in zip(runs, medians, strict=True):
            for organ, value in zip(run.organs, values, strict=True):
                yield "median", f"{run.name} {organ}", label, float(value)
        distances = np.concatenate(medians) - np.concatenate(fits)
        yield "distance from the fits", "all runs", label, statistics.root_mean_square(distances)
        if label == "f":
            for run, values, wanted in zip(runs, medians, fits, strict=True):
                yield "contrast", run.name, label, statistics.contrast_ratio([values], [wanted])
            yield "contrast", "all runs", label, statistics.contrast_ratio(medians, fits)
            yield "slope", "all runs", label, statistics.contrast_slope(medians, fits)


def measure(runs: Sequence[Run], estimates: Estimates, seeds: Sequence[int]) -> Results:
    """All numbers of all methods."""
    rows = []
    for name, method in METHODS.items():
        for seed in seeds if method.seeded else seeds[:1]:
            maps = [
                {label: np.array(values) for label, values in estimates.get(run, name, seed).items()}
                for run in runs
            ]
            epochs = [found.pop("epochs").mean() for found in maps]
            rows.append(Row("epochs", "all runs", "", name, seed, float(np.mean(epochs))))
            for found in (*agreement_rows(runs, maps), *median_rows(runs, maps)):
                rows.append(Row(*found[:3], name, seed, found[3]))
    return Results(rows)


def with_ratio(results: Results, measure_name: str, region: str, label: str, name: str, form: str) -> str:
    """A number, and in parentheses its ratio to that of lsq."""
    ratio = results.ratio(measure_name, region, label, name)
    return f"{results.text(measure_name, region, label, name, form)} ({ratio:.2f})"


def agreement_table(results: Results, regions: Sequence[str]) -> str:
    columns = ["where", "method", *(f"wCV of {NAMES[label].split()[0]}" for label in LABELS)]
    rows = []
    for region in regions:
        for name in METHODS:
            cells = [with_ratio(results, "wCV", region, label, name, ".3f") for label in LABELS]
            rows.append([region, name, *cells])
    return markdown(columns, rows)


def prediction_table(results: Results, regions: Sequence[str]) -> str:
    rows = []
    for part in ("cross", "error", "scatter", "bias"):
        for name in METHODS:
            cells = [
                with_ratio(results, f"prediction: {part}", region, "signal", name, ".4f")
                for region in regions
            ]
            rows.append([part, name, *cells])
    noise = [(results.mean("prediction: noise", region, "signal", "lsq"), region) for region in regions]
    cells = [
        f"{value:.4f} ({value / results.mean('prediction: cross', region, 'signal', 'lsq'):.2f})"
        for value, region in noise
    ]
    rows.append(["cross", "the noise-free signals", *cells])
    return markdown(["", "method", *regions], rows)


def median_table(runs: Sequence[Run], results: Results) -> str:
    rows: list[list[object]] = []
    for run in runs:
        for organ, voxels in run.organs.items():
            cells = [three([run.fits[organ][label] for label in LABELS])]
            for name in METHODS:
                where = f"{run.name} {organ}"
                cells.append(three([results.mean("median", where, label, name) for label in LABELS]))
            rows.append([run.name, organ, voxels.sum(), *cells])
    distances = [
        three([results.mean("distance from the fits", "all runs", label, name) for label in LABELS])
        for name in METHODS
    ]
    rows.append(["all", "root mean square distance from the fit", "", "", *distances])
    return markdown(["run", "organ", "voxels", "fit of the mean signal", *METHODS], rows)


def three(values: Sequence[float]) -> str:
    f, d, dstar = (SCALES[label] * value for label, value in zip(LABELS, values, strict=True))
    return f"{f:.3f} / {d:.1f} / {dstar:.0f}"


def contrast_table(runs: Sequence[Run], results: Results) -> str:
    rows: list[list[object]] = []
    for run in runs:
        spread_of_fits = np.std([fit["f"] for fit in run.fits.values()], ddof=1)
        cells = [results.text("contrast", run.name, "f", name, ".2f") for name in METHODS]
        rows.append([run.name, len(run.organs), f"{spread_of_fits:.3f}", *cells])
    for measure_name in ("contrast", "slope"):
        cells = [results.text(measure_name, "all runs", "f", name, ".2f") for name in METHODS]
        rows.append([f"all: {measure_name}", "", "", *cells])
    return markdown(["run", "organs", "SD of F over organs, fits", *METHODS], rows)


def verdicts(results: Results, regions: Sequence[str]) -> str:
    """One line per target, and whether blurring, which must not pass for a good method, is seen through."""
    lines = []
    for measure_name, region, label, other, most in TARGETS:
        ratio = results.ratio(measure_name, region, label, "si-cnn", other)
        what = f"{measure_name} of {NAMES[label].split()[0]}" if label in NAMES else "cross-prediction"
        lines.append(
            f"- {what}, {region}: {ratio:.3f} of {other}'s, at most {most:g}: {verdict(most - ratio)}"
        )
    contrast = results.mean("contrast", "all runs", "f", "si-cnn")
    lines.append(
        f"- contrast of F: {contrast:.3f} of the fits', at least {LEAST_CONTRAST:g}: "
        f"{verdict(contrast - LEAST_CONTRAST)}"
    )
    for region in regions:
        ratios = {
            other: results.ratio("prediction: cross", region, "signal", "blurred lsq", other)
            for other in ("lsq", "si-cnn")
        }
        passed = [other for other, ratio in ratios.items() if ratio <= 1]
        outcome = f"NOT worse than {' and '.join(passed)}" if passed else "worse, as it must be"
        lines.append(
            f"- check, cross-prediction of blurred lsq, {region}: "
            f"{' and '.join(f'{ratio:.3f} of {other}' for other, ratio in ratios.items())}: {outcome}"
        )
    return "\n".join(lines)


def verdict(margin: float) -> str:
    return "met" if margin >= 0 else f"MISSED by {-margin:.3f}"


def report(runs: Sequence[Run], results: Results, command: str) -> str:
    """The Markdown page."""
    regions = regions_of(runs)
    counts = ", ".join(f"{name} {sum(where.sum() for where in inside)}" for name, inside in regions.items())
    splits = [[run.name, run.split, f"{run.disagreement:.3f}"] for run in runs]
    epochs = ", ".join(
        f"{name} {results.mean('epochs', 'all runs', '', name):.0f}"
        for name, method in METHODS.items()
        if method.seeded
    )
    return f"""# Test and retest of two halves of every run

{provenance(command)}

Voxels of all runs together: {counts}. Mean epochs: {epochs}. In parentheses: relative to lsq.

## Voxelwise within-subject coefficient of variation

{agreement_table(results, list(regions))}

## Error of predicting the signals of the other half, relative to b = 0

Cross: predicted from one half less observed in the other. Even the noise-free signals would miss what is
observed, by the noise of one half (last row); taken off in squares, the error of the predictions remains. Of
it, scatter differs from half to half, and bias is what both halves have in common. Volumes of one b-value
follow each other: what breathing did to them is in both halves and counts as bias, also that of lsq.

{prediction_table(results, list(regions))}

## Organ medians: F / D (1e-4 mm^2/s) / D* (1e-3 mm^2/s)

{median_table(runs, results)}

## Contrast of F between organs, relative to the fits of mean signals

{contrast_table(runs, results)}

Slope: of the medians on the fits, within runs.

## Targets for si-cnn

{verdicts(results, list(regions))}

## Directions of the first half, and difference of organ-mean signals between the halves

{markdown(["run", "directions", "difference"], splits)}
"""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--data", type=Path, default=DATA, help="the abdominal dataset (default: %(default)s)"
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, made when missing")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,), help="of the networks")
    parser.add_argument("--apart", action="store_true", help="another seed for the second half")
    parser.add_argument("--denoise", action="store_true", help="MP-PCA on each half")
    parser.add_argument("--blur", type=float, default=1.0, help="sigma of blurred lsq in voxels")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    require_files(options.data, options.runs)
    runs = [read_run(options.data, name, denoise=options.denoise) for name in options.runs]
    estimates = Estimates(
        Cells(options.out / "cells.jsonl"),
        data=options.data.name,
        denoise=options.denoise,
        blur=options.blur,
        apart=options.apart,
    )
    results = measure(runs, estimates, options.seeds)
    page = report(runs, results, command_line())
    write_tables(options.out, "retest", page, comma_separated(Row._fields, results.rows))
    print(page)


if __name__ == "__main__":
    main()
