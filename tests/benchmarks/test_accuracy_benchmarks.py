"""What the accuracy benchmarks compute from maps and errors, on cases whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from benchmarks.accuracy import controls, floor
from benchmarks.accuracy.averages import fitted
from benchmarks.accuracy.deformable import aligned, breathing_series
from benchmarks.accuracy.refinement import Found, crps, organ_medians, prepared_of, spread_of_organs
from benchmarks.accuracy.repeatability import variation
from benchmarks.common.arms import Arm
from benchmarks.common.cells import Cells
from benchmarks.common.metrics import boundary_band, map_errors, voxels_of
from benchmarks.common.scenarios import HELD_OUT_SEEDS, SCHEMES, TUNING_SEEDS, Scenario, measure
from sicnn_app.ivim.series import DwiSeries, Evidence
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.settings import EstimationSettings, Threshold

SMALL = Scenario(20.0, 0, shape=(24, 20, 1))


def test_a_scenario_gives_the_same_measurement_and_its_repeats_less_noise():
    first, again = measure(SMALL), measure(SMALL)
    assert np.array_equal(first.signals, again.signals)
    repeated = measure(replace(SMALL, scheme="10x3"))
    assert repeated.bvals.size == len(SCHEMES["10x3"][0])
    assert repeated.sigma_per_bval == pytest.approx(repeated.sigma / np.sqrt(3))


def test_no_seed_is_both_tuned_on_and_held_out():
    assert not set(TUNING_SEEDS) & set(HELD_OUT_SEEDS)


def test_the_truth_has_no_error_and_a_shifted_map_its_shift():
    measured = measure(SMALL)
    phantom = measured.phantom
    truth = {label: getattr(phantom, label) for label in ("f", "d", "dstar")}
    none = map_errors(phantom, measured.mask, truth)
    assert all(none[name] == 0 for name in none if name != "spearman")
    shifted = map_errors(phantom, measured.mask, {**truth, "f": truth["f"] + 0.1})
    assert shifted["rmse_f"] == pytest.approx(0.1) and shifted["bias_f"] == pytest.approx(0.1)
    assert shifted["sd_f"] == pytest.approx(0.0, abs=1e-9) and shifted["edge_f"] == pytest.approx(0.1)


def test_errors_are_taken_where_a_parameter_has_a_meaning():
    phantom = measure(SMALL).phantom
    where = voxels_of(phantom, phantom.mask)
    vessels = phantom.labels == next(one.code for one in phantom.tissues if one.name == "vessel")
    assert not (where["d"] & vessels).any() and (where["f"] & vessels).any()
    assert phantom.f[where["dstar"]].min() > 0.02


def test_the_boundary_band_is_where_tissues_meet():
    phantom = measure(SMALL).phantom
    band = boundary_band(phantom, phantom.mask)
    labels = np.pad(phantom.labels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    for x, y, z in zip(*np.nonzero(phantom.mask), strict=True):
        around = labels[x : x + 3, y : y + 3, z]
        assert band[x, y, z] == (around != phantom.labels[x, y, z]).any()


@given(st.floats(-3.0, 3.0), st.floats(0.1, 10.0))
def test_the_ranked_probability_score_is_the_distance_to_draws_less_half_of_that_between_them(error, spread):
    draws = norm.ppf((np.arange(400) + 0.5) / 400) * spread
    between = np.abs(draws[:, None] - draws).mean()
    assert crps(np.array(error), np.array(spread)) == pytest.approx(
        np.abs(draws - error).mean() - between / 2, abs=0.01 * spread
    )


@given(st.integers(0, 100), st.floats(0.1, 10.0))
def test_the_coefficient_of_variation_knows_no_unit(seed, scale):
    maps = np.random.default_rng(seed).uniform(1.0, 2.0, (5, 40))
    assert variation(scale * maps) == pytest.approx(variation(maps))
    assert variation(np.repeat(maps[:1], 5, axis=0)) == pytest.approx(0.0, abs=1e-12)


def test_an_arm_is_computed_once_and_survives_a_cut_line(tmp_path):
    path = tmp_path / "cells.jsonl"
    arm = Arm(SMALL, EstimationSettings(method="lsq"))
    found = Cells(path).get(arm.spec(), arm.compute)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('\n{"spec": {"cut')

    def never() -> dict:
        raise AssertionError("computed twice")

    assert Cells(path).get(arm.spec(), never) == json.loads(json.dumps(found))


@pytest.mark.parametrize("arm", ["flow", "cc"])
def test_deformable_registration_takes_back_motion_and_leaves_noise_alone(arm):
    noisy = {"snr": 20.0, "seed": 3, "volumes": 1, "shape": (64, 56, 1)}
    (still, _), (moving, _) = (breathing_series(most, **noisy) for most in (0.0, 4.0))
    wanted, moved = (series.signals[:, :, 0].astype(np.float64) for series in (still, moving))
    before, after, cost = (
        np.sqrt(np.mean(np.square(images - wanted)))
        for images in (moved, aligned(moved, still.bvals, arm), aligned(wanted, still.bvals, arm))
    )
    assert after < 0.8 * before and cost < 0.1 * before


def test_means_of_similar_voxels_without_a_network_are_nearer_to_the_truth_than_single_ones():
    scenario = measure(SMALL)
    phantom, mask = scenario.phantom, scenario.mask
    series = DwiSeries(scenario.signals, scenario.bvals, None, np.eye(4))
    given = prepared_of(series, mask, "none", anatomy="body", average="arithmetic").averaged
    found = Found(given, given, Evidence(given.signals, given.noise, ""), {"MP-PCA + lsq": fitted(given)})
    averaged = controls.averaged_without_network(found, Threshold.parse("2sigma"))
    before, after = (
        np.array(controls.errors(phantom, found.mask, one.maps))
        for one in (found.maps["MP-PCA + lsq"], averaged)
    )
    assert (after < 0.9 * before).all()
    assert averaged.neighbour_count is not None and averaged.neighbour_count[found.mask].mean() > 5
    alone = controls.averaged_without_network(found, Threshold.parse("0sigma"))
    assert (alone.neighbour_count[found.mask] == 1).all()


def test_means_of_true_similar_voxels_are_of_one_tissue():
    phantom = make_phantom("abdomen", (24, 20, 1), texture=0.0)
    bvals = measure(SMALL).bvals
    signals = phantom.signals(bvals).astype(np.float32)
    noisy = np.random.default_rng(0).normal(signals, 20.0).astype(np.float32)
    series = DwiSeries(noisy, bvals, None, np.eye(4))
    given = prepared_of(series, phantom.mask, "none", anatomy="body", average="arithmetic").averaged
    means, count = floor.true_similar_means(phantom, given, signals, Threshold.parse("1000sigma"), 24)
    np.testing.assert_allclose(means.signals[given.mask], signals[given.mask], rtol=1e-3)
    sizes = np.bincount(phantom.labels[given.mask])[phantom.labels[given.mask]]
    assert np.array_equal(count[given.mask], sizes)
    alone, count = floor.true_similar_means(phantom, given, noisy, Threshold.parse("0sigma"), 24)
    np.testing.assert_allclose(alone.signals[given.mask], noisy[given.mask], rtol=1e-3, atol=1e-2)
    assert (count[given.mask] == 1).all()


@pytest.mark.parametrize("kept", [0.5, 1.0, 1.5])
def test_organs_that_a_method_draws_together_have_a_smaller_spread(kept):
    labels = np.repeat([1, 2, 3, 4, 0], 8)
    maps = {label: np.random.default_rng(5).uniform(1.0, 2.0, 5)[labels] for label in ("f", "d", "dstar")}
    drawn = {**maps, "d": 1.5 + kept * (maps["d"] - 1.5)}
    reference, found = (organ_medians([one, one], labels) for one in (maps, drawn))
    assert reference.shape == (3, 4)
    assert spread_of_organs([found, found], [reference, reference]) == f"1.00 / {kept:.2f} / 1.00"


def test_the_row_of_controls_takes_the_best_other_method_of_each_parameter():
    found = {
        "lsq": [0.1, 1e-4, 0.01, 0.5],
        "MP-PCA + lsq": [0.05, 2e-4, 0.02, 0.4],
        "cnn": [0.02, 2e-4, 0.01, 0.6],
        "a peer": [0.04, 1e-4, 0.005],
        "a peer that failed": [np.nan] * 3,
        "si-cnn": [0.01, 5e-5, 0.01, 0.3],
    }
    assert controls.row(found) == [
        "0.1 / 1 / 10",
        "0.05 / 2 / 20",
        "0.40 / 2.00 / 1.00",
        "0.80 / 1.00 / 0.50",
        "nan / nan / nan",
        "0.20 / 0.50 / 1.00",
        "0.50 / 0.50 / 2.00",
        "0.40 / 0.30",
    ]
