"""Which computations every figure and table takes, by what tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.common.pool import Job, Results
from benchmarks.common.scenarios import SHAPE, Scenario
from benchmarks.supplement.jobs import AllMethods, InVivo, Quality, Training
from benchmarks.supplement.logged import SIMULATION, STOPPING_SNR
from sicnn_app.settings import EstimationSettings, Threshold, preset_settings

SNR = 15.0
"""Of Figures 1 to 4."""

MAPS_SNR = 10.0
"""Of Figure 6."""

SLICE = 0
"""Shown in Figure 6."""

PRESET = "supplement"
"""Whose logged settings the table over lambda repeats."""

Jobs = dict[Hashable, Job]
"""The computations of one figure or table by what tells them apart; the seed comes last."""


@dataclass(frozen=True)
class Plan:
    """How much is computed.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the phantom.
    seeds : tuple of int
        Of phantom, noise and training.
    method_seeds, sweep_seeds, long_seeds, preset_seeds : int
        How many of them the methods over all SNRs use, the sweeps, the long computations, and the longest:
        lambda with the settings of the supplement.
    snrs : tuple of float
        Of Figure 5.
    epochs : int
        Of the plain network of Figures 1 and 2.
    grouped : tuple of int
        Epochs of Figure 2.
    iterations : int
        Data iterations of Figure 3.
    validation_share : float
        Of the voxels, in Figure 4.
    lambdas, preset_lambdas : tuple of float
        With the default settings, and with those of the supplement, whose trainings take far longer.
    lambda_iterations : int
        Most data iterations of the table over lambda: so many that lambda decides.
    fitting, neighbour : tuple of float
        Absolute thresholds.
    threshold_snrs : tuple of float
    batches : tuple of int
        Tiles per optimiser step.
    batch_slices : int
        Slices, and so tiles, of the phantom of the table over batches.
    limits : tuple of int
        Most data iterations.
    table_snrs, true_snrs : tuple of float
    truths : tuple of str
        Methods whose maps of measured abdomens are the truth.
    true_runs : tuple of str
        Runs of the abdominal dataset; run number i has seed number i.
    data : str
        Folder of the abdominal dataset.
    settings : EstimationSettings
        Where nothing else is said: the app's defaults.
    """

    shape: tuple[int, int, int] = SHAPE
    seeds: tuple[int, ...] = ()
    method_seeds: int = 5
    sweep_seeds: int = 3
    long_seeds: int = 2
    preset_seeds: int = 1
    snrs: tuple[float, ...] = (8, 10, 12, 15, 20, 25, 33, 50, 75, 100)
    epochs: int = 1000
    grouped: tuple[int, ...] = (30, 50, 100)
    iterations: int = 20
    validation_share: float = 0.2
    lambdas: tuple[float, ...] = (0.5, 0.1, 0.05, 0.01, 0.001)
    preset_lambdas: tuple[float, ...] = (0.5, 0.1, 0.05)
    lambda_iterations: int = 60
    fitting: tuple[float, ...] = (0.02, 0.03, 0.05)
    neighbour: tuple[float, ...] = (0.01, 0.02, 0.03)
    threshold_snrs: tuple[float, ...] = (8, 33)
    batches: tuple[int, ...] = (1, 5, 25)
    batch_slices: int = 25
    limits: tuple[int, ...] = (0, 1, 2, 4, 8, 20, 40)
    table_snrs: tuple[float, ...] = tuple(row.snr for row in SIMULATION)
    true_snrs: tuple[float, ...] = (12, 33)
    truths: tuple[str, ...] = ("lsq", "si-cnn")
    true_runs: tuple[str, ...] = ("sub-01_acq-T70", "sub-02_acq-T70", "sub-03_acq-T70")
    data: str = "../shared/data/ivim-abdomen"
    settings: EstimationSettings = EstimationSettings()

    def scenario(self, snr: float, seed: int, slices: int | None = None) -> Scenario:
        shape = self.shape if slices is None else (*self.shape[:2], slices)
        return Scenario(float(snr), seed, shape=shape)

    def quick(self) -> Plan:
        """A minute's version: it shows that everything works, and nothing about the method."""
        return replace(
            self,
            shape=(32, 30, 1),
            seeds=self.seeds[:1],
            snrs=(8, 33),
            epochs=110,
            iterations=2,
            lambdas=(0.5, 0.1, 0.05),
            lambda_iterations=4,
            preset_seeds=0,
            fitting=(0.02, 0.05),
            neighbour=(0.02,),
            batches=(1, 2),
            batch_slices=2,
            limits=(0, 2),
            table_snrs=(33,),
            true_snrs=(33,),
            truths=self.truths[:1],
            true_runs=self.true_runs[:1],
            settings=replace(self.settings, max_iterations=2),
        )


def quality(plan: Plan) -> Jobs:
    """Figures 1 and 2, by seed."""
    settings = replace(plan.settings, method="cnn", epochs=plan.epochs)
    return {seed: Quality(plan.scenario(SNR, seed), settings, plan.grouped) for seed in plan.seeds}


def iterations(plan: Plan) -> Jobs:
    """Figure 3, by seed: lambda 0 goes on where the default would stop."""
    settings = replace(plan.settings, lambda_=Threshold(0.0, "absolute"), max_iterations=plan.iterations)
    return {seed: Training(plan.scenario(SNR, seed), settings) for seed in plan.seeds}


