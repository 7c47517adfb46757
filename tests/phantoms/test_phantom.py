import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.errors import UsageError
from sicnn_app.phantoms.phantom import S0_SCALE, make_phantom
from sicnn_app.phantoms.tissues import BOUNDS, TISSUES, vary_tissues

PRESETS = tuple(TISSUES)
MAPS = ("f", "d", "dstar", "s0")
# (D 1e-3 mm^2/s, F, D* mm^2/s) written down a second time, from the publications, not from the table.
LITERATURE = {
    ("abdomen", "liver"): (1.09, 0.2305, 0.0700),
    ("abdomen", "kidney_cortex"): (2.12, 0.097, 0.020),
    ("abdomen", "kidney_medulla"): (2.09, 0.158, 0.019),
    ("abdomen", "spleen"): (1.3, 0.20, 0.030),
    ("abdomen", "pancreas"): (1.41, 0.2003, 0.0254),
    ("abdomen", "muscle"): (1.47, 0.1034, 0.0309),
    ("abdomen", "marrow"): (0.43, 0.145, 0.05),
    ("abdomen", "stomach_wall"): (1.5, 0.30, 0.012),
    ("brain", "white_matter"): (0.81, 0.044, 0.084),
    ("brain", "cortical_grey_matter"): (0.86, 0.033, 0.076),
    ("brain", "deep_grey_matter"): (0.83, 0.0764, 0.0109),
}


@pytest.fixture(scope="module", params=PRESETS)
def phantom(request):
    return make_phantom(request.param, (96, 90, 6), seed=3)


@pytest.mark.parametrize(("preset", "name"), LITERATURE)
def test_without_texture_a_tissue_has_the_literature_values(preset, name):
    phantom = make_phantom(preset, (48, 44, 4), texture=0.0)
    code = next(tissue.code for tissue in phantom.tissues if tissue.name == name)
    inside = phantom.labels == code
    d, f, dstar = LITERATURE[preset, name]
    assert inside.any()
    np.testing.assert_allclose(phantom.d[inside], d * 1e-3)
    np.testing.assert_allclose(phantom.f[inside], f)
    np.testing.assert_allclose(phantom.dstar[inside], dstar)


def test_texture_keeps_the_mean_and_has_the_stated_spread(phantom):
    large = [t for t in phantom.tissues if (phantom.labels == t.code).sum() > 1500 and 0 < t.f < 0.9]
    assert len(large) >= 2
    for tissue in large:
        inside = phantom.labels == tissue.code
        for name in MAPS:
            expected = getattr(tissue, name) * (S0_SCALE if name == "s0" else 1)
            values = getattr(phantom, name)[inside]
            assert values.mean() == pytest.approx(expected, rel=0.05)
            assert 0.07 < values.std() / expected < 0.12


def test_texture_is_partly_smooth():
    phantom = make_phantom("abdomen", (96, 80, 4), seed=1)
    values = np.where(phantom.labels == 1, phantom.d, np.nan)
    values -= np.nanmean(values)
    neighbours = np.nanmean(values[1:] * values[:-1]) / np.nanmean(values**2)
    assert 0.3 < neighbours < 0.6


def test_maps_stay_within_bounds_and_background_is_zero(phantom):
    for name in MAPS:
        values = getattr(phantom, name)
        assert np.isfinite(values).all()
        assert (values[~phantom.mask] == 0).all()
        if name in BOUNDS:
            assert values[phantom.mask].min() >= BOUNDS[name][0]
            assert values[phantom.mask].max() <= BOUNDS[name][1]
    assert (phantom.s0[phantom.mask] > 0).all()


def test_every_tissue_is_there_and_the_border_is_background(phantom):
    assert set(np.unique(phantom.labels)) == {0, *(tissue.code for tissue in phantom.tissues)}
    for edge in (phantom.mask[0], phantom.mask[-1], phantom.mask[:, 0], phantom.mask[:, -1]):
        assert not edge.any()
    np.testing.assert_array_equal(phantom.mask, phantom.labels > 0)


def test_anatomy_changes_smoothly_over_slices():
    labels = make_phantom("abdomen", (64, 60, 8), texture=0.0).labels
    for k in range(7):
        changed = (labels[..., k] != labels[..., k + 1]).mean()
        assert 0 < changed < 0.15


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(33, 41, 1), (17, 15, 3), (1, 1, 1), (64, 20, 2)])
def test_any_shape(preset, shape):
    phantom = make_phantom(preset, shape, seed=1)
    assert phantom.labels.shape == phantom.d.shape == shape
    assert phantom.mask.any()
    assert np.isfinite(phantom.f).all()


def test_the_liver_lies_on_the_patients_right():
    phantom = make_phantom("abdomen", (40, 36, 4))
    voxels = np.argwhere(phantom.labels == 1)
    world = voxels @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]
    assert world[:, 0].mean() > 20  # mm; world x runs from left to right
    np.testing.assert_allclose(
        phantom.affine @ [*((np.array((40, 36, 4)) - 1) / 2), 1], [0, 0, 0, 1], atol=1e-9
    )


@given(seed=st.integers(0, 2**32), other=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_seed_decides_the_maps(seed, other):
    first, again = (make_phantom("brain", (16, 18, 2), seed=seed, tissue_variation=0.05) for _ in range(2))
    for name in MAPS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    different = make_phantom("brain", (16, 18, 2), seed=other, tissue_variation=0.05)
    np.testing.assert_array_equal(first.labels, different.labels)
    assert (seed == other) == np.array_equal(first.d, different.d)


def test_subjects_vary_by_the_stated_amount():
    liver = TISSUES["abdomen"][:1]
    drawn = [vary_tissues(liver, 0.05, np.random.default_rng(seed))[0].d / liver[0].d for seed in range(400)]
    assert np.mean(drawn) == pytest.approx(1, abs=0.01)
    assert 0.04 < np.std(drawn) < 0.055
    assert vary_tissues(liver, 0.0, np.random.default_rng(0)) == liver


@pytest.mark.parametrize(
    ("preset", "shape", "options"),
    [
        ("knee", (8, 8, 2), {}),
        ("brain", (8, 8), {}),
        ("brain", (8, 0, 2), {}),
        ("brain", (8, 8, 2), {"texture": -0.1}),
        ("brain", (8, 8, 2), {"tissue_variation": 0.9}),
    ],
)
def test_refuses_what_makes_no_phantom(preset, shape, options):
    with pytest.raises(UsageError):
        make_phantom(preset, shape, **options)
