"""The verdict on a run: it follows the data, and every word has its number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.ivim.adequacy_inputs import (
    DOUBTFUL,
    GOOD,
    POOR,
    UNKNOWN,
    VERDICTS,
    Evidence,
    Tissue,
    perfused_tissue,
)
from sicnn_app.ivim.checks import CHECKS, judge
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.ivim.signal import ivim_signal

BVALS = np.array([0, 10, 20, 40, 80, 120, 200, 300, 400, 600, 800], dtype=float)
LIVER = Tissue(0.2305, 1.09e-3, 0.07, {"f": 0.1, "d": 0.05, "dstar": 0.2})
CORTEX = Tissue(0.033, 0.86e-3, 0.076)
RANK = {POOR: 0, DOUBTFUL: 1, GOOD: 2}


def evidence(
    snr: float = 40.0, *, tissue: Tissue = LIVER, bvals: np.ndarray = BVALS, repeats: int = 4, **changes
) -> Evidence:
    """Tissue of which every volume has this signal-to-noise ratio at b = 0."""
    known = Evidence(
        bvals=bvals,
        signal=ivim_signal(bvals, tissue.f, tissue.d, tissue.dstar, 500.0),
        sigma=500.0 / snr,
        sigma_per_bval=np.full(bvals.size, 500.0 / snr / np.sqrt(repeats)),
        at_bound=0.01,
        conventional_at_bound=0.08,
        displacements=np.array([np.nan, 0.1, 0.3]),
        voxel_edge=2.0,
        preprocessed=False,
        tissue=tissue,
    )
    return replace(known, **changes)


def verdicts(known: Evidence) -> dict[str, str]:
    return {key: check.verdict for key, check in judge(known).checks.items()}


def test_a_good_measurement_is_called_good():
    found = judge(evidence(150.0))
    assert found.verdict == GOOD
    assert found.sentence == "Good. A single perfused voxel by itself determines F, D and D* well."
    assert {check.verdict for key, check in found.checks.items() if key != "network"} == {GOOD}


def test_dstar_alone_makes_a_measurement_doubtful_and_says_so():
    brain = evidence(100.0, tissue=CORTEX, repeats=16)
    found = verdicts(brain)
    assert found["precision_f"] != POOR and found["precision_d"] == GOOD
    noisy = evidence(40.0, tissue=CORTEX)
    assert verdicts(noisy)["precision_dstar"] == POOR
    assert "D* hardly or not" in judge(noisy).sentence


@given(st.floats(1.0, 300.0), st.floats(1.0, 5.0))
def test_less_noise_never_makes_a_verdict_on_the_data_worse(snr, factor):
    before, after = verdicts(evidence(snr)), verdicts(evidence(snr * factor))
    for key in before.keys() - {"network"}:
        assert RANK.get(after[key], 3) >= RANK.get(before[key], 3), key
    assert RANK[judge(evidence(snr * factor)).verdict] >= RANK[judge(evidence(snr)).verdict]


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"bvals": np.array([0.0, 100.0, 200.0, 400.0, 800.0])}, "low_b_values", DOUBTFUL),
        ({"bvals": np.array([0.0, 150.0, 400.0, 600.0, 800.0])}, "low_b_values", POOR),
        ({"bvals": np.array([5.0, 20.0, 50.0, 100.0, 400.0, 800.0])}, "low_b_values", DOUBTFUL),
        ({"bvals": np.array([50.0, 60.0, 80.0, 100.0, 400.0, 800.0])}, "low_b_values", POOR),
        ({"bvals": np.array([0.0, 10.0, 20.0, 50.0, 100.0, 600.0])}, "high_b_values", DOUBTFUL),
        ({"bvals": np.array([0.0, 10.0, 20.0, 50.0, 100.0, 250.0])}, "high_b_values", POOR),
        ({"displacements": None}, "motion", UNKNOWN),
        ({"displacements": np.array([np.nan])}, "motion", UNKNOWN),
        ({"displacements": np.array([1.0, 1.5])}, "motion", DOUBTFUL),
        ({"displacements": np.array([1.0, 1.5]), "voxel_edge": 6.0}, "motion", GOOD),
        ({"displacements": np.array([1.0, 9.0])}, "motion", POOR),
        ({"at_bound": 0.1}, "at_bound", DOUBTFUL),
        ({"at_bound": 0.4}, "at_bound", POOR),
        ({"at_bound": None}, "at_bound", UNKNOWN),
    ],
)
def test_what_is_weak_is_named(changes, key, expected):
    known = evidence(150.0, **changes)
    found = judge(known)
    assert found.checks[key].verdict == expected
    if expected in (POOR, DOUBTFUL):
        assert found.verdict == expected
        assert found.checks[key].name.lower() in found.sentence


def test_without_noise_nothing_is_claimed_of_it():
    found = judge(evidence(sigma=0.0, sigma_per_bval=np.zeros(BVALS.size)))
    told = {key for key, check in found.checks.items() if check.verdict != UNKNOWN}
    assert told == {"low_b_values", "high_b_values", "motion", "at_bound"}
    assert "determines" not in found.sentence
    assert found.checks["precision_f"].numbers == {"bound_f": None}


def test_b_values_that_determine_nothing_say_so_and_give_no_number():
    found = judge(evidence(bvals=np.array([0.0, 50.0, 800.0]))).checks["precision_dstar"]
    assert (found.value, found.verdict, found.numbers) == ("not determined", POOR, {"bound_dstar": None})


@pytest.mark.parametrize("lowest", [0.0, 20.0])
def test_bounds_are_those_of_the_tissue_whatever_the_lowest_b_value(lowest):
    bvals = np.concatenate([[lowest], BVALS[3:]])
    tissue = LIVER
    bounds = cramer_rao_bounds(bvals, 1.0 / 50.0, tissue.f, tissue.d, tissue.dstar)
    found = judge(evidence(50.0, bvals=bvals, repeats=1)).checks
    for label in ("f", "d", "dstar"):
        relative = float(bounds[label]) / getattr(tissue, label)
        assert found[f"precision_{label}"].numbers[f"bound_{label}"] == pytest.approx(relative)


def test_motion_that_another_program_may_have_corrected_is_not_denied():
    checks = [judge(evidence(displacements=None, preprocessed=done)).checks["motion"] for done in (0, 1)]
    assert [check.verdict for check in checks] == [UNKNOWN] * 2
    assert [check.value for check in checks] == ["not measured", "not measured here"]
    assert "Nobody" in checks[0].meaning and "Nobody" not in checks[1].meaning
    measured = judge(evidence(preprocessed=True)).checks["motion"]
    assert measured == judge(evidence()).checks["motion"]


def test_a_network_pays_where_the_run_is_surer_with_it_than_a_voxel_is_alone():
    def known(times: float) -> Evidence:
        bounds = cramer_rao_bounds(BVALS, 1.0 / 20.0, LIVER.f, LIVER.d, LIVER.dstar)
        spread = {
            label: times * float(bounds[label]) / getattr(LIVER, label) for label in bounds if label != "s0"
        }
        return evidence(20.0, repeats=1, tissue=replace(LIVER, spread=spread))

    assert [verdicts(known(times))["network"] for times in (0.3, 0.7, 1.0)] == [GOOD, DOUBTFUL, POOR]
    assert judge(known(0.5)).checks["network"].value == "F 0.5, D 0.5, D* 0.5 of the SD of a voxel alone"
    unknown = judge(evidence(tissue=CORTEX)).checks["network"]
    assert unknown.verdict == UNKNOWN and "--method si-cnn" in unknown.meaning


def test_tissue_is_that_of_the_perfused_voxels():
    mask = np.ones((10, 10, 1), dtype=bool)
    f = np.where(np.arange(100).reshape(mask.shape) < 30, 0.2, 0.0)
    maps = {
        "f": f,
        "d": 1e-3 + f / 100,
        "dstar": np.where(f > 0, 0.05, 0.005),
        "f_std": np.full(f.shape, 0.05),
    }
    assert perfused_tissue(maps, mask) == Tissue(0.2, 3e-3, 0.05, {"f": 0.25})
    assert perfused_tissue({**maps, "f": f / 20}, mask) is None
    found = judge(replace(evidence(), tissue=None))
    assert found.checks["precision_d"].verdict == found.checks["network"].verdict == UNKNOWN
    assert "determines" not in found.sentence


def test_numbers_are_those_of_the_evidence():
    found = judge(evidence(30.0, repeats=9)).checks
    assert found["snr_b0"].numbers["snr_b0_averaged"] == pytest.approx(90.0)
    assert found["low_b_values"].numbers["low_b_values"] == 6
    assert found["high_b_values"].numbers["high_b_values"] == 4
    assert found["motion"].numbers["framewise_displacement_mean"] == pytest.approx(0.2)
    assert found["motion"].numbers["framewise_displacement_max"] == pytest.approx(0.3)


def test_every_check_has_words_and_a_verdict():
    for known in (evidence(2.0), evidence(25.0), evidence(500.0), evidence(tissue=CORTEX)):
        found = judge(known)
        assert tuple(found.checks) == tuple(CHECKS)
        for check in found.checks.values():
            assert check.verdict in VERDICTS and check.name and check.value
            assert check.meaning.endswith(".")
