"""Flags: every reason, their order, and nothing outside the mask."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.flags import FLAGS, flag_voxels

BOUNDS = {"f": (0.0, 1.0), "d": (0.0, 0.005), "dstar": (0.005, 0.2), "s0": (0.5, 1.5)}
GOOD = {"f": 0.2, "d": 1e-3, "dstar": 0.05, "s0": 100.0, "rmse": 0.01}
CODES = {spec.name: spec.code for spec in FLAGS}


def flags_of(neighbours: float = 5, **changed: float) -> tuple[int, dict[str, int]]:
    maps = {name: np.full((1, 1, 2), value) for name, value in {**GOOD, **changed}.items()}
    mask = np.array([[[True, False]]])
    flags, counts = flag_voxels(
        maps, mask, BOUNDS, 5.0, np.full(8, 5.0), np.full((1, 1, 2), neighbours), np.full((1, 1, 2), 100.0)
    )
    assert flags[0, 0, 1] == 0
    return int(flags[0, 0, 0]), counts


def test_an_ordinary_voxel_carries_no_flag():
    assert flags_of() == (0, dict.fromkeys(CODES, 0))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"f": 1.0}, "parameter_at_bound"),
        ({"d": 0.0}, "parameter_at_bound"),
        ({"d": 0.005}, "parameter_at_bound"),
        ({"dstar": 0.005}, "parameter_at_bound"),
        ({"dstar": 0.2}, "parameter_at_bound"),
        ({"s0": 150.0}, "parameter_at_bound"),
        ({"s0": 50.0}, "parameter_at_bound"),
        ({"s0": 1000.0}, "parameter_at_bound"),
        ({"s0": 20.0}, "parameter_at_bound"),
        ({"rmse": 0.16}, "residual_above_noise"),
        ({"f": 0.0}, "dstar_undefined"),
        ({"neighbours": 1}, "no_similar_neighbour"),
    ],
)
def test_each_reason_alone(changed, name):
    code, counts = flags_of(**changed)
    assert code == CODES[name]
    assert counts == {**dict.fromkeys(CODES, 0), name: 1}


def test_the_first_reason_is_shown_and_all_are_counted():
    code, counts = flags_of(f=0.0, dstar=0.2, neighbours=1)
    assert code == CODES["parameter_at_bound"]
    assert counts["dstar_undefined"] == counts["no_similar_neighbour"] == counts["parameter_at_bound"] == 1


def test_a_signal_within_the_noise_is_outside_the_noise_model():
    maps = {name: np.full((1, 1, 1), value) for name, value in {**GOOD, "s0": 14.0}.items()}
    one = np.ones((1, 1, 1))
    flags, counts = flag_voxels(maps, one > 0, BOUNDS, 5.0, np.full(8, 5.0), None, 14.0 * one)
    assert flags.item() == CODES["outside_noise_model"]
    assert counts["no_similar_neighbour"] == 0


def test_saturation_is_the_first_reason():
    maps = {name: np.full((1, 1, 2), value) for name, value in {**GOOD, "f": 1.0}.items()}
    one = np.ones((1, 1, 2))
    cut = np.array([[[True, False]]])
    flags, counts = flag_voxels(maps, one > 0, BOUNDS, 5.0, np.full(8, 5.0), None, 100 * one, saturated=cut)
    assert flags[0, 0].tolist() == [CODES["saturated"], CODES["parameter_at_bound"]]
    assert (counts["saturated"], counts["parameter_at_bound"]) == (1, 2)


def test_most_members_of_an_ensemble_at_a_bound_are_a_reason_whatever_their_mean():
    maps = {name: np.full((1, 1, 2), value) for name, value in GOOD.items()}
    mask, one = np.ones((1, 1, 2), dtype=bool), np.full((1, 1, 2), 100.0)
    flags, counts = flag_voxels(
        maps, mask, BOUNDS, 5.0, np.full(8, 5.0), None, one, np.array([[[True, False]]])
    )
    assert flags.ravel().tolist() == [CODES["parameter_at_bound"], 0]
    assert counts["parameter_at_bound"] == 1
