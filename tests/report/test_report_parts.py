"""Orientation, slices, outlines, numbers in words and charts behind the page."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import colormaps

from sicnn_app.derivatives.facts import LARGEST_NUMBER, Facts, format_number
from sicnn_app.ivim.parameters import MAPS, SPECS
from sicnn_app.report.charts import epoch_axis, histogram_chart, scatter_chart
from sicnn_app.report.decay import Decay
from sicnn_app.report.display import MAX_SLICES, choose_slices, grid_columns, plan_display
from sicnn_app.report.mosaic import outline_segments
from sicnn_app.report.quantities import shown_quantities
from sicnn_app.report.style import colour_scale


def signed_axes():
    """Every way in which array axes can point along world axes."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order] * signs
            yield affine


def test_right_is_left_and_anterior_or_superior_on_top_for_all_48_orientations():
    mask = np.ones((4, 5, 6), dtype=bool)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in mask.shape), indexing="ij"), -1)
    planes = set()
    for affine in signed_axes():
        display = plan_display(mask, affine, (1.0, 1.0, 1.0))
        world = index @ affine[:3, :3].T
        shown = display.picture(world[:, :, 0])
        across = shown[0, 0] - shown[0, -1]
        down = shown[0, 0] - shown[-1, 0]
        letters = {0: "R", 1: "A", 2: "S"}
        assert (np.count_nonzero(across), np.count_nonzero(down)) == (1, 1)
        assert across.max() > 0 and down.max() > 0
        assert display.edges[0] == letters[int(np.argmax(across))]
        assert display.edges[2] == letters[int(np.argmax(down))]
        planes.add((display.plane, display.edges[0], display.edges[2]))
    assert planes == {("axial", "R", "A"), ("coronal", "R", "S"), ("sagittal", "A", "S")}


def test_without_orientation_the_first_axis_runs_right_and_the_second_down():
    mask = np.ones((3, 4, 1), dtype=bool)
    display = plan_display(mask, None, (1.0, 2.0, 1.0))
    plane = np.arange(12).reshape(3, 4)
    assert display.picture(plane)[0, 0] == plane[0, 0]
    assert display.picture(plane)[-1, 0] == plane[0, -1]
    assert display.picture(plane).shape == (4, 3)
    assert display.aspect == 2.0 and display.edges is None


def test_anisotropic_voxels_keep_their_shape_when_turned():
    mask = np.ones((4, 4, 2), dtype=bool)
    swapped = np.eye(4)
    swapped[:3, :3] = np.eye(3)[:, [1, 0, 2]] * (3.0, 1.0, 5.0)
    display = plan_display(mask, swapped, (3.0, 1.0, 5.0))
    # The first array axis runs down and its voxels are 3 mm long.
    assert display.transpose and display.aspect == 3.0


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))))
def test_slices_are_few_sorted_and_inside(mask):
    slices = choose_slices(mask)
    assert 1 <= len(slices) <= MAX_SLICES
    assert list(slices) == sorted(set(slices)) and slices[0] >= 0 and slices[-1] < mask.shape[2]
    if mask.any():
        assert all(mask[..., index].any() for index in slices)


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_crop_keeps_the_whole_mask(plane):
    mask = plane[..., None]
    display = plan_display(mask, np.eye(4), (1.0, 1.0, 1.0))
    assert display.picture(mask[..., 0]).sum() == mask.sum()


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10))))
def test_outline_is_the_perimeter(mask):
    segments = outline_segments(mask)
    padded = np.pad(mask, 1).astype(int)
    perimeter = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    assert len(segments) == perimeter
    assert np.allclose(np.abs(segments[:, 1] - segments[:, 0]).sum(axis=1), 1.0)


def test_outline_of_one_pixel_surrounds_it():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    corners = {tuple(point) for segment in outline_segments(mask) for point in segment}
    assert corners == {(2, 1), (3, 1), (2, 2), (3, 2)}


@given(st.integers(1, 24), st.floats(0.1, 10))
def test_grid_has_a_place_for_every_tile(count, ratio):
    assert 1 <= grid_columns(count, ratio) <= count


@pytest.mark.parametrize("quantity", shown_quantities(None), ids=lambda quantity: quantity.spec.label)
def test_colour_maps_get_lighter_all_the_way(quantity):
    colours = colormaps[quantity.cmap](np.linspace(0, 1, 64))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()


