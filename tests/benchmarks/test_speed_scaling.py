"""Exponents of growth, and the works whose growth is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.growth import AXES, WORKS, Point, exponent, growth, line_through, prepared

SIZES = (100, 200, 400, 800, 1600)


@given(st.floats(-1.0, 3.0), st.floats(1e-6, 1e6))
def test_the_exponent_of_a_power_is_found_without_error(power, factor):
    found = exponent(SIZES, [factor * size**power for size in SIZES])
    assert found.slope == pytest.approx(power, abs=1e-6) and found.error == pytest.approx(0.0, abs=1e-6)


def test_the_standard_error_is_that_of_repeated_noise():
    rng = np.random.default_rng(0)
    x = np.arange(8.0)
    lines = [line_through(x, 2.0 * x + rng.normal(0, 0.5, x.size)) for _ in range(2000)]
    assert np.std([line.slope for line in lines]) == pytest.approx(
        np.sqrt(np.mean([line.error**2 for line in lines])), rel=0.1
    )


def points(power_of_time: float, power_of_memory: float) -> list:
    return [
        (
            size,
            {
                "seconds": size**power_of_time,
                "host_gb": 1e-4 * size**power_of_memory,
                "signals_gb": 1e-5 * size,
                "voxels": size,
            },
        )
        for size in SIZES
    ]


@pytest.mark.parametrize(
    ("time", "memory", "verdicts"),
    [(1.0, 1.0, ["met", "met"]), (1.5, 0.5, ["MISSED", "met"]), (0.9, 2.0, ["met", "MISSED"])],
)
def test_more_than_linear_growth_is_a_miss(time, memory, verdicts):
    row = growth("side", points(time, memory), "host_gb")
    assert row[-2:] == verdicts and row[1].startswith(f"{time:.2f} ± 0.00")


def test_what_grows_is_told_in_copies_of_the_signals():
    grown = [(size, {**found, "host_gb": 0.5 + 3 * found["signals_gb"]}) for size, found in points(1.0, 1.0)]
    assert growth("slices", grown, "host_gb")[3:5] == ["0.500", "3.0 ± 0.0"]


@pytest.mark.parametrize("work", WORKS)
def test_every_work_runs_at_any_size(work):
    ready = prepared(Point(work, side=14, slices=2, bvals=6), "cpu", 1)
    ready.run()
    assert 0 < ready.voxels < 14 * 14 * 2 and ready.signal_bytes == 4 * 14 * 14 * 2 * 6


def test_every_axis_has_the_default_among_its_values():
    for axis, (_, values) in AXES.items():
        assert getattr(Point("training"), axis) in values and len(values) >= 4
