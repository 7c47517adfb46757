"""Similar neighbours against a loop over all pairs; the crop to the mask."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.settings import EstimationSettings, SimilaritySettings
from sicnn_app.sicnn.neighbours import (
    GAUSSIAN_REACH,
    Sample,
    add_similar_of_sample,
    crop_to_mask,
    similar_neighbour_sum,
)
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.rewrite import neighbour_mean
from sicnn_app.sicnn.train import TrainingData

BVALS = torch.tensor([0.0, 20.0, 80.0, 200.0, 600.0])


PLAIN = SimilaritySettings("root-mean-square", "equal", None)
"""The wording of the supplement."""

SIMILARITIES = st.builds(
    SimilaritySettings,
    distance=st.sampled_from(["maximum", "root-mean-square"]),
    weighting=st.sampled_from(["gaussian", "equal"]),
    s0_ratio=st.sampled_from([None, 1.35, 2.0]),
)


def loop_over_pairs(curves, values, mask, threshold, radius, similarity, s0):
    """Sums, weights and counts of the definition, one pair of voxels after the other."""
    _, _, size_x, size_y = values.shape
    sums, weights, counts = np.zeros(values.shape), np.zeros(mask.shape), np.zeros(mask.shape)
    for z, x, y in zip(*np.nonzero(mask), strict=True):
        for i in range(max(0, x - radius), min(size_x, x + radius + 1)):
            for j in range(max(0, y - radius), min(size_y, y + radius + 1)):
                if not mask[z, i, j]:
                    continue
                differences = np.abs(curves[z, :, x, y] - curves[z, :, i, j])
                distance = (
                    differences.max()
                    if similarity.distance == "maximum"
                    else np.sqrt(np.mean(differences**2))
                )
                limit = min(threshold[z, x, y], threshold[z, i, j])
                ratio = max(s0[z, x, y] / s0[z, i, j], s0[z, i, j] / s0[z, x, y])
                bright = similarity.s0_ratio is None or ratio <= similarity.s0_ratio
                if (i, j) == (x, y):
                    weight, near = 1.0, True
                elif not bright:
                    continue
                elif similarity.weighting == "equal":
                    weight = near = float(distance < limit)
                else:
                    near = distance < limit
                    weight = np.exp(-((distance / limit) ** 2)) * (distance < GAUSSIAN_REACH * limit)
                sums[z, :, x, y] += weight * values[z, :, i, j]
                weights[z, x, y] += weight
                counts[z, x, y] += near
    return sums, weights, counts


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 6)),
    radius=st.integers(1, 8),
    share=st.floats(0.2, 1.0),
    similarity=SIMILARITIES,
    seed=st.integers(0, 1000),
)
def test_sums_and_counts_agree_with_a_loop_over_pairs(shape, radius, share, similarity, seed):
    rng = np.random.default_rng(seed)
    slices, size_x, size_y = shape
    curves = rng.standard_normal((slices, 3, size_x, size_y))
    values = rng.standard_normal((slices, 2, size_x, size_y))
    mask = rng.random(shape) < share
    threshold = rng.uniform(0.5, 2.0, shape)
    s0 = rng.uniform(0.5, 2.0, shape)
    found = similar_neighbour_sum(
        *(torch.from_numpy(array) for array in (curves, values, mask, threshold)),
        radius,
        similarity=similarity,
        s0=torch.from_numpy(s0),
    )
    expected = loop_over_pairs(curves, values, mask, threshold, radius, similarity, s0)
    np.testing.assert_allclose(found.values.numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(found.weights.numpy(), expected[1], atol=1e-12)
    np.testing.assert_array_equal(found.counts.numpy(), expected[2])
    reach = GAUSSIAN_REACH if similarity.weighting == "gaussian" else 1.0
    for factor, around in zip((0.5, reach), found.around, strict=True):
        other = loop_over_pairs(curves, values, mask, factor * threshold, radius, similarity, s0)
        np.testing.assert_array_equal(around.numpy(), other[2])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 6)),
    radius=st.integers(1, 4),
    first=st.integers(0, 5),
    similarity=SIMILARITIES,
    seed=st.integers(0, 1000),
)
def test_window_and_a_sample_of_all_voxels_together_count_every_pair_of_the_image_once(
    shape, radius, first, similarity, seed
):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random(shape) < 0.7)
    curves, values = (torch.from_numpy(rng.standard_normal((shape[0], n, *shape[1:]))) for n in (3, 2))
    threshold, s0 = (torch.from_numpy(rng.uniform(0.5, 2.0, shape)) for _ in range(2))
    found = similar_neighbour_sum(curves, values, mask, threshold, radius, similarity=similarity, s0=s0)
    flat = [of.movedim(1, -1)[mask] for of in (curves, values)] + [of[mask] for of in (threshold, s0)]
    places = torch.nonzero(mask) + torch.tensor([first, 0, 0])
    sample = Sample(*flat, places).from_slice(first)
    add_similar_of_sample(found, curves, mask, threshold, radius, sample, similarity=similarity, s0=s0)
    # The same voxels in a single column: there no pair is in another slice or beyond the window.
    column = [of.T[None, :, :, None] for of in flat[:2]] + [of[None, :, None] for of in flat[2:]]
    whole = loop_over_pairs(
        *(of.numpy() for of in (*column[:2], torch.ones_like(column[2], dtype=torch.bool), column[2])),
        len(places),
        similarity,
        column[3].numpy(),
    )
    np.testing.assert_allclose(found.values.movedim(1, -1)[mask], whole[0][0, :, :, 0].T, atol=1e-10)
    np.testing.assert_allclose(found.weights[mask], whole[1][0, :, 0], atol=1e-10)
    np.testing.assert_array_equal(found.counts[mask], whole[2][0, :, 0])


def test_a_limit_on_s0_needs_s0():
    ones = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="S0"):
        similar_neighbour_sum(
            ones, ones, ones[0] > 0, ones[0], 1, similarity=SimilaritySettings(s0_ratio=1.2)
        )


def test_never_across_slices_or_from_outside_the_mask():
    curves = torch.zeros(2, 3, 4, 4)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1, :2] = False
    values = torch.ones(2, 1, 4, 4)
    values[1] = 100.0
    values[1, :, :2] = 1e9
    sums, _, counts, _ = similar_neighbour_sum(
        curves, values, mask, torch.ones(2, 4, 4), radius=9, similarity=PLAIN
    )
    assert (sums[0] == 16).all() and (counts[0] == 16).all()
    assert (sums[1, 0, 2:] == 800).all() and (counts[1, 2:] == 8).all()
    assert (sums[1, 0, :2] == 0).all() and (counts[1, :2] == 0).all()


def two_tissues() -> tuple[Parameters, TrainingData]:
    """Left half of one tissue, right half of another, brightness growing along y, noise-free."""
    mask = torch.ones(1, 6, 5, dtype=torch.bool)
    mask[0, 0, 0] = False
    right = (torch.arange(6) >= 3)[None, :, None].expand(1, 6, 5)
    tissue = Parameters(
        f=torch.where(right, 0.4, 0.1),
        d=torch.where(right, 0.002, 0.001),
        dstar=torch.where(right, 0.02, 0.05),
        s0=torch.ones(1, 6, 5),
    )
    clean = (
        ivim_signal_torch(BVALS[None, :, None, None], *(value[:, None] for value in tissue)) * mask[:, None]
    )
    normaliser = (1.0 + torch.arange(5.0)).expand(1, 6, 5) * mask
    data = TrainingData(
        clean, mask, normaliser, torch.full((1, 6, 5), 0.05), torch.full_like(clean, 0.05), mask.float()
    )
    return tissue, data


@pytest.mark.parametrize("rule", ["observed-neighbours", "predicted-neighbours"])
def test_noise_free_signals_are_their_own_replacement(rule):
    tissue, data = two_tissues()
    means, counts, _ = neighbour_mean(
        tissue,
        data,
        BVALS,
        torch.full((1, 6, 5), 0.02),
        torch.ones(len(BVALS)),
        EstimationSettings(update_rule=rule, neighbour_radius=5, similarity=PLAIN),
    )
    torch.testing.assert_close(means, data.signals, atol=1e-6, rtol=0)
    assert counts[0, 3, 2] == 15 and counts[0, 1, 2] == 14 and counts[0, 0, 0] == 0


def test_observed_signals_bring_in_what_predictions_do_not():
    tissue, data = two_tissues()
    noise = 0.05 * torch.randn(data.signals.shape, generator=torch.Generator().manual_seed(0))
    noisy = TrainingData(
        data.signals + noise * data.mask[:, None],
        data.mask,
        data.normaliser,
        data.sigma,
        data.noise,
        data.weight,
    )
    wrong = tissue._replace(d=tissue.d + 0.0005)
    threshold, weight = torch.full((1, 6, 5), 0.02), torch.ones(len(BVALS))
    chosen = partial(EstimationSettings, neighbour_radius=5, similarity=PLAIN)
    (observed, *_), (predicted, *_) = (
        neighbour_mean(wrong, noisy, BVALS, threshold, weight, chosen(update_rule=rule))
        for rule in ("observed-neighbours", "predicted-neighbours")
    )

    def error(signals: torch.Tensor) -> float:
        return float((signals - data.signals).movedim(1, -1)[data.mask].square().mean().sqrt())

    assert error(observed) < 0.6 * error(noisy.signals)
    assert error(observed) < 0.6 * error(predicted)


def test_the_crop_is_the_bounding_box_of_all_slices():
    mask = torch.zeros(4, 7, 6, dtype=torch.bool)
    mask[1, 2, 3] = mask[3, 5, 1] = True
    kept, box_x, box_y = crop_to_mask(mask)
    assert (kept.tolist(), box_x, box_y) == ([1, 3], slice(2, 6), slice(1, 4))
