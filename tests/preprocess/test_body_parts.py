"""Masks of whole body parts against their truth: abdomen, head and legs, over the noise of real scans.

SNR is the mean true S0 over the part divided by the noise of one volume; suppressed fat has a fifth of that.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.phantoms.acquire import acquire
from sicnn_app.phantoms.phantom import make_phantom
from sicnn_app.preprocess.steps import prepare
from sicnn_app.settings import PreprocessingSettings

ABDOMEN = Path(__file__).parents[2] / "../shared/data/ivim-abdomen"

IVIM = [0, 10, 20, 30, 50, 80, 100, 200, 400, 800]
FEW = [0, 50, 200, 800]
ONE_LOW = [0, 100, 200, 300, 400, 600, 800]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def mask_of(signals: np.ndarray, bvals, anatomy: str = "body", **options) -> np.ndarray:
    """The mask that preprocessing ends up with."""
    series = DwiSeries(signals.astype(np.float32), np.asarray(bvals, dtype=float), None, np.eye(4))
    settings = PreprocessingSettings(**{"denoise": "none", "motion_correction": "none", **options})
    return prepare(series, anatomy=anatomy, settings=settings).averaged.mask


def phantom(preset: str, bvals, snr: float, seed: int):
    subject = make_phantom(preset, (56, 48, 5), seed=seed, tissue_variation=0.1)
    return acquire(subject, bvals, snr=snr, seed=[seed, 1]), subject.mask


def legs(bvals, snr: float, seed: int, *, count: int = 2, touching_border: bool = False, fat: float = 0.1):
    """Muscle in a ring of suppressed fat around a dark ring of bone with fatty marrow.

    Muscle has an S0 of 0.32, ``fat`` is the S0 of the skin's fat.
    """
    shape = (72, 64, 4)
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    body = np.zeros(shape, dtype=bool)
    s0, f, d = np.zeros(shape), np.zeros(shape), np.full(shape, 0.2e-3)
    for leg in range(count):
        radius = shape[0] * (0.21 if count == 2 else 0.36) * (1 - 0.12 * leg)
        middle = shape[0] * ((0.27, 0.74)[leg] if count == 2 else 0.5)
        u = x - middle - 0.6 * z + (8 if touching_border and leg == 0 else 0)
        v = y - 0.5 * shape[1] + 0.3 * z
        inside = np.hypot(u, v) < radius
        from_bone = np.hypot(u - 0.15 * radius, v + 0.1 * radius)
        muscle = (np.hypot(u, v) < radius - max(2.0, 0.16 * radius)) & (from_bone >= 0.3 * radius)
        body |= inside
        s0[inside] = fat
        s0[muscle], f[muscle], d[muscle] = 0.32, 0.08, 1.5e-3
        s0[from_bone < 0.3 * radius] = 0.01
        s0[from_bone < 0.2 * radius] = 0.12
    s0 *= 1 + 0.08 * rng.standard_normal(shape)
    sigma = s0[body].mean() / snr
    signals = ivim_signal_maps(np.asarray(bvals), f, d, np.full(shape, 0.03), s0)
    noise = sigma * rng.standard_normal((2, *signals.shape))
    return 1000 * np.hypot(signals + noise[0], noise[1]), body


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("snr", "at_least"), [(8, 0.98), (12, 0.99), (20, 0.995), (50, 0.995)])
def test_abdomen_with_its_fat_and_the_muscle_behind_it(snr, at_least, seed):
    signals, body = phantom("abdomen", IVIM, snr, seed)
    assert dice(mask_of(signals, IVIM), body) > at_least


@pytest.mark.parametrize("bvals", [FEW, ONE_LOW], ids=["four volumes", "one low b-value"])
@pytest.mark.parametrize(("snr", "at_least"), [(8, 0.8), (12, 0.98), (30, 0.99)])
def test_abdomen_of_few_volumes_loses_its_fat_only_in_strong_noise(bvals, snr, at_least):
    """At SNR 8 fat has less than twice the noise and cannot be told from it in four volumes."""
    signals, body = phantom("abdomen", bvals, snr, seed=0)
    assert dice(mask_of(signals, bvals), body) > at_least


@pytest.mark.parametrize("snr", [8, 20, 50, 200])
@pytest.mark.parametrize("bvals", [IVIM, ONE_LOW], ids=["ten b-values", "one low b-value"])
def test_brain(bvals, snr):
    signals, brain = phantom("brain", bvals, snr, seed=1)
    assert dice(mask_of(signals, bvals, "brain"), brain) > 0.98


@pytest.mark.parametrize(
    "options",
    [{}, {"touching_border": True}, {"count": 1}, {"fat": 0.06}],
    ids=["two legs", "at the border", "one leg", "darker fat"],
)
@pytest.mark.parametrize("snr", [8, 12, 20, 50])
def test_legs_with_skin_and_marrow_and_without_the_air_between_them(snr, options):
    signals, body = legs(IVIM, snr, seed=snr, **options)
    found = mask_of(signals, IVIM)
    assert dice(found, body) > 0.98
    if options.get("count") != 1:
        between = np.zeros(body.shape, dtype=bool)
        between[34:38] = True
        assert not (found & between & ~body).any()


@pytest.mark.parametrize("part", ["brain", pytest.param("abdomen", marks=pytest.mark.slow)])
def test_denoising_and_unringing_leave_the_part_whole(part):
    signals, body = (array[:, :, :2] for array in phantom(part, IVIM, 15, 3))
    anatomy = "brain" if part == "brain" else "body"
    assert dice(mask_of(signals, IVIM, anatomy, denoise="mppca", unring=True), body) > 0.98


@pytest.mark.parametrize(("snr", "level"), [(20, 0.02), (150, 0.05), (400, 0.08)])
def test_a_ghost_is_no_body(snr, level):
    """A copy of the body, half a field of view away, as an uncorrected Nyquist ghost."""
    signals, body = phantom("abdomen", IVIM, np.inf, seed=0)
    signals, body = (
        np.pad(array, ((0, 0), (20, 20)) + ((0, 0),) * (array.ndim - 2)) for array in (signals, body)
    )
    ghost = np.roll(signals, 44, axis=1)
    sigma = signals[body, 0].mean() / snr
    noise = sigma * np.random.default_rng(0).standard_normal((2, *signals.shape))
    found = mask_of(np.hypot(signals + level * ghost + noise[0], noise[1]), IVIM)
    assert dice(found, body) > 0.98


@pytest.mark.parametrize("padding", [0.0, 1e-4, -1e-3], ids=["zero", "tiny", "negative"])
@pytest.mark.parametrize("snr", [12, 50])
def test_air_beside_padding_is_no_body(snr, padding):
    signals, body = phantom("abdomen", IVIM, snr, seed=2)
    padded = np.pad(signals, ((6, 3), (9, 5), (0, 0), (0, 0)), constant_values=padding * signals.max())
    truth = np.pad(body, ((6, 3), (9, 5), (0, 0)))
    assert dice(mask_of(padded, IVIM), truth) > 0.98


@pytest.mark.parametrize("anatomy", ["body", "brain"])
def test_a_background_set_to_zero_is_found(anatomy):
    """Derivatives of other programs are often masked."""
    signals, inside = phantom("brain" if anatomy == "brain" else "abdomen", IVIM, 20, seed=0)
    assert dice(mask_of(np.where(inside[..., None], signals, 0.0), IVIM, anatomy), inside) > 0.98


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason="the abdominal example data are not there")
@pytest.mark.parametrize("denoise", ["none", pytest.param("mppca", marks=pytest.mark.slow)])
@pytest.mark.parametrize("subject", ["02", "03"])
def test_real_abdomens_keep_clear_of_the_air(subject, denoise):
    stem = ABDOMEN / f"sub-{subject}/dwi/sub-{subject}_acq-T70_dwi"
    signals, bvals = nib.load(f"{stem}.nii.gz").get_fdata(dtype=np.float32), np.loadtxt(f"{stem}.bval")
    study = f"derivatives/rois/sub-{subject}/dwi/sub-{subject}_desc-body_mask.nii.gz"
    body = nib.load(ABDOMEN / study).get_fdata() > 0
    found = mask_of(signals, bvals, denoise=denoise)
    assert dice(found, body) > 0.94
    assert not found[[0, -1]].any() and not found[:, [0, -1]].any()
