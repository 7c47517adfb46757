"""Groups of similar voxels: simulated tissues are found again, and nothing depends on chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sicnn_app.ivim.clusters import LEAST_VOXELS, MOST_CLUSTERS, cluster_voxels

TISSUES = (
    # F, D, D*: vessels, liver, muscle, kidney, spleen in about their proportions to each other.
    (0.60, 1.8e-3, 0.120),
    (0.30, 1.0e-3, 0.060),
    (0.22, 2.0e-3, 0.025),
    (0.14, 0.8e-3, 0.020),
    (0.06, 1.5e-3, 0.035),
)


def tissues(count: int, voxels: int = 300, noise: float = 0.05, seed: int = 0):
    """Maps of so many tissues, each value off by a share, and the tissue of every voxel from 0."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(count), voxels))
    maps = np.array(TISSUES[:count])[truth].T
    return maps * (1 + noise * rng.standard_normal(maps.shape)), truth


def test_tissues_are_found_again_in_falling_order_of_their_perfusion():
    maps, truth = tissues(MOST_CLUSTERS)
    found = cluster_voxels(*maps)
    assert np.mean(found == truth + 1) > 0.98


def test_noisy_maps_still_separate_most_voxels():
    maps, truth = tissues(MOST_CLUSTERS, noise=0.15)
    assert np.mean(cluster_voxels(*maps) == truth + 1) > 0.8


unit = st.floats(0, 1, width=32)
columns = st.integers(0, 150).flatmap(lambda size: st.tuples(*[arrays(np.float32, size, elements=unit)] * 3))


@given(columns)
def test_any_maps_give_numbers_without_gaps_in_order_of_f_and_twice_the_same(maps):
    f, d, dstar = maps
    found = cluster_voxels(f, d, dstar)
    count = found.max(initial=0)
    assert found.shape == f.shape and count <= min(MOST_CLUSTERS, max(1, f.size // LEAST_VOXELS))
    assert set(found.tolist()) in ({0}, set(range(1, count + 1)), set())
    medians = [np.median(f[found == number]) for number in range(1, count + 1)]
    assert medians == sorted(medians, reverse=True)
    assert np.array_equal(found, cluster_voxels(f, d, dstar))


def test_equal_voxels_are_in_one_cluster_and_order_does_not_matter():
    maps, _ = tissues(4)
    twice = np.concatenate([maps, maps], axis=1)
    found = cluster_voxels(*twice)
    assert np.array_equal(found[: maps.shape[1]], found[maps.shape[1] :])
    order = np.random.default_rng(1).permutation(maps.shape[1])
    assert np.array_equal(cluster_voxels(*maps[:, order]), cluster_voxels(*maps)[order])


def test_dstar_says_nothing_where_there_is_no_perfusion():
    maps, truth = tissues(3)
    maps[0, truth == 2] = 0.005
    found = cluster_voxels(*maps)
    maps[2, truth == 2] = np.random.default_rng(2).uniform(0.005, 0.2, np.count_nonzero(truth == 2))
    assert np.array_equal(cluster_voxels(*maps), found)


def test_single_outliers_get_no_cluster_of_their_own():
    maps, truth = tissues(2)
    maps[2, 0] = 1e6
    found = cluster_voxels(*maps)
    assert min(np.bincount(found)[1:]) > LEAST_VOXELS
    assert len(set(found[truth == truth[0]]) & {found[0]}) == 1


@pytest.mark.parametrize("size", [0, 1, 2 * LEAST_VOXELS - 1])
def test_too_few_voxels_are_in_no_cluster(size):
    maps = np.random.default_rng(0).uniform(size=(3, size))
    assert not cluster_voxels(*maps).any()


def test_voxels_that_are_all_alike_are_in_no_cluster():
    assert not cluster_voxels(*np.full((3, 500), 0.1)).any()
