"""The benchmark of speed: its clocks, what it keeps, and what its tables say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.common import clocks
from benchmarks.common.cells import Cells
from benchmarks.common.clocks import MEASURES, Stages, peak_of
from benchmarks.common.scenarios import Scenario, measure
from benchmarks.peers.fits import Fit
from benchmarks.speed import stage_cells as speed_cells
from benchmarks.speed import stages as speed
from benchmarks.speed.stage_cells import (
    Cell,
    Competitor,
    FailedRun,
    compare_residuals,
    run_app,
    run_competitor,
)
from benchmarks.speed.stage_tables import page, records
from benchmarks.speed.stage_targets import verdicts
from benchmarks.speed.stage_worker import ESTIMATORS, IMPORTED, WATCHED
from sicnn_app.ivim.signal import ivim_signal_maps


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when it is told to; processor time at twice its pace."""
    now = SimpleNamespace(seconds=0.0)
    ticking = SimpleNamespace(perf_counter=lambda: now.seconds, process_time=lambda: 2 * now.seconds)
    monkeypatch.setattr(clocks, "time", ticking)
    return now


def test_a_stage_inside_another_stops_the_outer_clock(clock):
    stages = Stages()
    clock.seconds += 1
    with stages.stage("outer"):
        clock.seconds += 2
        for _ in range(2):
            with stages.stage("inner"):
                clock.seconds += 4
        clock.seconds += 8
    found = stages.finish()
    assert {name: row["wall"] for name, row in found.items()} == {"rest": 1, "outer": 10, "inner": 8}
    assert all(row["cpu"] == 2 * row["wall"] for row in found.values())


def test_a_stage_ends_with_an_error_in_it(clock):
    stages = Stages()

    def fail() -> None:
        clock.seconds += 3
        raise OSError

    module = SimpleNamespace(work=fail)
    stages.watch(module, "work", "failing")
    with pytest.raises(OSError):
        module.work()
    clock.seconds += 5
    assert stages.finish()["failing"]["wall"] == 3 and stages.finish()["rest"]["wall"] == 5


def test_the_peak_is_what_a_call_takes_besides_what_was_held():
    held = np.ones(5_000_000)
    host, device = peak_of(lambda: np.ones(10_000_000).sum())
    assert host == pytest.approx(0.08, abs=0.03) and device == 0 and held.size


def test_every_function_with_a_clock_is_still_there():
    for name in IMPORTED:
        importlib.import_module(name)
    for _, module, function in (*WATCHED, *(("", module, "estimate") for module in ESTIMATORS)):
        assert callable(getattr(importlib.import_module(module), function)), (module, function)


@pytest.fixture
def voxels():
    rng = np.random.default_rng(0)
    maps = {"f": rng.uniform(0.1, 0.3, 40), "d": np.full(40, 0.001), "dstar": np.full(40, 0.03)}
    bvals = np.array([0, 10, 30, 60, 100, 200, 400, 600, 800.0])
    signals = 200 * ivim_signal_maps(bvals, **maps) + rng.normal(0, 4, (40, bvals.size))
    return signals.astype(np.float32), bvals, maps


def test_the_fit_of_the_app_has_no_larger_residual_than_the_truth(voxels):
    signals, bvals, maps = voxels
    found = compare_residuals(signals, bvals, maps, np.arange(40) < 10)
    assert found == {"inside": 0.75, "as_good": 1.0, "as_good_everywhere": 1.0}


def test_a_fit_of_the_app_that_got_worse_is_found_out(voxels, monkeypatch):
    signals, bvals, maps = voxels
    fit = speed_cells.estimate_lsq

    def worse(*args):
        found = fit(*args)
        found.maps["d"][:20] *= 1.5
        return found

    monkeypatch.setattr(speed_cells, "estimate_lsq", worse)
    best = fit(signals[:, None, None], np.ones((40, 1, 1), bool), bvals).maps
    theirs = {label: best[label][:, 0, 0] for label in maps}
    found = compare_residuals(signals, bvals, theirs, np.zeros(40, dtype=bool))
    assert found["as_good"] == pytest.approx(0.5, abs=0.05)


def test_competitors_get_the_same_denoised_signals_and_pay_for_them(monkeypatch):
    scenario = Scenario(20.0, 3, shape=(24, 20, 3))
    measured = measure(scenario)
    given = []

    def fit_peer(python, name, signals, voxels, seed, **others):
        given.append(signals.signals[measured.mask] - measured.clean[measured.mask])
        maps = {label: getattr(measured.phantom, label) for label in ("f", "d", "dstar")}
        return Fit(maps, seconds=1.0, training=0.0, memory=0.0, voxels=int(voxels.sum()), epochs=0)

    monkeypatch.setattr(speed_cells, "fit_peer", fit_peer)
    monkeypatch.setattr(speed_cells, "timed", lambda work: (work(), 8.0))
    raw, denoised = (
        run_competitor(scenario, Path("python"), Competitor("lsq", 200, denoised=denoised))
        for denoised in (False, True)
    )
    assert raw["cpu"] == 1.0 and denoised["cpu"] == 1.0 + 8.0 * denoised["voxels"] / denoised["mask"]
    assert np.std(given[1]) < 0.7 * np.std(given[0])


def row(wall: float) -> dict[str, float]:
    return dict(zip(MEASURES, (wall, 1.5 * wall, 1.0, 0.5), strict=True))


def own(estimation: float, error: float = 0.02) -> dict:
    return {
        "stages": {"import": row(2.0), "estimation": row(estimation), "neighbour search": row(1.0)},
        "errors": dict.fromkeys(("rmse_f", "rmse_d", "rmse_dstar"), error),
        "iteration_seconds": [1.0, 3.0],
        "epochs": [10, 20],
        "voxels": 1000,
    }