def test_ranges_are_those_of_the_table_and_fixed_but_for_s0():
    assert [quantity.spec for quantity in shown_quantities("body")] == list(MAPS)
    for quantity in shown_quantities("body"):
        values = np.linspace(1.0, 2.0, 50)
        if quantity.spec.display_range is None:
            assert quantity.limits(values) == (0.0, 2.0)
            assert quantity.limits(np.array([np.nan])) == (0.0, 1.0)
        else:
            expected = np.multiply(quantity.spec.display_range, quantity.factor)
            assert quantity.limits(values) == pytest.approx(tuple(expected))


def test_a_brain_has_ranges_of_its_own_and_no_d_star_lies_outside_of_any():
    brain, body = (
        {quantity.spec.label: quantity.limits(np.ones(3)) for quantity in shown_quantities(anatomy)}
        for anatomy in ("brain", "body")
    )
    for label in ("f", "d"):
        assert brain[label][0] == body[label][0] == 0.0 and brain[label][1] < body[label][1]
    assert brain["dstar"] == body["dstar"] == pytest.approx(np.multiply(SPECS["dstar"].bounds, 1000.0))


def test_equal_factors_of_d_star_are_as_far_apart_in_colour():
    dstar = next(quantity for quantity in shown_quantities("body") if quantity.spec.label == "dstar")
    scale = colour_scale(*dstar.limits(np.ones(1)), logarithmic=dstar.logarithmic)
    steps = np.diff(scale(np.array([5.0, 10.0, 20.0, 40.0, 80.0, 160.0])))
    np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("quantity", shown_quantities("brain")[:3], ids=lambda quantity: quantity.spec.label)
def test_charts_take_values_at_and_beyond_the_ends_of_a_range(quantity):
    low, high = quantity.fixed_range
    values = np.array([0.0, low, np.nextafter(high, 0), high, 2 * high])
    assert histogram_chart(values, np.zeros(5, bool), quantity).endswith(b"</svg>\n")
    assert scatter_chart(values, values[::-1], quantity, ("a", "b")).endswith(b"</svg>\n")


def test_epochs_go_on_over_data_iterations_whether_or_not_they_restart():
    restarting = [(0, 0, 1.0), (0, 4, 0.9), (1, 0, 0.8), (1, 1, 0.7), (2, 0, 0.6)]
    epochs, borders = epoch_axis(restarting, {0: 10, 1: 2})
    assert epochs.tolist() == [0, 4, 10, 11, 12] and borders == [7.0, 11.5]
    assert epoch_axis(restarting, {})[0].tolist() == [0, 4, 5, 6, 7]
    going_on = [(0, 1, 1.0), (0, 2, 0.9), (1, 3, 0.8)]
    assert epoch_axis(going_on, {0: 2})[0].tolist() == [1, 2, 3]


def test_quartiles_leave_out_voxels_without_signal():
    bvals, signals = np.array([0.0, 800.0]), np.array([[10.0, 20.0, 7.0], [5.0, 10.0, 7.0]])
    decay, dark = (Decay(bvals, signals, {"s0": np.array(s0)}, {}) for s0 in ([10.0, 20.0, 0.0], [0.0] * 3))
    assert np.allclose(decay.quartiles(), [[1.0, 0.5]] * 3)
    assert np.isnan(dark.quartiles()).all()


def test_facts_prefer_the_first_source_and_skip_what_is_not_there():
    facts = Facts(
        {"StopReason": "n/a", "Seed": float("nan"), "Lambda": 0.01}, {"stop_reason": "limit", "lambda": 1}
    )
    assert (
        facts.get("stop-reason") == "limit" and facts.get("seed") is None and facts.number("lambda") == 0.01
    )
    assert facts.text("seed") == "n/a" and facts.numbers("lambda") == []


@given(st.floats(-1e300, 1e300) | st.just(float("nan")) | st.just(float("inf")))
def test_numbers_are_printed_to_three_digits(value):
    text = format_number(value)
    if not abs(value) <= LARGEST_NUMBER:
        assert text == "n/a"
    else:
        assert float(text) == pytest.approx(value, rel=5e-3)
