"""Motion correction against motion that was put in."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.phantoms.acquire import noise_sigma
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.average import average_repeats
from sicnn_app.preprocess.correction import NotPossible
from sicnn_app.preprocess.motion import MIN_SLICES, SPHERE_RADIUS, correct
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS, Situation

BVALS = (0.0, 0.0, 10.0, 50.0, 200.0, 400.0, 800.0, 800.0)
HIDDEN = 3
"""Slices simulated above and below those that are seen, so that tissue moves in from there."""


def correct_motion(series, *, kind, per_slice=False, progress=None):
    return correct(series, kind=kind, settings=PreprocessingSettings(per_slice=per_slice), progress=progress)


NAMES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


class Scene:
    """A phantom of which every volume can be taken in another position."""

    def __init__(self, preset, shape, *, snr, bvals=BVALS, seed=0):
        self.phantom = make_phantom(preset, (*shape[:2], shape[2] + 2 * HIDDEN), seed=seed)
        self.snr, self.seed, self.bvals = snr, seed, np.array(bvals)
        self.seen = slice(HIDDEN, HIDDEN + shape[2])
        self.affine = self.phantom.affine.copy()
        self.affine[:3, 3] = (self.phantom.affine @ [0, 0, HIDDEN, 1])[:3]
        self.mask = self.phantom.mask[:, :, self.seen]
        self.centre = (self.affine @ np.append((np.array(shape) - 1) / 2, 1.0))[:3]
        maps = (self.phantom.f, self.phantom.d, self.phantom.dstar, self.phantom.s0)
        self.tall = ivim_signal_maps(self.bvals, *maps)
        self.truth = self.tall[:, :, self.seen]

    def matrix(self, translation=(0, 0, 0), rotation=(0, 0, 0), linear=None):
        """World to world, about the centre of what is seen; mm and degrees."""
        matrix = np.eye(4)
        turn = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
        matrix[:3, :3] = turn if linear is None else linear
        matrix[:3, 3] = translation + self.centre - matrix[:3, :3] @ self.centre
        return matrix

    def series(self, matrices, *, bvecs=None):
        """Every volume moved by its matrix, with Rician noise; one matrix per slice where there are lists."""
        signals = np.empty(self.truth.shape)
        for volume, given_ in enumerate(matrices):
            slices = given_ if isinstance(given_, list) else [given_] * self.truth.shape[2]
            tissue = self.tall[..., volume]
            for z, matrix in enumerate(slices):
                if z == 0 or matrix is not slices[z - 1]:
                    back = np.linalg.inv(self.phantom.affine) @ np.linalg.inv(matrix) @ self.phantom.affine
                    shown = ndimage.affine_transform(tissue, back[:3, :3], back[:3, 3], order=1)
                signals[:, :, z, volume] = shown[:, :, HIDDEN + z]
        sigma = noise_sigma(self.phantom, self.snr)
        noise = sigma * np.random.default_rng(self.seed).standard_normal((2, *signals.shape))
        noisy = np.hypot(signals + noise[0], noise[1]).astype(np.float32)
        return DwiSeries(noisy, self.bvals, bvecs, self.affine)

    def still(self):
        return [np.eye(4)] * self.bvals.size

    def random(self, *, translation=3.0, rotation=3.0, in_plane=False):
        """Motion of every volume but the first: uniform up to so many mm and degrees."""
        rng = np.random.default_rng(self.seed + 100)
        matrices = [np.eye(4)]
        for _ in self.bvals[1:]:
            move = rng.uniform(-translation, translation, 3) * ([1, 1, 0] if in_plane else 1)
            turn = rng.uniform(-rotation, rotation, 3) * ([0, 0, 1] if in_plane else 1)
            matrices.append(self.matrix(move, turn))
        return matrices

    def alignment_error(self, motion, matrices):
        """Mean distance between true and estimated place of the tissue, voxels; volumes but the first."""
        voxels = np.argwhere(self.mask)
        points = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        to_voxels = np.linalg.inv(self.affine[:3, :3]).T
        errors = []
        for row, matrix in list(zip(motion, matrices, strict=True))[1:]:
            values = [row[name] for name in NAMES]
            found = self.matrix(values[:3], values[3:])
            difference = points @ (found - matrix)[:3, :3].T + (found - matrix)[:3, 3]
            errors.append(np.linalg.norm(difference @ to_voxels, axis=1).mean())
        return np.array(errors)

    def no_correction(self):
        return [dict.fromkeys(NAMES, 0.0) for _ in self.bvals]

    def image_error(self, series):
        """Root mean square difference to the unmoved truth inside the object, over volumes but the first."""
        difference = (series.signals - self.truth)[self.mask][:, 1:]
        return float(np.sqrt(np.nanmean(difference**2)))


@pytest.fixture(scope="module")
def brain():
    scene = Scene("brain", (40, 48, 8), snr=25)
    matrices = scene.random()
    series = scene.series(matrices, bvecs=np.tile([1.0, 0.0, 0.0], (scene.bvals.size, 1)))
    return scene, matrices, series, correct_motion(series, kind="rigid")


def test_a_moving_brain_is_aligned(brain):
    scene, matrices, _, corrected = brain
    before = scene.alignment_error(scene.no_correction(), matrices)
    after = scene.alignment_error(corrected.motion, matrices)
    assert before.mean() > 0.7
    assert after.mean() < before.mean() / 6
    assert after.max() < 0.35
    assert corrected.warnings == []
    assert corrected.record["VolumesMoved"] == scene.bvals.size - 1


def test_maps_of_a_moving_brain_are_better_with_correction(brain):
    scene, _, series, corrected = brain
    phantom, inner = scene.phantom, scene.mask & np.isfinite(corrected.series.signals).all(axis=3)
    errors = {}
    for name, volumes in {"moved": series, "corrected": corrected.series}.items():
        average = average_repeats(volumes, inner)
        maps = estimate_lsq(average.signals, average.mask, average.groups.bvals).maps
        tissue = average.mask & (phantom.f[:, :, scene.seen] < 1)
        for label in ("f", "d"):
            truth = getattr(phantom, label)[:, :, scene.seen][tissue]
            errors[name, label] = np.sqrt(np.mean((maps[label][tissue] - truth) ** 2))
    assert errors["corrected", "d"] < 0.7 * errors["moved", "d"]
    assert errors["corrected", "f"] < 0.8 * errors["moved", "f"]


def test_a_still_brain_is_returned_bit_by_bit():
    scene = Scene("brain", (40, 48, 8), snr=20)
    series = scene.series(scene.still(), bvecs=np.tile([0.0, 1.0, 0.0], (scene.bvals.size, 1)))
    corrected = correct_motion(series, kind="rigid")
    assert np.array_equal(corrected.series.signals, series.signals)
    assert np.array_equal(corrected.series.bvecs, series.bvecs)
    assert all(row[name] == 0 for row in corrected.motion for name in (*NAMES, "framewise_displacement"))
    assert corrected.record["VolumesMoved"] == 0


@pytest.mark.parametrize(("slices", "per_slice"), [(1, False), (2, False), (3, False), (3, True)])
def test_a_still_abdomen_is_returned_bit_by_bit(slices, per_slice):
    scene = Scene("abdomen", (56, 44, slices), snr=20)
    series = scene.series(scene.still())
    corrected = correct_motion(series, kind="rigid", per_slice=per_slice)
    assert np.array_equal(corrected.series.signals, series.signals)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_a_few_slices_are_aligned_within_their_plane(slices):
    scene = Scene("abdomen", (56, 44, slices), snr=20)
    matrices = scene.random(translation=14.0, rotation=2.0, in_plane=True)
    corrected = correct_motion(scene.series(matrices), kind="rigid")
    before = scene.alignment_error(scene.no_correction(), matrices)
    after = scene.alignment_error(corrected.motion, matrices)
    assert before.mean() > 1.0
    assert after.mean() < before.mean() / 10
    assert all(abs(row[name]) < 1e-9 for row in corrected.motion for name in ("trans_z", "rot_x", "rot_y"))
    assert "too few for 3-D" in corrected.record["Description"]


def test_slices_that_breathe_apart_are_aligned_one_by_one():
    scene = Scene("abdomen", (56, 44, 3), snr=30, bvals=BVALS[1:])
    rng = np.random.default_rng(3)
    depths = rng.uniform(0.0, 18.0, (scene.bvals.size, 3))
    depths[0] = 0.0
    matrices = [[scene.matrix((0, depth, 0)) for depth in row] for row in depths]
    series = scene.series(matrices, bvecs=np.tile([0.0, 1.0, 0.0], (scene.bvals.size, 1)))
    corrected = correct_motion(series, kind="rigid", per_slice=True)
    together = correct_motion(series, kind="rigid")
    still = scene.image_error(scene.series([[np.eye(4)] * 3] * scene.bvals.size))
    excess = {
        name: np.sqrt(max(scene.image_error(value) ** 2 - still**2, 0.0))
        for name, value in {
            "before": series,
            "per slice": corrected.series,
            "together": together.series,
        }.items()
    }
    assert excess["per slice"] < excess["before"] / 3
    assert excess["per slice"] < excess["together"] / 2
    found = np.array([row["trans_y"] for row in corrected.motion])
    assert np.abs(found - depths.mean(axis=1)).max() < 0.15 * scene.phantom.voxel_size[1]
    assert np.array_equal(corrected.series.bvecs, series.bvecs)
    assert corrected.record["DirectionsRotated"] is False
    assert corrected.record["LargestDisplacement"] == pytest.approx(depths.max(), abs=1.0)


def test_affine_finds_scale_and_shear_where_rigid_cannot():
    scene = Scene("brain", (40, 48, 8), snr=40, bvals=(0.0, 50.0, 200.0, 800.0))
    linear = np.array([[1.0, 0.06, 0.0], [0.0, 1.08, 0.0], [0.0, 0.0, 1.0]])
    matrices = [np.eye(4)] + [scene.matrix(linear=linear)] * 3
    series = scene.series(matrices)
    rigid, affine = (scene.image_error(correct_motion(series, kind=k).series) for k in ("rigid", "affine"))
    still = scene.image_error(scene.series(scene.still()))
    before = scene.image_error(series)
    assert np.sqrt(affine**2 - still**2) < np.sqrt(before**2 - still**2) / 2
    assert affine < rigid


@pytest.mark.parametrize("flipped", [False, True])
def test_directions_turn_with_the_tissue(flipped):
    """The brain turns by a known world rotation while the gradients stay.

    FSL's first axis is reversed on images with a positive determinant, so the file holds the same
    directions for either order of voxels.
    """
    scene = Scene("brain", (40, 48, 8), snr=40, bvals=(0.0, 0.0, 50.0, 200.0))
    turn = np.array([4.0, -3.0, 9.0])
    assert np.linalg.det(scene.affine) < 0
    directions = np.array([[1.0, 0, 0], [0, 1.0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]])
    # The axes of this image are the world's but for x, which the affine reverses: as does FSL for the others.
    world = directions * [-1, 1, 1]
    expected = Rotation.from_euler("xyz", turn, degrees=True).inv().apply(world) * [-1, 1, 1]
    expected[0] = directions[0]
    series = scene.series([np.eye(4)] + [scene.matrix(rotation=turn)] * 3, bvecs=directions)
    if flipped:
        flip = np.diag([-1.0, 1.0, 1.0, 1.0])
        flip[0, 3] = series.signals.shape[0] - 1
        series = DwiSeries(series.signals[::-1], series.bvals, directions, scene.affine @ flip)
        assert np.linalg.det(series.affine) > 0
    corrected = correct_motion(series, kind="rigid")
    angles = np.rad2deg(np.arccos(np.clip((corrected.series.bvecs * expected).sum(axis=1), -1, 1)))
    assert angles.max() < 0.8
    assert np.array_equal(corrected.series.bvecs[0], directions[0])
    assert np.allclose([corrected.motion[2][name] for name in NAMES[3:]], turn, atol=0.8)


def test_directions_that_say_nothing_stay():
    scene = Scene("abdomen", (56, 44, 1), snr=30, bvals=(0.0, 50.0, 200.0, 400.0))
    bvecs = np.array([[0.0, 0, 0], [np.nan, np.nan, np.nan], [0, 0, 0], [0, 0, 1.0]])
    series = scene.series(scene.random(translation=12.0, in_plane=True), bvecs=bvecs)
    corrected = correct_motion(series, kind="rigid")
    assert corrected.record["VolumesMoved"] == 3
    np.testing.assert_allclose(corrected.series.bvecs, bvecs, atol=1e-12)


def test_gaps_are_neither_spread_nor_filled():
    scene = Scene("abdomen", (56, 44, 2), snr=30, bvals=(0.0, 50.0, 200.0, 400.0))
    series = scene.series([np.eye(4)] + [scene.matrix((12.0, 0, 0))] * 3)
    holes = series.signals.copy()
    holes[20:24, 20:24, :, 1] = np.nan
    holes[30, 30, 0, 2] = np.inf
    corrected = correct_motion(DwiSeries(holes, series.bvals, None, series.affine), kind="rigid").series
    missing = ~np.isfinite(corrected.signals)
    assert not missing[..., 0].any()
    inner = missing[8:-8, 8:-8]
    assert 20 <= inner[..., 1].sum() <= 44
    # The object moved by 12 mm = 1.8 voxels to the right of the world, the left of the image.
    assert np.argwhere(inner[..., 1])[:, 0].mean() + 8 == pytest.approx(21.5 + 12.0 / 38.0 * 5.6, abs=0.5)
    assert not inner[..., 3].any()
    reference = correct_motion(series, kind="rigid").series
    far = np.ones(missing.shape[:3], dtype=bool)
    far[14:34, 14:30] = False
    far &= scene.mask
    difference = np.abs(corrected.signals - reference.signals)[far]
    assert np.nanmax(difference) < 0.2 * series.signals[scene.mask].mean()


def test_what_lay_outside_the_field_of_view_is_missing():
    scene = Scene("abdomen", (56, 44, 1), snr=40, bvals=(0.0, 50.0, 200.0, 400.0))
    pixel = scene.phantom.voxel_size[0]
    matrices = [np.eye(4), scene.matrix((0.6 * pixel, 0, 0)), scene.matrix((4 * pixel, 0, 0)), np.eye(4)]
    corrected = correct_motion(scene.series(matrices), kind="rigid")
    lost = ~np.isfinite(corrected.series.signals)
    assert lost.sum(axis=(0, 1, 2)).tolist()[:2] == [0, 0]
    assert lost[..., 2].sum() == pytest.approx(3 * 44, abs=30)
    assert lost[..., 3].sum() == 0
    assert corrected.record["ValuesOutsideFieldOfView"] == lost.sum()


def test_no_value_leaves_the_range_of_its_volume(brain):
    _, _, series, corrected = brain
    for volume in range(series.bvals.size):
        values = corrected.series.signals[..., volume]
        assert np.nanmin(values) >= series.signals[..., volume].min()
        assert np.nanmax(values) <= series.signals[..., volume].max()


def test_the_same_series_gives_the_same_result():
    scene = Scene("abdomen", (56, 44, 2), snr=20, bvals=(0.0, 50.0, 200.0, 400.0))
    series = scene.series(scene.random(translation=10.0, in_plane=True))
    first, second = (correct_motion(series, kind="affine") for _ in range(2))
    assert np.array_equal(first.series.signals, second.series.signals, equal_nan=True)
    assert first.motion == second.motion


def test_noise_in_place_of_a_volume_is_not_moved():
    scene = Scene("brain", (40, 48, 8), snr=25, bvals=(0.0, 50.0, 200.0, 800.0))
    series = scene.series(scene.still())
    signals = series.signals.copy()
    signals[..., 2] = np.random.default_rng(0).rayleigh(100.0, signals.shape[:3])
    corrected = correct_motion(DwiSeries(signals, series.bvals, None, series.affine), kind="rigid")
    assert np.array_equal(corrected.series.signals[..., 2], signals[..., 2])


def test_an_implausible_motion_is_rejected_and_named():
    scene = Scene("brain", (40, 48, 8), snr=40, bvals=(0.0, 50.0, 200.0, 800.0))
    matrices = [np.eye(4), scene.matrix((0, 2.0, 0)), scene.matrix(rotation=(0, 0, 30.0)), np.eye(4)]
    series = scene.series(matrices)
    # As after volume selection: the volumes are the 5th, 7th, 8th and 9th of the file.
    series = DwiSeries(series.signals, series.bvals, None, series.affine, np.array([4, 6, 7, 8]))
    corrected = correct_motion(series, kind="rigid")
    assert len(corrected.warnings) == 1
    assert "volumes 7 " in corrected.warnings[0]
    assert np.array_equal(corrected.series.signals[..., 2], series.signals[..., 2])
    assert corrected.record["RegistrationsRejected"] == 1
    assert [row["volume"] for row in corrected.motion] == [4, 6, 7, 8]


def test_framewise_displacement_follows_the_order_of_acquisition():
    scene = Scene("abdomen", (56, 44, 1), snr=30, bvals=(0.0, 50.0, 200.0, 400.0))
    series = scene.series(scene.random(translation=10.0, in_plane=True))
    order = np.array([3, 0, 7, 5])
    motion = correct_motion(
        DwiSeries(series.signals, series.bvals, None, series.affine, order), kind="rigid"
    ).motion
    assert [row["volume"] for row in motion] == order.tolist()
    rows = sorted(motion, key=lambda row: row["volume"])
    assert rows[0]["framewise_displacement"] == 0
    for before, row in itertools.pairwise(rows):
        moves = sum(abs(row[name] - before[name]) for name in NAMES[:3])
        turns = sum(np.deg2rad(abs(row[name] - before[name])) for name in NAMES[3:])
        assert row["framewise_displacement"] == pytest.approx(moves + SPHERE_RADIUS * turns)
        assert row["framewise_displacement"] > 1.0


def test_progress_counts_every_registration():
    scene = Scene("abdomen", (56, 44, 3), snr=20, bvals=(0.0, 50.0, 200.0, 400.0))
    calls = []
    correct_motion(
        scene.series(scene.still()), kind="rigid", per_slice=True, progress=lambda *call: calls.append(call)
    )
    assert [done for _, done, _ in calls] == list(range(1, 10))
    assert {total for _, _, total in calls} == {9}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, MIN_SLICES + 1)),
    zooms=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4), st.floats(0.3, 12)),
    kind=st.sampled_from(["rigid", "affine"]),
    per_slice=st.booleans(),
    content=st.sampled_from(["noise", "zeros", "gaps", "blob", "constant"]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_content_is_returned_in_shape(shape, zooms, kind, per_slice, content, seed):
    rng = np.random.default_rng(seed)
    bvals = rng.permutation([0.0, 5.0, 100.0, 800.0])
    signals = rng.rayleigh(10.0, (*shape, 4)).astype(np.float32)
    if content == "zeros":
        signals[..., rng.integers(4)] = 0.0
    elif content == "constant":
        signals[:] = 7.0
    elif content == "gaps":
        signals[rng.random(signals.shape) < 0.3] = np.nan
        signals[..., 1] = np.nan
    elif content == "blob":
        signals[shape[0] // 4 : 3 * shape[0] // 4 + 1, shape[1] // 4 : 3 * shape[1] // 4 + 1] += 100.0
    series = DwiSeries(signals, bvals, rng.standard_normal((4, 3)), np.diag([*zooms, 1.0]))
    try:
        corrected = correct_motion(series, kind=kind, per_slice=per_slice)
    except NotPossible as obstacle:
        assert min(shape[:2]) < 16 and "fewer than" in str(obstacle)
        return
    assert corrected.series.signals.shape == signals.shape
    assert corrected.series.signals.dtype == signals.dtype
    assert np.isfinite(corrected.series.bvecs).all()
    assert len(corrected.motion) == 4
    json.dumps([corrected.record, corrected.motion], allow_nan=False)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"anatomy": "brain"}, "rigid", "rigid body"),
        ({"anatomy": "body"}, "none", "organs"),
        ({"anatomy": "body", "per_slice": True}, "rigid", "--per-slice"),
        ({"anatomy": "brain", "preprocessed": True}, "none", "preprocessed"),
        ({"anatomy": "brain", "requested": "affine", "preprocessed": True}, "affine", "--motion-correction"),
        ({"anatomy": "body", "requested": "rigid"}, "rigid", "--motion-correction rigid"),
        ({"anatomy": "brain", "requested": "none"}, "none", "--motion-correction none"),
        ({"anatomy": "brain", "shape": (30, 1, 20)}, "none", "30 x 1 voxels"),
    ],
)
def test_automatic_choice(options, kind, words):
    settings = PreprocessingSettings(
        motion_correction=options.get("requested", "auto"), per_slice=options.get("per_slice", False)
    )
    shape = options.get("shape", (20, 20, 1))
    situation = Situation(options["anatomy"], options.get("preprocessed", False), 4, shape)
    chosen, reason = STEPS["motioncorrection"].wanted(settings, situation)
    assert chosen == kind
    assert words in reason


@pytest.mark.slow
@pytest.mark.parametrize("snr", [15, 20, 40])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_moving_brain_is_aligned_at_any_noise(snr, seed):
    scene = Scene(
        "brain", (64, 72, 14), snr=snr, seed=seed, bvals=(0, 0, 10, 20, 50, 100, 200, 400, 600, 800)
    )
    matrices = scene.random(translation=5.0, rotation=4.0)
    corrected = correct_motion(scene.series(matrices), kind="rigid")
    before = scene.alignment_error(scene.no_correction(), matrices)
    assert scene.alignment_error(corrected.motion, matrices).mean() < before.mean() / 8
    still = scene.series(scene.still())
    assert np.array_equal(correct_motion(still, kind="rigid").series.signals, still.signals)