def fit(voxels: int) -> dict:
    return {
        "cpu": 0.005 * voxels,
        "voxels": voxels,
        "mask": 100_000,
        "errors": dict.fromkeys(("rmse_f", "rmse_d", "rmse_dstar"), 0.04),
        "residuals": {"inside": 0.4, "as_good": 0.998, "as_good_everywhere": 0.9},
    }


FOUND = {
    Cell("", "help"): {"stages": {"import": row(0.5)}},
    Cell("medium", "app"): own(97.0),
    Cell("medium", "lsq"): own(0.04, error=0.08),
    Cell("medium", "ensemble", 1): own(3.0),
    Cell("medium", "ensemble", 10): own(15.0),
    Cell("medium", "dipy-trr"): fit(2000),
    Cell("medium", "ivimnet"): fit(100_000),
}


def verdict_of(found: dict, device: str, begin: str) -> tuple[str, str]:
    return next((number, verdict) for text, number, _, verdict in verdicts(found, device) if begin in text)


def test_targets_are_ratios_to_their_limits():
    # 100 s of 300; 500 s of dipy for the whole mask; processor time is 1.5 times as much.
    assert verdict_of(FOUND, "cpu", "5 minutes") == ("0.333", "met")
    assert verdict_of(FOUND, "cpu", "wall-clock time to dipy") == ("0.2", "met")
    assert verdict_of(FOUND, "cpu", "processor time to dipy") == ("0.3", "met")
    assert verdict_of(FOUND, "cpu", "errors of F") == ("0.5", "met")
    # 1000 voxels in 1.04 s against 5 ms each.
    assert verdict_of(FOUND, "cpu", "voxels per second") == ("4.81", "MISSED")
    assert verdict_of(FOUND, "cpu", "residual") == ("0.998", "met")
    assert verdict_of(FOUND, "cpu", "--help") == ("0.5", "met")
    assert verdict_of(FOUND, "cpu", "of 20 s") == ("", "missing: needs --device cuda")


def test_targets_of_a_gpu_are_judged_there_only():
    assert verdict_of(FOUND, "cuda:0", "of 20 s") == ("5", "MISSED")
    assert verdict_of(FOUND, "cuda:0", "of 5 s") == ("0.8", "met")
    assert verdict_of(FOUND, "cuda:0", "ensemble of 10") == ("4", "MISSED")
    assert verdict_of(FOUND, "cuda:0", "5 minutes") == ("", "missing: needs --device cpu")


def test_what_was_not_measured_is_missing():
    assert {verdict for *_, verdict in verdicts({}, "cpu")} == {"missing", "missing: needs --device cuda"}


def test_the_page_has_no_seconds_of_a_cpu_and_labels_what_is_extrapolated():
    text = page(FOUND, "cpu", "a test", ["dipy-varpro: left out"])
    assert "seconds |" not in text and "- dipy-varpro: left out" in text
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "5 (extrapolated)" not in lines["| ivimnet"] and "(extrapolated)" in lines["| dipy-trr"]
    assert "| 1 | 20 | 75.0 |" in text, "share of the second data iteration"
    assert "Not measured." in text
    assert "| stage | seconds |" in page(FOUND, "cuda:0", "a test", [])


def test_every_stage_and_fit_is_a_record():
    lines = records(FOUND).splitlines()
    assert len(lines) == 1 + 1 + 4 * (3 + 2) + 2
    assert len({line.count(",") for line in lines}) == 1


def test_repeats_count_by_their_median():
    runs = {Cell("medium", "app", repeat=index): own(wall) for index, wall in enumerate((27.0, 147.0, 57.0))}
    assert verdict_of(runs, "cpu", "5 minutes") == ("0.2", "met")


def test_what_is_done_is_kept_and_what_failed_is_told(tmp_path, monkeypatch):
    surroundings = speed.Surroundings("cpu", 20.0, 0)
    computed = []

    def compute(_, cell: Cell) -> dict:
        computed.append(cell.arm)
        if cell.arm == "app":
            raise FailedRun("no space")
        return own(1.0)

    monkeypatch.setattr(speed.Surroundings, "compute", compute)
    cells = Cells(tmp_path / "cells.jsonl")
    wanted = [Cell("small", "app"), Cell("small", "lsq")]
    for _ in range(2):
        failures = speed.collect(wanted, surroundings, cells, lambda text: None)
        assert failures == ["app, small, repeat 0: no space"]
    assert computed == ["app", "lsq", "app"]
    assert list(speed.gathered(surroundings, cells, [1])) == [Cell("small", "lsq")]
    monkeypatch.setattr(speed, "_digest", lambda: "other code")
    assert not speed.gathered(surroundings, cells, [1])


@pytest.mark.slow
def test_stages_of_the_app_add_up_and_its_maps_are_scored():
    found = run_app(Scenario(20.0, 0, shape=(24, 20, 2)), "cpu", ("--max-iterations", "1"))
    assert {name for name, *_ in WATCHED} | {"import", "estimation", "rest"} == set(found["stages"])
    assert all(row["wall"] >= 0 and row["host"] > 0 for row in found["stages"].values())
    assert len(found["iteration_seconds"]) == len(found["epochs"]) == 2
    assert found["covered"] > 0.9 and 0 < found["errors"]["rmse_f"] < 0.2


@pytest.mark.slow
def test_a_run_that_fails_says_why():
    with pytest.raises(FailedRun, match="--snr"):
        run_app(Scenario(20.0, 0, shape=(24, 20, 2)), "cpu", ("--snr", "3"))
