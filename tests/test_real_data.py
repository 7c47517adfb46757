"""Real abdomen and spinal cord; nobody knows the truth there, but much is known of what it cannot be."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from app_runs import App, files, leave_out_figures, values
from bids_datasets import real_dataset
from scipy.optimize import curve_fit

from sicnn_app.ivim.signal import ivim_signal

ABDOMEN, CORD = real_dataset("ivim-abdomen"), real_dataset("ivim-cord")
needs_abdomen = pytest.mark.skipif(
    not ABDOMEN.is_dir(), reason="the real abdomen data are not beside the repository"
)
needs_cord = pytest.mark.skipif(
    not CORD.is_dir(), reason="the real spinal cord data are not beside the repository"
)

ABDOMEN_RUNS = [
    (subject, f"acq-{acq}") for subject in ("sub-01", "sub-02", "sub-03") for acq in ("T70", "T100")
]
MAPS = ("f", "d", "dstar", "s0", "rmse")

ROI_TOLERANCE = {"f": 0.08, "d": 0.35e-3}
"""Largest difference of an organ's mean from the fit of its mean signal.

Chosen from physiology before any result was seen: repeated scans of an abdominal organ differ by
0.05 to 0.1 in F and 0.2 to 0.4e-3 mm^2/s in D (one slice, free breathing), so that a larger
difference would change what a reader says about the organ. D* has no useful bound of this kind:
its coefficient of variation between repeated scans is 50 % and more.
"""

PLAUSIBLE = {"f": (0.03, 0.5), "d": (0.5e-3, 2.8e-3)}
"""Where the means of liver, kidney and spleen lie in every published series."""

ORGANS = {2: "liver", 3: "kidney", 4: "spleen"}
MIN_VOXELS = 40
"""Fewer voxels (the kidney of sub-02 has one) make no mean worth comparing."""


@pytest.fixture(autouse=True)
def reports_without_figures(monkeypatch):
    """Drawing takes most of the time and has tests of its own."""
    leave_out_figures(monkeypatch)


def mask_of(out, stem, desc="body"):
    return np.asarray(nib.load(out / f"{stem}_desc-{desc}_mask.nii.gz").dataobj) > 0


def check_geometry(out, stem, source) -> None:
    raw = nib.load(source)
    mask = mask_of(out, stem)
    assert mask.shape == raw.shape[:3]
    for label in MAPS:
        image = nib.load(out / f"{stem}_model-ivim_param-{label}_dwimap.nii.gz")
        for name in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b"):
            expected = raw.header[name][:4] if name == "pixdim" else raw.header[name]
            found = image.header[name][:4] if name == "pixdim" else image.header[name]
            assert np.array_equal(found, expected), name
        assert np.array_equal(np.isfinite(np.asarray(image.dataobj)), mask)


def fit_of(signals: np.ndarray, bvals: np.ndarray) -> dict[str, float]:
    """F and D of the least-squares fit of one curve, from several starts, with SciPy."""
    lower, upper = (0.0, 0.0, 0.005, 0.5), (1.0, 0.005, 0.2, 1.5)
    fits = []
    for dstar in (0.01, 0.03, 0.1):
        found, _ = curve_fit(
            ivim_signal, bvals, signals / signals[0], p0=(0.2, 0.0012, dstar, 1.0), bounds=(lower, upper),
            x_scale=(0.1, 1e-3, 0.03, 1.0),
        )  # fmt: skip
        fits.append((float(np.sum((ivim_signal(bvals, *found) - signals / signals[0]) ** 2)), found))
    best = min(fits, key=lambda pair: pair[0])[1]
    return {"f": float(best[0]), "d": float(best[1])}


def organ_labels(subject: str) -> np.ndarray:
    return np.asarray(
        nib.load(ABDOMEN / f"derivatives/rois/{subject}/dwi/{subject}_desc-organs_dseg.nii.gz").dataobj
    )


def check_organs(out, subject: str, stem: str) -> dict[str, dict[str, float]]:
    """Compare the means of the organs with the fits of their mean signals; returns the means.

    A mean signal is sum_v S0_v [F_v exp(-b D*) + (1 - F_v) exp(-b D)]: its F is the mean of the voxels'
    F weighted by S0, its D nearly that of their D weighted by S0 (1 - F). Medians are something
    else where vessels make the distribution skewed: in the liver they lie up to 0.1 lower in F.
    """
    series = np.asarray(nib.load(ABDOMEN / f"{stem}_dwi.nii.gz").dataobj, dtype=np.float64)
    bvals = np.loadtxt(ABDOMEN / f"{stem}_dwi.bval")
    nominal = np.unique(bvals)
    f, d, s0 = (values(out, stem, label).astype(np.float64) for label in ("f", "d", "s0"))
    means = {}
    for code, name in ORGANS.items():
        inside = (organ_labels(subject).reshape(f.shape) == code) & np.isfinite(f)
        if inside.sum() < MIN_VOXELS:
            continue
        fit = fit_of(np.array([series[inside][:, bvals == b].mean() for b in nominal]), nominal)
        means[name] = {
            "f": float(np.average(f[inside], weights=s0[inside])),
            "d": float(np.average(d[inside], weights=(s0 * (1 - f))[inside])),
        }
        for label, tolerance in ROI_TOLERANCE.items():
            assert means[name][label] == pytest.approx(fit[label], abs=tolerance), (stem, name, label)
    assert means
    return means


@needs_abdomen
@pytest.mark.parametrize("with_masks", [False, True])
def test_least_squares_on_every_run_of_the_abdomen(capsys, tmp_path, with_masks):
    before = files(ABDOMEN)
    options = ["-d", ABDOMEN / "derivatives" / "rois"] if with_masks else []
    # The averages that the mean signals below are fitted from: robust ones leave out what spoils them.
    assert App(capsys).quick(ABDOMEN, tmp_path, "--average", "arithmetic", *options).code == 0
    assert files(ABDOMEN) == before
    for subject, acq in ABDOMEN_RUNS:
        stem = f"{subject}/dwi/{subject}_{acq}"
        check_geometry(tmp_path, stem, ABDOMEN / f"{stem}_dwi.nii.gz")
        given = np.asarray(
            nib.load(ABDOMEN / f"derivatives/rois/{subject}/dwi/{subject}_desc-body_mask.nii.gz").dataobj
        )
        mask, given = mask_of(tmp_path, stem), given.reshape(mask_of(tmp_path, stem).shape) > 0
        if with_masks:
            # Only voxels without data may be missing.
            assert not (mask & ~given).any()
            assert mask.sum() > 0.98 * given.sum()
        else:
            # The study's own mask; that of sub-01 covers a part of the body only.
            assert (mask & given).sum() > 0.95 * given.sum()
            assert mask.sum() < 0.5 * mask.size
        check_organs(tmp_path, subject, stem)


@needs_cord
def test_least_squares_on_the_cord_without_b_0_and_with_negative_values(capsys, tmp_path):
    masks = ["-d", CORD / "derivatives" / "seg"]
    assert App(capsys).quick(CORD, tmp_path / "apart", *masks).code == 0
    assert App(capsys).quick(CORD, tmp_path / "combined", *masks, "--combine", "acquisition").code == 0
    stems = [f"sub-01/dwi/sub-01_acq-{acq}" for acq in ("ap", "is", "rl")]
    for out, stem in [
        *((tmp_path / "apart", stem) for stem in stems),
        (tmp_path / "combined", "sub-01/dwi/sub-01"),
    ]:
        used = json.loads((out / f"{stem}_model-ivim_param-f_dwimap.json").read_text())["Model"]["Parameters"]
        assert used["BValuesUsed"][0] == 5
        d = values(out, stem, "d")
        assert np.isfinite(d).sum() > 100
        # White matter of the cord: fast along the fibres (is), slow across.
        assert 0.2e-3 < np.nanmedian(d) < 2.5e-3, stem
    along, across = (np.nanmedian(values(tmp_path / "apart", stem, "d")) for stem in (stems[1], stems[0]))
    assert along > across


@needs_abdomen
@pytest.mark.slow
def test_si_cnn_agrees_with_the_mean_signal_of_each_organ(capsys, tmp_path):
    call = App(capsys)(
        ABDOMEN, tmp_path, "--participant-label", "02", "--acquisition-label", "T70", "--device", "cpu",
        "-d", ABDOMEN / "derivatives" / "rois",
    )  # fmt: skip
    assert call.code == 0, call.text
    stem = "sub-02/dwi/sub-02_acq-T70"
    for name, means in check_organs(tmp_path, "sub-02", stem).items():
        for label, (low, high) in PLAUSIBLE.items():
            assert low < means[label] < high, (name, label)
