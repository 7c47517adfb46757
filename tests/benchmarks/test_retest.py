"""Test and retest of a simulated run with known maps, and the halves of a measured one."""

from __future__ import annotations

import numpy as np
import pytest
from bids_datasets import real_dataset

from benchmarks.accuracy import retest
from sicnn_app.ivim.series import AveragedSignals
from sicnn_app.ivim.signal import ivim_signal_maps

BVALS = np.array([0.0, 10.0, 50.0, 200.0, 500.0])
SIGMA = 3.0
ABDOMEN = real_dataset("ivim-abdomen")


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    """Maps of both halves, shape (2, V): two organs and, in the last third, something else."""
    organ = np.repeat([0, 1, 2], 1000)
    maps = {
        "f": np.array([0.1, 0.3, 0.2])[organ],
        "d": np.array([0.001, 0.0012, 0.0015])[organ],
        "dstar": np.array([0.03, 0.06, 0.02])[organ],
        "s0": np.full(organ.size, 100.0),
    }
    return {label: np.stack([values, values]) for label, values in maps.items()}


@pytest.fixture
def run(truth) -> retest.Run:
    signals = ivim_signal_maps(BVALS, **truth)
    signals += np.random.default_rng(3).normal(0, SIGMA, signals.shape)
    mask = np.ones((30, 100, 1), dtype=bool)
    halves = tuple(
        AveragedSignals(
            signals=half.reshape(*mask.shape, -1).astype(np.float32),
            bvals=BVALS,
            mask=mask,
            repeats=np.full(5, 3),
            directions=np.ones(5, dtype=int),
            sigma=SIGMA * np.sqrt(3),
            noise=np.full(5, SIGMA),
            sigma_method="known",
        )
        for half in signals
    )
    organs = {"liver": np.arange(3000) < 1000, "spleen": (np.arange(3000) // 1000) == 1}
    return retest.Run(
        name="sub-01_acq-T70",
        split=(0, 1, 2),
        disagreement=0.0,
        halves=halves,
        mask=mask,
        observed=signals,
        organs=organs,
        boundary=np.arange(3000) % 10 == 0,
        fits={
            organ: {label: truth[label][0, where][0] for label in ("f", "d", "dstar")}
            for organ, where in organs.items()
        },
    )


def test_true_maps_repeat_and_miss_the_other_half_by_its_noise_alone(run, truth):
    found = {row[:3]: row[3] for row in retest.agreement_rows([run, run], [truth, truth])}
    for region in ("liver", "spleen", "all organs", "their boundary", "body mask"):
        assert all(found["wCV", region, label] == 0 for label in ("f", "d", "dstar"))
        cross, noise = (found[f"prediction: {part}", region, "signal"] for part in ("cross", "noise"))
        assert cross == pytest.approx(SIGMA / 100, rel=0.05)
        assert noise == pytest.approx(SIGMA / 100, rel=0.05)
        assert found["prediction: error", region, "signal"] < 0.01
        assert found["prediction: scatter", region, "signal"] == 0
    assert ("wCV", "kidney", "f") not in found


def test_medians_of_true_maps_are_the_fits_and_flat_maps_have_no_contrast(run, truth):
    found = {row[:3]: row[3] for row in retest.median_rows([run], [truth])}
    assert found["median", "sub-01_acq-T70 spleen", "f"] == pytest.approx(0.3)
    assert found["distance from the fits", "all runs", "d"] == pytest.approx(0)
    assert found["contrast", "all runs", "f"] == found["slope", "all runs", "f"] == pytest.approx(1)
    flat = {label: np.full_like(values, values.mean()) for label, values in truth.items()}
    found = {row[:3]: row[3] for row in retest.median_rows([run], [flat])}
    assert found["contrast", "all runs", "f"] == pytest.approx(0)


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"sub-02_acq-T70_dwi.nii.gz"):
        retest.require_files(tmp_path, ["sub-02_acq-T70"])
    with pytest.raises(SystemExit, match="--data"):
        retest.require_files(tmp_path / "elsewhere", ["sub-02_acq-T70"])


@pytest.mark.skipif(not ABDOMEN.is_dir(), reason="the real abdomen data are not beside the repository")
def test_halves_of_a_measured_run_hold_half_of_its_volumes_each():
    run = retest.read_run(ABDOMEN, "sub-02_acq-T70", denoise=False)
    for half in run.halves:
        assert half.repeats.tolist() == [12, *[3] * 8]
        assert np.isfinite(half.signals[run.mask]).all()
    # One voxel of its kidney lies in the mask.
    assert list(run.organs) == ["liver", "spleen", "pancreas"]
    assert run.disagreement < 0.1