def losses(plan: Plan) -> Jobs:
    """Figure 4, by (method, seed)."""
    held_out = replace(plan.settings, validation_share=plan.validation_share)
    settings = {"cnn": replace(held_out, method="cnn", epochs=plan.epochs), "si-cnn": held_out}
    return {
        (method, seed): Training(plan.scenario(SNR, seed), chosen)
        for method, chosen in settings.items()
        for seed in plan.seeds
    }


def methods(plan: Plan) -> Jobs:
    """Figure 5, by (SNR, seed)."""
    return {
        (snr, seed): AllMethods(plan.scenario(snr, seed), plan.settings)
        for snr in plan.snrs
        for seed in plan.seeds[: plan.method_seeds]
    }


def maps(plan: Plan) -> Jobs:
    """Figure 6, by seed: one of them."""
    return {
        seed: AllMethods(plan.scenario(MAPS_SNR, seed), plan.settings, shown_slice=SLICE)
        for seed in plan.seeds[:1]
    }


def stopping(plan: Plan) -> Jobs:
    """Table over lambda, by (settings, lambda, seed)."""
    preset = replace(plan.settings, **preset_settings(PRESET))
    raised = replace(plan.settings, max_iterations=plan.lambda_iterations)
    return {
        (name, value, seed): Training(
            plan.scenario(STOPPING_SNR, seed), replace(settings, lambda_=Threshold(value, "absolute"))
        )
        for name, settings, lambdas, seeds in (
            ("default", raised, plan.lambdas, plan.seeds[: plan.sweep_seeds]),
            (PRESET, preset, plan.preset_lambdas, plan.seeds[: plan.preset_seeds]),
        )
        for value in lambdas
        for seed in seeds
    }


def thresholds(plan: Plan) -> Jobs:
    """Table over thresholds, by (SNR, fitting, neighbour, seed); the thresholds as the app writes them."""
    pairs = [(plan.settings.fitting_threshold, plan.settings.resolved_neighbour_threshold)]
    pairs += [(absolute(fitting), absolute(near)) for fitting in plan.fitting for near in plan.neighbour]
    return {
        (snr, str(fitting), str(near), seed): Training(
            plan.scenario(snr, seed),
            replace(plan.settings, fitting_threshold=fitting, neighbour_threshold=near),
        )
        for snr in plan.threshold_snrs
        for fitting, near in pairs
        for seed in plan.seeds[: plan.sweep_seeds]
    }


def batches(plan: Plan) -> Jobs:
    """Table over batches, by (tiles per step, seed)."""
    return {
        (size, seed): Training(
            plan.scenario(SNR, seed, plan.batch_slices), replace(plan.settings, batch_size=size)
        )
        for size in sorted({*plan.batches, plan.settings.batch_size})
        for seed in plan.seeds[: plan.long_seeds]
    }


def limits(plan: Plan) -> Jobs:
    """Table over the most data iterations, by (limit, seed)."""
    return {
        (limit, seed): Training(
            plan.scenario(SNR, seed),
            replace(plan.settings, lambda_=Threshold(0.0, "absolute"), max_iterations=limit),
        )
        for limit in plan.limits
        for seed in plan.seeds[: plan.sweep_seeds]
    }


def logged_rewriting(plan: Plan) -> EstimationSettings:
    """The settings with the rewriting behind the logged table over SNR, and nothing else of its preset."""
    preset = preset_settings("supplement-table")
    names = ("fitting_threshold", "neighbour_threshold", "neighbour_radius", "similarity")
    return replace(plan.settings, **{name: preset[name] for name in names if name in preset})


def over_snr(plan: Plan) -> Jobs:
    """Table over SNR, by (SNR, thresholds, seed); the default comes from Figure 5's computations."""
    found: Jobs = {}
    for snr in plan.table_snrs:
        for seed in plan.seeds[: plan.method_seeds]:
            found[snr, "default", seed] = AllMethods(plan.scenario(snr, seed), plan.settings)
        for seed in plan.seeds[: plan.method_seeds]:
            found[snr, "logged", seed] = Training(plan.scenario(snr, seed), logged_rewriting(plan))
    return found


def true_experiment(plan: Plan) -> Jobs:
    """Table of the "true experiment", by (method of the truth, SNR, seed)."""
    return {
        (truth, snr, seed): InVivo(plan.data, run, truth, float(snr), seed, "12x1", plan.settings)
        for truth in plan.truths
        for snr in plan.true_snrs
        for run, seed in zip(plan.true_runs, plan.seeds, strict=False)
    }


def absolute(value: float) -> Threshold:
    return Threshold(value, "absolute")


ITEMS: dict[str, Callable[[Plan], Jobs]] = {
    "figure-1": quality,
    "figure-2": quality,
    "figure-3": iterations,
    "figure-4": losses,
    "figure-5": methods,
    "figure-6": maps,
    "table-lambda": stopping,
    "table-thresholds": thresholds,
    "table-batch": batches,
    "table-limit": limits,
    "table-snr": over_snr,
    "table-true": true_experiment,
}
"""Every figure and table."""


def found_for(item: str, plan: Plan, results: Results) -> dict[Any, dict[str, Any]]:
    """Results of one figure or table, by what tells them apart."""
    return {key: results[job] for key, job in ITEMS[item](plan).items()}
