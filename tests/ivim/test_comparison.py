"""How a map and that of the conventional fit agree."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.comparison import agreement
from sicnn_app.ivim.parameters import PARAMETERS

RNG = np.random.default_rng(3)
MAPS = {
    "f": RNG.uniform(0.05, 0.4, (9, 8, 2)),
    "d": RNG.uniform(5e-4, 3e-3, (9, 8, 2)),
    "dstar": RNG.uniform(0.01, 0.1, (9, 8, 2)),
    "s0": RNG.uniform(100, 900, (9, 8, 2)),
}
EVERYWHERE = np.ones((9, 8, 2), dtype=bool)


@pytest.mark.parametrize("label", PARAMETERS)
def test_equal_maps_agree(label):
    found = agreement(label, MAPS, MAPS, EVERYWHERE)
    assert found["voxels"] == 144
    assert found["median_difference"] == found["median_absolute_difference"] == 0
    assert found["pearson"] == pytest.approx(1) and found["spearman"] == pytest.approx(1)


def test_differences_are_map_minus_conventional_fit():
    found = agreement("d", {**MAPS, "d": MAPS["d"] + 1e-4}, MAPS, EVERYWHERE)
    assert found["median_difference"] == pytest.approx(1e-4)
    reverse = agreement("d", MAPS, {**MAPS, "d": MAPS["d"] + 1e-4}, EVERYWHERE)
    assert reverse["median_difference"] == pytest.approx(-1e-4)
    assert reverse["median_absolute_difference"] == pytest.approx(1e-4)


def test_ranks_do_not_mind_a_bend_and_values_do():
    found = agreement("f", {**MAPS, "f": MAPS["f"] ** 3}, MAPS, EVERYWHERE)
    assert found["spearman"] == pytest.approx(1) and found["pearson"] < 0.99
    assert agreement("f", {**MAPS, "f": -MAPS["f"]}, MAPS, EVERYWHERE)["pearson"] == pytest.approx(-1)


def test_dstar_is_compared_where_both_see_perfusion():
    one, other = {**MAPS, "f": MAPS["f"].copy()}, {**MAPS, "f": MAPS["f"].copy()}
    one["f"][0, 0, 0], other["f"][1, 1, 1] = 0.01, 0.0
    assert agreement("dstar", one, other, EVERYWHERE)["voxels"] == 142
    assert agreement("d", one, other, EVERYWHERE)["voxels"] == 144


@pytest.mark.filterwarnings("error")
def test_nothing_to_compare_is_none_and_not_a_number():
    none = agreement("f", MAPS, MAPS, ~EVERYWHERE)
    assert none["voxels"] == 0 and set(none.values()) == {0, None}
    flat = agreement("f", {**MAPS, "f": np.full((9, 8, 2), 0.2)}, MAPS, EVERYWHERE)
    assert flat["pearson"] is flat["spearman"] is None and flat["median_difference"] is not None
