"""Maps of a volume with structure: algorithms that look at neighbours may smooth noise, not tissue.

For OSIPI's TF2.4 code collection, beside ``test_ivim_fit.py``: every algorithm of ``algorithms.json`` that
fits whole volumes is held against its own fit of single voxels, and its lesion and edge against the truth.
"""

import numpy as np
import pytest
from src.wrappers.OsipiBase import OsipiBase

BVALUES = np.array([0, 10, 20, 40, 80, 120, 200, 300, 450, 600, 800], dtype=float)
TISSUES = {
    "liver": {"f": 0.20, "Dp": 0.060, "D": 0.0010},
    "muscle": {"f": 0.08, "Dp": 0.030, "D": 0.0016},
    "lesion": {"f": 0.35, "Dp": 0.050, "D": 0.0014},
}
SNR = 40
SHAPE = (14, 12, 2)


def volume(seed=0):
    """Labels, truth and noisy signals: two halves, a lesion of 4 x 4 voxels, and S0 that rises across all."""
    rng = np.random.default_rng(seed)
    labels = np.full(SHAPE, "liver", dtype=object)
    labels[:, SHAPE[1] // 2 :] = "muscle"
    labels[5:9, 1:5] = "lesion"
    truth = {name: np.zeros(SHAPE) for name in ("f", "Dp", "D")}
    for tissue, values in TISSUES.items():
        for name, value in values.items():
            truth[name][labels == tissue] = value
    f, dp, d = (truth[name][..., None] for name in ("f", "Dp", "D"))
    s0 = np.linspace(0.8, 1.2, SHAPE[0])[:, None, None, None]
    clean = s0 * (f * np.exp(-BVALUES * dp) + (1 - f) * np.exp(-BVALUES * d))
    noise = rng.normal(scale=1 / SNR, size=(2, *clean.shape))
    return labels, truth, np.hypot(clean + noise[0], noise[1])


@pytest.fixture(scope="module")
def phantom():
    return volume()


def maps_of(algorithm, signals):
    fit = OsipiBase(algorithm=algorithm, bvalues=BVALUES)
    if not hasattr(fit, "ivim_fit_full_volume"):
        pytest.skip("fits no volumes")
    found = fit.osipi_fit_full_volume(signals, BVALUES)
    assert found is not False, "the fit of the volume ended with an error"
    return fit, {name: np.asarray(values).reshape(SHAPE) for name, values in found.items()}


def rmse(found, truth):
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def test_structure_of_a_volume(algorithmlist, phantom):
    algorithm, requires_matlab, deep_learning = algorithmlist
    if requires_matlab or deep_learning:
        pytest.skip("needs Matlab, or is trained on single voxels for minutes")
    labels, truth, signals = phantom
    fit, found = maps_of(algorithm, signals)
    assert all(np.isfinite(found[name]).all() for name in truth)

    # No worse than its own fit of voxels by themselves, of which some suffice.
    some = np.s_[::2, ::2, :1]
    alone = fit.osipi_fit(signals[some], BVALUES)
    for name in ("f", "D"):
        ours, own = (rmse(values, truth[name][some]) for values in (found[name][some], alone[name]))
        assert ours <= 1.1 * own, f"{name} of the volume is off by {ours:.3g}, of single voxels by {own:.3g}"

    # A lesion keeps at least half of its contrast, and no side of an edge takes over the other's values.
    for name in ("f", "D"):
        inside, outside = (np.median(found[name][labels == tissue]) for tissue in ("lesion", "liver"))
        contrast = TISSUES["lesion"][name] - TISSUES["liver"][name]
        assert (inside - outside) / contrast > 0.5, (
            f"{name} of the lesion is {inside:.3g}, beside it {outside:.3g}"
        )
    edge = SHAPE[1] // 2
    difference = np.median(found["D"][:, edge]) - np.median(found["D"][:, edge - 1])
    assert difference > 0.5 * (TISSUES["muscle"]["D"] - TISSUES["liver"]["D"])
