"""Flags: every reason, their order, and nothing outside the mask."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.flags import FLAGS, doubts, flag_voxels, left_out
from sicnn_app.ivim.own_signals import Objections

BOUNDS = {"f": (0.0, 1.0), "d": (0.0, 0.005), "dstar": (0.005, 0.2), "s0": (0.5, 1.5)}
GOOD = {"f": 0.2, "d": 1e-3, "dstar": 0.05, "s0": 100.0}
CODES = {spec.name: spec.code for spec in FLAGS}


def flagged(maps, mask, normaliser, neighbours=None, against=None, **others):
    none = Objections(np.zeros(mask.shape, bool), np.zeros(mask.shape, bool))
    reasons = doubts(maps, mask, BOUNDS, 5.0, against or none, neighbours, normaliser, **others)
    assert set(reasons) == set(CODES)
    return flag_voxels(reasons)


def flags_of(neighbours: float = 5, **changed: float) -> tuple[int, dict[str, int]]:
    maps = {name: np.full((1, 1, 2), value) for name, value in {**GOOD, **changed}.items()}
    mask = np.array([[[True, False]]])
    flags, counts = flagged(maps, mask, np.full((1, 1, 2), 100.0), np.full((1, 1, 2), neighbours))
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
        ({"f_std": 0.21}, "imprecise"),
        ({"d_std": 6e-4}, "imprecise"),
        ({"dstar_std": 0.026}, "imprecise"),
        ({"f": 0.0}, "dstar_undefined"),
        ({"f": 0.01, "f_std": 0.02, "dstar_std": 0.1, "dstar": 0.2}, "dstar_undefined"),
        ({"neighbours": 1}, "no_similar_neighbour"),
    ],
)
def test_each_reason_alone(changed, name):
    code, counts = flags_of(**changed)
    assert code == CODES[name]
    assert counts == {**dict.fromkeys(CODES, 0), name: 1}


def test_the_first_reason_is_shown_and_all_are_counted():
    code, counts = flags_of(f=0.0, d=0.005, neighbours=1)
    assert code == CODES["dstar_undefined"]
    assert counts["dstar_undefined"] == counts["no_similar_neighbour"] == counts["parameter_at_bound"] == 1


def test_a_signal_within_the_noise_is_outside_the_noise_model():
    maps = {name: np.full((1, 1, 1), value) for name, value in {**GOOD, "s0": 14.0}.items()}
    one = np.ones((1, 1, 1))
    flags, counts = flagged(maps, one > 0, 14.0 * one)
    assert flags.item() == CODES["outside_noise_model"]
    assert counts["no_similar_neighbour"] == 0


def test_saturation_is_the_first_reason():
    maps = {name: np.full((1, 1, 2), value) for name, value in {**GOOD, "f": 1.0}.items()}
    one = np.ones((1, 1, 2))
    cut = np.array([[[True, False]]])
    flags, counts = flagged(maps, one > 0, 100 * one, saturated=cut)
    assert flags[0, 0].tolist() == [CODES["saturated"], CODES["parameter_at_bound"]]
    assert (counts["saturated"], counts["parameter_at_bound"]) == (1, 2)


def test_most_members_of_an_ensemble_at_a_bound_are_a_reason_whatever_their_mean():
    maps = {name: np.full((1, 1, 2), value) for name, value in GOOD.items()}
    mask, one = np.ones((1, 1, 2), dtype=bool), np.full((1, 1, 2), 100.0)
    flags, counts = flagged(maps, mask, one, members_at_bound=np.array([[[True, False]]]))
    assert flags.ravel().tolist() == [CODES["parameter_at_bound"], 0]
    assert counts["parameter_at_bound"] == 1


def test_what_the_own_signals_say_is_flagged():
    maps = {name: np.full((1, 1, 2), value) for name, value in GOOD.items()}
    yes, no = np.array([[[True, False]]]), np.array([[[False, True]]])
    flags, _ = flagged(maps, yes | no, np.full((1, 1, 2), 100.0), against=Objections(yes, no))
    assert flags.ravel().tolist() == [CODES["residual_above_noise"], CODES["pulled_from_own_signals"]]


def test_statistics_leave_out_all_but_what_averaging_makes_good():
    codes = np.array([0, *CODES.values()])
    assert codes[left_out(codes)].tolist() == [code for name, code in CODES.items() if name != "imprecise"]
