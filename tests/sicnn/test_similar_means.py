"""Mean signals of similar voxels, wherever in the image they lie."""

from __future__ import annotations

import numpy as np
import pytest

from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import DEFAULT_BVALS
from sicnn_app.settings import EstimationSettings, Threshold
from sicnn_app.sicnn.similar_means import similar_means

BVALS = np.array(DEFAULT_BVALS["abdomen"], dtype=np.float64)
SHAPE = (40, 6, 2)
MASK = np.ones(SHAPE, dtype=bool)
MASK[18:22] = False
OTHER = np.zeros(SHAPE, dtype=bool)
OTHER[:18] = True
"""One tissue on the left of both slices; on the right another."""
SIGMA = 10.0


def tissues() -> dict[str, np.ndarray]:
    return {
        "f": np.where(OTHER, 0.1, 0.3),
        "d": np.where(OTHER, 0.0018, 0.0010),
        "dstar": np.full(SHAPE, 0.03),
        "s0": np.full(SHAPE, 200.0),
    }


def found(sigma: float = SIGMA, **options):
    maps = tissues()
    signals = ivim_signal_maps(BVALS, *maps.values()).astype(np.float32)
    signals += sigma * np.random.default_rng(2).standard_normal(signals.shape).astype(np.float32)
    return similar_means(
        maps,
        signals,
        MASK,
        BVALS,
        sigma=sigma,
        noise=np.full(BVALS.size, sigma),
        settings=EstimationSettings(neighbour_threshold=Threshold.parse("1sigma")),
        **options,
    )


def test_all_voxels_of_a_tissue_are_averaged_in_both_slices_and_no_others():
    means, noise, count = found()
    np.testing.assert_array_equal(count[OTHER], OTHER.sum())
    np.testing.assert_array_equal(count[MASK & ~OTHER], (MASK & ~OTHER).sum())
    assert (count[~MASK] == 0).all() and (means[~MASK] == 0).all()
    truth = ivim_signal_maps(BVALS, *tissues().values())
    # Their scale is that of the voxel's own signals, which has the noise of one voxel.
    level = (means[MASK] / truth[MASK]).mean(axis=1, keepdims=True)
    assert np.abs(level - 1).max() < 0.15
    assert np.abs(means[MASK] / level - truth[MASK]).max() < 6 * SIGMA / np.sqrt(OTHER.sum())
    np.testing.assert_allclose(noise[OTHER], SIGMA / np.sqrt(OTHER.sum()), rtol=1e-4)


def test_without_a_sample_only_the_window_is_searched():
    *_, count = found(sampled=0)
    assert count.max() == 11 * 6


def test_thresholds_go_by_the_noise_they_are_told_to_go_by():
    *_, alone = found(unit=np.zeros(BVALS.size))
    np.testing.assert_array_equal(alone[MASK], 1)
    *_, all_alike = found(unit=np.full(BVALS.size, 1e3 * SIGMA))
    np.testing.assert_array_equal(all_alike[MASK], MASK.sum())


@pytest.mark.parametrize("sampled", [1, 40])
def test_a_small_sample_adds_to_the_window_what_it_holds(sampled):
    *_, window = found(sampled=0)
    *_, count = found(sampled=sampled)
    more = (count - window)[MASK]
    assert more.min() >= 0 and 0 < more.max() <= sampled


def test_the_same_voxels_are_drawn_again():
    first, second = (found(sampled=40)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
