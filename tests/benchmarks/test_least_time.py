"""Operations counted and by formula agree, and times follow from them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common.pieces import pieces_of
from benchmarks.common.scenarios import Scenario, measure
from benchmarks.speed.counted import (
    convolution_products,
    count,
    expansion_products,
    neighbour_operations,
    pairs_in_window,
    weights_of,
)
from benchmarks.speed.least_time import epoch_stage, page, records, search_stage
from benchmarks.speed.peaks import Peaks
from sicnn_app.lsq.levenberg_marquardt import expand
from sicnn_app.settings import EstimationSettings, NetworkSettings
from sicnn_app.sicnn.network import IvimNetwork, NetworkConfig

SHAPES = st.builds(
    NetworkSettings,
    width=st.sampled_from([4, 8]),
    depth=st.integers(1, 4),
    kernel_size=st.sampled_from([1, 3, 5]),
    normalisation=st.sampled_from(["channels", "none"]),
)


@settings(max_examples=15, deadline=None)
@given(SHAPES, st.integers(2, 9), st.integers(1, 3), st.integers(5, 9), st.integers(5, 9))
def test_products_and_weights_of_the_network_are_those_of_the_formulas(shape, bvals, slices, size_x, size_y):
    network = IvimNetwork(NetworkConfig(bvals, shape))
    signals, voxels = torch.rand(slices, bvals, size_x, size_y), slices * size_x * size_y
    assert weights_of(shape, bvals) == sum(values.numel() for values in network.parameters())
    with torch.no_grad():
        forwards = count(lambda: network(signals))
    assert forwards.products == convolution_products(shape, bvals, voxels, training=False)
    both = count(lambda: sum(values.sum() for values in network(signals)).backward())
    assert both.products == convolution_products(shape, bvals, voxels, training=True)
    assert both.elements > forwards.elements and both.bytes > forwards.bytes


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4))
def test_pairs_are_those_that_a_search_one_by_one_finds(size_x, size_y, radius):
    voxels = list(itertools.product(range(size_x), range(size_y)))
    pairs = sum(
        max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= radius
        for one, other in itertools.combinations(voxels, 2)
    )
    assert pairs_in_window((size_x, size_y), radius) == pairs


def test_products_of_least_squares_are_those_of_the_formula():
    bvals = torch.linspace(0, 800, 9, dtype=torch.float64)
    signals = torch.rand(9, 30, dtype=torch.float64)
    start = torch.tensor([[1.0, 0.2, 0.001, 0.02]], dtype=torch.float64).T.repeat(1, 30)
    work = count(lambda: expand(signals, bvals, start))
    assert work.products == expansion_products(30, 9)
    assert work.elements >= signals.numel() and work.calls > 10


def test_counts_of_simple_operations_are_known():
    values, out = torch.rand(50, 4), torch.empty(50, 4)
    added = count(lambda: torch.add(values, values, out=out))
    assert (added.products, added.elements, added.calls) == (0, 200, 1)
    assert count(lambda: values.T).calls == 0, "a view moves nothing"
    summed = count(lambda: values.sum())
    assert summed.elements == 200 and summed.bytes == 4 * 201


@pytest.fixture(scope="module")
def stages():
    pieces = pieces_of(measure(Scenario(20.0, 0, shape=(24, 20, 2))), EstimationSettings())
    return [epoch_stage(pieces, 1, "cpu"), search_stage(pieces, 1, "cpu")]


def test_an_epoch_takes_the_products_of_its_convolutions_and_of_little_else(stages):
    epoch = stages[0]
    assert epoch.formula <= epoch.work.products <= 1.01 * epoch.formula
    assert 0.3 < epoch.useful <= 1.0 and epoch.least_bytes < epoch.work.bytes


def test_the_search_does_no_less_than_its_formula(stages):
    search = stages[1]
    assert search.formula <= search.work.operations
    radius = EstimationSettings().neighbour_radius
    assert neighbour_operations((20, 18), 2, radius, 12) == 2 * neighbour_operations((20, 18), 1, radius, 12)


def test_the_least_time_is_that_of_arithmetic_or_of_traffic():
    peaks = Peaks(products32=100.0, products64=50.0, elements32=10.0, elements64=5.0, bandwidth=20.0)
    assert peaks.least_seconds(200.0, 10.0, 1.0) == pytest.approx(3.0)
    assert peaks.least_seconds(200.0, 10.0, 1.0, double=True) == pytest.approx(6.0)
    assert peaks.least_seconds(200.0, 10.0, 100.0) == pytest.approx(5.0)


def test_distances_are_measured_times_over_least_ones(stages):
    peaks = Peaks(1e9, 1e9, 1e9, 1e9, 1e9)
    text = page(stages, peaks, "a test", "")
    for stage in stages:
        needed = stage.useful * stage.work.operations / 1e9
        assert stage.least_seconds(peaks) == pytest.approx(max(needed, stage.least_bytes / 1e9))
        assert f"| {stage.seconds / stage.least_seconds(peaks):.1f} |" in text
    assert len(records(stages, peaks).splitlines()) == 1 + len(stages)
