"""Similar neighbours against a loop over all pairs; the crop to the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.ivim.signal import ivim_signal_torch
from sicnn_app.sicnn.neighbours import crop_to_mask, similar_neighbour_sum
from sicnn_app.sicnn.network import Parameters
from sicnn_app.sicnn.rewrite import neighbour_mean
from sicnn_app.sicnn.train import TrainingData

BVALS = torch.tensor([0.0, 20.0, 80.0, 200.0, 600.0])


def loop_over_pairs(curves, values, mask, threshold, radius):
    """Sums and counts of the definition, one pair of voxels after the other."""
    slices, _, size_x, size_y = values.shape
    sums, counts = np.zeros(values.shape), np.zeros(mask.shape)
    for z, x, y in zip(*np.nonzero(mask), strict=True):
        for i in range(max(0, x - radius), min(size_x, x + radius + 1)):
            for j in range(max(0, y - radius), min(size_y, y + radius + 1)):
                rms = np.sqrt(np.mean((curves[z, :, x, y] - curves[z, :, i, j]) ** 2))
                near = rms < min(threshold[z, x, y], threshold[z, i, j]) or (i, j) == (x, y)
                if mask[z, i, j] and near:
                    sums[z, :, x, y] += values[z, :, i, j]
                    counts[z, x, y] += 1
    return sums, counts


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 6)),
    radius=st.integers(1, 8),
    share=st.floats(0.2, 1.0),
    seed=st.integers(0, 1000),
)
def test_sums_and_counts_agree_with_a_loop_over_pairs(shape, radius, share, seed):
    rng = np.random.default_rng(seed)
    slices, size_x, size_y = shape
    curves = rng.standard_normal((slices, 3, size_x, size_y))
    values = rng.standard_normal((slices, 2, size_x, size_y))
    mask = rng.random(shape) < share
    threshold = rng.uniform(0.5, 2.0, shape)
    sums, counts = similar_neighbour_sum(
        *(torch.from_numpy(array) for array in (curves, values, mask, threshold)), radius
    )
    expected_sums, expected_counts = loop_over_pairs(curves, values, mask, threshold, radius)
    np.testing.assert_allclose(sums.numpy(), expected_sums, atol=1e-12)
    np.testing.assert_array_equal(counts.numpy(), expected_counts)


def test_never_across_slices_or_from_outside_the_mask():
    curves = torch.zeros(2, 3, 4, 4)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1, :2] = False
    values = torch.ones(2, 1, 4, 4)
    values[1] = 100.0
    values[1, :, :2] = 1e9
    sums, counts = similar_neighbour_sum(curves, values, mask, torch.ones(2, 4, 4), radius=9)
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
    data = TrainingData(clean, mask, normaliser, torch.full((1, 6, 5), 0.05), mask.float())
    return tissue, data


@pytest.mark.parametrize("observed", [True, False])
def test_noise_free_signals_are_their_own_replacement(observed):
    tissue, data = two_tissues()
    means, counts = neighbour_mean(
        tissue, data, BVALS, torch.full((1, 6, 5), 0.02), radius=5, observed=observed
    )
    torch.testing.assert_close(means, data.signals, atol=1e-6, rtol=0)
    assert counts[0, 3, 2] == 15 and counts[0, 1, 2] == 14 and counts[0, 0, 0] == 0


def test_observed_signals_bring_in_what_predictions_do_not():
    tissue, data = two_tissues()
    noise = 0.05 * torch.randn(data.signals.shape, generator=torch.Generator().manual_seed(0))
    noisy = TrainingData(
        data.signals + noise * data.mask[:, None], data.mask, data.normaliser, data.sigma, data.weight
    )
    wrong = tissue._replace(d=tissue.d + 0.0005)
    options = {"radius": 5}
    threshold = torch.full((1, 6, 5), 0.02)
    observed, _ = neighbour_mean(wrong, noisy, BVALS, threshold, observed=True, **options)
    predicted, _ = neighbour_mean(wrong, noisy, BVALS, threshold, observed=False, **options)

    def error(signals: torch.Tensor) -> float:
        return float((signals - data.signals).movedim(1, -1)[data.mask].square().mean().sqrt())

    assert error(observed) < 0.6 * error(noisy.signals)
    assert error(observed) < 0.6 * error(predicted)


def test_the_crop_is_the_bounding_box_of_all_slices():
    mask = torch.zeros(4, 7, 6, dtype=torch.bool)
    mask[1, 2, 3] = mask[3, 5, 1] = True
    kept, box_x, box_y = crop_to_mask(mask)
    assert (kept.tolist(), box_x, box_y) == ([1, 3], slice(2, 6), slice(1, 4))
