"""The public door: masks, shapes, records, reproducibility, presets, devices."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.parameters import MAPS
from sicnn_app.ivim.series import Evidence
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.settings import Bounds, EstimationSettings, Threshold, preset_settings
from sicnn_app.sicnn import iterate
from sicnn_app.sicnn.estimate import estimate

BVALS = np.array([0, 20, 80, 200, 400, 700.0])
SIGMA = 25.0


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch):
    """These tests ask what is recorded and kept, not how well it is learnt."""
    monkeypatch.setattr(iterate, "FIRST_PERIOD_STEPS", 20)
    monkeypatch.setattr(iterate, "PERIOD_STEPS", 10)
    monkeypatch.setattr(iterate, "MAX_FIRST_PERIODS", 2)


def volume(shape: tuple[int, int, int], *, sigma: float = SIGMA, scale: float = 500.0) -> np.ndarray:
    """Noisy signals of one tissue, shape (X, Y, Z, B), float32, source units."""
    clean = scale * ivim_signal_maps(BVALS, np.full(shape, 0.2), np.full(shape, 0.0012), np.full(shape, 0.03))
    return np.abs(clean + np.random.default_rng(0).normal(0, sigma, clean.shape)).astype(np.float32)


def run(
    signals: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    sigma: float = SIGMA,
    device: str = "cpu",
    evidence: Evidence | None = None,
    **options,
) -> Estimate:
    mask = np.ones(signals.shape[:3], dtype=bool) if mask is None else mask
    chosen = EstimationSettings(**{"max_iterations": 1, **options})
    return estimate(
        signals,
        mask,
        BVALS,
        noise=np.full(BVALS.size, sigma),
        sigma=sigma,
        settings=chosen,
        device=device,
        evidence=evidence,
    )


def check_maps(result: Estimate, mask: np.ndarray, bounds: Bounds) -> None:
    labels = [spec.label for spec in MAPS if not spec.label.endswith("_std")]
    assert list(result.maps)[: len(labels)] == labels
    for label, values in result.maps.items():
        assert values.shape == mask.shape and values.dtype == np.float32
        assert np.isfinite(values[mask]).all() and np.isnan(values[~mask]).all(), label
    for label in ("f", "d", "dstar"):
        low, high = getattr(bounds, label)
        slack = 1e-6 * (high - low)
        inside = result.maps[label][mask]
        assert inside.min() >= low - slack and inside.max() <= high + slack, label
    assert np.isfinite(result.predicted).all() and (result.predicted[~mask] == 0).all()


@pytest.mark.parametrize("method", ["si-cnn", "di-cnn", "cnn"])
def test_every_method_fills_the_mask_and_describes_itself(method):
    signals = volume((9, 8, 3))
    mask = np.zeros((9, 8, 3), dtype=bool)
    mask[2:, 1:7, (0, 2)] = True
    result = run(signals, mask, method=method)
    check_maps(result, mask, Bounds())
    parameters = json.loads(json.dumps(result.parameters))
    assert parameters["method"] == method and parameters["random_seed"] == 0
    assert parameters["epochs"] == len(result.losses) == sum(row["epochs"] for row in result.history)
    assert parameters["data_iterations"] == len(result.history) - 1
    assert parameters["stop_reason"] in ("lambda", "max_iterations", "epochs")
    assert all(row.keys() == result.history[0].keys() for row in result.history)
    assert method.split("-")[0].upper() in result.algorithm or method == "cnn"
    if method == "si-cnn":
        assert result.neighbour_count.shape == mask.shape
        assert (result.neighbour_count[mask] >= 1).all() and (result.neighbour_count[~mask] == 0).all()
        assert parameters["update_rule"] == "observed-neighbours"
        assert math.isfinite(result.history[-1]["mean_neighbours"])
    else:
        assert result.neighbour_count is None and parameters["neighbour_threshold"] is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 1), (1, 5, 2), (70, 3, 1)])
def test_thin_and_small_images(shape):
    mask = np.ones(shape, dtype=bool)
    check_maps(run(volume(shape), max_iterations=1), mask, Bounds())


def test_one_voxel_in_a_corner_and_slices_without_any():
    mask = np.zeros((6, 5, 4), dtype=bool)
    mask[-1, -1, 2] = True
    check_maps(run(volume(mask.shape), mask), mask, Bounds())


def test_what_lies_outside_the_mask_changes_nothing():
    signals = volume((10, 9, 2))
    mask = np.zeros((10, 9, 2), dtype=bool)
    mask[2:8, 1:7] = True
    other = np.where(mask[..., None], signals, np.float32(1e6))
    one, two = run(signals, mask), run(other, mask)
    np.testing.assert_array_equal(one.maps["d"], two.maps["d"])


def test_the_unit_of_the_image_changes_only_s0():
    signals = volume((8, 7, 1))
    small, large = run(signals), run(signals * 1024, sigma=SIGMA * 1024)
    for label in ("f", "d", "dstar", "rmse"):
        np.testing.assert_array_equal(small.maps[label], large.maps[label])
    np.testing.assert_allclose(1024 * small.maps["s0"], large.maps["s0"], rtol=1e-6)


def test_bounds_are_kept():
    bounds = Bounds(f=(0.3, 0.6), d=(0.0002, 0.0009), dstar=(0.01, 0.02))
    signals = volume((8, 7, 1))
    check_maps(run(signals, bounds=bounds), np.ones((8, 7, 1), dtype=bool), bounds)


def test_noise_free_signals_are_not_rewritten_by_anything_else():
    result = run(volume((8, 7, 1), sigma=0.0), sigma=0.0)
    check_maps(result, np.ones((8, 7, 1), dtype=bool), Bounds())
    assert (result.neighbour_count == 1).all()
    assert result.history[0]["training_signal_change"] == pytest.approx(0, abs=1e-6)


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    signals = volume((12, 11, 2))
    options = {"dropout": 0.05, "max_iterations": 1}
    one, again, other = (run(signals, random_seed=seed, **options) for seed in (3, 3, 4))
    for label in one.maps:
        np.testing.assert_array_equal(one.maps[label], again.maps[label])
    assert one.losses == again.losses
    assert (one.maps["f"] != other.maps["f"]).any()


def test_global_state_is_left_alone():
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(volume((6, 6, 1)), method="cnn", epochs=2, dropout=0.1)
    assert torch.equal(before, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_before).all()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_deterministic_algorithms_are_on_meanwhile():
    seen = []
    estimate(
        volume((6, 6, 1)),
        np.ones((6, 6, 1), dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, SIGMA),
        settings=EstimationSettings(method="cnn", epochs=10),
        progress=lambda text, done, total: seen.append(
            (done, total, torch.are_deterministic_algorithms_enabled())
        ),
    )
    assert seen == [(10, 10, True)]


def test_small_steps_use_one_thread_and_the_number_comes_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        estimate(
            volume((6, 6, 1)),
            np.ones((6, 6, 1), dtype=bool),
            BVALS,
            noise=np.full(BVALS.size, SIGMA),
            settings=EstimationSettings(method="cnn", epochs=10),
            progress=lambda *_: seen.append(torch.get_num_threads()),
        )
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_cnn_trains_exactly_as_long_as_asked():
    result = run(volume((8, 8, 1)), method="cnn", epochs=7)
    assert result.parameters["epochs"] == 7 == len(result.losses)
    assert result.parameters["stop_reason"] == "epochs"


@pytest.mark.parametrize("name", ["supplement", "supplement-table"])
def test_the_presets_of_the_supplement_run(name):
    values = {
        **preset_settings(name),
        "preset": name,
        "max_iterations": 2,
        "lambda_": Threshold(0.5, "absolute"),
    }
    result = run(volume((9, 8, 2)), **values)
    check_maps(result, np.ones((9, 8, 2), dtype=bool), Bounds())
    assert result.parameters["preset"] == name
    expected = {"supplement": ("0.03", "0.02"), "supplement-table": ("0.02", "0.03")}[name]
    assert (result.parameters["fitting_threshold"], result.parameters["neighbour_threshold"]) == expected


@given(left=st.floats(0.05, 1.0), in_shape=st.floats(0.05, 1.0))
@settings(max_examples=6, deadline=None)
def test_noise_that_denoising_left_in_the_shape_of_decays_raises_the_neighbour_threshold(left, in_shape):
    signals = volume((4, 4, 1))
    evidence = Evidence(signals, np.full(BVALS.size, SIGMA), "before", left, in_shape)

    def threshold(**options) -> str:
        found = run(signals, max_iterations=0, evidence=evidence, **options).parameters
        assert (found["noise_left_by_denoising"], found["noise_left_in_shape"]) == (left, in_shape)
        return found["neighbour_threshold"]

    assert Threshold.parse(threshold()).value == pytest.approx(1.5 * max(1, in_shape / left), abs=1e-3)
    assert threshold(neighbour_threshold=Threshold(0.7, "sigma")) == "0.7sigma"


def test_predicted_neighbours_the_rician_model_and_absolute_thresholds_run():
    result = run(
        volume((9, 8, 2)),
        update_rule="predicted-neighbours",
        rician=True,
        network_input="noisy",
        fitting_threshold=Threshold(0.03, "absolute"),
    )
    check_maps(result, np.ones((9, 8, 2), dtype=bool), Bounds())
    assert "predicted signal" in result.algorithm
    assert result.parameters["rician_model"] is True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    signals = volume((40, 36, 2))
    state = torch.cuda.get_rng_state()
    one, two = (run(signals, device=device, max_iterations=3) for device in ("cpu", "cuda"))
    assert torch.equal(state, torch.cuda.get_rng_state())
    for label, tolerance in (("f", 0.03), ("d", 1e-4)):
        assert np.sqrt(np.mean((one.maps[label] - two.maps[label]) ** 2)) < tolerance


def test_an_observer_sees_every_data_iteration_and_the_last_is_the_result():
    signals, seen = volume((9, 8, 2)), []
    mask = np.ones(signals.shape[:3], dtype=bool)
    mask[0, 0] = False
    chosen = EstimationSettings(max_iterations=2, lambda_=Threshold(0.0, "absolute"), refinement="none")
    options = {"noise": np.full(BVALS.size, SIGMA), "settings": chosen}
    result = estimate(signals, mask, BVALS, observe=seen.append, **options)
    assert [moment.data_iteration for moment in seen] == [0, 1, 2]
    assert [moment.epochs for moment in seen] == list(np.cumsum([row["epochs"] for row in result.history]))
    np.testing.assert_allclose(seen[0].training_signals[mask], signals[mask], rtol=1e-5)
    assert not np.allclose(seen[1].training_signals[mask], signals[mask], rtol=1e-2)
    for label in ("f", "d", "dstar", "s0"):
        np.testing.assert_array_equal(seen[-1].maps[label], result.maps[label])
    np.testing.assert_array_equal(seen[-1].predicted, result.predicted)
    unseen = estimate(signals, mask, BVALS, **options)
    np.testing.assert_array_equal(unseen.maps["f"], result.maps["f"])


def test_an_observer_sees_the_plain_network_at_the_first_and_every_tenth_epoch():
    signals, seen = volume((8, 8, 1)), []
    estimate(
        signals,
        np.ones(signals.shape[:3], dtype=bool),
        BVALS,
        noise=np.full(BVALS.size, SIGMA),
        settings=EstimationSettings(method="cnn", epochs=25),
        observe=seen.append,
    )
    assert [moment.epochs for moment in seen] == [1, 10, 20]


def test_held_out_voxels_have_a_loss_of_their_own_and_maps():
    signals = volume((16, 16, 1))
    result = run(signals, validation_share=0.25)
    assert len(result.validation_losses) == len(result.losses)
    assert all(math.isfinite(loss) for *_, loss in result.validation_losses)
    assert np.isfinite(result.maps["f"]).all()
    assert (result.neighbour_count == 0).any()
    assert run(signals).validation_losses == []


def test_with_rician_the_method_in_force_decides_how_the_floor_is_reckoned_with():
    signals = volume((8, 8, 1))
    expected = {"si-cnn": (False, True), "di-cnn": (True, False), "cnn": (True, False)}
    for method, (predicted, taken_off) in expected.items():
        epochs = {"epochs": 12} if method == "cnn" else {}
        found = run(signals, method=method, rician=True, **epochs).parameters
        assert (found["rician_model"], found["noise_floor_taken_off"]) == (predicted, taken_off)
    found = run(signals, rician=True, rician_way="model").parameters
    assert (found["rician_model"], found["noise_floor_taken_off"]) == (True, False)


def test_the_presets_compare_neighbours_as_the_logs_word_it():
    for preset in ("supplement", "supplement-table"):
        similarity = EstimationSettings(**preset_settings(preset)).similarity
        assert (similarity.distance, similarity.weighting) == ("root-mean-square", "equal")
        assert similarity.s0_ratio is None


@pytest.mark.parametrize(
    "wrong",
    [{"rician_way": "none"}, {"fitting_error_against": "truth"}, {"validation_share": 1.0}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        EstimationSettings(**wrong)


def test_the_data_iterations_end_at_a_limit_that_is_no_whole_number():
    assert len(run(volume((6, 6, 1)), max_iterations=0.5, lambda_=Threshold(0.0, "absolute")).history) == 2
