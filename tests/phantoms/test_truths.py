"""Phantoms beyond the plain drawing, by what they promise: values, distances, orders, labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as components

from sicnn_app.errors import UsageError
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.phantoms.tissues import BODY_RANGES, BRAIN_RANGES, LESION, LOW_PERFUSION
from sicnn_app.phantoms.truths import ANATOMIES, COMMON, Truth

SHAPE = (40, 36, 3)
MAPS = ("f", "d", "dstar", "s0")
TISSUE = ("f", "d", "dstar")
SEEDS = st.integers(0, 10**6)


def made(preset="abdomen", shape=SHAPE, seed=1, tissue_variation=0.0, texture=0.1, **choices):
    return make_phantom(
        preset, shape, seed=seed, tissue_variation=tissue_variation, texture=texture, truth=Truth(**choices)
    )


@pytest.mark.parametrize("anatomy", ANATOMIES)
@pytest.mark.parametrize("preset", ["abdomen", "brain"])
@pytest.mark.parametrize("shape", [(24, 20, 2), (17, 15, 1), (1, 1, 1)])
def test_any_shape_and_all_choices_at_once(anatomy, preset, shape):
    phantom = made(
        preset, shape, anatomy=anatomy, deformation=0.3, partial_volume=2, shading=0.5, equal_s0=True
    )
    for name in MAPS:
        values = getattr(phantom, name)
        assert values.shape == shape
        assert np.isfinite(values).all()
        assert (values[~phantom.mask] == 0).all()
    assert set(np.unique(phantom.labels)) <= {0, *(tissue.code for tissue in phantom.tissues)}


@given(seed=SEEDS, length=st.floats(2, 4))
@settings(max_examples=8, deadline=None)
def test_continuous_fields_are_log_normal_in_their_range_over_their_length(seed, length):
    phantom = made(shape=(96, 90, 6), seed=seed, anatomy="fields", correlation_length=length)
    logs = {}
    for name in TISSUE:
        low, high = getattr(BODY_RANGES, name)
        values = getattr(phantom, name)
        inside = values[phantom.mask]
        assert ((inside >= low * 0.999999) & (inside <= high * 1.000001)).all()
        middle, spread = np.log(low * high) / 2, np.log(high / low) / 5
        logs[name] = (np.log(np.where(phantom.mask, values, 1)) - middle) / spread
        assert logs[name][phantom.mask].mean() == pytest.approx(0, abs=0.1 * length)
        assert logs[name][phantom.mask].std() == pytest.approx(1, abs=0.05 * length)
        # Along the first axis, where both voxels lie in the body.
        lags = range(int(length) + 3)
        pairs = [phantom.mask[k:] & phantom.mask[: 96 - k] for k in lags]
        both = [
            np.corrcoef(logs[name][k:][pair], logs[name][: 96 - k][pair])[0, 1]
            for k, pair in zip(lags, pairs, strict=True)
        ]
        assert np.interp(length, lags, both) == pytest.approx(np.exp(-1), abs=0.06 * length)
    shared = [
        np.corrcoef(logs[a][phantom.mask], logs[b][phantom.mask])[0, 1]
        for a, b in itertools.combinations(TISSUE, 2)
    ]
    assert np.mean(shared) == pytest.approx(COMMON, abs=0.05 * length)


@pytest.mark.parametrize("anatomy", ["random", "fields"])
@pytest.mark.parametrize("preset", ["abdomen", "brain"])
def test_another_seed_is_another_truth(anatomy, preset):
    phantoms = [
        made(preset, (48, 46, 4), seed, 0.05, anatomy=anatomy, correlation_length=2) for seed in range(4)
    ]
    for first, second in itertools.combinations(phantoms, 2):
        both = first.mask & second.mask
        assert abs(np.corrcoef(first.f[both], second.f[both])[0, 1]) < 0.25


def test_drawn_values_and_a_deformation_make_another_subject():
    first, second, plain = (
        made(shape=(64, 60, 4), seed=seed, values="drawn", deformation=moved)
        for seed, moved in ((1, 1.0), (2, 1.0), (1, 0.0))
    )
    both = first.mask & second.mask
    assert abs(np.corrcoef(first.f[both], second.f[both])[0, 1]) < 0.6
    assert (first.labels != plain.labels)[first.mask | plain.mask].mean() > 0.2
    assert first.tissues == plain.tissues
    for phantom in (first, second):
        # The body is still one piece, within the image.
        assert components(phantom.mask)[1] == 1
        assert not any(edge.any() for edge in (phantom.mask[0], phantom.mask[-1]))
        perfused = [tissue for tissue in phantom.tissues if 0 < tissue.f < 1]
        assert all(
            low <= getattr(tissue, name) <= high
            for tissue in perfused
            for name in TISSUE
            for low, high in [getattr(BODY_RANGES, name)]
        )


def test_a_random_anatomy_is_the_same_on_a_finer_grid():
    coarse, fine = (made(shape=shape, anatomy="random").labels for shape in ((30, 28, 8), (90, 84, 8)))
    assert (fine[1::3, 1::3] == coarse).mean() > 0.9


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_brain_keeps_the_order_of_its_contrasts(seed):
    phantom = made("brain", (48, 52, 4), seed, 0.05, values="contrasts")
    codes = {tissue.name: tissue.code for tissue in phantom.tissues}
    deep, cortex, white, fluid = (
        phantom.f[phantom.labels == codes[name]].mean()
        for name in ("deep_grey_matter", "cortical_grey_matter", "white_matter", "csf")
    )
    assert deep > cortex > white > fluid
    assert deep == pytest.approx(0.076, rel=0.15)
    assert white == pytest.approx(0.044, rel=0.15)


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_low_perfusion_lies_in_its_range(anatomy):
    phantom = made(anatomy=anatomy, values="low-perfusion", texture=0.0)
    perfused = phantom.mask & (phantom.f > 0) & (phantom.f < 0.9)
    assert perfused.sum() > 0.3 * phantom.mask.sum()
    for name in TISSUE:
        low, high = getattr(LOW_PERFUSION, name)
        values = getattr(phantom, name)[perfused]
        assert values.min() >= low * 0.999999
        assert values.max() <= high * 1.000001
    assert (phantom.dstar > phantom.d)[perfused].all()


@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_a_truth_of_parts_has_the_signal_and_the_slope_of_the_mixture(anatomy):
    """At b = 0, of blood and of all: what can be said of a mixture without a fit."""
    phantom = made(anatomy=anatomy, partial_volume=3)
    step = 1e-3
    for signals, slope in (
        (phantom.signals, phantom.f * phantom.dstar + (1 - phantom.f) * phantom.d),
        (phantom.blood, phantom.f * phantom.dstar),
    ):
        at_zero, beside = np.moveaxis(signals([0.0, step]), -1, 0)[:, phantom.mask]
        s0 = phantom.s0[phantom.mask]
        if signals == phantom.signals:
            np.testing.assert_allclose(at_zero, s0, rtol=1e-9)
        else:
            np.testing.assert_allclose(at_zero, s0 * phantom.f[phantom.mask], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose((at_zero - beside) / step, s0 * slope[phantom.mask], rtol=1e-3, atol=1e-4)


def test_signals_of_parts_are_their_means_at_every_b_value():
    phantom = made(partial_volume=2)
    signals = phantom.signals([400.0, 0.0, 400.0])
    x, y, z = 20, 18, 1
    block = np.s_[2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
    fine = phantom.parts.signals([400.0])[..., 0]
    assert signals[x, y, z, 0] == signals[x, y, z, 2] == pytest.approx(fine[block].mean())
    assert phantom.voxel_size == made().voxel_size
    np.testing.assert_array_equal(phantom.affine, made().affine)


def test_inside_a_tissue_parts_change_nothing():
    parts, plain = (made(texture=0.0, partial_volume=count) for count in (3, 1))
    fine = parts.parts.labels.reshape(40, 3, 36, 3, 3, 3).transpose(0, 2, 4, 1, 3, 5).reshape(*SHAPE, 27)
    pure = (fine == parts.labels[..., None]).all(axis=-1) & (parts.labels == plain.labels) & plain.mask
    np.testing.assert_allclose(parts.purity, (fine == parts.labels[..., None]).mean(axis=-1))
    mixed = parts.mask & (parts.purity < 1)
    assert pure.mean() > 0.2
    assert mixed.mean() > 0.1
    for name in MAPS:
        np.testing.assert_allclose(getattr(parts, name)[pure], getattr(plain, name)[pure], rtol=1e-9)


@given(seed=SEEDS, strength=st.floats(0.1, 0.9))
@settings(max_examples=10, deadline=None)
def test_shading_is_smooth_as_strong_as_said_and_changes_s0_only(seed, strength):
    shape = (40, 36, 2)
    shaded, plain = (made(shape=shape, seed=seed, anatomy="fields", shading=value) for value in (strength, 0))
    for name in TISSUE:
        np.testing.assert_array_equal(getattr(shaded, name), getattr(plain, name))
    ratio = np.where(plain.mask, shaded.s0, np.nan) / np.where(plain.mask, plain.s0, np.nan)
    assert np.nanmean(ratio) == pytest.approx(1, abs=0.01)
    assert np.nanmin(ratio) >= 1 - strength - 1e-9
    assert np.nanmax(ratio) <= 1 + strength + 1e-9
    assert np.nanmax(ratio) - np.nanmin(ratio) > strength
    steps = [np.nanmax(np.abs(np.diff(ratio, axis=axis))) for axis in (0, 1)]
    assert max(steps) < 4 * strength / 36


def test_equal_s0_does_not_tell_tissues_apart():
    equal, plain = (made(shape=(64, 60, 4), tissue_variation=0.05, equal_s0=value) for value in (True, False))
    for phantom, limits in ((equal, (0.0, 0.1)), (plain, (0.3, 2.0))):
        large = [t for t in phantom.tissues if (phantom.labels == t.code).sum() > 300]
        means = [phantom.s0[phantom.labels == tissue.code].mean() for tissue in large]
        assert limits[0] <= np.std(means) / np.mean(means) < limits[1]
    for name in TISSUE:
        np.testing.assert_array_equal(getattr(equal, name), getattr(plain, name))
    assert np.ptp(made(anatomy="fields", equal_s0=True).s0[made().mask]) == 0


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_lesions_are_as_many_and_as_small_as_said_and_unusual(anatomy, parts):
    choices = {"anatomy": anatomy, "partial_volume": parts}
    with_lesions, without = made(**choices, lesions=15), made(**choices)
    lesions = with_lesions.labels == LESION.code
    numbers, count = components(lesions)
    assert count == 15
    sizes = np.bincount(numbers.ravel())[1:]
    assert sizes.min() >= 2
    assert sizes.max() <= 4
    assert len(set(sizes.tolist())) > 1
    for name in MAPS:
        new, old = getattr(with_lesions, name), getattr(without, name)
        np.testing.assert_array_equal(new[~lesions], old[~lesions])
        if name == "s0":
            np.testing.assert_array_equal(new, old)
        else:
            ratio = new[lesions] / old[lesions]
            assert ((ratio < 0.7) | (ratio > 1.3)).mean() > 0.9
    assert (with_lesions.dstar > 2 * with_lesions.d)[lesions].all()
    assert with_lesions.tissues[-1] == LESION


@pytest.mark.parametrize("voxels", [(1, 1), (9, 20)])
def test_lesions_of_other_sizes_are_one_piece(voxels):
    lesions = made(shape=(64, 60, 3), lesions=12, lesion_voxels=voxels).labels == LESION.code
    numbers, count = components(lesions)
    sizes = np.bincount(numbers.ravel())[1:]
    assert count == 12
    assert voxels[0] <= sizes.min() <= sizes.max() <= voxels[1]


def test_lesions_without_room_are_refused():
    with pytest.raises(UsageError, match="of 500 lesions have room"):
        made(shape=(16, 14, 1), lesions=500)


def test_values_stay_in_the_ranges_of_the_brain():
    phantom = made("brain", anatomy="fields")
    assert phantom.f[phantom.mask].max() <= BRAIN_RANGES.f[1] * 1.000001


@pytest.mark.parametrize(
    ("preset", "choices", "words"),
    [
        ("abdomen", {"values": "contrasts"}, "literature, drawn, low-perfusion for the preset abdomen"),
        ("brain", {"values": "invented"}, "--values must be one of"),
        ("brain", {"anatomy": "invented"}, "--anatomy must be one of"),
        ("brain", {"correlation_length": -1.0}, "--correlation-length must be between"),
        ("brain", {"deformation": np.nan}, "--deformation must be between"),
        ("brain", {"partial_volume": 0}, "--partial-volume must be between 1 and"),
        ("brain", {"shading": 1.0}, "--shading must be between"),
        ("brain", {"lesions": -1}, "--lesions must be between"),
        ("brain", {"lesion_voxels": (4, 2)}, "two ascending numbers"),
    ],
)
def test_impossible_choices_are_refused(preset, choices, words):
    with pytest.raises(UsageError, match=words):
        made(preset, **choices)
