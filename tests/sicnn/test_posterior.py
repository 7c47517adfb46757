"""The refinement: between the network's maps and the voxel's own signals, and how sure it is of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sicnn_app.errors import UsageError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.series import Evidence
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.methods import METHODS
from sicnn_app.phantoms.acquire import DEFAULT_BVALS, acquire_series
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import Bounds, EstimationSettings, PreprocessingSettings, preset_settings
from sicnn_app.sicnn import posterior as module
from sicnn_app.sicnn import surroundings
from sicnn_app.sicnn.posterior import Posterior, refine
from sicnn_app.sicnn.refinement import refined

BVALS = np.array(DEFAULT_BVALS["abdomen"], dtype=np.float64)
LABELS = ("f", "d", "dstar")
SHAPE = (40, 40, 2)
MASK = np.ones(SHAPE, dtype=bool)
MASK[:5, :9] = False
COUNT = int(MASK.sum())
LEVEL = 400.0


def tissue(rng: np.random.Generator, departure: float = 1.0) -> dict[str, np.ndarray]:
    """Tissue of one kind whose values vary from voxel to voxel, shape (V,)."""
    return {
        "f": 0.2 + 0.04 * departure * rng.standard_normal(COUNT),
        "d": 0.0012 * np.exp(0.12 * departure * rng.standard_normal(COUNT)),
        "dstar": 0.03 * np.exp(0.3 * departure * rng.standard_normal(COUNT)),
        "s0": LEVEL * np.exp(0.1 * rng.standard_normal(COUNT)),
    }


def flat(s0: np.ndarray) -> dict[str, np.ndarray]:
    """What a network makes of it that averages everything but S0."""
    return {"f": np.full(COUNT, 0.2), "d": np.full(COUNT, 0.0012), "dstar": np.full(COUNT, 0.03), "s0": s0}


def signals_of(maps: dict[str, np.ndarray], sigma: float, rng: np.random.Generator) -> np.ndarray:
    clean = ivim_signal_maps(BVALS, *(maps[label] for label in (*LABELS, "s0")))
    return clean + sigma * rng.standard_normal(clean.shape)


def refinement(
    signals: np.ndarray, sigma: float, prior: dict[str, np.ndarray], *, neighbours: float = 1000, **others
) -> Posterior:
    return refine(
        signals,
        np.full(signals.shape, sigma),
        BVALS,
        prior,
        MASK,
        neighbours=np.full(len(signals), neighbours),
        normaliser=signals[:, 0],
        bounds=Bounds(),
        **others,
    )


def error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], label: str) -> float:
    return float(np.sqrt(np.mean((found[label] - truth[label]) ** 2)))


def test_a_prior_that_is_right_is_kept():
    rng = np.random.default_rng(0)
    truth = tissue(rng, departure=0.0)
    sigma = LEVEL / 20
    signals = signals_of(truth, sigma, rng)
    found = refinement(signals, sigma, flat(truth["s0"]))
    assert error(found.maps, truth, "f") < 0.01
    assert error(found.maps, truth, "d") < 0.05 * 0.0012
    assert (found.departure < np.array(module.DEPARTURE[:3])).all()


def test_with_little_noise_the_voxels_own_signals_decide():
    rng = np.random.default_rng(1)
    truth = tissue(rng)
    found = refinement(signals_of(truth, LEVEL / 2000, rng), LEVEL / 2000, flat(truth["s0"]))
    prior = flat(truth["s0"])
    for label in LABELS:
        assert error(found.maps, truth, label) < 0.2 * error(prior, truth, label), label


@pytest.mark.parametrize("snr", [10, 20, 50])
def test_maps_are_hardly_ever_worse_than_the_prior_and_the_deviations_hold(snr):
    rng = np.random.default_rng(snr)
    truth = tissue(rng)
    found = refinement(signals_of(truth, LEVEL / snr, rng), LEVEL / snr, flat(truth["s0"]))
    for label in LABELS:
        # D* is hardly measured at an SNR of 10, and begins with a departure larger than it has.
        assert error(found.maps, truth, label) < 1.05 * error(flat(truth["s0"]), truth, label), label
        quotients = np.abs(found.maps[label] - truth[label]) / found.std[label]
        assert 0.58 < (quotients < 1).mean() < 0.86, label
        assert (quotients < 2).mean() > 0.89, label


def test_noise_that_prior_and_signals_share_widens_the_deviations():
    rng = np.random.default_rng(2)
    truth = tissue(rng)
    signals = signals_of(truth, LEVEL / 20, rng)
    found = [refinement(signals, LEVEL / 20, truth, neighbours=n) for n in (1, 5, 30, 300)]
    for label in LABELS:
        medians = [float(np.median(one.std[label])) for one in found]
        assert medians == sorted(medians, reverse=True) and medians[0] > 1.2 * medians[-1], label
        np.testing.assert_array_equal(found[0].maps[label], found[-1].maps[label])


def test_noise_that_neighbours_share_widens_the_deviations():
    rng = np.random.default_rng(3)
    truth = tissue(rng)
    clean = signals_of(truth, 0.0, rng)
    thermal, other = rng.standard_normal((2, *clean.shape))
    smooth = gaussian_filter(rng.standard_normal((*SHAPE, BVALS.size)), (8, 8, 0, 0))[MASK]
    sigma = LEVEL / 20
    alone, shared = (
        refinement(clean + sigma * (0.6 * thermal + 0.8 * more), sigma, truth)
        for more in (other, smooth / smooth.std())
    )
    for label in LABELS:
        assert np.median(shared.std[label]) > 1.2 * np.median(alone.std[label]), label


def test_one_wrong_region_does_not_loosen_the_others():
    rng = np.random.default_rng(3)
    truth = tissue(rng, departure=0.0)
    place = np.argwhere(MASK)
    lesion = ((place[:, :2] - (30, 30)) ** 2).sum(axis=1) < 25
    truth["d"] = np.where(lesion, 0.0022, truth["d"])
    found = refinement(signals_of(truth, LEVEL / 30, rng), LEVEL / 30, flat(truth["s0"]))
    far = ((place[:, :2] - (30, 30)) ** 2).sum(axis=1) > 225
    assert np.abs(found.maps["d"] - truth["d"])[lesion].mean() < 0.35 * 0.001
    assert np.abs(found.maps["d"] - truth["d"])[far].mean() < 0.05 * 0.0012
    assert np.median(found.std["d"][lesion]) > 2 * np.median(found.std["d"][far])


def test_parts_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    truth = tissue(rng)
    signals = signals_of(truth, LEVEL / 20, rng)
    whole = refinement(signals, LEVEL / 20, flat(truth["s0"]))
    monkeypatch.setattr(module, "VOXELS_AT_ONCE", 700)
    parts = refinement(signals, LEVEL / 20, flat(truth["s0"]))
    for label in LABELS:
        np.testing.assert_allclose(parts.maps[label], whole.maps[label], rtol=1e-9)
        np.testing.assert_allclose(parts.std[label], whole.std[label], rtol=1e-9)


def test_the_noise_floor_is_reckoned_with():
    rng = np.random.default_rng(5)
    truth = tissue(rng, departure=0.0)
    sigma = LEVEL / 6
    clean = signals_of(truth, 0.0, rng)
    noise = sigma * rng.standard_normal((2, *clean.shape))
    magnitudes = np.hypot(clean + noise[0], noise[1])
    prior = flat(truth["s0"])
    plain = refinement(magnitudes, sigma, prior)
    lifted = refinement(magnitudes, sigma, prior, floor=sigma)
    bias = [abs(float((one.maps["d"] - truth["d"]).mean())) for one in (plain, lifted)]
    assert bias[1] < bias[0]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(4, 8),
    st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
    st.sampled_from([1e-4, 1.0, 1e7]),
    st.integers(0, 2**31),
)
def test_whatever_comes_in_maps_stay_within_bounds_and_deviations_are_finite(
    voxels, n_bvals, sigma, level, seed
):
    rng = np.random.default_rng(seed)
    bounds = Bounds()
    prior = {label: rng.choice([*getattr(bounds, label)], voxels) for label in LABELS}
    prior["s0"] = level * rng.uniform(0.5, 2.0, voxels)
    signals = level * rng.normal(0.5, 1.0, (voxels, n_bvals))
    signals[:, 0] = level
    with np.errstate(all="raise", under="ignore"):
        found = refine(
            signals,
            np.full(signals.shape, sigma * level),
            np.linspace(0, 800, n_bvals),
            prior,
            np.ones((voxels, 1, 1), dtype=bool),
            neighbours=rng.integers(0, 50, voxels),
            normaliser=signals[:, 0],
            bounds=bounds,
        )
    for label in LABELS:
        low, high = getattr(bounds, label)
        assert (found.maps[label] >= low).all() and (found.maps[label] <= high).all(), label
        assert np.isfinite(found.std[label]).all() and (found.std[label] >= 0).all(), label
    assert np.isfinite(found.maps["s0"]).all() and (found.maps["s0"] > 0).all()


def test_an_estimate_says_how_it_was_refined():
    rng = np.random.default_rng(6)
    truth, prior = tissue(rng), flat(np.full(COUNT, LEVEL))

    def volume(values: np.ndarray, outside: float = np.nan) -> np.ndarray:
        made = np.full((*SHAPE, *values.shape[1:]), outside, dtype=np.float32)
        made[MASK] = values
        return made

    signals = volume(signals_of(truth, LEVEL / 20, rng), 0.0)
    maps = {label: volume(values) for label, values in prior.items()}
    before = Estimate(
        {**maps, "rmse": volume(np.ones(COUNT))},
        np.zeros_like(signals),
        [],
        {"ensemble": 1},
        "a network",
        neighbour_count=volume(np.full(COUNT, 20), 0).astype(np.int32),
    )
    evidence = Evidence(signals, np.full(BVALS.size, LEVEL / 20), "the same signals")
    after = refined(before, signals, MASK, BVALS, evidence, bounds=Bounds())
    assert set(after.maps) == {*before.maps, "f_std", "d_std", "dstar_std"}
    for label, values in after.maps.items():
        np.testing.assert_array_equal(np.isfinite(values), MASK, err_msg=label)
        assert values.dtype == np.float32
    predicted = ivim_signal_maps(BVALS, *(after.maps[label][MASK] for label in (*LABELS, "s0")))
    np.testing.assert_allclose(after.predicted[MASK], predicted, rtol=1e-5)
    residual = np.sqrt(((predicted - signals[MASK]) ** 2).mean(axis=1)) / after.maps["s0"][MASK]
    np.testing.assert_allclose(after.maps["rmse"][MASK], residual, rtol=1e-4)
    recorded = json.loads(json.dumps(after.parameters))
    assert recorded["refinement_evidence"] == "the same signals"
    assert set(recorded["refinement_departure_median"]) == {"f", "log_d", "log_dstar"}
    other = refined(before, signals, MASK, BVALS, replace(evidence, signals=1.1 * signals), bounds=Bounds())
    assert (other.maps["s0"][MASK] > 1.05 * after.maps["s0"][MASK]).mean() > 0.9


@pytest.mark.parametrize(("others", "denoised"), [({}, False), ({"unring": True}, True)])
def test_a_denoised_series_hands_on_what_was_measured(others, denoised):
    phantom = make_phantom("abdomen", (24, 22, 2), seed=3)
    series = acquire_series(phantom, np.repeat(BVALS, 2), snr=20, seed=4).series

    def prepared(**changed):
        chosen = PreprocessingSettings(motion_correction="none", average="arithmetic", **changed)
        return prepare(series, anatomy="body", external_mask=phantom.mask, settings=chosen)

    plain, clean = prepared(denoise="none"), prepared(denoise="mppca", **others)
    assert plain.evidence is None and clean.evidence is not None
    mask = clean.averaged.mask & plain.averaged.mask
    expected = clean if denoised else plain
    np.testing.assert_array_equal(clean.evidence.signals[mask], expected.averaged.signals[mask])
    np.testing.assert_allclose(clean.evidence.noise[mask], plain.averaged.noise[mask], rtol=0.1)
    assert np.median(clean.evidence.noise[mask] / clean.averaged.noise[mask]) > 1.3
    assert ("after denoising" in clean.evidence.source) == denoised


def test_what_refines_and_what_does_not():
    for method, row in METHODS.items():
        resolved = EstimationSettings(method=method).resolved_refinement
        assert resolved == ("posterior" if row.searches_neighbours else "none"), method
        if not row.searches_neighbours:
            with pytest.raises(UsageError, match=f"contradicts --method {method}"):
                EstimationSettings(method=method, refinement="posterior")
    for preset in ("supplement", "supplement-table"):
        assert EstimationSettings(**preset_settings(preset)).resolved_refinement == "none"
    assert EstimationSettings(ensemble=3, refinement="none").gives_spread
    assert not EstimationSettings(refinement="none").gives_spread


def test_large_images_find_departures_in_a_part_of_their_voxels(monkeypatch):
    rng = np.random.default_rng(3)
    truth = tissue(rng)
    signals = signals_of(truth, LEVEL / 30, rng)
    everywhere = refinement(signals, LEVEL / 30, flat(truth["s0"]))
    monkeypatch.setattr(surroundings, "SAMPLED_FROM", 1)
    sampled = refinement(signals, LEVEL / 30, flat(truth["s0"]))
    for label in LABELS:
        assert np.isfinite(sampled.maps[label]).all()
        assert error(sampled.maps, truth, label) < 1.06 * error(everywhere.maps, truth, label)
        assert np.median(sampled.std[label] / everywhere.std[label]) == pytest.approx(1.0, abs=0.15)


def refined_in(mask: np.ndarray, seed: int) -> Posterior:
    """Posterior of tissue around a prior without contrast, in the voxels of a mask."""
    rng = np.random.default_rng(seed)
    truth = {label: values[: mask.sum()] for label, values in tissue(rng).items()}
    signals = signals_of(truth, LEVEL / 20, rng)
    return refine(
        signals,
        np.full(signals.shape, LEVEL / 20),
        BVALS,
        {label: values[: mask.sum()] for label, values in flat(truth["s0"]).items()},
        mask,
        neighbours=np.full(mask.sum(), 50.0),
        normaliser=signals[:, 0],
        bounds=Bounds(),
    )


def test_voxels_of_a_large_image_that_no_sample_is_near_are_refined_like_others(monkeypatch):
    monkeypatch.setattr(surroundings, "SAMPLED_FROM", 1)
    mask = np.zeros((60, 40, 3), dtype=bool)
    mask[:20, :20, 0] = mask[45, 39, 0] = mask[1, 1, 2] = True
    found = refined_in(mask, 5)
    for label in LABELS:
        assert np.isfinite(found.maps[label]).all()
        assert (found.std[label] > 0).all()


def test_a_large_mask_that_has_no_voxel_of_the_sample_is_refined_by_all_of_its_voxels(monkeypatch):
    mask = np.zeros((3, 60, 40), dtype=bool)
    mask[1] = True
    everywhere = refined_in(mask, 6)
    monkeypatch.setattr(surroundings, "SAMPLED_FROM", 1)
    sampled = refined_in(mask, 6)
    for label in LABELS:
        np.testing.assert_array_equal(sampled.maps[label], everywhere.maps[label])
